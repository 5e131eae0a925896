// RunnerCore: the runner's side of the data path, without sockets and environments.
//
// Says when a fragment may be sampled and with which weights, keeps each fragment until it is acknowledged, asks again
// when the learner is silent. Weights change only between fragments. A state machine: one thread, time comes in.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "rl/wire/messages.hpp"

namespace myriad {

class RunnerCore {
 public:
  struct Identity {
    uint64_t run, epoch;
    uint32_t slot, incarnation;
    uint64_t spec_hash, fragment_hash;
    size_t num_inference_parameters, filter_size;
  };
  static constexpr Time kRetry = std::chrono::milliseconds(250);

  explicit RunnerCore(const Identity& identity) : id_(identity) {}

  /// A message from the learner. Messages of another run, epoch or incarnation, and weights of another layout, are
  /// counted and dropped.
  void received(const Message& message, Time now);
  /// The fragment the shell filled after may_sample(); it is sent and kept.
  void finished(std::shared_ptr<Fragment> fragment, uint64_t sampling_ns, uint64_t waiting_ns, Time now);
  /// The runner's state for the checkpoint asked for (safetensors bytes).
  void state_saved(SharedBytes state, Time now);
  /// Call when nothing else happened until next_timer().
  void tick(Time now);

  /// Messages to send to the learner, oldest first; the caller takes them.
  std::vector<Message> take_outputs() { return std::exchange(outputs_, {}); }

  bool may_sample() const;  ///< credit is left and the weights are new enough
  const WeightsPtr& weights() const { return weights_; }
  uint64_t next_seq() const { return produced_; }
  bool wants_state() const { return want_state_ > state_sent_ && !may_sample(); }
  Time next_timer() const { return last_sent_ + kRetry; }
  const std::string& refused() const { return refused_; }  ///< non-empty: the learner will never take this runner
  uint64_t dropped() const { return dropped_; }
  /// A fragment buffer that is no longer needed, to be filled again.
  std::shared_ptr<Fragment> take_free();

 private:
  struct Unacknowledged {
    std::shared_ptr<Fragment> fragment;
    Message message;
  };
  void send(Message message, Time now);
  void send_join(Time now);

  Identity id_;
  WeightsPtr weights_;
  uint64_t granted_ = 0, produced_ = 0, required_version_ = 0;
  uint64_t want_state_ = 0, state_sent_ = 0, dropped_ = 0;
  std::optional<Message> state_message_;
  std::deque<Unacknowledged> unacknowledged_;
  std::vector<std::shared_ptr<Fragment>> free_;
  std::vector<Message> outputs_;
  std::string refused_;
  Time last_sent_ = -kRetry;
};

}  // namespace myriad
