#include "sims/mujoco/task_file.hpp"

#include <algorithm>
#include <charconv>
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

FormulaPair pair(const TomlValue& value, const std::string& what, std::string_view want) {
  if (value.array() == nullptr || value.array()->size() != 2) value.wrong_type(what, want);
  return {formula((*value.array())[0], what + "[0]"), formula((*value.array())[1], what + "[1]")};
}

/// [least, most], or one for both.
FormulaPair least_and_most(const TomlValue& value, const std::string& what) {
  if (value.array() != nullptr) return pair(value, what, "a number, or [least, most]");
  return {formula(value, what), formula(value, what)};
}

/// A name which expressions can use.
void check_identifier(const TomlEntry& entry, std::string_view group) {
  const auto is_word = [](unsigned char c) { return c < 0x80 && (std::isalnum(c) != 0 || c == '_'); };
  const std::string& key = entry.key;
  static constexpr std::string_view kTaken[] = {"and", "or", "not", "inf", "pi", "time", "dt", "action", "pose"};
  if (key.empty() || !std::ranges::all_of(key, is_word) || (key[0] >= '0' && key[0] <= '9') ||
      std::ranges::find(kTaken, key) != std::end(kTaken))
    fail(Exit::usage, "bad-name", "{}: [{}] has '{}': want a name of letters, digits and _ that is not taken",
         entry.place, group, key);
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

ObservationTerm observation_term(const TomlValue& value, const std::string& what) {
  ObservationTerm term;
  if (value.table() == nullptr) {
    term.value = formula(value, what);
    return term;
  }
  value.allow_keys(what, {"value", "delay", "noise", "scale", "clip"});
  const TomlValue* inner = value.find("value");
  if (inner == nullptr) value.wrong_type(what, "value = \"...\" in it");
  term.value = formula(*inner, what + ".value");
  if (const TomlValue* delay = value.find("delay")) term.delay = least_and_most(*delay, what + ".delay");
  if (const TomlValue* noise = value.find("noise")) {
    table(*noise, what + ".noise", "as in { uniform = 0.1 }");
    noise->allow_keys(what + ".noise", {"uniform", "normal"});
    term.noise = distribution(*noise, what + ".noise", true);
  }
  if (const TomlValue* scale = value.find("scale")) term.scale = formula(*scale, what + ".scale");
  if (const TomlValue* clip = value.find("clip")) term.clip = pair(*clip, what + ".clip", "[low, high]");
  return term;
}

RewardTerm reward_term(const TomlEntry& entry) {
  const TomlValue& value = entry.value;
  const std::string what = "reward." + entry.key;
  if (value.table() == nullptr) return {entry.key, formula(value, what), {"1", where_of(value, what)}};
  value.allow_keys(what, {"value", "weight"});
  const TomlValue *inner = value.find("value"), *weight = value.find("weight");
  if (inner == nullptr) value.wrong_type(what, "value = \"...\" in it");
  return {entry.key, formula(*inner, what + ".value"),
          weight != nullptr ? formula(*weight, what + ".weight") : Formula{"1", where_of(value, what)}};
}

/// "qvel:JOINT[0:2]" of the table `group`.
JointNoise joint_noise(const TomlEntry& entry, std::string_view group) {
  const std::string what = fmt::format("{}.{}", group, entry.key);
  table(entry.value, what, "noise, as in { uniform = 0.1 }");
  entry.value.allow_keys(what, {"uniform", "normal"});
  JointNoise noise{.velocities = entry.key.starts_with("qvel"),
                   .joint = entry.key.size() > 5 ? entry.key.substr(5) : "",
                   .first = {},
                   .last = {},
                   .noise = distribution(entry.value, what, true),
                   .where = where_of(entry.value, what)};
  const size_t bracket = noise.joint.find('[');
  if (bracket == std::string::npos) return noise;
  const std::string part = noise.joint.substr(bracket + 1);
  size_t first = 0, last = 0;
  const char* const end = part.data() + part.size();
  std::from_chars_result parsed = std::from_chars(part.data(), end, first);
  last = first + 1;
  if (parsed.ec == std::errc() && parsed.ptr != end && *parsed.ptr == ':')
    parsed = std::from_chars(parsed.ptr + 1, end, last);
  if (parsed.ec != std::errc() || std::string_view(parsed.ptr, end) != "]" || first >= last)
    fail(Exit::usage, "bad-name", "{}: [{}] has {}: want one number or a part of a joint, as in [2] or [0:2]",
         entry.place, group, entry.key);
  noise.first = first, noise.last = last;
  noise.joint.resize(bracket);
  return noise;
}

bool is_joint_noise(const std::string& key) {
  return key == "qpos" || key == "qvel" || key.starts_with("qpos:") || key.starts_with("qvel:");
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

std::vector<Formula> names(const TomlValue& value, const std::string& what) {
  if (value.array() == nullptr || value.array()->empty()) value.wrong_type(what, "a list of names");
  std::vector<Formula> all;
  for (const TomlValue& one : *value.array()) all.push_back(name(one, what));
  return all;
}

template <class T, class Read>
bool read_per_name(PerName<T>& setting, std::string_view key, const TomlEntry& entry, Read&& read) {
  const std::string what = "action." + entry.key;
  if (entry.key == key)
    setting.all = read(entry.value, what);
  else if (entry.key.starts_with(std::string(key) + ":"))
    setting.own.emplace_back(Formula{entry.key.substr(key.size() + 1), where_of(entry.value, what)},
                             read(entry.value, what));
  else
    return false;
  return true;
}

void read_action(ActionSettings& action, const TomlEntry& entry) {
  const auto bounds = [](const TomlValue& value, const std::string& what) { return pair(value, what, "[low, high]"); };
  if (entry.key == "actuators")
    action.actuators = names(entry.value, "action.actuators");
  else if (entry.key == "joints")
    action.joints = names(entry.value, "action.joints");
  else if (entry.key == "delay")
    action.delay = least_and_most(entry.value, "action.delay");
  else if (!read_per_name(action.scale, "scale", entry, formula) &&
           !read_per_name(action.offset, "offset", entry, formula) &&
           !read_per_name(action.range, "range", entry, bounds) && !read_per_name(action.kp, "kp", entry, formula) &&
           !read_per_name(action.kd, "kd", entry, formula) && !read_per_name(action.force, "force", entry, formula)) {
    const std::vector<std::string> known = {"actuators", "joints", "scale", "offset", "range",
                                            "kp",        "kd",     "force", "delay"};
    fail(Exit::usage, "unknown-key", "{}: [action] has no {}{}", entry.place, entry.key,
         suggestion(entry.key.substr(0, entry.key.find(':')), known));
  }
}

PoseEntry pose_entry(const TomlEntry& entry) {
  const std::string what = "pose." + entry.key;
  PoseEntry pose{{entry.key, where_of(entry.value, what)}, {}};
  if (entry.value.array() == nullptr) {
    pose.values = {formula(entry.value, what)};
    return pose;
  }
  for (const TomlValue& value : *entry.value.array()) pose.values.push_back(formula(value, what));
  return pose;
}

Command command(const TomlEntry& entry) {
  const std::string what = "commands." + entry.key;
  check_identifier(entry, "commands");
  table(entry.value, what, "as in { uniform = [-1, 1], every = 5 }");
  entry.value.allow_keys(what, {"uniform", "normal", "log_uniform", "every"});
  Command command{.name = entry.key,
                  .distribution = distribution(entry.value, what, false),
                  .every = {},
                  .where = where_of(entry.value, what)};
  if (const TomlValue* every = entry.value.find("every")) command.every = least_and_most(*every, what + ".every");
  return command;
}

NamedFormula named_value(const TomlEntry& entry) {
  const std::string what = "values." + entry.key;
  check_identifier(entry, "values");
  if (entry.value.table() == nullptr) return {entry.key, formula(entry.value, what)};
  entry.value.allow_keys(what, {"value", "start"});
  const TomlValue *value = entry.value.find("value"), *start = entry.value.find("start");
  if (value == nullptr || start == nullptr) entry.value.wrong_type(what, "value = \"...\" and start = ... in it");
  return {entry.key, formula(*value, what + ".value"), formula(*start, what + ".start")};
}

std::vector<std::pair<std::string, std::string>> attributes(const TomlValue& value, const std::string& what) {
  std::vector<std::pair<std::string, std::string>> all;
  for (const TomlEntry& entry : table(value, what, "a table")) {
    const bool* on = std::get_if<bool>(&entry.value.value);
    if (on == nullptr && entry.value.text() == nullptr && entry.value.number() == nullptr)
      entry.value.wrong_type(fmt::format("{}.{}", what, entry.key), "a string, a number or true or false");
    all.emplace_back(entry.key, on != nullptr                   ? (*on ? "true" : "false")
                                : entry.value.text() != nullptr ? *entry.value.text()
                                                                : fmt::format("{}", *entry.value.number()));
  }
  return all;
}

ModelSettings model_settings(const TomlValue& value) {
  ModelSettings model;
  if (value.table() == nullptr) {
    if (value.text() == nullptr)
      value.wrong_type("model", "the name of a file, or a table: [model], file = \"robot.urdf\"");
    model.file = *value.text(), model.where = where_of(value, "model");
    return model;
  }
  value.allow_keys("[model]", {"file", "meshes", "packages", "leave_out", "compiler", "option", "base_height", "floor",
                               "mend_inertia"});
  for (const TomlEntry& entry : *value.table()) {
    const std::string what = "model." + entry.key;
    if (entry.key == "file") {
      const Formula file = name(entry.value, what);
      model.file = file.text, model.where = file.where;
    } else if (entry.key == "meshes") {
      model.meshes = name(entry.value, what);
    } else if (entry.key == "packages") {
      for (const TomlEntry& package : table(entry.value, what, "a table of folders: packages = { my_robot = \"..\" }"))
        model.packages.emplace_back(package.key, name(package.value, fmt::format("{}.{}", what, package.key)));
    } else if (entry.key == "leave_out") {
      model.leave_out = names(entry.value, what);
    } else if (entry.key == "compiler") {
      model.compiler = attributes(entry.value, what);
    } else if (entry.key == "option") {
      model.option = attributes(entry.value, what);
    } else if (entry.key == "base_height") {
      model.base_height = number(entry.value, what, -1e6, 1e6);
    } else {
      const bool* on = std::get_if<bool>(&entry.value.value);
      if (on == nullptr) entry.value.wrong_type(what, "true or false");
      (entry.key == "floor" ? model.floor : model.mend_inertia) = *on;
    }
  }
  return model;
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
    for (const TomlEntry& entry : entries) task.values.push_back(named_value(entry));
  } else if (key == "commands") {
    for (const TomlEntry& entry : entries) task.commands.push_back(command(entry));
  } else if (key == "observation") {
    value.allow_keys("[observation]", {"terms"});
    const TomlValue* terms = value.find("terms");
    if (terms == nullptr || terms->array() == nullptr) value.wrong_type("observation", "terms = [...] in it");
    for (const TomlValue& term : *terms->array())
      task.observation.push_back(observation_term(term, fmt::format("observation.terms[{}]", task.observation.size())));
  } else if (key == "action") {
    for (const TomlEntry& entry : entries) read_action(task.action, entry);
  } else if (key == "pose") {
    for (const TomlEntry& entry : entries) task.pose.push_back(pose_entry(entry));
  } else if (key == "reward") {
    for (const TomlEntry& entry : entries) task.reward.push_back(reward_term(entry));
  } else if (key == "info") {
    for (const TomlEntry& entry : entries) {
      check_identifier(entry, key);
      task.info.push_back({entry.key, formula(entry.value, "info." + entry.key)});
    }
  } else if (key == "termination") {
    value.allow_keys("[termination]", {"when"});
    if (const TomlValue* when = value.find("when")) task.terminated = formula(*when, "termination.when");
  } else if (key == "reset") {
    for (const TomlEntry& entry : entries) {
      if (entry.key == "keyframe")
        task.keyframe = name(entry.value, "reset.keyframe");
      else if (is_joint_noise(entry.key))
        task.noise.push_back(joint_noise(entry, key));
      else
        fail(Exit::usage, "unknown-key",
             "{}: [reset] has no {}; it takes keyframe, qpos, qvel, \"qpos:JOINT\" and \"qvel:JOINT\"", entry.place,
             entry.key);
    }
  } else if (key == "push") {
    const TomlValue* every = value.find("every");
    if (every == nullptr) value.wrong_type("push", "every = SECONDS in it");
    task.pushes.emplace(Pushes{least_and_most(*every, "push.every"), {}});
    for (const TomlEntry& entry : entries) {
      if (entry.key == "every") continue;
      if (!is_joint_noise(entry.key) || !entry.key.starts_with("qvel"))
        fail(Exit::usage, "unknown-key", "{}: [push] has no {}; it takes every, qvel and \"qvel:JOINT\"", entry.place,
             entry.key);
      task.pushes->noise.push_back(joint_noise(entry, key));
    }
  } else {
    for (const TomlEntry& entry : entries) task.randomize.push_back(randomized(entry));
  }
}

}  // namespace

bool fits(std::string_view pattern, std::string_view name) {
  size_t p = 0, n = 0, star = std::string_view::npos, retry = 0;
  while (n < name.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++, retry = n;
    } else if (p < pattern.size() && pattern[p] == name[n]) {
      ++p, ++n;
    } else {
      if (star == std::string_view::npos) return false;
      p = star + 1, n = ++retry;
    }
  }
  while (p < pattern.size() && pattern[p] == '*') ++p;
  return p == pattern.size();
}

TaskFile read_task(std::string_view text, std::string_view file) {
  const TomlValue root = read_toml(text, file);
  root.allow_keys("a task",
                  {"model", "frame_skip", "max_episode_steps", "reward_threshold", "options", "values", "commands",
                   "observation", "action", "pose", "reward", "info", "termination", "reset", "push", "randomize"});
  TaskFile task;
  for (const TomlEntry& entry : *root.table()) {
    if (entry.key == "model") {
      task.model = model_settings(entry.value);
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
  required(!task.model.file.empty(), "a model: model = \"robot.xml\"");
  required(!task.observation.empty(), "observations: [observation], terms = [\"qpos\", \"qvel\"]");
  required(!task.reward.empty(), "a reward: [reward], NAME = \"...\"");
  return task;
}

}  // namespace myriad
