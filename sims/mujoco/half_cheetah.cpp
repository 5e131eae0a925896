// HalfCheetah-v5: a planar two-legged runner moves forward as fast as it can.
//
// Wawrzynski 2009, "A Cat-Like Robot Real-Time Learning to Run"; Gymnasium's HalfCheetah-v5, step for step.
#include "sims/mujoco/mujoco_env.hpp"

namespace myriad {
namespace {

class HalfCheetah final : public MujocoEnv {
 public:
  explicit HalfCheetah(const EnvOptions& options)
      : MujocoEnv("half_cheetah.xml", static_cast<int>(options.at("frame_skip"))),
        forward_reward_weight_(options.at("forward_reward_weight")),
        ctrl_cost_weight_(options.at("ctrl_cost_weight")),
        reset_noise_scale_(options.at("reset_noise_scale")),
        skipped_qpos_(options.at("exclude_current_positions_from_observation") != 0) {}

  StepResult step(ConstRow action, RandomStream&, Row observation) override {
    const double x_velocity = simulate_forward(action.f32());
    observe(observation);
    const double control = control_cost(ctrl_cost_weight_, action.f32());
    return {.reward = forward_reward_weight_ * x_velocity - control, .terminated = false};
  }

 private:
  void add_reset_noise(RandomStream& random, std::span<double> qpos, std::span<double> qvel) override {
    add_uniform(random, qpos, reset_noise_scale_);
    add_normal(random, qvel, reset_noise_scale_);
  }

  void observe(Row observation) const override { write_qpos_qvel(observation, skipped_qpos_); }

  double forward_reward_weight_, ctrl_cost_weight_, reset_noise_scale_;
  size_t skipped_qpos_;
};

const RegisterEnv half_cheetah{{
    .id = "HalfCheetah-v5",
    .observation_space = mujoco_observation_space(17),
    .action_space = Space::box(-1, 1, {6}),
    .max_episode_steps = 1000,
    .reward_threshold = 4800.0,
    .source = "Gymnasium 1.2.2 HalfCheetah-v5, MuJoCo 3.17.0",
    .options = {{"frame_skip", 5},
                {"forward_reward_weight", 1.0},
                {"ctrl_cost_weight", 0.1},
                {"reset_noise_scale", 0.1},
                {"exclude_current_positions_from_observation", 1}},
    .state_names = {"x", "z", "angle", "bthigh", "bshin", "bfoot", "fthigh", "fshin", "ffoot", "x_dot", "z_dot",
                    "angle_dot", "bthigh_dot", "bshin_dot", "bfoot_dot", "fthigh_dot", "fshin_dot", "ffoot_dot"},
    .make = [](const EnvOptions& options) { return std::make_unique<HalfCheetah>(options); },
    .configure = observation_size(18, {{"exclude_current_positions_from_observation", -1}}),
}};

}  // namespace
}  // namespace myriad
