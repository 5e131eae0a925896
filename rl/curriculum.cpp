#include "rl/curriculum.hpp"

#include <algorithm>
#include <map>
#include <set>
#include <tuple>

#include "rl/check.hpp"

namespace myriad {
namespace {

/// A curriculum cannot change an option that changes a space: a module has one input and one output.
void refuse_other_spaces(const EnvSpec& env, const std::string& option, double value, const EnvContext& context) {
  const EnvSpec changed = configured_spec(env, {{option, value}}, context);
  for (const auto& [name, before, after] :
       {std::tuple{"observation", &env.observation_space, &changed.observation_space},
        std::tuple{"action", &env.action_space, &changed.action_space}})
    if (before->to_string() != after->to_string())
      fail(Exit::usage, "impossible",
           "curriculum: {} = {} makes the {} space of {} {} in place of {}; set it in environment.env_config", option,
           value, name, env.id, after->to_string(), before->to_string());
}

}  // namespace

std::vector<std::string> Curriculum::options_of(const CurriculumConfig& config) {
  std::set<std::string> options;
  for (const auto& [option, schedule] : config.schedules) options.insert(option);
  for (const auto& [option, range] : config.randomize) options.insert(option);
  for (const OptionRanges& level : config.levels)
    for (const auto& [option, range] : level) options.insert(option);
  return {options.begin(), options.end()};
}

Curriculum::Curriculum(const CurriculumConfig& config, const EnvSpec& env, const EnvContext& context)
    : config_(config), defaults_(env.options), options_(options_of(config)) {
  std::map<std::string, std::set<double>> values;
  for (const auto& [option, schedule] : config.schedules)
    for (const auto& [step, value] : schedule.points) values[option].insert(value);
  for (const auto& [option, range] : config.randomize) values[option].insert({range.low, range.high});
  for (const OptionRanges& level : config.levels)
    for (const auto& [option, range] : level) values[option].insert({range.low, range.high});
  for (const auto& [option, all] : values)
    for (const double value : all) refuse_other_spaces(env, option, value, context);
}

OptionRange Curriculum::range(const std::string& option, uint64_t env_steps, uint32_t level) const {
  if (const auto schedule = config_.schedules.find(option); schedule != config_.schedules.end()) {
    const double value = schedule->second.at(static_cast<double>(env_steps));
    return {value, value};
  }
  if (const auto range = config_.randomize.find(option); range != config_.randomize.end()) return range->second;
  check(level < config_.levels.size(), "there is no level {} of {}", level, config_.levels.size());
  const auto range = config_.levels[level].find(option);
  if (range != config_.levels[level].end()) return range->second;
  return {defaults_.at(option), defaults_.at(option)};
}

bool Curriculum::has_range(const std::string& option) const {
  const auto is_range = [&](const OptionRanges& ranges) {
    const auto range = ranges.find(option);
    return range != ranges.end() && range->second.low != range->second.high;
  };
  return is_range(config_.randomize) || std::ranges::any_of(config_.levels, is_range);
}

std::vector<double> Curriculum::at(uint64_t env_steps, uint32_t level) const {
  if (options_.empty()) return {};
  std::vector<double> values{static_cast<double>(level)};
  for (const std::string& option : options_) {
    const OptionRange range = this->range(option, env_steps, level);
    values.insert(values.end(), {range.low, range.high});
  }
  return values;
}

std::vector<std::pair<std::string, double>> Curriculum::rows(uint64_t env_steps, uint32_t level) const {
  std::vector<std::pair<std::string, double>> rows;
  if (!config_.levels.empty()) rows.emplace_back("level", level);
  for (const std::string& option : options_) {
    const OptionRange range = this->range(option, env_steps, level);
    if (has_range(option)) {
      rows.emplace_back(option + "_low", range.low);
      rows.emplace_back(option + "_high", range.high);
    } else {
      rows.emplace_back(option, range.low);
    }
  }
  return rows;
}

}  // namespace myriad
