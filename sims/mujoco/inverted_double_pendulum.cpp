// InvertedDoublePendulum-v5: balance two poles, one on the other, on a cart driven by a continuous force.
//
// After the cart and pole of Barto, Sutton and Anderson 1983; Gymnasium's InvertedDoublePendulum-v5, step for step.
#include <cmath>

#include "sims/mujoco/mujoco_env.hpp"

namespace myriad {
namespace {

constexpr double kMaxObserved = 10.0;       // m/s, rad/s, N
constexpr double kFallenTipHeight = 1.0;    // m; upright it is at 1.2 m
constexpr double kRewardedTipHeight = 2.0;  // m

class InvertedDoublePendulum final : public MujocoEnv {
 public:
  explicit InvertedDoublePendulum(const EnvOptions& options)
      : MujocoEnv("inverted_double_pendulum.xml", static_cast<int>(options.at("frame_skip")), {kConstraintForces}),
        healthy_reward_(options.at("healthy_reward")),
        reset_noise_scale_(options.at("reset_noise_scale")) {}

  StepResult step(ConstRow action, RandomStream&, Row observation) override {
    simulate(action.f32());
    observe(observation);
    const double x = data().site_xpos[0], height = data().site_xpos[2];  // m, of the upper pole's tip
    const double low = height - kRewardedTipHeight;
    const double distance_penalty = 0.01 * x * x + low * low;
    const double velocity_penalty = 1e-3 * qvel()[1] * qvel()[1] + 5e-3 * qvel()[2] * qvel()[2];
    const bool terminated = height <= kFallenTipHeight;
    return {.reward = (terminated ? 0.0 : healthy_reward_) - distance_penalty - velocity_penalty,
            .terminated = terminated};
  }

 private:
  void add_reset_noise(RandomStream& random, std::span<double> qpos, std::span<double> qvel) override {
    add_uniform(random, qpos, reset_noise_scale_);
    add_normal(random, qvel, reset_noise_scale_);
  }

  void place_camera(mjvCamera& camera) const override {
    camera.distance = 4.1225;
    camera.lookat[0] = camera.lookat[1] = 0, camera.lookat[2] = 0.1225;
  }

  void observe(Row observation) const override {
    const auto hold = [](double value) { return std::clamp(value, -kMaxObserved, kMaxObserved); };
    const double a = qpos()[1], b = qpos()[2];  // rad, of the poles
    const double angles[] = {std::sin(a), std::sin(b), std::cos(a), std::cos(b)};
    const double held[] = {hold(qvel()[0]), hold(qvel()[1]), hold(qvel()[2]), hold(read(kConstraintForces)[0])};
    write_blocks(observation, {qpos().first(1), angles, held});
  }

  double healthy_reward_, reset_noise_scale_;
};

const RegisterEnv inverted_double_pendulum{{
    .id = "InvertedDoublePendulum-v5",
    .observation_space = mujoco_observation_space(9),
    .action_space = Space::box(-1, 1, {1}),
    .max_episode_steps = 1000,
    .reward_threshold = 9100.0,
    .source = "Gymnasium 1.2.2 InvertedDoublePendulum-v5, MuJoCo 3.17.0",
    .options = {{"frame_skip", 5}, {"healthy_reward", 10.0}, {"reset_noise_scale", 0.1}},
    .state_names = {"x", "angle_1", "angle_2", "x_dot", "angle_1_dot", "angle_2_dot"},
    .make = [](const EnvOptions& options) { return std::make_unique<InvertedDoublePendulum>(options); },
}};

}  // namespace
}  // namespace myriad
