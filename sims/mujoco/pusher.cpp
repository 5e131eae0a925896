// Pusher-v5: an arm of seven joints pushes a cylinder on a table to its goal.
//
// Gymnasium's Pusher-v5, step for step.
#include <cmath>

#include "sims/mujoco/mujoco_env.hpp"

namespace myriad {
namespace {

constexpr size_t kJoints = 7;                // of the arm; after them the object's and the goal's y and x
constexpr double kVelocityNoise = 5e-3;      // rad/s
constexpr double kMinObjectDistance = 0.17;  // m, from the goal

class Pusher final : public MujocoEnv {
 public:
  explicit Pusher(const EnvOptions& options)
      : MujocoEnv("pusher_v5.xml", static_cast<int>(options.at("frame_skip")), {kBodyPositions}),
        reward_near_weight_(options.at("reward_near_weight")),
        reward_dist_weight_(options.at("reward_dist_weight")),
        reward_control_weight_(options.at("reward_control_weight")),
        tip_(body_id("tips_arm")),
        object_(body_id("object")),
        goal_(body_id("goal")) {}

  StepResult step(ConstRow action, RandomStream&, Row observation) override {
    simulate(action.f32());
    observe(observation);
    const double near = -mju_dist3(body_position(object_), body_position(tip_)) * reward_near_weight_;
    const double dist = -mju_dist3(body_position(object_), body_position(goal_)) * reward_dist_weight_;
    const double control = control_cost(reward_control_weight_, action.f32());
    return {.reward = dist - control + near, .terminated = false};
  }

 private:
  /// The arm starts at its model's angles, the object somewhere off the goal, which is at (0, 0); both rest.
  void add_reset_noise(RandomStream& random, std::span<double> qpos, std::span<double> qvel) override {
    const auto object = qpos.subspan(kJoints, 2), goal = qpos.last(2);
    do {
      object[0] = random.uniform(-0.3, 0.0);  // m
      object[1] = random.uniform(-0.2, 0.2);
    } while (std::hypot(object[0], object[1]) <= kMinObjectDistance);
    std::ranges::fill(goal, 0.0);
    add_uniform(random, qvel.first(kJoints), kVelocityNoise);
  }

  void place_camera(mjvCamera& camera) const override { camera.distance = 4.0; }

  void observe(Row observation) const override {
    const auto position = [&](int body) { return std::span(body_position(body), 3); };
    write_blocks(observation,
                 {qpos().first(kJoints), qvel().first(kJoints), position(tip_), position(object_), position(goal_)});
  }

  double reward_near_weight_, reward_dist_weight_, reward_control_weight_;
  int tip_, object_, goal_;
};

const RegisterEnv pusher{{
    .id = "Pusher-v5",
    .observation_space = mujoco_observation_space(23),
    .action_space = Space::box(-2, 2, {7}),
    .max_episode_steps = 100,
    .reward_threshold = 0.0,
    .source = "Gymnasium 1.2.2 Pusher-v5, MuJoCo 3.17.0",
    .options =
        {{"frame_skip", 5}, {"reward_near_weight", 0.5}, {"reward_dist_weight", 1.0}, {"reward_control_weight", 0.1}},
    .state_names = {"shoulder_pan",     "shoulder_lift",    "upper_arm_roll",    "elbow_flex",         "forearm_roll",
                    "wrist_flex",       "wrist_roll",       "object_y",          "object_x",           "goal_y",
                    "goal_x",           "shoulder_pan_dot", "shoulder_lift_dot", "upper_arm_roll_dot", "elbow_flex_dot",
                    "forearm_roll_dot", "wrist_flex_dot",   "wrist_roll_dot",    "object_y_dot",       "object_x_dot",
                    "goal_y_dot",       "goal_x_dot"},
    .make = [](const EnvOptions& options) { return std::make_unique<Pusher>(options); },
}};

}  // namespace
}  // namespace myriad
