// PrivateFolder: a folder of this user's own (mode 700) for as long as it is needed.
#pragma once

#include <string>
#include <utility>

namespace myriad {

/// Where temporary files may be made: TMPDIR, or the first of /tmp, /var/tmp, /dev/shm and the current folder, where
/// that is missing, read-only or longer than `max_bytes`: a socket's path has little room. Throws
/// Error("no-temporary-folder").
std::string temporary_directory(size_t max_bytes = 4096);

class PrivateFolder {
 public:
  /// Makes one in `parent`. Throws Error("no-temporary-folder").
  explicit PrivateFolder(const std::string& parent);
  /// Removes it with all that is in it.
  ~PrivateFolder();
  PrivateFolder(PrivateFolder&& other) noexcept;
  PrivateFolder& operator=(PrivateFolder&& other) noexcept;

  const std::string& path() const { return path_; }
  /// Leaves it to another to remove; its path.
  std::string release() { return std::exchange(path_, {}); }

 private:
  std::string path_;
};

}  // namespace myriad
