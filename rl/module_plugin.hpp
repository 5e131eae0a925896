// Networks of a user's own, out of tree: functions in a shared library that make a ModuleSpec, chosen in a config by
// rl_module.encoder = "plugin:PATH" or "plugin:PATH:NAME". What an author includes as <myriad/module.hpp>.
//
// A network is data. So the driver asks the library once, in a child process, and what it answers goes with the run's
// config to learners and runners, on any host: they never open the library. docs/howto-module.md
#pragma once

#include <cstddef>
#include <string>

#include "rl/module_spec.hpp"
#include "rl/plugin_build.hpp"
#include "rl/sandbox.hpp"

namespace myriad {

/// The network for these spaces, as make_module_spec() makes the built-in ones.
using MakeModule = ModuleSpec (*)(const Space& observation_space, const Space& action_space, const ModelConfig& config);

struct NamedModule {
  const char* name;
  MakeModule make;
};

/// What myriad_module_plugin() of a library returns.
struct ModulePlugin {
  PluginBuild build;
  const NamedModule* modules;
  size_t count;
};

/// The network of `encoder`, "plugin:PATH[:NAME]", asked in a child process inside `sandbox`. Throws Error("no-plugin"
/// | "plugin-abi" | "plugin-broken"); Error("bad-module") for a spec that cannot be, or is of other spaces;
/// Error("impossible") for a library of networks in torch's operators.
ModuleSpec plugin_module(const std::string& encoder, const Space& observation_space, const Space& action_space,
                         const ModelConfig& config, const Sandbox::Options& sandbox);

/// Throws Error("bad-module") unless `spec` takes these observations.
void check_observations(const ModuleSpec& spec, const Space& observation_space);

}  // namespace myriad

/// The networks of a library, once, at global scope: MYRIAD_MODULES({"residual", residual}, {"wide", wide})
#define MYRIAD_MODULES(...)                                                                                         \
  extern "C" __attribute__((visibility("default"))) const myriad::ModulePlugin* myriad_module_plugin() {            \
    static const myriad::NamedModule modules[] = {__VA_ARGS__};                                                     \
    static const myriad::ModulePlugin plugin{MYRIAD_PLUGIN_BUILD(""), modules, sizeof modules / sizeof modules[0]}; \
    return &plugin;                                                                                                 \
  }
