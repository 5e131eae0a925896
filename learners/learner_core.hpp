// LearnerCore: what a learner decides, without torch, sockets and files: rounds, credit, weights, checkpoints,
// commands.
//
//   driver --Welcome/AgentState/Command-->  LearnerCore  --Update, WriteCheckpoint--> shell (torch, disk)
//   agents --Join/Parcel------------------>              --Send-->                    driver, agents
//
//   sync   round k sampled with version k   | update k | report, go | round k+1 ...          lag 0
//   lag1   round k+1 sampled with version k while update k runs; weights are published when a round begins   lag 1
//   async  fragments come when they come; each batch is the oldest ones there are; an iteration is all updates of
//          min_time_per_iteration; weights are published every broadcast_interval updates
//
// In every mode the learner pauses its updates after a report until the driver answers, so that a run stops and saves
// at exactly the iteration its criterion names. A state machine: one thread; the shell runs the update on another
// thread and hands the result back as an input.
#pragma once

#include <deque>
#include <map>
#include <string>
#include <variant>
#include <vector>

#include "learners/credit_ledger.hpp"
#include "learners/fragment_queue.hpp"
#include "learners/weights_publisher.hpp"
#include "rl/wire/messages.hpp"
#include "rl/wire/parcel.hpp"

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
    uint32_t num_slots = 1, fragments_per_batch = 1;
    uint32_t steps = 0, environments = 0;
    size_t fragment_bytes = 1;  ///< FragmentLayout::capacity_bytes(): what a fragment costs of the credit
    uint64_t spec_hash = 0, fragment_hash = 0;
    uint32_t learner_queue_size = 3, broadcast_interval = 1;  ///< async
    std::optional<uint64_t> max_policy_lag;                   ///< async
    Time min_time_per_iteration{};                            ///< async
    uint64_t training_iteration = 0, num_env_steps_sampled_lifetime = 0;  ///< of the checkpoint resumed from
    bool resumes_with_batch = false;  ///< lag1: the checkpoint held a batch that was sampled, not yet trained on
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
  };
  struct Updated {
    WeightsPtr weights;
    std::map<std::string, double> metrics;
  };  ///< the update of the last Update output
  struct CheckpointWritten {
    uint64_t sequence;
    std::vector<wire::FileEntryT> files;
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
    uint64_t weights_version;
  };  ///< every place of the batch is filled: take it and train
  struct WriteCheckpoint {
    uint64_t sequence;
    std::string directory;
    std::vector<SavedRunner> runners;
    uint64_t training_iteration, num_env_steps_sampled_lifetime;
    bool with_batch;  ///< lag1: the complete batch that waits for the next update belongs to the checkpoint
  };
  struct Consumed {
    FragmentId id;
    std::string dropped;  ///< "" = goes into a batch, else the reason
  };  ///< for the ledger: each fragment id at most once
  struct Exit {
    std::string reason;
  };
  using Output = std::variant<ToDriver, ToAgent, Assemble, Update, WriteCheckpoint, Consumed, Exit>;

  /// `weights`: the version to start from (initial or resumed).
  void start(WeightsPtr weights, Time now, std::vector<Output>& outputs);
  void step(const Input& input, Time now, std::vector<Output>& outputs);

  Time next_timer() const { return last_tick_ + kRetry; }
  uint64_t training_iteration() const { return iteration_; }
  /// Dropped messages by reason, the queue's reasons included.
  std::map<std::string, double> drops() const;
  void count_malformed(Malformed malformed) { ++malformed_[static_cast<size_t>(malformed)]; }

 private:
  // ... members: to be written with learner_core.cpp
};

}  // namespace myriad
