#include "rl/algorithm_info.hpp"

#include <algorithm>

#include "rl/check.hpp"

namespace myriad {
namespace {

std::vector<AlgorithmInfo>& registry() {
  static std::vector<AlgorithmInfo> infos;
  return infos;
}

}  // namespace

ModuleSpec policy_and_value(const Space& observation_space, const Space& action_space, const Config& config) {
  ModelConfig model = config.rl_module;
  if (config.environment.filters_observations()) model.scale_uint8 = false;  // the filter scales
  return make_module_spec(observation_space, action_space, model);
}

RegisterAlgorithmInfo::RegisterAlgorithmInfo(AlgorithmInfo info) {
  std::vector<AlgorithmInfo>& infos = registry();
  const auto place = std::ranges::lower_bound(infos, info.name, {}, &AlgorithmInfo::name);
  check(place == infos.end() || place->name != info.name, "two algorithms are called {}", info.name);
  for (const std::string& column : info.columns)
    check(column == kLogp || column == kActionDistInputs,
          "{} wants the column {}, which runners do not make; they make {} and {}", info.name, column, kLogp,
          kActionDistInputs);
  infos.insert(place, std::move(info));
}

const std::vector<AlgorithmInfo>& algorithm_infos() { return registry(); }

const AlgorithmInfo& find_algorithm(const std::string& name) {
  const auto found = std::ranges::find(registry(), name, &AlgorithmInfo::name);
  if (found != registry().end()) return *found;
  std::vector<std::string> known;
  for (const AlgorithmInfo& info : registry()) known.push_back(info.name);
  fail(Exit::usage, "unknown-algorithm", "unknown algorithm '{}'{}", name, suggestion(name, known));
}

}  // namespace myriad
