// Board: the pictures of toy text's grids, squares of side 1 with row 0 at the top.
#pragma once

#include "sims/classic/canvas.hpp"

namespace myriad {

inline constexpr Colour kAgent{200, 40, 40};

class Board {
 public:
  /// A board of `rows` x `columns` white squares with grey lines between them.
  Board(int width, int height, int rows, int columns);

  /// Fills a square up to its lines.
  void square(int row, int column, Colour colour);
  void disc(int row, int column, double radius, Colour colour);
  /// A line along the left edge of a square.
  void wall(int row, int column, Colour colour);

  Frame take() { return canvas_.take(); }

 private:
  Point middle(int row, int column) const { return {column + 0.5, rows_ - row - 0.5}; }

  int rows_;
  Canvas canvas_;
};

}  // namespace myriad
