// DeviceSupport: what a learner needs of a device beyond torch's operators: an order of work, copies to and from the
// host, recorded work. One a learner; used by its update thread.
//
//   host --pinned slabs, copy stream--> [ compute stream: run(...) ] --side stream, pinned buffer--> host
//
// CpuSupport runs everything at once, so that the same learner code runs in tests. CUDA's is in libmyriad_cuda.so
// (learners/device/cuda/), which is opened when a CUDA device is asked for: no program links CUDA.
#pragma once

#include <c10/core/Device.h>
#include <c10/util/intrusive_ptr.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace c10d {
class Backend;
class Store;
}  // namespace c10d

namespace myriad {

/// Work that was recorded: replay() does it again, on the same memory.
class DeviceGraph {
 public:
  virtual ~DeviceGraph() = default;
  virtual void replay() = 0;  ///< inside run()
};

class DeviceSupport {
 public:
  virtual ~DeviceSupport() = default;

  virtual c10::Device device() const = 0;

  /// Calls `work` with its operators going to the compute stream. Returns when they are queued.
  virtual void run(const std::function<void()>& work) = 0;

  /// Inside run(): copies to the device, after what was queued before and before what is queued next. `from` may be
  /// changed when it returns.
  virtual void upload(std::span<const std::byte> from, void* to) = 0;

  /// Inside run(): begins to copy what `from` holds once everything queued so far is done. What is queued next may
  /// change it at once. Waits for the last download.
  virtual void begin_download(const void* from, size_t bytes) = 0;
  virtual std::span<const std::byte> downloaded() = 0;  ///< waits for it; valid until the next begin_download()

  /// Inside run(): records what `work` queues, without doing it; null where a device has no such thing.
  virtual std::unique_ptr<DeviceGraph> record(const std::function<void()>& work) = 0;
};

/// Everything at once on the CPU; no recording.
std::unique_ptr<DeviceSupport> make_cpu_support();

/// For `learners.device` and the shard's place among the learners of this machine: "cuda:N" is GPU N, "cuda" GPU
/// shard % their number, so that several share one where there are fewer. Throws Error("no-gpu"), naming what is
/// missing, where there is no such GPU, driver, torch or libmyriad_cuda.so; "out-of-range" for another device.
/// Comes before the process's first backward pass: torch counts its devices once.
std::unique_ptr<DeviceSupport> open_device(const std::string& device, uint32_t shard);

/// The rule of open_device over `gpus` devices.
int device_index(std::string_view device, uint32_t shard, int gpus);

/// NCCL's backend for a group over `store`, with one rank a GPU: NCCL refuses two on one. A communicator that is being
/// made can be aborted; a peer's death ends no process. `device` is an open CUDA device.
c10::intrusive_ptr<c10d::Backend> make_nccl_backend(c10::Device device, const c10::intrusive_ptr<c10d::Store>& store,
                                                    int rank, int size, std::chrono::milliseconds timeout);

/// "" where "cuda" can be opened here, else why it cannot.
std::string why_no_cuda();

}  // namespace myriad
