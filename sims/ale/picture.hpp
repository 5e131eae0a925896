// What an Atari screen becomes before an agent sees it: the two last frames pooled, grey, 84 x 84.
//
// Mnih et al. 2015, "Human-level control through deep reinforcement learning", as Gymnasium's AtariPreprocessing has it
// with OpenCV's cv2.resize(..., INTER_AREA), to the bit. Nothing here knows the Arcade Learning Environment.
#pragma once

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <numeric>
#include <stdexcept>
#include <string>
#include <vector>

namespace myriad::atari {

constexpr int kSide = 84;  // pixels, both ways

/// Which source pixels an output pixel covers, in whole parts: `total` for each output pixel.
class Cover {
 public:
  static constexpr int kMaxTaps = 6;
  struct Tap {
    int first = 0, count = 0;                // source pixels
    std::array<uint32_t, kMaxTaps> parts{};  // of each source pixel, in units of 1 / `unit` of its size
    std::array<float, kMaxTaps> weights{};   // the same as OpenCV has it
  };

  /// Throws std::runtime_error for a size that is not in [84, 257].
  explicit Cover(int size) : unit(kSide / std::gcd(size, kSide)), total(size / std::gcd(size, kSide)), taps(kSide) {
    if (size < kSide || size > 257)
      throw std::runtime_error("a screen of " + std::to_string(size) + " pixels, want 84 to 257");
    const double scale = static_cast<double>(size) / kSide;
    for (int i = 0; i < kSide; ++i) {
      Tap& tap = taps[static_cast<size_t>(i)];
      const int from = i * total, to = from + total;  // in units
      tap.first = from / unit;
      tap.count = (to + unit - 1) / unit - tap.first;
      for (int k = 0; k < tap.count; ++k) {
        const int pixel = (tap.first + k) * unit;
        tap.parts[static_cast<size_t>(k)] = static_cast<uint32_t>(std::min(to, pixel + unit) - std::max(from, pixel));
        tap.weights[static_cast<size_t>(k)] = opencv_weight(i, tap.first + k, size, scale);
      }
    }
  }

  int unit, total;
  std::vector<Tap> taps;  // [84]

 private:
  /// As cv::computeResizeAreaTab rounds it.
  static float opencv_weight(int i, int pixel, int size, double scale) {
    const double from = i * scale, to = from + scale, width = std::min(scale, size - from);
    if (pixel < from) return static_cast<float>((pixel + 1 - from) / width);
    if (pixel + 1 > to) return static_cast<float>(std::min(std::min(to - pixel, 1.0), width) / width);
    return static_cast<float>(1.0 / width);
  }
};

/// Screens of one size to pictures. Keeps its buffers: nothing is allocated after the first.
class PictureMaker {
 public:
  /// `grey`: the brightness of each colour of a screen.
  PictureMaker(int height, int width, const std::array<uint8_t, 256>& grey)
      : height_(static_cast<size_t>(height)),
        width_(static_cast<size_t>(width)),
        grey_(grey),
        rows_(height),
        columns_(width),
        pooled_(height_ * width_),
        sums_(2 * (width_ + 2)) {}

  /// The brighter of both screens, pixel by pixel; `before` may be null. Screens are [height, width] colours, `picture`
  /// [84, 84].
  void make(const uint8_t* screen, const uint8_t* before, uint8_t* picture) {
    pool(screen, before);
    scale(picture);
  }

 private:
  /// A row like the one above it, of which a screen has many, is that row's copy.
  void pool(const uint8_t* screen, const uint8_t* before) {
    const size_t w = width_;
    for (size_t y = 0; y < height_; ++y) {
      const uint8_t *now = screen + y * w, *then = before == nullptr ? now : before + y * w;
      uint8_t* out = pooled_.data() + y * w;
      if (y > 0 && std::memcmp(now, now - w, w) == 0 && std::memcmp(then, then - w, w) == 0)
        std::memcpy(out, out - w, w);
      else if (then == now || std::memcmp(now, then, w) == 0)
        for (size_t x = 0; x < w; ++x) out[x] = grey_[now[x]];
      else
        for (size_t x = 0; x < w; ++x) out[x] = std::max(grey_[now[x]], grey_[then[x]]);
    }
  }

  void scale(uint8_t* picture) {
    const auto total = static_cast<uint32_t>(rows_.total * columns_.total);
    const uint64_t reciprocal = (uint64_t{1} << 40) / total + 1;  // exact for sums below 2^24
    uint16_t *sums = sums_.data(), *above = sums_.data() + width_ + 2;
    bool exact = false;  // the row above came of its sums alone
    for (int i = 0; i < kSide; ++i, std::swap(sums, above)) {
      const Cover::Tap& rows = rows_.taps[static_cast<size_t>(i)];
      uint8_t* out = picture + i * kSide;
      sum_rows(rows, sums);
      if (exact && std::memcmp(sums, above, width_ * sizeof *sums) == 0) {
        std::memcpy(out, out - kSide, kSide);
        continue;
      }
      exact = true;
      for (int j = 0; j < kSide; ++j) {
        const Cover::Tap& columns = columns_.taps[static_cast<size_t>(j)];
        const uint16_t* from = sums + columns.first;
        const uint32_t sum = total / 2 +  // rounds to the nearest
                             columns.parts[0] * from[0] + columns.parts[1] * from[1] + columns.parts[2] * from[2];
        const auto value = static_cast<uint32_t>(sum * reciprocal >> 40);
        out[j] = static_cast<uint8_t>(value);
        if (value * total == sum) out[j] = halfway(rows, columns), exact = false;
      }
    }
  }

  void sum_rows(const Cover::Tap& rows, uint16_t* sums) const {
    const uint8_t* row = pooled_.data() + static_cast<size_t>(rows.first) * width_;
    for (size_t x = 0; x < width_; ++x) sums[x] = static_cast<uint16_t>(rows.parts[0] * row[x]);
    for (int k = 1; k < rows.count; ++k) {
      row += width_;
      const auto part = static_cast<uint16_t>(rows.parts[static_cast<size_t>(k)]);
      for (size_t x = 0; x < width_; ++x) sums[x] = static_cast<uint16_t>(sums[x] + part * row[x]);
    }
  }

  /// A mean that lies halfway between two values goes where OpenCV's sums in float32 fall, half to even.
  uint8_t halfway(const Cover::Tap& rows, const Cover::Tap& columns) const {
    volatile float sum = 0;  // each operation rounds: no fused multiply-add
    for (int k = 0; k < rows.count; ++k) {
      const uint8_t* row = pooled_.data() + static_cast<size_t>(rows.first + k) * width_ + columns.first;
      volatile float across = 0;
      for (int l = 0; l < columns.count; ++l) {
        volatile const float product = static_cast<float>(row[l]) * columns.weights[static_cast<size_t>(l)];
        across = across + product;
      }
      volatile const float product = across * rows.weights[static_cast<size_t>(k)];
      sum = sum + product;
    }
    return static_cast<uint8_t>(std::lrint(sum));
  }

  size_t height_, width_;
  std::array<uint8_t, 256> grey_;
  Cover rows_, columns_;
  std::vector<uint8_t> pooled_;  // [height, width]
  std::vector<uint16_t> sums_;   // two rows of [width], which take turns
};

}  // namespace myriad::atari
