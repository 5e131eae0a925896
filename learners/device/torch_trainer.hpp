// TorchTrainer: a Trainer in torch's operators, on any device, for every network and algorithm.
//
//   fragment --upload--> slab [-> circular buffer] -> filter -> targets -> passes of num_epochs x minibatches --+
//   host <--download, metrics-- parameters <- Adam <- clip <- [group's sum] <- gradient <- loss <- forward <----+
//
// The host draws minibatches (DeviceBatch); alone, nothing waits for the device before the end of an update
// (StepNumbers), and what comes again is recorded (RecordedWork). What lies in parts over a group: a pass of the module
// is then PartedModule's, and the optimizer steps this shard's part. CpuSupport runs the same on a CPU.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "learners/device/device_batch.hpp"
#include "learners/device/device_optimizer.hpp"
#include "learners/device/device_support.hpp"
#include "learners/device/recorded_work.hpp"
#include "learners/device/step_numbers.hpp"
#include "learners/group/gradient_buckets.hpp"
#include "learners/trainer.hpp"

namespace myriad {

class TorchTrainer final : public Trainer {
 public:
  /// `algorithm` outlives it.
  TorchTrainer(const Config& config, const Algorithm& algorithm, const ModuleSpec& spec, const Space& action_space,
               std::unique_ptr<DeviceSupport> support);

  c10::Device device() const override { return support_->device(); }
  std::span<const float> parameters() override;  ///< waits for their copy
  std::vector<float> target() override;
  OptimizerCounters counters() const override { return optimizer_->counters(); }
  TensorMap optimizer_state() const override;
  void set_state(std::span<const float> parameters, const TensorMap& optimizer, std::span<const float> target) override;
  void set_replicated_state(std::span<const float> parameters, const TensorMap& optimizer,
                            std::span<const float> target) override;
  Parts::Live live(bool parameters, Parts::Slices& copies) override;
  void meet(DeviceGroup& group) override;
  void take_snapshot() override;
  void restore_snapshot() override;
  Memory memory() const override;

 private:
  void run(const std::function<void()>& work) override { support_->run(work); }
  void load(const Update& update) override;
  void make_targets(bool mine) override;
  void keep(Columns& kept) const override { batch_.keep(kept); }
  void bring_back(const Columns& kept) override { batch_.bring_back(kept); }
  void make_target_columns(bool mine) override;
  at::Tensor column(const char* name) const override { return batch_.column(name); }
  void set_column(const char* name, const at::Tensor& values) override { batch_.set_column(name, values); }
  void begin_epoch(std::span<const int64_t> order, bool shuffled) override;
  void train_minibatch(const Minibatch& minibatch) override;
  int64_t rows_trained() const override { return sums_.trained() + steps_.unread_rows(); }
  void read_steps() override;
  void move_target(float tau) override { target_.lerp_(flat_, tau); }
  void finish(Metrics& of_batch) override;
  void place(std::shared_ptr<DeviceGroup> gradients, Parts::Slices own) override;
  void begin_gradient() override;
  void begin_last_part() override;
  void add_gradient(const Minibatch& minibatch, Piece part, int64_t index) override;
  void add_nothing() override;

  void set_numbers(const Update& update);
  void compute_targets(bool mine);
  struct Passes;
  ModuleOutput pass(const std::vector<at::Tensor>& tensors, const at::Tensor& obs) const;
  ModuleOutput infer(const at::Tensor& home, const at::Tensor& obs);
  void draw_shifts(int64_t count);
  at::Tensor next_shifts(int64_t rows);
  void sum_gradient();
  void clear_frozen();
  void step();
  void gather_parameters();
  [[noreturn]] void diverged(int64_t in_a_row) const;

  /// Whether work that has the group's operations in it can be recorded.
  bool recordable() const { return alone() || gradients_->recordable(); }
  void sum_over_group(const at::Tensor& tensor) const;
  void make_room();
  at::Tensor tail() const { return gradient_.narrow(0, num_gradients_, gradient_.numel() - num_gradients_); }
  std::vector<at::Tensor> state_tensors() const;

  const bool bfloat16_;
  const std::vector<TorchLayer> layers_;
  const std::unique_ptr<DeviceSupport> support_;
  RecordedWork work_;
  DeviceBatch batch_;
  StepNumbers steps_;
  const std::vector<LrRange> lr_ranges_;
  std::unique_ptr<DeviceOptimizer> optimizer_;

  std::shared_ptr<DeviceGroup> gradients_;  ///< of group_, where the tensors lie; null: alone
  std::unique_ptr<PartedModule> parted_;    ///< null unless gradients are in parts
  at::Tensor room_;                         ///< of flat_, and what makes its parts equal
  at::Tensor flat_, target_;                // [P], or this shard's part; target_ undefined without a target network
  std::vector<at::Tensor> views_;           ///< of flat_, in the spec's order; they require a gradient; none by layer
  // [P + 1 + m + S * A * ValueFit::kNumbers]  the gradient and what is summed over the group together with it: the
  // loss, its metrics, and where time-major the fits of A accumulated parts of S shards, each in a place of its own.
  // By layer [c + the same + 1]: of the gradient this shard's part, and last a sum of squares
  at::Tensor gradient_;
  int64_t num_gradients_ = 0;  ///< P or c
  /// A running statistic: views of flat_ and gradient_, and what moves it, which is no part of the gradient.
  struct Statistic {
    at::Tensor value, gradient, difference;
    double momentum;
  };
  std::vector<Statistic> statistics_;
  bool in_place_ = false;             ///< backward adds to gradient_ itself
  GradientBuckets buckets_;           ///< of gradient_, which are summed while backward is at work
  std::vector<at::Tensor> snapshot_;  ///< of state_tensors()
  DeviceOptimizer::Counters snapshot_counters_;

  std::span<const int64_t> order_;  ///< of this epoch
  bool shuffled_ = false, order_is_there_ = false;
  at::Tensor chosen_;  ///< units of the minibatch; undefined: all of the batch

  const bool shifts_pictures_;
  RandomStream shift_numbers_;            ///< of this update
  std::map<int64_t, at::Tensor> shifts_;  // [rows, 2]  of a minibatch's rows, by their number
  at::Tensor drawn_shifts_;               ///< of the minibatch; one of them
  int64_t next_shift_ = 0;                ///< the next part's first row of them

  at::Tensor numbers_;                              // [1 + c + 2 * obs_size]  what the host says of an update:
  at::Tensor lr_;                                   // [], a part of it
  DeviceBatch::Filter filter_;                      ///< parts of it
  std::map<std::string, at::Tensor> coefficients_;  // parts of it, []
  at::Tensor target_metrics_;                       // [k]
  std::span<const std::string_view> target_names_;
  std::vector<float> target_numbers_;  ///< of target_metrics_, as read last
};

}  // namespace myriad
