// libmyriad_client: what sdk/include/myriad/client.h promises, over the same frames as Myriad's side (rl/simulator).
#include "sdk/include/myriad/client.h"

#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <random>
#include <thread>

#include "rl/action_mask.hpp"
#include "rl/check.hpp"
#include "rl/plugin_calls.hpp"
#include "rl/shared_memory.hpp"
#include "rl/simulator/address.hpp"
#include "rl/simulator/channel.hpp"
#include "rl/simulator/shared_rows.hpp"

namespace myriad::simulator {
namespace {

constexpr Time kForever = std::chrono::hours(24 * 365);
constexpr std::byte kNotBegun{4};  // in flags

/// `name`: "observation" or "action".
std::unique_ptr<SpaceT> space_message(const myriad_space& space, const char* name) {
  if (const std::string problem = problem_of(space); !problem.empty())
    fail(Exit::usage, "bad-space", "the {} space {}", name, problem);
  auto out = std::make_unique<SpaceT>();
  switch (space.kind) {
    case MYRIAD_BOX:
      out->kind = SpaceKind::Box;
      out->dtype = static_cast<DType>(space.dtype);
      out->shape.assign(space.shape, space.shape + space.num_dims);
      out->low.assign(space.low, space.low + space.num_bounds);
      out->high.assign(space.high, space.high + space.num_bounds);
      break;
    case MYRIAD_MULTI_DISCRETE:
      out->kind = SpaceKind::MultiDiscrete;
      out->nvec.assign(space.nvec, space.nvec + space.n);
      break;
    default:
      out->kind = space.kind == MYRIAD_DISCRETE ? SpaceKind::Discrete : SpaceKind::MultiBinary;
      out->n = space.n;
      out->start = space.start;
  }
  return out;
}

/// Whether its observations have action masks behind them; a program of an older header has a shorter table.
bool masks_actions(const myriad_plugin& plugin) {
  return plugin.size > offsetof(myriad_plugin, masks_actions) && plugin.masks_actions != 0;
}

/// How many numbers of an episode its environments give.
size_t num_numbers(const myriad_plugin& plugin) {
  const bool knows = plugin.size > offsetof(myriad_plugin, numbers) && plugin.numbers != nullptr;
  return knows ? std::min(plugin.num_numbers, kMaxNumbers) : 0;
}

/// connect_to() or listen_at(). Throws Error.
int open_socket(int (*open)(const std::string& address), const std::string& address) try {
  return open(address);
} catch (const std::runtime_error& error) { fail(Exit::environment, "no-address", "{}: {}", address, error.what()); }

/// What Myriad answers. Throws Error with its words when it refuses.
template <class T>
T expect(MessageT message) {
  if (const auto* refused = as<RefusedT>(message))
    throw Error(Exit::usage, "refused", fmt::format("Myriad refuses [{}]: {}", refused->code, refused->text));
  auto* wanted = as<T>(message);
  if (wanted == nullptr)
    fail(Exit::environment, "simulator-malformed", "Myriad sent a {} where none is due",
         EnumNameBody(message.body.type));
  return std::move(*wanted);
}

// ---- a simulator that is stepped ----

class Host {
 public:
  Host(Channel channel, const myriad_plugin& plugin) : channel_(std::move(channel)), plugin_(plugin) {}
  ~Host() {
    for (size_t i = 0; i < envs_.size(); ++i) discard(i);
  }

  /// Until Myriad is gone.
  void run() {
    try {
      hello();
      begin(expect<WelcomeT>(channel_.receive(kForever)));
      for (;;) answer(channel_.receive(kForever));
    } catch (const Error& error) {
      if (error.code() == "simulator-gone") return;
      say(error.what());
      throw;
    } catch (const std::exception& error) {
      say(error.what());
      throw;
    }
  }

 private:
  static RandomStream stream_of(uint64_t seed) { return {seed, StreamPurpose::environment, 0}; }

  void say(const char* text) {
    FailureT failure;
    failure.text = text;
    try {
      channel_.send(frame_of(std::move(failure)));
    } catch (const Error&) {}  // nobody listens
  }

  void hello() {
    // What env_config says, where Myriad started this process: "name=value" lines.
    const char* given = std::getenv("MYRIAD_SIMULATOR_OPTIONS");
    const std::string text = given == nullptr ? "" : std::string("\n") + given + "\n";
    HelloT hello;
    for (size_t i = 0; i < plugin_.num_options; ++i) {
      const myriad_option& option = plugin_.options[i];
      const size_t at = text.find(std::string("\n") + option.name + "=");
      values_.push_back(at == std::string::npos
                            ? option.value
                            : std::strtod(text.c_str() + at + 2 + std::strlen(option.name), nullptr));
      hello.options.push_back(std::make_unique<OptionT>());
      hello.options.back()->name = option.name;
      hello.options.back()->value = option.value;
    }
    myriad_space observation{}, action{};
    call_plugin([&](myriad_error* error) { return plugin_.spaces(values_.data(), &observation, &action, error); });
    hello.protocol = kProtocol;
    hello.role = Role::steps;
    hello.name = hello.source = plugin_.id;
    hello.observation = space_message(observation, "observation");
    hello.action = space_message(action, "action");
    if (masks_actions(plugin_))
      hello.observation = to_wire(
          with_action_mask(to_space(hello.observation.get(), "observation"), to_space(hello.action.get(), "action")));
    hello.max_episode_steps = static_cast<uint32_t>(std::max(plugin_.max_episode_steps, 0));
    hello.reward_threshold = plugin_.reward_threshold;
    rows_.observation_bytes = to_space(hello.observation.get(), "observation").row_bytes();
    rows_.action_bytes = to_space(hello.action.get(), "action").row_bytes();
    channel_.send(frame_of(std::move(hello)));
  }

  void begin(const WelcomeT& welcome) {
    n_ = welcome.num_envs;
    if (welcome.observation_bytes != rows_.observation_bytes || welcome.action_bytes != rows_.action_bytes || n_ == 0 ||
        n_ > 1 << 20)
      fail(Exit::environment, "simulator-malformed", "Myriad lays these spaces out in other rows: update the library");
    rows_ = {n_, rows_.observation_bytes, rows_.action_bytes};
    if (welcome.shared_bytes > 0)
      memory_.emplace(
          SharedMemory::map(channel_.take_descriptor(), std::min<size_t>(rows_.bytes, welcome.shared_bytes), true));
    else
      copies_.resize(rows_.bytes / sizeof(double));
    data_ = memory_ ? memory_->data() : reinterpret_cast<std::byte*>(copies_.data());
    for (const auto& option : welcome.options)
      for (size_t i = 0; i < plugin_.num_options; ++i)
        if (option && option->name == plugin_.options[i].name) values_[i] = option->value;
    takes_failed_ = welcome.takes_failed;
    takes_numbers_ = welcome.max_numbers == kMaxNumbers;
    if (takes_numbers_)
      for (size_t k = 0; k < num_numbers(plugin_); ++k) names_to_tell_.emplace_back(plugin_.number_names[k]);
    if (const char* first = std::getenv("MYRIAD_ENV_INDEX")) first_env_ = std::strtoull(first, nullptr, 10);
    not_begun_.resize(n_);
    envs_.resize(n_);
    for (size_t i = 0; i < n_; ++i) {
      make(i);
      streams_.push_back(stream_of(std::random_device{}()));
      if (!welcome.hears_made) continue;
      MadeT made;
      made.envs = static_cast<uint32_t>(i + 1);
      channel_.send(frame_of(std::move(made)));
    }
    if (memory_) stepped_ = frame_of(SteppedT{});
  }

  void make(size_t i) {
    if (envs_[i] != nullptr) return;
    ::setenv("MYRIAD_ENV_INDEX", std::to_string(first_env_ + i).c_str(), 1);
    call_plugin([&](myriad_error* error) { return (envs_[i] = plugin_.create(values_.data(), error)) == nullptr; });
  }
  void discard(size_t i) {
    if (envs_[i] != nullptr) plugin_.destroy(std::exchange(envs_[i], nullptr));
  }

  /// f(), whose error is environment i's alone.
  template <class F>
  void attempt(size_t i, F&& f) {
    try {
      f();
    } catch (const std::exception& error) {
      if (!takes_failed_) throw;
      failed_.push_back(std::make_unique<FailedEnvT>());
      failed_.back()->env = static_cast<uint32_t>(i);
      failed_.back()->text = error.what();
      discard(i);
    }
  }

  void answer(MessageT message) {
    if (const auto* step = as<StepT>(message)) {
      if (!memory_) {
        if (step->actions.size() != n_ * rows_.action_bytes || step->active.size() != n_)
          fail(Exit::environment, "simulator-malformed", "Myriad sent a Step of other sizes");
        std::memcpy(data_ + rows_.actions, step->actions.data(), step->actions.size());
        std::memcpy(data_ + rows_.active, step->active.data(), n_);
      }
      for (size_t i = 0; i < n_; ++i)
        if (data_[rows_.active + i] != std::byte{0}) attempt(i, [&] { this->step(i); });
    } else if (const auto* reset = as<ResetT>(message)) {
      for (size_t k = 0; k < reset->envs.size(); ++k) {
        const size_t i = reset->envs[k];
        if (i >= n_) fail(Exit::environment, "simulator-malformed", "Myriad resets environment {} of {}", i, n_);
        if (k < reset->seeds.size()) streams_[i] = stream_of(reset->seeds[k]);
        attempt(i, [&] {
          if (reset->anew) discard(i), not_begun_[i].clear();
          if (!not_begun_[i].empty()) throw std::runtime_error(std::exchange(not_begun_[i], ""));
          make(i);
          this->reset(i);
        });
      }
    } else {
      fail(Exit::environment, "simulator-malformed", "Myriad sent a {} to a simulator",
           EnumNameBody(message.body.type));
    }
    if (memory_ && failed_.empty() && names_to_tell_.empty()) return channel_.send(stepped_);
    SteppedT stepped = memory_ ? SteppedT{} : copy();
    stepped.number_names = std::exchange(names_to_tell_, {});
    stepped.failed = std::exchange(failed_, {});
    channel_.send(frame_of(std::move(stepped)));
  }

  void reset(size_t i) {
    const PluginRandom random(&streams_[i]);
    call_plugin([&](myriad_error* error) {
      return plugin_.reset(envs_[i], &random, data_ + i * rows_.observation_bytes, error);
    });
  }

  void step(size_t i) {
    std::byte* row = data_ + i * rows_.observation_bytes;
    const PluginRandom random(&streams_[i]);
    double reward = 0;
    uint8_t ended = 0;
    call_plugin([&](myriad_error* error) {
      return plugin_.step(envs_[i], data_ + rows_.actions + i * rows_.action_bytes, &random, row, &reward, &ended,
                          error);
    });
    if (plugin_.size == offsetof(myriad_plugin, render)) ended = ended != 0 ? MYRIAD_TERMINATED : 0;  // minor version 0
    if (ended > (MYRIAD_TERMINATED | MYRIAD_TRUNCATED))
      throw std::runtime_error(
          fmt::format("`ended` is {}, want MYRIAD_TERMINATED, MYRIAD_TRUNCATED or 0", static_cast<int>(ended)));
    std::memcpy(data_ + rows_.rewards + i * sizeof reward, &reward, sizeof reward);
    data_[rows_.flags + i] = std::byte{ended};
    write_numbers(i);
    if (ended == 0) return;
    std::memcpy(data_ + rows_.finals + i * rows_.observation_bytes, row, rows_.observation_bytes);
    try {
      reset(i);
    } catch (const std::exception& error) {  // the episode that has ended is none the worse
      if (!takes_failed_) throw;
      not_begun_[i] = error.what();
      data_[rows_.flags + i] |= kNotBegun;
    }
  }

  /// At each step: Myriad may end an episode without a word.
  void write_numbers(size_t i) {
    const size_t n = num_numbers(plugin_);
    if (n == 0 || !takes_numbers_) return;
    numbers_.resize(plugin_.num_numbers);
    call_plugin([&](myriad_error* error) { return plugin_.numbers(envs_[i], numbers_.data(), error); });
    for (size_t k = 0; k < n; ++k) {
      const double pair[2] = {numbers_[k], numbers_[k]};
      std::memcpy(data_ + rows_.numbers + (i * kMaxNumbers + k) * sizeof pair, pair, sizeof pair);
    }
  }

  SteppedT copy() const {
    const auto bytes = [&](size_t at, size_t size) { return bytes_of({data_ + at, size}); };
    SteppedT stepped;
    stepped.observations = bytes(0, n_ * rows_.observation_bytes);
    stepped.finals = bytes(rows_.finals, n_ * rows_.observation_bytes);
    stepped.flags = bytes(rows_.flags, n_);
    stepped.rewards.resize(n_);
    std::memcpy(stepped.rewards.data(), data_ + rows_.rewards, n_ * sizeof(double));
    if (takes_numbers_) {
      stepped.numbers.resize(n_ * kMaxNumbers * 2);
      std::memcpy(stepped.numbers.data(), data_ + rows_.numbers, stepped.numbers.size() * sizeof(double));
    }
    return stepped;
  }

  Channel channel_;
  const myriad_plugin& plugin_;
  std::vector<double> values_;     // of the options
  uint64_t first_env_ = 0;         ///< of the run
  std::vector<myriad_env*> envs_;  // nullptr: it failed
  std::vector<RandomStream> streams_;
  std::vector<std::unique_ptr<FailedEnvT>> failed_;  // to be told
  std::vector<std::string> not_begun_;               // why an environment's next episode has not begun; "": it has
  bool takes_failed_ = false, takes_numbers_ = false;
  std::vector<std::string> names_to_tell_;
  std::vector<double> numbers_;  // of one environment
  size_t n_ = 0;
  SharedRows rows_;
  std::optional<SharedMemory> memory_;
  std::vector<double> copies_;
  std::byte* data_ = nullptr;
  std::vector<std::byte> stepped_;
};

sigset_t left_to_myriad;

/// What is sent to all processes of a run at once ends the run, which closes the connection. Programs that this one
/// starts, and forks of it, have the signals as they were; one that comes amid a fork waits until that is so.
void leave_signals_to_myriad() {
  static constexpr std::array kSignals{SIGINT, SIGTERM, SIGHUP};
  ::sigemptyset(&left_to_myriad);
  for (const int signal : kSignals) {
    struct sigaction before {
    }, nothing{};
    nothing.sa_handler = [](int) {};
    nothing.sa_flags = SA_RESTART;
    if (::sigaction(signal, nullptr, &before) == 0 && before.sa_handler == SIG_DFL &&
        ::sigaction(signal, &nothing, nullptr) == 0)
      ::sigaddset(&left_to_myriad, signal);
  }
  ::pthread_atfork([] { ::pthread_sigmask(SIG_BLOCK, &left_to_myriad, nullptr); },
                   [] { ::pthread_sigmask(SIG_UNBLOCK, &left_to_myriad, nullptr); },
                   [] {
                     for (const int signal : kSignals)
                       if (::sigismember(&left_to_myriad, signal) == 1) ::signal(signal, SIG_DFL);
                     ::pthread_sigmask(SIG_UNBLOCK, &left_to_myriad, nullptr);
                   });
}

void serve(const myriad_plugin& plugin, const char* listen) {
  const char* started = std::getenv("MYRIAD_SIMULATOR_FD");
  if (started != nullptr) {
    leave_signals_to_myriad();
    return Host(Channel(std::atoi(started), "Myriad", true), plugin).run();
  }
  if (listen == nullptr)
    fail(Exit::usage, "not-started",
         "Myriad did not start this process: give an address to listen at, for env = \"connect:ADDRESS\"");
  const int door = open_socket(listen_at, listen);
  ::signal(SIGCHLD, SIG_IGN);  // nobody asks how they end
  for (;;) {
    const int fd = ::accept4(door, nullptr, nullptr, SOCK_CLOEXEC);
    if (fd < 0 && errno == EINTR) continue;
    if (fd < 0) fail(Exit::environment, "no-address", "{}: {}", listen, std::strerror(errno));
    if (::fork() == 0) {
      ::close(door);
      try {
        Host(Channel(fd, "Myriad", true), plugin).run();
      } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        ::_exit(1);
      }
      ::_exit(0);
    }
    ::close(fd);
  }
}

}  // namespace
}  // namespace myriad::simulator

// ---- a client that asks ----

using namespace myriad;             // NOLINT: this file is the library
using namespace myriad::simulator;  // NOLINT

struct EpisodeGone : std::runtime_error {
  using std::runtime_error::runtime_error;
};

struct myriad_client {
  myriad_client(std::string where, const myriad_space& observation_space, const myriad_space& action_space,
                const char* token, const char* name, double wait_s)
      : address(std::move(where)), patience(seconds(wait_s)) {
    hello.protocol = kProtocol;
    hello.role = Role::asks;
    hello.name = name == nullptr ? "" : name;
    hello.token = token == nullptr ? "" : token;
    hello.observation = space_message(observation_space, "observation");
    hello.action = space_message(action_space, "action");
    row_bytes = to_space(hello.observation.get(), "observation").row_bytes();
    action_bytes = to_space(hello.action.get(), "action").row_bytes();
    connect();
  }

  void need(bool wanted, const char* what) const {
    if (playing != wanted) throw std::runtime_error(what);
  }

  static void check_reward(double r) {
    if (!std::isfinite(r)) throw std::runtime_error(fmt::format("reward = {}", r));
  }

  void begin(const void* observation, void* action) {
    need(false, "the episode before has not ended: say end() first");
    ++episode;
    t = 0;
    reward = 0;
    playing = true;
    ask(observation, action);
  }
  void act(const void* observation, double r, void* action) {
    need(true, "no episode runs: say begin() first");
    check_reward(r);
    ++t;
    reward += r;
    ask(observation, action);
  }
  void end(const void* observation, double r, int ended) {
    need(true, "no episode runs: say begin() first");
    if (ended != MYRIAD_TERMINATED && ended != MYRIAD_TRUNCATED)
      throw std::runtime_error("an episode ends MYRIAD_TERMINATED or MYRIAD_TRUNCATED");
    check_reward(r);
    ++t;
    reward += r;
    playing = false;
    say(observation, ended);
    send();
  }

  void say(const void* observation, int ended) {
    ObservationT seen;
    seen.episode = static_cast<uint64_t>(episode);
    seen.t = t;
    seen.observation = bytes_of({static_cast<const std::byte*>(observation), row_bytes});
    seen.reward = std::exchange(reward, 0.0);
    seen.terminated = ended == MYRIAD_TERMINATED;
    seen.truncated = ended == MYRIAD_TRUNCATED;
    said = frame_of(std::move(seen));
  }

  void send() {
    try {
      channel->send(said);
    } catch (const Error&) { come_back(); }
  }

  void ask(const void* observation, void* action) {
    say(observation, 0);
    send();
    for (;;) {
      ActionT answer;
      try {
        answer = expect<ActionT>(channel->receive(kForever));
      } catch (const Error& error) {
        if (error.code() != "simulator-gone") throw;
        come_back();
        continue;
      }
      if (answer.episode != static_cast<uint64_t>(episode) || answer.t != t) continue;  // of before
      if (answer.action.size() != action_bytes)
        fail(Exit::environment, "simulator-malformed", "Myriad sent an action of {} bytes, want {}",
             answer.action.size(), action_bytes);
      std::memcpy(action, answer.action.data(), action_bytes);
      return;
    }
  }

  /// Connects again, and repeats what may not have arrived.
  void come_back() {
    for (;;) {
      const WelcomeT welcome = connect();
      const bool knows = welcome.taken && welcome.episode == static_cast<uint64_t>(episode) && welcome.t + 1 >= t;
      if (t > 0 && !knows) {
        playing = false;
        throw EpisodeGone(
            fmt::format("the run has given up episode {} after the connection was lost: begin another", episode));
      }
      try {
        return channel->send(said);
      } catch (const Error&) {}  // lost again
    }
  }

  WelcomeT connect() {
    const Time until = system_clock().now() + patience;
    for (Time pause = std::chrono::milliseconds(50);; pause = std::min<Time>(2 * pause, std::chrono::seconds(2))) {
      try {
        channel.reset();
        channel.emplace(open_socket(connect_to, address), "Myriad", false);
        channel->send(frame_of(HelloT(hello)));
        WelcomeT welcome = expect<WelcomeT>(channel->receive(std::chrono::seconds(30)));
        hello.session = welcome.session;
        return welcome;
      } catch (const Error& error) {
        if (error.code() == "refused" || system_clock().now() + pause > until) throw;
      }
      std::this_thread::sleep_for(pause);
    }
  }

  std::string address;
  Time patience;
  HelloT hello;
  size_t row_bytes = 0, action_bytes = 0;
  std::optional<Channel> channel;
  std::vector<std::byte> said;
  int64_t episode = -1;
  uint32_t t = 0;
  double reward = 0;
  bool playing = false;
};

namespace {

template <class Call>
int guarded(myriad_error* error, Call call) {
  const auto note = [&](const char* text) {
    if (error != nullptr) std::snprintf(error->text, sizeof error->text, "%s", text);
  };
  try {
    call();
    return MYRIAD_OK;
  } catch (const EpisodeGone& gone) {
    note(gone.what());
    return MYRIAD_EPISODE_LOST;
  } catch (const std::exception& e) { note(e.what()); }
  return MYRIAD_FAILED;
}

}  // namespace

int myriad_serve(const myriad_plugin* plugin, const char* listen, myriad_error* error) {
  return guarded(error, [&] { serve(*plugin, listen); });
}

myriad_client* myriad_client_connect(const char* address, const myriad_space* observation, const myriad_space* action,
                                     const char* token, const char* name, double patience_s, myriad_error* error) {
  std::unique_ptr<myriad_client> client;
  guarded(error,
          [&] { client = std::make_unique<myriad_client>(address, *observation, *action, token, name, patience_s); });
  return client.release();
}

int myriad_client_begin(myriad_client* client, const void* observation, void* action, myriad_error* error) {
  return guarded(error, [&] { client->begin(observation, action); });
}
int myriad_client_act(myriad_client* client, const void* observation, double reward, void* action,
                      myriad_error* error) {
  return guarded(error, [&] { client->act(observation, reward, action); });
}
int myriad_client_log_reward(myriad_client* client, double reward, myriad_error* error) {
  return guarded(error, [&] {
    client->need(true, "a reward after the end of the episode counts for nothing");
    client->check_reward(reward);
    client->reward += reward;
  });
}
int myriad_client_end(myriad_client* client, const void* observation, double reward, int ended, myriad_error* error) {
  return guarded(error, [&] { client->end(observation, reward, ended); });
}
void myriad_client_close(myriad_client* client) { delete client; }
