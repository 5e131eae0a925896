// Reader: the settings of one group out of a TOML table, checked, with the place of each for errors.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "rl/config/groups.hpp"
#include "rl/toml_headers.hpp"

namespace myriad {

/// Where a table came from, for the place an error names: a file with lines, or one override.
struct Source {
  toml::table table;
  std::string name;
  bool has_lines = true;

  std::string place(const toml::source_region& region) const;  ///< "cartpole.toml:3:9"
};

/// A value as "got" shows it: `"fast" (string)`.
std::string describe(const toml::node& node);

/// The value of an integer or a float.
std::optional<double> number_in(const toml::node& node);

/// Reads one group's settings from one source and remembers where each was set. Throws Error("wrong-type",
/// "out-of-range", "unknown-algorithm") with the place, what was got and what is wanted.
class Reader final : public SettingVisitor {
 public:
  Reader(const Source& source, const toml::table& table, std::string_view group, Places& places)
      : source_(source), table_(table), group_(group), places_(places) {}

  void visit(const SettingInfo& info, bool& value) override;
  void visit(const SettingInfo& info, int64_t& value) override;
  void visit(const SettingInfo& info, double& value) override;
  void visit(const SettingInfo& info, std::string& value) override;
  void visit(const SettingInfo& info, std::vector<int>& value) override;
  void visit(const SettingInfo& info, std::vector<std::vector<int>>& value) override;
  void visit(const SettingInfo& info, std::vector<std::string>& value) override;
  void visit(const SettingInfo& info, Schedule& value) override;
  void visit(const SettingInfo& info, std::optional<double>& value) override;
  void visit(const SettingInfo& info, EnvOptions& value) override;
  void visit(const SettingInfo& info, OptionSchedules& value) override;
  void visit(const SettingInfo& info, OptionRanges& value) override;
  void visit(const SettingInfo& info, std::vector<OptionRanges>& value) override;

 private:
  const toml::node* find(const SettingInfo& info);
  double number(const toml::node& node, const SettingInfo& info, std::string_view want);
  std::vector<int> integers(const toml::node& node, const SettingInfo& info);
  Schedule schedule(const toml::node& node, const SettingInfo& info);
  OptionRanges ranges(const toml::node& node, const SettingInfo& info);
  void in_range(const toml::node& node, const SettingInfo& info, double value);
  [[noreturn]] void wrong_type(const toml::node& node, const SettingInfo& info, std::string_view want);
  [[noreturn]] void out_of_range(const toml::node& node, const SettingInfo& info, std::string_view want);

  const Source& source_;
  const toml::table& table_;
  std::string_view group_;
  Places& places_;
};

}  // namespace myriad
