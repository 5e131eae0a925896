// Partition: a flat vector of floats in contiguous parts, one for each shard of a group.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

namespace myriad {

struct Range {
  size_t begin = 0, end = 0;
  size_t count() const { return end - begin; }
  Range overlap(Range other) const {
    const size_t first = std::max(begin, other.begin);
    return {first, std::max(first, std::min(end, other.end))};
  }
  bool operator==(const Range&) const = default;
};

/// Equal parts but for the last ones, which may be shorter or empty. They begin at multiples of 64 bytes, so that
/// kernels compute the same bits in a part as in the whole.
struct Partition {
  size_t total = 0;
  uint32_t parts = 1;

  size_t chunk() const { return ((total + parts - 1) / parts + 15) / 16 * 16; }
  Range range(uint32_t part) const { return {std::min(total, part * chunk()), std::min(total, (part + 1) * chunk())}; }
  Range whole() const { return {0, total}; }
};

}  // namespace myriad
