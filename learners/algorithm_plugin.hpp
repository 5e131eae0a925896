// An algorithm of a user's own, out of tree: a shared library with an Algorithm and its AlgorithmInfo, chosen in a
// config by algorithm = "plugin:PATH". What an author includes is algorithms/plugin.hpp, as <myriad/algorithm.hpp>.
//
// Only learners open the library, and once, before a run, a learner that is asked for its facts
// (rl/algorithm_facts.hpp). docs/howto-algorithm.md
#pragma once

#include <torch/headeronly/version.h>

#include <string>

#include "learners/algorithm.hpp"
#include "rl/algorithm_info.hpp"
#include "rl/plugin_build.hpp"

namespace myriad {

/// What myriad_algorithm_plugin() of a library returns. Nothing but `build` is looked at before that is checked.
struct AlgorithmPlugin {
  PluginBuild build;
  AlgorithmInfo (*info)();
  std::unique_ptr<Algorithm> (*make)(const Config& config);
};

/// Opens the library at this absolute path for good and registers its algorithm, as built-in ones register themselves.
/// Throws Error("no-plugin" | "plugin-abi" | "plugin-broken").
const AlgorithmInfo& open_algorithm_plugin(const std::string& path);

}  // namespace myriad

/// A library's algorithm, once, at global scope: MYRIAD_ALGORITHM(MyAlgorithm, {.name = "MyAlgorithm", ...})
#define MYRIAD_ALGORITHM(CLASS, ...)                                                                                   \
  extern "C" __attribute__((visibility("default"))) const myriad::AlgorithmPlugin* myriad_algorithm_plugin() {         \
    static const myriad::AlgorithmPlugin plugin{                                                                       \
        MYRIAD_PLUGIN_BUILD(TORCH_VERSION), [] { return myriad::AlgorithmInfo __VA_ARGS__; }, myriad::make_as<CLASS>}; \
    return &plugin;                                                                                                    \
  }
