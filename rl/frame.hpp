// Frame: a picture of an environment, made only on request (Environment::render).
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace myriad {

struct Frame {
  Frame(int w, int h) : width(w), height(h), rgb(static_cast<size_t>(w) * static_cast<size_t>(h) * 3, 255) {}

  const uint8_t* row(int y) const { return rgb.data() + static_cast<size_t>(y) * static_cast<size_t>(width) * 3; }
  uint8_t* row(int y) { return rgb.data() + static_cast<size_t>(y) * static_cast<size_t>(width) * 3; }

  int width, height;         ///< pixels
  std::vector<uint8_t> rgb;  ///< [height, width, 3], the top row first; white at first
};

}  // namespace myriad
