// Wrappers: environments around an environment, as Gymnasium's, by the settings of [environment].
//
//   agent --action--> FrameStack --> FrameSkip --> StickyActions --> [IntegerActions] --> wrappers of your own -->
//   the environment
//
// IntegerActions is there by itself where actions are, or have as a part, a Box of whole numbers within bounds, or a
// MultiDiscrete that does not start at 0: the agent sees a MultiDiscrete, whose choice 0 is an element's lowest number.
// The spec of a wrapped environment is an EnvSpec like any other: its spaces and time limit are what the agent sees,
// and its `make` puts the wrappers on. So whoever makes environments from it (runners, evaluation, `myriad play`,
// `myriad check-env`) has the same ones, and without these settings there is nothing around the environment.
#pragma once

#include "rl/config.hpp"
#include "rl/env_context.hpp"
#include "rl/environment.hpp"

namespace myriad {

/// `spec` in the wrappers that `config` asks for; as it is when it asks for none. Steps are the agent's: with a frame
/// skip the time limit is config's, or the registered one divided by the skip, rounded up.
EnvSpec wrapped_spec(const EnvSpec& spec, const EnvironmentConfig& config);

/// The environment of a config: found in the registry, with its options, in its wrappers. Throws Error("unknown-env" |
/// "unknown-env-option").
EnvSpec environment_spec(const EnvironmentConfig& config, const EnvContext& context = {});

/// The same of a run's; foreign code that is asked for it runs in the run's sandbox.
EnvSpec environment_spec(const Config& config);

}  // namespace myriad
