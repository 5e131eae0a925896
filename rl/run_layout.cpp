#include "rl/run_layout.hpp"

#include <algorithm>

#include "rl/check.hpp"
#include "rl/curriculum.hpp"
#include "rl/module_json.hpp"
#include "rl/module_plugin.hpp"
#include "rl/wrappers.hpp"

namespace myriad {
namespace {

constexpr size_t kSmallestByteRun = 64;  // below, a column of its own saves nothing

/// Throws Error unless `space` is what FrameStack makes of `frames` frames.
void check_stack(const Space& space, int64_t frames) {
  if (frames == 1) return;
  const Box* box = space.get_if<Box>();
  const Tuple* tuple = space.get_if<Tuple>();
  const size_t got = box && !box->shape.empty() ? static_cast<size_t>(box->shape[0]) : tuple ? tuple->spaces.size() : 0;
  check(got == static_cast<size_t>(frames), "observations {} are no stacks of {} frames", space.to_string(), frames);
}

}  // namespace

ModuleSpec module_of(const Config& config, const EnvSpec& env) {
  return module_of(config, env.observation_space, env.action_space);
}

ModuleSpec module_of(const Config& config, const Space& observation_space, const Space& action_space) {
  if (config.plugins.module.empty())
    return find_algorithm(config.algorithm).module(observation_space, action_space, config);
  ModuleSpec spec = module_from_json(config.plugins.module);
  check_observations(spec, observation_space);
  return spec;
}

std::vector<ObservationRun> observation_runs(const Config& config, const Space& observation_space) {
  const int flat_size = observation_space.flat_size();
  if (config.environment.filters_observations()) return {{DType::f32, flat_size}};
  std::vector<ObservationRun> runs;
  bool only_bytes = true;
  for (const Leaf& leaf : observation_space.leaves()) {
    const Box* box = leaf.space->get_if<Box>();
    const bool bytes = box != nullptr && box->dtype == DType::u8;
    only_bytes = only_bytes && bytes;
    const DType dtype = bytes && leaf.count >= kSmallestByteRun ? DType::u8 : DType::f32;
    if (runs.empty() || runs.back().dtype != dtype) runs.push_back({dtype, 0});
    runs.back().size += leaf.space->flat_size();
  }
  if (only_bytes) return {{DType::u8, flat_size}};
  if (config.environment.frame_stack > 1) return {{DType::f32, flat_size}};
  return runs;
}

std::optional<MeanStdFilter> observation_filter(const Config& config, const ModuleSpec& module) {
  if (!config.environment.filters_observations()) return std::nullopt;
  return MeanStdFilter(module.obs_size, config.environment.observation_clip, std::max(module.mask_offset, 0),
                       module.mask_size());
}

FragmentLayout fragment_layout(const Config& config, const EnvSpec& env, const ModuleSpec& module, int64_t steps) {
  const EnvSpec spec = configured_spec(env, config.environment.env_config, EnvContext::of(config));
  const StoredAction action = stored_action(spec.action_space);
  const auto frames = static_cast<int>(config.environment.frame_stack);
  check_stack(spec.observation_space, frames);
  FragmentLayout layout(static_cast<int>(steps > 0 ? steps : config.fragment_length()),
                        static_cast<int>(config.env_runners.num_envs_per_env_runner), frames);
  const std::vector<ObservationRun> runs = observation_runs(config, spec.observation_space);
  const DType observation = runs.size() == 1 ? runs[0].dtype : DType::f32;  // of final_obs, which are few
  if (frames > 1)
    layout.add("frames", Rows::frame, observation, {module.obs_size / frames});
  else if (runs.size() == 1)
    layout.add("obs", Rows::step_and_bootstrap, observation, {module.obs_size});
  else
    for (size_t i = 0; i < runs.size(); ++i)
      layout.add(fmt::format("obs.{}", i), Rows::step_and_bootstrap, runs[i].dtype, {runs[i].size});
  layout.add("actions", Rows::step, action.dtype, action.shape)
      .add("rewards", Rows::step, DType::f32, {})
      .add("terminateds", Rows::step, DType::u8, {})
      .add("truncateds", Rows::step, DType::u8, {});
  for (const std::string& name : find_algorithm(config.algorithm).columns)
    if (name == kLogp)
      layout.add(name, Rows::step, DType::f32, {});
    else
      layout.add(name, Rows::step, DType::f32, {inputs_size(module.distribution)});
  layout.add("final_obs", Rows::final_step, observation, {module.obs_size});
  return layout;
}

RunLayout RunLayout::of(const Config& config) {
  EnvSpec env = environment_spec(config);
  ModuleSpec module = module_of(config, env);
  auto fragment = std::make_shared<const FragmentLayout>(fragment_layout(config, env, module));
  RunLayout layout{std::move(env), std::move(module), std::move(fragment)};
  if (const auto filter = observation_filter(config, layout.module)) layout.num_filter = filter->state().size();
  const bool has_epsilon = find_algorithm(config.algorithm).epsilon != nullptr;
  check(has_epsilon == std::holds_alternative<EpsilonGreedy>(layout.module.distribution),
        "{}: an epsilon is for epsilon-greedy policies, and they want one", config.algorithm);
  layout.num_published = Curriculum::size_for(Curriculum::options_of(config.curriculum).size()) + (has_epsilon ? 1 : 0);
  return layout;
}

}  // namespace myriad
