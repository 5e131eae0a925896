#include "learners/device/device_support.hpp"

#include <dlfcn.h>
#include <torch/csrc/distributed/c10d/Backend.hpp>

#include <charconv>
#include <cstring>
#include <filesystem>
#include <limits>
#include <vector>

#include "learners/device/cuda/cuda_library.hpp"
#include "rl/check.hpp"

namespace myriad {
namespace {

class CpuSupport final : public DeviceSupport {
 public:
  c10::Device device() const override { return c10::kCPU; }
  void run(const std::function<void()>& work) override { work(); }
  void upload(std::span<const std::byte> from, void* to) override { std::memcpy(to, from.data(), from.size()); }
  void begin_download(const void* from, size_t bytes) override {
    const auto* begin = static_cast<const std::byte*>(from);
    downloaded_.assign(begin, begin + bytes);
  }
  std::span<const std::byte> downloaded() override { return downloaded_; }
  std::unique_ptr<DeviceGraph> record(const std::function<void()>&) override { return nullptr; }

 private:
  std::vector<std::byte> downloaded_;
};

/// libmyriad_cuda.so, once a process, or why it could not be opened.
struct Opened {
  const CudaLibrary* library = nullptr;
  std::string reason;
};

Opened open_library() {
  // Beside the program, else where the program's runpath or LD_LIBRARY_PATH says. Never closed: torch registers itself.
  std::error_code ignored;
  const auto beside = std::filesystem::read_symlink("/proc/self/exe", ignored).parent_path() / kCudaLibraryFile;
  void* handle = ::dlopen(beside.c_str(), RTLD_NOW | RTLD_GLOBAL);
  std::string reason = handle || !std::filesystem::exists(beside, ignored) ? "" : ::dlerror();
  if (handle == nullptr && reason.empty()) handle = ::dlopen(kCudaLibraryFile, RTLD_NOW | RTLD_GLOBAL);
  if (handle == nullptr) return {nullptr, reason.empty() ? ::dlerror() : reason};
  const auto* library = static_cast<const CudaLibrary*>(::dlsym(handle, kCudaLibrarySymbol));
  if (library == nullptr) return {nullptr, fmt::format("{} has no {}", kCudaLibraryFile, kCudaLibrarySymbol)};
  if (library->version != kCudaLibraryVersion)
    return {nullptr, fmt::format("{} is of version {}, want {}: build it again", kCudaLibraryFile, library->version,
                                 kCudaLibraryVersion)};
  if (library->num_devices() == 0) return {nullptr, "the driver shows no CUDA device"};
  return {library, ""};
}

const Opened& opened() {
  static const Opened once = open_library();
  return once;
}

}  // namespace

std::unique_ptr<DeviceSupport> make_cpu_support() { return std::make_unique<CpuSupport>(); }

int device_index(std::string_view device, uint32_t shard, int gpus) {
  check(gpus > 0, "{} of no GPUs", device);
  if (device == "cuda") return static_cast<int>(shard % static_cast<uint32_t>(gpus));
  int index = -1;
  const std::string_view number = device.starts_with("cuda:") ? device.substr(5) : "";
  const auto [end, error] = std::from_chars(number.data(), number.data() + number.size(), index);
  if (number.empty() || error != std::errc() || end != number.data() + number.size() || index < 0)
    fail(Exit::usage, "out-of-range", "learners.device is '{}', want cpu, cuda or cuda:N", device);
  if (index >= gpus)
    fail(Exit::environment, "no-gpu", "learners.device is '{}'; this machine has GPUs 0 to {}", device, gpus - 1);
  return index;
}

std::unique_ptr<DeviceSupport> open_device(const std::string& device, uint32_t shard) {
  device_index(device, shard, std::numeric_limits<int>::max());  // a wrong name first, wherever it runs
  if (opened().library == nullptr)
    fail(Exit::environment, "no-gpu", "learners.device is '{}': {}", device, opened().reason);
  const int index = device_index(device, shard, opened().library->num_devices());
  try {
    return std::unique_ptr<DeviceSupport>(opened().library->open(index));
  } catch (const std::exception& error) {
    const std::string_view text = error.what();  // torch's go on with a backtrace
    fail(Exit::environment, "no-gpu", "GPU {} cannot be used: {}", index, text.substr(0, text.find('\n')));
  }
}

c10::intrusive_ptr<c10d::Backend> make_nccl_backend(c10::Device device, const c10::intrusive_ptr<c10d::Store>& store,
                                                    int rank, int size, std::chrono::milliseconds timeout) {
  check(opened().library != nullptr && device.is_cuda(), "an NCCL group without a CUDA device");
  return opened().library->make_nccl(device.index(), store, rank, size, timeout);
}

std::string why_no_cuda() { return opened().reason; }

}  // namespace myriad
