// Ant-v5: a four-legged robot moves forward without falling or leaping.
//
// Schulman et al. 2016, "High-Dimensional Continuous Control Using Generalized Advantage Estimation"; Gymnasium's
// Ant-v5, step for step.
#include <cmath>

#include "rl/check.hpp"
#include "sims/mujoco/mujoco_env.hpp"

namespace myriad {
namespace {

class Ant final : public MujocoEnv {
 public:
  explicit Ant(const EnvOptions& options)
      : MujocoEnv("ant.xml", static_cast<int>(options.at("frame_skip")), {kBodyPositions, kContactForces}),
        options_(options) {
    if (options_.main_body < 0 || options_.main_body >= model().nbody)
      fail(Exit::usage, "env-option", "main_body is {}, want 0 to {}", options_.main_body, model().nbody - 1);
  }

  StepResult step(ConstRow action, RandomStream&, Row observation) override {
    const double x_before = body_position(options_.main_body)[0];
    simulate(action.f32());
    const double x_velocity = (body_position(options_.main_body)[0] - x_before) / dt();  // m/s
    observe(observation);
    const bool is_healthy = healthy();
    const double rewards = options_.forward_reward_weight * x_velocity + is_healthy * options_.healthy_reward;
    const double costs = control_cost(options_.ctrl_cost_weight, action.f32()) + contact_cost();
    return {.reward = rewards - costs, .terminated = !is_healthy && options_.terminate_when_unhealthy};
  }

 private:
  struct Options {
    Options(const EnvOptions& o)  // NOLINT: read once, at construction
        : forward_reward_weight(o.at("forward_reward_weight")),
          ctrl_cost_weight(o.at("ctrl_cost_weight")),
          contact_cost_weight(o.at("contact_cost_weight")),
          healthy_reward(o.at("healthy_reward")),
          reset_noise_scale(o.at("reset_noise_scale")),
          main_body(static_cast<int>(o.at("main_body"))),
          terminate_when_unhealthy(o.at("terminate_when_unhealthy") != 0),
          observes_contacts(o.at("include_cfrc_ext_in_observation") != 0),
          skipped_qpos(o.at("exclude_current_positions_from_observation") != 0 ? 2 : 0),
          z(o, "healthy_z_range"),
          contact_force(o, "contact_force_range") {}
    double forward_reward_weight, ctrl_cost_weight, contact_cost_weight, healthy_reward, reset_noise_scale;
    int main_body;  // its velocity is rewarded
    bool terminate_when_unhealthy, observes_contacts;
    size_t skipped_qpos;           // x and y
    OptionRange z, contact_force;  // m; N m and N
  };

  /// The range of z includes its bounds, unlike the other tasks'.
  bool healthy() const {
    const auto finite = [](double value) { return std::isfinite(value); };
    return std::ranges::all_of(qpos(), finite) && std::ranges::all_of(qvel(), finite) && options_.z.low <= qpos()[2] &&
           qpos()[2] <= options_.z.high;
  }

  double contact_cost() const {
    double sum = 0;
    for (const double force : read(kContactForces)) {
      const double held = options_.contact_force.clamp(force);
      sum += held * held;
    }
    return options_.contact_cost_weight * sum;
  }

  void add_reset_noise(RandomStream& random, std::span<double> qpos, std::span<double> qvel) override {
    add_uniform(random, qpos, options_.reset_noise_scale);
    add_normal(random, qvel, options_.reset_noise_scale);
  }

  void observe(Row observation) const override {
    const auto forces = block_if(options_.observes_contacts, read_bodies(kContactForces));
    write_blocks(observation, {qpos().subspan(options_.skipped_qpos), qvel(), forces});
    for (double& force : observation.f64().last(forces.size())) force = options_.contact_force.clamp(force);
  }

  Options options_;
};

const RegisterEnv ant{{
    .id = "Ant-v5",
    .observation_space = mujoco_observation_space(105),
    .action_space = Space::box(-1, 1, {8}),
    .max_episode_steps = 1000,
    .reward_threshold = 6000.0,
    .source = "Gymnasium 1.2.2 Ant-v5, MuJoCo 3.17.0",
    .options = {{"frame_skip", 5},
                {"forward_reward_weight", 1.0},
                {"ctrl_cost_weight", 0.5},
                {"contact_cost_weight", 5e-4},
                {"healthy_reward", 1.0},
                {"main_body", 1},
                {"terminate_when_unhealthy", 1},
                {"healthy_z_range_low", 0.2},
                {"healthy_z_range_high", 1.0},
                {"contact_force_range_low", -1.0},
                {"contact_force_range_high", 1.0},
                {"reset_noise_scale", 0.1},
                {"exclude_current_positions_from_observation", 1},
                {"include_cfrc_ext_in_observation", 1}},
    .state_names = {"x",           "y",           "z",           "quat_w",    "quat_x",      "quat_y",
                    "quat_z",      "hip_1",       "ankle_1",     "hip_2",     "ankle_2",     "hip_3",
                    "ankle_3",     "hip_4",       "ankle_4",     "x_dot",     "y_dot",       "z_dot",
                    "angle_x_dot", "angle_y_dot", "angle_z_dot", "hip_1_dot", "ankle_1_dot", "hip_2_dot",
                    "ankle_2_dot", "hip_3_dot",   "ankle_3_dot", "hip_4_dot", "ankle_4_dot"},
    .make = [](const EnvOptions& options) { return std::make_unique<Ant>(options); },
    .configure = observation_size(
        29, {{"exclude_current_positions_from_observation", -2}, {"include_cfrc_ext_in_observation", 78}}),
}};

}  // namespace
}  // namespace myriad
