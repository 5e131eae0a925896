// A task's model: an MJCF or URDF file as it is, and what the task adds to it before MuJoCo compiles it.
//
// A URDF's meshes are found as ROS finds them: package://NAME/... by [model] packages or in a folder above the file,
// others beside it. Its <mimic> becomes an equality of two joints, which MuJoCo's own reader leaves out.
#pragma once

#include <mujoco/mujoco.h>

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "sims/mujoco/task_file.hpp"

namespace myriad {

/// What moves a joint: a motor; with gains a servo, whose force is kp (control - position) - kd velocity.
struct JointDrive {
  std::string joint;
  std::optional<std::pair<double, double>> gains;  ///< kp, kd
  std::optional<double> force;                     ///< N or N m, the most; nullopt: what the model says
};

/// A model's file and what the task says of it.
struct ModelFile {
  std::string path;         ///< absolute
  std::string task_folder;  ///< that folders in the settings are relative to
  ModelSettings settings;
  bool ours = false;  ///< it comes with Myriad: MuJoCo warns of its age in vain
};

/// Names of the hinge and slide joints, in the model's order; those that mimic another are left out. Throws
/// Error("mujoco-model").
std::vector<std::string> joint_names(const ModelFile& file);

/// One model a file, settings and drives in a process. Throws Error("mujoco-model") with MuJoCo's own words.
std::shared_ptr<const mjModel> build_model(const ModelFile& file, const std::vector<JointDrive>& drives = {});

}  // namespace myriad
