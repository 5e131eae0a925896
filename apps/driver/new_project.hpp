// `myriad new-env NAME`, `new-algorithm NAME`, `new-module NAME`, `new-wrapper NAME`: a folder with something to start
// from that works: source, meson and CMake files, a test, a config.
#pragma once

#include <string>

namespace myriad {

// Each writes ./NAME, prints what is in it and returns 0. Throws Error("bad-name" | "exists" | "cannot-read").

int new_env(const std::string& name, const std::string& language);  ///< "c" or "cpp"
int new_algorithm(const std::string& name);
int new_module(const std::string& name);
int new_wrapper(const std::string& name);

}  // namespace myriad
