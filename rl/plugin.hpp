// Plugins: environments of shared libraries made with the SDK (sdk/include/myriad/env.h), named "plugin:PATH".
//
// A library's initialisers run when it is opened. So its facts are asked in a child process, and only processes that
// make its environment open it themselves.
#pragma once

#include <string>
#include <string_view>

#include "rl/environment.hpp"

namespace myriad {

constexpr std::string_view kPluginPrefix = "plugin:";
inline bool is_plugin(std::string_view env) { return env.starts_with(kPluginPrefix); }

/// The same with an absolute path; other ids as they are.
std::string absolute_plugin(const std::string& env);

/// Of "plugin:PATH". Throws Error("no-plugin" | "plugin-abi" | "plugin-broken").
EnvSpec plugin_spec(const std::string& env);

}  // namespace myriad
