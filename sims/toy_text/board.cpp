#include "sims/toy_text/board.hpp"

namespace myriad {
namespace {

constexpr Colour kLines{170, 170, 170}, kEmpty{255, 255, 255};
constexpr double kHalf = 0.48;  // of a square without its lines

}  // namespace

Board::Board(int width, int height, int rows, int columns) : rows_(rows), canvas_(width, height, columns, rows) {
  canvas_.box(0, columns, 0, rows, 0, {0, 0}, kLines);
  for (int row = 0; row < rows; ++row)
    for (int column = 0; column < columns; ++column) square(row, column, kEmpty);
}

void Board::square(int row, int column, Colour colour) {
  canvas_.box(-kHalf, kHalf, -kHalf, kHalf, 0, middle(row, column), colour);
}

void Board::disc(int row, int column, double radius, Colour colour) {
  canvas_.circle(middle(row, column), radius, colour);
}

void Board::wall(int row, int column, Colour colour) {
  const double x = column, y = rows_ - row - 1;
  canvas_.line({x, y}, {x, y + 1}, 0.08, colour);
}

}  // namespace myriad
