#include "env_runners/shared_weights.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "rl/check.hpp"

namespace myriad {
namespace {

constexpr size_t kLine = 64;
constexpr size_t padded(size_t bytes) { return (bytes + kLine - 1) / kLine * kLine; }

/// version << 8 | buffer index + 1; 0 = none yet.
using Newest = std::atomic<uint64_t>;

Newest& newest_of(std::byte* region) { return *reinterpret_cast<Newest*>(region); }
const Newest& newest_of(const std::byte* region) { return *reinterpret_cast<const Newest*>(region); }
uint32_t index_of(uint64_t newest) { return static_cast<uint32_t>(newest & 0xff) - 1; }

size_t buffer_offset(const SharedWeightsLayout& layout, uint32_t index) {
  return kLine + index * layout.buffer_bytes();
}

}  // namespace

SharedMemory SharedMemory::create(const char* name, size_t bytes, bool only_here) {
  const int fd = ::memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
  if (fd < 0 || ::ftruncate(fd, static_cast<off_t>(bytes)) != 0)
    fail(Exit::resource, "no-shared-memory", "cannot make {} bytes of shared memory: {}", bytes, std::strerror(errno));
  void* data = ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  if (data == MAP_FAILED)
    fail(Exit::resource, "no-shared-memory", "cannot map {} bytes: {}", bytes, std::strerror(errno));
  int seals = F_SEAL_SHRINK | F_SEAL_GROW;
  if (only_here) seals |= F_SEAL_FUTURE_WRITE;
  check(::fcntl(fd, F_ADD_SEALS, seals | F_SEAL_SEAL) == 0, "cannot seal shared memory: {}", std::strerror(errno));
  return {static_cast<std::byte*>(data), bytes, fd};
}

SharedMemory SharedMemory::map(int fd, size_t bytes, bool writable) {
  struct stat status {};
  check(::fstat(fd, &status) == 0 && static_cast<size_t>(status.st_size) >= bytes, "shared memory of {} bytes, want {}",
        status.st_size, bytes);
  check((::fcntl(fd, F_GET_SEALS) & F_SEAL_SHRINK) != 0, "shared memory that could shrink");
  void* data = ::mmap(nullptr, bytes, writable ? PROT_READ | PROT_WRITE : PROT_READ, MAP_SHARED, fd, 0);
  check(data != MAP_FAILED, "cannot map shared memory: {}", std::strerror(errno));
  return {static_cast<std::byte*>(data), bytes, fd};
}

SharedMemory::SharedMemory(SharedMemory&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(other.size_), fd_(std::exchange(other.fd_, -1)) {}
SharedMemory& SharedMemory::operator=(SharedMemory&& other) noexcept {
  std::swap(data_, other.data_);
  std::swap(size_, other.size_);
  std::swap(fd_, other.fd_);
  return *this;
}
SharedMemory::~SharedMemory() {
  if (data_ != nullptr) ::munmap(data_, size_);
  close_fd();
}
void SharedMemory::close_fd() {
  if (fd_ >= 0) ::close(std::exchange(fd_, -1));
}

size_t SharedWeightsLayout::buffer_bytes() const {
  return padded(num_filter * sizeof(double)) + padded(num_values * sizeof(float));
}
size_t SharedWeightsLayout::bytes() const { return kLine + kBuffers * buffer_bytes(); }

bool SharedWeightsWriter::publish(const Weights& weights, const std::function<bool(uint32_t buffer)>& pinned) {
  check(weights.values.size() == layout_.num_values && weights.filter.size() == layout_.num_filter,
        "weights of {} values and {} of the filter, want {} and {}", weights.values.size(), weights.filter.size(),
        layout_.num_values, layout_.num_filter);
  const uint64_t newest = newest_of(region_).load(std::memory_order_seq_cst);
  for (uint32_t i = 0; i < SharedWeightsLayout::kBuffers; ++i) {
    if ((newest != 0 && index_of(newest) == i) || pinned(i)) continue;
    std::byte* buffer = region_ + buffer_offset(layout_, i);
    if (!weights.filter.empty()) std::memcpy(buffer, weights.filter.data(), weights.filter.size() * sizeof(double));
    std::memcpy(buffer + padded(layout_.num_filter * sizeof(double)), weights.values.data(),
                weights.values.size() * sizeof(float));
    versions_[i] = weights.version;
    newest_of(region_).store(weights.version << 8 | (i + 1), std::memory_order_seq_cst);
    return true;
  }
  return false;
}

std::optional<WeightsView> SharedWeightsReader::acquire() {
  for (;;) {
    const uint64_t newest = newest_of(region_).load(std::memory_order_seq_cst);
    if (newest == 0) return std::nullopt;
    page_.pinned.store(index_of(newest) + 1, std::memory_order_seq_cst);
    if (newest_of(region_).load(std::memory_order_seq_cst) != newest) continue;  // it may be written to already
    const std::byte* buffer = region_ + buffer_offset(layout_, index_of(newest));
    const auto* filter = reinterpret_cast<const double*>(buffer);
    const auto* values = reinterpret_cast<const float*>(buffer + padded(layout_.num_filter * sizeof(double)));
    return WeightsView(newest >> 8, {values, layout_.num_values}, {filter, layout_.num_filter});
  }
}

}  // namespace myriad
