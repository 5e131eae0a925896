#include "apps/driver/inspect.hpp"

#include <fmt/color.h>

#include <boost/json.hpp>
#include <cstdio>
#include <fstream>
#include <set>

#include "apps/driver/frames.hpp"
#include "apps/driver/plugins.hpp"
#include "apps/driver/policy_file.hpp"
#include "apps/driver/recorder.hpp"
#include "apps/driver/row_json.hpp"
#include "apps/driver/run_directory.hpp"
#include "apps/driver/train.hpp"
#include "env_runners/env_stepper.hpp"
#include "rl/action_mask.hpp"
#include "rl/algorithm_info.hpp"
#include "rl/check.hpp"
#include "rl/run_layout.hpp"
#include "rl/wrappers.hpp"

namespace myriad {
namespace {

namespace json = boost::json;

/// The numbers of a JSON action, flat, into a row of `space`. Of a Dict or Tuple it may be an object of its leaves, as
/// `play` prints it.
void fill_row(const Space& space, const json::value& value, std::span<std::byte> row, const std::string& place) {
  std::vector<double> numbers;
  const auto collect = [&](const auto& self, const json::value& v) -> void {
    if (v.is_array())
      for (const auto& item : v.as_array()) self(self, item);
    else if (v.is_number())
      numbers.push_back(v.to_number<double>());
    else
      fail(Exit::usage, "bad-action", "{}: {} is no number or list of numbers", place, json::serialize(v));
  };
  if (value.is_object() && !space.is_leaf()) {
    std::vector<std::string> paths;
    for (const Leaf& leaf : space.leaves()) {
      paths.push_back(leaf.path);
      const json::value* part = value.as_object().if_contains(leaf.path);
      if (part == nullptr) fail(Exit::usage, "bad-action", "{} has no {}", place, leaf.path);
      collect(collect, *part);
    }
    for (const auto& [key, part] : value.as_object())
      if (std::ranges::find(paths, std::string(key)) == paths.end())
        fail(Exit::usage, "bad-action", "{} has {}{}", place, std::string(key), suggestion(std::string(key), paths));
  } else {
    collect(collect, value);
  }
  size_t want = 0, next = 0;
  for (const Leaf& leaf : space.leaves()) want += leaf.count;
  if (numbers.size() != want)
    fail(Exit::usage, "bad-action", "{} has {} numbers, {} wants {}", place, numbers.size(), space.to_string(), want);
  for (const Leaf& leaf : space.leaves())
    for (size_t i = 0; i < leaf.count; ++i, ++next) {
      std::byte* at = row.data() + leaf.offset + i * size_of(leaf.dtype);
      switch (leaf.dtype) {
        case DType::f32:
          *reinterpret_cast<float*>(at) = static_cast<float>(numbers[next]);
          break;
        case DType::f64:
          *reinterpret_cast<double*>(at) = numbers[next];
          break;
        case DType::u8:
          *reinterpret_cast<uint8_t*>(at) = static_cast<uint8_t>(numbers[next]);
          break;
        case DType::i32:
          *reinterpret_cast<int32_t*>(at) = static_cast<int32_t>(numbers[next]);
          break;
        case DType::i64:
          *reinterpret_cast<int64_t*>(at) = static_cast<int64_t>(numbers[next]);
          break;
      }
    }
  const std::string violation = space.violation(row, "action");
  if (!violation.empty()) fail(Exit::usage, "bad-action", "{}: {}", place, violation);
}

std::vector<json::value> read_actions(const std::string& file) {
  std::ifstream in(file);
  if (!in) fail(Exit::usage, "no-file", "cannot read {}", file);
  std::vector<json::value> actions;
  for (std::string line; std::getline(in, line);) {
    if (line.empty()) continue;
    boost::system::error_code error;
    actions.push_back(json::parse(line, error));
    if (error) fail(Exit::usage, "bad-action", "{}:{}: {}", file, actions.size(), error.message());
  }
  return actions;
}

}  // namespace

EnvOptions parse_options(const std::vector<std::string>& pairs) {
  EnvOptions options;
  for (const std::string& pair : pairs) {
    const size_t equals = pair.find('=');
    size_t used = 0;
    try {
      options[pair.substr(0, equals)] = std::stod(pair.substr(equals + 1), &used);
    } catch (const std::exception&) {}
    if (equals == std::string::npos || used == 0) fail(Exit::usage, "bad-option", "{}: want key=number", pair);
  }
  return options;
}

EnvSpec chosen_environment(const std::string& env, const std::vector<std::string>& options,
                           const std::vector<std::string>& wrappers) {
  std::vector<std::string> settings;
  std::vector<std::string> plugins;
  for (const std::string& wrapper : wrappers) {
    if (wrapper.starts_with(kPluginPrefix)) {
      plugins.push_back(wrapper);
      continue;
    }
    const std::string key = wrapper.substr(0, wrapper.find('='));
    const std::vector<std::string> known{"frame_skip", "frame_stack", "sticky_actions", "max_episode_steps"};
    if (std::ranges::find(known, key) == known.end())
      fail(Exit::usage, "unknown-wrapper", "there is no wrapper {}{}", key, suggestion(key, known));
    settings.push_back("environment." + wrapper);
  }
  Config config = load_config("", "--wrapper", settings);
  config.environment.env = env;
  config.environment.env_config = parse_options(options);
  config.environment.wrappers = std::move(plugins);
  return environment_spec(config.environment);
}

int print_envs(bool as_json) {
  if (!as_json) fmt::print("{:<28} {:<44} {:<28} {:>6} {:>9}\n", "id", "observation", "action", "limit", "threshold");
  for (const EnvSpec* spec : EnvRegistry::instance().all()) {
    if (as_json) {
      json::object options;
      for (const auto& [key, value] : spec->options) options[key] = value;
      fmt::print(
          "{}\n",
          json::serialize(json::object{
              {"id", spec->id},
              {"observation_space", spec->observation_space.to_string()},
              {"action_space", spec->action_space.to_string()},
              {"max_episode_steps", spec->max_episode_steps},
              {"reward_threshold", spec->reward_threshold ? json::value(*spec->reward_threshold) : json::value()},
              {"aligned_with", spec->source},
              {"options", options}}));
    } else {
      fmt::print("{:<28} {:<44} {:<28} {:>6} {:>9}\n", spec->id, spec->observation_space.to_string().substr(0, 44),
                 spec->action_space.to_string().substr(0, 28), spec->max_episode_steps,
                 spec->reward_threshold ? fmt::format("{}", *spec->reward_threshold) : "-");
    }
  }
  return 0;
}

int print_algorithms(bool as_json) {
  for (const AlgorithmInfo& info : algorithm_infos())
    fmt::print("{}\n", as_json ? json::serialize(json::object{{"name", info.name},
                                                              {"summary", info.summary},
                                                              {"sampling", json::value_from(info.sampling)}})
                               : fmt::format("{:<8} {}", info.name, info.summary));
  return 0;
}

/// The network that a config trains, or the reason why it cannot be made here.
std::string network_of(const Config& config) {
  try {
    return module_of(config, environment_spec(config)).to_string();
  } catch (const Error& error) { return fmt::format("none: {}", error.what()); }
}

int print_config(const std::string& resolved, const std::vector<std::string>& overrides, bool as_json) {
  Config config = load_config("", "defaults");
  if (!resolved.empty()) {
    const ConfigFile file = read_config(resolved);
    config = load_user_config(file.text, file.name, overrides);
    config.plugins = {};  // `train` asks again
    if (!as_json) {
      fmt::print("# network: {}\n", network_of(config));
      if (config.learners.native())
        if (const std::string obstacle = training_obstacle(config); !obstacle.empty())
          fmt::print("# cannot be trained: {}\n", obstacle);
      fmt::print("{}", to_toml(config));
      return 0;
    }
  }
  std::string group;
  for (const SettingRow& row : setting_rows(config)) {
    if (as_json) {
      fmt::print("{}\n", json::serialize(json::object{{"group", row.group},
                                                      {"key", row.key},
                                                      {"type", row.type},
                                                      {"value", row.value},
                                                      {"unit", row.unit},
                                                      {"meaning", row.meaning}}));
      continue;
    }
    if (row.group != group)
      fmt::print("{}[{}]\n", group.empty() ? "" : "\n", row.group.empty() ? "top level" : row.group);
    group = row.group.empty() ? " " : row.group;
    fmt::print("  {:<36} {:<16} {}{}\n", row.key, row.value, row.meaning,
               row.unit.empty() ? "" : fmt::format(" [{}]", row.unit));
  }
  return 0;
}

int play(const PlayOptions& options) {
  const EnvSpec spec = chosen_environment(options.env, options.env_options, options.wrappers);
  EnvStepper stepper(std::make_shared<const EnvRules>(spec, spec.options, spec.max_episode_steps), options.seed,
                     StreamPurpose::environment, 0);
  Environment& env = stepper.env();
  std::vector<double> observation_words(spec.observation_space.row_bytes() / 8 + 1),
      action_words(spec.action_space.row_bytes() / 8 + 1);
  const auto observation =
      std::as_writable_bytes(std::span(observation_words)).first(spec.observation_space.row_bytes());
  const auto action = std::as_writable_bytes(std::span(action_words)).first(spec.action_space.row_bytes());
  RandomStream action_random(options.seed, StreamPurpose::action, 0);
  stepper.reset(Row(observation));
  if (!options.state.empty()) {
    boost::system::error_code error;
    json::value state = json::parse(options.state, error);
    if (!error && state.is_object() && state.as_object().contains("state")) state = state.as_object().at("state");
    if (error || !state.is_array())
      fail(Exit::usage, "bad-state", "--state {}: want a JSON list of numbers [{}]", options.state,
           fmt::join(spec.state_names, ", "));
    std::vector<double> values;
    for (const auto& value : state.as_array()) {
      if (!value.is_number()) fail(Exit::usage, "bad-state", "--state: {} is no number", json::serialize(value));
      values.push_back(value.to_number<double>());
    }
    env.set_state(values, Row(observation));
  }
  const std::vector<json::value> actions =
      options.actions.empty() ? std::vector<json::value>{} : read_actions(options.actions);
  const int64_t limit = !options.actions.empty()     ? static_cast<int64_t>(actions.size())
                        : options.steps > 0          ? options.steps
                        : spec.max_episode_steps > 0 ? spec.max_episode_steps
                                                     : 1000;
  const auto mask = ActionMask::of(spec.observation_space, spec.action_space);
  const auto print = [&](int64_t t, const json::value& taken, const StepResult* result) {
    json::object line{{"t", t}, {"observation", row_json(spec.observation_space, observation)}};
    if (result != nullptr) {
      line["action"] = taken;
      line["reward"] = result->reward;
      line["terminated"] = result->terminated;
      line["truncated"] = result->truncated;
    } else if (const auto state = env.state()) {
      line["state"] = json::array(state->begin(), state->end());
    }
    if (options.json)
      fmt::print("{}\n", json::serialize(line));
    else if (result == nullptr)
      fmt::print("{:>5}  obs {}\n", t, json::serialize(line["observation"]));
    else
      fmt::print("{:>5}  action {}  reward {}  obs {}{}\n", t, json::serialize(taken), result->reward,
                 json::serialize(line["observation"]),
                 result->terminated  ? "  terminated"
                 : result->truncated ? "  truncated"
                                     : "");
  };
  const FrameSize size = options.size.empty() ? default_frame_size(options.render) : parse_frame_size(options.size);
  const auto frames = options.render.empty() ? nullptr : open_frames(options.render, size, env.render_fps());
  const auto draw = [&] {
    if (frames) frames->write(render_frame(env, spec.id, size));
  };
  draw();
  print(0, nullptr, nullptr);
  for (int64_t t = 1; t <= limit; ++t) {
    if (actions.empty() && mask)
      mask->sample(action_random, observation, action);
    else if (actions.empty())
      spec.action_space.sample(action_random, action);
    else
      fill_row(spec.action_space, actions[static_cast<size_t>(t - 1)], action,
               fmt::format("{}:{}", options.actions, t));
    if (spec.submits) stepper.submit(ConstRow(action));
    const StepResult result = stepper.step(ConstRow(action), Row(observation));
    draw();
    print(t, row_json(spec.action_space, action), &result);
    if (result.terminated || result.truncated) break;
  }
  if (frames) frames->finish();
  if (!options.json) fmt::print("return {}\n", stepper.episode_return());
  return 0;
}

int evaluate_command(const EvaluateOptions& options) {
  Evaluator::Options evaluation{
      .episodes = static_cast<int>(options.episodes), .seed = options.seed, .explore = options.explore};
  const SavedPolicy policy = load_policy(options.best ? best_checkpoint(options.checkpoint) : options.checkpoint);
  Film film(options.video, options.size.empty() ? default_frame_size(options.video) : parse_frame_size(options.size),
            policy.env.id);
  if (!options.video.empty()) evaluation.max_envs = 1, evaluation.observer = &film;
  const EvaluationResult result = evaluate_policy(policy, evaluation);
  film.finish();
  if (options.json) {
    for (size_t i = 0; i < result.episodes.size(); ++i)
      fmt::print("{}\n", json::serialize(json::object{{"episode", i},
                                                      {"return", result.episodes[i].episode_return},
                                                      {"length", result.episodes[i].length},
                                                      {"failed", result.episodes[i].failed},
                                                      {"seed", options.seed}}));
  } else {
    const size_t failed = result.num_failed();
    fmt::print("return {:.2f} +/- {:.2f}, length {:.1f}, over {} episodes{} (seed {}, {}) of checkpoint {}\n", result.return_mean(),
               result.return_stddev(), result.length_mean(), result.episodes.size() - failed,
               failed == 0 ? "" : fmt::format(", without {} that failed", failed), options.seed,
               options.explore ? "sampled actions" : "deterministic",
               std::filesystem::path(policy.directory).filename().string());
    for (const NumberStats& number : result.numbers)
      fmt::print("{} {:.4g}, the last of each episode {:.4g}\n", number.name,
                 number.mean_sum / static_cast<double>(number.episodes),
                 number.last_sum / static_cast<double>(number.episodes));
  }
  return 0;
}

}  // namespace myriad
