// Curriculum: what environment options are while a run trains: schedules over env steps, levels that the driver
// advances when returns are good enough, ranges that each episode draws from.
//
//   driver: returns -> level --Command--> learner: at(env steps, level) --with the weights--> runner: the next episode
//
// The learner computes the values for the version of the weights that they go with. So an episode's options depend on
// the weights its fragment is sampled with and on its environment's own stream, and not on timing or on the process
// that runs it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "rl/config.hpp"
#include "rl/env_context.hpp"

namespace myriad {

class Curriculum {
 public:
  /// `env`: as environment_spec() gives it. Throws Error("unknown-env-option", or "impossible" for an option that
  /// changes a space).
  Curriculum(const CurriculumConfig& config, const EnvSpec& env, const EnvContext& context = {});

  /// The options that a config sets, sorted; independent of the environment.
  static std::vector<std::string> options_of(const CurriculumConfig& config);
  /// How many numbers travel with the weights for so many options: none, or {level, low and high of each}.
  static size_t size_for(size_t num_options) { return num_options == 0 ? 0 : 1 + 2 * num_options; }

  const std::vector<std::string>& options() const { return options_; }  ///< those it sets, sorted; may be none
  uint32_t num_levels() const { return static_cast<uint32_t>(std::max<size_t>(1, config_.levels.size())); }

  size_t size() const { return size_for(options_.size()); }
  std::vector<double> at(uint64_t env_steps, uint32_t level) const;

  /// The same by name, for results: "level" where there are levels; "gravity", or "gravity_low" and "gravity_high" for
  /// an option with a range anywhere.
  std::vector<std::pair<std::string, double>> rows(uint64_t env_steps, uint32_t level) const;

 private:
  OptionRange range(const std::string& option, uint64_t env_steps, uint32_t level) const;
  bool has_range(const std::string& option) const;

  CurriculumConfig config_;
  EnvOptions defaults_;
  std::vector<std::string> options_;
};

}  // namespace myriad
