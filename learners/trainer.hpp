// Trainer: what lies between a batch and the parameters of one shard: minibatches, losses, gradients, Adam, the target
// network and the circular buffer.
//
//   batch -> targets -> num_epochs x minibatches of (loss, gradient, sum over the group, step) [-> target network]
//
// or, by a SequencePlan, whose losses make their targets themselves:
//
//   batch [-> circular buffer] -> passes of num_epochs x minibatches [-> target network]
//
// The loop is here; what it calls is an executor's:
//
//   NativeTrainer   an algorithm's SampleLosses and Eigen, on a CPU: small networks
//   TorchTrainer    torch's operators, on any device: all networks and algorithms
//
// Owned by Learner, which has the group, the transaction and the books; one thread.
#pragma once

#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "learners/algorithm.hpp"
#include "learners/circular_buffer.hpp"
#include "learners/device/device_support.hpp"
#include "learners/epoch_sums.hpp"
#include "learners/group/collective.hpp"
#include "learners/group/device_group.hpp"
#include "learners/group/parts.hpp"
#include "learners/minibatches.hpp"
#include "learners/module/parted_module.hpp"
#include "learners/native/optimizer_state.hpp"
#include "rl/config.hpp"
#include "rl/weights.hpp"

namespace myriad {

class Trainer {
 public:
  virtual ~Trainer() = default;

  /// One update of the group.
  struct Update {
    Fragment* batch = nullptr;              ///< this shard's share; null where it has nothing
    at::Tensor observed;                    ///< observations(batch), where they are there already
    Share share;                            ///< how much each shard has; without columns
    const MeanStdFilter* filter = nullptr;  ///< of observations; null: none
    double lr = 0.0;
    RandomStream minibatches;   ///< of this shard
    RandomStream augmentation;  ///< of this shard: RandomShift's
    RandomStream buffer;        ///< the same at every shard
  };
  /// What an update counts, over the run.
  struct Books {
    int64_t module_steps = 0;                           ///< rows that went through the loss
    int64_t target_updates = 0, target_updated_at = 0;  ///< the second in module_steps
  };
  struct Result {
    Metrics metrics;   ///< of the last epoch
    Metrics of_batch;  ///< of targets, buffer and device
    int64_t grad_updates = 0, skipped = 0;
  };
  /// Throws Error("diverged") once three gradients in a row were not finite, and GroupBroken.
  Result update(Update update, Books& books);

  virtual c10::Device device() const { return c10::kCPU; }

  /// All, or this shard's part; until the next update.
  virtual std::span<const float> parameters() = 0;
  /// Of the target network, as parameters(); empty without one.
  virtual std::vector<float> target() = 0;
  virtual OptimizerCounters counters() const = 0;
  /// This shard's part, with "offset" and "total" where that is not everything.
  virtual TensorMap optimizer_state() const = 0;

  /// Of the whole, before anything lies in parts; `target` is empty without a target network. Throws
  /// Error("foreign-checkpoint") where the optimizer's state does not fit.
  virtual void set_state(std::span<const float> parameters, const TensorMap& optimizer,
                         std::span<const float> target) = 0;
  /// The optimizer's counters and, unless they are empty, parameters and target.
  virtual void set_replicated_state(std::span<const float> parameters, const TensorMap& optimizer,
                                    std::span<const float> target) = 0;

  /// This shard's part of what may lie in parts: the moments, and with `parameters` also these before and the target
  /// after them. `copies`: room for what cannot be read where it lies.
  virtual Parts::Live live(bool parameters, Parts::Slices& copies) = 0;

  /// The first sum of a group on a device, where its members connect. Throws GroupBroken.
  virtual void meet(DeviceGroup& group) = 0;

  /// Whose shards train together from the next update on; null: alone. `gradients`: how these are summed where they lie
  /// on a device; null: by `group`. `own`: this shard's part of what lies in parts, in live()'s order; empty where that
  /// stays as it is. Empties the circular buffer.
  void set_group(std::shared_ptr<Collective> group, std::shared_ptr<DeviceGroup> gradients, const Placement& placement,
                 Parts::Slices own);

  /// What an update changes, but for the circular buffer: kept, and put back.
  virtual void take_snapshot() = 0;
  virtual void restore_snapshot() = 0;

  void empty_buffer();

  /// As Learner's learner_memory_ metrics.
  struct Memory {
    size_t parameters_bytes = 0, gradients_bytes = 0, optimizer_bytes = 0, snapshot_bytes = 0;
  };
  virtual Memory memory() const = 0;

 protected:
  /// `algorithm` outlives it.
  Trainer(const Config& config, const Algorithm& algorithm, const ModuleSpec& spec);

  // What an executor gives, in the order of an update. `mine`: this shard has something of the batch.

  /// Runs an update where the executor's operators belong.
  virtual void run(const std::function<void()>& work) { work(); }

  /// Takes the batch, where there is one, and the update's coefficients.
  virtual void load(const Update& update) = 0;
  /// By a RowPlan: the batch's values, and the columns of targets.
  virtual void make_targets(bool mine) = 0;

  /// For the circular buffer: adds a copy of the batch to `kept`; takes the batch a copy was made of.
  virtual void keep(Columns& kept) const = 0;
  virtual void bring_back(const Columns& kept) = 0;

  /// The columns of kTargetInputs and kTargetLogp.
  virtual void make_target_columns(bool mine) = 0;
  virtual at::Tensor column(const char* name) const = 0;  ///< until the next batch
  virtual void set_column(const char* name, const at::Tensor& values) = 0;

  /// `order`: this shard's units, until the next epoch; `shuffled`: it is not 0, 1, 2, ...
  virtual void begin_epoch(std::span<const int64_t> order, bool shuffled) = 0;

  /// One gradient step: compute_gradient(), its sum over the group, the optimizer.
  virtual void train_minibatch(const Minibatch& minibatch) = 0;
  /// Rows of this update's steps. Those whose outcome is not known yet count as trained.
  virtual int64_t rows_trained() const = 0;
  /// Waits for the outcome of all steps: sums_ and counters() have it then.
  virtual void read_steps() = 0;
  virtual void move_target(float tau) = 0;  ///< target := tau * parameters + (1 - tau) * target

  /// Ends an update, and adds metrics of its batch.
  virtual void finish(Metrics& of_batch) = 0;

  /// For group_ and placement_, which are new.
  virtual void place(std::shared_ptr<DeviceGroup> gradients, Parts::Slices own) = 0;

  /// A minibatch's gradient: this shard's piece of it, in as many parts as gradient_accumulation says.
  void compute_gradient(const Minibatch& minibatch);
  virtual void begin_gradient() = 0;   ///< zeros
  virtual void begin_last_part() = 0;  ///< the next one completes the gradient: sums may begin
  virtual void add_gradient(const Minibatch& minibatch, Piece part, int64_t index) = 0;  ///< units of minibatch.own
  virtual void add_nothing() = 0;  ///< instead, where a part has no units

  bool alone() const { return group_ == nullptr; }
  uint32_t rank() const { return group_ ? group_->rank() : 0; }
  uint32_t size() const { return group_ ? group_->size() : 1; }

  const TrainingConfig training_;
  const int64_t accumulation_;
  const ModuleSpec spec_;
  const Algorithm& algorithm_;
  const UpdatePlan plan_;
  const SequencePlan* const sequences_;             ///< of plan_; null: rows
  const std::optional<TargetNetwork> target_plan_;  ///< of plan_
  std::shared_ptr<Collective> group_;               ///< null: alone
  Placement placement_;
  EpochSums sums_;
  int64_t epoch_ = 0;  ///< of this update, from 1

 private:
  void train_batches(Update& update, Books& books, Result& result);
  void train_pass(Share& share, Update& update, Books& books);
  bool train_epoch(const Share& share, Update& update);
  void take_target_columns(Share& share);
  void update_target(Books& books);

  std::optional<CircularBuffer> buffer_;
  int64_t steps_before_ = 0;  ///< Books::module_steps before this update
  std::vector<int64_t> order_;
};

/// By config.learners: `executor` and, where `support` is null, a CPU. Sets torch's threads. Throws Error for an
/// unknown executor, or one that cannot train the algorithm or the network.
std::unique_ptr<Trainer> make_trainer(const Config& config, const Algorithm& algorithm, const ModuleSpec& spec,
                                      const Space& action_space, std::unique_ptr<DeviceSupport> support);

}  // namespace myriad
