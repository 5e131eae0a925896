#include "apps/driver/evaluation_process.hpp"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <type_traits>

#include "apps/child.hpp"
#include "apps/driver/run_directory.hpp"
#include "rl/check.hpp"

namespace myriad {
namespace fs = std::filesystem;
namespace {

constexpr int kResult = 3;     // descriptor of the pipe in the process
constexpr int kNiceness = 10;  // of one that stands aside

/// What goes through the pipe, from this program to itself.
struct Said {
  bool is_result;
  EvaluationNumbers numbers;
  char text[1024];  // the error; of a result: why recording ended
};
static_assert(std::is_trivially_copyable_v<Said> && sizeof(Said) <= PIPE_BUF, "written at once");

}  // namespace

EvaluationProcess::EvaluationProcess(const fs::path& run, const std::string& checkpoint, bool aside)
    : log_(run / "logs" / "evaluation.txt") {
  const std::string directory = run.string();
  const char* const argv[] = {"myriad", "run-evaluation", directory.c_str(), checkpoint.c_str(), nullptr};
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) fail(Exit::resource, "spawn-failed", "pipe: {}", std::strerror(errno));
  std::error_code ignored;  // open() says what is wrong
  fs::create_directories(log_.parent_path(), ignored);
  const int log = ::open(log_.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  const pid_t parent = ::getpid();
  pid_ = log < 0 ? -1 : ::fork();
  if (pid_ == 0) {  // only async-signal-safe calls from here to exec
    ::setpgid(0, 0);
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) ::_exit(1);
    sigset_t none;
    ::sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
    if (aside) ::setpriority(PRIO_PROCESS, 0, kNiceness);
    const int null = ::open("/dev/null", O_RDONLY);
    ::dup2(null, 0);
    ::dup2(log, 1);
    ::dup2(log, 2);
    if (ends[1] == kResult)
      ::fcntl(kResult, F_SETFD, 0);
    else
      ::dup2(ends[1], kResult);
    ::execv("/proc/self/exe", const_cast<char* const*>(argv));
    ::_exit(127);
  }
  const int error = errno;
  ::close(ends[1]);
  if (log >= 0) ::close(log);
  if (pid_ < 0) {
    ::close(ends[0]);
    fail(Exit::resource, "spawn-failed", "cannot start an evaluation: {}{}", log < 0 ? log_.string() + ": " : "",
         std::strerror(error));
  }
  result_ = ends[0];
  ::fcntl(result_, F_SETFL, O_NONBLOCK);
  ::setpgid(pid_, pid_);  // the child does it, too: kill() must find the group, whichever runs first
}

EvaluationProcess::~EvaluationProcess() {
  kill();
  if (pid_ > 0) ::waitpid(pid_, nullptr, 0);
  ::close(result_);
}

void EvaluationProcess::kill() const {
  if (pid_ > 0) ::kill(-pid_, SIGKILL);
}

std::optional<EvaluationProcess::Ended> EvaluationProcess::ended() {
  int status = 0;
  if (pid_ < 0 || ::waitpid(pid_, &status, WNOHANG) != pid_) return std::nullopt;
  ::kill(-pid_, SIGKILL);  // a simulator that outlived it
  pid_ = -1;
  std::error_code ignored;
  if (fs::file_size(log_, ignored) == 0) fs::remove(log_, ignored);
  Said said{};
  if (::read(result_, &said, sizeof said) != static_cast<ssize_t>(sizeof said))
    return Ended{std::nullopt,
                 fmt::format("its process ended with {}; what it printed is in {}", exit_cause(status), log_.string())};
  said.text[sizeof said.text - 1] = '\0';
  if (!said.is_result) return Ended{std::nullopt, said.text};
  return Ended{FinalEvaluation{said.numbers, said.text}, ""};
}

int run_evaluation(const std::string& run, const std::string& checkpoint) {
  ::fcntl(kResult, F_SETFD, FD_CLOEXEC);  // simulators do not inherit it
  ::prctl(PR_SET_NAME, "evaluation");
  Said said{};
  const auto say = [&said](std::string_view text) { text.copy(said.text, sizeof said.text - 1); };
  try {
    const std::string name = checkpoint + "/config.toml";
    const FinalEvaluation result = evaluate_at_end(load_config(saved_config(checkpoint), name), run, checkpoint);
    said.is_result = true;
    said.numbers = result;
    say(result.failure);
  } catch (const Error& error) { say(error.line()); } catch (const std::exception& error) {
    say(error.what());
  }
  if (::write(kResult, &said, sizeof said) != static_cast<ssize_t>(sizeof said))
    fail(Exit::usage, "not-a-command", "run-evaluation is started by a run: try `myriad evaluate`");
  return said.is_result ? 0 : 1;
}

}  // namespace myriad
