// HumanoidEnv: what Humanoid-v5 and HumanoidStandup-v5 share: one body in two poses, its observation, its costs.
#pragma once

#include "sims/mujoco/mujoco_env.hpp"

namespace myriad {

class HumanoidEnv : public MujocoEnv {
 protected:
  /// `impact` names the cost of external forces in the options: contact_cost or impact_cost.
  HumanoidEnv(const std::string& xml, const EnvOptions& options, const std::string& impact);

  void observe(Row observation) const final;

  /// ctrl_cost_weight * |controls|^2, in float64, unlike the other tasks'.
  double control_cost() const;

  /// The weighted squares of the external forces on all bodies, held within the cost's range.
  double impact_cost() const;

 private:
  void add_reset_noise(RandomStream& random, std::span<double> qpos, std::span<double> qvel) final;

  double ctrl_cost_weight_, impact_cost_weight_, reset_noise_scale_;
  OptionRange impact_cost_range_;
  size_t skipped_qpos_;  // x and y
  bool observes_inertias_, observes_velocities_, observes_actuators_, observes_contacts_;
};

/// The facts of both tasks. What they do not share is left: id, threshold, source, rewards, make.
EnvSpec humanoid_spec();

}  // namespace myriad
