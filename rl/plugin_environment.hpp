// The environment of a plugin's table (sdk/include/myriad/env.h). Only processes that run it come here.
#pragma once

#include <memory>
#include <string>

#include "rl/environment.hpp"
#include "rl/plugin_calls.hpp"
#include "sdk/include/myriad/env.h"

namespace myriad {

/// The library of "PATH" or "PATH#ID".
std::string plugin_library(const std::string& name);

/// The table of the environment "PATH#ID", or of the first one in the library "PATH", which stays open. What an older
/// table does not have is 0. Throws Error.
myriad_plugin open_plugin(const std::string& name);

/// `options` has every option of the plugin. Throws Error("env-exception") with the plugin's message.
std::unique_ptr<Environment> make_plugin_environment(const std::string& name, const EnvOptions& options);

}  // namespace myriad
