#include "sims/mujoco/humanoid_env.hpp"

namespace myriad {
namespace {

constexpr size_t kRootDofs = 6;  // the torso's own, which no actuator drives

}  // namespace

HumanoidEnv::HumanoidEnv(const std::string& xml, const EnvOptions& options, const std::string& impact)
    : MujocoEnv(xml, static_cast<int>(options.at("frame_skip")),
                {kBodyMassCentres, kBodyInertias, kBodyVelocities, kActuatorForces, kContactForces}),
      ctrl_cost_weight_(options.at("ctrl_cost_weight")),
      impact_cost_weight_(options.at(impact + "_weight")),
      reset_noise_scale_(options.at("reset_noise_scale")),
      impact_cost_range_(options, impact + "_range"),
      skipped_qpos_(options.at("exclude_current_positions_from_observation") != 0 ? 2 : 0),
      observes_inertias_(options.at("include_cinert_in_observation") != 0),
      observes_velocities_(options.at("include_cvel_in_observation") != 0),
      observes_actuators_(options.at("include_qfrc_actuator_in_observation") != 0),
      observes_contacts_(options.at("include_cfrc_ext_in_observation") != 0) {}

double HumanoidEnv::control_cost() const {
  return ctrl_cost_weight_ * sum_of_squares({data().ctrl, static_cast<size_t>(model().nu)});
}

double HumanoidEnv::impact_cost() const {
  return impact_cost_range_.clamp(impact_cost_weight_ * sum_of_squares(read(kContactForces)));
}

void HumanoidEnv::add_reset_noise(RandomStream& random, std::span<double> qpos, std::span<double> qvel) {
  add_uniform(random, qpos, reset_noise_scale_);
  add_uniform(random, qvel, reset_noise_scale_);
}

void HumanoidEnv::observe(Row observation) const {
  write_blocks(observation,
               {qpos().subspan(skipped_qpos_), qvel(), block_if(observes_inertias_, read_bodies(kBodyInertias)),
                block_if(observes_velocities_, read_bodies(kBodyVelocities)),
                block_if(observes_actuators_, read(kActuatorForces).subspan(kRootDofs)),
                block_if(observes_contacts_, read_bodies(kContactForces))});
}

EnvSpec humanoid_spec() {
  std::vector<std::string> names = {"x", "y", "z", "quat_w", "quat_x", "quat_y", "quat_z"};
  std::vector<std::string> velocities = {"x_dot", "y_dot", "z_dot", "angle_x_dot", "angle_y_dot", "angle_z_dot"};
  for (const char* joint : {"abdomen_z", "abdomen_y", "abdomen_x", "right_hip_x", "right_hip_z", "right_hip_y",
                            "right_knee", "left_hip_x", "left_hip_z", "left_hip_y", "left_knee", "right_shoulder1",
                            "right_shoulder2", "right_elbow", "left_shoulder1", "left_shoulder2", "left_elbow"}) {
    names.push_back(joint);
    velocities.push_back(std::string(joint) + "_dot");
  }
  names.insert(names.end(), velocities.begin(), velocities.end());
  return {.id = "",
          .observation_space = mujoco_observation_space(348),
          .action_space = Space::box(-0.4, 0.4, {17}),
          .max_episode_steps = 1000,
          .source = "",
          .options = {{"frame_skip", 5},
                      {"ctrl_cost_weight", 0.1},
                      {"reset_noise_scale", 1e-2},
                      {"exclude_current_positions_from_observation", 1},
                      {"include_cinert_in_observation", 1},
                      {"include_cvel_in_observation", 1},
                      {"include_qfrc_actuator_in_observation", 1},
                      {"include_cfrc_ext_in_observation", 1}},
          .state_names = names,
          .make = {},
          .configure = observation_size(47, {{"exclude_current_positions_from_observation", -2},
                                             {"include_cinert_in_observation", 130},
                                             {"include_cvel_in_observation", 78},
                                             {"include_qfrc_actuator_in_observation", 17},
                                             {"include_cfrc_ext_in_observation", 78}})};
}

}  // namespace myriad
