#include "rl/plugin_build.hpp"

#include <dlfcn.h>

#include <algorithm>
#include <cstring>
#include <filesystem>

#include "rl/algorithm_info.hpp"
#include "rl/check.hpp"

namespace myriad {
namespace {

std::string text_of(const PluginBuild& build) {
  return fmt::format("Myriad {} (headers {}), {}, {}{}{}", build.version, build.headers, build.compiler, build.library,
                     build.torch[0] == '\0' ? "" : ", torch ", build.torch);
}

}  // namespace

void check_build(const std::string& path, const PluginBuild& got, const PluginBuild& want) {
  const auto same = [](const char* a, const char* b) { return std::strcmp(a, b) == 0; };
  if (same(got.headers, want.headers) && same(got.library, want.library) && same(got.torch, want.torch)) return;
  fail(Exit::environment, "plugin-abi",
       "{} was built with {}; this program with {}: install this program's SDK (myriad install-sdk) and build it again",
       path, text_of(got), text_of(want));
}

std::pair<std::string, std::string> plugin_parts(std::string_view plugin) {
  if (!plugin.starts_with(kPluginPrefix)) return {};
  const size_t colon = plugin.rfind(':');
  if (colon < kPluginPrefix.size() || plugin.find('/', colon) != std::string_view::npos)
    return {plugin_path(plugin), ""};
  return {plugin_path(plugin.substr(0, colon)), std::string(plugin.substr(colon + 1))};
}

std::string absolute_plugin(const std::string& plugin) {
  const auto [path, name] = plugin_parts(plugin);
  return path.empty() ? plugin : fmt::format("{}{}{}{}", kPluginPrefix, path, name.empty() ? "" : ":", name);
}

const void* plugin_table(const std::string& path, const char* entry, const char* docs) {
  if (!std::filesystem::exists(path)) fail(Exit::usage, "no-plugin", "there is no file {}", path);
  void* library = ::dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr)
    fail(Exit::environment, "no-plugin", "{} cannot be loaded: {}; see {}", path, ::dlerror(), docs);
  const auto function = reinterpret_cast<const void* (*)()>(::dlsym(library, entry));
  if (function == nullptr) fail(Exit::environment, "no-plugin", "{} has no {}(); see {}", path, entry, docs);
  const void* table = function();
  if (table == nullptr) fail(Exit::environment, "plugin-broken", "{}() of {} returned a null pointer", entry, path);
  return table;
}

size_t find_entry(const std::string& path, const std::string& name, const std::vector<std::string>& known,
                  std::string_view what, std::string_view setting) {
  if (name.empty() && known.size() == 1) return 0;
  if (name.empty())
    fail(Exit::usage, "out-of-range", "{} has {} {}s: want {} with one of {}", path, known.size(), what, setting,
         fmt::join(known, ", "));
  const auto found = std::ranges::find(known, name);
  if (found == known.end())
    fail(Exit::usage, "out-of-range", "{} has no {} {}{}", path, what, name, suggestion(name, known));
  return static_cast<size_t>(found - known.begin());
}

}  // namespace myriad
