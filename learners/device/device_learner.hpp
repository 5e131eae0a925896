// DeviceLearner: one shard's update on a torch device, end to end: the part of Learner between a batch in host memory
// and parameters in host memory.
//
//   fragment --upload--> slab [-> circular buffer] -> filter -> targets -> passes of num_epochs x minibatches --+
//   host <--download, metrics-- parameters <- Adam <- clip <- [group's sum] <- gradient <- loss <- forward <----+
//
// The host draws minibatches from the same random streams as the CPU's learner (DeviceBatch); alone, nothing waits for
// the device before the end of an update (StepNumbers). What lies in parts over a group does so as on the CPU: a pass
// of the module is then PartedModule's, and the optimizer steps this shard's part.
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
#include "learners/device/device_batch.hpp"
#include "learners/device/device_optimizer.hpp"
#include "learners/device/device_support.hpp"
#include "learners/device/recorded_work.hpp"
#include "learners/device/step_numbers.hpp"
#include "learners/group/device_group.hpp"
#include "learners/group/gradient_buckets.hpp"
#include "learners/group/parts.hpp"
#include "learners/module/parted_module.hpp"

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

  std::span<const float> parameters();  ///< all, or this shard's part; waits for their copy; until the next update
  TensorMap optimizer_state() const;    ///< as Optimizer's
  TensorMap counter_state() const { return optimizer_->counter_state(); }
  std::vector<float> target() const;  ///< of the target network, as parameters(); empty without one
  int64_t num_skipped() const { return optimizer_->counters().skipped; }  ///< lifetime

  /// Of the whole, before anything lies in parts. Empties the circular buffer. `target` is empty without a target
  /// network.
  void set_state(std::span<const float> parameters, const TensorMap& optimizer, std::span<const float> target);

  /// The optimizer's counters and, unless they are empty, parameters and target.
  void set_replicated_state(std::span<const float> parameters, const TensorMap& counters,
                            std::span<const float> target);

  /// The first sum of a group, where its members connect: it could not be recorded. Throws GroupBroken.
  void meet(DeviceGroup& group);

  /// Whose shards train together from the next update on, null: alone; it outlives its use here. `own`: this shard's
  /// part of what lies in parts, in copies()' order; empty where that stays as it is. Empties the circular buffer.
  void set_group(DeviceGroup* group, const Placement& placement, const Parts::Slices& own);

  /// Copies of what may lie in parts: the moments, and with `parameters` also these before and the target after them.
  Parts::Slices copies(bool parameters) const;

  /// As Learner's learner_memory_ metrics.
  struct Memory {
    size_t parameters_bytes, gradients_bytes, optimizer_bytes, snapshot_bytes;
  };
  Memory memory() const;

  /// Of recorded work: RecordedWork::counts().
  const std::map<std::string, int64_t>& work_counts() const { return work_.counts(); }

 private:
  /// Units [begin, begin + count) of this shard's order, of `total` in the group's minibatch.
  struct Piece {
    int64_t begin = 0, count = 0, total = 0;
  };

  void set_numbers(const Pass& pass);
  void make_targets(bool mine);
  void compute_targets(bool mine);
  void train_batches(const Fragment* fragment, Pass& pass, Result& result);
  void train_pass(Share& share, Pass& pass);
  bool train_epoch(const Share& share, Pass& pass);
  void train_minibatch(Piece piece, bool whole);
  ModuleOutput forward(const at::Tensor& obs);
  ModuleOutput infer(const at::Tensor& home, const at::Tensor& obs);
  void compute_gradient(const at::Tensor& units, Piece piece);
  void add_gradient(const at::Tensor& units, int64_t part, double share);
  void sum_gradient();
  void clear_frozen();
  void step();
  void gather_parameters();
  void make_target_columns(Columns& kept);
  void update_target(Pass& pass);
  void read_steps();
  void finish(Pass& pass, int64_t module_steps_before, const DeviceOptimizer::Counters& before, Result& result);
  [[noreturn]] void diverged(int64_t in_a_row) const;

  bool alone() const { return group_ == nullptr; }
  /// Whether work that has the group's operations in it can be recorded.
  bool recordable() const { return alone() || group_->recordable(); }
  void sum_over_group(const at::Tensor& tensor) const;
  void start_buckets();
  void empty_buffer();
  void make_room();
  at::Tensor tail() const { return gradient_.narrow(0, num_gradients_, gradient_.numel() - num_gradients_); }
  std::vector<at::Tensor> state_tensors() const;

  TrainingConfig training_;
  int64_t accumulation_;
  bool bfloat16_;
  ModuleSpec spec_;
  const Algorithm& algorithm_;
  UpdatePlan plan_;
  std::unique_ptr<DeviceSupport> support_;
  RecordedWork work_;
  DeviceBatch batch_;
  StepNumbers steps_;
  std::unique_ptr<DeviceOptimizer> optimizer_;
  std::optional<CircularBuffer> buffer_;  ///< of batches, filtered

  DeviceGroup* group_ = nullptr;
  std::vector<LrRange> lr_ranges_;
  Placement placement_;
  std::unique_ptr<PartedModule> parted_;  ///< null unless gradients are in parts
  at::Tensor room_;                       ///< of flat_, and what makes its parts equal
  at::Tensor flat_, target_;              // [P], or this shard's part; target_ undefined without a target network
  std::vector<at::Tensor> views_;         ///< of flat_, in the spec's order; they require a gradient; none by layer
  // [P + 1 + m + S * A * ValueFit::kNumbers]  the gradient and what is summed over the group together with it: the
  // loss, its metrics, and where time-major the fits of A accumulated parts of S shards, each in a place of its own.
  // By layer [c + the same + 1]: of the gradient this shard's part, and last a sum of squares
  at::Tensor gradient_;
  int64_t num_gradients_ = 0;         ///< P or c
  GradientBuckets buckets_;           ///< of gradient_, that a recordable group sums while backward is at work
  std::vector<at::Tensor> snapshot_;  ///< of state_tensors()
  DeviceOptimizer::Counters snapshot_counters_;

  at::Tensor numbers_;                              // [1 + c + 2 * obs_size]  what the host says of an update:
  at::Tensor lr_;                                   // [], a part of it
  DeviceBatch::Filter filter_;                      ///< parts of it
  std::map<std::string, at::Tensor> coefficients_;  // parts of it, []
  at::Tensor target_metrics_;                       // [k]
  std::span<const std::string_view> target_names_;
  std::vector<float> target_numbers_;  ///< of target_metrics_, as read last
  int64_t epoch_ = 0;                  ///< of this update, from 1
};

}  // namespace myriad
