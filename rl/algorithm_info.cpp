#include "rl/algorithm_info.hpp"

#include <algorithm>
#include <filesystem>

#include "rl/check.hpp"
#include "rl/module_plugin.hpp"

namespace myriad {
namespace {

std::vector<AlgorithmInfo>& registry() {
  static std::vector<AlgorithmInfo> infos;
  return infos;
}

ModelConfig model_of(const Config& config) {
  ModelConfig model = config.rl_module;
  if (config.environment.filters_observations()) model.scale_uint8 = false;  // the filter scales
  return model;
}

void add(AlgorithmInfo info) {
  for (const std::string& column : info.columns)
    check(column == kLogp || column == kActionDistInputs,
          "{} wants the column {}, which runners do not make; they make {} and {}", info.name, column, kLogp,
          kActionDistInputs);
  std::vector<AlgorithmInfo>& infos = registry();
  infos.insert(std::ranges::lower_bound(infos, info.name, {}, &AlgorithmInfo::name), std::move(info));
}

}  // namespace

std::string AlgorithmInfo::id() const { return library.empty() ? name : std::string(kPluginPrefix) + library; }

std::string plugin_path(std::string_view algorithm) {
  if (!algorithm.starts_with(kPluginPrefix)) return "";
  const std::string_view path = algorithm.substr(kPluginPrefix.size());
  if (path.empty()) fail(Exit::usage, "no-plugin", "{} names no file: want plugin:./libmine.so", algorithm);
  return std::filesystem::absolute(path).lexically_normal().string();
}

ModuleSpec policy_and_value(const Space& observation_space, const Space& action_space, const Config& config) {
  const ModelConfig model = model_of(config);
  if (!model.encoder.starts_with(kPluginPrefix)) return make_module_spec(observation_space, action_space, model);
  ModuleSpec spec = plugin_module(model.encoder, observation_space, action_space, model, sandbox_options(config));
  (void)spec.network(kValueNetwork);  // throws where there is none
  return spec;
}

ModuleSpec q_network(const Space& observation_space, const Space& action_space, const Config& config) {
  if (action_space.get_if<Discrete>() == nullptr)
    fail(Exit::usage, "unsupported-space", "{} wants a Discrete action space, got {}", config.algorithm,
         action_space.to_string());
  if (config.rl_module.vf_share_layers)
    fail(Exit::usage, "impossible", "rl_module.vf_share_layers is true: {} has no value network; want false",
         config.algorithm);
  return make_q_spec(observation_space, action_space, model_of(config));
}

RegisterAlgorithmInfo::RegisterAlgorithmInfo(AlgorithmInfo info) {
  const bool known = std::ranges::find(registry(), info.id(), &AlgorithmInfo::id) != registry().end();
  check(!known, "two algorithms are called {}", info.name);
  add(std::move(info));
}

void register_plugin_info(AlgorithmInfo info) {
  std::erase_if(registry(), [&](const AlgorithmInfo& known) { return known.id() == info.id(); });
  add(std::move(info));
}

const std::vector<AlgorithmInfo>& algorithm_infos() { return registry(); }

const AlgorithmInfo& find_algorithm(const std::string& name) {
  const std::string path = plugin_path(name), id = path.empty() ? name : std::string(kPluginPrefix) + path;
  const auto found = std::ranges::find(registry(), id, &AlgorithmInfo::id);
  if (found != registry().end()) return *found;
  std::vector<std::string> known;
  for (const AlgorithmInfo& info : registry()) known.push_back(info.id());
  fail(Exit::usage, "unknown-algorithm", "unknown algorithm '{}'{}", name, suggestion(name, known));
}

}  // namespace myriad
