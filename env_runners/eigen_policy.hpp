// EigenPolicy: a module's inference part, obs -> action_dist_inputs, from the flat weights as they arrived.
//
// Owned by one RolloutWorker or Evaluator, used by one thread; nothing is allocated or copied per forward. Samples are
// processed in panels of 16 (8 or 4 where fewer are left): sample j is SIMD lane j of every instruction and a sum runs
// over the inputs in order, so a sample's result is the same bits whoever shares its call.
//
//   obs [n, in] --transpose--> panel [in][16] --Linear: y[o][:] = b[o] + sum_i W[o][i] x[i][:]--> ... --> [n, out]
#pragma once

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

#include "rl/module_spec.hpp"

namespace myriad {

struct PolicyKernels;

class EigenPolicy {
 public:
  /// `kernels` null: the best the CPU supports.
  explicit EigenPolicy(const ModuleSpec& spec, const PolicyKernels* kernels = nullptr);

  int obs_size() const { return spec_.obs_size; }
  int num_outputs() const { return outputs_; }  ///< inputs_size(distribution)

  /// Uses `values` (the inference part or more) in place: they must stay until the next load. Throws Error when too
  /// short.
  void load(std::span<const float> values);

  /// obs [n, obs_size] (already filtered) -> action_dist_inputs [n, num_outputs]; DiagGaussian: [mean, clipped log
  /// std].
  void forward(const float* obs, size_t n, float* action_dist_inputs);

 private:
  void forward_panel(const float* obs, int samples, int lanes, float* out);
  void write_outputs(const float* head, const float* log_std, int samples, int lanes, float* out) const;

  ModuleSpec spec_;
  const PolicyKernels& kernels_;
  size_t num_weights_;
  int outputs_;
  std::span<const float> weights_;
  std::vector<float> scratch_;  // two panels, 64-byte aligned within
  float* panels_[2];
};

}  // namespace myriad
