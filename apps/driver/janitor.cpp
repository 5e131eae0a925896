#include "apps/driver/janitor.hpp"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <ctime>
#include <filesystem>
#include <utility>
#include <vector>

#include "apps/driver/run_directory.hpp"
#include "env_runners/runner_limits.hpp"
#include "rl/check.hpp"
#include "rl/private_folder.hpp"
#include "rl/processes.hpp"
#include "rl/signals.hpp"
#include "rl/system.hpp"

namespace myriad {
namespace {

constexpr size_t kMaxDirectoryBytes = 60;  // of the parent of the sockets' folder: their paths have 107 characters
constexpr int kSweepTries = 1000;          // 5 ms apart: killed processes may take a while to end

/// run.json of a driver that could not end its record.
void end_record(const std::string& folder) {
  try {
    RunDirectory directory = RunDirectory::open(folder);
    RunRecord& record = directory.record;
    if (record.state != "running") return;
    record.state = "killed";
    record.end_time_s = static_cast<double>(std::time(nullptr));
    record.exit_reason = "its driver was killed, or crashed";
    record.join.clear();
    directory.save();
  } catch (const std::exception&) {}  // another driver works there, or the disk is away
}

/// The janitor's process: waits for the driver's end of the pipe to close, then removes and kills what is left.
[[noreturn]] void keep_house(int read_end, const std::string& directory) {
  ignore_ending_signals();
  std::vector<std::string> runs;  // 16 digits each
  std::string folder, line;
  for (char byte;;) {
    const ssize_t got = ::read(read_end, &byte, 1);
    if (got == 1 && byte != '\0') {
      line += byte;
    } else if (got == 1) {
      std::string& said = line.starts_with('/') ? folder : runs.emplace_back();
      said = std::exchange(line, "");
    } else if (got == 0 || errno != EINTR) {
      break;
    }
  }
  if (!folder.empty()) end_record(folder);
  std::error_code ignored;
  std::filesystem::remove_all(directory, ignored);
  const int janitor = ::getpid(), sweeper = runs.empty() ? -1 : ::fork();
  if (sweeper == 0) {  // outlives the others: a control group can be removed when it is empty
    ::setpgid(0, 0);
    while (::getppid() == janitor) ::usleep(1000);
    std::filesystem::remove_all(directory, ignored);  // a process that was still there may have made a folder in it
    for (const std::string& run : runs) end_processes_with({"MYRIAD_RUN=" + run});
    for (const std::string& run : runs)
      for (int tries = 0; RunnerLimits::sweep("/sys/fs/cgroup", run) > 0 && tries < kSweepTries; ++tries)
        ::usleep(5000);
    ::_exit(0);
  }
  if (sweeper > 0) ::setpgid(sweeper, sweeper);
  ::kill(0, SIGKILL);  // the whole group, this process included
  ::_exit(0);
}

}  // namespace

Janitor::Janitor() {
  socket_directory_ = PrivateFolder(temporary_directory(kMaxDirectoryBytes)).release();
  int ends[2];
  check(::pipe2(ends, O_CLOEXEC) == 0, "pipe2: {}", std::strerror(errno));
  pid_ = ::fork();
  check(pid_ >= 0, "fork: {}", std::strerror(errno));
  if (pid_ == 0) {
    ::setpgid(0, 0);
    ::close(ends[1]);
    // It must not hold the caller's terminal or pipes open after the driver ended.
    const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int fd = 0; fd <= 2; ++fd) ::dup2(null, fd);
    keep_house(ends[0], socket_directory_);
  }
  ::setpgid(pid_, pid_);
  ::prctl(PR_SET_CHILD_SUBREAPER, 1);
  ::close(ends[0]);
  pipe_ = ends[1];
}

Janitor::~Janitor() {
  ::close(pipe_);
  bury_children();  // what is left of the group, the janitor and its sweeper
}

void Janitor::tell(const std::string& text) {
  const size_t size = text.size() + 1;  // with the zero
  check(::write(pipe_, text.c_str(), size) == static_cast<ssize_t>(size), "the janitor: {}", std::strerror(errno));
}

}  // namespace myriad
