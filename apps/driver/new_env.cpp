#include "apps/driver/new_env.hpp"

#include <algorithm>
#include <cctype>
#include <filesystem>
#include <fstream>
#include <map>

#include "apps/driver/run_directory.hpp"
#include "rl/check.hpp"
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

}  // namespace

int new_env(const std::string& name, const std::string& language) {
  const bool good =
      !name.empty() && std::islower(static_cast<unsigned char>(name[0])) &&
      std::ranges::all_of(name, [](unsigned char c) { return std::islower(c) || std::isdigit(c) || c == '_'; });
  if (!good) fail(Exit::usage, "bad-name", "{} is no name for an environment; want lower case, as in my_robot", name);
  if (fs::exists(name)) fail(Exit::usage, "exists", "{} is there already", name);
  const bool cpp = language == "cpp";
  const std::map<std::string, std::string> words{{"@NAME@", name},
                                                 {"@CLASS@", class_name(name)},
                                                 {"@ID@", class_name(name) + "-v0"},
                                                 {"@LANG@", language},
                                                 {"@EXT@", language},
                                                 {"@STD@", cpp ? ", 'cpp_std=c++17'" : ", 'c_std=c99'"},
                                                 {"@CMAKE_LANG@", cpp ? "CXX" : "C"},
                                                 {"@CMAKE_STD@", cpp ? "CXX_STANDARD 17" : "C_STANDARD 99"}};
  const fs::path from = templates();
  fs::create_directories(name);
  const auto write = [&](const fs::path& source, const std::string& target) {
    const fs::path path = fs::path(name) / target;
    std::ofstream(path) << filled(read_file(source), words);
    fs::permissions(path, fs::status(source).permissions());
  };
  write(from / language / ("NAME." + language + ".in"), name + "." + language);
  for (const char* file : {"meson.build", "CMakeLists.txt", "check.sh", "train.toml"}) write(from / file, file);
  fmt::print(
      "{0}/ holds an environment that works: {0}.{1}, to build with meson or CMake, a test, and train.toml\n"
      "next     cd {0} && meson setup build && ninja -C build && {2} train train.toml\n",
      name, language, command_name());
  return 0;
}

}  // namespace myriad
