// Environments of shared libraries, named "plugin:PATH" or, where a library has several, "plugin:PATH#ID".
#pragma once

#include <string>

#include "rl/environment.hpp"

namespace myriad {

/// The spec of the environment `name`, "PATH" or "PATH#ID". The library is asked in a child process, inside the
/// context's sandbox. Throws Error("no-plugin" | "plugin-abi" | "plugin-broken" | "unknown-env").
EnvSpec plugin_spec(const std::string& name, const EnvContext& context);

}  // namespace myriad
