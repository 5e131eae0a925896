// DeviceGroup: what the shards of a learner group do with tensors, wherever these lie: sum gradients, and move what
// lies in parts. Every shard calls the same operations in the same order. Owned by whoever forms the group; used by the
// update thread, and within a backward pass by autograd's thread of the device meanwhile.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Device.h>
#include <c10/util/intrusive_ptr.h>

#include <chrono>
#include <memory>

#include "learners/group/collective.hpp"
#include "learners/group/rendezvous.hpp"

namespace c10d {
class Backend;
}  // namespace c10d

namespace myriad {

class DeviceGroup {
 public:
  virtual ~DeviceGroup() = default;

  virtual int64_t rank() const = 0;
  virtual int64_t size() const = 0;

  /// Inside DeviceSupport::run(): `tensor`, float32 and contiguous, becomes the sum over the shards. Throws GroupBroken
  /// where it waits for them; where it does not, require_alive() tells.
  virtual void all_reduce(const at::Tensor& tensor) = 0;

  /// Begins such a sum; `tensor` is the group's until finish() is queued, which comes before any other sum.
  virtual void begin_all_reduce(const at::Tensor& tensor) = 0;
  virtual void finish() = 0;
  /// As Collective's.
  virtual size_t overlap_floats() const = 0;

  // As all_reduce(), of any contiguous tensor of float32.

  virtual void broadcast(const at::Tensor& tensor, uint32_t root) = 0;
  /// Sum at `root`; elsewhere `tensor` holds nothing of use afterwards.
  virtual void reduce(const at::Tensor& tensor, uint32_t root) = 0;
  /// `all` has a piece of equal size for each shard, in order; every shard gives its own.
  virtual void all_gather(const at::Tensor& all) = 0;

  /// Whether it is queued as any other work, waits for nothing and can be recorded.
  virtual bool recordable() const = 0;

  /// From any thread: the group is over. What was queued may end with anything.
  virtual void abort() noexcept = 0;

  /// Throws GroupBroken once it is over: before work that was recorded with it, and before results are believed.
  virtual void require_alive() const = 0;
};

/// Queued: for NCCL's backend (make_nccl_backend), one shard a GPU. Where a peer died the device waits until somebody
/// aborts the group. `meeting`: what the backend met its peers through, kept while it may need it.
std::unique_ptr<DeviceGroup> make_backend_group(const c10::intrusive_ptr<c10d::Backend>& backend,
                                                size_t overlap_floats = kOverlapFloats,
                                                std::shared_ptr<void> meeting = nullptr);

/// Through host memory, waiting for the device each time: for shards that share a GPU, and any Collective.
std::unique_ptr<DeviceGroup> make_host_group(Collective& collective);

}  // namespace myriad
