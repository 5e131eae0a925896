// AppendFile: a file of lines or records that only grows, and the lines of one that a run has to take back.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

namespace myriad {

/// What a full disk refuses is kept and written first once there is room, byte for byte in order.
class AppendFile {
 public:
  static constexpr size_t kMaxPendingBytes = size_t{64} << 20;  ///< beyond this new bytes are lost, not the run

  /// Creates the file or appends to it. Throws Error("cannot-write").
  explicit AppendFile(const std::filesystem::path& path);
  AppendFile(AppendFile&& other) noexcept;
  AppendFile& operator=(AppendFile&& other) noexcept;
  ~AppendFile();

  void append(std::string_view bytes);
  bool behind() const { return !pending_.empty(); }  ///< the disk does not take what was written

 private:
  int fd_;
  std::string pending_;
};

/// A file of lines, for appending: what follows the last line's end was torn by a crash and is cut off. Throws
/// Error("cannot-write").
AppendFile open_lines(const std::filesystem::path& path);

/// The front of a file of lines.
struct LinesUpTo {
  std::filesystem::path path;
  size_t bytes = 0;
};

/// The lines from the front for as long as `iteration_of(line)` is at most `iteration`, and the first `header_lines`.
/// Throws Error("corrupt-file") when a line before that, of which `iteration_of` gives nothing, is followed by others.
LinesUpTo lines_up_to(const std::filesystem::path& path, int64_t iteration, size_t header_lines,
                      const std::function<std::optional<double>(std::string_view line)>& iteration_of);

/// Cuts off what comes after them, atomically. A missing file is left so.
void truncate_lines(const LinesUpTo& kept);

}  // namespace myriad
