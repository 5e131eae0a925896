#include "rl/shared_memory.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "rl/check.hpp"

namespace myriad {

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

}  // namespace myriad
