#include "apps/driver/plugins.hpp"

#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <array>
#include <boost/json.hpp>
#include <cerrno>
#include <chrono>
#include <cstring>

#include "rl/algorithm_facts.hpp"
#include "rl/algorithm_info.hpp"
#include "rl/check.hpp"
#include "rl/child_call.hpp"
#include "rl/module_json.hpp"
#include "rl/module_plugin.hpp"
#include "rl/run_layout.hpp"
#include "rl/system.hpp"
#include "rl/wrappers.hpp"

namespace myriad {
namespace {

namespace json = boost::json;

constexpr std::chrono::seconds kPatience(60);  // to load libtorch, perhaps from a cold disk, and the library

/// A file in memory that reads `text` from its start.
int file_of(const std::string& text) {
  const int file = ::memfd_create("config", MFD_CLOEXEC);
  check(file >= 0 && ::write(file, text.data(), text.size()) == static_cast<ssize_t>(text.size()) &&
            ::lseek(file, 0, SEEK_SET) == 0,
        "memfd_create: {}", std::strerror(errno));
  return file;
}

/// What a learner answers to `question` about `library`, with `input` on its stdin (apps/learner/describe.hpp).
std::string ask_learner(const std::string& question, const std::string& library, const std::string& input) {
  const std::string program = program_directory() + "/myriad-learner";
  const std::array<char*, 4> argv{const_cast<char*>(program.c_str()), const_cast<char*>(question.c_str()),
                                  const_cast<char*>(library.c_str()), nullptr};
  const int file = file_of(input);
  int ends[2];
  check(::pipe2(ends, O_CLOEXEC) == 0, "pipe2: {}", std::strerror(errno));
  const pid_t child = ::fork();
  check(child >= 0, "fork: {}", std::strerror(errno));
  if (child == 0) {  // only async-signal-safe calls from here to exec
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    sigset_t none;
    ::sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
    ::dup2(file, STDIN_FILENO);
    ::dup2(ends[1], STDOUT_FILENO);
    ::execv(program.c_str(), argv.data());
    ::_exit(127);
  }
  ::close(file);
  ::close(ends[1]);
  const json::object object = answer_from(child, ends[0], library, kPatience);
  const auto* answer = object.if_contains("answer");
  if (answer == nullptr || !answer->is_string()) fail(Exit::environment, "plugin-broken", "{} gave no answer", library);
  return std::string(answer->as_string());
}

}  // namespace

Config load_user_config(std::string_view text, std::string_view name, const std::vector<std::string>& overrides) {
  const std::string library = plugin_path(algorithm_of(text, name, overrides));
  std::string facts;
  if (!library.empty()) {
    facts = ask_learner("--algorithm-facts", library, "");
    register_plugin_info(info_of(facts, library));
  }
  Config config = load_config(text, name, overrides);
  config.algorithm = find_algorithm(config.algorithm).id();
  config.rl_module.encoder = absolute_plugin(config.rl_module.encoder);
  for (std::string& wrapper : config.environment.wrappers) wrapper = absolute_plugin(wrapper);
  config.plugins = {.algorithm = facts, .module = "", .environment = ""};
  return config;
}

void ask_for_module(Config& config) {
  config.plugins.module.clear();
  if (const std::string library = plugin_path(config.algorithm); !library.empty())
    config.plugins.module = ask_learner("--module", library, to_toml(config));
  else if (config.rl_module.encoder.starts_with(kPluginPrefix))
    config.plugins.module = to_json(module_of(config, environment_spec(config)));
}

std::string training_obstacle(Config& config) {
  const std::string library = plugin_path(config.algorithm);
  try {
    (void)ask_learner("--trains", library.empty() ? "myriad-learner" : library, to_toml(config));
  } catch (const Error& error) { return error.what(); }
  return "";
}

}  // namespace myriad
