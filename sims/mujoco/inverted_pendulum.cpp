// InvertedPendulum-v5: balance a pole on a cart driven by a continuous force.
//
// Barto, Sutton and Anderson 1983 on MuJoCo's physics; Gymnasium's InvertedPendulum-v5, step for step.
#include <algorithm>
#include <cmath>

#include "sims/mujoco/mujoco_env.hpp"

namespace myriad {
namespace {

constexpr double kMaxAngle = 0.2;  // rad from upright

class InvertedPendulum final : public MujocoEnv {
 public:
  explicit InvertedPendulum(const EnvOptions& options)
      : MujocoEnv("inverted_pendulum.xml", static_cast<int>(options.at("frame_skip"))),
        reset_noise_scale_(options.at("reset_noise_scale")) {}

  StepResult step(ConstRow action, RandomStream&, Row observation) override {
    simulate(action.f32());
    observe(observation);
    const auto finite = [](double value) { return std::isfinite(value); };
    const bool terminated = !std::ranges::all_of(observation.f64(), finite) || std::abs(qpos()[1]) > kMaxAngle;
    return {.reward = terminated ? 0.0 : 1.0, .terminated = terminated};
  }

 private:
  void add_reset_noise(RandomStream& random, std::span<double> qpos, std::span<double> qvel) override {
    add_uniform(random, qpos, reset_noise_scale_);
    add_uniform(random, qvel, reset_noise_scale_);
  }

  void place_camera(mjvCamera& camera) const override { camera.distance = 2.04; }

  void observe(Row observation) const override { write_qpos_qvel(observation, 0); }

  double reset_noise_scale_;
};

const RegisterEnv inverted_pendulum{{
    .id = "InvertedPendulum-v5",
    .observation_space = mujoco_observation_space(4),
    .action_space = Space::box(-3, 3, {1}),
    .max_episode_steps = 1000,
    .reward_threshold = 950.0,
    .source = "Gymnasium 1.2.2 InvertedPendulum-v5, MuJoCo 3.17.0",
    .options = {{"frame_skip", 2}, {"reset_noise_scale", 0.01}},
    .state_names = {"x", "angle", "x_dot", "angle_dot"},
    .make = [](const EnvOptions& options) { return std::make_unique<InvertedPendulum>(options); },
}};

}  // namespace
}  // namespace myriad
