// PlanarWalker: what Hopper and Walker2d share: forward velocity is rewarded as long as height and pitch are healthy.
#pragma once

#include "sims/mujoco/mujoco_env.hpp"

namespace myriad {

class PlanarWalker : public MujocoEnv {
 public:
  StepResult step(ConstRow action, RandomStream&, Row observation) final {
    const double x_velocity = simulate_forward(action.f32());
    observe(observation);
    const bool is_healthy = healthy();
    const double control = control_cost(options_.ctrl_cost_weight, action.f32());
    return {.reward = options_.forward_reward_weight * x_velocity + is_healthy * options_.healthy_reward - control,
            .terminated = !is_healthy && options_.terminate_when_unhealthy};
  }

 protected:
  PlanarWalker(const std::string& xml, const EnvOptions& options)
      : MujocoEnv(xml, static_cast<int>(options.at("frame_skip"))), options_(options) {}

  virtual bool healthy() const { return options_.z.contains(qpos()[1]) && options_.angle.contains(qpos()[2]); }

 private:
  static constexpr double kMaxObservedVelocity = 10.0;  // m/s, rad/s

  struct Options {
    Options(const EnvOptions& o)  // NOLINT: read once, at construction
        : forward_reward_weight(o.at("forward_reward_weight")),
          ctrl_cost_weight(o.at("ctrl_cost_weight")),
          healthy_reward(o.at("healthy_reward")),
          reset_noise_scale(o.at("reset_noise_scale")),
          terminate_when_unhealthy(o.at("terminate_when_unhealthy") != 0),
          skipped_qpos(o.at("exclude_current_positions_from_observation") != 0),
          z(o, "healthy_z_range"),
          angle(o, "healthy_angle_range") {}
    double forward_reward_weight, ctrl_cost_weight, healthy_reward, reset_noise_scale;
    bool terminate_when_unhealthy;
    size_t skipped_qpos;
    OptionRange z, angle;  // m; rad
  };

  void add_reset_noise(RandomStream& random, std::span<double> qpos, std::span<double> qvel) final {
    add_uniform(random, qpos, options_.reset_noise_scale);
    add_uniform(random, qvel, options_.reset_noise_scale);
  }

  void observe(Row observation) const final {
    write_qpos_qvel(observation, options_.skipped_qpos, kMaxObservedVelocity);
  }

  Options options_;
};

}  // namespace myriad
