// Surface: convex polygons on a large picture, of which only a small one is kept: each of its pixels is the mean of
// what it covers.
//
// For observations that Gymnasium draws with pygame and scales down with smoothscale. Of the large picture every second
// row is painted, one at a time and in indexed colours, and summed up where its colour changes.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "sims/classic/canvas.hpp"

namespace myriad {

/// A pixel of the surface; y goes down, and it may lie outside.
struct Pixel {
  int x, y;
};

class Surface {
 public:
  Surface(int width, int height);

  /// Black, without polygons.
  void clear();

  /// Fills a convex polygon, over the ones before it, with the pixels of its outline as SDL_gfx's filledPolygonColor
  /// and pygame.draw.polygon have it. There may be 255 colours.
  void polygon(std::span<const Pixel> corners, Colour colour);

  /// Writes the picture with `width` x `height` pixels, [height, width, 3].
  void smoothscale(int width, int height, std::span<uint8_t> rgb);

 private:
  using Sum = std::array<int32_t, 4>;  // red, green, blue, and one for SIMD
  struct Span {
    int left, right;  // both are filled; none where left > right
  };
  struct Polygon {
    int top, end;    // lines
    size_t spans;    // of the first line, in spans_
    uint8_t colour;  // in palette_
  };
  struct Painted {
    const Span* spans;  // from `top` on
    int top;
    uint8_t colour;
  };
  struct Edge {
    Sum change;
    size_t pixel;  // of the result, where it lies
    int rest;      // what lies right of it there
  };

  uint8_t colour_index(Colour colour);
  void paint(int line);
  void find_edges(int line, int width);

  int width_, height_;
  int lines_;  // the rows that are painted
  std::vector<Colour> palette_;
  std::vector<Polygon> polygons_;
  std::vector<Span> spans_;
  std::vector<Painted> painted_;  // the polygons of a line
  int next_change_ = 0;           // the line with other polygons
  std::vector<uint8_t> pixels_;   // of a line, in palette_
  std::vector<Edge> edges_;       // of a line, from left to right
  std::vector<Sum> rest_, full_;  // of a row of the result
};

}  // namespace myriad
