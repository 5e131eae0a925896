#include "rl/config/reader.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "rl/algorithm_info.hpp"
#include "rl/check.hpp"
#include "rl/config/printer.hpp"
#include "rl/config/toml_text.hpp"

namespace myriad {
namespace {

/// What an environment's option may be: no infinity.
SettingInfo finite(SettingInfo info) {
  info.low = std::numeric_limits<double>::lowest();
  info.high = std::numeric_limits<double>::max();
  return info;
}

/// For "wrong-type": a dot in a name that is not quoted makes a table of tables. "" where `item` is none.
std::string quoting_hint(std::string name, const toml::node& item) {
  const toml::node* inner = &item;
  for (; inner->is_table() && !inner->as_table()->empty(); inner = &inner->as_table()->begin()->second)
    name += fmt::format(".{}", inner->as_table()->begin()->first.str());
  return inner == &item ? "" : fmt::format("; a name with dots wants quotes: {{ {} = 1.0 }}", quote(name));
}

}  // namespace

std::string Source::place(const toml::source_region& region) const {
  if (!has_lines || !region.begin) return name;
  return fmt::format("{}:{}:{}", name, region.begin.line, region.begin.column);
}

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

void Reader::visit(const SettingInfo& info, bool& value) {
  if (const toml::node* node = find(info)) {
    if (!node->is_boolean()) wrong_type(*node, info, "true or false");
    value = node->as_boolean()->get();
  }
}

void Reader::visit(const SettingInfo& info, int64_t& value) {
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

void Reader::visit(const SettingInfo& info, double& value) {
  if (const toml::node* node = find(info)) value = number(*node, info, "a number");
}

void Reader::visit(const SettingInfo& info, std::string& value) {
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

void Reader::visit(const SettingInfo& info, std::vector<int>& value) {
  if (const toml::node* node = find(info)) value = integers(*node, info);
}

void Reader::visit(const SettingInfo& info, std::vector<std::vector<int>>& value) {
  const toml::node* node = find(info);
  if (node == nullptr) return;
  if (!node->is_array()) wrong_type(*node, info, "a list of lists of integers");
  std::vector<std::vector<int>> lists;
  for (const toml::node& item : *node->as_array()) lists.push_back(integers(item, info));
  value = std::move(lists);
}

void Reader::visit(const SettingInfo& info, std::vector<std::string>& value) {
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

void Reader::visit(const SettingInfo& info, Schedule& value) {
  if (const toml::node* node = find(info)) value = schedule(*node, info);
}

void Reader::visit(const SettingInfo& info, std::optional<double>& value) {
  const toml::node* node = find(info);
  if (node == nullptr) return;
  if (node->is_string() && node->as_string()->get() == "off")
    value.reset();
  else
    value = number(*node, info, "a number or \"off\"");
}

void Reader::visit(const SettingInfo& info, EnvOptions& value) {
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
      fail(Exit::usage, "wrong-type", "{}: {} is {}, want a number or true or false{}", source_.place(item.source()),
           name, describe(item), quoting_hint(std::string(key.str()), item));
    if (!std::isfinite(*got))
      fail(Exit::usage, "out-of-range", "{}: {} is {}, want a finite number", source_.place(item.source()), name,
           describe(item));
    value[std::string(key.str())] = *got;
  }
}

void Reader::visit(const SettingInfo& info, OptionSchedules& value) {
  static constexpr std::string_view kWant = "a table of schedules: { name = [[env steps, value], ...] }";
  const toml::node* node = find(info);
  if (node == nullptr) return;
  if (!node->is_table()) wrong_type(*node, info, kWant);
  for (const auto& [key, item] : *node->as_table())
    value.insert_or_assign(std::string(key.str()), schedule(item, finite(info)));
}

void Reader::visit(const SettingInfo& info, OptionRanges& value) {
  const toml::node* node = find(info);
  if (node == nullptr) return;
  for (const auto& [name, range] : ranges(*node, info)) value[name] = range;
}

void Reader::visit(const SettingInfo& info, std::vector<OptionRanges>& value) {
  const toml::node* node = find(info);
  if (node == nullptr) return;
  if (!node->is_array()) wrong_type(*node, info, "a list of tables: [{ name = 1.0 }, ...]");
  value.clear();
  for (const toml::node& item : *node->as_array()) value.push_back(ranges(item, info));
}

std::vector<int> Reader::integers(const toml::node& node, const SettingInfo& info) {
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

Schedule Reader::schedule(const toml::node& node, const SettingInfo& info) {
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

OptionRanges Reader::ranges(const toml::node& node, const SettingInfo& info) {
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

const toml::node* Reader::find(const SettingInfo& info) {
  const toml::node* node = table_.get(info.key);
  if (node != nullptr) places_[full_name(group_, info.key)] = source_.place(node->source());
  return node;
}

double Reader::number(const toml::node& node, const SettingInfo& info, std::string_view want) {
  const std::optional<double> value = number_in(node);
  if (!value) wrong_type(node, info, want);
  in_range(node, info, *value);
  return *value;
}

void Reader::in_range(const toml::node& node, const SettingInfo& info, double value) {
  if (value >= info.low && value <= info.high) return;  // false for NaN
  const auto spelled = [](double bound) { return fmt::format("{}", bound); };
  if (std::isinf(info.low) && std::isinf(info.high)) out_of_range(node, info, "a number");
  if (std::isinf(info.high)) out_of_range(node, info, spelled(info.low) + " or more");
  if (std::isinf(info.low)) out_of_range(node, info, spelled(info.high) + " or less");
  out_of_range(node, info, fmt::format("{} to {}", info.low, info.high));
}

void Reader::wrong_type(const toml::node& node, const SettingInfo& info, std::string_view want) {
  fail(Exit::usage, "wrong-type", "{}: {} is {}, want {}", source_.place(node.source()), full_name(group_, info.key),
       describe(node), want);
}

void Reader::out_of_range(const toml::node& node, const SettingInfo& info, std::string_view want) {
  fail(Exit::usage, "out-of-range", "{}: {} is {}, want {}{}{}", source_.place(node.source()),
       full_name(group_, info.key), describe(node), want, info.unit.empty() ? "" : " ", info.unit);
}

}  // namespace myriad
