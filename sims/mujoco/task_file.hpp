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
};

struct ObservationTerm {
  Formula value;
  std::optional<Formula> scale;                     ///< times this ...
  std::optional<std::pair<Formula, Formula>> clip;  ///< ... then within these
};

struct RewardTerm {
  Formula value, weight;
};

/// A distribution and its two parameters: low and high, or mean and standard deviation.
struct Distribution {
  enum class Kind { uniform, normal, log_uniform } kind;
  Formula first, second;
};

/// Noise that reset() adds to qpos or qvel, of all joints or of one.
struct ResetNoise {
  bool velocities;
  std::string joint;  ///< "": those without noise of their own
  Distribution noise;
  std::string where;
};

/// A random number of an episode, and the fields of mjModel it goes into.
struct Randomized {
  enum class How { add, scale, set } how;
  Distribution distribution;
  std::vector<std::string> fields;
  std::string where;
};

struct TaskFile {
  std::string model;  ///< as it is written
  std::string where;  ///< the place of `model`
  int frame_skip = 1;
  int max_episode_steps = 1000;
  std::optional<double> reward_threshold;
  EnvOptions options;
  std::vector<NamedFormula> values;  ///< each may use those before it
  std::vector<ObservationTerm> observation;
  std::vector<Formula> actuators;  ///< names; empty: all
  std::optional<Formula> action_scale;
  std::vector<RewardTerm> reward;
  std::optional<Formula> terminated;
  std::optional<Formula> keyframe;  ///< its name; nullopt: qpos0
  std::vector<ResetNoise> noise;
  std::vector<Randomized> randomize;
};

/// Reads `text`, of the file `name`. Throws Error: bad-toml, unknown-key, wrong-type, out-of-range, each with its
/// place.
TaskFile read_task(std::string_view text, std::string_view name);

}  // namespace myriad
