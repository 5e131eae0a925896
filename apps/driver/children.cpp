#include "apps/driver/children.hpp"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <fstream>

#include "apps/child.hpp"
#include "env_runners/runner_limits.hpp"
#include "rl/check.hpp"

namespace myriad {
namespace {

constexpr int kSweepTries = 1000;  // 5 ms apart: those who were killed may take a while to go

/// The janitor's whole life: wait for the driver's end of the pipe to close, then leave nothing behind.
[[noreturn]] void keep_house(int read_end, const std::string& directory) {
  for (int signal : {SIGINT, SIGTERM, SIGHUP, SIGQUIT}) ::signal(signal, SIG_IGN);
  std::string runs;  // one after the other, 16 digits each
  for (char byte;;) {
    const ssize_t got = ::read(read_end, &byte, 1);
    if (got == 1)
      runs += byte;
    else if (got == 0 || errno != EINTR)
      break;
  }
  std::error_code ignored;
  std::filesystem::remove_all(directory, ignored);
  const int janitor = ::getpid(), sweeper = runs.empty() ? -1 : ::fork();
  if (sweeper == 0) {  // outlives the others: a control group can go when nobody is in it
    ::setpgid(0, 0);
    while (::getppid() == janitor) ::usleep(1000);
    for (size_t at = 0; at < runs.size(); at += 16)
      for (int tries = 0; RunnerLimits::sweep("/sys/fs/cgroup", runs.substr(at, 16)) > 0 && tries < kSweepTries;
           ++tries)
        ::usleep(5000);
    ::_exit(0);
  }
  if (sweeper > 0) ::setpgid(sweeper, sweeper);
  ::kill(0, SIGKILL);  // the whole group, this process included
  ::_exit(0);
}

constexpr uintmax_t kLastBytes = 16 << 10;  // of a log, to find the last lines in

}  // namespace

Children::Children() {
  std::string name = (std::filesystem::temp_directory_path() / fmt::format("myriad-{}-XXXXXX", ::getuid())).string();
  if (::mkdtemp(name.data()) == nullptr)
    fail(Exit::resource, "no-socket-directory", "cannot make {}: {}", name, std::strerror(errno));
  socket_directory_ = name;
  int ends[2];
  check(::pipe2(ends, O_CLOEXEC) == 0, "pipe2: {}", std::strerror(errno));
  janitor_ = ::fork();
  check(janitor_ >= 0, "fork: {}", std::strerror(errno));
  if (janitor_ == 0) {
    ::setpgid(0, 0);
    ::close(ends[1]);
    // It must not hold the caller's terminal or pipes open after the driver ended.
    const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int fd = 0; fd <= 2; ++fd) ::dup2(null, fd);
    keep_house(ends[0], socket_directory_);
  }
  ::setpgid(janitor_, janitor_);
  ::prctl(PR_SET_CHILD_SUBREAPER, 1);
  ::close(ends[0]);
  pipe_ = ends[1];
}

Children::~Children() {
  kill_all();
  for (const auto& [pid, log] : running_) {
    ::waitpid(pid, nullptr, 0);
    std::error_code ignored;
    if (std::filesystem::file_size(log.path, ignored) == 0) std::filesystem::remove(log.path, ignored);
  }
  ::close(pipe_);   // the janitor sweeps
  bury_children();  // the last of the group, and who swept up after it
}

void Children::name_run(const std::string& run) {
  check(::write(pipe_, run.data(), run.size()) == static_cast<ssize_t>(run.size()), "the janitor: {}",
        std::strerror(errno));
}

int Children::spawn(const std::string& program, const std::vector<std::string>& arguments) {
  const std::string path = program_directory() + "/" + program;
  std::filesystem::create_directories(log_directory_);
  std::string log = log_directory_ + "/" + program.substr(program.find('-') + 1);
  for (size_t i = 0; i + 1 < arguments.size(); ++i)
    if (arguments[i] == "--agent") log += fmt::format("-{:0>4}", arguments[i + 1]);
  log += ".txt";
  std::vector<char*> argv{const_cast<char*>(path.c_str())};
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  const int output = ::open(log.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (output < 0) fail(Exit::resource, "no-log", "cannot open {}: {}", log, std::strerror(errno));
  std::error_code ignored;
  const uintmax_t begin = std::filesystem::file_size(log, ignored);
  const int pid = ::fork();
  if (pid < 0) {
    ::close(output);
    fail(Exit::resource, "spawn-failed", "cannot start {}: {}", program, std::strerror(errno));
  }
  if (pid == 0) {  // only async-signal-safe calls from here to exec
    ::setpgid(0, janitor_);
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
  running_[pid] = {log, begin};
  return pid;
}

void Children::kill(int pid, int signal) {
  if (running_.contains(pid)) ::kill(pid, signal);
}

void Children::kill_all() {
  for (const auto& [pid, log] : running_) ::kill(pid, SIGKILL);
}

std::string Children::last_lines(const Log& log) {
  std::error_code error;
  const uintmax_t size = std::filesystem::file_size(log.path, error);
  if (error) return "";
  std::ifstream file(log.path);
  file.seekg(static_cast<std::streamoff>(std::max(log.begin, size - std::min(size, kLastBytes))));
  std::vector<std::string> lines;
  for (std::string line; std::getline(file, line);) {
    lines.push_back(line);
    if (lines.size() > 20) lines.erase(lines.begin());
  }
  return lines.empty() ? "" : fmt::format("; its last lines:\n  {}", fmt::join(lines, "\n  "));
}

std::optional<Children::Ended> Children::reap() {
  for (int pid, status; (pid = ::waitpid(-janitor_, &status, WNOHANG)) > 0;) {
    const auto child = running_.extract(pid);
    if (child.empty()) continue;  // a runner whose agent died
    const Log& log = child.mapped();
    Ended ended{pid, exit_cause(status), WIFEXITED(status) ? WEXITSTATUS(status) : -1};
    if (ended.exit_status != 0) ended.cause += last_lines(log);
    std::error_code ignored;
    if (std::filesystem::file_size(log.path, ignored) == 0) std::filesystem::remove(log.path, ignored);
    return ended;
  }
  return std::nullopt;
}

}  // namespace myriad
