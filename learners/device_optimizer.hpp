// DeviceOptimizer: Optimizer's step on flat tensors of a device, without waiting for it: Adam (Kingma and Ba 2014) in
// torch's one fused kernel, with global-norm clipping.
//
// A gradient that is not finite changes nothing; it is skipped and counted on the device, so that the host learns of it
// after the update. Everything a step reads lies in tensors that stay, so that it can be recorded. One thread.
#pragma once

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <vector>

#include "rl/module_spec.hpp"
#include "rl/weights.hpp"

namespace myriad {

class DeviceOptimizer {
 public:
  DeviceOptimizer(int64_t num_parameters, double epsilon, std::optional<double> grad_clip, c10::Device device);

  void set_lr(double lr);

  /// One step of `parameters` [P]; `gradient` [P] may be scaled in place.
  void step(const at::Tensor& parameters, const at::Tensor& gradient);

  const at::Tensor& stepped() const { return stepped_; }     // []   bool: of the last step
  const at::Tensor& gradient_norm() const { return norm_; }  // []   before clipping
  at::Tensor counters() const { return counters_; }          // [4]  int64: of Counters

  /// What counters() hold, on the host.
  struct Counters {
    int64_t steps, skipped;    ///< lifetime
    int64_t skipped_in_a_row;  ///< up to the last step
    int64_t longest_row;       ///< of skips, since set_state()
  };

  /// All that a step changes.
  std::vector<at::Tensor> tensors() const { return {first_, second_, adam_steps_, counters_}; }

  TensorMap state() const;                 ///< as Optimizer's: a checkpoint knows no device
  void set_state(const TensorMap& state);  ///< throws Error("foreign-checkpoint") when it does not fit

 private:
  static constexpr double kBeta1 = 0.9, kBeta2 = 0.999;

  double epsilon_;
  std::optional<double> grad_clip_;
  at::Tensor first_, second_;  // [P]  moments
  at::Tensor lr_, adam_steps_, norm_, stepped_, counters_;
};

}  // namespace myriad
