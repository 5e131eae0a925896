// DeviceOptimizer: Optimizer's step on flat tensors of a device, without waiting for it: Adam (Kingma and Ba 2014) in
// torch's one fused kernel, with global-norm clipping.
//
// A gradient that is not finite changes nothing. The host learns of it when it reads the norms of the steps, and counts
// them then. Everything a step reads lies in tensors that stay, so that it can be recorded. One thread.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "learners/group/partition.hpp"
#include "learners/native/optimizer.hpp"
#include "learners/native/optimizer_state.hpp"
#include "rl/module_spec.hpp"
#include "rl/weights.hpp"

namespace myriad {

class DeviceOptimizer {
 public:
  DeviceOptimizer(std::vector<LrRange> lr_ranges, double epsilon, std::optional<double> grad_clip, c10::Device device);

  /// One step of part() of the parameters with their gradient, which may be scaled in place; `norm` is the whole
  /// gradient's.
  void step(const at::Tensor& parameters, const at::Tensor& gradient, const at::Tensor& lr,
            const at::Tensor& norm);  // [c], [c], [], []

  struct Counters : OptimizerCounters {
    int64_t longest_row = 0;  ///< of skips, since set_state()
  };
  /// Counts a step by its norm. Returns whether it changed anything.
  bool count(double gradient_norm);
  const Counters& counters() const { return counters_; }
  void set_counters(const Counters& counters) { counters_ = counters; }

  /// All that a step changes.
  std::vector<at::Tensor> tensors() const { return {first_, second_, adam_steps_}; }

  // As Optimizer's: a checkpoint knows no device.

  TensorMap state() const;
  void set_state(const TensorMap& state);  ///< of the whole; throws Error("foreign-checkpoint") when it does not fit
  TensorMap counter_state() const { return optimizer_state(counters_); }
  void set_counter_state(const TensorMap& state);

  /// Which parameters it steps: all of them at first.
  Range part() const { return part_; }
  /// Goes on with another part and its moments, [c] each.
  void set_part(Range part, std::span<const float> first, std::span<const float> second);
  const at::Tensor& first() const { return first_; }
  const at::Tensor& second() const { return second_; }

 private:
  static constexpr double kBeta1 = 0.9, kBeta2 = 0.999;

  std::vector<LrRange> lr_ranges_;
  size_t total_;
  Range part_;
  double epsilon_;
  std::optional<double> grad_clip_;
  at::Tensor first_, second_;           // [c]  moments of the part
  at::Tensor adam_steps_, not_finite_;  // []  float32
  Counters counters_;
};

}  // namespace myriad
