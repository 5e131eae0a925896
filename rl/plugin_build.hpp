// PluginBuild: what a plugin in C++ was built with. Its classes are the program's only where both saw the same headers.
#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "plugin_interface_generated.h"

namespace myriad {

/// C strings alone, in this order for good: a plugin of any version can be asked.
struct PluginBuild {
  const char* headers;   ///< digest of every header of Myriad that it includes
  const char* version;   ///< of Myriad
  const char* compiler;  ///< for the message alone: compilers of one ABI mix
  const char* library;   ///< the standard library's ABI
  const char* torch;     ///< "" without
};

#if defined(__clang__)
#define MYRIAD_PLUGIN_COMPILER __VERSION__
#else
#define MYRIAD_PLUGIN_COMPILER "g++ " __VERSION__
#endif
#if defined(_GLIBCXX_USE_CXX11_ABI) && _GLIBCXX_USE_CXX11_ABI
#define MYRIAD_PLUGIN_LIBRARY "libstdc++ (C++11 ABI)"
#elif defined(_GLIBCXX_USE_CXX11_ABI)
#define MYRIAD_PLUGIN_LIBRARY "libstdc++ (old ABI)"
#else
#define MYRIAD_PLUGIN_LIBRARY "another library than libstdc++"
#endif
/// In the translation unit that is compiled: not a variable, which the loader could take from the program instead.
#define MYRIAD_PLUGIN_BUILD(TORCH)                                                                     \
  ::myriad::PluginBuild {                                                                              \
    MYRIAD_PLUGIN_HEADERS, MYRIAD_PLUGIN_VERSION, MYRIAD_PLUGIN_COMPILER, MYRIAD_PLUGIN_LIBRARY, TORCH \
  }

/// Throws Error("plugin-abi") with both builds, unless the classes of a plugin built with `got` are those of `want`.
void check_build(const std::string& path, const PluginBuild& got, const PluginBuild& want);

/// PATH, made absolute, and NAME of "plugin:PATH[:NAME]"; without a name "". Both "" for what is no plugin.
std::pair<std::string, std::string> plugin_parts(std::string_view plugin);

/// "plugin:PATH[:NAME]" with the path absolute; anything else as it is.
std::string absolute_plugin(const std::string& plugin);

/// The table that function `entry` of the library gives; the library stays open. Throws Error("no-plugin" |
/// "plugin-broken"), naming file, entry and `docs`.
const void* plugin_table(const std::string& path, const char* entry, const char* docs);

/// Which of the library's entries, whose names are `known`, NAME of plugin_parts() means: without a name its only one.
/// `what`: they are ("network"); `setting`: where one is asked for. Throws Error("out-of-range").
size_t find_entry(const std::string& path, const std::string& name, const std::vector<std::string>& known,
                  std::string_view what, std::string_view setting);

}  // namespace myriad
