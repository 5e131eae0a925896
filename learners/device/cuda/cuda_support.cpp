// libmyriad_cuda.so: DeviceSupport over CUDA streams, pinned memory, CUDA graphs and NCCL. Holds no algorithm and no
// policy: order, copies, recordings. Throws std::exception only, since nothing of the program is linked here.
#include <ATen/Context.h>
#include <ATen/cuda/CUDAEvent.h>
#include <ATen/cuda/CUDAGraph.h>
#include <ATen/ops/empty.h>
#include <c10/cuda/CUDAException.h>
#include <c10/cuda/CUDAFunctions.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>

#include "learners/device/cuda/cuda_library.hpp"

namespace myriad {
namespace {

constexpr size_t kSlabBytes = size_t{4} << 20;

/// Host memory that copies of the device can reach while the host goes on.
class PinnedBuffer {
 public:
  explicit PinnedBuffer(size_t bytes) : bytes_(bytes) {
    void* data = nullptr;
    C10_CUDA_CHECK(cudaHostAlloc(&data, bytes, cudaHostAllocDefault));
    data_.reset(static_cast<std::byte*>(data));
  }
  std::byte* data() const { return data_.get(); }
  size_t size() const { return bytes_; }

 private:
  struct Free {
    void operator()(std::byte* data) const { cudaFreeHost(data); }
  };
  size_t bytes_;
  std::unique_ptr<std::byte, Free> data_;
};

class CudaGraph final : public DeviceGraph {
 public:
  void replay() override { graph.replay(); }
  at::cuda::CUDAGraph graph;
};

class CudaSupport final : public DeviceSupport {
 public:
  /// With `device` the current one: pinned memory belongs to it.
  explicit CudaSupport(c10::Device device)
      : device_(device),
        compute_(c10::cuda::getStreamFromPool(false, device_.index())),
        copy_(c10::cuda::getStreamFromPool(false, device_.index())),
        side_(c10::cuda::getStreamFromPool(false, device_.index())) {}

  c10::Device device() const override { return device_; }

  void run(const std::function<void()>& work) override {
    const c10::cuda::CUDAStreamGuard guard(compute_);
    work();
  }

  /// While one slab is copied to the device the host fills the other.
  void upload(std::span<const std::byte> from, void* to) override {
    reached_.record(compute_);
    reached_.block(copy_);
    for (size_t begin = 0; begin < from.size(); begin += kSlabBytes) {
      const auto part = from.subspan(begin, std::min(kSlabBytes, from.size() - begin));
      Slab& slab = slabs_[next_slab_];
      next_slab_ = 1 - next_slab_;
      slab.copied.synchronize();
      std::memcpy(slab.memory.data(), part.data(), part.size());
      C10_CUDA_CHECK(cudaMemcpyAsync(static_cast<std::byte*>(to) + begin, slab.memory.data(), part.size(),
                                     cudaMemcpyHostToDevice, copy_.stream()));
      slab.copied.record(copy_);
    }
    uploaded_.record(copy_);
    uploaded_.block(compute_);
  }

  void begin_download(const void* from, size_t bytes) override {
    downloaded_at_.synchronize();
    if (download_ == nullptr || download_->size() < bytes) {
      download_ = std::make_unique<PinnedBuffer>(bytes);
      leaving_ = at::empty({static_cast<int64_t>(bytes)}, at::TensorOptions(at::kByte).device(device_));
    }
    download_bytes_ = bytes;
    C10_CUDA_CHECK(
        cudaMemcpyAsync(leaving_.mutable_data_ptr(), from, bytes, cudaMemcpyDeviceToDevice, compute_.stream()));
    reached_.record(compute_);
    reached_.block(side_);
    C10_CUDA_CHECK(
        cudaMemcpyAsync(download_->data(), leaving_.const_data_ptr(), bytes, cudaMemcpyDeviceToHost, side_.stream()));
    downloaded_at_.record(side_);
  }
  std::span<const std::byte> downloaded() override {
    downloaded_at_.synchronize();
    return {download_ ? download_->data() : nullptr, download_bytes_};
  }

  std::unique_ptr<DeviceGraph> record(const std::function<void()>& work) override {
    auto recorded = std::make_unique<CudaGraph>();
    c10::cuda::device_synchronize();
    // Thread-local: what NCCL's own threads ask of CUDA meanwhile does not spoil the recording.
    recorded->graph.capture_begin({0, 0}, cudaStreamCaptureModeThreadLocal);
    try {
      work();
    } catch (...) {
      try {
        recorded->graph.capture_end();
      } catch (const std::exception&) { /* the first failure is the cause */
      }
      throw;
    }
    recorded->graph.capture_end();
    return recorded;
  }

 private:
  struct Slab {
    PinnedBuffer memory{kSlabBytes};
    at::cuda::CUDAEvent copied;
  };

  c10::Device device_;
  c10::cuda::CUDAStream compute_, copy_, side_;
  at::cuda::CUDAEvent reached_, uploaded_, downloaded_at_;
  std::array<Slab, 2> slabs_;
  size_t next_slab_ = 0;
  at::Tensor leaving_;  ///< what is downloaded, so that nobody waits to change it
  std::unique_ptr<PinnedBuffer> download_;
  size_t download_bytes_ = 0;
};

c10::Device device_of(int index) { return {c10::kCUDA, static_cast<c10::DeviceIndex>(index)}; }

DeviceSupport* open(int index) {
  at::globalContext().lazyInitDevice(c10::kCUDA);
  const c10::Device device = device_of(index);
  const c10::cuda::CUDAGuard guard(device);
  return new CudaSupport(device);
}

c10::intrusive_ptr<c10d::Backend> make_nccl(int index, const c10::intrusive_ptr<c10d::Store>& store, int rank, int size,
                                            std::chrono::milliseconds timeout) {
  // A peer's death ends an epoch of the group, not this process: whoever owns the group calls abort().
  ::setenv("TORCH_NCCL_ASYNC_ERROR_HANDLING", "0", 0);
  ::setenv("TORCH_NCCL_ENABLE_MONITORING", "0", 0);
  auto options = c10d::ProcessGroupNCCL::Options::create();
  options->timeout = timeout;
  options->config.blocking = 0;  // so that abort() reaches a communicator that is still being made
  auto backend = c10::make_intrusive<c10d::ProcessGroupNCCL>(store, rank, size, options);
  backend->setBoundDeviceId(device_of(index));
  return backend;
}

}  // namespace
}  // namespace myriad

extern "C" [[gnu::visibility("default")]] const myriad::CudaLibrary myriad_cuda_library;
const myriad::CudaLibrary myriad_cuda_library{.version = myriad::kCudaLibraryVersion,
                                              .num_devices = [] { return static_cast<int>(c10::cuda::device_count()); },
                                              .open = myriad::open,
                                              .make_nccl = myriad::make_nccl};
