#include "apps/driver/new_project.hpp"

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <utility>
#include <vector>

#include "apps/driver/run_directory.hpp"
#include "rl/check.hpp"
#include "rl/shell_line.hpp"
#include "rl/system.hpp"

namespace myriad {
namespace fs = std::filesystem;
namespace {

fs::path templates() {
  for (const char* folder : {"/../../sdk/templates", "/../share/myriad/templates"})
    if (const fs::path path = program_directory() + folder; fs::exists(path)) return path;
  fail(Exit::resource, "cannot-read", "the templates of the SDK are not beside this program");
}

/// my_robot -> MyRobot
std::string class_name(const std::string& name) {
  std::string camel;
  bool upper = true;
  for (const char c : name) {
    if (c != '_') camel += upper ? static_cast<char>(std::toupper(static_cast<unsigned char>(c))) : c;
    upper = c == '_';
  }
  return camel;
}

std::string filled(std::string text, const std::map<std::string, std::string>& words) {
  for (const auto& [word, value] : words)
    for (size_t at = 0; (at = text.find(word, at)) != std::string::npos; at += value.size())
      text.replace(at, word.size(), value);
  return text;
}

/// Where a template's file goes: its path among the templates, its name in the folder.
using TemplateFiles = std::vector<std::pair<std::string, std::string>>;
using Words = std::map<std::string, std::string>;

/// command_name() for a shell in any folder.
std::string command_anywhere() {
  const std::string name = command_name();
  if (name != "myriad") return shell_line({fs::absolute(std::getenv("MYRIAD_COMMAND")).lexically_normal().string()});
  return shell_line({program_directory() + "/myriad"});
}

/// Writes `files` of the templates into ./NAME, with @NAME@, @CLASS@, @MYRIAD@ and `words` filled in. `example`: a good
/// name.
void write_project(const std::string& name, const std::string& example, const TemplateFiles& files, Words words) {
  const bool good =
      !name.empty() && std::islower(static_cast<unsigned char>(name[0])) &&
      std::ranges::all_of(name, [](unsigned char c) { return std::islower(c) || std::isdigit(c) || c == '_'; });
  if (!good)
    fail(Exit::usage, "bad-name", "{} cannot be the name here; want lower case, digits and _, as in {}", name, example);
  if (fs::exists(name)) fail(Exit::usage, "exists", "{} is there already", name);
  words.insert({{"@NAME@", name}, {"@CLASS@", class_name(name)}, {"@MYRIAD@", command_anywhere()}});
  const fs::path from = templates();
  fs::create_directories(name);
  for (const auto& [source, target] : files) {
    const fs::path path = fs::path(name) / target;
    std::ofstream(path) << filled(read_file(from / source), words);
    fs::permissions(path, fs::status(from / source).permissions());
  }
}

void say_what_is_next(const std::string& name, const std::string& language, const std::string& what) {
  fmt::print(
      "{0}/ holds {3} that works: {0}.{1}, to build with meson or CMake, a test, and train.toml\n"
      "next     cd {0} && meson setup build && ninja -C build && {2} train train.toml\n",
      name, language, command_name() == "myriad" ? "myriad" : command_anywhere(), what);
}

/// A library in C++20 against the program's own headers; `setting`: what of a config names it, as a word of sh with $1
/// for its path.
int new_library(const std::string& name, const std::string& kind, const std::string& setting, const std::string& what) {
  TemplateFiles files{{kind + "/NAME.cpp.in", name + ".cpp"}, {kind + "/train.toml", "train.toml"}};
  for (const char* file : {"meson.build", "CMakeLists.txt", "check.sh"})
    files.emplace_back(std::string("library/") + file, file);
  write_project(name, "my_" + kind, files, {{"@KIND@", kind}, {"@SETTING@", setting}});
  say_what_is_next(name, "cpp", what);
  return 0;
}

}  // namespace

int new_env(const std::string& name, const std::string& language) {
  const bool cpp = language == "cpp";
  TemplateFiles files{{language + "/NAME." + language + ".in", name + "." + language}};
  for (const char* file : {"meson.build", "CMakeLists.txt", "check.sh", "train.toml"}) files.emplace_back(file, file);
  write_project(name, "my_robot", files,
                {{"@ID@", class_name(name) + "-v0"},
                 {"@LANG@", language},
                 {"@EXT@", language},
                 {"@STD@", cpp ? ", 'cpp_std=c++17'" : ", 'c_std=c99'"},
                 {"@CMAKE_LANG@", cpp ? "CXX" : "C"},
                 {"@CMAKE_STD@", cpp ? "CXX_STANDARD 17" : "C_STANDARD 99"}});
  say_what_is_next(name, language, "an environment");
  return 0;
}

int new_algorithm(const std::string& name) {
  return new_library(name, "algorithm", "algorithm=plugin:$1", "an algorithm");
}
int new_module(const std::string& name) {
  return new_library(name, "module", "rl_module.encoder=plugin:$1", "a network");
}
int new_wrapper(const std::string& name) {
  return new_library(name, "wrapper", R"(environment.wrappers=[\"plugin:$1\"])", "a wrapper");
}

}  // namespace myriad
