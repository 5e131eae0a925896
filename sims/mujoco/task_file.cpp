#include "sims/mujoco/task_file.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "rl/check.hpp"
#include "rl/toml.hpp"

namespace myriad {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();

std::string where_of(const TomlValue& value, const std::string& what) {
  return fmt::format("{}: {}", value.place, what);
}

const TomlValue::Table& table(const TomlValue& value, const std::string& what, std::string_view want = "a table") {
  if (value.table() == nullptr) value.wrong_type(what, want);
  return *value.table();
}

double number(const TomlValue& value, const std::string& what, double low = -kInf, double high = kInf) {
  if (value.number() == nullptr) value.wrong_type(what, "a number");
  const double got = *value.number();
  if (!(got >= low && got <= high))
    fail(Exit::usage, "out-of-range", "{}: {} is {}, want {} to {}", value.place, what, got, low, high);
  return got;
}

int whole_number(const TomlValue& value, const std::string& what, double low) {
  const double got = number(value, what, low, 1e9);
  if (got != std::trunc(got)) value.wrong_type(what, "a whole number");
  return static_cast<int>(got);
}

/// A number or an expression.
Formula formula(const TomlValue& value, const std::string& what) {
  if (value.text() != nullptr) return {*value.text(), where_of(value, what)};
  if (value.number() == nullptr) value.wrong_type(what, "an expression (a string) or a number");
  if (std::isnan(*value.number())) value.wrong_type(what, "a number");
  return {fmt::format("{}", *value.number()), where_of(value, what)};
}

Formula name(const TomlValue& value, const std::string& what) {
  if (value.text() == nullptr) value.wrong_type(what, "a name");
  return {*value.text(), where_of(value, what)};
}

std::pair<Formula, Formula> pair(const TomlValue& value, const std::string& what, std::string_view want) {
  if (value.array() == nullptr || value.array()->size() != 2) value.wrong_type(what, want);
  return {formula((*value.array())[0], what + "[0]"), formula((*value.array())[1], what + "[1]")};
}

/// A name which expressions can use.
void check_identifier(const TomlEntry& entry, std::string_view group) {
  const auto is_word = [](unsigned char c) { return c < 0x80 && (std::isalnum(c) != 0 || c == '_'); };
  const std::string& key = entry.key;
  static constexpr std::string_view kTaken[] = {"and", "or", "not", "inf", "pi", "time", "dt", "action"};
  if (key.empty() || !std::ranges::all_of(key, is_word) || (key[0] >= '0' && key[0] <= '9') ||
      std::ranges::find(kTaken, key) != std::end(kTaken))
    fail(Exit::usage, "bad-name", "{}: [{}] has '{}': want a name of letters, digits and _ that is not taken",
         entry.place, group, key);
}

ObservationTerm observation_term(const TomlValue& value, const std::string& what) {
  ObservationTerm term;
  if (value.table() == nullptr) {
    term.value = formula(value, what);
    return term;
  }
  value.allow_keys(what, {"value", "scale", "clip"});
  const TomlValue* inner = value.find("value");
  if (inner == nullptr) value.wrong_type(what, "value = \"...\" in it");
  term.value = formula(*inner, what + ".value");
  if (const TomlValue* scale = value.find("scale")) term.scale = formula(*scale, what + ".scale");
  if (const TomlValue* clip = value.find("clip")) term.clip = pair(*clip, what + ".clip", "[low, high]");
  return term;
}

RewardTerm reward_term(const TomlValue& value, const std::string& what) {
  if (value.table() == nullptr) return {formula(value, what), {"1", where_of(value, what)}};
  value.allow_keys(what, {"value", "weight"});
  const TomlValue *inner = value.find("value"), *weight = value.find("weight");
  if (inner == nullptr) value.wrong_type(what, "value = \"...\" in it");
  return {formula(*inner, what + ".value"),
          weight != nullptr ? formula(*weight, what + ".weight") : Formula{"1", where_of(value, what)}};
}

/// The one of `value`'s keys that names a distribution; uniform = s, where `symmetric`, means [-s, s], normal = s [0,
/// s].
Distribution distribution(const TomlValue& value, const std::string& what, bool symmetric) {
  using Kind = Distribution::Kind;
  std::optional<Distribution> found;
  for (const auto& [key, kind] : {std::pair("uniform", Kind::uniform), std::pair("normal", Kind::normal),
                                  std::pair("log_uniform", Kind::log_uniform)}) {
    const TomlValue* parameters = value.find(key);
    if (parameters == nullptr) continue;
    if (found) value.wrong_type(what, "one distribution: uniform, normal or log_uniform");
    const std::string inner = fmt::format("{}.{}", what, key);
    if (symmetric && kind != Kind::log_uniform && parameters->array() == nullptr) {
      const Formula scale = formula(*parameters, inner);
      const bool normal = kind == Kind::normal;
      found = {kind, normal ? Formula{"0", scale.where} : Formula{fmt::format("-({})", scale.text), scale.where},
               scale};
    } else {
      auto [first, second] =
          pair(*parameters, inner, kind == Kind::normal ? "[mean, standard deviation]" : "[low, high]");
      found = {kind, std::move(first), std::move(second)};
    }
  }
  if (!found) value.wrong_type(what, "a distribution in it, as in { uniform = [0.5, 1.5] }");
  return *found;
}

ResetNoise reset_noise(const TomlEntry& entry) {
  const std::string what = "reset." + entry.key;
  table(entry.value, what, "noise, as in { uniform = 0.1 }");
  entry.value.allow_keys(what, {"uniform", "normal"});
  return {.velocities = entry.key.starts_with("qvel"),
          .joint = entry.key.size() > 5 ? entry.key.substr(5) : "",
          .noise = distribution(entry.value, what, true),
          .where = where_of(entry.value, what)};
}

Randomized randomized(const TomlEntry& entry) {
  using How = Randomized::How;
  const std::string what = fmt::format("randomize.\"{}\"", entry.key);
  table(entry.value, what, "as in { uniform = [0.5, 1.5], scale = true }");
  entry.value.allow_keys(what, {"uniform", "normal", "log_uniform", "add", "scale", "set", "also"});
  std::optional<How> how;
  for (const auto& [key, value] :
       {std::pair("add", How::add), std::pair("scale", How::scale), std::pair("set", How::set)}) {
    const TomlValue* flag = entry.value.find(key);
    if (flag == nullptr) continue;
    const bool* on = std::get_if<bool>(&flag->value);
    if (on == nullptr || !*on || how)
      flag->wrong_type(fmt::format("{}.{}", what, key), "one of add, scale and set to be true");
    how = value;
  }
  if (!how) entry.value.wrong_type(what, "add = true, scale = true or set = true in it");
  Randomized result{.how = *how,
                    .distribution = distribution(entry.value, what, false),
                    .fields = {entry.key},
                    .where = fmt::format("{}: {}", entry.place, what)};
  if (const TomlValue* also = entry.value.find("also")) {
    if (also->array() == nullptr) also->wrong_type(what + ".also", "a list of fields");
    for (const TomlValue& field : *also->array()) result.fields.push_back(name(field, what + ".also").text);
  }
  return result;
}

void read_group(TaskFile& task, const TomlEntry& group) {
  const std::string& key = group.key;
  const TomlValue& value = group.value;
  const TomlValue::Table& entries = table(value, key, fmt::format("a table: [{}]", key));
  if (key == "options") {
    for (const TomlEntry& entry : entries) {
      check_identifier(entry, key);
      task.options[entry.key] = number(entry.value, "options." + entry.key);
    }
  } else if (key == "values") {
    for (const TomlEntry& entry : entries) {
      check_identifier(entry, key);
      task.values.push_back({entry.key, formula(entry.value, "values." + entry.key)});
    }
  } else if (key == "observation") {
    value.allow_keys("[observation]", {"terms"});
    const TomlValue* terms = value.find("terms");
    if (terms == nullptr || terms->array() == nullptr) value.wrong_type("observation", "terms = [...] in it");
    for (const TomlValue& term : *terms->array())
      task.observation.push_back(observation_term(term, fmt::format("observation.terms[{}]", task.observation.size())));
  } else if (key == "action") {
    value.allow_keys("[action]", {"actuators", "scale"});
    if (const TomlValue* actuators = value.find("actuators")) {
      if (actuators->array() == nullptr || actuators->array()->empty())
        actuators->wrong_type("action.actuators", "a list of names");
      for (const TomlValue& actuator : *actuators->array())
        task.actuators.push_back(name(actuator, "action.actuators"));
    }
    if (const TomlValue* scale = value.find("scale")) task.action_scale = formula(*scale, "action.scale");
  } else if (key == "reward") {
    for (const TomlEntry& entry : entries) task.reward.push_back(reward_term(entry.value, "reward." + entry.key));
  } else if (key == "termination") {
    value.allow_keys("[termination]", {"when"});
    if (const TomlValue* when = value.find("when")) task.terminated = formula(*when, "termination.when");
  } else if (key == "reset") {
    for (const TomlEntry& entry : entries) {
      if (entry.key == "keyframe")
        task.keyframe = name(entry.value, "reset.keyframe");
      else if (entry.key == "qpos" || entry.key == "qvel" || entry.key.starts_with("qpos:") ||
               entry.key.starts_with("qvel:"))
        task.noise.push_back(reset_noise(entry));
      else
        fail(Exit::usage, "unknown-key",
             "{}: [reset] has no {}; it takes keyframe, qpos, qvel, \"qpos:JOINT\" and \"qvel:JOINT\"", entry.place,
             entry.key);
    }
  } else {
    for (const TomlEntry& entry : entries) task.randomize.push_back(randomized(entry));
  }
}

}  // namespace

TaskFile read_task(std::string_view text, std::string_view file) {
  const TomlValue root = read_toml(text, file);
  root.allow_keys("a task", {"model", "frame_skip", "max_episode_steps", "reward_threshold", "options", "values",
                             "observation", "action", "reward", "termination", "reset", "randomize"});
  TaskFile task;
  for (const TomlEntry& entry : *root.table()) {
    if (entry.key == "model") {
      const Formula model = name(entry.value, "model");
      task.model = model.text, task.where = model.where;
    } else if (entry.key == "frame_skip") {
      task.frame_skip = whole_number(entry.value, "frame_skip", 1);
    } else if (entry.key == "max_episode_steps") {
      task.max_episode_steps = whole_number(entry.value, "max_episode_steps", 0);
    } else if (entry.key == "reward_threshold") {
      task.reward_threshold = number(entry.value, "reward_threshold");
    } else {
      read_group(task, entry);
    }
  }
  const auto required = [&](bool given, std::string_view what) {
    if (!given) fail(Exit::usage, "missing-key", "{}: a task has {}", file, what);
  };
  required(!task.model.empty(), "a model: model = \"robot.xml\"");
  required(!task.observation.empty(), "observations: [observation], terms = [\"qpos\", \"qvel\"]");
  required(!task.reward.empty(), "a reward: [reward], NAME = \"...\"");
  return task;
}

}  // namespace myriad
