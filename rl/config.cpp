#include "rl/config.hpp"

#include <algorithm>
#include <cctype>
#include <cmath>
#include <limits>
#include <map>
#include <utility>

#include "rl/algorithm_facts.hpp"
#include "rl/algorithm_info.hpp"
#include "rl/check.hpp"
#include "rl/toml_headers.hpp"

namespace myriad {

namespace {

/// A string setting with known values.
SettingInfo choice(std::string_view key, std::string_view meaning, std::vector<std::string> choices) {
  SettingInfo info{key, "", meaning};
  info.choices = std::move(choices);
  return info;
}

SettingInfo choice_or_plugin(std::string_view key, std::string_view meaning, std::vector<std::string> choices) {
  SettingInfo info = choice(key, meaning, std::move(choices));
  info.or_plugin = true;
  return info;
}

// ---- the settings of each group: {key, unit, meaning, low, high} ----

void top_settings(Config& config, SettingVisitor& v) {
  std::vector<std::string> names;
  for (const AlgorithmInfo& info : algorithm_infos())
    if (info.library.empty()) names.push_back(info.name);
  check(!names.empty(), "this program was linked without algorithms and cannot read a config");
  v.visit(choice_or_plugin("algorithm", "the learning algorithm; or plugin:PATH, a library of your own", names),
          config.algorithm);
  v.visit({"seed", "", "same seed, same config: the same batches", 0}, config.seed);
}

void model_settings(ModelConfig& model, SettingVisitor& v) {
  std::vector<std::string> activations;
  for (const Activation a :
       {Activation::linear, Activation::tanh, Activation::relu, Activation::silu, Activation::gelu, Activation::elu})
    activations.emplace_back(name_of(a));
  v.visit({"fcnet_hiddens", "", "sizes of the hidden layers", 1, 65536}, model.fcnet_hiddens);
  v.visit(choice("fcnet_activation", "after each hidden layer", activations), model.fcnet_activation);
  v.visit({"fcnet_use_layernorm", "", "LayerNorm before each activation"}, model.fcnet_use_layernorm);
  v.visit({"vf_share_layers", "", "policy and value share the encoder"}, model.vf_share_layers);
  v.visit(choice("action_distribution",
                 "of Box actions; auto: diag_gaussian; squashed_gaussian and beta stay within the bounds",
                 action_distribution_names()),
          model.action_distribution);
  v.visit({"free_log_std", "", "Box actions: log std is a parameter, not an output"}, model.free_log_std);
  v.visit({"log_std_init", "", "initial value of a free log std", -20, 20}, model.log_std_init);
  v.visit({"log_std_clip_param", "", "log std is clipped to +/- this", 0, 100}, model.log_std_clip_param);
  std::vector<std::string> encoders = encoder_names();
  encoders.insert(encoders.begin(), "auto");
  v.visit(
      choice_or_plugin("encoder",
                       "auto: convolutions for pictures up to 16 x 16 and from 36 x 36, mlp for everything else; or "
                       "plugin:PATH, a network of your own",
                       encoders),
      model.encoder);
  v.visit({"conv_filters", "", "[[filters, kernel, stride], ...], then fcnet_hiddens; in place of encoder", 0, 65536},
          model.conv_filters);
  v.visit(choice("conv_activation", "after each of conv_filters", activations), model.conv_activation);
  v.visit(choice("channels", "axis of a picture's channels; auto: the smallest one, where that is first or last",
                 {"auto", "first", "last"}),
          model.channels);
  v.visit({"scale_uint8", "", "bytes of a picture are taken by 1 / 255; false with a filter of observations"},
          model.scale_uint8);
  v.visit({"embedding_size", "", "of each integer of Discrete and MultiDiscrete observations; 0: one-hot as it is", 0,
           65536},
          model.embedding_size);
  v.visit({"ignored_parts", "", "parts of Dict and Tuple observations that the module does not see, by path"},
          model.ignored_parts);
  v.visit({"init_from", "", "a run or checkpoint whose parameters this run begins with"}, model.init_from);
  v.visit({"init_parts", "", "of them: encoder, pi, ...; empty: all, and the filter of observations"},
          model.init_parts);
  v.visit({"critic_only_parts", "", "parts that the value function alone sees (asymmetric actor-critic)"},
          model.critic_only_parts);
}

/// Calls f(group, list) for each group in the file's order; `list(visitor)` hands its settings to the visitor.
template <class F>
void for_each_group(Config& config, F&& f) {
  f("", [&](SettingVisitor& v) { top_settings(config, v); });
  f("environment", [&](SettingVisitor& v) { config.environment.settings(v); });
  f("curriculum", [&](SettingVisitor& v) { config.curriculum.settings(v); });
  f("env_runners", [&](SettingVisitor& v) { config.env_runners.settings(v); });
  f("hosts", [&](SettingVisitor& v) { config.hosts.settings(v); });
  f("network", [&](SettingVisitor& v) { config.network.settings(v); });
  f("training", [&](SettingVisitor& v) {
    config.training.settings(v);
    if (config.algorithm_config) config.algorithm_config->settings(v);
  });
  f("rl_module", [&](SettingVisitor& v) { model_settings(config.rl_module, v); });
  f("learners", [&](SettingVisitor& v) { config.learners.settings(v); });
  f("evaluation", [&](SettingVisitor& v) { config.evaluation.settings(v); });
  f("reporting", [&](SettingVisitor& v) { config.reporting.settings(v); });
  f("checkpointing", [&](SettingVisitor& v) { config.checkpointing.settings(v); });
  f("fault_tolerance", [&](SettingVisitor& v) { config.fault_tolerance.settings(v); });
  f("stop", [&](SettingVisitor& v) { config.stop.settings(v); });
  f("plugins", [&](SettingVisitor& v) { config.plugins.settings(v); });
}

/// [plugins] is the driver's to write.
bool is_shown(const Config& config, std::string_view group) { return group != "plugins" || !config.plugins.empty(); }

std::string full_name(std::string_view group, std::string_view key) {
  return group.empty() ? std::string(key) : fmt::format("{}.{}", group, key);
}

// ---- printing values ----

/// Shortest text that reads back as the same double, spelled as a TOML float.
std::string spell(double value) {
  std::string text = fmt::format("{}", value);
  if (std::isfinite(value) && text.find_first_of(".e") == std::string::npos) text += ".0";
  return text;
}

std::string quote(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\')
      out += {'\\', c};
    else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7F)
      out += fmt::format("\\u{:04X}", static_cast<unsigned char>(c));
    else
      out += c;
  }
  return out + '"';
}

std::string spell_key(std::string_view key) {
  const bool bare = !key.empty() && std::ranges::all_of(key, [](unsigned char c) {
    return c < 0x80 && (std::isalnum(c) != 0 || c == '_' || c == '-');
  });
  return bare ? std::string(key) : quote(key);
}

std::string spell(const Schedule& schedule) {
  if (schedule.points.size() == 1 && schedule.points[0].first == 0) return spell(schedule.points[0].second);
  std::string text;
  for (const auto& [step, value] : schedule.points)
    text += fmt::format("{}[{}, {}]", text.empty() ? "" : ", ", step, spell(value));
  return fmt::format("[{}]", text);
}

std::string spell(const OptionRange& range) {
  return range.low == range.high ? spell(range.low) : fmt::format("[{}, {}]", spell(range.low), spell(range.high));
}

/// An inline table.
template <class Map>
std::string spell_table(const Map& map) {
  std::string text;
  for (const auto& [name, value] : map)
    text += fmt::format("{}{} = {}", text.empty() ? "" : ", ", spell_key(name), spell(value));
  return map.empty() ? "{}" : fmt::format("{{ {} }}", text);
}

/// The setting whose 0 is spelled "auto" in a file.
bool zero_is_auto(const SettingInfo& info) { return info.key == "rollout_fragment_length"; }

/// Hands key, type, TOML spelling of the value and the SettingInfo of every setting to a function.
class Printer : public SettingVisitor {
 public:
  using Sink = std::function<void(const SettingInfo& info, std::string type, std::string value)>;
  explicit Printer(Sink sink) : sink_(std::move(sink)) {}

  void visit(const SettingInfo& info, bool& value) override { sink_(info, "boolean", value ? "true" : "false"); }
  void visit(const SettingInfo& info, int64_t& value) override {
    if (zero_is_auto(info))
      sink_(info, "integer or \"auto\"", value == 0 ? "\"auto\"" : fmt::format("{}", value));
    else
      sink_(info, "integer", fmt::format("{}", value));
  }
  void visit(const SettingInfo& info, double& value) override { sink_(info, "number", spell(value)); }
  void visit(const SettingInfo& info, std::string& value) override {
    sink_(info, info.choices.empty() ? "string" : fmt::format("{}", fmt::join(info.choices, " | ")), quote(value));
  }
  void visit(const SettingInfo& info, std::vector<int>& value) override {
    sink_(info, "list of integers", fmt::format("[{}]", fmt::join(value, ", ")));
  }
  void visit(const SettingInfo& info, std::vector<std::vector<int>>& value) override {
    std::vector<std::string> lists;
    for (const std::vector<int>& list : value) lists.push_back(fmt::format("[{}]", fmt::join(list, ", ")));
    sink_(info, "list of lists of integers", fmt::format("[{}]", fmt::join(lists, ", ")));
  }
  void visit(const SettingInfo& info, std::vector<std::string>& value) override {
    std::vector<std::string> quoted;
    for (const std::string& text : value) quoted.push_back(quote(text));
    sink_(info, "list of strings", fmt::format("[{}]", fmt::join(quoted, ", ")));
  }
  void visit(const SettingInfo& info, Schedule& value) override {
    sink_(info, "number or [[env steps, value], ...]", spell(value));
  }
  void visit(const SettingInfo& info, std::optional<double>& value) override {
    // Spelled out, not left out: an algorithm may have the setting on by default.
    sink_(info, "number or \"off\"", value ? spell(*value) : "\"off\"");
  }
  void visit(const SettingInfo& info, EnvOptions& value) override {
    sink_(info, "table of numbers", spell_table(value));
  }
  void visit(const SettingInfo& info, OptionSchedules& value) override {
    sink_(info, "table of [[env steps, value], ...]", spell_table(value));
  }
  void visit(const SettingInfo& info, OptionRanges& value) override {
    sink_(info, "table of numbers or [low, high]", spell_table(value));
  }
  void visit(const SettingInfo& info, std::vector<OptionRanges>& value) override {
    std::vector<std::string> tables;
    for (const OptionRanges& table : value) tables.push_back(spell_table(table));
    sink_(info, "list of tables of numbers or [low, high]", fmt::format("[{}]", fmt::join(tables, ", ")));
  }

 private:
  Sink sink_;
};

// ---- reading values ----

/// Where a table came from, for the place an error names: a file with lines, or one override.
struct Source {
  toml::table table;
  std::string name;
  bool has_lines = true;

  std::string place(const toml::source_region& region) const {
    if (!has_lines || !region.begin) return name;
    return fmt::format("{}:{}:{}", name, region.begin.line, region.begin.column);
  }
};

/// What the value is, for "got": `"fast" (string)`.
std::string describe(const toml::node& node) {
  if (const auto* value = node.as_string()) {
    const std::string& text = value->get();
    return fmt::format("{} (string)", quote(text.size() > 40 ? text.substr(0, 40) + "..." : text));
  }
  if (const auto* value = node.as_integer()) return fmt::format("{} (integer)", value->get());
  if (const auto* value = node.as_floating_point()) return fmt::format("{} (number)", spell(value->get()));
  if (const auto* value = node.as_boolean()) return fmt::format("{} (boolean)", value->get());
  if (const auto* value = node.as_array()) return fmt::format("an array of {}", value->size());
  if (node.is_table()) return "a table";
  return "a date or time";
}

std::optional<double> number_in(const toml::node& node) {
  if (const auto* value = node.as_integer()) return static_cast<double>(value->get());
  if (const auto* value = node.as_floating_point()) return value->get();
  return std::nullopt;
}

using Places = std::map<std::string, std::string>;  // "training.lr" -> where it was set

/// Reads one group's settings from one source; remembers where each was set.
class Reader : public SettingVisitor {
 public:
  Reader(const Source& source, const toml::table& table, std::string_view group, Places& places)
      : source_(source), table_(table), group_(group), places_(places) {}

  void visit(const SettingInfo& info, bool& value) override {
    if (const toml::node* node = find(info)) {
      if (!node->is_boolean()) wrong_type(*node, info, "true or false");
      value = node->as_boolean()->get();
    }
  }
  void visit(const SettingInfo& info, int64_t& value) override {
    const toml::node* node = find(info);
    if (node == nullptr) return;
    if (zero_is_auto(info) && node->is_string() && node->as_string()->get() == "auto") {
      value = 0;
      return;
    }
    const auto* real = node->as_floating_point();
    if (real != nullptr && std::abs(real->get()) < 0x1p53 && real->get() == std::trunc(real->get()))
      wrong_type(*node, info, fmt::format("an integer: {}", static_cast<int64_t>(real->get())));
    if (!node->is_integer()) wrong_type(*node, info, zero_is_auto(info) ? "an integer or \"auto\"" : "an integer");
    in_range(*node, info, static_cast<double>(node->as_integer()->get()));
    value = node->as_integer()->get();
  }
  void visit(const SettingInfo& info, double& value) override {
    if (const toml::node* node = find(info)) value = number(*node, info, "a number");
  }
  void visit(const SettingInfo& info, std::string& value) override {
    const toml::node* node = find(info);
    if (node == nullptr) return;
    if (!node->is_string()) wrong_type(*node, info, "a string");
    const std::string text = node->as_string()->get();
    const bool plugin = info.or_plugin && text.starts_with(kPluginPrefix);
    if (!info.choices.empty() && !plugin && std::ranges::find(info.choices, text) == info.choices.end())
      fail(Exit::usage, info.key == "algorithm" ? "unknown-algorithm" : "out-of-range", "{}: {} is {}{}",
           source_.place(node->source()), full_name(group_, info.key), quote(text), suggestion(text, info.choices));
    value = text;
  }
  void visit(const SettingInfo& info, std::vector<int>& value) override {
    if (const toml::node* node = find(info)) value = integers(*node, info);
  }
  void visit(const SettingInfo& info, std::vector<std::vector<int>>& value) override {
    const toml::node* node = find(info);
    if (node == nullptr) return;
    if (!node->is_array()) wrong_type(*node, info, "a list of lists of integers");
    std::vector<std::vector<int>> lists;
    for (const toml::node& item : *node->as_array()) lists.push_back(integers(item, info));
    value = std::move(lists);
  }
  void visit(const SettingInfo& info, std::vector<std::string>& value) override {
    const toml::node* node = find(info);
    if (node == nullptr) return;
    if (!node->is_array()) wrong_type(*node, info, "a list of strings");
    std::vector<std::string> texts;
    for (const toml::node& item : *node->as_array()) {
      if (!item.is_string()) wrong_type(item, info, "strings in the list");
      texts.push_back(item.as_string()->get());
    }
    value = std::move(texts);
  }
  void visit(const SettingInfo& info, Schedule& value) override {
    if (const toml::node* node = find(info)) value = schedule(*node, info);
  }
  void visit(const SettingInfo& info, std::optional<double>& value) override {
    const toml::node* node = find(info);
    if (node == nullptr) return;
    if (node->is_string() && node->as_string()->get() == "off")
      value.reset();
    else
      value = number(*node, info, "a number or \"off\"");
  }
  void visit(const SettingInfo& info, EnvOptions& value) override {
    const toml::node* node = find(info);
    if (node == nullptr) return;
    if (!node->is_table()) wrong_type(*node, info, "a table of numbers: { name = 1.0 }");
    for (const auto& [key, item] : *node->as_table()) {
      const std::string name = full_name(full_name(group_, info.key), key.str());
      if (const auto* flag = item.as_boolean()) {
        value[std::string(key.str())] = flag->get() ? 1.0 : 0.0;
        continue;
      }
      const std::optional<double> got = number_in(item);
      if (!got)
        fail(Exit::usage, "wrong-type", "{}: {} is {}, want a number or true or false", source_.place(item.source()),
             name, describe(item));
      if (!std::isfinite(*got))
        fail(Exit::usage, "out-of-range", "{}: {} is {}, want a finite number", source_.place(item.source()), name,
             describe(item));
      value[std::string(key.str())] = *got;
    }
  }
  void visit(const SettingInfo& info, OptionSchedules& value) override {
    static constexpr std::string_view kWant = "a table of schedules: { name = [[env steps, value], ...] }";
    const toml::node* node = find(info);
    if (node == nullptr) return;
    if (!node->is_table()) wrong_type(*node, info, kWant);
    for (const auto& [key, item] : *node->as_table())
      value.insert_or_assign(std::string(key.str()), schedule(item, finite(info)));
  }
  void visit(const SettingInfo& info, OptionRanges& value) override {
    const toml::node* node = find(info);
    if (node == nullptr) return;
    for (const auto& [name, range] : ranges(*node, info)) value[name] = range;
  }
  void visit(const SettingInfo& info, std::vector<OptionRanges>& value) override {
    const toml::node* node = find(info);
    if (node == nullptr) return;
    if (!node->is_array()) wrong_type(*node, info, "a list of tables: [{ name = 1.0 }, ...]");
    value.clear();
    for (const toml::node& item : *node->as_array()) value.push_back(ranges(item, info));
  }

 private:
  /// What an environment's option may be: no infinity.
  static SettingInfo finite(SettingInfo info) {
    info.low = std::numeric_limits<double>::lowest();
    info.high = std::numeric_limits<double>::max();
    return info;
  }

  std::vector<int> integers(const toml::node& node, const SettingInfo& info) {
    if (!node.is_array()) wrong_type(node, info, "a list of integers");
    std::vector<int> items;
    for (const toml::node& item : *node.as_array()) {
      if (!item.is_integer()) wrong_type(item, info, "integers in the list");
      const int64_t n = item.as_integer()->get();
      in_range(item, info, static_cast<double>(n));
      if (!std::in_range<int>(n)) out_of_range(item, info, "a 32-bit integer");
      items.push_back(static_cast<int>(n));
    }
    return items;
  }

  Schedule schedule(const toml::node& node, const SettingInfo& info) {
    static constexpr std::string_view kWant = "a number or [[env steps, value], ...]";
    if (!node.is_array()) return number(node, info, kWant);
    std::vector<std::pair<double, double>> points;
    for (const toml::node& item : *node.as_array()) {
      const toml::array* pair = item.as_array();
      if (pair == nullptr || pair->size() != 2 || !number_in((*pair)[0])) wrong_type(item, info, kWant);
      const double step = *number_in((*pair)[0]);
      if (!std::isfinite(step) || step < 0 || (!points.empty() && step <= points.back().first))
        out_of_range(item, info, "env steps that start at 0 or more and ascend");
      points.emplace_back(step, number((*pair)[1], info, kWant));
    }
    if (points.empty()) wrong_type(node, info, kWant);
    return Schedule(std::move(points));
  }

  OptionRanges ranges(const toml::node& node, const SettingInfo& info) {
    static constexpr std::string_view kWant = "a number or [low, high]";
    if (!node.is_table()) wrong_type(node, info, "a table: { name = 1.0, other = [low, high] }");
    OptionRanges ranges;
    for (const auto& [key, item] : *node.as_table()) {
      OptionRange& range = ranges[std::string(key.str())];
      if (const toml::array* pair = item.as_array()) {
        if (pair->size() != 2) wrong_type(item, info, kWant);
        range = {number((*pair)[0], finite(info), kWant), number((*pair)[1], finite(info), kWant)};
        if (range.low > range.high) out_of_range(item, info, "low at most high");
      } else {
        range.low = range.high = number(item, finite(info), kWant);
      }
    }
    return ranges;
  }

  const toml::node* find(const SettingInfo& info) {
    const toml::node* node = table_.get(info.key);
    if (node != nullptr) places_[full_name(group_, info.key)] = source_.place(node->source());
    return node;
  }

  double number(const toml::node& node, const SettingInfo& info, std::string_view want) {
    const std::optional<double> value = number_in(node);
    if (!value) wrong_type(node, info, want);
    in_range(node, info, *value);
    return *value;
  }

  void in_range(const toml::node& node, const SettingInfo& info, double value) {
    if (value >= info.low && value <= info.high) return;  // false for NaN
    const auto spelled = [](double bound) { return fmt::format("{}", bound); };
    if (std::isinf(info.low) && std::isinf(info.high)) out_of_range(node, info, "a number");
    if (std::isinf(info.high)) out_of_range(node, info, spelled(info.low) + " or more");
    if (std::isinf(info.low)) out_of_range(node, info, spelled(info.high) + " or less");
    out_of_range(node, info, fmt::format("{} to {}", info.low, info.high));
  }

  [[noreturn]] void wrong_type(const toml::node& node, const SettingInfo& info, std::string_view want) {
    fail(Exit::usage, "wrong-type", "{}: {} is {}, want {}", source_.place(node.source()), full_name(group_, info.key),
         describe(node), want);
  }
  [[noreturn]] void out_of_range(const toml::node& node, const SettingInfo& info, std::string_view want) {
    fail(Exit::usage, "out-of-range", "{}: {} is {}, want {}{}{}", source_.place(node.source()),
         full_name(group_, info.key), describe(node), want, info.unit.empty() ? "" : " ", info.unit);
  }

  const Source& source_;
  const toml::table& table_;
  std::string_view group_;
  Places& places_;
};

// ---- unknown keys ----

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
    {"clip_rewards", "reward_clip"},
    {"clip_reward", "reward_clip"},
    {"normalize_reward", "reward_filter"},
    {"norm_reward", "reward_filter"},
    {"total_timesteps", "num_env_steps_sampled_lifetime"},
    {"hidden_sizes", "fcnet_hiddens"},
};

using KnownKeys = std::vector<std::pair<std::string, std::vector<std::string>>>;  // group -> keys, in order

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

// ---- sources ----

std::string one_line(std::string_view text) {
  std::string line(text);
  std::ranges::replace(line, '\n', ' ');
  return line;
}

Source parse_file(std::string_view text, std::string_view name) {
  return {parse_toml(text, name), std::string(name), true};
}

/// The value of an override: TOML, or a bare word (CartPole-v1, cuda:0) as a string.
toml::table parse_value(std::string_view text, const std::string& name) {
  const auto is_word = [](unsigned char c) {
    return c < 0x80 &&
           (std::isalnum(c) != 0 || std::string_view("_-./:+@").find(static_cast<char>(c)) != std::string_view::npos);
  };
  std::string problem = "want key=value";
  try {
    toml::table table = toml::parse(fmt::format("value = {}", text));
    if (table.size() == 1) return table;
    problem = "one value only";
  } catch (const toml::parse_error& error) {
    if (!text.empty() && std::ranges::all_of(text, is_word)) return toml::table{{"value", std::string(text)}};
    problem = one_line(error.description());
  }
  fail(Exit::usage, "bad-toml", "{}: not a TOML value: {}", name, problem);
}

Source parse_override(const std::string& text) {
  Source source{{}, fmt::format("override {}", one_line(text)), false};
  const size_t equals = text.find('=');
  if (equals == std::string::npos || equals == 0)
    fail(Exit::usage, "bad-toml", "{}: want group.key=value, as in training.lr=1e-3", source.name);
  toml::table value = parse_value(std::string_view(text).substr(equals + 1), source.name);
  toml::table* table = &source.table;
  std::string_view path = std::string_view(text).substr(0, equals);
  for (size_t dot = path.find('.'); dot != std::string_view::npos; dot = path.find('.')) {
    table = table->insert_or_assign(path.substr(0, dot), toml::table{}).first->second.as_table();
    path.remove_prefix(dot + 1);
  }
  table->insert_or_assign(path, std::move(*value.get("value")));
  return source;
}

// ---- combinations ----

class Combinations {
 public:
  Combinations(const Config& config, const Places& places, std::string_view name)
      : config_(config), places_(places), name_(name) {}

  void refuse_impossible() const {
    const TrainingConfig& training = config_.training;
    if (training.minibatch_size > training.train_batch_size)
      fail(Exit::usage, "impossible", "{}: training.minibatch_size {} is more than train_batch_size {}; at most {}",
           place({"training.minibatch_size", "training.train_batch_size"}), training.minibatch_size,
           training.train_batch_size, training.train_batch_size);
    const std::vector<std::string>& modes = find_algorithm(config_.algorithm).sampling;
    if (std::find(modes.begin(), modes.end(), training.sampling) == modes.end())
      fail(Exit::usage, "impossible", "{}: training.sampling is '{}'; {} samples {}", place({"training.sampling"}),
           training.sampling, config_.algorithm, fmt::join(modes, " or "));
    // Weights are up to broadcast_interval - 1 versions old when they are first sampled with.
    if (training.max_policy_lag && *training.max_policy_lag < static_cast<double>(training.broadcast_interval - 1))
      fail(Exit::usage, "impossible",
           "{}: training.max_policy_lag {} drops every fragment with broadcast_interval {}; "
           "at least {}",
           place({"training.max_policy_lag", "training.broadcast_interval"}), *training.max_policy_lag,
           training.broadcast_interval, training.broadcast_interval - 1);
    refuse_lonely_learners();
    if (config_.num_hosts() > config_.env_runners.num_env_runners)
      fail(Exit::usage, "impossible", "{}: hosts.num_hosts {} is more than env_runners.num_env_runners {}",
           place({"hosts.num_hosts", "learners.num_learners", "env_runners.num_env_runners"}), config_.num_hosts(),
           config_.env_runners.num_env_runners);
    refuse_uneven_batch();
    const LearnersConfig& learners = config_.learners;
    if (learners.executor == "native" && (learners.shard == "gradients" || learners.shard == "parameters"))
      fail(Exit::usage, "impossible",
           "{}: learners.shard '{}' goes layer by layer; executor 'native' cannot, 'torch' can",
           place({"learners.executor", "learners.shard"}), learners.shard);
    refuse_device();
    const EnvironmentConfig& environment = config_.environment;
    if (environment.reward_sign && (environment.reward_clip || environment.reward_filter != "NoFilter"))
      fail(Exit::usage, "impossible",
           "{}: environment.reward_sign leaves nothing of reward_filter and reward_clip; take one or the others",
           place({"environment.reward_sign", "environment.reward_clip", "environment.reward_filter"}));
    const std::string& distribution = config_.rl_module.action_distribution;
    if (!environment.normalize_actions && (distribution == "squashed_gaussian" || distribution == "beta"))
      fail(Exit::usage, "impossible",
           "{}: environment.normalize_actions is false, but actions of a {} are within [-1, 1] and want to be "
           "stretched to "
           "their bounds",
           place({"environment.normalize_actions", "rl_module.action_distribution"}), distribution);
    refuse_curriculum();
    const FaultToleranceConfig& faults = config_.fault_tolerance;
    if (faults.restart_backoff_max_s < faults.restart_backoff_s)
      fail(Exit::usage, "impossible", "{}: fault_tolerance.restart_backoff_max_s {} is less than restart_backoff_s {}",
           place({"fault_tolerance.restart_backoff_max_s", "fault_tolerance.restart_backoff_s"}),
           faults.restart_backoff_max_s, faults.restart_backoff_s);
  }

 private:
  /// A learner is fed by host agents of its own, with fragments of its own.
  void refuse_lonely_learners() const {
    const int64_t learners = config_.learners.num_learners, fragments = config_.fragments_per_batch();
    if (learners > config_.num_hosts())
      fail(Exit::usage, "impossible",
           "{}: learners.num_learners {} is more than hosts.num_hosts {}: each learner has its own host agents",
           place({"learners.num_learners", "hosts.num_hosts"}), learners, config_.num_hosts());
    if (learners > fragments)
      fail(Exit::usage, "impossible",
           "{}: learners.num_learners {} is more than the {} fragments of a batch; make train_batch_size at least {}",
           place({"learners.num_learners", "training.train_batch_size"}), learners, fragments,
           learners * config_.fragment_length() * config_.env_runners.num_envs_per_env_runner);
  }

  /// A batch is a whole number of fragments, and fragments have one length.
  void refuse_uneven_batch() const {
    const EnvRunnersConfig& runners = config_.env_runners;
    const int64_t batch = config_.training.train_batch_size, steps = runners.rollout_fragment_length;
    const int64_t unit = runners.num_envs_per_env_runner * (steps == 0 ? runners.num_env_runners : steps);
    if (batch % unit == 0) return;
    const int64_t below = batch / unit * unit;
    const std::string nearest = below == 0 ? fmt::format("{}", unit) : fmt::format("{} or {}", below, below + unit);
    const std::string parts =
        steps == 0 ? fmt::format("runners {} x envs {}", runners.num_env_runners, runners.num_envs_per_env_runner)
                   : fmt::format("a fragment: envs {} x steps {}", runners.num_envs_per_env_runner, steps);
    fail(Exit::usage, "impossible", "{}: training.train_batch_size {} is not a multiple of {} ({}); nearest: {}",
         place({"training.train_batch_size", "env_runners.rollout_fragment_length",
                "env_runners.num_envs_per_env_runner", "env_runners.num_env_runners"}),
         batch, unit, parts, nearest);
  }

  void refuse_curriculum() const {
    const CurriculumConfig& curriculum = config_.curriculum;
    if (curriculum.advance_at.has_value() != !curriculum.levels.empty())
      fail(Exit::usage, "impossible", "{}: curriculum.levels and curriculum.advance_at want each other",
           place({"curriculum.levels", "curriculum.advance_at"}));
    const auto twice = [&](const std::string& option) {
      fail(Exit::usage, "impossible", "{}: {} is set by more than one of curriculum.schedules, randomize and levels",
           place({"curriculum.schedules", "curriculum.randomize", "curriculum.levels"}), option);
    };
    for (const auto& [option, range] : curriculum.randomize)
      if (curriculum.schedules.contains(option)) twice(option);
    for (const OptionRanges& level : curriculum.levels)
      for (const auto& [option, range] : level)
        if (curriculum.schedules.contains(option) || curriculum.randomize.contains(option)) twice(option);
  }

  void refuse_device() const {
    const LearnersConfig& learners = config_.learners;
    const std::string_view device = learners.device;
    const std::string_view number = device.starts_with("cuda:") ? device.substr(5) : "";
    const bool numbered =
        !number.empty() && number.size() <= 3 && number.find_first_not_of("0123456789") == std::string_view::npos;
    if (device != "cpu" && device != "cuda" && !numbered)
      fail(Exit::usage, "out-of-range", "{}: learners.device is {}, want cpu, cuda or cuda:N",
           place({"learners.device"}), quote(device));
    if (device == "cpu" && learners.autocast != "none")
      fail(Exit::usage, "impossible", "{}: learners.autocast is \"{}\", which needs a CUDA device",
           place({"learners.autocast"}), learners.autocast);
    if (device != "cuda" && learners.collective == "nccl")
      fail(Exit::usage, "impossible",
           "{}: learners.collective is \"nccl\", which wants a GPU for each learner: "
           "learners.device \"cuda\"",
           place({"learners.collective"}));
    if (device != "cpu" && learners.executor == "native")
      fail(Exit::usage, "impossible", "{}: learners.executor is \"native\", which computes on a CPU",
           place({"learners.executor", "learners.device"}));
  }

  /// Where the first of `keys` that was set at all was set.
  std::string place(std::initializer_list<const char*> keys) const {
    for (const char* key : keys)
      if (const auto found = places_.find(key); found != places_.end()) return found->second;
    return std::string(name_);
  }

  const Config& config_;
  const Places& places_;
  std::string_view name_;
};

std::vector<Source> sources_of(std::string_view text, std::string_view name,
                               const std::vector<std::string>& overrides) {
  std::vector<Source> sources;  // moved into, never copied: toml++ drops the places of copied values
  sources.push_back(parse_file(text, name));
  for (const std::string& override : overrides) sources.push_back(parse_override(override));
  return sources;
}

/// What has to be known before the other settings are.
void read_algorithm(const std::vector<Source>& sources, Config& config, Places& places) {
  for (const Source& source : sources) {
    Reader top(source, source.table, "", places);
    top_settings(config, top);
    if (const toml::table* table = source.table["plugins"].as_table()) {
      Reader plugins(source, *table, "plugins", places);
      config.plugins.settings(plugins);
    }
  }
}

void read_groups(const std::vector<Source>& sources, Config& config, Places& places) {
  const KnownKeys known = known_keys(config);
  for (const Source& source : sources) {
    refuse_unknown(source, known);
    for_each_group(config, [&](std::string_view group, const auto& list) {
      const toml::table* table = group.empty() ? &source.table : source.table[group].as_table();
      if (table == nullptr) return;
      Reader reader(source, *table, group, places);
      list(reader);
    });
  }
}

}  // namespace

double Schedule::at(double env_steps) const {
  check(!points.empty(), "a schedule has no points");
  if (env_steps <= points.front().first) return points.front().second;
  for (size_t i = 1; i < points.size(); ++i) {
    const auto& [x0, y0] = points[i - 1];
    const auto& [x1, y1] = points[i];
    if (env_steps < x1) return y0 + (y1 - y0) * (env_steps - x0) / (x1 - x0);
  }
  return points.back().second;
}

void EnvironmentConfig::settings(SettingVisitor& v) {
  v.visit({"env", "", "the environment's id: myriad envs"}, env);
  v.visit({"env_config", "", "the environment's own options"}, env_config);
  v.visit({"max_episode_steps", "env steps", "time limit; 0: the environment's own", 0, 2147483647}, max_episode_steps);
  v.visit({"normalize_actions", "", "Box actions: the policy's [-1, 1] becomes [low, high]"}, normalize_actions);
  v.visit({"clip_actions", "", "Box actions are clipped to [low, high] before the step"}, clip_actions);
  v.visit({"frame_skip", "env steps", "of one action, their rewards summed; everything else counts one", 1, 10000},
          frame_skip);
  v.visit(
      {"frame_stack", "observations", "that the policy sees, the last ones; a reset fills all with the first", 1, 1000},
      frame_stack);
  v.visit({"sticky_actions", "", "probability, each env step, that the action before is applied again", 0, 1},
          sticky_actions);
  v.visit(choice("reward_filter", "what the learner sees: first, rewards / running std of each environment's return",
                 {"NoFilter", "discounted_return_std"}),
          reward_filter);
  v.visit({"reward_scale", "", "then this factor; episode returns stay as they are", -1e9, 1e9}, reward_scale);
  v.visit({"reward_clip", "", "then clipped to +/- this", 1e-9, 1e9}, reward_clip);
  v.visit({"reward_sign", "", "the learner sees 1, 0 or -1: the reward's sign"}, reward_sign);
  v.visit(choice("observation_filter", "running normalization of observations", {"NoFilter", "MeanStdFilter"}),
          observation_filter);
  v.visit({"observation_clip", "std", "filtered observations are clipped to +/- this", 1e-6, 1e9}, observation_clip);
}

void CurriculumConfig::settings(SettingVisitor& v) {
  v.visit({"schedules", "env steps", "options of env_config over the run's env steps"}, schedules);
  v.visit({"randomize", "", "options that each episode draws uniformly: { name = [low, high] }"}, randomize);
  v.visit({"levels", "", "options by level, numbers or ranges; the first one is where a run begins"}, levels);
  v.visit({"advance_at", "", "mean return of metrics_num_episodes_for_smoothing episodes at a level that ends it"},
          advance_at);
}

void EnvRunnersConfig::settings(SettingVisitor& v) {
  v.visit({"num_env_runners", "processes", "env runners of the run", 1, 100000}, num_env_runners);
  v.visit({"num_envs_per_env_runner", "environments", "stepped together by one runner", 1, 65536},
          num_envs_per_env_runner);
  v.visit({"rollout_fragment_length", "env steps",
           "of one environment in a fragment; auto: train_batch_size / (runners x envs)", 0, 1e6},
          rollout_fragment_length);
  v.visit({"explore", "", "sample actions; false: take the most likely one"}, explore);
  v.visit({"random_actions", "", "uniform actions, whatever the policy says"}, random_actions);
  v.visit({"step_timeout_s", "s", "a runner without progress for so long is restarted", 0.1, 1e6}, step_timeout_s);
  v.visit(choice("sandbox", "of runners: default: what the kernel offers; strict: all of it, or no run",
                 {"off", "default", "strict"}),
          sandbox);
  v.visit({"sandbox_write", "", "folder in which environments may write files; empty: nowhere"}, sandbox_write);
  v.visit({"sandbox_network", "", "environments may open sockets"}, sandbox_network);
}

void TrainingConfig::settings(SettingVisitor& v) {
  v.visit({"gamma", "", "discount of future rewards", 0, 1}, gamma);
  v.visit({"lr", "", "learning rate of Adam", 0, 10}, lr);
  v.visit({"train_batch_size", "env steps", "what one update round consumes", 1, 1e9}, train_batch_size);
  v.visit({"num_epochs", "passes", "over each batch", 1, 10000}, num_epochs);
  v.visit({"minibatch_size", "env steps", "of one gradient step; 0: the whole batch", 0, 1e9}, minibatch_size);
  v.visit({"shuffle_batch_per_epoch", "", "new minibatches in every epoch"}, shuffle_batch_per_epoch);
  v.visit({"grad_clip", "", "global norm of the gradient is held to this", 1e-9, 1e9}, grad_clip);
  v.visit({"adam_epsilon", "", "Adam's epsilon", 1e-16, 1}, adam_epsilon);
  v.visit({"lr_multipliers", "", "of lr for parts of the network: { encoder = 0.1 }; 0 freezes"}, lr_multipliers);
  v.visit(choice("sampling", "sync: by rounds; lag1: the next round fills during the update; async: free",
                 {"sync", "lag1", "async"}),
          sampling);
  v.visit({"max_policy_lag", "versions", "async: older fragments are dropped, and counted", 0, 1e9}, max_policy_lag);
  v.visit({"learner_queue_size", "batches", "async: may wait for the learner; runners have credit for no more", 1, 1e6},
          learner_queue_size);
  v.visit({"broadcast_interval", "updates", "async: between published weights", 1, 1e6}, broadcast_interval);
}

void HostsConfig::settings(SettingVisitor& v) {
  v.visit({"num_hosts", "host agents", "the env runners are split evenly over them; 0: one a learner", 0, 4096},
          num_hosts);
  v.visit(choice("launcher", "who starts the agents: local: the driver, here; none: `myriad agent`, from anywhere",
                 {"local", "none"}),
          launcher);
  v.visit({"runner_memory_mib", "MiB", "limit of one runner; 0: none", 0, 1e7}, runner_memory_mib);
  v.visit({"runner_cpus", "cores", "limit of one runner; 0: none", 0, 1e5}, runner_cpus);
  v.visit({"memory_reserve", "", "share of a host's memory; below it the largest runner is stopped", 0, 0.9},
          memory_reserve);
  v.visit({"weights_fanout", "hosts", "that take their weights from one source", 1, 4096}, weights_fanout);
}

void NetworkConfig::settings(SettingVisitor& v) {
  v.visit({"bind", "", "where the run listens: ipc (this machine's files) or an address"}, bind);
  v.visit({"port", "", "of the driver; the learner takes the next one; 0: free ones", 0, 65534}, port);
  v.visit({"keys", "", "directory made by `myriad keys`; needed beyond loopback"}, keys);
}

void LearnersConfig::settings(SettingVisitor& v) {
  v.visit({"num_learners", "processes", "that share each batch; `myriad scale` changes it while they run", 1, 1024},
          num_learners);
  v.visit({"device", "", "what a learner computes on: cpu, cuda:N, or cuda: GPU i % number of GPUs for learner i"},
          device);
  v.visit(choice("executor", "who runs the module on a CPU", {"auto", "torch", "native"}), executor);
  v.visit(
      choice("autocast", "CUDA: type of the module's matrix products; parameters stay float32", {"none", "bfloat16"}),
      autocast);
  v.visit({"cuda_graph", "", "CUDA: gradient steps are recorded once and replayed"}, cuda_graph);
  v.visit({"num_threads", "threads", "of a learner; 0: the learners share the machine's cores", 0, 1024}, num_threads);
  v.visit(
      choice("collective",
             "how learners sum: auto: in shared memory where all are on one host, else gloo; nccl: gradients between "
             "GPUs, one learner each",
             {"auto", "gloo", "nccl"}),
      collective);
  v.visit(choice("shard", "what lies in parts over the learners (ZeRO); each includes those before it",
                 {"none", "optimizer", "gradients", "parameters"}),
          shard);
  v.visit({"redundancy", "", "a learner also keeps its left neighbour's part, for when that dies"}, redundancy);
  v.visit(
      {"gradient_accumulation", "parts", "of a minibatch, one after the other; the same step with less memory", 1, 1e6},
      gradient_accumulation);
}

void EvaluationConfig::settings(SettingVisitor& v) {
  v.visit({"evaluation_duration", "episodes", "of one evaluation", 1, 1e6}, evaluation_duration);
  v.visit({"explore", "", "sample actions; false: take the most likely one"}, explore);
  v.visit({"evaluate_at_end", "", "evaluate the final policy"}, evaluate_at_end);
  v.visit({"record_video", "episodes", "of an evaluation, filmed into the run's videos/", 0, 1e6}, record_video);
  v.visit({"record_episodes", "episodes", "of an evaluation, written step by step into the run's episodes/", 0, 1e6},
          record_episodes);
  v.visit({"video_width", "pixels", "of a video", 16, 4096}, video_width);
  v.visit({"video_height", "pixels", "of a video", 16, 4096}, video_height);
}

void ReportingConfig::settings(SettingVisitor& v) {
  v.visit({"metrics_num_episodes_for_smoothing", "episodes", "in the mean return", 1, 1e6},
          metrics_num_episodes_for_smoothing);
  v.visit({"min_time_s_per_iteration", "s", "async: updates of so much time make one iteration", 0, 1e6},
          min_time_s_per_iteration);
}

void CheckpointingConfig::settings(SettingVisitor& v) {
  v.visit({"checkpoint_frequency", "iterations", "between checkpoints; 0: only at the end", 0, 1e9},
          checkpoint_frequency);
  v.visit({"num_to_keep", "checkpoints", "the latest; older ones are removed", 1, 1e6}, num_to_keep);
}

void FaultToleranceConfig::settings(SettingVisitor& v) {
  v.visit({"restart_backoff_s", "s", "before the second restart in a row (the first is at once); doubles each time", 0,
           1e6},
          restart_backoff_s);
  v.visit({"restart_backoff_max_s", "s", "where the doubling ends", 0, 1e6}, restart_backoff_max_s);
  v.visit({"max_crashes_per_minute", "crashes", "of one slot; then it is quarantined", 1, 1e6}, max_crashes_per_minute);
}

void StopConfig::settings(SettingVisitor& v) {
  v.visit({"training_iteration", "iterations", "0: not a criterion", 0}, training_iteration);
  v.visit({"num_env_steps_sampled_lifetime", "env steps", "0: not a criterion", 0}, num_env_steps_sampled_lifetime);
  v.visit({"episode_return_mean", "", "stop when the mean return reaches this"}, episode_return_mean);
  v.visit({"time_total_s", "s", "0: not a criterion", 0}, time_total_s);
}

void PluginsConfig::settings(SettingVisitor& v) {
  v.visit({"algorithm", "", "what the library of `algorithm` says of itself"}, algorithm);
  v.visit({"module", "", "the network that a library made"}, module);
}

int64_t Config::fragment_length() const {
  if (env_runners.rollout_fragment_length > 0) return env_runners.rollout_fragment_length;
  return std::max<int64_t>(
      1, training.train_batch_size / (env_runners.num_env_runners * env_runners.num_envs_per_env_runner));
}

int64_t Config::fragments_per_batch() const {
  return std::max<int64_t>(1, training.train_batch_size / (fragment_length() * env_runners.num_envs_per_env_runner));
}

Config load_config(std::string_view text, std::string_view name, const std::vector<std::string>& overrides) {
  const std::vector<Source> sources = sources_of(text, name, overrides);

  // The algorithm first: it decides which settings exist and some of their defaults.
  Config config;
  Places places;
  read_algorithm(sources, config, places);
  const std::string library = plugin_path(config.algorithm);
  if (!library.empty() && !config.plugins.algorithm.empty() &&
      std::ranges::find(algorithm_infos(), library, &AlgorithmInfo::library) == algorithm_infos().end())
    register_plugin_info(info_of(config.plugins.algorithm, library));
  const AlgorithmInfo& info = find_algorithm(config.algorithm);
  config.algorithm_config = info.make_config();
  config.training.sampling = info.sampling.front();
  if (info.set_defaults) info.set_defaults(config);
  read_groups(sources, config, places);
  Combinations(config, places, name).refuse_impossible();
  return config;
}

std::string algorithm_of(std::string_view text, std::string_view name, const std::vector<std::string>& overrides) {
  Config config;
  Places places;
  read_algorithm(sources_of(text, name, overrides), config, places);
  return config.algorithm;
}

void read_settings(std::string_view text, std::string_view name, Config& config) {
  Places places;
  read_groups(sources_of(text, name, {}), config, places);
}

std::string to_toml(Config& config, bool describe) {
  std::string text;
  for_each_group(config, [&](std::string_view group, const auto& list) {
    if (!is_shown(config, group)) return;
    if (!group.empty()) text += fmt::format("\n[{}]\n", group);
    Printer printer([&](const SettingInfo& info, const std::string& type, const std::string& value) {
      const std::string line = fmt::format("{} = {}", info.key, value);
      if (!describe) {
        text += line + '\n';
        return;
      }
      const std::string unit = info.unit.empty() ? "" : fmt::format(" [{}]", info.unit);
      const std::string choices = info.choices.empty() ? "" : fmt::format(": {}", type);
      text += fmt::format("{:<42}  # {}{}{}\n", line, info.meaning, choices, unit);
    });
    list(printer);
  });
  return text;
}

std::vector<SettingRow> setting_rows(Config& config) {
  std::vector<SettingRow> rows;
  for_each_group(config, [&](std::string_view group, const auto& list) {
    if (!is_shown(config, group)) return;
    Printer printer([&](const SettingInfo& info, std::string type, std::string value) {
      rows.push_back({std::string(group), std::string(info.key), std::move(type), std::move(value),
                      std::string(info.unit), std::string(info.meaning)});
    });
    list(printer);
  });
  return rows;
}

}  // namespace myriad
