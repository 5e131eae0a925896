// Reacher-v5: a planar arm of two links brings its fingertip to a target drawn at random.
//
// Gymnasium's Reacher-v5, step for step.
#include <cmath>

#include "sims/mujoco/mujoco_env.hpp"

namespace myriad {
namespace {

constexpr double kAngleNoise = 0.1;      // rad
constexpr double kVelocityNoise = 5e-3;  // rad/s
constexpr double kTargetRadius = 0.2;    // m, of the disc in which targets lie

class Reacher final : public MujocoEnv {
 public:
  explicit Reacher(const EnvOptions& options)
      : MujocoEnv("reacher.xml", static_cast<int>(options.at("frame_skip")), {kBodyPositions}),
        reward_dist_weight_(options.at("reward_dist_weight")),
        reward_control_weight_(options.at("reward_control_weight")),
        fingertip_(body_id("fingertip")),
        target_(body_id("target")) {}

  StepResult step(ConstRow action, RandomStream&, Row observation) override {
    simulate(action.f32());
    observe(observation);
    const double distance = mju_dist3(body_position(fingertip_), body_position(target_));  // m
    const double control = control_cost(reward_control_weight_, action.f32());
    return {.reward = -distance * reward_dist_weight_ - control, .terminated = false};
  }

 private:
  /// qpos: the joints' angles, the target's x and y. The target rests.
  void add_reset_noise(RandomStream& random, std::span<double> qpos, std::span<double> qvel) override {
    add_uniform(random, qpos.first(2), kAngleNoise);
    do {
      for (double& value : qpos.last(2)) value = random.uniform(-kTargetRadius, kTargetRadius);
    } while (std::hypot(qpos[2], qpos[3]) >= kTargetRadius);
    add_uniform(random, qvel.first(2), kVelocityNoise);
  }

  void observe(Row observation) const override {
    const double a = qpos()[0], b = qpos()[1];
    const double angles[] = {std::cos(a), std::cos(b), std::sin(a), std::sin(b)};
    const double *fingertip = body_position(fingertip_), *target = body_position(target_);
    const double from_target[] = {fingertip[0] - target[0], fingertip[1] - target[1]};
    write_blocks(observation, {angles, qpos().last(2), qvel().first(2), from_target});
  }

  double reward_dist_weight_, reward_control_weight_;
  int fingertip_, target_;
};

const RegisterEnv reacher{{
    .id = "Reacher-v5",
    .observation_space = mujoco_observation_space(10),
    .action_space = Space::box(-1, 1, {2}),
    .max_episode_steps = 50,
    .reward_threshold = -3.75,
    .source = "Gymnasium 1.2.2 Reacher-v5, MuJoCo 3.17.0",
    .options = {{"frame_skip", 2}, {"reward_dist_weight", 1.0}, {"reward_control_weight", 1.0}},
    .state_names = {"joint_1", "joint_2", "target_x", "target_y", "joint_1_dot", "joint_2_dot", "target_x_dot",
                    "target_y_dot"},
    .make = [](const EnvOptions& options) { return std::make_unique<Reacher>(options); },
}};

}  // namespace
}  // namespace myriad
