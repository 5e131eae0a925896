#include "sims/classic/mountain_view.hpp"

#include <cmath>

#include "sims/classic/canvas.hpp"

namespace myriad {
namespace {

constexpr double kMinPosition = -1.2, kMaxPosition = 0.6;
constexpr double kScale = 600 / (kMaxPosition - kMinPosition);  // as Gymnasium's

/// The ground at `position`.
Point ground(double position) {
  return {kScale * (position - kMinPosition), kScale * (0.45 * std::sin(3 * position) + 0.55)};
}

}  // namespace

Frame draw_mountain(int width, int height, double position, double goal) {
  constexpr int kPieces = 99;
  constexpr double kStep = (kMaxPosition - kMinPosition) / kPieces, kClearance = 10;
  Canvas canvas(width, height, 600, 400);
  for (int i = 0; i < kPieces; ++i)
    canvas.line(ground(kMinPosition + i * kStep), ground(kMinPosition + (i + 1) * kStep), 1, kBlack);
  const double slope = std::cos(3 * position);  // Gymnasium's: its angle is the derivative, up to a factor
  const Point wheels = placed({0, kClearance}, 0, ground(position));
  canvas.box(-20, 20, 0, 20, slope, wheels, kBlack);
  for (const double x : {10.0, -10.0}) canvas.circle(placed({x, 0}, slope, wheels), 8, {128, 128, 128});
  const Point flag = ground(goal);
  canvas.line(flag, {flag.x, flag.y + 50}, 1, kBlack);
  const Point cloth[] = {{flag.x, flag.y + 50}, {flag.x, flag.y + 40}, {flag.x + 25, flag.y + 45}};
  canvas.polygon(cloth, {204, 204, 0});
  return canvas.take();
}

}  // namespace myriad
