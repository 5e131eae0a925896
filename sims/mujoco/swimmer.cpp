// Swimmer-v5: a chain of three links swims forward in a viscous fluid.
//
// Coulom 2002, "Reinforcement Learning Using Neural Networks, with Applications to Motor Control"; Gymnasium's
// Swimmer-v5, step for step.
#include "sims/mujoco/mujoco_env.hpp"

namespace myriad {
namespace {

class Swimmer final : public MujocoEnv {
 public:
  explicit Swimmer(const EnvOptions& options)
      : MujocoEnv("swimmer.xml", static_cast<int>(options.at("frame_skip"))),
        forward_reward_weight_(options.at("forward_reward_weight")),
        ctrl_cost_weight_(options.at("ctrl_cost_weight")),
        reset_noise_scale_(options.at("reset_noise_scale")),
        skipped_qpos_(options.at("exclude_current_positions_from_observation") != 0 ? 2 : 0) {}

  StepResult step(ConstRow action, RandomStream&, Row observation) override {
    const double x_velocity = simulate_forward(action.f32());
    observe(observation);
    const double control = control_cost(ctrl_cost_weight_, action.f32());
    return {.reward = forward_reward_weight_ * x_velocity - control, .terminated = false};
  }

 private:
  void add_reset_noise(RandomStream& random, std::span<double> qpos, std::span<double> qvel) override {
    add_uniform(random, qpos, reset_noise_scale_);
    add_uniform(random, qvel, reset_noise_scale_);
  }

  void observe(Row observation) const override { write_qpos_qvel(observation, skipped_qpos_); }

  double forward_reward_weight_, ctrl_cost_weight_, reset_noise_scale_;
  size_t skipped_qpos_;  // x and y
};

const RegisterEnv swimmer{{
    .id = "Swimmer-v5",
    .observation_space = mujoco_observation_space(8),
    .action_space = Space::box(-1, 1, {2}),
    .max_episode_steps = 1000,
    .reward_threshold = 360.0,
    .source = "Gymnasium 1.2.2 Swimmer-v5, MuJoCo 3.17.0",
    .options = {{"frame_skip", 4},
                {"forward_reward_weight", 1.0},
                {"ctrl_cost_weight", 1e-4},
                {"reset_noise_scale", 0.1},
                {"exclude_current_positions_from_observation", 1}},
    .state_names = {"x", "y", "angle", "joint_1", "joint_2", "x_dot", "y_dot", "angle_dot", "joint_1_dot",
                    "joint_2_dot"},
    .make = [](const EnvOptions& options) { return std::make_unique<Swimmer>(options); },
    .configure = observation_size(10, {{"exclude_current_positions_from_observation", -2}}),
}};

}  // namespace
}  // namespace myriad
