// libmyriad_client: what sdk/include/myriad/client.h promises, over the same frames as Myriad's side (rl/simulator).
#include "sdk/include/myriad/client.h"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <random>
#include <thread>

#include "rl/check.hpp"
#include "rl/random.hpp"
#include "rl/shared_memory.hpp"
#include "rl/simulator/channel.hpp"

namespace myriad::simulator {
namespace {

constexpr size_t kAlign = 64;
constexpr Time kForever = std::chrono::hours(24 * 365);

size_t aligned(size_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

std::unique_ptr<SpaceT> space_message(const myriad_space& space) {
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

/// A descriptor that listens at, or is connected to, "HOST:PORT" or a path.
int dial(const std::string& address, bool listens) {
  const auto give_up = [&](int fd, const char* why) {
    if (fd >= 0) ::close(fd);
    fail(Exit::environment, "no-address", "{}: {}", address, why);
  };
  const auto open = [&](int fd, const sockaddr* name, socklen_t size) {
    if (fd < 0) give_up(fd, std::strerror(errno));
    const int on = 1;
    ::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    const bool done = listens ? ::bind(fd, name, size) == 0 && ::listen(fd, 128) == 0 : ::connect(fd, name, size) == 0;
    if (!done) give_up(fd, std::strerror(errno));
    ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    return fd;
  };
  const size_t colon = address.rfind(':');
  if (address.find('/') != std::string::npos || colon == std::string::npos) {
    sockaddr_un name{};
    name.sun_family = AF_UNIX;
    if (address.size() >= sizeof name.sun_path) give_up(-1, "a unix socket's path has at most 107 characters");
    std::memcpy(name.sun_path, address.data(), address.size());
    if (listens) ::unlink(address.c_str());
    return open(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0), reinterpret_cast<const sockaddr*>(&name),
                sizeof name);
  }
  addrinfo hints{}, *found = nullptr;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = listens ? AI_PASSIVE : 0;
  const int problem =
      ::getaddrinfo(address.substr(0, colon).c_str(), address.substr(colon + 1).c_str(), &hints, &found);
  if (problem != 0) give_up(-1, ::gai_strerror(problem));
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> kept(found, ::freeaddrinfo);
  return open(::socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0), found->ai_addr, found->ai_addrlen);
}

/// What Myriad answers. Throws Error with its words when it refuses.
template <class T>
T expect(MessageT message) {
  if (const auto* refused = as<RefusedT>(message))
    throw Error(Exit::usage, "refused", fmt::format("Myriad refuses [{}]: {}", refused->code, refused->text));
  auto* wanted = const_cast<T*>(as<T>(message));
  if (wanted == nullptr)
    fail(Exit::environment, "simulator-malformed", "Myriad sent a {} where none is due",
         EnumNameBody(message.body.type));
  return std::move(*wanted);
}

// ---- a simulator that is stepped ----

/// A plugin's random numbers, from a seed of Myriad's.
struct Numbers : myriad_random {
  explicit Numbers(uint64_t seed) : stream(seed, StreamPurpose::environment, 0) {
    bits = [](const myriad_random* r) { return of(r).next_u64(); };
    uniform = [](const myriad_random* r, double low, double high) { return of(r).uniform(low, high); };
    normal = [](const myriad_random* r) { return of(r).normal(); };
  }
  static RandomStream& of(const myriad_random* r) {
    return const_cast<Numbers*>(static_cast<const Numbers*>(r))->stream;
  }
  RandomStream stream;
};

class Host {
 public:
  Host(Channel channel, const myriad_plugin& plugin) : channel_(std::move(channel)), plugin_(plugin) {}
  ~Host() {
    for (myriad_env* env : envs_) plugin_.destroy(env);
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
  template <class Call>
  static void call(Call f) {
    myriad_error error{};
    if (f(&error) != 0) throw std::runtime_error(error.text[0] != '\0' ? error.text : "the environment gave no reason");
  }

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
    call([&](myriad_error* error) { return plugin_.spaces(values_.data(), &observation, &action, error); });
    hello.protocol = kProtocol;
    hello.role = Role::steps;
    hello.name = hello.source = plugin_.id;
    hello.observation = space_message(observation);
    hello.action = space_message(action);
    hello.max_episode_steps = static_cast<uint32_t>(std::max(plugin_.max_episode_steps, 0));
    hello.reward_threshold = plugin_.reward_threshold;
    row_bytes_ = to_space(hello.observation.get(), "observation").row_bytes();
    action_bytes_ = to_space(hello.action.get(), "action").row_bytes();
    channel_.send(frame_of(std::move(hello)));
  }

  void begin(const WelcomeT& welcome) {
    n_ = welcome.num_envs;
    if (welcome.observation_bytes != row_bytes_ || welcome.action_bytes != action_bytes_ || n_ == 0 || n_ > 1 << 20)
      fail(Exit::environment, "simulator-malformed", "Myriad lays these spaces out in other rows: update the library");
    finals_ = aligned(n_ * row_bytes_);
    actions_ = finals_ + aligned(n_ * row_bytes_);
    rewards_ = actions_ + aligned(n_ * action_bytes_);
    flags_ = rewards_ + aligned(n_ * sizeof(double));
    active_ = flags_ + aligned(n_);
    const size_t total = active_ + aligned(n_);
    if (welcome.shared_bytes > 0)
      memory_.emplace(SharedMemory::map(channel_.take_descriptor(), total, true));
    else
      copies_.resize(total / sizeof(double));
    data_ = memory_ ? memory_->data() : reinterpret_cast<std::byte*>(copies_.data());
    for (const auto& option : welcome.options)
      for (size_t i = 0; i < plugin_.num_options; ++i)
        if (option && option->name == plugin_.options[i].name) values_[i] = option->value;
    for (size_t i = 0; i < n_; ++i) {
      myriad_env* env = nullptr;
      call([&](myriad_error* error) { return (env = plugin_.create(values_.data(), error)) == nullptr; });
      envs_.push_back(env);
      numbers_.emplace_back(std::random_device{}());
    }
    if (memory_) stepped_ = frame_of(SteppedT{});
  }

  void answer(MessageT message) {
    if (const auto* step = as<StepT>(message)) {
      if (!memory_) {
        if (step->actions.size() != n_ * action_bytes_ || step->active.size() != n_)
          fail(Exit::environment, "simulator-malformed", "Myriad sent a Step of other sizes");
        std::memcpy(data_ + actions_, step->actions.data(), step->actions.size());
        std::memcpy(data_ + active_, step->active.data(), n_);
      }
      for (size_t i = 0; i < n_; ++i)
        if (data_[active_ + i] != std::byte{0}) this->step(i);
    } else if (const auto* reset = as<ResetT>(message)) {
      for (size_t k = 0; k < reset->envs.size(); ++k) {
        const size_t i = reset->envs[k];
        if (i >= n_) fail(Exit::environment, "simulator-malformed", "Myriad resets environment {} of {}", i, n_);
        if (k < reset->seeds.size()) numbers_[i] = Numbers(reset->seeds[k]);
        this->reset(i);
      }
    } else {
      fail(Exit::environment, "simulator-malformed", "Myriad sent a {} to a simulator",
           EnumNameBody(message.body.type));
    }
    if (!memory_) stepped_ = frame_of(copy());
    channel_.send(stepped_);
  }

  void reset(size_t i) {
    call([&](myriad_error* error) { return plugin_.reset(envs_[i], &numbers_[i], data_ + i * row_bytes_, error); });
  }

  void step(size_t i) {
    std::byte* row = data_ + i * row_bytes_;
    double reward = 0;
    uint8_t ended = 0;
    call([&](myriad_error* error) {
      return plugin_.step(envs_[i], data_ + actions_ + i * action_bytes_, &numbers_[i], row, &reward, &ended, error);
    });
    std::memcpy(data_ + rewards_ + i * sizeof reward, &reward, sizeof reward);
    data_[flags_ + i] = std::byte{ended};
    if (ended == 0) return;
    std::memcpy(data_ + finals_ + i * row_bytes_, row, row_bytes_);
    reset(i);
  }

  SteppedT copy() const {
    const auto bytes = [&](size_t at, size_t size) {
      const auto* from = reinterpret_cast<const uint8_t*>(data_ + at);
      return std::vector<uint8_t>(from, from + size);
    };
    SteppedT stepped;
    stepped.observations = bytes(0, n_ * row_bytes_);
    stepped.finals = bytes(finals_, n_ * row_bytes_);
    stepped.flags = bytes(flags_, n_);
    stepped.rewards.resize(n_);
    std::memcpy(stepped.rewards.data(), data_ + rewards_, n_ * sizeof(double));
    return stepped;
  }

  Channel channel_;
  const myriad_plugin& plugin_;
  std::vector<double> values_;  // of the options
  std::vector<myriad_env*> envs_;
  std::vector<Numbers> numbers_;
  size_t n_ = 0, row_bytes_ = 0, action_bytes_ = 0;
  size_t finals_ = 0, actions_ = 0, rewards_ = 0, flags_ = 0, active_ = 0;
  std::optional<SharedMemory> memory_;
  std::vector<double> copies_;
  std::byte* data_ = nullptr;
  std::vector<std::byte> stepped_;
};

void serve(const myriad_plugin& plugin, const char* listen) {
  const char* started = std::getenv("MYRIAD_SIMULATOR_FD");
  if (started != nullptr) return Host(Channel(std::atoi(started), "Myriad", true), plugin).run();
  if (listen == nullptr)
    fail(Exit::usage, "not-started",
         "Myriad did not start this process: give an address to listen at, for env = \"connect:ADDRESS\"");
  const int door = dial(listen, true);
  ::signal(SIGCHLD, SIG_IGN);  // nobody asks how they end
  for (;;) {
    const int fd = ::accept4(door, nullptr, nullptr, SOCK_CLOEXEC);
    if (fd < 0 && errno == EINTR) continue;
    if (fd < 0) fail(Exit::environment, "no-address", "{}: {}", listen, std::strerror(errno));
    const int on = 1;
    ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
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
    hello.observation = space_message(observation_space);
    hello.action = space_message(action_space);
    row_bytes = to_space(hello.observation.get(), "observation").row_bytes();
    action_bytes = to_space(hello.action.get(), "action").row_bytes();
    connect();
  }

  void need(bool wanted, const char* what) const {
    if (playing != wanted) throw std::runtime_error(what);
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
    ++t;
    reward += r;
    ask(observation, action);
  }
  void end(const void* observation, double r, int ended) {
    need(true, "no episode runs: say begin() first");
    if (ended != MYRIAD_TERMINATED && ended != MYRIAD_TRUNCATED)
      throw std::runtime_error("an episode ends MYRIAD_TERMINATED or MYRIAD_TRUNCATED");
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
    const auto* bytes = static_cast<const uint8_t*>(observation);
    seen.observation.assign(bytes, bytes + row_bytes);
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
    const WelcomeT welcome = connect();
    const bool knows = welcome.taken && welcome.episode == static_cast<uint64_t>(episode) && welcome.t + 1 >= t;
    if (t > 0 && !knows) {
      playing = false;
      throw EpisodeGone(
          fmt::format("the run has given up episode {} after the connection was lost: begin another", episode));
    }
    channel->send(said);
  }

  WelcomeT connect() {
    static const std::unique_ptr<Clock> clock = make_system_clock();
    const Time until = clock->now() + patience;
    for (Time pause = std::chrono::milliseconds(50);; pause = std::min<Time>(2 * pause, std::chrono::seconds(2))) {
      try {
        channel.reset();
        channel.emplace(dial(address, false), "Myriad", false);
        channel->send(frame_of(HelloT(hello)));
        WelcomeT welcome = expect<WelcomeT>(channel->receive(std::chrono::seconds(30)));
        hello.session = welcome.session;
        return welcome;
      } catch (const Error& error) {
        if (error.code() == "refused" || clock->now() + pause > until) throw;
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
    client->reward += reward;
  });
}
int myriad_client_end(myriad_client* client, const void* observation, double reward, int ended, myriad_error* error) {
  return guarded(error, [&] { client->end(observation, reward, ended); });
}
void myriad_client_close(myriad_client* client) { delete client; }
