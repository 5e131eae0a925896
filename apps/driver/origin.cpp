#include "apps/driver/origin.hpp"

#include <algorithm>
#include <boost/json.hpp>
#include <cstdlib>
#include <iostream>
#include <sstream>
#include <utility>

#include "apps/driver/run_directory.hpp"
#include "rl/algorithm_info.hpp"
#include "rl/check.hpp"
#include "rl/hash.hpp"
#include "rl/plugin_build.hpp"

namespace myriad {
namespace fs = std::filesystem;
namespace json = boost::json;
namespace {

constexpr const char* kFile = "origin.json";
constexpr std::string_view kProcess = "process:";
constexpr uintmax_t kLargestScript = 1 << 20;  // bytes; a larger word of a command is an interpreter

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

/// The folders of a search path, absolute.
std::vector<std::string> folders_of(const std::string& path) {
  std::vector<std::string> folders;
  std::istringstream parts(path);
  for (std::string part; std::getline(parts, part, ':');)
    if (!part.empty()) folders.push_back(fs::absolute(part).lexically_normal().string());
  return folders;
}

bool is_text(const fs::path& file) {
  const std::string ending = file.extension().string();
  return ending == ".toml" || ending == ".xml" || ending == ".urdf";
}

/// `file` and, of a task or model, the files that it names within quotes: beside it, or in a folder that it names.
void add_with_parts(const fs::path& file, std::vector<fs::path>& files) {
  std::error_code error;
  const fs::path real = fs::canonical(file, error);
  if (error || std::ranges::find(files, real) != files.end()) return;
  files.push_back(real);
  if (!is_text(real)) return;
  const std::string text = read_file(real);
  std::vector<std::string> quoted;
  for (size_t at = text.find('"'); at != std::string::npos; at = text.find('"', at + 1)) {
    const size_t end = text.find('"', at + 1);
    if (end == std::string::npos) break;
    if (end > at + 1 && end - at < 512) quoted.push_back(text.substr(at + 1, end - at - 1));
    at = end;
  }
  std::vector<fs::path> folders{real.parent_path()};
  for (const std::string& word : quoted)
    if (const fs::path folder = real.parent_path() / word; fs::is_directory(folder, error)) folders.push_back(folder);
  for (const std::string& word : quoted)
    for (const fs::path& folder : folders)
      if (fs::is_regular_file(folder / word, error)) add_with_parts(folder / word, files);
}

uint64_t hash_of(const fs::path& file, uint64_t before) {
  const std::string bytes = read_file(file);
  return fnv1a(fmt::format("{:016x}", hash64(std::as_bytes(std::span(bytes)))), before);
}

/// The absolute path in "PREFIX:/PATH[#NAME][?options]"; "" for an environment that names none.
std::string file_in(const std::string& env) {
  const size_t colon = env.find(':');
  if (colon == std::string::npos || env.starts_with(kProcess) || env.starts_with("connect:")) return "";
  const std::string path = env.substr(colon + 1);
  return path.starts_with('/') ? path : "";
}

/// The same without NAME and options; "" where there is no such file.
std::string file_of(const std::string& env) {
  std::string path = file_in(env);
  std::error_code error;
  while (!path.empty() && !fs::is_regular_file(path, error)) {
    const size_t cut = path.find_last_of(":?#");
    path.resize(cut == std::string::npos ? 0 : cut);
  }
  return path;
}

/// Relative paths are looked up in the folder of `origin` from here on; with `named_here`, in this one, which becomes
/// the origin's.
void enter(Origin& origin, bool named_here) {
  std::vector<std::string> all = folders_of(variable("PYTHONPATH"));  // what is set now comes first
  for (const std::string& before : folders_of(origin.python_path))
    if (std::ranges::find(all, before) == all.end()) all.push_back(before);
  origin.python_path = fmt::format("{}", fmt::join(all, ":"));
  if (origin.python_path != variable("PYTHONPATH")) ::setenv("PYTHONPATH", origin.python_path.c_str(), 1);
  if (const std::string now = variable("MYRIAD_PYTHON"); !now.empty())
    origin.python = now;
  else if (!origin.python.empty())
    ::setenv("MYRIAD_PYTHON", origin.python.c_str(), 1);
  std::error_code error;
  if (named_here || origin.folder.empty())
    origin.folder = fs::current_path(error).string();
  else
    fs::current_path(origin.folder, error);
  if (error)
    std::cerr << fmt::format("note: the run was begun in {}: {}; its relative paths are looked up in this folder\n",
                             origin.folder, error.message());
}

/// The files among the words of a shell's command, with or without quotes.
std::vector<fs::path> files_of_command(std::string command) {
  std::ranges::replace_if(
      command, [](char c) { return c == '"' || c == '\''; }, ' ');
  std::vector<fs::path> files;
  std::istringstream words(command);
  for (std::string word; words >> word;) {
    std::error_code error;
    if (fs::is_regular_file(word, error) && fs::file_size(word, error) <= kLargestScript && !error)
      files.emplace_back(word);
  }
  return files;
}

}  // namespace

Origin Origin::here(const Config& config) {
  std::error_code error;
  return {.folder = fs::current_path(error).string(),
          .python_path = fmt::format("{}", fmt::join(folders_of(variable("PYTHONPATH")), ":")),
          .python = variable("MYRIAD_PYTHON"),
          .hashes = hashes_of(config)};
}

Origin Origin::of_run(const fs::path& run) {
  Origin origin;
  if (!fs::exists(run / kFile)) return origin;
  try {
    const json::object object = json::parse(read_file(run / kFile)).as_object();
    const auto text = [&](const char* key) { return std::string(object.at(key).as_string()); };
    origin = {.folder = text("folder"), .python_path = text("PYTHONPATH"), .python = text("MYRIAD_PYTHON")};
    for (const auto& [setting, hash] : object.at("hashes").as_object())
      origin.hashes[setting] = std::string(hash.as_string());
  } catch (const std::exception& error) {
    fail(Exit::resource, "corrupt-file", "{}: {}", (run / kFile).string(), error.what());
  }
  return origin;
}

void Origin::save(const fs::path& run) const {
  std::string lines;
  for (const auto& [setting, hash] : hashes)
    lines += fmt::format("{}\n    {}: {}", lines.empty() ? "" : ",", json_string(setting), json_string(hash));
  write_atomically(
      run / kFile,
      fmt::format("{{\n  \"folder\": {},\n  \"PYTHONPATH\": {},\n  \"MYRIAD_PYTHON\": {},\n  \"hashes\": {{{}}}\n}}\n",
                  json_string(folder), json_string(python_path), json_string(python), lines));
}

std::map<std::string, std::string> hashes_of(const Config& config) {
  std::map<std::string, std::string> hashes;
  const auto add = [&](const char* setting, const std::vector<fs::path>& named) {
    std::vector<fs::path> files;
    for (const fs::path& file : named)
      if (!file.empty()) add_with_parts(file, files);
    uint64_t hash = 0;
    for (const fs::path& file : files) hash = hash_of(file, hash);
    if (!files.empty()) hashes[setting] = fmt::format("{:016x}", hash);
  };
  const std::string& env = config.environment.env;
  add("environment.env",
      env.starts_with(kProcess) ? files_of_command(env.substr(kProcess.size())) : std::vector<fs::path>{file_of(env)});
  std::vector<fs::path> wrappers;
  for (const std::string& wrapper : config.environment.wrappers) wrappers.emplace_back(plugin_parts(wrapper).first);
  add("environment.wrappers", wrappers);
  add("algorithm", {plugin_path(config.algorithm)});
  add("rl_module.encoder", {plugin_parts(config.rl_module.encoder).first});
  return hashes;
}

Revisited revisit(const fs::path& run, Config& config, const std::vector<std::string>& overrides) {
  Revisited result{.origin = Origin::of_run(run)};
  const std::map<std::string, std::string> before = std::exchange(result.origin.hashes, {});
  std::string& env = config.environment.env;
  const bool overridden = std::ranges::any_of(
      overrides, [](const std::string& override) { return override.starts_with("environment.env="); });
  if (overridden && !file_in(env).empty() && file_of(env).empty()) {
    const fs::path typed = fs::path(file_in(env)).lexically_relative(fs::current_path());
    const std::string there =
        env.substr(0, env.find(':') + 1) + (result.origin.folder / typed).lexically_normal().string();
    if (!file_of(there).empty()) env = there;
  }
  const bool named_here =
      overridden && env.starts_with(kProcess) && !files_of_command(env.substr(kProcess.size())).empty();
  enter(result.origin, named_here);
  if (const std::string path = file_in(env); !path.empty() && file_of(env).empty())
    fail(Exit::usage, "no-file", "{} of {} is not there any more; say where it is: environment.env={}NEW/PLACE/{}",
         path, as_typed(run), env.substr(0, env.find(':') + 1), fs::path(path).filename().string());
  result.origin.hashes = hashes_of(config);
  for (const auto& [setting, hash] : before) {
    const auto now = result.origin.hashes.find(setting);
    if (now == result.origin.hashes.end()) continue;
    (now->second == hash ? result.same : result.changed).push_back(setting);
    if (now->second != hash)
      std::cerr << fmt::format("warning[changed-files] what {} names is not what {} was trained with\n", setting,
                               as_typed(run));
  }
  return result;
}

}  // namespace myriad
