// Collective: what the shards of a learner group compute together, for one epoch of the group.
//
// Every shard calls the same operations in the same order, from its update thread. A peer that gave up, abort() or the
// deadline makes an operation throw GroupBroken, and so does a shard that died where there are sockets to tell; then
// the epoch is over and the collective useless. Results are the same to the bit at every shard, and in every run with
// the same ranks. No torch in this header.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <vector>

namespace myriad {

/// The group cannot go on in this epoch; the driver forms it anew.
struct GroupBroken : std::runtime_error {
  using std::runtime_error::runtime_error;
};

/// What is worth a sum of its own over c10d: 4 MiB.
constexpr size_t kOverlapFloats = size_t{1} << 20;

class Collective {
 public:
  virtual ~Collective() = default;

  virtual uint32_t rank() const = 0;
  virtual uint32_t size() const = 0;

  virtual void all_reduce(std::span<float> values) = 0;   ///< sum
  virtual void all_reduce(std::span<double> values) = 0;  ///< sum
  virtual void broadcast(std::span<std::byte> bytes, uint32_t root) = 0;

  // A sum that goes on beside other work of the caller.

  /// Stretches of a gradient of so many floats are worth a sum of their own, begun while backward works on the rest;
  /// 0: none is.
  virtual size_t overlap_floats() const { return 0; }
  /// Begins a sum; `values` are the group's until finish(), which comes before any other operation.
  virtual void begin_all_reduce(std::span<float> values) { all_reduce(values); }
  virtual void finish() {}  ///< waits for all that were begun

  // What sharded state needs beyond that. These fall back on the ones above; a backend has better ways.

  /// Sum at `root`; elsewhere `values` hold nothing of use afterwards.
  virtual void reduce(std::span<float> values, uint32_t /*root*/) { all_reduce(values); }

  /// Rank r gives bytes [r * chunk, (r + 1) * chunk), as far as there are any; afterwards everybody has all.
  virtual void all_gather(std::span<std::byte> bytes, size_t chunk) {
    for (uint32_t r = 0; r < size(); ++r)
      if (r * chunk < bytes.size()) broadcast(bytes.subspan(r * chunk, std::min(chunk, bytes.size() - r * chunk)), r);
  }

  /// `mine` goes to the right neighbour, rank + 1, and `left` comes from the left one. All are of one size.
  virtual void shift(std::span<const std::byte> mine, std::span<std::byte> left) {
    std::vector<std::byte> passing(mine.size());
    for (uint32_t r = 0; r < size(); ++r) {
      if (r == rank()) passing.assign(mine.begin(), mine.end());
      broadcast(passing, r);
      if ((r + 1) % size() == rank()) std::copy(passing.begin(), passing.end(), left.begin());
    }
  }

  /// From any thread: whatever runs, or comes, throws GroupBroken soon.
  virtual void abort() noexcept = 0;

  /// Operations begun so far, and whether one runs: from any thread. Who is behind is who hangs.
  virtual uint64_t operations() const = 0;
  virtual bool inside() const = 0;

  /// Spent in operations so far, waiting for the others included. From the thread that calls them.
  virtual double seconds() const { return 0; }
};

}  // namespace myriad
