#include "rl/system.hpp"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <filesystem>
#include <system_error>

#include "rl/machine.hpp"

namespace myriad {
namespace {

class SystemClock final : public Clock {
 public:
  Time now() override { return std::chrono::steady_clock::now().time_since_epoch(); }
};

/// A file descriptor that closes itself.
class Descriptor {
 public:
  Descriptor(const std::string& path, int flags, mode_t mode = 0644)
      : fd_(::open(path.c_str(), flags | O_CLOEXEC, mode)) {
    if (fd_ < 0) throw FileError{errno, path};
  }
  Descriptor(const Descriptor&) = delete;
  ~Descriptor() { ::close(fd_); }
  int get() const { return fd_; }

 private:
  int fd_;
};

class SystemFiles final : public Files {
 public:
  explicit SystemFiles(std::string root) : root_(std::move(root)) {}

  void make_directory(const std::string& path) override {
    std::error_code error;
    std::filesystem::create_directories(full(path), error);
    if (error) throw FileError{error.value(), path};
  }

  void write(const std::string& path, std::span<const std::byte> bytes) override {
    const Descriptor file(full(path), O_WRONLY | O_CREAT | O_TRUNC);
    for (size_t done = 0; done < bytes.size();) {
      const ssize_t n = ::write(file.get(), bytes.data() + done, bytes.size() - done);
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) throw FileError{errno, path};
      done += static_cast<size_t>(n);
    }
  }

  void fsync(const std::string& path) override {
    const Descriptor file(full(path), O_RDONLY);
    if (const int error = sync_to_disk(file.get()); error != 0) throw FileError{error, path};
  }

  void rename(const std::string& from, const std::string& to) override {
    if (const int error = rename_file(full(from), full(to)); error != 0) throw FileError{error, to};
  }

  std::vector<std::byte> read(const std::string& path) override {
    const Descriptor file(full(path), O_RDONLY);
    std::vector<std::byte> bytes;
    for (;;) {
      const size_t size = bytes.size();
      bytes.resize(size + 65536);
      const ssize_t n = ::read(file.get(), bytes.data() + size, 65536);
      bytes.resize(size + static_cast<size_t>(std::max<ssize_t>(n, 0)));
      if (n == 0) return bytes;
      if (n < 0 && errno != EINTR) throw FileError{errno, path};
    }
  }

  std::vector<std::string> list(const std::string& path) override {
    std::vector<std::string> names;
    std::error_code error;
    for (std::filesystem::directory_iterator it(full(path), error), end; !error && it != end; it.increment(error))
      names.push_back(it->path().filename().string());
    if (error && error != std::errc::no_such_file_or_directory) throw FileError{error.value(), path};
    std::sort(names.begin(), names.end());
    return names;
  }

  void remove(const std::string& path) override {
    std::error_code error;
    std::filesystem::remove_all(full(path), error);
    if (error) throw FileError{error.value(), path};
  }

 private:
  std::string full(const std::string& path) const { return path.starts_with('/') ? path : root_ + "/" + path; }
  std::string root_;
};

}  // namespace

std::string program_directory() { return std::filesystem::read_symlink("/proc/self/exe").parent_path().string(); }

bool lower_limit(int resource, uint64_t value) {
  rlimit limit{};
  const auto which = static_cast<__rlimit_resource>(resource);
  if (::getrlimit(which, &limit) != 0) return false;
  limit.rlim_max = std::min<rlim_t>(limit.rlim_max, value);  // RLIM_INFINITY is the largest
  limit.rlim_cur = std::min(limit.rlim_cur, limit.rlim_max);
  return ::setrlimit(which, &limit) == 0;
}

void bury_children() {
  for (int waited_ms = 0; waited_ms < 5000;) {
    const int pid = ::waitpid(-1, nullptr, WNOHANG);
    if (pid < 0 && errno != EINTR) return;
    if (pid == 0) ::usleep(1000), ++waited_ms;
  }
}

std::unique_ptr<Clock> make_system_clock() { return std::make_unique<SystemClock>(); }
std::unique_ptr<Files> make_system_files(std::string root) { return std::make_unique<SystemFiles>(std::move(root)); }

}  // namespace myriad
