#include "rl/config/unknown_keys.hpp"

#include <algorithm>
#include <array>
#include <functional>
#include <map>

#include "rl/check.hpp"
#include "rl/config/groups.hpp"
#include "rl/config/printer.hpp"
#include "rl/config/toml_text.hpp"

namespace myriad {
namespace {

/// What other libraries call a setting: a newcomer's first typo is a name from there.
const std::map<std::string, std::string, std::less<>> kForeignNames = {
    {"learning_rate", "lr"},
    {"gae_lambda", "lambda_"},
    {"lambda", "lambda_"},
    {"clip_range", "clip_param"},
    {"clip_coef", "clip_param"},
    {"ent_coef", "entropy_coeff"},
    {"vf_coef", "vf_loss_coeff"},
    {"max_grad_norm", "grad_clip"},
    {"batch_size", "minibatch_size"},
    {"sgd_minibatch_size", "minibatch_size"},
    {"n_epochs", "num_epochs"},
    {"update_epochs", "num_epochs"},
    {"num_sgd_iter", "num_epochs"},
    {"n_steps", "rollout_fragment_length"},
    {"num_workers", "num_env_runners"},
    {"n_envs", "num_envs_per_env_runner"},
    {"num_envs", "num_envs_per_env_runner"},
    {"env_id", "env"},
    {"frameskip", "frame_skip"},
    {"action_repeat", "frame_skip"},
    {"framestack", "frame_stack"},
    {"stack_size", "frame_stack"},
    {"repeat_action_probability", "sticky_actions"},
    {"max_crashes_per_minute", "max_failures_in_a_row"},
    {"num_consecutive_env_runner_failures_tolerance", "max_failures_in_a_row"},
    {"restart_failed_sub_environments", "on_failure"},
    {"clip_rewards", "reward_clip"},
    {"clip_reward", "reward_clip"},
    {"normalize_reward", "reward_filter"},
    {"norm_reward", "reward_filter"},
    {"total_timesteps", "num_env_steps_sampled_lifetime"},
    {"hidden_sizes", "fcnet_hiddens"},
};

/// Settings that versions before this one wrote into checkpoints: group, key.
constexpr std::array<std::pair<std::string_view, std::string_view>, 1> kRetired{
    {{"fault_tolerance", "max_crashes_per_minute"}}};

/// What to write instead of `key` in `group`: the group it belongs in, the nearest key, or the known ones.
std::string hint(std::string_view key, std::string_view group, const KnownKeys& known) {
  std::vector<std::string> names;
  const auto translated = kForeignNames.find(key);
  for (const auto& [other, keys] : known) {
    if (translated != kForeignNames.end() && std::ranges::find(keys, translated->second) != keys.end() &&
        other != group)
      return fmt::format("; did you mean {} in [{}]?", translated->second, other);
    if (other == group) {
      names.insert(names.end(), keys.begin(), keys.end());
    } else if (std::ranges::find(keys, key) != keys.end()) {
      return other.empty() ? "; it belongs at the top, before any [group]" : fmt::format("; it belongs in [{}]", other);
    }
  }
  if (group.empty())
    for (const auto& [other, keys] : known)
      if (!other.empty()) names.push_back(other);
  const std::vector<std::string> own = names;
  for (const auto& [foreign, ours] : kForeignNames)
    if (std::ranges::find(own, ours) != own.end()) names.push_back(foreign);
  const auto foreign = kForeignNames.find(nearest_name(key, names));
  if (foreign != kForeignNames.end() && std::ranges::find(own, foreign->second) != own.end())
    return fmt::format("; did you mean {}?", foreign->second);
  return suggestion(key, own);
}

}  // namespace

KnownKeys known_keys(Config& config) {
  KnownKeys known;
  for_each_group(config, [&](std::string_view group, const auto& list) {
    std::vector<std::string> keys;
    Printer printer([&](const SettingInfo& info, std::string, std::string) {
      check(std::ranges::find(keys, info.key) == keys.end(), "{} is listed twice", full_name(group, info.key));
      keys.emplace_back(info.key);
    });
    list(printer);
    known.emplace_back(std::string(group), std::move(keys));
  });
  return known;
}

std::string without_retired(std::string_view written) {
  std::string kept;
  std::string_view group;
  while (!written.empty()) {
    const std::string_view line = written.substr(0, written.find('\n'));
    written.remove_prefix(std::min(line.size() + 1, written.size()));
    if (line.starts_with('[') && line.ends_with(']')) group = line.substr(1, line.size() - 2);
    const std::string_view key = line.substr(0, line.find(' '));
    if (std::ranges::find(kRetired, std::pair(group, key)) == kRetired.end()) kept.append(line) += '\n';
  }
  return kept;
}

void refuse_unknown(const Source& source, const KnownKeys& known) {
  const std::vector<std::string>& top = known.front().second;
  for (const auto& [key, node] : source.table) {
    if (std::ranges::find(top, key.str()) != top.end()) continue;
    const auto group =
        std::ranges::find(known, key.str(), [](const auto& entry) { return std::string_view(entry.first); });
    if (group == known.end() || key.str().empty())
      fail(Exit::usage, "unknown-key", "{}: no {} {}{}", source.place(key.source()),
           node.is_table() ? "group" : "top-level setting", key.str(), hint(key.str(), "", known));
    if (!node.is_table())
      fail(Exit::usage, "wrong-type", "{}: {} is {}, want a group: [{}]", source.place(node.source()), key.str(),
           describe(node), key.str());
    for (const auto& [inner, value] : *node.as_table())
      if (std::ranges::find(group->second, inner.str()) == group->second.end())
        fail(Exit::usage, "unknown-key", "{}: [{}] has no {}{}", source.place(inner.source()), group->first,
             inner.str(), hint(inner.str(), group->first, known));
  }
}

}  // namespace myriad
