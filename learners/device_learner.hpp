// DeviceLearner: one shard's update on a torch device, end to end: the part of Learner between a batch in host memory
// and parameters in host memory.
//
//   fragment --upload--> slab [-> circular buffer] -> filter -> targets -> passes of num_epochs x minibatches --+
//   host <--download, metrics-- parameters <- Adam <- clip <- [group's mean] <- gradient <- loss <- forward <---+
//
// The slab is the fragment's buffer on the device, so that a batch is one copy and every shape is fixed; what varies,
// the rows of final_obs, is rounded up. Minibatches are gathered on the device by rows that the host draws from the
// same random stream as the CPU's learner. Nothing waits for the device before the end of an update.
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
#include "learners/recorded_work.hpp"

namespace myriad {

/// What of Learner's books a pass needs and changes.
struct PassCounters {
  int64_t module_steps = 0;                           ///< rows that went through the loss, lifetime
  int64_t target_updates = 0, target_updated_at = 0;  ///< lifetime, in module_steps
};

class DeviceLearner {
 public:
  /// `algorithm` outlives it. Throws Error("impossible") for an algorithm without a loss for devices at its first
  /// update.
  DeviceLearner(const Config& config, const Algorithm& algorithm, const ModuleSpec& spec, const Space& action_space,
                std::unique_ptr<DeviceSupport> support);

  struct Result {
    Metrics metrics;  ///< of the last epoch and of the targets
    int64_t grad_updates = 0, skipped = 0;
  };
  /// Trains on one batch. `filter` may be null. Throws Error("diverged") once three gradients in a row were not
  /// finite.
  Result update(Fragment& batch, const MeanStdFilter* filter, double lr, RandomStream& random, PassCounters& counters);

  std::span<const float> parameters();                  ///< [P]  waits for their copy; valid until the next update
  TensorMap optimizer_state() const;                    ///< as Optimizer's
  std::vector<float> target() const;                    ///< [P]  of the target network; empty without one
  int64_t num_skipped() const { return num_skipped_; }  ///< lifetime

  /// Empties the circular buffer. `target` is empty without a target network.
  void set_state(std::span<const float> parameters, const TensorMap& optimizer, std::span<const float> target);

  /// Whose gradients are averaged from the next update on; null: alone. It outlives its use here.
  void set_group(DeviceGroup* group);

  /// Of recorded work: RecordedWork::counts().
  const std::map<std::string, int64_t>& work_counts() const { return work_.counts(); }
  const std::string& recording_failure() const { return work_.failure(); }

 private:
  void load(Fragment& fragment, const MeanStdFilter* filter);
  void prepare(const FragmentLayout& layout);
  void grow_final_rows(int64_t rows);
  void normalise(const MeanStdFilter& filter);
  void set_numbers(double lr);
  void refresh_final_index();
  void make_targets();
  void train_batches(const FragmentLayout& layout, RandomStream& random, PassCounters& counters, Result& result);
  void train_pass(RandomStream& random, PassCounters& counters, Columns* kept);
  bool train_epoch(RandomStream& random, PassCounters& counters);
  void train_minibatch(const at::Tensor& units, int64_t rows);
  Columns minibatch_of(const at::Tensor& units) const;
  void compute_gradient(const at::Tensor& units);
  void apply_gradient(double rows);
  void make_target_columns(Columns* kept);
  void update_target(PassCounters& counters);
  Metrics epoch_metrics(std::span<const double> sums) const;
  void finish(PassCounters& counters, int64_t module_steps_before, Result& result);
  [[noreturn]] void diverged(int64_t in_a_row) const;
  void keep_counters(int64_t steps, int64_t skipped);

  TrainingConfig training_;
  bool bfloat16_;
  Space action_space_;
  ModuleSpec spec_;
  const Algorithm& algorithm_;
  UpdatePlan plan_;
  std::unique_ptr<DeviceSupport> support_;
  DeviceGroup* group_ = nullptr;
  at::Tensor flat_, gradient_, target_;  // [P]  target_ undefined without a target network
  std::vector<at::Tensor> views_;        ///< of flat_, in the spec's order; they require a gradient
  std::unique_ptr<DeviceOptimizer> optimizer_;
  RecordedWork work_;
  std::optional<CircularBuffer> buffer_;     ///< of slabs, filtered
  int64_t num_steps_ = 0, num_skipped_ = 0;  ///< of the optimizer, as of the last update

  // What lies on the device for good, for batches of one layout.
  uint64_t layout_hash_ = 0;
  at::Tensor slab_;             // [bytes]  the fragment's buffer
  TensorBatch batch_;           ///< views of slab_, all the rows final_obs can have among them, and columns beside it
  int64_t final_capacity_ = 0;  ///< rows of final_obs that go through the module; never shrinks
  at::Tensor order_;            // [units]  of an epoch: rows, or environments where time-major
  std::map<int64_t, at::Tensor> chosen_;            ///< a minibatch's units, by their number
  std::map<std::string, at::Tensor> coefficients_;  // []
  at::Tensor filter_;                               // [2, obs_size]  shift, scale
  at::Tensor loss_;                                 // [1 + m]  of the last minibatch: total, metrics
  at::Tensor sums_;            // [1 + m + 2]  float64, of an epoch: total, metrics, norm, 1, each times rows
  at::Tensor trained_;         // [1]  float64: rows of the update
  at::Tensor target_metrics_;  // [m]
  std::span<const std::string_view> loss_names_, target_names_;
  int64_t minibatches_ = 0;  ///< of this update, the skipped ones too
};

}  // namespace myriad
