// APPO's settings, for those that build on them. The algorithm is appo.cpp.
#pragma once

#include "algorithms/impala.hpp"

namespace myriad {

/// RLlib's names and defaults (Luo et al. 2020, "IMPACT"); RLlib fixes is_ratio_clip at 2.
struct AppoConfig final : ImpalaConfig {
  double clip_param = 0.4;
  double is_ratio_clip = 2.0;  ///< bound of mu / target policy
  bool use_kl_loss = false;
  double kl_coeff = 1.0;  ///< initial; adapts towards kl_target
  double kl_target = 0.01;
  int64_t circular_buffer_num_batches = 8;           ///< N
  int64_t circular_buffer_iterations_per_batch = 2;  ///< K
  double target_network_update_freq = 2.0;           ///< in N * K * train_batch_size env steps trained on
  double tau = 1.0;                                  ///< of the target's update

  void settings(SettingVisitor& v) override;
  std::unique_ptr<AlgorithmConfig> clone() const override { return std::make_unique<AppoConfig>(*this); }
};

}  // namespace myriad
