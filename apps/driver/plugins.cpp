#include "apps/driver/plugins.hpp"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <boost/json.hpp>
#include <cstring>
#include <optional>

#include "rl/algorithm_facts.hpp"
#include "rl/algorithm_info.hpp"
#include "rl/check.hpp"
#include "rl/module_json.hpp"
#include "rl/module_plugin.hpp"
#include "rl/run_layout.hpp"
#include "rl/system.hpp"
#include "rl/wrappers.hpp"

namespace myriad {
namespace {

namespace json = boost::json;

constexpr int kPatienceMs = 60'000;  // to load libtorch, perhaps from a cold disk, and the library

/// Until the other end closes; nullopt when nothing comes for kPatienceMs.
std::optional<std::string> read_all(int fd) {
  std::string text;
  for (std::array<char, 4096> part;;) {
    pollfd wait{fd, POLLIN, 0};
    const int ready = ::poll(&wait, 1, kPatienceMs);
    if (ready < 0 && errno == EINTR) continue;
    if (ready == 0) return std::nullopt;
    const ssize_t got = ::read(fd, part.data(), part.size());
    if (got <= 0) return text;
    text.append(part.data(), static_cast<size_t>(got));
  }
}

/// A file in memory that reads `text` from its start.
int file_of(const std::string& text) {
  const int file = ::memfd_create("config", MFD_CLOEXEC);
  check(file >= 0 && ::write(file, text.data(), text.size()) == static_cast<ssize_t>(text.size()) &&
            ::lseek(file, 0, SEEK_SET) == 0,
        "memfd_create: {}", std::strerror(errno));
  return file;
}

/// What a learner answers to these arguments and this input; `library` is for messages.
std::string ask_learner(const std::vector<std::string>& arguments, const std::string& input,
                        const std::string& library) {
  const std::string program = program_directory() + "/myriad-learner";
  std::vector<char*> argv{const_cast<char*>(program.c_str())};
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
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
  const std::optional<std::string> text = read_all(ends[0]);
  ::close(ends[0]);
  ::kill(child, SIGKILL);
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {}
  boost::system::error_code malformed;
  const json::value value = json::parse(text.value_or(""), malformed);
  const json::object* object = value.if_object();
  if (malformed || object == nullptr)
    fail(Exit::environment, "plugin-broken", "{} {} while it was loaded", library,
         !text                 ? fmt::format("gave no answer for {} s", kPatienceMs / 1000)
         : WIFSIGNALED(status) ? fmt::format("ended with {}", ::strsignal(WTERMSIG(status)))
                               : fmt::format("ended with exit status {}", WEXITSTATUS(status)));
  if (const auto* error = object->if_contains("error"))
    throw Error(static_cast<Exit>(object->at("exit").as_int64()), std::string(object->at("code").as_string()),
                std::string(error->as_string()));
  return std::string(object->at("answer").as_string());
}

}  // namespace

Config load_user_config(std::string_view text, std::string_view name, const std::vector<std::string>& overrides) {
  const std::string library = plugin_path(algorithm_of(text, name, overrides));
  std::string facts;
  if (!library.empty()) {
    facts = ask_learner({"--algorithm-facts", library}, "", library);
    register_plugin_info(info_of(facts, library));
  }
  Config config = load_config(text, name, overrides);
  config.algorithm = find_algorithm(config.algorithm).id();
  config.rl_module.encoder = absolute_encoder(config.rl_module.encoder);
  config.plugins = {.algorithm = facts, .module = ""};
  return config;
}

void ask_for_module(Config& config) {
  config.plugins.module.clear();
  if (const std::string library = plugin_path(config.algorithm); !library.empty())
    config.plugins.module = ask_learner({"--module"}, to_toml(config), library);
  else if (config.rl_module.encoder.starts_with(kPluginPrefix))
    config.plugins.module = to_json(module_of(config, environment_spec(config)));
}

}  // namespace myriad
