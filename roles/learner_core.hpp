// LearnerCore: what one shard of the learner group decides in one epoch, without torch, sockets and files: rounds,
// credit, weights, checkpoints, commands. Each shard collects its part of every batch from its own agents; an update is
// everybody's (learners/learner), and an epoch begins with a new LearnerCore (roles/group_member).
//
//   driver --AgentState/Command-->  LearnerCore  --Update, WriteCheckpoint--> shell (torch, disk)
//   agents --Join/Parcel---------->              --Send-->                    driver, agents
//
//   sync   round k sampled with version k   | update k | report, go | round k+1 ...          lag 0
//   lag1   round k+1 sampled with version k while update k runs; weights are published when a round begins   lag 1
//   async  fragments come when they come; each batch is the oldest ones there are; an iteration is all updates of
//          min_time_per_iteration; weights are published every broadcast_interval updates
//
// Agents keep what they sent until an update with it is finished by all shards. So a core that begins after a shard
// died collects the same batch again: it knows how many messages of each agent were trained on (its mark) and takes the
// rest.
//
// In every mode the learner pauses its updates after a report until the driver answers, so that a run stops and saves
// at exactly the iteration its criterion names. A state machine: one thread; the shell runs the update on another
// thread and hands the result back as an input.
#pragma once

#include <array>
#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <variant>
#include <vector>

#include "rl/wire/messages.hpp"
#include "rl/wire/parcel.hpp"
#include "roles/checkpoint.hpp"
#include "roles/credit_ledger.hpp"
#include "roles/fragment_queue.hpp"
#include "roles/iteration_metrics.hpp"
#include "roles/update_tally.hpp"
#include "roles/weights_publisher.hpp"

namespace myriad {

/// One accepted fragment: the shell copies its payload to `place` of the batch under assembly.
struct AcceptedFragment {
  uint32_t place;
  Message message;
};

/// A runner's state for a checkpoint.
struct SavedRunner {
  uint32_t slot;
  SharedBytes state;
};

enum class SamplingMode : uint8_t { sync, lag1, async };

class LearnerCore {
 public:
  struct Options {
    uint64_t run = 0, epoch = 1;
    SamplingMode mode = SamplingMode::sync;
    uint32_t first_slot = 0, num_slots = 1;  ///< of this shard's agents
    uint32_t fragments_per_batch = 1;        ///< this shard's part; 0: its agents are given up
    uint32_t num_agents = 1;                 ///< of all shards
    bool alone = true, leads = true;         ///< no other shard; the one that ends async iterations
    GroupState state;                        ///< with which the epoch begins
    bool again = false;   ///< other cores began at this run's weights before: what they had not trained on comes again
    bool started = true;  ///< no update was made since the run started, or was resumed
    WeightsPtr previous;  ///< lag1, again: those before the ones to start from, which the round that comes again wants
    uint32_t steps = 0, environments = 0;
    size_t fragment_bytes = 1;  ///< FragmentLayout::capacity_bytes(): what a fragment costs of the credit
    uint64_t spec_hash = 0, fragment_hash = 0;
    uint32_t learner_queue_size = 3, broadcast_interval = 1;  ///< async
    std::optional<uint64_t> max_policy_lag;                   ///< async
    Time min_time_per_iteration{};                            ///< async
    bool resumes_with_batch = false;  ///< lag1: the checkpoint held a batch that was sampled, not yet trained on
    std::vector<wire::Episode> batch_episodes;  ///< of that batch
    /// What goes with weights that are published at so many env steps and a level; null: nothing.
    std::function<std::vector<double>(uint64_t env_steps, uint32_t level)> published;
    uint64_t env_steps_per_update = 0;  ///< of the group, lag1
    /// "" when the columns keep their contract, else the first fact; see fragment_violation.
    std::function<std::string(const wire::FragmentHeaderT&, std::span<const std::byte>)> violation;
  };
  static constexpr Time kRetry = std::chrono::milliseconds(250);
  static constexpr Time kStateDeadline = std::chrono::seconds(5);

  explicit LearnerCore(Options options);

  // --- inputs ---
  struct FromDriver {
    Message message;
  };
  struct FromAgent {
    std::string peer;  ///< where answers go
    Message message;
    std::string user = {};  ///< who it is, where sockets have keys
  };
  struct Updated {
    WeightsPtr weights;  ///< one version on; null: no shard had anything to train on
    std::map<std::string, double> metrics;
    std::vector<double> tally;  ///< of Update, summed over the shards
  };                            ///< all shards have finished the update of the last Update output
  struct CheckpointWritten {
    uint64_t sequence;
    std::vector<CheckpointFile> files;
    std::string error;
  };
  struct Tick {};
  using Input = std::variant<FromDriver, FromAgent, Updated, CheckpointWritten, Tick>;

  // --- outputs ---
  struct ToDriver {
    Message message;
  };
  struct ToAgent {
    std::string peer;
    Message message;
  };
  struct Assemble {
    AcceptedFragment fragment;
  };
  struct Update {
    bool with_batch;           ///< every place of the batch is filled: take it; false: take part with nothing
    uint64_t weights_version;  ///< the oldest it was sampled with
    std::vector<double> tally;
  };
  struct WriteCheckpoint {
    uint64_t sequence;
    std::string directory;
    std::vector<SavedRunner> runners;
    uint64_t training_iteration, num_env_steps_sampled_lifetime;
    bool with_batch;  ///< lag1: the complete batch that waits for the next update belongs to the checkpoint
    uint64_t batch_weights_version = 0;         ///< it was sampled with
    std::vector<wire::Episode> batch_episodes;  ///< that ended in it
  };
  struct Consumed {
    FragmentId id;
    std::string dropped;  ///< "" = was trained on, else the reason
  };                      ///< for the ledger, when the update is finished: each fragment id at most once
  struct Exit {
    std::string reason;
  };
  using Output = std::variant<ToDriver, ToAgent, Assemble, Update, WriteCheckpoint, Consumed, Exit>;

  /// `weights`: the version to start from (initial or resumed).
  void start(WeightsPtr weights, Time now, std::vector<Output>& outputs);
  void step(const Input& input, Time now, std::vector<Output>& outputs);

  Time next_timer() const { return last_tick_ + kRetry; }
  uint64_t training_iteration() const { return state_.training_iteration; }
  /// Dropped messages by reason, the queue's reasons included.
  std::map<std::string, double> drops() const;
  void count_malformed(Malformed malformed) { ++malformed_[static_cast<size_t>(malformed)]; }

 private:
  struct Agent {
    uint32_t incarnation = 0, first_slot = 0, num_slots = 0;
    bool up = false;
    std::string peer;    // since its first Join that fits
    std::string user;    // nobody else may speak for it; "" without keys
    uint64_t mark = 0;   // messages below were trained on, or dropped
    bool based = false;  // what came before the mark is known: the rest may come
    ParcelReceiver parcels;
    uint64_t placed = 0;           // by_slot: all messages that have a place are before it
    std::deque<uint64_t> waiting;  // async: numbers of its messages in pending_
    // the grant at the end of this step
    bool grant_due = false, all_slots = false;
    std::set<uint32_t> changed_slots;
  };
  struct Source {
    uint32_t agent, incarnation;
    uint64_t number;  // of its messages
  };
  struct Pending {
    Message message;
    Source source;
    Time arrived;
  };
  struct Finished {
    Source source;
    Consumed consumed;
  };
  /// wanted: until the open round is complete; collecting: the runners' states; writing: the shell does.
  enum class Saving : uint8_t { no, wanted, collecting, writing };

  bool has_share() const { return options_.fragments_per_batch > 0; }
  /// The next batch was, or is, sampled with the weights before the first.
  bool begins_behind() const {
    return has_share() && options_.mode == SamplingMode::lag1 && options_.again && !options_.started;
  }
  bool by_slot() const { return options_.mode != SamplingMode::async; }
  uint64_t training_version() const { return weights_->version + (updating_ ? 1 : 0); }  // of the batch being filled
  void step_input(const Input& input, Time now, std::vector<Output>& outputs);
  void updated(const Updated& input, Time now, std::vector<Output>& outputs);
  void written(const CheckpointWritten& input, std::vector<Output>& outputs);
  void tick(Time now, std::vector<Output>& outputs);

  void from_driver(const Message& message, Time now, std::vector<Output>& outputs);
  void command(const wire::CommandT& command, Time now, std::vector<Output>& outputs);
  void agent_state(const wire::AgentStateT& state, std::vector<Output>& outputs);
  void agent_down(uint32_t index, Agent& agent, std::vector<Output>& outputs);

  void from_agent(const FromAgent& from, Time now, std::vector<Output>& outputs);
  Agent* known(uint32_t index, uint32_t incarnation, const std::string& user);
  void join(const std::string& peer, const std::string& user, const wire::JoinT& join, Time now,
            std::vector<Output>& outputs);
  void parcel(const Message& message, const std::string& user, Time now, std::vector<Output>& outputs);
  bool begin_with(Agent& agent, uint32_t index, const wire::JoinT& join, std::vector<Output>& outputs);
  void from_runner(const Source& source, const Message& message, Time now, std::vector<Output>& outputs);
  void take(const Source& source, uint32_t slot, const Message& message, Time now, std::vector<Output>& outputs);
  bool comes_too_early(uint32_t slot, const Message& message) const;
  void take_held(Time now, std::vector<Output>& outputs);
  void runner_state(const wire::RunnerStateT& state, const Message& message);

  void fragment(const Source& source, const Message& message, Time now, std::vector<Output>& outputs);
  std::string violation_of(const wire::FragmentHeaderT& header, const Message& message) const;
  std::optional<Drop> why_not(const FragmentId& id, bool increases, bool within_credit) const;
  void apply_queue(const FragmentQueue::Input& input, std::vector<Output>& outputs, const Message* arrived = nullptr,
                   const Source* source = nullptr, bool increases = false);
  void place(uint32_t place, const Message& message, const Source& source, Time waited, std::vector<Output>& outputs);
  void leaves_pending(const Source& source);
  void give_back(const Source& source);
  void finish(const Source& source, const FragmentId& id, std::string_view dropped);
  void fill(Time now, std::vector<Output>& outputs);
  void free_all_places();
  void drop_outdated();

  void advance(Time now, std::vector<Output>& outputs);
  void advance_saving(Time now, std::vector<Output>& outputs);
  bool states_complete() const;
  void start_update(Time now, std::vector<Output>& outputs);
  uint64_t mark_of(const Agent& agent, std::vector<Output>& outputs);
  void settle_finished(const std::vector<wire::AgentMark>& marks);
  void begin_round(Time now, std::vector<Output>& outputs);
  void publish(Time now, std::vector<Output>& outputs);
  void publish_first(Time now, std::vector<Output>& outputs);
  void send_out(const WeightsPtr& weights, uint64_t env_steps, Time now, std::vector<Output>& outputs);
  void finish_iteration(std::vector<Output>& outputs);

  void send_driver(Message message, std::vector<Output>& outputs) const;
  void send_agent(const std::string& peer, Message message, std::vector<Output>& outputs) const;
  void refuse(const std::string& peer, std::string reason, std::vector<Output>& outputs) const;
  void send_weights(std::vector<WeightsPublisher::Send> sends, std::vector<Output>& outputs);
  void grant_all_slots();
  void send_grants(std::vector<Output>& outputs);
  uint64_t required_version() const;

  Options options_;
  FragmentQueue queue_;  // async: only which slots are up
  CreditLedger credit_;  // async
  WeightsPublisher publisher_;
  std::map<uint32_t, Agent> agents_;
  std::vector<uint32_t> agent_of_slot_;
  WeightsPtr weights_;  // of the last update; agents may have an older version

  // the batch being filled
  std::deque<Pending> pending_;        // async: arrived, without a place
  std::vector<FragmentFacts> batch_;   // by place
  std::vector<FragmentId> batch_ids_;  // async: by place
  std::vector<uint32_t> free_places_;  // async: the next one last
  bool batch_full_ = false;
  std::map<uint32_t, std::deque<std::pair<Source, Message>>> held_;  // by slot: it comes too early
  std::set<uint32_t> look_at_held_;
  /// async: dropped for their lag while an update runs. Their credit is given back when it ends: until then more would
  /// be as old, and their agents would keep them all.
  std::vector<Source> owed_;
  std::vector<Finished> finished_;   // placed or dropped, not settled by an update
  std::vector<Consumed> in_update_;  // settled by the one that runs

  bool updating_ = false;
  Time nobody_has_anything_{};  // before then, not another update with nothing
  uint64_t updates_since_published_ = 0;
  Time iteration_start_{};
  GroupState state_;
  uint64_t until_;
  uint32_t level_ = 0;       // of the curriculum
  bool knows_level_ = true;  // nothing is published before
  IterationMetrics metrics_;
  wire::IterationReportT report_;
  bool report_pending_ = false;  // the driver has not answered it

  Saving saving_ = Saving::no;
  uint64_t checkpoint_sequence_ = 0, done_sequence_ = 0;
  std::string checkpoint_directory_;
  std::map<uint32_t, SharedBytes> states_;
  Time states_by_{};
  wire::CheckpointDoneT done_;

  Time last_tick_{};
  std::vector<std::pair<uint32_t, uint64_t>> next_;  // by slot: the least incarnation and seq not seen yet
  DropCounts drops_{};                               // async
  std::array<uint64_t, static_cast<size_t>(Malformed::count)> malformed_{};
  uint64_t foreign_ = 0, foreign_slot_ = 0, unknown_agent_ = 0, impostor_ = 0, weights_bytes_ = 0, stale_agent_ = 0,
           malformed_parcel_ = 0;
  uint64_t parcels_ = 0, bytes_ = 0, fragments_ = 0, resent_ = 0, missing_ = 0;  // received
};

}  // namespace myriad
