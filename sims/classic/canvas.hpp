// Canvas: anti-aliased polygons, lines and circles on a Frame, for the classic control tasks.
//
// A drawing has a size of its own, Gymnasium's, with y upwards; it is scaled to fit the frame and centred.
#pragma once

#include <array>
#include <span>

#include "rl/frame.hpp"

namespace myriad {

struct Point {
  double x, y;
};
using Colour = std::array<uint8_t, 3>;  // red, green, blue
inline constexpr Colour kBlack{0, 0, 0};

/// `point` turned counterclockwise about the origin by `angle` [rad], then moved by `offset`.
Point placed(Point point, double angle, Point offset);

class Canvas {
 public:
  /// A white frame of `width` x `height` pixels for a drawing of `drawing_width` x `drawing_height`.
  Canvas(int width, int height, double drawing_width, double drawing_height);

  /// Fills a simple polygon; a pixel is coloured by the part of it that lies inside.
  void polygon(std::span<const Point> corners, Colour colour);

  /// The box [left, right] x [bottom, top] turned by `angle` about the origin, then moved by `offset`.
  void box(double left, double right, double bottom, double top, double angle, Point offset, Colour colour);
  void circle(Point centre, double radius, Colour colour);
  void line(Point from, Point to, double thickness, Colour colour);

  Frame take() { return std::move(frame_); }

 private:
  Frame frame_;
  double scale_, left_, bottom_;  // pixels a unit; where the drawing's origin lies, in pixels from the frame's top left
};

}  // namespace myriad
