// Simulator: a process that holds some environments (Role::steps), reset and stepped by messages.
//
//   start or connect -> Hello -> Welcome [+ shared memory] -> Reset -> Stepped, Step -> Stepped, ...
//
// On one host rows lie in shared memory and the messages only synchronise. An environment that ends begins its
// next episode by itself, in the same answer: an end costs no round trip.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "rl/env_context.hpp"
#include "rl/environment.hpp"
#include "rl/private_folder.hpp"
#include "rl/shared_memory.hpp"
#include "rl/simulator/channel.hpp"
#include "rl/simulator/shared_rows.hpp"

namespace myriad::simulator {

/// Where simulators come from.
struct Source {
  std::vector<std::string> command;  ///< a process to start
  std::string address;               ///< or, without one, where it listens: "HOST:PORT" or a unix socket's path
  std::string python_path = {};      ///< of a command: what PYTHONPATH begins with
  std::string name() const;          ///< the command or the address, for people
};

/// How long a simulator may take to end by itself, with close() and what it does at its exit, when its connection has
/// closed; then it is killed.
inline constexpr Time kCloseGrace = std::chrono::seconds(5);

class Simulator {
 public:
  /// Starts or connects, where it waits for a peer that is away, and receives its Hello. `first_env`: index in the run
  /// of its first environment. Throws Error.
  Simulator(const Source& source, const EnvOptions& options, const EnvContext& context, uint64_t first_env);
  /// Closes, and waits for its end, unless a call has failed; what it started ends with it.
  ~Simulator();
  Simulator(const Simulator&) = delete;

  const HelloT& hello() const { return hello_; }

  /// Closes the connection: it is to end. Several are told so before the first is waited for.
  void close() { channel_.reset(); }

  /// It is to hold `num_envs` environments.
  void welcome(size_t num_envs, const EnvOptions& options);

  void submit(size_t env, std::span<const std::byte> action);
  /// Tells it to step those that have an action, unless it has been told.
  void begin_step();
  void finish_step();  ///< waits for the answer, if it has been told
  bool submitted(size_t env) const { return active()[env] != 0; }
  /// `anew`: it makes the environment anew first.
  void reset(size_t env, std::optional<uint64_t> seed, bool anew);
  /// Why the environment failed in the newest answer, once; none: it did not.
  std::optional<std::string> take_failure(size_t env);

  /// The next of what the process was warned of; "": nothing more.
  std::string take_warning();

  // An environment's part of the newest answer; copies, since the process may write at any time.
  void observation(size_t env, std::span<std::byte> row) const;
  void final_observation(size_t env, std::span<std::byte> row) const;
  double reward(size_t env) const { return reinterpret_cast<const double*>(block(rows_.rewards))[env]; }
  const std::vector<std::string>& number_names() const { return number_names_; }
  EpisodeNumber number(size_t env, size_t i) const {
    const double* pair = reinterpret_cast<const double*>(block(rows_.numbers)) + 2 * (env * kMaxNumbers + i);
    return {number_names_[i], pair[0], pair[1]};
  }
  const std::string& name() const { return channel_->name(); }
  static constexpr uint8_t kTerminated = 1, kTruncated = 2, kNotBegun = 4, kWaits = 8, kAlone = 16;  ///< in flags()
  uint8_t flags(size_t env) const { return static_cast<uint8_t>(*block(rows_.flags + env)); }

 private:
  void start(const Source& source, const EnvOptions& options, const EnvContext& context, uint64_t first_env);
  void connect(const std::string& address, const EnvContext& context);
  void hear(const char* asked, std::optional<size_t> only);
  void take_hello();
  void end();
  MessageT answer();
  MessageT starting();
  std::string ending();  // "ended with exit status 1"; waits for it, a second at most
  void check_row(const char* what, size_t bytes, size_t mine) const;
  template <class F>
  void explained(F&& f);
  std::byte* block(size_t offset) const { return memory_->data() + offset; }
  uint8_t* active() const { return reinterpret_cast<uint8_t*>(block(rows_.active)); }

  Time answer_timeout_, start_timeout_;
  uint32_t world_steps_;
  bool stepped_ = false;           // once: its start is over
  std::optional<size_t> renewed_;  // the environment that it makes anew, after that
  bool broken_ = false;            // a call has failed: its end is not waited for
  size_t made_ = 0;                // environments, as it says
  std::function<void(size_t made, size_t of)> made_to_;
  Time next_note_{};
  int pid_ = -1;
  std::string mark_;                        // MYRIAD_SIMULATOR of a process, and of those that it starts
  std::optional<PrivateFolder> temporary_;  // its TMPDIR
  std::optional<Channel> channel_;
  HelloT hello_;
  size_t num_envs_ = 0;
  SharedRows rows_;
  bool local_ = false, stepping_ = false;
  std::optional<SharedMemory> memory_;  // where it is not shared, filled from messages
  std::vector<std::byte> step_frame_;
  std::vector<std::pair<size_t, std::string>> failed_;  // of the newest answer about each
  std::vector<std::string> number_names_;
  std::deque<std::string> warnings_;
};

}  // namespace myriad::simulator
