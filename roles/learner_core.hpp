// LearnerCore: the decisions of one shard of the learner group in one epoch, without torch, sockets and files: when a
// round, an update, an iteration and a checkpoint begin, which weights go to which agent. Each shard collects its part
// of every batch from its own agents (roles/next_batch); all shards make each update together (learners/learner). A new
// epoch has a new LearnerCore (roles/group_member).
//
//   driver --AgentState/Command-->  LearnerCore  --Update, WriteCheckpoint--> shell (torch, disk)
//   agents --Join/Parcel---------->              --Send-->                    driver, agents
//
//   sync   round k sampled with version k   | update k | report, go | round k+1 ...          lag 0
//   lag1   round k+1 sampled with version k while update k runs; weights are published when a round begins   lag 1
//   async  each batch is the oldest fragments there are; weights are published every broadcast_interval updates; an
//          iteration is all updates of min_time_per_iteration
//
// Agents keep what they sent until all shards have finished an update with it. So a core that begins after a shard died
// collects the same batch again: it knows how many messages of each agent were trained on (the agent's mark) and takes
// the rest.
//
// In every mode the learner pauses its updates after a report until the driver answers, so that a run stops and saves
// at exactly the iteration its criterion names. A state machine: one thread; the shell runs the update on another
// thread and hands the result back as an input.
#pragma once

#include <array>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "rl/wire/messages.hpp"
#include "rl/wire/parcel.hpp"
#include "roles/checkpoint.hpp"
#include "roles/group_member.hpp"
#include "roles/iteration_metrics.hpp"
#include "roles/next_batch.hpp"
#include "roles/update_tally.hpp"
#include "roles/weights_publisher.hpp"

namespace myriad {

enum class SamplingMode : uint8_t { sync, lag1, async };

class LearnerCore {
 public:
  struct Options {
    // of the run
    uint64_t run = 0;
    SamplingMode mode = SamplingMode::sync;
    uint32_t num_agents = 1;               ///< of all shards
    uint32_t steps = 0, environments = 0;  ///< of a fragment
    size_t fragment_bytes = 1;             ///< FragmentLayout::capacity_bytes(): what a fragment costs of the credit
    uint64_t spec_hash = 0, fragment_hash = 0;
    uint64_t env_steps_per_update = 0;       ///< of the group, lag1
    uint32_t learner_queue_size = 3;         ///< async: batches that may wait
    uint32_t broadcast_interval = 0;         ///< updates between published weights; 0: published when a round begins
    std::optional<uint64_t> max_policy_lag;  ///< async
    Time min_time_per_iteration{};           ///< updates of so much time are an iteration; 0: each update is one
    /// What goes with weights that are published at so many env steps and a level; null: nothing.
    std::function<std::vector<double>(uint64_t env_steps, uint32_t level)> published;
    /// "" when the columns keep their contract, else the first fact; see fragment_violation.
    std::function<std::string(const wire::FragmentHeaderT&, std::span<const std::byte>)> violation;

    // of the shard's part in an epoch: see in_epoch()
    uint64_t epoch = 1;
    uint32_t first_slot = 0, num_slots = 1;  ///< of this shard's agents
    uint32_t fragments_per_batch = 1;        ///< this shard's part; 0: its agents are given up
    uint32_t rank = 0, group_size = 1;       ///< in the learner group; rank 0 says when an iteration ends
    GroupState state;                        ///< with which the epoch begins
    bool recollects = false;                 ///< agents may send again what cores of earlier epochs had not trained on
    bool at_start = true;                    ///< no update was made since the run started, or was resumed

    // what the shard has
    WeightsPtr previous_weights;  ///< the version before the one it starts with; recollects, lag1: its round wants them
    /// lag1, at_start: the checkpoint held a full batch, and these are the episodes that ended in it.
    std::optional<std::vector<wire::Episode>> restored_batch;
  };
  static constexpr Time kRetry = std::chrono::milliseconds(250);

  explicit LearnerCore(Options options);

  // --- inputs ---
  struct FromDriver {
    Message message;
  };
  struct FromAgent {
    std::string peer;  ///< where answers go
    Message message;
    std::string user = {};  ///< the sender's name in the allow-list, where sockets have keys
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
  using Consumed = ConsumedFragment;  ///< for the ledger, when the update is finished: each fragment id at most once
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
    std::string user;    // the one user whose messages count as its own; "" without keys
    uint64_t mark = 0;   // messages below were trained on, or dropped
    bool based = false;  // what came before the mark is known: the rest may come
    ParcelReceiver parcels;
    bool grant_due = false, grant_everything = false;  // at the end of this step
  };
  /// wanted: until the runners' states are there; writing: the shell does.
  enum class Saving : uint8_t { no, wanted, writing };

  bool has_share() const { return options_.fragments_per_batch > 0; }
  void step_input(const Input& input, Time now, std::vector<Output>& outputs);
  void updated(const Updated& input, Time now, std::vector<Output>& outputs);
  void written(const CheckpointWritten& input, std::vector<Output>& outputs);
  void tick(Time now, std::vector<Output>& outputs);

  void from_driver(const Message& message, Time now, std::vector<Output>& outputs);
  void command(const wire::CommandT& command, Time now, std::vector<Output>& outputs);
  void agent_state(const wire::AgentStateT& state);
  void agent_down(uint32_t index, Agent& agent);

  void from_agent(const FromAgent& from, Time now, std::vector<Output>& outputs);
  Agent* known(uint32_t index, uint32_t incarnation, const std::string& user);
  void join(const std::string& peer, const std::string& user, const wire::JoinT& join, Time now,
            std::vector<Output>& outputs);
  void parcel(const Message& message, const std::string& user, Time now, std::vector<Output>& outputs);
  bool begin_with(Agent& agent, const wire::JoinT& join);
  std::optional<uint32_t> own_slot(const Agent& agent, uint32_t of_run) const;
  static NextBatch::Agent slots_of(uint32_t index, const Agent& agent);
  void from_runner(const Agent& agent, const MessageSource& source, Message message, Time now);
  bool keeps_contract(const wire::FragmentHeaderT& header, const Message& message) const;

  void advance(Time now, std::vector<Output>& outputs);
  void advance_saving(Time now, std::vector<Output>& outputs);
  void assemble(std::vector<Output>& outputs);
  void start_update(Time now, std::vector<Output>& outputs);
  void publish(Time now, std::vector<Output>& outputs);
  void publish_first(Time now, std::vector<Output>& outputs);
  void send_out(const WeightsPtr& weights, uint64_t env_steps, Time now, std::vector<Output>& outputs);
  void finish_iteration(std::vector<Output>& outputs);

  void send_driver(Message message, std::vector<Output>& outputs) const;
  void send_agent(const std::string& peer, Message message, std::vector<Output>& outputs) const;
  void refuse(const std::string& peer, std::string reason, std::vector<Output>& outputs) const;
  void send_weights(std::vector<WeightsPublisher::Send> sends, std::vector<Output>& outputs);
  void send_grants(std::vector<Output>& outputs);

  Options options_;
  std::unique_ptr<NextBatch> batch_;
  WeightsPublisher publisher_;
  std::map<uint32_t, Agent> agents_;
  WeightsPtr weights_;          // of the last update; agents may have an older version
  bool begins_behind_ = false;  // the first batch is sampled with the version before the one it starts with

  bool updating_ = false;
  std::vector<Consumed> in_update_;  // settled by the update that runs
  Time next_empty_update_{};         // before then, not another update with nothing
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
  bool saves_at_once_ = false;  // without runners' states and a batch that waits
  std::string checkpoint_directory_;
  wire::CheckpointDoneT done_;

  Time last_tick_{};
  std::array<uint64_t, static_cast<size_t>(Malformed::count)> malformed_{};
  uint64_t foreign_ = 0, foreign_slot_ = 0, unknown_agent_ = 0, impostor_ = 0, weights_bytes_ = 0, stale_agent_ = 0,
           malformed_parcel_ = 0;
  uint64_t parcels_ = 0, bytes_ = 0, resent_ = 0;  // received
};

/// `run` with the shard's part in an epoch. `start_version`: of the weights the run started or was resumed with.
LearnerCore::Options in_epoch(LearnerCore::Options run, const GroupPart& part, uint64_t start_version);

}  // namespace myriad
