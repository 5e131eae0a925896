#include "env_runners/zygote.hpp"

#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <map>

#include "env_runners/env_runner.hpp"
#include "env_runners/memory_watch.hpp"
#include "env_runners/runner_limits.hpp"
#include "rl/descriptors.hpp"
#include "rl/machine.hpp"
#include "rl/private_folder.hpp"
#include "rl/processes.hpp"
#include "rl/signals.hpp"

namespace myriad {
namespace {

constexpr int kRunnerOomScore = 500;  // the kernel's choice before a learner

struct Order {
  enum class Kind : uint32_t { set_up, region, spawn } kind;
  uint32_t slot = 0, incarnation = 0, agent = 0;
  uint64_t run = 0, epoch = 0;
};
constexpr int kEndTries = 5000;                       // 1 ms apart
constexpr size_t kMaxOrderBytes = size_t{160} << 10;  // a config; below the default socket buffer

void send_order(int socket, const Order& order, std::string_view text, std::span<const int> fds) {
  std::array<iovec, 2> parts{iovec{const_cast<Order*>(&order), sizeof order},
                             iovec{const_cast<char*>(text.data()), text.size()}};
  if (send_with_descriptors(socket, parts, fds, MSG_NOSIGNAL) < 0)
    fail(Exit::resource, "zygote-lost", "the zygote takes no orders: {}", std::strerror(errno));
}

/// The zygote's own life.
class Home {
 public:
  Home(int socket, std::string folder) : socket_(socket), folder_(std::move(folder)) {}

  [[noreturn]] void live() {
    ::prctl(PR_SET_CHILD_SUBREAPER, 1);  // reaps simulators of killed runners
    sigset_t signals;
    ::sigemptyset(&signals);
    ::sigaddset(&signals, SIGCHLD);
    ::sigprocmask(SIG_BLOCK, &signals, nullptr);
    ignore_ending_signals();  // the agent decides
    signals_ = ::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
    for (;;) {
      std::array<pollfd, 2> poll{pollfd{socket_, POLLIN, 0}, pollfd{signals_, POLLIN, 0}};
      if (::poll(poll.data(), poll.size(), -1) < 0) continue;
      if (poll[0].revents != 0 && !take_order()) end();
      if (poll[1].revents != 0) reap();
    }
  }

 private:
  bool take_order() {
    Order order{};
    static std::array<char, kMaxOrderBytes> text;
    std::array<iovec, 2> parts{iovec{&order, sizeof order}, iovec{text.data(), text.size()}};
    std::array<int, kMaxDescriptors> fds;
    const ssize_t got = receive_with_descriptors(socket_, parts, fds);
    if (got < 0 && errno == EINTR) return true;
    if (got < static_cast<ssize_t>(sizeof order)) return false;
    switch (order.kind) {
      case Order::Kind::set_up:
        set_up(order, {text.data(), static_cast<size_t>(got) - sizeof order});
        break;
      case Order::Kind::region:
        weights_.emplace(SharedMemory::map(fds[0], setup_->weights_layout.bytes(), false));
        weights_->close_fd();
        break;
      case Order::Kind::spawn:
        spawn(order, fds[0], fds[1], fds[2]);
    }
    return true;
  }

  void set_up(const Order& order, std::string_view config_toml) {
    ZygoteReport report{.kind = ZygoteReport::Kind::ready, .weights = {}};
    try {
      setup_.emplace(RunnerSetup::load(order.run, order.epoch, config_toml));
      // Loads assets, which the forks share.
      if (!setup_->env.isolated) (void)make_environment(setup_->env, setup_->config.environment.env_config);
      const Config& config = setup_->config;
      limits_.emplace(
          RunnerLimits::Options{.memory_bytes = static_cast<uint64_t>(config.hosts.runner_memory_mib * (1 << 20)),
                                .cpus = config.hosts.runner_cpus,
                                .run = fmt::format("{:016x}", order.run),
                                .agent = order.agent});
      sandbox_.emplace(sandbox_options(config, setup_->env.needs_network));
      ::setenv("MYRIAD_RUN", fmt::format("{:016x}", order.run).c_str(), 1);
      ::setenv("MYRIAD_HOST", std::to_string(order.agent).c_str(), 1);
      for (const char* threads : {"OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"})
        ::setenv(threads, "1", 0);  // of plugins and simulators: a runner has a core
      report.isolated = setup_->env.isolated;
      report.spec_hash = setup_->spec.hash();
      report.fragment_hash = setup_->layout->hash();
      report.fragment_bytes = setup_->layout->capacity_bytes();
      report.weights = setup_->weights_layout;
      set_text(report.text, limits_->describe());
      set_text(report.sandbox, sandbox_->describe());
    } catch (const std::exception& error) { report = failure(as_error(error)); }
    send(report);
  }

  void spawn(const Order& order, int runner_socket, int page_fd, int door) {
    ZygoteReport report{.kind = ZygoteReport::Kind::spawned, .weights = {}};
    report.slot = order.slot;
    report.incarnation = order.incarnation;
    std::optional<PrivateFolder> folder;
    try {
      if (has_folders()) folder.emplace(folder_);
    } catch (const Error& error) { std::fprintf(stderr, "runner %u: %s\n", order.slot, error.what()); }
    report.pid = ::fork();
    if (report.pid == 0) become_runner(order, runner_socket, page_fd, door, folder ? folder->path() : "");
    if (report.pid < 0) report.pid = -errno;
    ::close(runner_socket);
    ::close(page_fd);
    if (door >= 0) ::close(door);
    if (report.pid > 0) {
      children_[report.pid] = {order.slot, order.incarnation, std::move(folder)};
      set_text(report.text, limits_->admit(report.pid, order.slot));
    }
    send(report);
  }

  /// Whether each runner has a folder of its own for temporary files: foreign code, which the sandbox lets write
  /// nowhere else.
  bool has_folders() const {
    const EnvRunnersConfig& runners = setup_->config.env_runners;
    return setup_->env.isolated && runners.sandbox != "off" && runners.sandbox_write.empty();
  }

  /// `folder`: what it may write to.
  [[noreturn]] void become_runner(const Order& order, int runner_socket, int page_fd, int door,
                                  const std::string& folder) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    ::prctl(PR_SET_NAME, "env-runner");
    sigset_t none;
    ::sigemptyset(&none);
    ::sigprocmask(SIG_SETMASK, &none, nullptr);
    ignore_ending_signals();
    prefer_for_oom(kRunnerOomScore);
    if (const std::string problem = limits_->apply_in_child(); !problem.empty())
      std::fprintf(stderr, "runner %u: %s\n", order.slot, problem.c_str());
    int status = static_cast<int>(Exit::internal);
    try {
      SharedMemory page = SharedMemory::map(page_fd, sizeof(RunnerPage), true);
      page.close_fd();
      if (!folder.empty()) {
        Sandbox::Options own = sandbox_->options();
        own.temporary = folder;
        sandbox_.emplace(std::move(own));
      }
      close_descriptors_but({runner_socket, door, sandbox_->fd()});
      status = run_env_runner(*setup_, order.slot, order.incarnation, runner_socket, door, weights_->data(),
                              *reinterpret_cast<RunnerPage*>(page.data()), *sandbox_);
    } catch (const std::exception& error) { std::fprintf(stderr, "runner %u: %s\n", order.slot, error.what()); }
    ::_exit(status);
  }

  void reap() {
    for (signalfd_siginfo info; ::read(signals_, &info, sizeof info) == sizeof info;) {}
    int status = 0;
    for (int pid = ::waitpid(-1, &status, WNOHANG); pid > 0; pid = ::waitpid(-1, &status, WNOHANG)) {
      const auto child = children_.find(pid);
      if (child == children_.end()) continue;
      ZygoteReport report{.kind = ZygoteReport::Kind::exited, .weights = {}};
      report.slot = child->second.slot;
      report.incarnation = child->second.incarnation;
      report.pid = pid;
      report.status = status;
      if (setup_->env.isolated && status != 0) end_simulators_of(pid);
      children_.erase(child);
      send(report);
    }
  }

  static ZygoteReport failure(const Error& error) {
    ZygoteReport report{.kind = ZygoteReport::Kind::failed, .weights = {}};
    report.exit = static_cast<int32_t>(error.exit_status());
    set_text(report.code, error.code());
    set_text(report.text, error.what());
    return report;
  }

  template <size_t n>
  static void set_text(char (&target)[n], std::string_view text) {
    const size_t size = std::min(text.size(), n - 1);
    std::memcpy(target, text.data(), size);
    target[size] = '\0';
  }

  void send(const ZygoteReport& report) {
    if (::send(socket_, &report, sizeof report, MSG_NOSIGNAL) < 0) end();
  }

  /// The agent has ended, or was killed: its runners end, and what they and their simulators leave goes.
  [[noreturn]] void end() {
    for (const auto& [pid, child] : children_) ::kill(pid, SIGKILL);
    for (const auto& [pid, child] : children_) {
      ::waitpid(pid, nullptr, 0);
      if (setup_->env.isolated) end_simulators_of(pid);
    }
    children_.clear();
    ::_exit(0);
  }

  static void end_simulators_of(int runner) { end_processes_with({fmt::format("MYRIAD_SIMULATOR={}-*", runner)}); }

  struct Child {
    uint32_t slot, incarnation;
    std::optional<PrivateFolder> folder;
  };
  int socket_, signals_ = -1;
  std::string folder_;
  std::optional<RunnerSetup> setup_;
  std::optional<RunnerLimits> limits_;
  std::optional<Sandbox> sandbox_;
  std::optional<SharedMemory> weights_;
  std::map<int, Child> children_;
};

}  // namespace

Zygote::Zygote(const std::string& folder) {
  int ends[2];
  check(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0, "socketpair: {}", std::strerror(errno));
  pid_ = ::fork();
  check(pid_ >= 0, "fork: {}", std::strerror(errno));
  if (pid_ == 0) {
    ::prctl(PR_SET_NAME, "zygote");
    ::close(ends[0]);  // it ends when the agent's end is closed
    Home(ends[1], folder).live();
  }
  ::close(ends[1]);
  socket_ = ends[0];
}

Zygote::~Zygote() {
  ::close(socket_);
  for (int tries = 0; tries < kEndTries; ++tries, ::usleep(1000))
    if (::waitpid(pid_, nullptr, WNOHANG) != 0) return;
  ::kill(pid_, SIGKILL);
  ::waitpid(pid_, nullptr, 0);
}

void Zygote::set_up(uint64_t run, uint64_t epoch, uint32_t agent, const std::string& config_toml) {
  check(config_toml.size() <= kMaxOrderBytes, "a config of {} bytes, at most {}", config_toml.size(), kMaxOrderBytes);
  Order order{.kind = Order::Kind::set_up};
  order.agent = agent;
  order.run = run;
  order.epoch = epoch;
  send_order(socket_, order, config_toml, {});
}

void Zygote::share_weights(const SharedMemory& region) {
  send_order(socket_, {.kind = Order::Kind::region}, "", std::array{region.fd()});
}

void Zygote::spawn(uint32_t slot, uint32_t incarnation, int runner_socket, int page_fd, int door) {
  Order order{.kind = Order::Kind::spawn};
  order.slot = slot;
  order.incarnation = incarnation;
  const std::array<int, 3> fds{runner_socket, page_fd, door};
  send_order(socket_, order, "", std::span(fds).first(door < 0 ? 2 : 3));
  if (door >= 0) ::close(door);
  ::close(runner_socket);
}

std::optional<ZygoteReport> Zygote::receive() {
  ZygoteReport report{.kind = ZygoteReport::Kind::failed, .weights = {}};
  const ssize_t got = ::recv(socket_, &report, sizeof report, MSG_DONTWAIT);
  if (got == sizeof report) return report;
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return std::nullopt;
  fail(Exit::internal, "zygote-lost", "the zygote died");
}

}  // namespace myriad
