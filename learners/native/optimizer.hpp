// Optimizer: Adam (Kingma and Ba 2014) over one flat parameter buffer, in one pass, with global-norm clipping.
//
// A gradient that is not finite changes nothing: the step is skipped and counted; the third in a row throws, because by
// then training does not recover. Owned by the Learner; one thread.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "learners/aligned_vector.hpp"
#include "learners/group/partition.hpp"
#include "learners/native/native_kernels.hpp"
#include "learners/native/optimizer_state.hpp"
#include "rl/module_spec.hpp"
#include "rl/weights.hpp"

namespace myriad {

/// A stretch of the parameters with a learning rate of its own: `multiplier` times the optimizer's.
struct LrRange {
  Range range;
  double multiplier = 1.0;
};
/// All parameters in order, with lr_multipliers(); neighbours of one multiplier are one range.
std::vector<LrRange> lr_ranges(const ModuleSpec& spec, const std::map<std::string, double>& multipliers);

class Optimizer {
 public:
  /// `grad_clip`: the largest global norm of a gradient; absent = no clipping. `multipliers`: as lr_ranges(); what is 0
  /// there does not move.
  Optimizer(const ModuleSpec& spec, double epsilon, std::optional<double> grad_clip,
            const std::map<std::string, double>& multipliers = {}, const NativeKernels& kernels = native_kernels());

  enum class Outcome : uint8_t { stepped, skipped };

  /// One step with `gradient`. Throws Error("diverged"), naming the first tensor that is not finite, at the third skip
  /// in a row.
  [[nodiscard]] Outcome step(std::span<float> parameters, std::span<const float> gradient, double lr) {
    return step(parameters, gradient, lr, sum_squares(gradient));
  }
  /// The same for part() of the parameters and their gradient, where `squares` are of the whole gradient.
  [[nodiscard]] Outcome step(std::span<float> parameters, std::span<const float> gradient, double lr, double squares);

  /// Zeros where `range` of the gradient is frozen: that has no part in its norm.
  void clear_frozen(std::span<float> gradient, Range range) const;
  double sum_squares(std::span<const float> gradient) const { return k_.sum_squares(gradient.data(), gradient.size()); }

  double gradient_norm() const { return gradient_norm_; }  ///< of the last step, before clipping
  int64_t num_steps() const { return memory_.steps; }
  int64_t num_skipped() const { return memory_.skipped; }  ///< lifetime

  /// Of the part: "exp_avg", "exp_avg_sq", "steps"; and "offset", "total" unless it is the whole.
  TensorMap state() const;
  /// Of the whole. Throws Error("foreign-checkpoint") when it does not fit.
  void set_state(const TensorMap& state);

  /// Which parameters it steps: all of them at first.
  Range part() const { return part_; }

  /// All that changes. An assignment keeps the room that is there.
  struct Memory : OptimizerCounters {
    AlignedVector first, second;  ///< moments of the part
  };
  const Memory& memory() const { return memory_; }
  void set_memory(const Memory& memory) { memory_ = memory; }
  /// The counters alone, and their state: "steps".
  Memory counters() const { return {memory_, {}, {}}; }
  TensorMap counter_state() const { return optimizer_state(memory_); }
  void set_counter_state(const TensorMap& state);
  /// Goes on with another part.
  void set_part(Range part, Memory memory);
  std::span<float> first() { return memory_.first; }
  std::span<float> second() { return memory_.second; }

 private:
  static constexpr double kBeta1 = 0.9, kBeta2 = 0.999;
  static constexpr int64_t kSkipsAllowed = 2;

  std::string not_finite(std::span<const float> gradient) const;

  ModuleSpec spec_;
  double epsilon_;
  std::optional<double> grad_clip_;
  const NativeKernels& k_;
  std::vector<LrRange> lr_ranges_;
  Range part_;
  Memory memory_;
  double gradient_norm_ = 0.0;
};

}  // namespace myriad
