// RunLayout: what a run's rows, networks and weights look like, from its config alone. The driver, runners, learners
// and evaluations of a run get theirs here, so that they agree.
#pragma once

#include <memory>
#include <optional>
#include <vector>

#include "rl/algorithm_info.hpp"
#include "rl/connector.hpp"
#include "rl/environment.hpp"
#include "rl/fragment.hpp"

namespace myriad {

struct RunLayout {
  EnvSpec env;  ///< as configured
  ModuleSpec module;
  std::shared_ptr<const FragmentLayout> fragment;
  size_t num_filter = 0, num_published = 0;  ///< doubles of Weights::filter and Weights::published

  /// Opens plugins where the environment is one. Throws Error for an environment, space or combination that cannot be.
  static RunLayout of(const Config& config);
};

/// The network that `config.algorithm` trains in `env`: its plugins' answer, where they were asked (Config::plugins).
/// Throws Error("bad-module") for one of other spaces.
ModuleSpec module_of(const Config& config, const EnvSpec& env);
ModuleSpec module_of(const Config& config, const Space& observation_space, const Space& action_space);

/// Neighbouring features of an observation that fragments carry in one type.
struct ObservationRun {
  DType dtype;
  int size;
};
/// How fragments carry observations. One run of u8 where the space has nothing but Boxes of uint8, whose bytes are the
/// features, and nothing filters them: a quarter of the bytes. Beside other parts such a Box is a run of its own from
/// 64 elements on (not in stacks of frames); everything else is f32 features.
std::vector<ObservationRun> observation_runs(const Config& config, const Space& observation_space);

/// The filter of observations, where the config has one, before it has seen any. An action mask passes it unchanged.
std::optional<MeanStdFilter> observation_filter(const Config& config, const ModuleSpec& module);

/// The columns of a run's fragments: T = `steps`, or config.fragment_length() with 0, B = num_envs_per_env_runner, and
/// what the algorithm wants beside observations, actions, rewards and flags. `env` may be the registered spec or the
/// configured one.
FragmentLayout fragment_layout(const Config& config, const EnvSpec& env, const ModuleSpec& module, int64_t steps = 0);

}  // namespace myriad
