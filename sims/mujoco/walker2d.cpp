// Walker2d-v5: a planar two-legged robot walks forward without falling.
//
// Erez, Tassa and Todorov 2011, "Infinite-Horizon Model Predictive Control for Periodic Tasks with Contacts";
// Gymnasium's Walker2d-v5, step for step.
#include "sims/mujoco/mujoco_env.hpp"

namespace myriad {
namespace {

constexpr double kMaxObservedVelocity = 10.0;  // m/s, rad/s

class Walker2d final : public MujocoEnv {
 public:
  explicit Walker2d(const EnvOptions& options)
      : MujocoEnv("walker2d_v5.xml", static_cast<int>(options.at("frame_skip"))), options_(options) {}

  StepResult step(ConstRow action, RandomStream&, Row observation) override {
    const double x_before = qpos()[0];
    simulate(action.f32());
    const double x_velocity = (qpos()[0] - x_before) / dt();  // m/s
    observe(observation);
    const bool is_healthy = options_.z.contains(qpos()[1]) && options_.angle.contains(qpos()[2]);
    const double control = control_cost(options_.ctrl_cost_weight, action.f32());
    return {.reward = options_.forward_reward_weight * x_velocity + is_healthy * options_.healthy_reward - control,
            .terminated = !is_healthy && options_.terminate_when_unhealthy};
  }

 private:
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

  void add_reset_noise(RandomStream& random, std::span<double> qpos, std::span<double> qvel) override {
    add_uniform(random, qpos, options_.reset_noise_scale);
    add_uniform(random, qvel, options_.reset_noise_scale);
  }

  void observe(Row observation) const override {
    write_qpos_qvel(observation, options_.skipped_qpos, kMaxObservedVelocity);
  }

  Options options_;
};

const RegisterEnv walker2d{{
    .id = "Walker2d-v5",
    .observation_space = mujoco_observation_space(17),
    .action_space = Space::box(-1, 1, {6}),
    .max_episode_steps = 1000,
    .source = "Gymnasium 1.2.2 Walker2d-v5, MuJoCo 3.17.0",
    .options = {{"frame_skip", 4},
                {"forward_reward_weight", 1.0},
                {"ctrl_cost_weight", 1e-3},
                {"healthy_reward", 1.0},
                {"terminate_when_unhealthy", 1},
                {"healthy_z_range_low", 0.8},
                {"healthy_z_range_high", 2.0},
                {"healthy_angle_range_low", -1.0},
                {"healthy_angle_range_high", 1.0},
                {"reset_noise_scale", 5e-3},
                {"exclude_current_positions_from_observation", 1}},
    .state_names = {"x", "z", "angle", "thigh", "leg", "foot", "thigh_left", "leg_left", "foot_left", "x_dot", "z_dot",
                    "angle_dot", "thigh_dot", "leg_dot", "foot_dot", "thigh_left_dot", "leg_left_dot", "foot_left_dot"},
    .make = [](const EnvOptions& options) { return std::make_unique<Walker2d>(options); },
    .configure = include_x_position,
}};

}  // namespace
}  // namespace myriad
