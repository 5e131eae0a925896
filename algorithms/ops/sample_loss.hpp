// SampleLoss: a loss written sample by sample together with its derivatives. On a CPU the same in torch's operators
// costs several times a small network itself; tests hold each algorithm's loss against that form. One thread, one
// minibatch.
//
//   SampleLoss loss(...);  for each sample i: loss.set(i, dL/dlogp, ...);  return loss.finish(L, ...);
#pragma once

#include <ATen/core/Tensor.h>

#include <span>

#include "algorithms/ops/trajectories.hpp"
#include "algorithms/ops/vtrace.hpp"
#include "learners/algorithm.hpp"
#include "learners/module/action_distribution.hpp"

namespace myriad {

template <class T>
std::span<const T> span_of(const at::Tensor& tensor) {
  return {tensor.const_data_ptr<T>(), static_cast<size_t>(tensor.numel())};
}
inline std::span<float> room_of(const at::Tensor& tensor) {
  return {tensor.mutable_data_ptr<float>(), static_cast<size_t>(tensor.numel())};
}

/// The time-major columns rewards, terminateds and truncateds [T, N] with values [T+1, N] and final_values [F].
Trajectories trajectories_of(const Columns& columns, std::span<const float> values,
                             std::span<const float> final_values);

/// A loss with its loss_metrics().
HostLoss given_loss(float total, at::Tensor d_inputs, at::Tensor d_values,  // [n, k], [n]
                    std::span<const float> metrics);

class SampleLoss {
 public:
  /// The samples are the module's first n rows. `reference` are the n action_dist_inputs that KL is measured from;
  /// leading dimensions of it and of `actions` may be [n] or [T, N].
  SampleLoss(const ModuleSpec& spec, const ModuleOutput& output, const at::Tensor& reference,
             const at::Tensor& actions);

  size_t samples() const { return samples_; }
  float logp(size_t i) const { return terms_[i]; }
  float entropy(size_t i) const { return terms_[samples_ + i]; }
  float kl(size_t i) const { return terms_[2 * samples_ + i]; }  ///< KL(reference || new)
  std::span<const float> values() const { return values_; }      ///< of all rows, also those that are no samples

  /// The derivatives of the loss by sample i's logp, entropy, KL and value.
  void set(size_t i, float d_logp, float d_entropy, float d_kl, float d_value) {
    const float* j = jacobian_.data();
    for (size_t x = i * width_, by_term = samples_ * width_; x < (i + 1) * width_; ++x)
      d_inputs_room_[x] = d_logp * j[x] + d_entropy * j[by_term + x] + d_kl * j[2 * by_term + x];
    d_values_room_[i] = d_value;
  }

  HostLoss finish(float total, std::span<const float> metrics) const {
    return given_loss(total, d_inputs_, d_values_, metrics);
  }

 private:
  size_t samples_ = 0, width_ = 0;
  DistributionJacobian distribution_;
  at::Tensor d_inputs_, d_values_;
  std::span<const float> terms_, jacobian_, values_;  // [3, n], [3, n, k], [rows]
  std::span<float> d_inputs_room_, d_values_room_;
};

/// V-trace over a time-major minibatch: values are the module's for obs rows [(T+1) * N + F].
struct VtraceTargets {
  std::vector<float> values, advantages;         // [T * N] vs, A
  double ratio_mean = 0.0, ratio_clipped = 0.0;  ///< clipped: the fraction above clip_rho
  ValueFit fit = {};
};
VtraceTargets vtrace_targets(const Columns& minibatch, std::span<const float> values, std::span<const float> ratios,
                             double gamma, const VtraceSettings& settings);

}  // namespace myriad
