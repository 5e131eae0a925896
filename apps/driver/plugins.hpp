// Questions that the driver, which has no torch, asks before a run. Plugins of algorithms and modules are asked once,
// and their answers written into the config of the run (Config::plugins). It opens none itself: an algorithm's has
// torch in it, so a learner is started for that; a module's is opened by a child process.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "rl/config.hpp"

namespace myriad {

/// load_config() of a user's config, whose algorithm and encoder may be plugins: their paths become absolute. Throws
/// Error as that, and Error("no-plugin" | "plugin-abi" | "plugin-broken").
Config load_user_config(std::string_view text, std::string_view name, const std::vector<std::string>& overrides);

/// Fills config.plugins.module where the algorithm or the encoder is a plugin. Throws Error as load_user_config(), or
/// what the library's function threw.
void ask_for_module(Config& config);

/// The error with which a learner would refuse this config; "" where it would train it. Starts a learner to ask it.
std::string training_obstacle(Config& config);

}  // namespace myriad
