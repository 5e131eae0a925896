// SharedMemory: a memfd that processes of one host map.
#pragma once

#include <cstddef>

namespace myriad {

class SharedMemory {
 public:
  /// A new sealed memfd of `bytes`, zeroed, mapped writable. `only_here`: no other process can ever map it writable.
  static SharedMemory create(const char* name, size_t bytes, bool only_here);
  /// Maps what another process made. Throws Error when it is smaller than `bytes` or could shrink.
  static SharedMemory map(int fd, size_t bytes, bool writable);
  SharedMemory(SharedMemory&& other) noexcept;
  SharedMemory& operator=(SharedMemory&& other) noexcept;
  ~SharedMemory();

  std::byte* data() const { return data_; }
  int fd() const { return fd_; }
  void close_fd();  ///< the mapping stays

 private:
  SharedMemory(std::byte* data, size_t size, int fd) : data_(data), size_(size), fd_(fd) {}
  std::byte* data_;
  size_t size_;
  int fd_;
};

}  // namespace myriad
