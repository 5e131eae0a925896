// AlgorithmInfo: what every program has of an algorithm without linking torch: its settings, the network it trains
// and the columns it wants from the runners. Registered by itself, as environments are; the first part of
// algorithms/<name>.cpp.
//
//   AlgorithmInfo  --module, columns-->  RunLayout (driver, runners, learner, evaluation)
//   Algorithm      --losses----------->  Learner   (learners/algorithm.hpp, registered under the same name)
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "rl/check.hpp"
#include "rl/config.hpp"
#include "rl/module_spec.hpp"

namespace myriad {

struct AlgorithmInfo {
  std::string name;     ///< "PPO"
  std::string summary;  ///< one line with the paper
  std::function<std::unique_ptr<AlgorithmConfig>()> make_config;
  std::function<void(Config&)> set_defaults{};  ///< the algorithm's defaults of shared settings
  std::vector<std::string> sampling{"sync"};    ///< the modes it can be used in, its default first
  std::vector<std::string> columns{};           ///< of fragments, beside obs, actions, rewards and flags: kLogp, ...
  std::function<ModuleSpec(const Space& observation_space, const Space& action_space, const Config&)> module;
  std::function<const Schedule&(const Config&)> epsilon{};  ///< of a Q-network's policy; published with the weights
  std::string library{};                                    ///< of a plugin: its absolute path

  /// What config.algorithm is for this one: the name, or "plugin:" and the path.
  std::string id() const;
};

inline constexpr std::string_view kPluginPrefix = "plugin:";

/// The absolute path in "plugin:PATH"; "" for the name of a built-in algorithm.
std::string plugin_path(std::string_view algorithm);

/// What a runner can add to its fragments, for AlgorithmInfo::columns.
inline constexpr const char* kLogp = "logp";                            ///< log mu(A_t | S_t)
inline constexpr const char* kActionDistInputs = "action_dist_inputs";  ///< of mu at S_t

/// For AlgorithmInfo::make_config.
template <class Settings>
std::unique_ptr<AlgorithmConfig> make_settings() {
  return std::make_unique<Settings>();
}

/// The network of [rl_module]: a policy and a value function. A plugin that [rl_module] names is asked.
ModuleSpec policy_and_value(const Space& observation_space, const Space& action_space, const Config& config);

/// The Q-network of [rl_module]. Throws Error("unsupported-space") unless actions are Discrete.
ModuleSpec q_network(const Space& observation_space, const Space& action_space, const Config& config);

/// The algorithm's own settings in `config`. Throws Error where they are of another one.
template <class Settings>
const Settings& own_settings(const Config& config) {
  const auto* own = dynamic_cast<const Settings*>(config.algorithm_config.get());
  check(own != nullptr, "{} was made with another algorithm's settings", config.algorithm);
  return *own;
}

/// `const RegisterAlgorithmInfo registered{{.name = "PPO", ...}};` at namespace scope.
struct RegisterAlgorithmInfo {
  explicit RegisterAlgorithmInfo(AlgorithmInfo info);
};

/// A plugin's, in place of what this process knew of that library.
void register_plugin_info(AlgorithmInfo info);

const std::vector<AlgorithmInfo>& algorithm_infos();           ///< of this program, sorted by name
const AlgorithmInfo& find_algorithm(const std::string& name);  ///< by id(); throws Error("unknown-algorithm")

}  // namespace myriad
