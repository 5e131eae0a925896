#include "rl/config/printer.hpp"

#include "rl/check.hpp"
#include "rl/config/groups.hpp"
#include "rl/config/toml_text.hpp"

namespace myriad {
namespace {

/// [plugins] is the driver's to write.
bool is_shown(const Config& config, std::string_view group) { return group != "plugins" || !config.plugins.empty(); }

}  // namespace

bool zero_is_auto(const SettingInfo& info) { return info.key == "rollout_fragment_length"; }

void Printer::visit(const SettingInfo& info, bool& value) { sink_(info, "boolean", value ? "true" : "false"); }

void Printer::visit(const SettingInfo& info, int64_t& value) {
  if (zero_is_auto(info))
    sink_(info, "integer or \"auto\"", value == 0 ? "\"auto\"" : fmt::format("{}", value));
  else
    sink_(info, "integer", fmt::format("{}", value));
}

void Printer::visit(const SettingInfo& info, double& value) { sink_(info, "number", spell(value)); }

void Printer::visit(const SettingInfo& info, std::string& value) {
  sink_(info, info.choices.empty() ? "string" : fmt::format("{}", fmt::join(info.choices, " | ")), quote(value));
}

void Printer::visit(const SettingInfo& info, std::vector<int>& value) {
  sink_(info, "list of integers", fmt::format("[{}]", fmt::join(value, ", ")));
}

void Printer::visit(const SettingInfo& info, std::vector<std::vector<int>>& value) {
  std::vector<std::string> lists;
  for (const std::vector<int>& list : value) lists.push_back(fmt::format("[{}]", fmt::join(list, ", ")));
  sink_(info, "list of lists of integers", fmt::format("[{}]", fmt::join(lists, ", ")));
}

void Printer::visit(const SettingInfo& info, std::vector<std::string>& value) {
  std::vector<std::string> quoted;
  for (const std::string& text : value) quoted.push_back(quote(text));
  sink_(info, "list of strings", fmt::format("[{}]", fmt::join(quoted, ", ")));
}

void Printer::visit(const SettingInfo& info, Schedule& value) {
  sink_(info, "number or [[env steps, value], ...]", spell(value));
}

void Printer::visit(const SettingInfo& info, std::optional<double>& value) {
  // Spelled out, not left out: an algorithm may have the setting on by default.
  sink_(info, "number or \"off\"", value ? spell(*value) : "\"off\"");
}

void Printer::visit(const SettingInfo& info, EnvOptions& value) { sink_(info, "table of numbers", spell_table(value)); }

void Printer::visit(const SettingInfo& info, OptionSchedules& value) {
  sink_(info, "table of [[env steps, value], ...]", spell_table(value));
}

void Printer::visit(const SettingInfo& info, OptionRanges& value) {
  sink_(info, "table of numbers or [low, high]", spell_table(value));
}

void Printer::visit(const SettingInfo& info, std::vector<OptionRanges>& value) {
  std::vector<std::string> tables;
  for (const OptionRanges& table : value) tables.push_back(spell_table(table));
  sink_(info, "list of tables of numbers or [low, high]", fmt::format("[{}]", fmt::join(tables, ", ")));
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
