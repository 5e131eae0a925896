#include "apps/driver/inspect.hpp"

#include <fmt/color.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <limits>
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

Config chosen_config(const std::string& env, const std::vector<std::string>& options,
                     const std::vector<std::string>& wrappers, std::vector<std::string> settings) {
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
  return config;
}

EnvSpec chosen_environment(const std::string& env, const std::vector<std::string>& options,
                           const std::vector<std::string>& wrappers) {
  return environment_spec(chosen_config(env, options, wrappers).environment);
}

namespace {

/// At most `width` characters, cut between words.
std::string shortened(const std::string& text, size_t width) {
  constexpr std::string_view kRest = " ...";
  if (text.size() <= width) return text;
  const size_t space = text.rfind(' ', width - kRest.size());
  return text.substr(0, space == std::string::npos ? width - kRest.size() : space) + std::string(kRest);
}

}  // namespace

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
      fmt::print("{:<28} {:<44} {:<28} {:>6} {:>9}\n", spec->id, shortened(spec->observation_space.to_string(), 44),
                 shortened(spec->action_space.to_string(), 28), spec->max_episode_steps,
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
  Config config = resolved.empty() ? load_user_config("", "defaults", overrides) : Config{};
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

namespace {

/// A number for people: six digits, and no powers of ten where they can be done without.
std::string plain(double x) {
  std::string text = fmt::format("{:.6g}", x);
  const double size = std::abs(x);
  if (text.find('e') == std::string::npos || !(size > 1e-15 && size < 1e15)) return text;
  return fmt::format("{:.{}f}", x, std::max(0, 5 - static_cast<int>(std::floor(std::log10(size)))));
}

std::string plain(const json::value& value) {
  std::vector<std::string> parts;
  if (value.is_array()) {
    for (const json::value& item : value.as_array()) parts.push_back(plain(item));
    return fmt::format("[{}]", fmt::join(parts, ", "));
  }
  if (value.is_object()) {
    for (const auto& [key, item] : value.as_object())
      parts.push_back(fmt::format("{}: {}", std::string(key), plain(item)));
    return fmt::format("{{{}}}", fmt::join(parts, ", "));
  }
  return value.is_double() ? plain(value.as_double()) : json::serialize(value);
}

/// The steps of an episode as lines: for people, or JSON with every digit.
class StepPrinter {
 public:
  StepPrinter(const EnvSpec& spec, bool json) : spec_(spec), json_(json) {}

  void start(std::span<const std::byte> observation, const Environment& env) const {
    const json::value seen = row_json(spec_.observation_space, observation);
    if (!json_) return fmt::print("{:>5}  obs {}\n", 0, plain(seen));
    json::object line{{"t", 0}, {"observation", seen}};
    if (const auto state = env.state()) line["state"] = json::array(state->begin(), state->end());
    fmt::print("{}\n", json::serialize(line));
  }

  void step(const SeenStep& step) const {
    const StepResult& result = step.result;
    const json::value taken = row_json(spec_.action_space, step.action.bytes()),
                      seen = row_json(spec_.observation_space, step.observation.bytes());
    if (json_)
      fmt::print("{}\n", json::serialize(json::object{{"t", step.t},
                                                      {"observation", seen},
                                                      {"action", taken},
                                                      {"reward", result.reward},
                                                      {"terminated", result.terminated},
                                                      {"truncated", result.truncated}}));
    else
      fmt::print("{:>5}  action {}  reward {}  obs {}{}\n", step.t, plain(taken), plain(result.reward), plain(seen),
                 result.terminated  ? "  terminated"
                 : result.truncated ? "  truncated"
                                    : "");
  }

  void end(double episode_return) const {
    if (!json_) fmt::print("return {}\n", plain(episode_return));
  }

 private:
  const EnvSpec& spec_;
  bool json_;
};

bool is_run(const std::string& given) {
  namespace fs = std::filesystem;
  return fs::exists(fs::path(given) / "run.json") || fs::exists(fs::path(given) / "MANIFEST.json");
}

/// A target of frames, as paths are meant where it was typed.
std::string absolute_target(const std::string& target) {
  return target.empty() || target == "ansi" ? target : std::filesystem::absolute(target).string();
}

/// An episode's steps, printed and, where there is a film, drawn.
class Watcher final : public EpisodeObserver {
 public:
  Watcher(const EnvSpec& spec, bool json, Film* film) : print_(spec, json), film_(film) {}
  void began(size_t episode, Environment& env, ConstRow observation) override {
    if (film_ != nullptr) film_->began(episode, env, observation);
    print_.start(observation.bytes(), env);
  }
  void stepped(size_t episode, Environment& env, const SeenStep& step) override {
    if (film_ != nullptr) film_->stepped(episode, env, step);
    print_.step(step);
  }

 private:
  StepPrinter print_;
  Film* film_;
};

/// One episode of a run's policy.
int play_policy(const PlayOptions& options) {
  for (const auto& [set, name] : {std::pair(!options.state.empty(), "--state"),
                                  {!options.actions.empty(), "--actions"},
                                  {!options.env_options.empty(), "--option"},
                                  {!options.wrappers.empty(), "--wrapper"}})
    if (set)
      fail(Exit::usage, "bad-option",
           "{} goes with an environment; the policy of {} acts, and its settings follow it: "
           "environment.env_config={{gravity=5}}",
           name, options.env);
  const std::string target = absolute_target(options.render);
  const SavedPolicy policy = load_policy(options.env, options.settings);
  Film film(target, options.size.empty() ? default_frame_size(target) : parse_frame_size(options.size), policy.env.id);
  Watcher watcher(policy.env, options.json, target.empty() ? nullptr : &film);
  Evaluator evaluator(policy.config, policy.env, policy.module, policy.weights,
                      {.episodes = 1,
                       .seed = options.seed,
                       .explore = policy.config.evaluation.explore,
                       .max_envs = 1,
                       .observer = &watcher,
                       .context = EnvContext::of(policy.config)});
  (void)evaluator.step_some(options.steps > 0 ? static_cast<int>(options.steps) : std::numeric_limits<int>::max());
  film.finish();
  if (!options.json) fmt::print("return {}\n", plain(evaluator.result().episodes[0].episode_return));
  return 0;
}

}  // namespace

int play(const PlayOptions& options) {
  if (is_run(options.env)) return play_policy(options);
  if (!options.settings.empty())
    fail(Exit::usage, "extra-argument",
         "{} is a setting of a run; want --option key=number or --wrapper key=value of {}", options.settings[0],
         options.env);
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
  const StepPrinter print{spec, options.json};
  const FrameSize size = options.size.empty() ? default_frame_size(options.render) : parse_frame_size(options.size);
  const auto frames = options.render.empty() ? nullptr : open_frames(options.render, size, env.render_fps());
  const auto draw = [&] {
    if (frames) frames->write(render_frame(env, spec.id, size));
  };
  draw();
  print.start(observation, env);
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
    print.step({t, ConstRow(action), ConstRow(observation), result});
    if (result.terminated || result.truncated) break;
  }
  if (frames) frames->finish();
  print.end(stepper.episode_return());
  return 0;
}

int evaluate_command(const EvaluateOptions& options) {
  const std::string video = absolute_target(options.video);
  const SavedPolicy policy =
      load_policy(options.best ? best_checkpoint(options.checkpoint) : options.checkpoint, options.settings);
  const EvaluationConfig& settings = policy.config.evaluation;
  Evaluator::Options evaluation{
      .episodes = static_cast<int>(options.episodes > 0 ? options.episodes : settings.evaluation_duration),
      .seed = options.seed,
      .explore = options.explore || settings.explore};
  Film film(video, options.size.empty() ? default_frame_size(video) : parse_frame_size(options.size), policy.env.id);
  if (!video.empty()) evaluation.max_envs = 1, evaluation.observer = &film;
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
    fmt::print("return {:.2f} +/- {:.2f}, length {:.1f}, over {} episodes{} (seed {}, {}) of checkpoint {}\n",
               result.return_mean(), result.return_stddev(), result.length_mean(), result.episodes.size() - failed,
               failed == 0 ? "" : fmt::format(", without {} that failed", failed), options.seed,
               evaluation.explore ? "sampled actions" : "deterministic",
               std::filesystem::path(policy.directory).filename().string());
    for (const NumberStats& number : result.numbers)
      fmt::print("{} {:.4g}, the last of each episode {:.4g}\n", number.name,
                 number.mean_sum / static_cast<double>(number.episodes),
                 number.last_sum / static_cast<double>(number.episodes));
  }
  if (result.num_cut > 0) fmt::print(stderr, "{}\n", endless_warning(result.num_cut, result.episodes.size()));
  return 0;
}

}  // namespace myriad
