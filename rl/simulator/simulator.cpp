#include "rl/simulator/simulator.hpp"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "rl/check.hpp"
#include "rl/simulator/address.hpp"

namespace myriad::simulator {
namespace {

constexpr int kChildSocket = 3;

std::string text_of(const EnvOptions& options) {
  std::string text;
  for (const auto& [name, value] : options) text += fmt::format("{}{}={}", text.empty() ? "" : "\n", name, value);
  return text;
}

}  // namespace

std::string Source::name() const {
  if (command.empty()) return address;
  return command[0] == "/bin/sh" ? command.back().substr(sizeof "exec " - 1)
                                 : fmt::format("{}", fmt::join(command, " "));
}

Simulator::Simulator(const Source& source, const EnvOptions& options, const EnvContext& context)
    : answer_timeout_(context.answer_timeout) {
  if (source.command.empty())
    connect(source.address, context);
  else
    start(source, options, context);
  explained([&] {
    MessageT message = channel_->receive(context.start_timeout);
    auto* hello = as<HelloT>(message);
    if (hello == nullptr)
      fail(Exit::environment, "simulator-malformed", "{} begins with a {}, want a Hello", channel_->name(),
           EnumNameBody(message.body.type));
    if (hello->protocol != kProtocol) {
      RefusedT refused;
      refused.code = "version-skew";
      refused.text = fmt::format("you speak protocol {}, this program {}", hello->protocol, kProtocol);
      channel_->send(frame_of(refused));
      fail(Exit::environment, "version-skew", "{} speaks simulator protocol {}, this program {}: update its SDK",
           channel_->name(), hello->protocol, kProtocol);
    }
    if (hello->role != Role::steps)
      fail(Exit::environment, "simulator-malformed",
           "{} asks for actions; a simulator that is started or connected to is stepped", channel_->name());
    hello_ = std::move(*hello);
  });
}

Simulator::~Simulator() {
  channel_.reset();
  if (pid_ < 0) return;
  ::kill(pid_, SIGKILL);
  while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {}
}

/// Adds how the process ended to what went wrong.
template <class F>
void Simulator::explained(F&& f) {
  try {
    f();
  } catch (const Error& error) {
    if (error.code() != "simulator-gone" || pid_ < 0) throw;
    throw Error(error.exit_status(), error.code(), fmt::format("{} {}", channel_->name(), ending()));
  }
}

std::string Simulator::ending() {
  int status = 0;
  for (int tries = 0; pid_ >= 0 && tries < 100; ++tries) {
    const int got = ::waitpid(pid_, &status, WNOHANG);
    if (got == pid_) pid_ = -1;
    if (got == 0) ::usleep(10'000);
  }
  if (pid_ >= 0) return "has closed the connection, and runs on";
  return WIFSIGNALED(status) ? fmt::format("was ended by {}", ::strsignal(WTERMSIG(status)))
                             : fmt::format("ended with exit status {}; its words are in the log", WEXITSTATUS(status));
}

void Simulator::start(const Source& source, const EnvOptions& options, const EnvContext& context) {
  int ends[2];
  check(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0, "socketpair: {}", std::strerror(errno));
  // Everything that allocates comes before the fork.
  std::vector<char*> argv;
  for (const std::string& word : source.command) argv.push_back(const_cast<char*>(word.c_str()));
  argv.push_back(nullptr);
  std::string path = source.python_path;
  if (const char* before = std::getenv("PYTHONPATH"); !path.empty() && before != nullptr)
    path += std::string(":") + before;
  const std::string text = text_of(options);
  const Sandbox sandbox(context.sandbox);
  const pid_t parent = ::getpid();
  pid_ = ::fork();
  if (pid_ < 0) {
    ::close(ends[0]), ::close(ends[1]);
    fail(Exit::resource, "spawn-failed", "no process for {}: {}", source.command[0], std::strerror(errno));
  }
  if (pid_ == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) ::_exit(1);
    for (const int signal : {SIGINT, SIGTERM, SIGPIPE}) ::signal(signal, signal == SIGPIPE ? SIG_DFL : SIG_IGN);
    sigset_t none;
    ::sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
    ::dup2(STDERR_FILENO, STDOUT_FILENO);  // what it prints is for people
    if (ends[1] == kChildSocket)
      ::fcntl(kChildSocket, F_SETFD, 0);
    else
      ::dup2(ends[1], kChildSocket);
    ::setenv("MYRIAD_SIMULATOR_FD", "3", 1);
    ::setenv("MYRIAD_SIMULATOR_OPTIONS", text.c_str(), 1);
    if (!path.empty()) ::setenv("PYTHONPATH", path.c_str(), 1);
    try {
      sandbox.enter();
    } catch (const Error& error) {
      (void)!::write(STDERR_FILENO, error.what(), std::strlen(error.what()));
      ::_exit(126);
    }
    ::execvp(argv[0], argv.data());
    const char* why = std::strerror(errno);
    for (const char* part : {"error[spawn-failed] ", static_cast<const char*>(argv[0]), ": ", why, "\n"})
      (void)!::write(STDERR_FILENO, part, std::strlen(part));
    ::_exit(127);
  }
  ::close(ends[1]);
  channel_.emplace(ends[0], "the simulator " + source.name(), false, context.alive);
  local_ = true;
}

void Simulator::connect(const std::string& address, const EnvContext& context) {
  local_ = is_path(address);
  int fd = -1;
  try {
    fd = connect_to(address);
  } catch (const std::runtime_error& error) {
    fail(Exit::environment, "simulator-gone", "no simulator answers at {}: {}; start it first", address, error.what());
  }
  channel_.emplace(fd, fmt::format("the simulator at {}", address), false, context.alive);
}

void Simulator::welcome(size_t num_envs, const EnvOptions& options) {
  num_envs_ = num_envs;
  rows_ = {num_envs, to_space(hello_.observation.get(), "observation").row_bytes(),
           to_space(hello_.action.get(), "action").row_bytes()};
  memory_.emplace(SharedMemory::create("simulator", rows_.bytes, false));
  WelcomeT welcome;
  welcome.protocol = kProtocol;
  welcome.num_envs = static_cast<uint32_t>(num_envs);
  for (const auto& [name, value] : options) {
    welcome.options.push_back(std::make_unique<OptionT>());
    welcome.options.back()->name = name;
    welcome.options.back()->value = value;
  }
  welcome.observation_bytes = static_cast<uint32_t>(rows_.observation_bytes);
  welcome.action_bytes = static_cast<uint32_t>(rows_.action_bytes);
  welcome.shared_bytes = local_ ? rows_.bytes : 0;
  welcome.takes_failed = true;
  welcome.max_numbers = kMaxNumbers;
  explained([&] { channel_->send(frame_of(std::move(welcome)), local_ ? memory_->fd() : -1); });
  memory_->close_fd();
  if (local_) step_frame_ = frame_of(StepT{});
}

void Simulator::submit(size_t env, std::span<const std::byte> action) {
  check_row("action", action.size(), rows_.action_bytes);
  std::memcpy(block(rows_.actions) + env * rows_.action_bytes, action.data(), rows_.action_bytes);
  active()[env] = 1;
}

void Simulator::begin_step() {
  if (stepping_) return;
  bool any = false;
  for (size_t env = 0; env < num_envs_; ++env) any |= submitted(env);
  if (!any) return;
  if (!local_) {
    StepT step;
    step.actions = bytes_of({block(rows_.actions), num_envs_ * rows_.action_bytes});
    step.active.assign(active(), active() + num_envs_);
    step_frame_ = frame_of(std::move(step));
  }
  explained([&] { channel_->send(step_frame_); });
  stepping_ = true;
}

void Simulator::finish_step() {
  if (!stepping_) return;
  explained([&] { hear("Step", std::nullopt); });
  stepping_ = false;
  std::memset(active(), 0, num_envs_);
}

void Simulator::reset(size_t env, std::optional<uint64_t> seed, bool anew) {
  ResetT reset;
  reset.anew = anew;
  reset.envs.push_back(static_cast<uint32_t>(env));
  if (seed) reset.seeds.push_back(*seed);
  explained([&] {
    channel_->send(frame_of(std::move(reset)));
    hear("Reset", env);
  });
}

/// The answer; without shared memory it has the rows, and those of one environment are kept, or of all.
void Simulator::hear(const char* asked, std::optional<size_t> only) {
  const MessageT message = channel_->receive(answer_timeout_);
  const auto* stepped = as<SteppedT>(message);
  if (stepped == nullptr)
    fail(Exit::environment, "simulator-malformed", "{} answers a {} with a {}", channel_->name(), asked,
         EnumNameBody(message.body.type));
  std::erase_if(failed_, [only](const auto& failed) { return !only || failed.first == *only; });
  for (const auto& failed : stepped->failed)
    if (failed && failed->env < num_envs_)
      failed_.emplace_back(failed->env, readable(failed->text.empty() ? "it gave no reason" : failed->text));
  if (!stepped->number_names.empty()) {
    number_names_.clear();
    for (size_t i = 0; i < std::min(stepped->number_names.size(), kMaxNumbers); ++i)
      number_names_.push_back(readable(stepped->number_names[i].substr(0, 128)));
  }
  if (local_) return;
  const auto part = [&](const auto& values, size_t at, size_t bytes, const char* what, bool may_miss) {
    if (values.empty() && may_miss) return;
    const size_t got = values.size() * sizeof(values[0]);
    if (got != num_envs_ * bytes)
      fail(Exit::environment, "simulator-malformed", "{} sent {} bytes of {}, want {}", channel_->name(), got, what,
           num_envs_ * bytes);
    const auto* from = reinterpret_cast<const std::byte*>(values.data());
    const size_t first = only.value_or(0), count = only ? 1 : num_envs_;
    std::memcpy(block(at) + first * bytes, from + first * bytes, count * bytes);
  };
  part(stepped->observations, 0, rows_.observation_bytes, "observations", false);
  if (only) return;
  part(stepped->finals, rows_.finals, rows_.observation_bytes, "finals", true);
  part(stepped->rewards, rows_.rewards, sizeof(double), "rewards", false);
  part(stepped->flags, rows_.flags, 1, "flags", false);
  part(stepped->numbers, rows_.numbers, kMaxNumbers * 2 * sizeof(double), "numbers", true);
}

std::optional<std::string> Simulator::take_failure(size_t env) {
  const auto found = std::ranges::find(failed_, env, &std::pair<size_t, std::string>::first);
  if (found == failed_.end()) return std::nullopt;
  std::string why = std::move(found->second);
  failed_.erase(found);
  return why;
}

/// A simulator may announce other spaces here than to the process that asked it first.
void Simulator::check_row(const char* what, size_t bytes, size_t mine) const {
  if (bytes != mine)
    fail(Exit::environment, "simulator-changed", "{} has {}s of {} bytes, and had {} when the run began",
         channel_->name(), what, mine, bytes);
}

void Simulator::observation(size_t env, std::span<std::byte> row) const {
  check_row("observation", row.size(), rows_.observation_bytes);
  std::memcpy(row.data(), block(env * rows_.observation_bytes), rows_.observation_bytes);
}
void Simulator::final_observation(size_t env, std::span<std::byte> row) const {
  check_row("observation", row.size(), rows_.observation_bytes);
  std::memcpy(row.data(), block(rows_.finals) + env * rows_.observation_bytes, rows_.observation_bytes);
}

}  // namespace myriad::simulator
