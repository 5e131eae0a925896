// Plugins of algorithms and modules, as the driver deals with them: it asks them once and writes what they say into the
// config of the run (Config::plugins). It opens none itself: an algorithm's has torch in it, so a learner is started
// for that; a module's is opened by a child process.
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

}  // namespace myriad
