// What every program knows of A2C, without torch: its settings, and what it wants of the run. Its loss is a2c.cpp.
#pragma once

#include "rl/algorithm_info.hpp"

namespace myriad {

/// Mnih et al. 2016, "Asynchronous Methods for Deep Reinforcement Learning", in its synchronous form.
struct A2cConfig final : AlgorithmConfig {
  double lambda_ = 1.0;  ///< GAE's lambda
  double vf_loss_coeff = 0.5;
  Schedule entropy_coeff = 0.01;

  void settings(SettingVisitor& v) override {
    v.visit({"lambda_", "", "GAE's lambda: 0 = one-step TD error, 1 = discounted returns", 0.0, 1.0}, lambda_);
    v.visit({"vf_loss_coeff", "", "coefficient of the value loss", 0.0}, vf_loss_coeff);
    v.visit({"entropy_coeff", "", "coefficient of the entropy bonus, a schedule over env steps", 0.0}, entropy_coeff);
  }
  std::unique_ptr<AlgorithmConfig> clone() const override { return std::make_unique<A2cConfig>(*this); }
};

inline const RegisterAlgorithmInfo a2c_info{
    {.name = "A2C",
     .summary = "Advantage actor-critic, one pass over each batch (Mnih et al. 2016)",
     .make_config = make_settings<A2cConfig>,
     .set_defaults =
         [](Config& config) {
           config.training.num_epochs = 1;
           config.training.minibatch_size = 0;  // the whole batch
           config.training.grad_clip = 0.5;
         },
     .sampling = {"sync", "lag1"},
     .module = policy_and_value}};

}  // namespace myriad
