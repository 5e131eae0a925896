#include "rl/private_folder.hpp"

#include <stdlib.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <utility>

#include "rl/check.hpp"

namespace myriad {
namespace fs = std::filesystem;

std::string temporary_directory(size_t max_bytes) {
  const char* const chosen = std::getenv("TMPDIR");
  std::error_code none;
  const std::string here = fs::current_path(none).string();
  for (const std::string& folder : {std::string(chosen == nullptr ? "" : chosen), std::string("/tmp"),
                                    std::string("/var/tmp"), std::string("/dev/shm"), here}) {
    std::error_code missing;
    const std::string path = folder.empty() ? "" : fs::absolute(folder, missing).lexically_normal().string();
    if (path.empty() || path.size() > max_bytes || !fs::is_directory(path, missing)) continue;
    if (::access(path.c_str(), W_OK | X_OK) != 0) continue;
    static bool told = false;
    if (chosen != nullptr && folder != chosen && !std::exchange(told, true))
      std::fprintf(stderr, "TMPDIR, %s, cannot be written to or is too long for a socket's path: %s is used\n", chosen,
                   path.c_str());
    return path;
  }
  fail(Exit::resource, "no-temporary-folder",
       "none of TMPDIR ({}), /tmp, /var/tmp, /dev/shm and the current folder can be written to{}; set TMPDIR to a "
       "folder of yours",
       chosen == nullptr ? "not set" : chosen,
       max_bytes < 4096 ? fmt::format(" and has a path of at most {} characters", max_bytes) : "");
}

PrivateFolder::PrivateFolder(const std::string& parent)
    : path_(fmt::format("{}/myriad-{}-XXXXXX", parent, ::getuid())) {
  if (::mkdtemp(path_.data()) == nullptr)
    fail(Exit::resource, "no-temporary-folder", "cannot make {}: {}", path_, std::strerror(errno));
}

PrivateFolder::~PrivateFolder() {
  std::error_code ignored;
  if (!path_.empty()) fs::remove_all(path_, ignored);
}

PrivateFolder::PrivateFolder(PrivateFolder&& other) noexcept : path_(std::exchange(other.path_, {})) {}
PrivateFolder& PrivateFolder::operator=(PrivateFolder&& other) noexcept {
  std::swap(path_, other.path_);
  return *this;
}

}  // namespace myriad
