#include "apps/driver/join.hpp"

#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <vector>

#include "rl/check.hpp"
#include "rl/system.hpp"

namespace myriad {
namespace fs = std::filesystem;
namespace {

/// The name of the one agent whose key lies in `directory`.
std::string only_agent_key(const std::string& directory) {
  std::vector<std::string> names;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(directory, error))
    if (entry.path().extension() == ".key" && entry.path().stem().string().starts_with("agent-"))
      names.push_back(entry.path().stem().string());
  std::sort(names.begin(), names.end());
  if (error) fail(Exit::usage, "no-keys", "{}: {}", directory, error.message());
  if (names.empty()) fail(Exit::usage, "no-keys", "{} holds no agent-K.key; make one with `myriad keys`", directory);
  if (names.size() > 1)
    fail(Exit::usage, "which-key", "{} holds the keys of {}; say which one is this host's: --key {}", directory,
         fmt::join(names, ", "), names.front());
  return names.front();
}

}  // namespace

void join(const JoinOptions& options) {
  const std::string program = program_directory() + "/myriad-host-agent";
  std::vector<std::string> words{program,
                                 "--control",
                                 options.endpoint,
                                 "--run",
                                 std::to_string(options.run),
                                 "--parent",
                                 "0",
                                 "--agent",
                                 std::to_string(UINT32_MAX),
                                 "--incarnation",
                                 "0"};
  if (!options.keys.empty()) {
    const std::string name = options.key_name.empty() ? only_agent_key(options.keys) : options.key_name;
    words.insert(words.end(), {"--keys", fs::absolute(options.keys).lexically_normal().string(), "--key", name});
  }
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  ::execv(program.c_str(), argv.data());
  fail(Exit::resource, "spawn-failed", "cannot start {}: {}", program, std::strerror(errno));
}

}  // namespace myriad
