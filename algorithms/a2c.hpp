// A2C's settings: torch-free, so that the driver can check a config before anything starts. The algorithm is a2c.cpp.
#pragma once

#include "rl/config.hpp"

namespace myriad {

/// Mnih et al. 2016, "Asynchronous Methods for Deep Reinforcement Learning", in its synchronous form.
struct A2cConfig final : AlgorithmConfig {
  double lambda_ = 1.0;  ///< GAE's lambda
  double vf_loss_coeff = 0.5;
  Schedule entropy_coeff = 0.01;

  void settings(SettingVisitor& v) override;
  std::unique_ptr<AlgorithmConfig> clone() const override { return std::make_unique<A2cConfig>(*this); }
};

}  // namespace myriad
