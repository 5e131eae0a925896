#include "rl/environment.hpp"

#include <dlfcn.h>

#include <algorithm>
#include <filesystem>
#include <set>

#include "rl/check.hpp"
#include "rl/env_context.hpp"
#include "rl/system.hpp"

namespace myriad {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kModulePrefix = "libmyriad_sims_";
constexpr std::string_view kModuleSuffix = ".so";

/// Where modules lie: beside the program, where they are installed, and in a build tree (build/apps, build/tests/rl).
std::vector<fs::path> module_folders() {
  const fs::path program = program_directory();
  return {program, program / "../lib/myriad", program / "../sims", program / "../../sims"};
}

/// The modules of all folders, sorted; of two with one name the first folder's counts.
std::vector<fs::path> module_files() {
  std::vector<fs::path> files;
  std::set<std::string> names;
  for (const fs::path& folder : module_folders()) {
    std::vector<fs::path> here;
    std::error_code missing;  // a folder which is not there holds no modules
    for (const auto& entry : fs::directory_iterator(folder, missing)) {
      const std::string name = entry.path().filename().string();
      if (name.starts_with(kModulePrefix) && name.ends_with(kModuleSuffix) && names.insert(name).second)
        here.push_back(fs::weakly_canonical(entry.path()));
    }
    std::sort(here.begin(), here.end());
    files.insert(files.end(), here.begin(), here.end());
  }
  return files;
}

template <class Map>
std::vector<std::string> keys_of(const Map& map) {
  std::vector<std::string> keys;
  for (const auto& [key, value] : map) keys.push_back(key);
  return keys;
}

EnvOptions merged_options(const EnvSpec& spec, const EnvOptions& options) {
  EnvOptions merged = spec.options;
  for (const auto& [name, value] : options) {
    const auto known = merged.find(name);
    if (known == merged.end())
      fail(Exit::usage, "unknown-env-option", "{} has no option {}{}", spec.id, name,
           suggestion(name, keys_of(spec.options)));
    known->second = value;
  }
  return merged;
}

}  // namespace

void Environment::set_state(std::span<const double> state, Row) {
  fail(Exit::usage, "no-env-state", "this environment cannot restore a state (of {} values)", state.size());
}

EnvRegistry& EnvRegistry::instance() {
  static EnvRegistry registry;
  return registry;
}

void EnvRegistry::add(EnvSpec spec) {
  check(!specs_.contains(spec.id), "environment {} is registered twice", spec.id);
  check(static_cast<bool>(spec.make), "environment {} has no make function", spec.id);
  const std::string id = spec.id;
  specs_.emplace(id, std::move(spec));
}

void EnvRegistry::add(EnvPrefix prefix) {
  check(!prefixes_.contains(prefix.prefix), "the prefix {}: is registered twice", prefix.prefix);
  const std::string name = prefix.prefix;
  prefixes_.emplace(name, std::move(prefix));
}

const EnvPrefix* EnvRegistry::prefix_of(const std::string& id) {
  const size_t colon = id.find(':');
  if (colon == std::string::npos) return nullptr;
  const std::string name = id.substr(0, colon);
  if (!prefixes_.contains(name)) load_modules();
  const auto found = prefixes_.find(name);
  if (found == prefixes_.end())
    fail(Exit::usage, "unknown-env", "there is no environment {}: no prefix {}:{}", id, name,
         suggestion(name, keys_of(prefixes_)));
  return &found->second;
}

std::string EnvRegistry::absolute(const std::string& id) {
  const EnvPrefix* prefix = prefix_of(id);
  if (prefix == nullptr || !prefix->names_file) return id;
  const fs::path path = fs::absolute(id.substr(prefix->prefix.size() + 1)).lexically_normal();
  return fmt::format("{}:{}", prefix->prefix, path.string());
}

const EnvSpec& EnvRegistry::find(const std::string& id) { return find(id, {}); }

const EnvSpec& EnvRegistry::find(const std::string& id, const EnvContext& context) {
  if (!specs_.contains(id)) {
    if (const EnvPrefix* prefix = prefix_of(id)) {
      const std::string whole = absolute(id);
      EnvSpec spec = prefix->make_spec(whole.substr(prefix->prefix.size() + 1), context);
      spec.id = id;
      add(std::move(spec));
    } else {
      load_modules();
    }
  }
  const auto found = specs_.find(id);
  if (found == specs_.end())
    fail(Exit::usage, "unknown-env", "there is no environment {}{}", id, suggestion(id, keys_of(specs_)));
  return found->second;
}

std::vector<const EnvSpec*> EnvRegistry::all() {
  load_modules();
  std::vector<const EnvSpec*> specs;
  for (const auto& [id, spec] : specs_) specs.push_back(&spec);
  return specs;
}

void EnvRegistry::load_modules() {
  if (modules_loaded_) return;
  for (const fs::path& file : module_files()) {
    // A module stays open: its code makes environments until the program ends.
    if (dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL) == nullptr)
      fail(Exit::environment, "sims-module", "the module {} cannot be loaded: {}", file.string(), dlerror());
  }
  modules_loaded_ = true;
}

std::unique_ptr<Environment> make_environment(const EnvSpec& spec, const EnvOptions& options,
                                              const EnvContext& context) {
  return spec.make(merged_options(spec, options), context);
}
std::unique_ptr<Environment> make_environment(const EnvSpec& spec, const EnvOptions& options) {
  return make_environment(spec, options, {});
}

void check_state_length(std::string_view id, size_t got, size_t want) {
  if (got != want) [[unlikely]]
    fail(Exit::usage, "env-state-length", "a state of {} has {} values, want {}", id, got, want);
}

EnvSpec configured_spec(const EnvSpec& spec, const EnvOptions& options) { return configured_spec(spec, options, {}); }

EnvSpec configured_spec(const EnvSpec& spec, const EnvOptions& options, const EnvContext& context) {
  EnvSpec configured = spec;
  configured.options = merged_options(spec, options);
  if (configured.configure && configured.options != spec.options) configured.configure(configured, context);
  return configured;
}

}  // namespace myriad
