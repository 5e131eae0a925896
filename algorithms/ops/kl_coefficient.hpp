// KlCoefficient: the adaptive KL penalty of Schulman et al. 2017 (section 4), with RLlib's factors. One thread.
#pragma once

#include <cmath>

#include "learners/algorithm.hpp"
#include "rl/check.hpp"

namespace myriad {

class KlCoefficient {
 public:
  KlCoefficient(bool used, double initial, double target) : used_(used), target_(target), coeff_(initial) {}

  /// What the loss multiplies its KL with.
  double value() const { return used_ ? coeff_ : 0.0; }

  /// x 1.5 when "mean_kl_loss" is more than twice the target, x 0.5 when less than half of it.
  void end_update(Metrics& metrics) {
    const auto kl = metrics.find("mean_kl_loss");
    if (used_ && kl != metrics.end() && std::isfinite(kl->second)) {
      if (kl->second > 2.0 * target_) coeff_ *= 1.5;
      if (kl->second < 0.5 * target_) coeff_ *= 0.5;
    }
    metrics["curr_kl_coeff"] = value();
  }

  std::map<std::string, double> state() const { return {{"kl_coeff", coeff_}}; }
  void set_state(const std::map<std::string, double>& state) {
    const auto found = state.find("kl_coeff");
    if (found == state.end()) fail(Exit::usage, "foreign-checkpoint", "the algorithm's state has no kl_coeff");
    coeff_ = found->second;
  }

 private:
  bool used_;
  double target_, coeff_;
};

}  // namespace myriad
