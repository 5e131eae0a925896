#include "sims/classic/canvas.hpp"

#include <algorithm>
#include <cmath>
#include <numbers>

namespace myriad {
namespace {

constexpr int kScanlines = 4;  // of a pixel's height; across it, coverage is exact

/// Adds the part of each pixel that [from, to) covers, in pixels along a row.
void cover(std::vector<double>& row, double from, double to) {
  from = std::clamp(from, 0.0, static_cast<double>(row.size()));
  to = std::clamp(to, 0.0, static_cast<double>(row.size()));
  for (double x = from; x < to;) {
    const double next = std::min(std::floor(x) + 1, to);
    row[static_cast<size_t>(x)] += next - x;
    x = next;
  }
}

}  // namespace

Point placed(Point point, double angle, Point offset) {
  const double c = std::cos(angle), s = std::sin(angle);
  return {c * point.x - s * point.y + offset.x, s * point.x + c * point.y + offset.y};
}

Canvas::Canvas(int width, int height, double drawing_width, double drawing_height)
    : frame_(width, height),
      scale_(std::min(width / drawing_width, height / drawing_height)),
      left_((width - scale_ * drawing_width) / 2),
      bottom_((height + scale_ * drawing_height) / 2) {}

void Canvas::polygon(std::span<const Point> corners, Colour colour) {
  std::vector<Point> pixels;
  double top = frame_.height, bottom = 0;
  for (const Point& corner : corners) {
    pixels.push_back({left_ + scale_ * corner.x, bottom_ - scale_ * corner.y});
    top = std::min(top, pixels.back().y), bottom = std::max(bottom, pixels.back().y);
  }
  const int first = static_cast<int>(std::clamp(std::floor(top), 0.0, static_cast<double>(frame_.height)));
  const int end = static_cast<int>(std::clamp(std::ceil(bottom), 0.0, static_cast<double>(frame_.height)));
  std::vector<double> covered(static_cast<size_t>(frame_.width)), crossings;
  for (int y = first; y < end; ++y) {
    std::fill(covered.begin(), covered.end(), 0.0);
    for (int i = 0; i < kScanlines; ++i) {
      const double at = y + (i + 0.5) / kScanlines;
      crossings.clear();
      for (size_t k = 0; k < pixels.size(); ++k) {
        const Point &a = pixels[k], &b = pixels[(k + 1) % pixels.size()];
        if ((a.y <= at) != (b.y <= at)) crossings.push_back(a.x + (at - a.y) / (b.y - a.y) * (b.x - a.x));
      }
      std::sort(crossings.begin(), crossings.end());
      for (size_t k = 0; k + 1 < crossings.size(); k += 2) cover(covered, crossings[k], crossings[k + 1]);
    }
    uint8_t* pixel = frame_.row(y);
    for (const double parts : covered)
      for (const uint8_t value : colour) {
        *pixel = static_cast<uint8_t>(std::lround(*pixel + (value - *pixel) * parts / kScanlines));
        ++pixel;
      }
  }
}

void Canvas::box(double left, double right, double bottom, double top, double angle, Point offset, Colour colour) {
  const Point corners[] = {placed({left, bottom}, angle, offset), placed({left, top}, angle, offset),
                           placed({right, top}, angle, offset), placed({right, bottom}, angle, offset)};
  polygon(corners, colour);
}

void Canvas::circle(Point centre, double radius, Colour colour) {
  constexpr int kCorners = 48;
  std::array<Point, kCorners> corners;
  for (int i = 0; i < kCorners; ++i) corners[i] = placed({radius, 0}, 2 * std::numbers::pi * i / kCorners, centre);
  polygon(corners, colour);
}

void Canvas::line(Point from, Point to, double thickness, Colour colour) {
  const double half = thickness / 2, length = std::hypot(to.x - from.x, to.y - from.y);
  box(0, length, -half, half, std::atan2(to.y - from.y, to.x - from.x), from, colour);
}

}  // namespace myriad
