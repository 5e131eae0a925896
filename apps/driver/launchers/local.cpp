#include "apps/driver/launchers/local.hpp"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "apps/child.hpp"
#include "apps/driver/janitor.hpp"
#include "rl/check.hpp"

namespace myriad {
namespace fs = std::filesystem;
namespace {

constexpr uintmax_t kLastBytes = 16 << 10;  // of a log, to find the last lines in
constexpr size_t kLastLines = 20;
constexpr int kDrained = 75;  // exit status of an agent that was told to leave, and has (sysexits.h: EX_TEMPFAIL)

}  // namespace

LocalLauncher::LocalLauncher(Janitor& janitor, std::string programs)
    : janitor_(janitor), programs_(std::move(programs)) {}

LocalLauncher::~LocalLauncher() {
  kill_all();
  for (const auto& [pid, child] : running_) {
    ::waitpid(pid, nullptr, 0);
    child.log.remove_if_empty();
  }
}

void LocalLauncher::begin(const RunAddress& run, const std::string& log_directory) {
  run_ = run;
  log_directory_ = log_directory;
  janitor_.name_run(fmt::format("{:016x}", run.run));
}

std::vector<std::string> LocalLauncher::arguments_of(const RunProcess& process) const {
  std::vector<std::string> arguments{
      "--control", run_.control, "--run", std::to_string(run_.run), "--parent", std::to_string(::getpid())};
  if (!run_.keys.empty()) arguments.insert(arguments.end(), {"--keys", run_.keys});
  arguments.insert(arguments.end(),
                   {process.role == RunProcess::Role::agent ? "--agent" : "--shard", std::to_string(process.index),
                    "--incarnation", std::to_string(process.incarnation)});
  return arguments;
}

void LocalLauncher::start(const RunProcess& process) {
  const bool is_agent = process.role == RunProcess::Role::agent;
  const std::string program = is_agent ? "myriad-host-agent" : "myriad-learner", path = programs_ + "/" + program;
  const std::vector<std::string> arguments = arguments_of(process);
  std::vector<char*> argv{const_cast<char*>(path.c_str())};
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);

  fs::create_directories(log_directory_);
  Log log{log_directory_ + (is_agent ? fmt::format("/host-agent-{:04}.txt", process.index) : "/learner.txt"), 0};
  const int output = ::open(log.path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (output < 0) fail(Exit::resource, "no-log", "cannot open {}: {}", log.path, std::strerror(errno));
  std::error_code ignored;
  log.begin = fs::file_size(log.path, ignored);
  const int pid = ::fork();
  if (pid < 0) {
    ::close(output);
    fail(Exit::resource, "spawn-failed", "cannot start {}: {}", program, std::strerror(errno));
  }
  if (pid == 0) {  // only async-signal-safe calls from here to exec
    ::setpgid(0, janitor_.process_group());
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    sigset_t none;
    ::sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
    const int null = ::open("/dev/null", O_RDONLY);
    ::dup2(null, 0);
    ::dup2(output, 1);
    ::dup2(output, 2);
    ::execv(path.c_str(), argv.data());
    ::_exit(127);
  }
  ::close(output);
  ::setpgid(pid, janitor_.process_group());  // the child does it, too: ended() must find it, whichever runs first
  running_.emplace(pid, Child{process, std::move(log)});
}

void LocalLauncher::kill(const RunProcess& process, int signal) {
  for (const auto& [pid, child] : running_)
    if (child.process == process) ::kill(pid, signal);
}

void LocalLauncher::kill_all() {
  for (const auto& [pid, child] : running_) ::kill(pid, SIGKILL);
}

std::optional<Launcher::Ended> LocalLauncher::ended() {
  for (int pid, status; (pid = ::waitpid(-janitor_.process_group(), &status, WNOHANG)) > 0;) {
    const auto node = running_.extract(pid);
    if (node.empty()) continue;  // a runner whose agent died
    const auto& [process, log] = node.mapped();
    Ended ended{process, exit_cause(status), WIFEXITED(status) && WEXITSTATUS(status) == kDrained};
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) ended.cause += log.last_lines();
    log.remove_if_empty();
    return ended;
  }
  return std::nullopt;
}

std::string LocalLauncher::Log::last_lines() const {
  std::error_code error;
  const uintmax_t size = fs::file_size(path, error);
  if (error) return "";
  std::ifstream file(path);
  file.seekg(static_cast<std::streamoff>(std::max(begin, size - std::min(size, kLastBytes))));
  std::vector<std::string> lines;
  for (std::string line; std::getline(file, line);) {
    lines.push_back(line);
    if (lines.size() > kLastLines) lines.erase(lines.begin());
  }
  return lines.empty() ? "" : fmt::format("; its last lines:\n  {}", fmt::join(lines, "\n  "));
}

void LocalLauncher::Log::remove_if_empty() const {
  std::error_code ignored;
  if (fs::file_size(path, ignored) == 0) fs::remove(path, ignored);
}

}  // namespace myriad
