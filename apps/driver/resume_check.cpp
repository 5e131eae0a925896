#include "apps/driver/resume_check.hpp"

#include <algorithm>
#include <filesystem>
#include <map>

#include "apps/driver/run_directory.hpp"
#include "rl/algorithm_info.hpp"
#include "rl/check.hpp"
#include "rl/curriculum.hpp"
#include "rl/module_json.hpp"
#include "rl/run_layout.hpp"
#include "roles/checkpoint.hpp"

namespace myriad {
namespace fs = std::filesystem;
namespace {

using Names = std::vector<std::string>;

bool contains(const Names& names, std::string_view name) { return std::ranges::find(names, name) != names.end(); }

/// Of `changed`, those in `names`.
Names among(const Names& changed, const Names& names) {
  Names found;
  std::ranges::copy_if(changed, std::back_inserter(found),
                       [&](const std::string& name) { return contains(names, name); });
  return found;
}

/// "plugin:/a/libmine.so#Name" and "plugin:/b/libmine.so#Name": the same but for the folder.
bool moved(const std::string& before, const std::string& now) {
  const auto without_folder = [](const std::string& env) {
    const size_t colon = env.find(":/"), slash = env.rfind('/');
    return colon == std::string::npos ? env : env.substr(0, colon) + env.substr(slash);
  };
  return !before.starts_with("process:") && without_folder(before) == without_folder(now);
}

/// Of `changed`, what the network follows from.
Names of_network(const Names& changed) {
  Names found;
  std::ranges::copy_if(changed, std::back_inserter(found), [](const std::string& name) {
    return name.starts_with("rl_module.") || name.starts_with("environment.") || name == "algorithm";
  });
  return found;
}

/// What a runner's state depends on.
const Names kOfEnvironments{"seed",
                            "environment.env",
                            "environment.env_config",
                            "environment.max_episode_steps",
                            "environment.wrappers",
                            "environment.frame_skip",
                            "environment.frame_stack",
                            "environment.sticky_actions",
                            "environment.reward_filter",
                            "env_runners.num_envs_per_env_runner"};

/// What the batch that waits in a checkpoint of lag1 is laid out by.
const Names kOfBatch{"training.train_batch_size", "env_runners.rollout_fragment_length", "env_runners.num_env_runners",
                     "env_runners.num_envs_per_env_runner", "environment.frame_stack"};

bool has_waiting_batch(Files& files, const std::string& checkpoint) {
  return std::ranges::any_of(files.list(checkpoint + "/learner_group"),
                             [](const std::string& name) { return name.starts_with("pending_batch"); });
}

[[noreturn]] void other_algorithm(const std::string& before, const std::string& now, const std::string& checkpoint) {
  fail(Exit::usage, "foreign-checkpoint",
       "algorithm is {}, {} was trained with {}; a new run can begin with its parameters: rl_module.init_from={}", now,
       as_typed(checkpoint), before, as_typed(checkpoint));
}

}  // namespace

void refuse_other_algorithm(const std::string& text, const std::string& checkpoint, const Names& overrides) {
  const std::string before = algorithm_of(text, checkpoint), now = algorithm_of(text, checkpoint, overrides);
  if (before != now && (plugin_path(before).empty() || plugin_path(now).empty()))
    other_algorithm(before, now, checkpoint);
}

Names changed_settings(Config& before, Config& now) {
  std::map<std::string, std::string> values;
  const auto name = [](const SettingRow& row) { return row.group.empty() ? row.key : row.group + "." + row.key; };
  for (const SettingRow& row : setting_rows(before)) values[name(row)] = row.value;
  Names changed;
  for (const SettingRow& row : setting_rows(now)) {
    const auto found = values.find(name(row));
    if (row.group != "plugins" && found != values.end() && found->second != row.value) changed.push_back(name(row));
  }
  return changed;
}

void check_policy_fits(const ModuleSpec& module, const Config& config, const EnvSpec& env,
                       const std::string& checkpoint) {
  const int features = env.observation_space.flat_size();
  if (module.obs_size != features)
    fail(Exit::usage, "foreign-checkpoint", "the policy of {} takes {} features; observations {} of {} have {}",
         as_typed(checkpoint), module.obs_size, env.observation_space.to_string(), env.id, features);
  const ActionDistribution want = module_of(config, env).distribution;
  if (module.distribution.index() != want.index() || inputs_size(module.distribution) != inputs_size(want))
    fail(Exit::usage, "foreign-checkpoint",
         "the policy of {} gives a distribution of {} inputs; actions {} of {} want one of {}", as_typed(checkpoint),
         inputs_size(module.distribution), env.action_space.to_string(), env.id, inputs_size(want));
}

void prepare_resume(Files& files, SavedRun& saved, Config& now, const EnvSpec& env, const Revisited& files_now) {
  const std::string& checkpoint = saved.directory;
  Config before = load_config(saved_config(checkpoint), checkpoint + "/config.toml");
  const Names changed = changed_settings(before, now);
  if (find_algorithm(before.algorithm).name != find_algorithm(now.algorithm).name)  // of two plugins
    other_algorithm(before.algorithm, now.algorithm, checkpoint);
  if (before.environment.filters_observations() != now.environment.filters_observations())
    fail(Exit::usage, "foreign-checkpoint", "environment.observation_filter is {}, {} was trained with {}",
         now.environment.observation_filter, as_typed(checkpoint), before.environment.observation_filter);
  if (const std::string file = checkpoint + "/" + kModuleSpecFile; fs::exists(file)) {
    const ModuleSpec had = module_from_json(read_file(file)), has = module_of(now, env);
    if (had.hash() != has.hash()) {
      const Names why = of_network(changed);
      fail(Exit::usage, "foreign-checkpoint", "the network of {} is {}, this resume's {}: {}", as_typed(checkpoint),
           had.to_string(), has.to_string(),
           why.empty() ? std::string("the environment or plugin has changed")
                       : fmt::format("{} changed", fmt::join(why, ", ")));
    }
  }
  if (has_waiting_batch(files, checkpoint)) {
    Names why = among(changed, kOfBatch);
    if (now.training.sampling != before.training.sampling) why.emplace_back("training.sampling");
    if (!why.empty())
      fail(Exit::usage, "foreign-checkpoint",
           "{} changed, but a sampled batch waits in {} (lag1) and is of the shape it was sampled in",
           fmt::join(why, ", "), as_typed(checkpoint));
  }
  Names others = among(changed, kOfEnvironments);
  if (contains(files_now.same, "environment.env") && moved(before.environment.env, now.environment.env))
    std::erase(others, "environment.env");
  for (const char* setting : {"environment.env", "environment.wrappers"})
    if (contains(files_now.changed, setting) && !contains(others, setting))
      others.push_back(fmt::format("what {} names", setting));
  if (Curriculum::options_of(before.curriculum) != Curriculum::options_of(now.curriculum))
    others.emplace_back("the options of [curriculum]");
  if (others.empty() || std::ranges::all_of(saved.runner_states, [](const SharedBytes& s) { return s.view.empty(); }))
    return;
  for (SharedBytes& state : saved.runner_states) state = {};
  saved.note = fmt::format("{} changed: all episodes begin anew", fmt::join(others, ", "));
}

}  // namespace myriad
