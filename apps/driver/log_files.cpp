#include "apps/driver/log_files.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <utility>
#include <vector>

#include "rl/check.hpp"

namespace myriad {
namespace fs = std::filesystem;
namespace {

constexpr uint64_t kLastBytes = 16 << 10;  // of a log, to find the last lines in
constexpr size_t kLastLines = 20;

int open_log(const std::string& path, int flags) {
  return ::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | flags, 0644);
}

}  // namespace

LogFiles::LogFiles(uint64_t max_bytes) : max_bytes_(max_bytes), wake_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)) {
  rlimit limit{};  // of this process: a file that reaches it takes nothing more
  if (::getrlimit(RLIMIT_FSIZE, &limit) == 0 && limit.rlim_cur != RLIM_INFINITY)
    max_bytes_ = std::min<uint64_t>(max_bytes_, limit.rlim_cur / 2);
  sigset_t all, before;  // the thread takes no signals: SIGXFSZ, too, becomes the error of a write
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  thread_ = std::thread([this] { run(); });
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

LogFiles::~LogFiles() {
  {
    const std::lock_guard lock(mutex_);
    over_ = true;
  }
  (void)::eventfd_write(wake_, 1);
  thread_.join();
  for (Pipe& pipe : pipes_) {
    drain(pipe);
    if (pipe.fd >= 0) ::close(pipe.fd);
  }
  for (const auto& [path, file] : files_) {
    if (file.fd >= 0) ::close(file.fd);
    std::error_code ignored;
    if (file.size == 0 && fs::is_regular_file(path, ignored)) fs::remove(path, ignored);
  }
  ::close(wake_);
}

LogFiles::Process LogFiles::begin(const std::string& path) {
  const std::lock_guard lock(mutex_);
  File& file = files_[path];
  if (file.fd < 0) {
    file.fd = open_log(path, 0);
    if (file.fd < 0) fail(Exit::resource, "no-log", "cannot open {}: {}", path, std::strerror(errno));
    std::error_code none;
    const uint64_t size = fs::file_size(path, none);
    file.size = file.written = none ? 0 : size;
  }
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) fail(Exit::resource, "no-log", "no pipe for {}: {}", path, std::strerror(errno));
  ::fcntl(ends[0], F_SETFL, O_NONBLOCK);
  pipes_.push_back({ends[0], path});
  (void)::eventfd_write(wake_, 1);
  return {path, file.written, ends[1]};
}

void LogFiles::run() {
  for (std::vector<pollfd> polled;;) {
    polled.assign(1, {wake_, POLLIN, 0});
    {
      const std::lock_guard lock(mutex_);
      if (over_) return;
      std::erase_if(pipes_, [](const Pipe& pipe) { return pipe.fd < 0; });
      for (const Pipe& pipe : pipes_) polled.push_back({pipe.fd, POLLIN, 0});
    }
    if (::poll(polled.data(), polled.size(), -1) < 0) continue;
    eventfd_t ignored;
    (void)::eventfd_read(wake_, &ignored);
    const std::lock_guard lock(mutex_);
    for (Pipe& pipe : pipes_)
      if (pipe.fd >= 0) drain(pipe);
  }
}

/// What is in it now; closes it where all that wrote to it are gone.
void LogFiles::drain(Pipe& pipe) {
  std::array<char, 65536> part;
  // Not for ever: one that prints without end does not keep the others waiting.
  for (int reads = 0; pipe.fd >= 0 && reads < 16; ++reads) {
    const ssize_t got = ::read(pipe.fd, part.data(), part.size());
    if (got > 0)
      write(pipe.path, files_[pipe.path], {part.data(), static_cast<size_t>(got)});
    else if (got == 0)
      ::close(std::exchange(pipe.fd, -1));
    else if (errno != EINTR)
      return;
  }
}

void LogFiles::write(const std::string& path, File& file, std::string_view bytes) {
  if (file.size > 0 && file.size + bytes.size() > max_bytes_) {
    (void)::rename(path.c_str(), (path + ".1").c_str());
    if (const int fd = open_log(path, O_TRUNC); fd >= 0) {
      ::close(std::exchange(file.fd, fd));
      file.size = 0;
    }
  }
  std::string more;
  const uint64_t left_out = file.left_out, own = bytes.size();
  if (left_out > 0) {
    more = fmt::format("... {} bytes are left out, which the disk did not take\n", left_out);
    more += bytes;
    bytes = more;
  }
  while (!bytes.empty()) {
    const ssize_t wrote = ::write(file.fd, bytes.data(), bytes.size());
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote <= 0) break;
    file.size += static_cast<uint64_t>(wrote), file.written += static_cast<uint64_t>(wrote);
    bytes.remove_prefix(static_cast<size_t>(wrote));
  }
  file.left_out = bytes.empty() ? 0 : left_out + std::min<uint64_t>(bytes.size(), own);
}

std::string LogFiles::last_lines(const Process& process) {
  const std::lock_guard lock(mutex_);
  for (Pipe& pipe : pipes_)
    if (pipe.path == process.path) drain(pipe);
  const File& file = files_[process.path];
  const uint64_t before = file.written - file.size;  // in files that were moved away
  uint64_t from = process.begin > before ? process.begin - before : 0;
  from = std::max(from, file.size - std::min(file.size, kLastBytes));
  std::string tail(file.size - std::min(from, file.size), '\0');
  std::ifstream stream(process.path);
  stream.seekg(static_cast<std::streamoff>(from));
  stream.read(tail.data(), static_cast<std::streamsize>(tail.size()));
  tail.resize(static_cast<size_t>(stream.gcount()));
  std::istringstream text(tail);
  std::vector<std::string> lines;
  for (std::string line; std::getline(text, line);) {
    lines.push_back(line);
    if (lines.size() > kLastLines) lines.erase(lines.begin());
  }
  return fmt::format("{}", fmt::join(lines, "\n  "));
}

}  // namespace myriad
