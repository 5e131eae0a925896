// Arrays of MuJoCo by their names: "xpos:torso", "qpos:elbow", "sensor:touch"; "body_mass:torso", "opt.gravity".
//
// A name is that of mjData or mjModel; after the colon stands an object of the model, which selects its rows.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "sims/mujoco/mujoco_env.hpp"

namespace myriad {

/// Numbers of mjData; `field`: the whole array they are in.
struct DataField {
  std::span<const double> values;
  MujocoField field;
};

/// Throws Error("unknown-field" | "unknown-object") naming the nearest.
DataField data_field(const mjModel& model, const mjData& data, const std::string& name);
std::vector<std::string> data_field_names();

/// The numbers which [randomize] may change: one span for each row that `name` means. "body_mass": every row in one
/// span; "body_mass:*": a span a row; "geom_friction:floor[0]": one number of a row. Throws Error as data_field does.
std::vector<std::span<double>> model_field(mjModel& model, const std::string& name);

/// Names of the objects of a type in the model's order; "" for one without.
std::vector<std::string> object_names(const mjModel& model, mjtObj type);

/// Where a joint's numbers begin in qpos and qvel, and how many they are.
struct JointRows {
  size_t qpos, num_qpos, qvel, num_qvel;
};
JointRows joint_rows(const mjModel& model, int joint);

/// The id of an object. Throws Error("unknown-object").
int object_id(const mjModel& model, mjtObj type, const std::string& name);

}  // namespace myriad
