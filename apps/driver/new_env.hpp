// `myriad new-env NAME`: a folder with an environment to start from: source, meson and CMake files, a test, a config.
#pragma once

#include <string>

namespace myriad {

/// Writes it into ./NAME; `language` is "c" or "cpp". Throws Error("bad-name" | "exists" | "cannot-write").
int new_env(const std::string& name, const std::string& language);

}  // namespace myriad
