// LearnerGroup: which shards are in the learner group, epoch by epoch. Part of DriverCore.
//
//   calling   every shard is told to leave the old epoch and reports its state (a new shard: the start's, or none)
//   forming   rank, version, which shard has which state; shards meet through the rendezvous kept here
//   formed    they train; a shard that ends, hangs or cannot reach the others: the next epoch
//
// An epoch begins with the highest version that any remaining shard has committed, or with the next one if all
// remaining shards have prepared it. Rolling back is safe: no shard can have committed, because commit requires that
// all were prepared. Shard i has rank i, and the agents [i H / S, (i+1) H / S). Its share of a batch: LearnerShares. A
// state machine: one thread, time comes in.
#pragma once

#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "rl/check.hpp"
#include "rl/wire/messages.hpp"
#include "roles/learner_shares.hpp"
#include "roles/update_tally.hpp"

namespace myriad {

class LearnerGroup {
 public:
  struct Options {
    uint64_t run = 0;
    std::string config_toml;                                                    ///< resolved, for the shards
    std::function<std::string(uint32_t shard, uint32_t incarnation)> endpoint;  ///< where one is to listen for agents
    std::string checkpoint;                                                     ///< to start from, or ""
    uint32_t num_learners = 1;
    uint32_t num_agents = 1, num_slots = 1, fragments_per_batch = 1;  ///< of the run
    bool shares_by_speed = false;        ///< of a batch: no place belongs to a slot (async)
    bool sharded = false;                ///< a shard's state is with itself and its neighbour only
    uint32_t max_failures_in_a_row = 5;  ///< of each shard, on average, with no iteration between
    uint64_t training_iteration = 0;     ///< to start from
  };
  static constexpr Time kRetry = std::chrono::milliseconds(250);
  static constexpr Time kStart = std::chrono::seconds(120);   ///< from the start of its process to its hello
  static constexpr Time kSilence = std::chrono::seconds(10);  ///< without a message: hung
  static constexpr Time kMinDeadline =
      std::chrono::seconds(30);  ///< of an update that makes no progress, or 10 medians

  explicit LearnerGroup(Options options);

  // --- outputs ---
  struct SpawnLearner {
    uint32_t shard, incarnation;
  };
  struct KillLearner {
    uint32_t shard, incarnation;
    int signal;
  };
  struct ToLearner {
    std::string peer;
    Message message;
  };
  struct Event {
    std::string kind, text;
  };
  struct Formed {};  ///< an epoch began: tell the agents
  struct Reported {
    wire::IterationReportT report;
  };  ///< of all shards
  struct Saved {
    wire::CheckpointDoneT done;
  };  ///< by all shards; error: of one
  struct Over {
    Exit exit;
    std::string reason, error_code;
    bool learners_live = false;  ///< none can train on, and all have what they had: it can be saved
  };
  using Output = std::variant<SpawnLearner, KillLearner, ToLearner, Event, Formed, Reported, Saved, Over>;
  using Outputs = std::vector<Output>;

  void start(Time now, Outputs& outputs);
  /// False when the message is not a learner's.
  bool received(const std::string& peer, const std::string& user, const Message& message, Time now, Outputs& outputs);
  void exited(uint32_t shard, uint32_t incarnation, const std::string& cause, Time now, Outputs& outputs);
  void spawn_failed(uint32_t shard, uint32_t incarnation, const std::string& cause, Time now, Outputs& outputs);
  void tick(Time now, Outputs& outputs);
  /// Sends what was put into the rendezvous since.
  void flush(Outputs& outputs);
  /// "" or why not.
  std::string resize(uint32_t learners, Time now, Outputs& outputs);
  /// Places whose runners will not come (again).
  void set_given_up(std::set<uint32_t> places, Time now, Outputs& outputs);
  /// A last epoch, without data: its updates so far are an iteration, whatever its report would have said.
  void cut(Time now, Outputs& outputs);
  void stop(const std::string& reason, Outputs& outputs);

  Time next_timer() const;
  uint64_t epoch() const { return epoch_; }
  bool formed() const { return stage_ == Stage::formed; }
  uint32_t size() const { return size_; }  ///< of this epoch's group
  uint32_t num_processes() const;
  bool computes() const;                              ///< every shard of the group: none waits for data
  bool connected() const;                             ///< every live learner has sent its hello
  const GroupState& state() const { return state_; }  ///< with which the epoch began
  /// The shard that agent `place` sends to, in this epoch.
  uint32_t shard_of(uint32_t place) const {
    return static_cast<uint32_t>(uint64_t{place} * size_ / options_.num_agents);
  }
  /// Where it listens; "" when it is not there.
  std::string endpoint(uint32_t shard) const;
  std::string peer(uint32_t shard) const { return shard < members_.size() ? members_[shard].peer : ""; }
  /// To every shard of the group.
  void send_all(const Message& message, Outputs& outputs) const;

 private:
  enum class Stage : uint8_t { calling, forming, formed };
  struct Member {
    uint32_t incarnation = 0;
    bool alive = false;
    bool veteran = false;  // was in a group: its state counts
    std::string peer, endpoint;
    Time heard{};
    bool killed = false;
    wire::LearnerStatusT status;
    std::optional<uint64_t> status_epoch;
    uint64_t operations = 0;
    Time moved{};  // its operations changed, or it did nothing
    std::optional<wire::ProcessErrorT> error;
  };
  void spawn(uint32_t shard, Time now, Outputs& outputs);
  void spawn_missing(uint32_t count, Time now, Outputs& outputs);
  void hello(const std::string& peer, const wire::LearnerHelloT& hello, Time now, Outputs& outputs);
  void welcome(const Member& member, Outputs& outputs) const;
  void status(Member& member, uint64_t epoch, const wire::LearnerStatusT& status, Time now, Outputs& outputs);
  void call(const std::string& why, Time now, Outputs& outputs);
  void send_order(const Member& member, Outputs& outputs) const;
  void send_orders(Time now, Outputs& outputs);
  void dismiss(const Member& member, Outputs& outputs) const;
  void advance(Time now, Outputs& outputs);
  bool end_failed(Outputs& outputs);
  bool form(Time now, Outputs& outputs);
  bool all_at(wire::LearnerStage stage) const;
  bool is_fed(uint32_t shard) const;
  uint64_t slots_before(uint32_t shard) const;
  void divide(Time now);
  wire::GroupOrderT order_for(uint32_t shard) const;
  void look_for_hangs(Time now, Outputs& outputs);
  void report(uint32_t shard, const wire::IterationReportT& report, Outputs& outputs);
  void close_iteration(Outputs& outputs);
  Time deadline() const;
  bool next_shards_are_ready() const;
  uint32_t next_size() const;
  void checkpoint_done(uint32_t shard, const wire::CheckpointDoneT& done, Outputs& outputs);
  void lost(Time now, const std::string& shard, const std::string& cause,
            const std::optional<wire::ProcessErrorT>& error, Outputs& outputs);
  Member* member_of(const std::string& peer);
  uint32_t shard_index(const Member& member) const { return static_cast<uint32_t>(&member - members_.data()); }

  Options options_;
  Stage stage_ = Stage::calling;
  uint64_t epoch_ = 1;
  uint32_t target_, size_;
  std::vector<Member> members_;            // by shard
  std::vector<uint32_t> starts_;           // of processes, by shard
  std::set<uint32_t> given_up_;            // places
  uint32_t formed_size_ = 0;               // of the newest epoch that was formed
  std::optional<uint64_t> failed_update_;  // of the weights' version that a shard alone could not leave
  bool stopping_ = false, ever_formed_ = false, cutting_ = false;

  // this epoch
  wire::GroupOrderT order_;  // what is the same for all
  GroupState state_;
  LearnerShares shares_by_;
  std::vector<uint32_t> shares_;  // of this epoch, by shard
  uint64_t version_ = 0;
  std::map<std::string, std::vector<uint8_t>> rendezvous_;
  std::set<std::string> new_keys_;
  Time broken_at_{};  // since then there is no group

  uint64_t failures_in_a_row_ = 0;  // of all shards, since an iteration ended
  Time last_sent_{};
  uint64_t iteration_, env_steps_ = 0;                  // reported
  std::deque<double> update_s_;                         // the newest updates
  std::map<uint32_t, wire::IterationReportT> reports_;  // of iteration_ + 1
  std::map<std::string, double> before_, now_;          // cumulative metrics: of cores that ended; of those that run
  std::map<uint32_t, wire::CheckpointDoneT> done_;      // of the newest checkpoint
};

}  // namespace myriad
