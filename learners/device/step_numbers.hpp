// StepNumbers: what gradient steps on a device found: loss, metrics, fits, the gradient's norm. Each step leaves a row
// on the device, which the host reads and sums up later, so that nothing waits for a single step. Owned by
// TorchTrainer; one thread, inside DeviceSupport::run().
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <vector>

#include "learners/device/device_optimizer.hpp"
#include "learners/epoch_sums.hpp"

namespace myriad {

class StepNumbers {
 public:
  /// Rows of [total, metrics..., fits..., norm], with so many metrics and ValueFits, which are merged.
  void set_width(size_t metrics, size_t fits, const at::TensorOptions& options);

  /// An update begins: rows of one that was broken off are dropped.
  void begin();

  /// Queues the next row; what is recorded of it writes another one each time it is replayed.
  void write(const at::Tensor& row);  // [width]
  /// That one more is queued: of an epoch, and the minibatch's rows.
  void wrote(int64_t epoch, int64_t rows);
  bool full() const;
  int64_t unread_rows() const { return unread_rows_; }  ///< of the minibatches whose steps were not read yet

  /// Waits for what is queued, counts the steps with `optimizer` and adds them to `sums`; returns the numbers of
  /// `also`, which may be undefined.
  std::vector<float> read(DeviceOptimizer& optimizer, EpochSums& sums, const at::Tensor& also);

 private:
  void add(std::span<const float> row, int64_t rows, EpochSums& sums) const;

  struct Step {
    int64_t epoch, rows;
  };
  size_t metrics_ = 0, fits_ = 0;
  at::Tensor rows_, next_;  // [kSteps, width];  [1] int64: the next of them
  std::vector<Step> unread_;
  int64_t unread_rows_ = 0;
};

}  // namespace myriad
