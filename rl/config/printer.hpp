// Printer: the settings of a group as text: their types, and their values in TOML.
#pragma once

#include <functional>
#include <string>

#include "rl/config.hpp"

namespace myriad {

/// The setting whose 0 is spelled "auto" in a file.
bool zero_is_auto(const SettingInfo& info);

/// Hands SettingInfo, type and the TOML spelling of the value of every setting to a function.
class Printer final : public SettingVisitor {
 public:
  using Sink = std::function<void(const SettingInfo& info, std::string type, std::string value)>;
  explicit Printer(Sink sink) : sink_(std::move(sink)) {}

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
  Sink sink_;
};

}  // namespace myriad
