// Learner: module, optimizer, filter and algorithm of one shard, and the update that ties them together.
//
//   batch -> filter -> values -> targets -> num_epochs x minibatches of (loss, gradient, Adam) -> filter statistics
//
// or, where the algorithm's plan is time-major, its losses make their targets themselves:
//
//   batch -> filter [-> circular buffer] -> passes of num_epochs x minibatches [-> target network] -> filter statistics
//
// On a GPU all between batch and parameters is DeviceLearner's; filter, schedules and books stay here.
//
// No socket, file or clock: apps/learner_main.cpp feeds it batches and publishes weights(). Constructed and called by
// one thread.
#pragma once

#include <memory>
#include <optional>

#include "learners/algorithm.hpp"
#include "learners/circular_buffer.hpp"
#include "learners/device_learner.hpp"
#include "learners/optimizer.hpp"
#include "learners/tensor_batch.hpp"
#include "learners/torch_module.hpp"
#include "rl/config.hpp"
#include "rl/weights.hpp"

namespace myriad {

struct UpdateResult {
  Metrics metrics;           ///< under RLlib's names; losses are means over the last epoch
  int64_t grad_updates = 0;  ///< optimizer steps taken
  int64_t skipped = 0;       ///< minibatches whose gradient was not finite
};

/// All of a learner that changes. A new learner with this state continues bit for bit, unless there is a circular
/// buffer of more than one batch: its batches are not saved, so that the fewer than N uses they had left are lost, and
/// passes begin again when N uses are there.
struct LearnerState {
  TensorMap module;  ///< parameters by name
  TensorMap optimizer;
  TensorMap connectors;  ///< "mean_std_filter", where there is one
  TensorMap scalars;     ///< counters, random position, the algorithm's coefficients, target_parameters
};

class Learner {
 public:
  /// Throws Error for an unknown algorithm, device or executor, or spaces no module covers.
  /// `support`: for tests, the device to train on; null: what learners.device says.
  Learner(const Config& config, const Space& observation_space, const Space& action_space,
          std::unique_ptr<DeviceSupport> support = nullptr);

  const ModuleSpec& spec() const { return module_->spec(); }
  const Algorithm& algorithm() const { return *algorithm_; }
  uint64_t version() const { return version_; }

  /// Trains on one batch (T x all its environments). Throws Error("diverged") at the third gradient in a row that is
  /// not finite.
  UpdateResult update(Fragment& batch);

  /// What runners need: the inference part, the filter's statistics and the version.
  Weights weights() const;

  LearnerState state() const;
  void set_state(const LearnerState& state);  ///< throws Error("foreign-checkpoint") when it does not fit

 private:
  void empty_buffer();
  void fill_values(TensorBatch& batch);
  Columns flat_columns(const TensorBatch& batch) const;
  void train_on_device(Fragment& fragment, double lr, UpdateResult& result);
  void train_here(Fragment& fragment, double lr, UpdateResult& result);
  std::span<const float> parameters() const;
  Metrics train_rows(TensorBatch& batch, double lr, UpdateResult& result);
  Metrics train_sequences(const TensorBatch& batch, double lr, UpdateResult& result);
  void train_pass(Columns& columns, int64_t rows, double lr, UpdateResult& result);
  Metrics train_epoch(const Columns& columns, int64_t rows, double lr, UpdateResult& result);
  bool train_minibatch(const Columns& minibatch, double lr, double weight, Metrics& sums);
  void add_target_columns(Columns& columns);
  void update_target();
  void update_filter(Fragment& batch);

  TrainingConfig training_;
  Space action_space_;
  std::unique_ptr<Algorithm> algorithm_;
  UpdatePlan plan_;
  std::unique_ptr<TorchModule> module_;
  std::unique_ptr<Optimizer> optimizer_;
  std::unique_ptr<DeviceLearner>
      device_;  ///< null on a CPU; with it module_, optimizer_, buffer_, target_ hold nothing
  std::optional<MeanStdFilter> filter_;
  std::optional<CircularBuffer> buffer_;
  at::Tensor target_;                                   // [P]  undefined without a target network
  RandomStream random_;                                 ///< of minibatches
  uint64_t version_ = 0;                                ///< updates done
  int64_t env_steps_ = 0;                               ///< trained on, lifetime
  int64_t module_steps_ = 0;                            ///< rows that went through the loss, lifetime
  int64_t target_updates_ = 0, target_updated_at_ = 0;  ///< lifetime, in module_steps_
};

}  // namespace myriad
