// AlgorithmInfo: what every program knows of an algorithm without linking torch: its settings, the network it trains
// and the columns it wants from the runners. Registered by itself, as environments are; algorithms/<name>_info.cpp.
//
//   AlgorithmInfo  --module, columns-->  RunLayout (driver, runners, learner, evaluation)
//   Algorithm      --losses----------->  Learner   (learners/algorithm.hpp, registered under the same name)
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "rl/config.hpp"
#include "rl/module_spec.hpp"

namespace myriad {

struct AlgorithmInfo {
  std::string name;     ///< "PPO"
  std::string summary;  ///< one line with the paper
  std::unique_ptr<AlgorithmConfig> (*make_config)();
  void (*set_defaults)(Config&) = nullptr;    ///< the algorithm's defaults of shared settings
  std::vector<std::string> sampling{"sync"};  ///< the modes it can be used in, its default first
  std::vector<std::string> columns{};         ///< of fragments, beside obs, actions, rewards and flags: kLogp, ...
  ModuleSpec (*module)(const Space& observation_space, const Space& action_space, const Config&);
};

/// What a runner can add to its fragments, for AlgorithmInfo::columns.
inline constexpr const char* kLogp = "logp";                            ///< log mu(A_t | S_t)
inline constexpr const char* kActionDistInputs = "action_dist_inputs";  ///< of mu at S_t

/// For AlgorithmInfo::make_config.
template <class Settings>
std::unique_ptr<AlgorithmConfig> make_settings() {
  return std::make_unique<Settings>();
}

/// The network of [rl_module]: a policy and a value function.
ModuleSpec policy_and_value(const Space& observation_space, const Space& action_space, const Config& config);

/// `const RegisterAlgorithmInfo registered{{.name = "PPO", ...}};` at namespace scope.
struct RegisterAlgorithmInfo {
  explicit RegisterAlgorithmInfo(AlgorithmInfo info);
};

const std::vector<AlgorithmInfo>& algorithm_infos();           ///< of this program, sorted by name
const AlgorithmInfo& find_algorithm(const std::string& name);  ///< throws Error("unknown-algorithm")

}  // namespace myriad
