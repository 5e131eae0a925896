#include "rl/simulator/simulator.hpp"

#include <fcntl.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>

#include "rl/check.hpp"
#include "rl/processes.hpp"
#include "rl/simulator/address.hpp"

namespace myriad::simulator {
namespace {

constexpr int kChildSocket = 3;
constexpr size_t kMaxWarnings = 32;                // that wait to be told
constexpr Time kNotes = std::chrono::seconds(10);  // between two words on a start that takes long

std::string text_of(const EnvOptions& options) {
  std::string text;
  for (const auto& [name, value] : options) text += fmt::format("{}{}={}", text.empty() ? "" : "\n", name, value);
  return text;
}

/// Environment variables as execve() takes them: this process's, with `more` over them. Numerical libraries of a
/// simulator compute with one thread, unless something else is asked for: there is a runner for each core.
std::vector<std::string> variables_with(const std::map<std::string, std::string>& more) {
  std::map<std::string, std::string> all{
      {"OMP_NUM_THREADS", "1"}, {"OPENBLAS_NUM_THREADS", "1"}, {"MKL_NUM_THREADS", "1"}};
  for (char** entry = environ; *entry != nullptr; ++entry) {
    const std::string_view text(*entry);
    if (const size_t at = text.find('='); at != std::string_view::npos)
      all[std::string(text.substr(0, at))] = text.substr(at + 1);
  }
  for (const auto& [name, value] : more) all[name] = value;
  std::vector<std::string> lines;
  for (const auto& [name, value] : all) lines.push_back(name + "=" + value);
  return lines;
}

std::vector<char*> pointers_to(std::vector<std::string>& words) {
  std::vector<char*> pointers;
  for (std::string& word : words) pointers.push_back(word.data());
  pointers.push_back(nullptr);
  return pointers;
}

/// Names no other simulator of this machine.
std::string new_mark() {
  static uint64_t count = 0;
  return fmt::format("{}-{}", ::getpid(), ++count);
}

}  // namespace

std::string Source::name() const {
  if (command.empty()) return address;
  return command[0] == "/bin/sh" ? command.back().substr(sizeof "exec " - 1)
                                 : fmt::format("{}", fmt::join(command, " "));
}

Simulator::Simulator(const Source& source, const EnvOptions& options, const EnvContext& context, uint64_t first_env)
    : answer_timeout_(context.answer_timeout),
      start_timeout_(context.start_timeout),
      world_steps_(context.world_steps),
      made_to_(context.made) {
  try {
    if (source.command.empty())
      connect(source.address, context);
    else
      start(source, options, context, first_env);
    explained([&] { take_hello(); });
  } catch (...) {
    end();
    throw;
  }
}

void Simulator::take_hello() {
  MessageT message = starting();
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
}

Simulator::~Simulator() { end(); }

void Simulator::end() {
  close();
  if (pid_ >= 0) {
    const Time until = system_clock().now() + (broken_ ? Time::zero() : kCloseGrace);
    int got = 0;
    for (useconds_t pause = 200; (got = ::waitpid(pid_, nullptr, WNOHANG)) == 0 && system_clock().now() < until;
         pause = std::min<useconds_t>(2 * pause, 10'000))
      ::usleep(pause);
    if (got == 0) {
      ::kill(pid_, SIGKILL);
      while (::waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {}
    }
  }
  if (!mark_.empty()) end_processes_with({"MYRIAD_SIMULATOR=" + mark_});
}

/// Adds how the process ended to what went wrong.
template <class F>
void Simulator::explained(F&& f) {
  try {
    f();
  } catch (const Error& error) {
    broken_ = true;
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

void Simulator::start(const Source& source, const EnvOptions& options, const EnvContext& context, uint64_t first_env) {
  Sandbox::Options rules = context.sandbox;
  if (rules.level != "off" && rules.folder().empty())
    rules.temporary = temporary_.emplace(temporary_directory()).path();
  const Sandbox sandbox(rules);
  int ends[2];
  check(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0, "socketpair: {}", std::strerror(errno));
  // Everything that allocates comes before the fork.
  std::vector<std::string> words = source.command;
  const std::vector<char*> argv = pointers_to(words);
  mark_ = new_mark();
  std::map<std::string, std::string> own{{"MYRIAD_SIMULATOR", mark_},
                                         {"MYRIAD_SIMULATOR_FD", std::to_string(kChildSocket)},
                                         {"MYRIAD_SIMULATOR_OPTIONS", text_of(options)},
                                         {"MYRIAD_ENV_INDEX", std::to_string(first_env)}};
  if (!source.python_path.empty()) {
    const char* before = std::getenv("PYTHONPATH");
    own["PYTHONPATH"] = source.python_path + (before == nullptr ? "" : std::string(":") + before);
  }
  if (rules.level != "off" && !rules.folder().empty()) own["TMPDIR"] = rules.folder();
  std::vector<std::string> variables = variables_with(own);
  const std::vector<char*> environment = pointers_to(variables);
  const pid_t parent = ::getpid();
  pid_ = ::fork();
  if (pid_ < 0) {
    ::close(ends[0]), ::close(ends[1]);
    fail(Exit::resource, "spawn-failed", "no process for {}: {}", source.command[0], std::strerror(errno));
  }
  if (pid_ == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) ::_exit(1);
    for (int signal = 1; signal < NSIG; ++signal) ::signal(signal, SIG_DFL);  // none ignored: its children would, too
    sigset_t none;
    ::sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
    try {
      sandbox.enter();  // while its descriptor is there: the socket's may be the same
    } catch (const Error& error) {
      (void)!::write(STDERR_FILENO, error.what(), std::strlen(error.what()));
      ::_exit(126);
    }
    ::dup2(STDERR_FILENO, STDOUT_FILENO);  // what it prints is for people
    if (ends[1] == kChildSocket)
      ::fcntl(kChildSocket, F_SETFD, 0);
    else
      ::dup2(ends[1], kChildSocket);
    ::execvpe(argv[0], argv.data(), environment.data());
    const char* why = std::strerror(errno);
    for (const char* part : {"error[spawn-failed] ", static_cast<const char*>(argv[0]), ": ", why, "\n"})
      (void)!::write(STDERR_FILENO, part, std::strlen(part));
    ::_exit(127);
  }
  ::close(ends[1]);
  channel_.emplace(ends[0], "the simulator " + source.name(), false, context.alive);
  local_ = true;
}

/// Waits where nobody listens: a simulator may begin later than the run, or be started again.
void Simulator::connect(const std::string& address, const EnvContext& context) {
  local_ = is_path(address);
  const Time until = system_clock().now() + start_timeout_;
  Time pause = std::chrono::milliseconds(50), next_sign{};
  for (bool told = false;; told = true) {
    std::string why;
    try {
      channel_.emplace(connect_to(address), fmt::format("the simulator at {}", address), false, context.alive);
      return;
    } catch (const std::runtime_error& error) { why = error.what(); }
    const Time now = system_clock().now();
    if (now + pause >= until)
      fail(Exit::environment, "simulator-gone",
           "no simulator answers at {}: {}; start it first, or within env_runners.start_timeout_s = {:g} s", address,
           why, to_seconds(start_timeout_));
    if (!told)
      std::fprintf(stderr, "waiting for a simulator at %s: %s; %.0f s at most\n", address.c_str(), why.c_str(),
                   to_seconds(start_timeout_));
    if (context.alive && now >= next_sign) {
      next_sign = now + std::chrono::seconds(1);
      context.alive();
    }
    ::usleep(static_cast<useconds_t>(std::chrono::duration_cast<std::chrono::microseconds>(pause).count()));
    pause = std::min<Time>(2 * pause, std::chrono::milliseconds(500));
  }
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
  welcome.hears_made = true;
  welcome.max_episode_steps = world_steps_;
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
  stepped_ = true;
  explained([&] { hear("Step", std::nullopt); });
  stepping_ = false;
  std::memset(active(), 0, num_envs_);
}

void Simulator::reset(size_t env, std::optional<uint64_t> seed, bool anew) {
  ResetT reset;
  reset.anew = anew;
  reset.envs.push_back(static_cast<uint32_t>(env));
  if (seed) reset.seeds.push_back(*seed);
  if (stepped_ && anew) renewed_ = env;
  explained([&] {
    channel_->send(frame_of(std::move(reset)));
    hear("Reset", env);
  });
  renewed_.reset();
}

/// The next message but those about its start, after each of which it has as much time again.
MessageT Simulator::answer() {
  for (;;) {
    MessageT message = stepped_ && !renewed_ ? channel_->receive(answer_timeout_) : starting();
    const auto* made = as<MadeT>(message);
    if (made == nullptr) return message;
    made_ = made->envs;
    if (made_to_) made_to_(made_, num_envs_);
  }
}

/// The next message, of one that starts: now and then a word on how far it is.
MessageT Simulator::starting() {
  const Time until = system_clock().now() + start_timeout_;
  for (;;) {
    if (next_note_ == Time{}) next_note_ = system_clock().now() + kNotes;
    try {
      return channel_->receive(std::max(Time{}, std::min(until, next_note_) - system_clock().now()));
    } catch (const Error& error) {
      if (error.code() != "simulator-silent") throw;
    }
    const std::string so_far = renewed_         ? fmt::format("makes environment {} anew", *renewed_)
                               : num_envs_ == 0 ? "has not said its first word"
                                                : fmt::format("has made {} of {} environments", made_, num_envs_);
    if (system_clock().now() >= until)
      fail(Exit::environment, "simulator-silent",
           "{} gave no answer for {:.0f} s while it started: it {}; env_runners.start_timeout_s is how long that may "
           "take",
           channel_->name(), to_seconds(start_timeout_), so_far);
    std::fprintf(stderr, "%s %s; it may take %.0f s\n", channel_->name().c_str(), so_far.c_str(),
                 to_seconds(start_timeout_));
    next_note_ = {};
  }
}

/// The answer; without shared memory it has the rows, and those of one environment are kept, or of all.
void Simulator::hear(const char* asked, std::optional<size_t> only) {
  const MessageT message = answer();
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
  for (const std::string& warning : stepped->warnings)
    if (warnings_.size() < kMaxWarnings) warnings_.push_back(readable(warning));
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

std::string Simulator::take_warning() {
  if (warnings_.empty()) return "";
  std::string warning = std::move(warnings_.front());
  warnings_.pop_front();
  return warning;
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
