// DeviceLearner: one shard's update on a torch device, end to end: the part of Learner between a batch in host memory
// and parameters in host memory.
//
//   fragment --upload--> slab [-> circular buffer] -> filter -> targets -> passes of num_epochs x minibatches --+
//   host <--download, metrics-- parameters <- Adam <- clip <- [group's sum] <- gradient <- loss <- forward <----+
//
// The slab is the fragment's buffer on the device, so that a batch is one copy and every shape is fixed; what varies,
// the rows of final_obs, is rounded up. Minibatches are gathered on the device by rows that the host draws from the
// same random streams as the CPU's learner. Each gradient step leaves a row of numbers on the device (loss, metrics,
// norm), which the host reads and sums up later: alone, nothing waits for the device before the end of an update.
//
// The same code runs on CpuSupport, where the tests hold it against the CPU's learner. Owned by Learner; one thread.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "learners/algorithm.hpp"
#include "learners/circular_buffer.hpp"
#include "learners/device_group.hpp"
#include "learners/device_optimizer.hpp"
#include "learners/device_support.hpp"
#include "learners/gradient_buckets.hpp"
#include "learners/moments.hpp"
#include "learners/recorded_work.hpp"

namespace myriad {

class DeviceLearner {
 public:
  /// `algorithm` outlives it. Throws Error("impossible") for an algorithm without a loss for devices at its first
  /// update.
  DeviceLearner(const Config& config, const Algorithm& algorithm, const ModuleSpec& spec, const Space& action_space,
                std::unique_ptr<DeviceSupport> support);

  /// What Learner knows of an update, and of its books what the update changes.
  struct Pass {
    Share share;  ///< without columns: those are on the device
    const MeanStdFilter* filter = nullptr;
    double lr = 0.0;
    RandomStream* minibatches = nullptr;                ///< of this shard
    RandomStream buffer;                                ///< the same at every shard
    int64_t module_steps = 0;                           ///< rows that went through the loss, lifetime
    int64_t target_updates = 0, target_updated_at = 0;  ///< lifetime, in module_steps
  };
  struct Result {
    Metrics metrics;   ///< of the last epoch
    Metrics of_batch;  ///< of targets and buffer
    int64_t grad_updates = 0, skipped = 0;
  };
  /// Trains on this shard's part of a batch, null where it has none. Throws Error("diverged") once three gradients in a
  /// row were not finite, and GroupBroken.
  Result update(Fragment* batch, Pass& pass);

  /// What an update changes, but for the circular buffer: kept on the device, and put back.
  void take_snapshot();
  void restore_snapshot();

  c10::Device device() const { return support_->device(); }

  std::span<const float> parameters();  ///< [P]  waits for their copy; valid until the next update
  TensorMap optimizer_state() const;    ///< as Optimizer's
  std::vector<float> target() const;    ///< [P]  of the target network; empty without one
  int64_t num_skipped() const { return optimizer_->counters().skipped; }  ///< lifetime

  /// Empties the circular buffer. `target` is empty without a target network.
  void set_state(std::span<const float> parameters, const TensorMap& optimizer, std::span<const float> target);

  /// The first sum of a group, where its members connect: it could not be recorded. Throws GroupBroken.
  void meet(DeviceGroup& group);

  /// Whose gradients are summed from the next update on; null: alone. It outlives its use here. Empties the circular
  /// buffer.
  void set_group(DeviceGroup* group);

  /// Of recorded work: RecordedWork::counts().
  const std::map<std::string, int64_t>& work_counts() const { return work_.counts(); }

 private:
  /// Units [begin, begin + count) of this shard's order, of `total` in the group's minibatch.
  struct Piece {
    int64_t begin = 0, count = 0, total = 0;
  };

  void load(Fragment& fragment, const MeanStdFilter* filter);
  void prepare(const FragmentLayout& layout);
  void grow_final_rows(int64_t rows);
  void set_numbers(const Pass& pass);
  void refresh_final_index();
  void make_targets(bool mine);
  void compute_targets(bool mine);
  void train_batches(const Fragment* fragment, Pass& pass, Result& result);
  void train_pass(Share& share, Pass& pass);
  bool train_epoch(const Share& share, Pass& pass);
  void train_minibatch(Piece piece, bool whole);
  Columns minibatch_of(const at::Tensor& units) const;
  void compute_gradient(const at::Tensor& units, Piece piece);
  void add_gradient(const at::Tensor& units, int64_t part, double share);
  void step();
  void make_target_columns(Columns& kept);
  void update_target(Pass& pass);
  void read_steps();
  void sum_up(std::span<const float> numbers, int64_t rows);
  Metrics epoch_metrics() const;
  void finish(Pass& pass, int64_t module_steps_before, const DeviceOptimizer::Counters& before, Result& result);
  [[noreturn]] void diverged(int64_t in_a_row) const;

  bool recordable() const { return group_ == nullptr || group_->recordable(); }
  void sum_over_group(const at::Tensor& tensor) const;
  void sum_gradient();
  void start_buckets();
  void make_gradient();
  std::vector<at::Tensor> state_tensors() const;

  TrainingConfig training_;
  int64_t accumulation_;
  bool bfloat16_;
  Space action_space_;
  ModuleSpec spec_;
  const Algorithm& algorithm_;
  UpdatePlan plan_;
  std::unique_ptr<DeviceSupport> support_;
  DeviceGroup* group_ = nullptr;
  at::Tensor flat_, target_;       // [P]  target_ undefined without a target network
  std::vector<at::Tensor> views_;  ///< of flat_, in the spec's order; they require a gradient
  // [P + 1 + m + S * A * ValueFit::kNumbers]  the gradient and what is summed over the group together with it: the
  // loss, its metrics, and where time-major the fits of A accumulated parts of S shards, each in a place of its own
  at::Tensor gradient_;
  GradientBuckets buckets_;  ///< of gradient_, that a recordable group sums while backward is at work
  std::unique_ptr<DeviceOptimizer> optimizer_;
  RecordedWork work_;
  std::optional<CircularBuffer> buffer_;  ///< of slabs, filtered
  std::vector<at::Tensor> snapshot_;      ///< of state_tensors()
  DeviceOptimizer::Counters snapshot_counters_;

  // What lies on the device for good, for batches of one layout.
  uint64_t layout_hash_ = 0;
  at::Tensor slab_;             // [bytes]  the fragment's buffer
  TensorBatch batch_;           ///< views of slab_, all the rows final_obs can have among them; columns beside it
  int64_t final_capacity_ = 0;  ///< rows of final_obs that go through the module; never shrinks
  at::Tensor order_;            // [units]  of an epoch: rows, or environments where time-major
  std::map<int64_t, at::Tensor> chosen_;            ///< a minibatch's units, by their number
  at::Tensor numbers_;                              // [1 + c + 2 * obs_size]  what the host says of an update:
  at::Tensor lr_, shift_, scale_;                   // parts of it: [], of the filter [obs_size] each
  std::map<std::string, at::Tensor> coefficients_;  // parts of it, []
  at::Tensor target_metrics_;                       // [k]
  std::span<const std::string_view> target_names_;

  // Steps the host has not read yet: their numbers on the device, and whose they are.
  struct Step {
    int64_t epoch, rows;
  };
  at::Tensor steps_, next_step_;  // [kSteps, 1 + m + fits + 1]  gradient_'s tail and the norm;  [1] int64: a row of it
  std::vector<Step> unread_;
  // Of this update, as far as read.
  int64_t epoch_ = 0, summed_epoch_ = 0;
  std::vector<double> sums_;  ///< of summed_epoch_: total, metrics, explained variance, norm, 1, each times rows
  int64_t trained_ = 0;       ///< rows
  std::vector<float> target_numbers_;  ///< of target_metrics_
};

}  // namespace myriad
