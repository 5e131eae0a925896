// A policy from a checkpoint, ready to run: what `evaluate` and the end of `train` use. No torch.
#pragma once

#include <string>
#include <vector>

#include "env_runners/evaluator.hpp"

namespace myriad {

struct SavedPolicy {
  std::string directory;  ///< the checkpoint
  Config config;
  EnvSpec env;
  ModuleSpec module;
  WeightsPtr weights;
};

/// `best` of a run's directory. Throws Error("no-checkpoint").
std::string best_checkpoint(const std::string& run);

/// Reads a checkpoint directory, or the newest good one of a run's directory. `overrides`: settings of [environment]
/// and [evaluation], and env_runners.sandbox*, in place of the run's. From here on this process looks up relative paths
/// where the run was begun. Throws Error("corrupt-checkpoint", "no-checkpoint", "foreign-checkpoint" where the network
/// does not fit, "impossible" for a setting that means nothing to a policy that is trained).
SavedPolicy load_policy(const std::string& directory, const std::vector<std::string>& overrides = {});

/// An environment of foreign code (EnvSpec::isolated) runs in a child process, in the sandbox of the policy's config;
/// with an observer of its episodes it runs here, with this process' rights. Throws what the evaluator throws, and
/// Error("env-crashed").
EvaluationResult evaluate_policy(const SavedPolicy& policy, const Evaluator::Options& options);

/// Of episodes that the environment did not end.
std::string endless_warning(size_t cut, size_t episodes);

}  // namespace myriad
