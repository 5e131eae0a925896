#include "sims/box2d/surface.hpp"

#include <algorithm>
#include <cstring>

#include "rl/check.hpp"

namespace myriad {
namespace {

constexpr int kFraction = 16, kOne = 1 << kFraction;  // fixed point
constexpr int kLineStep = 2;                          // rows
constexpr float kTruncated = 2.0f;                    // levels; pygame's smoothscale rounds down in both its passes

/// The first line at or below a row, which is not negative.
constexpr int line_from(int row) { return (row + kLineStep - 1) / kLineStep; }

}  // namespace

Surface::Surface(int width, int height)
    : width_(width),
      height_(height),
      lines_(line_from(height)),
      palette_{kBlack},
      pixels_(static_cast<size_t>(width)) {}

void Surface::clear() {
  palette_.resize(1);
  polygons_.clear();
  spans_.clear();
}

uint8_t Surface::colour_index(Colour colour) {
  const auto found = std::ranges::find(palette_, colour);
  const auto index = static_cast<size_t>(found - palette_.begin());
  check(index < 256, "a surface has {} colours, want at most 256", index + 1);
  if (found == palette_.end()) palette_.push_back(colour);
  return static_cast<uint8_t>(index);
}

void Surface::polygon(std::span<const Pixel> corners, Colour colour) {
  const auto [top, bottom] = std::ranges::minmax(corners, {}, &Pixel::y);
  const auto [left, right] = std::ranges::minmax(corners, {}, &Pixel::x);
  if (bottom.y < 0 || top.y >= height_ || right.x < 0 || left.x >= width_) return;
  const Polygon filled{.top = line_from(std::max(top.y, 0)),
                       .end = line_from(std::min(bottom.y, height_ - 1) + 1),
                       .spans = spans_.size(),
                       .colour = colour_index(colour)};
  if (filled.top >= filled.end) return;
  polygons_.push_back(filled);
  spans_.resize(filled.spans + static_cast<size_t>(filled.end - filled.top), {.left = width_, .right = -1});
  for (size_t i = 0; i < corners.size(); ++i) {
    Pixel a = corners[i], b = corners[(i + 1) % corners.size()];
    if (a.y > b.y) std::swap(a, b);
    const int first = std::max(line_from(std::max(a.y, 0)), filled.top);
    const int end = std::min(line_from(std::min(b.y, height_ - 1) + 1), filled.end);
    if (a.y == b.y || first >= end) continue;
    const int64_t slope = int64_t{b.x - a.x} * kOne / (b.y - a.y);
    int64_t at = int64_t{a.x} * kOne + kOne / 2 + (first * kLineStep - a.y) * slope;
    Span* span = &spans_[filled.spans + static_cast<size_t>(first - filled.top)];
    for (int line = first; line < end; ++line, at += kLineStep * slope, ++span) {
      const auto x = static_cast<int>(at >> kFraction);
      span->left = std::min(span->left, std::max(x, 0)), span->right = std::max(span->right, std::min(x, width_ - 1));
    }
  }
}

void Surface::paint(int line) {
  if (line >= next_change_) {
    next_change_ = lines_;
    painted_.clear();
    for (const Polygon& polygon : polygons_) {
      if (line >= polygon.end) continue;
      if (line >= polygon.top) painted_.push_back({&spans_[polygon.spans], polygon.top, polygon.colour});
      next_change_ = std::min(next_change_, line >= polygon.top ? polygon.end : polygon.top);
    }
  }
  uint8_t* pixels = pixels_.data();
  std::memset(pixels, 0, pixels_.size());
  for (const auto& [spans, top, colour] : painted_)
    if (const Span span = spans[line - top]; span.left <= span.right)
      std::memset(pixels + span.left, colour, static_cast<size_t>(span.right - span.left + 1));
}

void Surface::find_edges(int line, int width) {
  paint(line);
  edges_.clear();
  const uint8_t* pixels = pixels_.data();
  uint8_t before = 0;
  const auto edge_at = [&](int x) {
    if (pixels[x] == before) return;
    const Colour &from = palette_[before], &to = palette_[pixels[x]];
    const int pixel = x * width / width_;
    edges_.push_back({.change = {to[0] - from[0], to[1] - from[1], to[2] - from[2]},
                      .pixel = static_cast<size_t>(pixel),
                      .rest = (pixel + 1) * width_ - x * width});
    before = pixels[x];
  };
  edge_at(0);
  int x = 1;
  for (; x + 8 <= width_; x += 8) {  // eight at a time: most are as their left neighbours
    uint64_t here, left;
    std::memcpy(&here, pixels + x, 8);
    std::memcpy(&left, pixels + x - 1, 8);
    if (here != left)
      for (int i = x; i < x + 8; ++i) edge_at(i);
  }
  for (; x < width_; ++x) edge_at(x);
}

void Surface::smoothscale(int width, int height, std::span<uint8_t> rgb) {
  // In whole numbers: a pixel of a line is `width` x `height` units, one of the result width_ x lines_. Where the
  // colour changes, that counts in one pixel for the `rest` right of it, and in all pixels after that one in full.
  const float scale = 1.0f / (static_cast<float>(width_) * static_cast<float>(lines_));
  uint8_t* value = rgb.data();
  next_change_ = 0;
  int in_edges = -1;  // the line
  for (int row = 0; row < height; ++row) {
    rest_.assign(static_cast<size_t>(width), {});
    full_.assign(static_cast<size_t>(width) + 1, {});
    Sum *rests = rest_.data(), *fulls = full_.data();
    const int top = row * lines_, bottom = top + lines_;
    for (int line = top / height; line * height < bottom; ++line) {
      if (line != in_edges) find_edges(in_edges = line, width);
      const int weight = std::min((line + 1) * height, bottom) - std::max(line * height, top);
      for (const Edge& edge : edges_) {
        Sum &rest = rests[edge.pixel], &full = fulls[edge.pixel + 1];
        for (size_t c = 0; c < rest.size(); ++c) {
          rest[c] += edge.change[c] * (edge.rest * weight);
          full[c] += edge.change[c] * weight;
        }
      }
    }
    Sum sum{};
    for (int x = 0; x < width; ++x)
      for (size_t c = 0; c < 3; ++c) {
        sum[c] += fulls[x][c];
        const float mean = static_cast<float>(sum[c] * width_ + rests[x][c]) * scale;
        *value++ = static_cast<uint8_t>(std::max(mean + 0.5f - kTruncated, 0.0f));
      }
  }
}

}  // namespace myriad
