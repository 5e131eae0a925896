#include "sims/minatar/minatar.hpp"

#include <cmath>
#include <numbers>

#include "sims/classic/canvas.hpp"

namespace myriad {
namespace {

/// Of a channel: MinAtar takes colours from the cubehelix, evenly spaced between black and white. Green 2011, "A colour
/// scheme for the display of astronomical intensity images": start 0.5, -1.5 turns, hue 1, gamma 1, in 256 steps.
Colour colour_of(int channel, int channels) {
  const double grey = std::floor(256.0 * (channel + 1) / (channels + 1)) / 255;
  const double amplitude = grey * (1 - grey) / 2, phi = 2 * std::numbers::pi * (0.5 / 3 - 1.5 * grey);
  const auto value = [&](double c, double s) {
    const double shade = grey + amplitude * (c * std::cos(phi) + s * std::sin(phi));
    return static_cast<uint8_t>(std::lround(255 * std::clamp(shade, 0.0, 1.0)));
  };
  return {value(-0.14861, 1.78277), value(-0.29227, -0.90649), value(1.97294, 0.0)};
}

}  // namespace

Frame draw_board(std::span<const uint8_t> cells, int channels, int width, int height) {
  Canvas canvas(width, height, kBoardSide, kBoardSide);
  canvas.box(0, kBoardSide, 0, kBoardSide, 0, {0, 0}, kBlack);
  for (int y = 0; y < kBoardSide; ++y)
    for (int x = 0; x < kBoardSide; ++x)
      for (int c = channels - 1; c >= 0; --c)
        if (cells[static_cast<size_t>((y * kBoardSide + x) * channels + c)] != 0) {
          canvas.box(x, x + 1, kBoardSide - 1 - y, kBoardSide - y, 0, {0, 0}, colour_of(c, channels));
          break;
        }
  return canvas.take();
}

}  // namespace myriad
