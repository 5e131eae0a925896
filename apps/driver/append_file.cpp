#include "apps/driver/append_file.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "apps/driver/run_directory.hpp"
#include "rl/check.hpp"

namespace myriad {
namespace fs = std::filesystem;

AppendFile::AppendFile(const fs::path& path)
    : fd_(::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644)) {
  if (fd_ < 0) fail(Exit::resource, "cannot-write", "{}: {}", path.string(), std::strerror(errno));
}
AppendFile::AppendFile(AppendFile&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)), pending_(std::move(other.pending_)) {}
AppendFile& AppendFile::operator=(AppendFile&& other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(pending_, other.pending_);
  return *this;
}
AppendFile::~AppendFile() {
  if (fd_ >= 0) ::close(fd_);
}

void AppendFile::append(std::string_view bytes) {
  if (pending_.size() + bytes.size() <= kMaxPendingBytes) pending_ += bytes;
  size_t done = 0;
  while (done < pending_.size()) {
    const ssize_t n = ::write(fd_, pending_.data() + done, pending_.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    done += static_cast<size_t>(n);
  }
  pending_.erase(0, done);
}

AppendFile open_lines(const fs::path& path) {
  std::error_code error;
  if (fs::exists(path, error)) {
    const std::string text = read_file(path);
    const size_t whole = text.rfind('\n') == std::string::npos ? 0 : text.rfind('\n') + 1;
    if (whole != text.size()) fs::resize_file(path, whole, error);
  }
  if (error) fail(Exit::resource, "cannot-write", "{}: {}", path.string(), error.message());
  return AppendFile(path);
}

LinesUpTo lines_up_to(const fs::path& path, int64_t iteration, size_t header_lines,
                      const std::function<std::optional<double>(std::string_view line)>& iteration_of) {
  if (!fs::exists(path)) return {path, 0};
  const std::string text = read_file(path);
  const double limit = static_cast<double>(iteration);
  double last = -1.0;
  size_t kept = 0;
  for (size_t number = 1; kept < text.size(); ++number) {
    const size_t end = text.find('\n', kept);
    if (end == std::string::npos) break;  // torn
    const std::optional<double> got = iteration_of(std::string_view(text).substr(kept, end - kept));
    if (number > header_lines) {
      if (!got && last < limit && text.find('\n', end + 1) != std::string::npos)
        fail(Exit::resource, "corrupt-file", "{}:{}: not a report, and iteration {} comes after it", path.string(),
             number, iteration);
      if (!got || *got > limit) break;
      last = *got;
    }
    kept = end + 1;
  }
  return {path, kept};
}

void truncate_lines(const LinesUpTo& kept) {
  if (!fs::exists(kept.path)) return;
  const std::string text = read_file(kept.path);
  if (kept.bytes < text.size()) write_atomically(kept.path, std::string_view(text).substr(0, kept.bytes));
}

}  // namespace myriad
