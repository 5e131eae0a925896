// PPO's settings, for those that build on them. The algorithm is ppo.cpp.
#pragma once

#include <limits>

#include "rl/config.hpp"

namespace myriad {

/// RLlib's names and, but for vf_clip_param, its defaults (Schulman et al. 2017, "Proximal Policy Optimization
/// Algorithms").
struct PpoConfig final : AlgorithmConfig {
  double lambda_ = 1.0;  ///< GAE's lambda
  double clip_param = 0.3;
  bool use_kl_loss = true;
  double kl_coeff = 0.2;  ///< initial; adapts towards kl_target
  double kl_target = 0.01;
  double vf_loss_coeff = 1.0;
  /// The squared value error is clamped to this. Not RLlib's 10: where returns are large every error is larger, and the
  /// value function would learn nothing.
  double vf_clip_param = std::numeric_limits<double>::infinity();
  Schedule entropy_coeff = 0.0;
  bool normalize_advantages = true;
  double target_kl_stop = 0.0;  ///< > 0: an update ends early once mean KL exceeds it

  void settings(SettingVisitor& v) override;
  std::unique_ptr<AlgorithmConfig> clone() const override { return std::make_unique<PpoConfig>(*this); }
};

}  // namespace myriad
