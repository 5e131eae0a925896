#include "apps/driver/launchers/local.hpp"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "apps/child.hpp"
#include "apps/driver/janitor.hpp"
#include "rl/check.hpp"
#include "rl/processes.hpp"

namespace myriad {
namespace fs = std::filesystem;
namespace {

constexpr int kDrained = 75;  // exit status of an agent that was told to leave, and has (sysexits.h: EX_TEMPFAIL)

}  // namespace

LocalLauncher::LocalLauncher(Janitor& janitor, std::string programs)
    : janitor_(janitor), programs_(std::move(programs)) {}

LocalLauncher::~LocalLauncher() {
  kill_all();
  for (const auto& [pid, child] : running_) ::waitpid(pid, nullptr, 0);
}

void LocalLauncher::begin(const RunAddress& run, const std::string& log_directory) {
  run_ = run;
  log_directory_ = log_directory;
  ::setenv("MYRIAD_RUN", fmt::format("{:016x}", run.run).c_str(), 1);  // of all that the run starts: the janitor's mark
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

  std::error_code error;
  fs::create_directories(log_directory_, error);
  LogFiles::Process log =
      logs_.begin(log_directory_ + (is_agent ? fmt::format("/host-agent-{:04}.txt", process.index) : "/learner.txt"));
  const int output = log.output;
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
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) {
      if (const std::string lines = logs_.last_lines(log); !lines.empty())
        ended.cause += "; its last lines:\n  " + lines;
      if (process.role == RunProcess::Role::agent)  // what its runners' simulators started
        end_processes_with({fmt::format("MYRIAD_RUN={:016x}", run_.run), fmt::format("MYRIAD_HOST={}", process.index)});
    }
    return ended;
  }
  return std::nullopt;
}

}  // namespace myriad
