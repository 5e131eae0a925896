// Walker2d-v5: a planar two-legged robot walks forward without falling.
//
// Erez, Tassa and Todorov 2011, "Infinite-Horizon Model Predictive Control for Periodic Tasks with Contacts";
// Gymnasium's Walker2d-v5, step for step.
#include "sims/mujoco/planar_walker.hpp"

namespace myriad {
namespace {

class Walker2d final : public PlanarWalker {
 public:
  explicit Walker2d(const EnvOptions& options) : PlanarWalker("walker2d_v5.xml", options) {}
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
    .configure = observation_size(18, {{"exclude_current_positions_from_observation", -1}}),
}};

}  // namespace
}  // namespace myriad
