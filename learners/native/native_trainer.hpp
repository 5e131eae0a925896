// NativeTrainer: a Trainer on a CPU without torch's operators: an algorithm's SampleLosses, NativeModule and Optimizer.
// For small networks most of an update in torch's operators is their dispatch. Torch's tensors only hold the columns.
#pragma once

#include "learners/aligned_vector.hpp"
#include "learners/group/gradient_buckets.hpp"
#include "learners/native/native_module.hpp"
#include "learners/native/optimizer.hpp"
#include "learners/trainer.hpp"

namespace myriad {

class NativeTrainer final : public Trainer {
 public:
  /// `algorithm`, of which `losses` is the other face, outlives it. Throws Error("impossible") for a network that
  /// NativeModule does not support.
  NativeTrainer(const Config& config, const Algorithm& algorithm, const SampleLosses& losses, const ModuleSpec& spec,
                const Space& action_space, int threads);

  std::span<const float> parameters() override { return parameters_; }
  std::vector<float> target() override { return {target_.begin(), target_.end()}; }
  OptimizerCounters counters() const override { return optimizer_.memory(); }
  TensorMap optimizer_state() const override { return optimizer_.state(); }
  void set_state(std::span<const float> parameters, const TensorMap& optimizer, std::span<const float> target) override;
  void set_replicated_state(std::span<const float> parameters, const TensorMap& optimizer,
                            std::span<const float> target) override;
  Parts::Live live(bool parameters, Parts::Slices& copies) override;
  void meet(DeviceGroup& group) override;
  void take_snapshot() override;
  void restore_snapshot() override;
  Memory memory() const override;

 private:
  /// What a minibatch of the group found.
  struct Found {
    double total = 0;             ///< the loss
    std::vector<double> metrics;  ///< means
    ValueFit fit;
  };

  void load(const Update& update) override;
  void make_targets(bool mine) override;
  void keep(Columns& kept) const override;
  void bring_back(const Columns& kept) override { columns_ = kept; }
  void make_target_columns(bool mine) override;
  at::Tensor column(const char* name) const override { return columns_.at(name); }
  void set_column(const char* name, const at::Tensor& values) override { columns_[name] = values; }
  void begin_epoch(std::span<const int64_t> order, bool shuffled) override;
  void train_minibatch(const Minibatch& minibatch) override;
  int64_t rows_trained() const override { return sums_.trained(); }
  void read_steps() override {}
  void move_target(float tau) override;
  void finish(Metrics& of_batch) override;
  void place(std::shared_ptr<DeviceGroup> gradients, Parts::Slices own) override;
  void begin_gradient() override;
  void begin_last_part() override;
  void add_gradient(const Minibatch& minibatch, Piece part, int64_t index) override;
  void add_nothing() override {}

  ModuleOutput forward(const AlignedVector& parameters, const at::Tensor& obs);
  at::Tensor values_of(const at::Tensor& obs);
  Columns columns_of(Piece piece) const;
  double sum_gradient();
  std::vector<double> numbers_of(const Found& found) const;
  void take_numbers(std::span<const double> numbers);
  Optimizer::Outcome step(double squares);
  std::span<float> gradient() { return std::span(gradient_).first(parameters_.size()); }
  void finished(Range range);

  const SampleLosses& losses_;
  const Space action_space_;
  const std::vector<Parameter> list_;  ///< the spec's, in order
  NativeModule module_;
  Optimizer optimizer_;
  AlignedVector parameters_, target_;  // [P]; target_ empty without a target network
  AlignedVector gradient_;             // [P + n]  and behind it what is summed over a group together with it
  GradientBuckets buckets_;            ///< of the gradient, which are summed during backward

  double lr_ = 0.0;
  TensorBatch batch_;  ///< views of the fragment, during an update
  Columns columns_;    ///< the loss's: [T * N, ...], or time-major ones as sequence_columns(); empty without a batch
  Columns shuffled_;   ///< where the plan is not time-major: columns_ in the epoch's order
  std::span<const int64_t> order_;
  Metrics target_metrics_;
  Found found_;

  struct Snapshot {
    AlignedVector parameters, target;
    Optimizer::Memory optimizer;
  } snapshot_;
};

}  // namespace myriad
