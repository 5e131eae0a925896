// Hopper-v5: a planar one-legged robot hops forward without falling.
//
// Erez, Tassa and Todorov 2011, "Infinite-Horizon Model Predictive Control for Periodic Tasks with Contacts";
// Gymnasium's Hopper-v5, step for step. Its pairs (healthy_z_range, ...) are two options here: _low and _high.
#include <algorithm>

#include "sims/mujoco/planar_walker.hpp"

namespace myriad {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();

class Hopper final : public PlanarWalker {
 public:
  explicit Hopper(const EnvOptions& options)
      : PlanarWalker("hopper.xml", options), state_(options, "healthy_state_range") {}

 private:
  bool healthy() const override {
    const auto in_range = [&](double value) { return state_.contains(value); };
    return std::all_of(qpos().begin() + 2, qpos().end(), in_range) && std::ranges::all_of(qvel(), in_range) &&
           PlanarWalker::healthy();
  }

  OptionRange state_;  // of qpos[2:] and qvel
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
    .configure = observation_size(12, {{"exclude_current_positions_from_observation", -1}}),
}};

}  // namespace
}  // namespace myriad
