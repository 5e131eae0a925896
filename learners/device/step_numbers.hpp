// StepNumbers: what gradient steps on a device found: loss, metrics, fits, the gradient's norm. Each step leaves a row
// on the device, which the host reads and sums up later, so that nothing waits for a single step. Owned by
// DeviceLearner; one thread, inside DeviceSupport::run().
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "learners/algorithm.hpp"
#include "learners/device/device_optimizer.hpp"

namespace myriad {

class StepNumbers {
 public:
  /// `names` of the metrics, static; `fits`: rows hold ValueFits, to be merged.
  StepNumbers(std::span<const std::string_view> names, bool fits) : names_(names), fits_(fits) {}

  /// Rows of [total, metrics..., fits..., norm].
  void set_width(int64_t width, const at::TensorOptions& options);

  /// An update begins: rows of one that was broken off are dropped.
  void begin();

  /// Queues the next row; what is recorded of it writes another one each time it is replayed.
  void write(const at::Tensor& row);  // [width]
  /// That one more is queued: of an epoch, and the minibatch's rows.
  void wrote(int64_t epoch, int64_t rows) { unread_.push_back({epoch, rows}); }
  bool full() const;

  /// Waits for what is queued, counts the steps with `optimizer` and sums them up; returns the numbers of `also`, which
  /// may be undefined.
  std::vector<float> read(DeviceOptimizer& optimizer, const at::Tensor& also);

  Metrics epoch_metrics() const;                ///< means over the rows of the last epoch that was read
  int64_t trained() const { return trained_; }  ///< rows of steps that changed something, in this update

 private:
  void sum_up(std::span<const float> row, int64_t rows);

  struct Step {
    int64_t epoch, rows;
  };
  std::span<const std::string_view> names_;
  bool fits_;
  at::Tensor rows_, next_;  // [kSteps, width];  [1] int64: the next of them
  std::vector<Step> unread_;
  int64_t epoch_ = 0;         ///< of sums_
  std::vector<double> sums_;  ///< total, metrics, explained variance, norm, 1, each times rows
  int64_t trained_ = 0;
};

}  // namespace myriad
