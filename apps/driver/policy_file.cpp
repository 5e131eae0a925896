#include "apps/driver/policy_file.hpp"

#include <filesystem>

#include "apps/driver/run_directory.hpp"
#include "learners/checkpoint.hpp"
#include "rl/check.hpp"
#include "rl/wrappers.hpp"

namespace myriad {

SavedPolicy load_policy(const std::string& given) {
  namespace fs = std::filesystem;
  const auto files = make_system_files(".");
  std::string directory = given;
  if (fs::is_directory(given + "/checkpoints")) {
    const auto valid = valid_checkpoints(*files, given + "/checkpoints");
    if (valid.empty()) fail(Exit::usage, "no-checkpoint", "{} has no checkpoint that verifies", given);
    directory = valid.back();
  }
  if (!fs::is_directory(directory))
    fail(Exit::usage, "no-checkpoint", "{} is no directory: give a checkpoint or a run", directory);
  const std::string violation = checkpoint_violation(*files, directory);
  if (!violation.empty()) fail(Exit::usage, "corrupt-checkpoint", "{}: {}", directory, violation);
  Config config = load_config(read_file(directory + "/config.toml"), directory + "/config.toml");
  EnvSpec env = environment_spec(config.environment);
  ModuleSpec module = make_mlp_spec(env.observation_space, env.action_space, config.rl_module);
  const std::string module_file = directory + "/learner_group/modules/default_policy.safetensors";
  Weights weights;
  weights.layout_hash = module.hash();
  weights.values = flat_parameters(module, decode_safetensors(files->read(module_file), module_file), module_file);
  weights.values.resize(module.num_inference_parameters());
  const std::string connector_file = directory + "/learner_group/connectors.safetensors";
  const TensorMap connectors = decode_safetensors(files->read(connector_file), connector_file);
  if (const auto filter = connectors.find("mean_std_filter"); filter != connectors.end())
    weights.filter = filter->second.f64();
  return {std::move(config), std::move(env), std::move(module), std::make_shared<const Weights>(std::move(weights))};
}

EvaluationResult evaluate_policy(const SavedPolicy& policy, const Evaluator::Options& options) {
  Evaluator evaluator(policy.config, policy.env, policy.module, policy.weights, options);
  while (!evaluator.step_some(1000)) continue;
  return evaluator.result();
}

}  // namespace myriad
