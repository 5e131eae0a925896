// Optimizer: Adam (Kingma and Ba 2014) over one flat parameter buffer, in one pass, with global-norm clipping.
//
// A gradient that is not finite changes nothing: the step is skipped and counted; the third in a row throws, because by
// then training does not recover. Owned by the Learner; one thread.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "learners/aligned_vector.hpp"
#include "learners/native_kernels.hpp"
#include "rl/module_spec.hpp"
#include "rl/weights.hpp"

namespace myriad {

class Optimizer {
 public:
  /// `grad_clip`: the largest global norm of a gradient; absent = no clipping.
  Optimizer(const ModuleSpec& spec, double epsilon, std::optional<double> grad_clip,
            const NativeKernels& kernels = native_kernels());

  enum class Outcome : uint8_t { stepped, skipped };

  /// One step with `gradient`. Throws Error("diverged"), naming the first tensor that is not finite, at the third skip
  /// in a row.
  [[nodiscard]] Outcome step(std::span<float> parameters, std::span<const float> gradient, double lr);

  double gradient_norm() const { return gradient_norm_; }  ///< of the last step, before clipping
  int64_t num_steps() const { return steps_; }
  int64_t num_skipped() const { return skipped_; }  ///< lifetime

  TensorMap state() const;
  void set_state(const TensorMap& state);  ///< throws Error("foreign-checkpoint") when it does not fit

 private:
  static constexpr double kBeta1 = 0.9, kBeta2 = 0.999;
  static constexpr int64_t kSkipsAllowed = 2;

  ModuleSpec spec_;
  double epsilon_;
  std::optional<double> grad_clip_;
  const NativeKernels& k_;
  AlignedVector first_, second_;  ///< moments
  double gradient_norm_ = 0.0;
  int64_t steps_ = 0, skipped_ = 0, skipped_in_a_row_ = 0;
};

}  // namespace myriad
