// The environment of a plugin's table (sdk/include/myriad/env.h). Only processes that run it come here.
#pragma once

#include <memory>
#include <string>

#include "rl/environment.hpp"
#include "rl/plugin_calls.hpp"
#include "sdk/include/myriad/env.h"

namespace myriad {

/// The table of a library, which stays open. What an older one has not is 0. Throws Error.
myriad_plugin open_plugin(const std::string& path);

/// `options` has every option of the plugin. Throws Error("env-exception") with the plugin's own words.
std::unique_ptr<Environment> make_plugin_environment(const std::string& path, const EnvOptions& options);

}  // namespace myriad
