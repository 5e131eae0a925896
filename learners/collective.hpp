// Collective: what the shards of a learner group compute together, for one epoch of the group.
//
// Every shard calls the same operations in the same order, from its update thread. A shard that died, a peer that gave
// up, abort() or the deadline makes an operation throw GroupBroken; then the epoch is over and the collective useless.
// Results are the same to the bit at every shard, and in every run with the same ranks. No torch in this header.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>

namespace myriad {

/// The group cannot go on in this epoch; the driver forms it anew.
struct GroupBroken : std::runtime_error {
  using std::runtime_error::runtime_error;
};

class Collective {
 public:
  virtual ~Collective() = default;

  virtual uint32_t rank() const = 0;
  virtual uint32_t size() const = 0;

  virtual void all_reduce(std::span<float> values) = 0;   ///< sum
  virtual void all_reduce(std::span<double> values) = 0;  ///< sum
  virtual void broadcast(std::span<std::byte> bytes, uint32_t root) = 0;

  /// From any thread: whatever runs, or comes, throws GroupBroken soon.
  virtual void abort() noexcept = 0;

  /// Operations begun so far, and whether one runs: from any thread. Who is behind is who hangs.
  virtual uint64_t operations() const = 0;
  virtual bool inside() const = 0;
};

}  // namespace myriad
