// GroupMember: one shard's part in forming the learner group, again and again.
//
//   driver --GroupOrder{epoch e}-->          leave: abort what runs, end the core      leaving
//                                            the update thread is free                 called   --> LearnerStatus
//   driver --GroupOrder{epoch e, form}-->    settle, find the others, exchange state   joining
//                                            a new core begins                         formed   --> LearnerStatus
//
// The driver orders epochs and names the version of the weights each begins with; results of an older epoch are
// dropped. An update is a transaction of all shards (Standing in learners/learner.hpp): a shard that is prepared when
// the group breaks cannot know whether the others are. The driver, which has the status of all, decides whether the
// update counts. A state machine: one thread, time comes in; the shell has sockets, torch and the update thread.
#pragma once

#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "rl/wire/messages.hpp"
#include "roles/update_tally.hpp"

namespace myriad {

/// The part of a shard in an epoch.
struct GroupPart {
  uint64_t epoch = 0;
  wire::GroupOrderT order;
  GroupState state;  ///< of order.version
};

class GroupMember {
 public:
  static constexpr Time kTick = std::chrono::milliseconds(250);

  struct Options {
    uint64_t run = 0;
    uint32_t shard = 0, incarnation = 0;
    uint64_t fragment_steps = 1;  ///< env steps of a fragment
    uint64_t version = 0;         ///< of the weights it starts with, its own or the checkpoint's
    GroupState state;             ///< of that version
  };
  explicit GroupMember(Options options) : options_(std::move(options)), version_(options_.version) {
    state_ = options_.state;
  }

  // --- inputs ---
  struct FromDriver {
    Message message;
  };                ///< GroupOrder or Rendezvous; anything else is ignored
  struct Began {};  ///< the update thread got a job
  /// The update thread is free again.
  struct Ended {
    std::optional<UpdateTally> tally = std::nullopt;      ///< of an update that settled or is prepared
    bool settled = true;                                  ///< it is finished by all; false: it broke
    bool prepared = false;                                ///< it broke, finished here
    std::vector<uint32_t> parts = {}, parts_before = {};  ///< Learner::holdings()
    uint32_t num_parts = 1, num_parts_before = 0;
    std::string broken = "";  ///< "" or why
  };
  struct Tick {
    uint64_t operations = 0;
    bool inside = false;
  };
  using Input = std::variant<FromDriver, Began, Ended, Tick>;

  // --- outputs ---
  struct ToDriver {
    Message message;
  };
  struct Leave {};  ///< abort collectives and rendezvous; the core is over
  struct Join {
    GroupPart part;
  };  ///< job for the update thread
  struct Begin {
    GroupPart part;
  };  ///< a new core, with the state that is there now
  struct Put {
    std::string key;
    std::vector<uint8_t> value;
  };  ///< into the epoch's rendezvous
  using Output = std::variant<ToDriver, Leave, Join, Begin, Put>;

  void step(const Input& input, Time now, std::vector<Output>& outputs);

  Time next_timer() const { return last_tick_ + kTick; }
  uint64_t epoch() const { return epoch_; }
  wire::LearnerStage stage() const { return stage_; }
  uint64_t version() const { return version_; }

 private:
  void order(uint64_t epoch, const wire::GroupOrderT& order, Time now, std::vector<Output>& outputs);
  void ended(const Ended& ended, Time now, std::vector<Output>& outputs);
  void say(Time now, std::vector<Output>& outputs);

  Options options_;
  uint64_t epoch_ = 0;
  wire::LearnerStage stage_ = wire::LearnerStage::called;
  uint64_t version_;
  GroupState state_, prepared_state_;
  bool prepared_ = false, busy_ = false;
  std::vector<uint32_t> parts_{0}, parts_before_;
  uint32_t num_parts_ = 1, num_parts_before_ = 0;
  std::string broken_;
  GroupPart part_;
  uint64_t operations_ = 0;
  bool inside_ = false;
  Time busy_since_{}, last_tick_{};
};

}  // namespace myriad
