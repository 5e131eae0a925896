// LearnerCore: what a learner decides, without torch, sockets and files: rounds, credit, weights, checkpoints,
// commands.
//
//   driver  --Welcome/SlotState/Command-->  LearnerCore  --Update, WriteCheckpoint--> shell (torch, disk)
//   runners --Join/Fragment/RunnerState-->               --Send-->                    driver, runners
//
// In sync mode: publish v -> round of F fragments sampled with v -> update -> report -> publish v+1 once the driver
// says go. A state machine: one thread; the shell runs the update on another thread and hands the result back as an
// input.
#pragma once

#include <map>
#include <string>
#include <variant>
#include <vector>

#include "learners/fragment_queue.hpp"
#include "learners/weights_publisher.hpp"
#include "rl/wire/messages.hpp"

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

class LearnerCore {
 public:
  struct Options {
    uint64_t run = 0, epoch = 1;
    uint32_t num_slots = 1, fragments_per_batch = 1;
    uint32_t steps = 0, environments = 0;
    uint64_t spec_hash = 0, fragment_hash = 0;
    uint64_t training_iteration = 0, num_env_steps_sampled_lifetime = 0;  ///< of the checkpoint resumed from
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
  struct FromRunner {
    std::string peer;
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
  using Input = std::variant<FromDriver, FromRunner, Updated, CheckpointWritten, Tick>;

  // --- outputs ---
  struct ToDriver {
    Message message;
  };
  struct ToRunner {
    std::string peer;
    Message message;
  };
  struct Assemble {
    AcceptedFragment fragment;
  };
  struct Update {};  ///< every place of the batch is filled
  struct WriteCheckpoint {
    uint64_t sequence;
    std::string directory;
    std::vector<SavedRunner> runners;
    uint64_t training_iteration, num_env_steps_sampled_lifetime;
  };
  struct Exit {
    std::string reason;
  };
  using Output = std::variant<ToDriver, ToRunner, Assemble, Update, WriteCheckpoint, Exit>;

  /// `weights`: the version to start from (initial or resumed).
  void start(WeightsPtr weights, Time now, std::vector<Output>& outputs);
  void step(const Input& input, Time now, std::vector<Output>& outputs);

  Time next_timer() const { return last_tick_ + kRetry; }
  const FragmentQueue& queue() const { return queue_; }
  uint64_t training_iteration() const { return iteration_; }
  /// Dropped messages by reason, the queue's reasons included.
  std::map<std::string, double> drops() const;
  void count_malformed(Malformed malformed) { ++malformed_[static_cast<size_t>(malformed)]; }

 private:
  enum class Phase { waiting, sampling, updating, saving };
  void from_driver(const Message& message, Time now, std::vector<Output>& outputs);
  void from_runner(const std::string& peer, const Message& message, Time now, std::vector<Output>& outputs);
  void refuse(const std::string& peer, std::string reason, std::vector<Output>& outputs);
  void fragment(const std::string& peer, const Message& message, std::vector<Output>& outputs);
  void apply_queue(const FragmentQueue::Input& input, const Message* arrived, std::vector<Output>& outputs);
  void advance(Time now, std::vector<Output>& outputs);
  void send_grant(uint32_t slot, std::vector<Output>& outputs);
  void send_driver(Message message, std::vector<Output>& outputs);
  void send_report(std::vector<Output>& outputs);
  bool states_complete() const;

  Options options_;
  FragmentQueue queue_;
  WeightsPublisher publisher_;
  Phase phase_ = Phase::waiting;
  std::map<uint32_t, std::string> peer_of_slot_;
  uint64_t iteration_ = 0, env_steps_ = 0, until_ = 0;
  wire::IterationReportT report_;  // of the last iteration; repeated until the driver answers
  bool report_pending_ = false;
  std::map<uint32_t, std::vector<wire::Episode>> episodes_;  // of the round under way, by place: not by arrival
  double sampling_ns_ = 0, waiting_ns_ = 0;
  uint64_t checkpoint_sequence_ = 0;  // wanted; > done_sequence_ while it is not written
  uint64_t done_sequence_ = 0;
  std::string checkpoint_directory_;
  Time states_by_{};
  std::map<uint32_t, SharedBytes> states_;
  wire::CheckpointDoneT done_;
  std::array<uint64_t, static_cast<size_t>(Malformed::count)> malformed_{};
  uint64_t foreign_ = 0;
  Time last_tick_{};
};

}  // namespace myriad
