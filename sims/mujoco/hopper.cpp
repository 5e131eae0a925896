// Hopper-v5: a planar one-legged robot hops forward without falling.
//
// Erez, Tassa and Todorov 2011, "Infinite-Horizon Model Predictive Control for Periodic Tasks with Contacts";
// Gymnasium's Hopper-v5, step for step. Its pairs (healthy_z_range, ...) are two options here: _low and _high.
#include <algorithm>

#include "sims/mujoco/mujoco_env.hpp"

namespace myriad {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kMaxObservedVelocity = 10.0;  // m/s, rad/s

class Hopper final : public MujocoEnv {
 public:
  explicit Hopper(const EnvOptions& options)
      : MujocoEnv("hopper.xml", static_cast<int>(options.at("frame_skip"))), options_(options) {}

  StepResult step(ConstRow action, RandomStream&, Row observation) override {
    const double x_before = qpos()[0];
    simulate(action.f32());
    const double x_velocity = (qpos()[0] - x_before) / dt();  // m/s
    observe(observation);
    const bool is_healthy = healthy();
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
          state(o, "healthy_state_range"),
          z(o, "healthy_z_range"),
          angle(o, "healthy_angle_range") {}
    double forward_reward_weight, ctrl_cost_weight, healthy_reward, reset_noise_scale;
    bool terminate_when_unhealthy;
    size_t skipped_qpos;
    OptionRange state, z, angle;  // of qpos[2:] and qvel; m; rad
  };

  bool healthy() const {
    const auto in_range = [&](double value) { return options_.state.contains(value); };
    return std::all_of(qpos().begin() + 2, qpos().end(), in_range) && std::ranges::all_of(qvel(), in_range) &&
           options_.z.contains(qpos()[1]) && options_.angle.contains(qpos()[2]);
  }

  void add_reset_noise(RandomStream& random, std::span<double> qpos, std::span<double> qvel) override {
    add_uniform(random, qpos, options_.reset_noise_scale);
    add_uniform(random, qvel, options_.reset_noise_scale);
  }

  void observe(Row observation) const override {
    write_qpos_qvel(observation, options_.skipped_qpos, kMaxObservedVelocity);
  }

  Options options_;
};

const RegisterEnv hopper{{
    .id = "Hopper-v5",
    .observation_space = mujoco_observation_space(11),
    .action_space = Space::box(-1, 1, {3}),
    .max_episode_steps = 1000,
    .reward_threshold = 3800.0,
    .source = "Gymnasium 1.2.2 Hopper-v5, MuJoCo 3.17.0",
    .options = {{"frame_skip", 4},
                {"forward_reward_weight", 1.0},
                {"ctrl_cost_weight", 1e-3},
                {"healthy_reward", 1.0},
                {"terminate_when_unhealthy", 1},
                {"healthy_state_range_low", -100.0},
                {"healthy_state_range_high", 100.0},
                {"healthy_z_range_low", 0.7},
                {"healthy_z_range_high", kInf},
                {"healthy_angle_range_low", -0.2},
                {"healthy_angle_range_high", 0.2},
                {"reset_noise_scale", 5e-3},
                {"exclude_current_positions_from_observation", 1}},
    .state_names = {"x", "z", "angle", "thigh", "leg", "foot", "x_dot", "z_dot", "angle_dot", "thigh_dot", "leg_dot",
                    "foot_dot"},
    .make = [](const EnvOptions& options) { return std::make_unique<Hopper>(options); },
    .configure = include_x_position,
}};

}  // namespace
}  // namespace myriad
