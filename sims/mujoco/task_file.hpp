// TaskFile: the contents of a task's TOML file, checked as far as it can be without the model.
//
//   model = "arm.xml"                                     [reward]
//   frame_skip = 5                                        reach = "-norm(site_xpos:tip - xpos:target)"
//   max_episode_steps = 200                               control = { value = "sum(square(action))", weight = -0.01 }
//
//   [observation]                                         [randomize]
//   terms = ["qpos", "clip(qvel, -10, 10)"]               "body_mass:upper" = { uniform = [0.5, 1.5], scale = true }
//
// docs/howto-mjcf.md explains every key. MjcfEnv (mjcf_env.cpp) makes an environment of it.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "rl/environment.hpp"

namespace myriad {

/// An expression that a file has (a number is one, too).
struct Formula {
  std::string text;
  std::string where;  ///< "arm.toml:3:9: reward.reach"
};

struct NamedFormula {
  std::string name;
  Formula formula;
  std::optional<Formula> start = {};  ///< of one that remembers: its value at S_0, from which before(name) goes on
};

using FormulaPair = std::pair<Formula, Formula>;

struct RewardTerm {
  std::string name;
  Formula value, weight;
};

/// A distribution and its two parameters: low and high, or mean and standard deviation.
struct Distribution {
  enum class Kind { uniform, normal, log_uniform } kind;
  Formula first, second;
};

struct ObservationTerm {
  Formula value;
  std::optional<FormulaPair> delay;   ///< as it was some env steps ago: least and most, drawn for an episode ...
  std::optional<Distribution> noise;  ///< ... plus this, drawn for each number and step ...
  std::optional<Formula> scale;       ///< ... times this ...
  std::optional<FormulaPair> clip;    ///< ... then within these
};

/// Noise that is added to qpos or qvel, of all joints or of those that fit a name.
struct JointNoise {
  bool velocities;
  std::string joint;                  ///< "": those without noise of their own
  std::optional<size_t> first, last;  ///< of a joint's numbers [first, last); nullopt: all
  Distribution noise;
  std::string where;
};

/// A setting for all, and for those whose name fits ("*_knee"): of several that fit the last counts.
template <class T>
struct PerName {
  std::optional<T> all;
  std::vector<std::pair<Formula, T>> own;
  const T* of(const std::string& name) const;
};

struct ActionSettings {
  std::vector<Formula> actuators;  ///< names; these and `joints` empty: all actuators
  std::vector<Formula> joints;     ///< names of joints that get a motor, or with kp a servo
  PerName<Formula> scale, offset;
  PerName<FormulaPair> range;
  PerName<Formula> kp, kd, force;
  std::optional<FormulaPair> delay;  ///< env steps: least and most, drawn for an episode
};

/// Values of joints: where an episode begins, and what joint targets are counted from.
struct PoseEntry {
  Formula joint;                ///< a name with or without *
  std::vector<Formula> values;  ///< one for each of the joint's numbers
};

/// A number that expressions have, drawn at reset and again from time to time.
struct Command {
  std::string name;
  Distribution distribution;
  std::optional<FormulaPair> every;  ///< s; nullopt: once an episode
  std::string where;
};

struct Pushes {
  FormulaPair every;  ///< s
  std::vector<JointNoise> noise;
};

/// A random number of an episode, and the fields of mjModel it goes into.
struct Randomized {
  enum class How { add, scale, set } how;
  Distribution distribution;
  std::vector<std::string> fields;
  std::string where;
};

/// The model's file, and what a URDF cannot say of itself. Folders are relative to the task's file.
struct ModelSettings {
  std::string file;                                       ///< as it is written
  std::string where;                                      ///< its place
  std::optional<Formula> meshes;                          ///< the folder of meshes
  std::vector<std::pair<std::string, Formula>> packages;  ///< package://NAME/: its folder
  std::vector<Formula> leave_out;                         ///< mesh files whose collision shapes are left out
  std::vector<std::pair<std::string, std::string>> compiler, option;  ///< attributes of these elements of MuJoCo's
  std::optional<double> base_height;  ///< m: the root gets a free joint, and begins there
  bool floor = false;
  bool mend_inertia = false;  ///< inertia tensors that no body can have lose their products of inertia
};

struct TaskFile {
  ModelSettings model;
  int frame_skip = 1;
  int max_episode_steps = 1000;
  std::optional<double> reward_threshold;
  EnvOptions options;
  std::vector<NamedFormula> values;  ///< each may use those before it
  std::vector<ObservationTerm> observation;
  ActionSettings action;
  std::vector<Command> commands;
  std::vector<RewardTerm> reward;
  std::vector<NamedFormula> info;  ///< numbers for the results
  std::optional<Formula> terminated;
  std::optional<Formula> keyframe;  ///< its name; nullopt: qpos0
  std::vector<PoseEntry> pose;
  std::vector<JointNoise> noise;
  std::optional<Pushes> pushes;
  std::vector<Randomized> randomize;
};

/// Whether `name` is `pattern`, in which * stands for any characters.
bool fits(std::string_view pattern, std::string_view name);

template <class T>
const T* PerName<T>::of(const std::string& name) const {
  const T* found = all ? &*all : nullptr;
  for (const auto& [pattern, value] : own)
    if (fits(pattern.text, name)) found = &value;
  return found;
}

/// Reads `text`, of the file `name`. Throws Error: bad-toml, unknown-key, wrong-type, out-of-range, each with its
/// place.
TaskFile read_task(std::string_view text, std::string_view name);

}  // namespace myriad
