// PQN's settings: torch-free, so that the driver can check a config before anything starts. The algorithm is pqn.cpp.
#pragma once

#include "rl/config.hpp"

namespace myriad {

/// Gallici et al. 2024, "Simplifying Deep Temporal Difference Learning" (arXiv 2407.04811).
struct PqnConfig final : AlgorithmConfig {
  double lambda_ = 0.65;                              ///< of Q(lambda)
  Schedule epsilon{{{0.0, 1.0}, {250'000.0, 0.05}}};  ///< probability of a uniformly random action

  void settings(SettingVisitor& v) override;
  std::unique_ptr<AlgorithmConfig> clone() const override { return std::make_unique<PqnConfig>(*this); }
};

}  // namespace myriad
