// HostAgent: the decisions of a host's agent, without sockets, processes and shared memory: which runner may sample,
// what is sent to the learner, which runner is restarted, when the agent has drained.
//
//   runners --SlotState/Fragment/RunnerState--> HostAgent --Parcel, Join--> learner
//           <--Permit--------------------------           <--Grant, Weights--
//                                               HostAgent --Hello, Status, Event--> driver
//
// Credit comes from the learner: by slot (sync, lag1), or as bytes that the agent shares among its runners, the one
// that has waited longest first (async); up to kAhead fragments a runner, so that none waits for the relay. A fragment
// that arrived here is kept until the learners have trained on it: a learner that takes over may need it until then. A
// state machine: one thread, time comes in.
#pragma once

#include <deque>
#include <optional>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "rl/wire/messages.hpp"
#include "rl/wire/parcel.hpp"
#include "roles/slot_supervisor.hpp"

namespace myriad {

class HostAgent {
 public:
  struct Options {
    uint64_t run = 0;
    uint64_t epoch = 1;                   ///< of the learner group, at the start
    uint32_t agent = 0, incarnation = 0;  ///< of the agent
    uint32_t first_slot = 0;              ///< its slots are first_slot .. first_slot + slots.num_slots - 1
    uint64_t spec_hash = 0, fragment_hash = 0;
    size_t num_inference_parameters = 0, filter_size = 0, published_size = 0;
    size_t fragment_bytes = 1;  ///< FragmentLayout::capacity_bytes(): what a fragment costs of the credit
    bool by_slot = true;        ///< sync, lag1; else async
    SlotSupervisor::Options slots;
    uint64_t seed = 0;
  };
  static constexpr uint32_t kAhead = 2;
  static constexpr Time kTick = std::chrono::milliseconds(50);
  static constexpr Time kJoinEvery = std::chrono::milliseconds(250);
  static constexpr Time kStatusEvery = std::chrono::milliseconds(500);
  static constexpr Time kLearnerSilence =
      std::chrono::seconds(30);  ///< without a message of the learner; then the agent ends
  static constexpr uint32_t kEventsPerSecond = 20;

  explicit HostAgent(const Options& options);

  // --- inputs ---
  struct Start {};
  struct FromLearner {
    Message message;
  };
  /// Weights of this version lie where the runners look for them.
  struct Installed {
    uint64_t version;
  };
  struct Moved {
    uint64_t epoch;
  };  ///< the learner is another, or has begun anew
  struct FromRunner {
    uint32_t slot, incarnation;  ///< of the connection it came by
    std::span<const std::byte> packed;
  };
  struct RunnerExited {
    uint32_t slot, incarnation;
    std::string cause;
  };  ///< after everything it sent was read
  struct SpawnFailed {
    uint32_t slot, incarnation;
    std::string cause;
  };
  struct Progress {
    uint32_t slot, incarnation;
    bool env_starts = false;  ///< which may take as long as its own start
  };                          ///< a runner stepped or, before it is up, is on its way
  struct Drain {};            ///< preemption: finish and send what is permitted, then leave
  struct StopAll {};          ///< at once
  struct Tick {};
  struct Flush {};  ///< nothing more to read for now
  using Input = std::variant<Start, FromLearner, Installed, Moved, FromRunner, RunnerExited, SpawnFailed, Progress,
                             Drain, StopAll, Tick, Flush>;

  // --- outputs ---
  struct Spawn {
    uint32_t slot, incarnation;
  };
  struct Kill {
    uint32_t slot, incarnation;
    int signal;
  };
  struct ToRunner {
    uint32_t slot;
    Message message;
  };
  struct ToLearner {
    Message message;
  };
  struct ToDriver {
    Message message;
  };
  /// Publish these to the runners as soon as a buffer is free. Permits that need them wait for Installed.
  struct Install {
    WeightsPtr weights;
  };
  struct Refused {
    std::string reason;
    bool silent = false;  ///< nothing came from it for kLearnerSilence
  };                      ///< by the learner: end this agent
  struct Drained {};
  using Output = std::variant<Spawn, Kill, ToRunner, ToLearner, ToDriver, Install, Refused, Drained>;

  void step(const Input& input, Time now, std::vector<Output>& outputs);

  Time next_timer() const { return last_tick_ + kTick; }
  /// The slots whose runner was permitted a fragment that has not come yet.
  const std::set<uint32_t>& sampling() const { return sampling_; }
  /// Whether its runner has started, and not said that it is up.
  bool starting(uint32_t slot) const { return running(slot) && !slots_[slot - options_.first_slot].up; }
  bool running(uint32_t slot) const { return supervisor_.running(slot - options_.first_slot); }
  uint32_t incarnation(uint32_t slot) const { return supervisor_.incarnation(slot - options_.first_slot); }
  bool quarantined(uint32_t slot) const { return supervisor_.quarantined(slot - options_.first_slot); }
  const WeightsPtr& weights() const { return weights_; }
  uint64_t epoch() const { return options_.epoch; }
  uint64_t fragments() const { return fragments_; }
  uint64_t malformed() const { return malformed_; }

 private:
  struct Slot {
    bool up = false;
    uint64_t granted = 0;    // permits of this incarnation, cumulative
    uint64_t received = 0;   // fragments of this incarnation
    uint64_t permitted = 0;  // sent to the runner
    uint64_t told_state = 0;
    std::string last_word;  // the error it sent before it exited
    uint32_t failures = 1;  // in a row, of an environment, that it stands for
  };
  struct Waiting {
    uint32_t slot, incarnation;
  };
  /// What a message in the parcels changes for a learner that begins after it.
  struct Relayed {
    enum class Kind : uint8_t { fragment, up, down, other } kind;
    uint32_t slot, incarnation;
  };
  struct Base {
    uint32_t incarnation = 0;
    uint64_t seq = 0;
    bool up = false, known = false;
  };
  Slot& slot(uint32_t index) { return slots_[index - options_.first_slot]; }
  bool is_mine(uint32_t index) const {
    return index >= options_.first_slot && index - options_.first_slot < slots_.size();
  }
  void from_learner(const Message& message, Time now, std::vector<Output>& outputs);
  void from_runner(const FromRunner& from, Time now, std::vector<Output>& outputs);
  void ended(uint32_t index, uint32_t incarnation, const std::string& cause, Time now, std::vector<Output>& outputs);
  void apply_supervisor(const SlotSupervisor::Input& input, Time now, std::vector<Output>& outputs);
  void share_credit();
  void send_permits(std::vector<Output>& outputs);
  void flush(Time now, std::vector<Output>& outputs);
  void send_join(std::vector<Output>& outputs);
  void send_status(Time now, std::vector<Output>& outputs);
  void event(std::string kind, std::string text, std::vector<Output>& outputs);
  void relay_state(uint32_t index, uint32_t incarnation, bool up);
  void moved(uint64_t epoch, Time now, std::vector<Output>& outputs);
  void grant(const wire::GrantT& grant, Time now, std::vector<Output>& outputs);
  void release(uint64_t messages);
  void update_sampling(uint32_t index);
  Message addressed(Message message) const;

  Options options_;
  SlotSupervisor supervisor_;
  ParcelSender parcels_;
  std::deque<Relayed> relayed_;  // the messages from released_ on
  uint64_t released_ = 0, released_fragments_ = 0;
  std::vector<Base> base_;  // by slot: before message released_
  bool based_ = false;      // the learner knows it
  std::vector<Slot> slots_;
  std::set<uint32_t> sampling_;  // permitted > received
  std::set<uint32_t> changed_;   // granted > permitted, or a state is wanted
  std::deque<Waiting> waiting_;  // async: longest first
  WeightsPtr weights_;
  std::optional<uint64_t> installed_;
  uint64_t required_version_ = 0, want_state_ = 0;
  uint64_t granted_fragments_ = 0;  // async: what the learner's bytes are worth, cumulative
  uint64_t used_fragments_ = 0;     // async: permitted or sent, less what died before it was sent
  uint64_t fragments_ = 0, malformed_ = 0;
  bool draining_ = false, said_down_ = false, drained_ = false, stopping_ = false;
  uint32_t events_left_ = kEventsPerSecond, events_swallowed_ = 0;
  Time last_tick_{}, last_join_ = -kJoinEvery, last_status_ = -kStatusEvery, last_grant_{}, last_second_{};
  uint64_t told_restarts_ = 0;
  std::string last_cause_;
};

}  // namespace myriad
