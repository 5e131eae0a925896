#include "rl/algorithm_facts.hpp"

#include <algorithm>
#include <array>
#include <boost/json.hpp>
#include <cstdlib>
#include <set>
#include <utility>
#include <variant>

#include "rl/check.hpp"

namespace myriad {
namespace {

namespace json = boost::json;

/// A setting's value, one alternative for each door of SettingVisitor.
using Value = std::variant<bool, int64_t, double, std::string, std::vector<int>, std::vector<std::vector<int>>,
                           std::vector<std::string>, Schedule, std::optional<double>, EnvOptions, OptionSchedules,
                           OptionRanges, std::vector<OptionRanges>>;
constexpr std::array<std::string_view, std::variant_size_v<Value>> kTypes{
    "boolean",  "integer",  "number",  "string",    "integers", "lists of integers", "strings",
    "schedule", "optional", "options", "schedules", "ranges",   "list of ranges"};

constexpr std::array<std::string_view, 3> kModes{"sync", "lag1", "async"};

template <size_t I = 0>
Value value_of_type(size_t type) {
  if constexpr (I + 1 < std::variant_size_v<Value>)
    if (type != I) return value_of_type<I + 1>(type);
  return Value(std::in_place_index<I>);
}

/// A setting with the texts that its SettingInfo points to.
struct Setting {
  std::string key, unit, meaning;
  double low, high;
  std::vector<std::string> choices;
  Value value;
};

/// Settings that are known by their list alone.
struct ListedSettings final : AlgorithmConfig {
  std::vector<Setting> list;

  void settings(SettingVisitor& v) override {
    for (Setting& s : list) {
      const SettingInfo info{
          .key = s.key, .unit = s.unit, .meaning = s.meaning, .low = s.low, .high = s.high, .choices = s.choices};
      std::visit([&](auto& value) { v.visit(info, value); }, s.value);
    }
  }
  std::unique_ptr<AlgorithmConfig> clone() const override { return std::make_unique<ListedSettings>(*this); }
};

/// Writes down each setting it is shown.
class Lister final : public SettingVisitor {
 public:
  json::array list;

  void visit(const SettingInfo& info, bool& value) override { add(info, value); }
  void visit(const SettingInfo& info, int64_t& value) override { add(info, value); }
  void visit(const SettingInfo& info, double& value) override { add(info, value); }
  void visit(const SettingInfo& info, std::string& value) override { add(info, value); }
  void visit(const SettingInfo& info, std::vector<int>& value) override { add(info, value); }
  void visit(const SettingInfo& info, std::vector<std::vector<int>>& value) override { add(info, value); }
  void visit(const SettingInfo& info, std::vector<std::string>& value) override { add(info, value); }
  void visit(const SettingInfo& info, Schedule& value) override { add(info, value); }
  void visit(const SettingInfo& info, std::optional<double>& value) override { add(info, value); }
  void visit(const SettingInfo& info, EnvOptions& value) override { add(info, value); }
  void visit(const SettingInfo& info, OptionSchedules& value) override { add(info, value); }
  void visit(const SettingInfo& info, OptionRanges& value) override { add(info, value); }
  void visit(const SettingInfo& info, std::vector<OptionRanges>& value) override { add(info, value); }

 private:
  template <class T>
  void add(const SettingInfo& info, const T&) {
    list.push_back(json::object{{"key", info.key},
                                {"type", kTypes[Value(std::in_place_type<T>).index()]},
                                {"unit", info.unit},
                                {"meaning", info.meaning},
                                {"low", fmt::format("{}", info.low)},  // as text: JSON has no infinity
                                {"high", fmt::format("{}", info.high)},
                                {"choices", json::value_from(info.choices)}});
  }
};

std::string text(const json::object& object, std::string_view key) { return std::string(object.at(key).as_string()); }

std::vector<std::string> texts(const json::object& object, std::string_view key) {
  return json::value_to<std::vector<std::string>>(object.at(key));
}

double number(const json::object& object, std::string_view key) {
  return std::strtod(object.at(key).as_string().c_str(), nullptr);
}

Setting setting_from(const json::object& object) {
  const auto type = std::ranges::find(kTypes, text(object, "type"));
  if (type == kTypes.end()) throw std::runtime_error("a setting is of no known type: " + text(object, "type"));
  return {text(object, "key"),
          text(object, "unit"),
          text(object, "meaning"),
          number(object, "low"),
          number(object, "high"),
          texts(object, "choices"),
          value_of_type(static_cast<size_t>(type - kTypes.begin()))};
}

/// Its own settings and those that every algorithm has stand in one group.
void refuse_twice(const ListedSettings& settings) {
  Config config;
  config.algorithm_config = settings.clone();
  std::set<std::string> names;
  for (const SettingRow& row : setting_rows(config))
    if (!names.insert(row.group + "." + row.key).second)
      throw std::runtime_error(fmt::format("{}.{} is listed twice: call its own another name", row.group, row.key));
}

AlgorithmInfo info_from(const json::object& facts, const std::string& library) {
  ListedSettings settings;
  for (const json::value& item : facts.at("settings").as_array())
    settings.list.push_back(setting_from(item.as_object()));
  AlgorithmInfo info{
      .name = text(facts, "name"),
      .summary = text(facts, "summary"),
      .make_config = [settings] { return settings.clone(); },
      .set_defaults = [defaults = text(facts, "defaults"),
                       library](Config& config) { read_settings(defaults, "the defaults of " + library, config); },
      .sampling = texts(facts, "sampling"),
      .columns = texts(facts, "columns"),
      .module = [library](const Space&, const Space&, const Config&) -> ModuleSpec {
        fail(Exit::internal, "internal", "the network of {} was not asked", library);
      },
      .library = library};
  if (info.sampling.empty()) throw std::runtime_error("it says no sampling mode");
  for (const std::string& mode : info.sampling)
    if (std::ranges::find(kModes, mode) == kModes.end())
      throw std::runtime_error(fmt::format("it can be sampled '{}'; want {}", mode, fmt::join(kModes, ", ")));
  for (const std::string& column : info.columns)
    if (column != kLogp && column != kActionDistInputs)
      throw std::runtime_error(
          fmt::format("it wants the column {}; runners make {} and {}", column, kLogp, kActionDistInputs));
  refuse_twice(settings);
  return info;
}

}  // namespace

std::string facts_of(const AlgorithmInfo& info) {
  Config config;
  config.algorithm = info.id();
  config.algorithm_config = info.make_config();
  config.training.sampling = info.sampling.front();
  if (info.set_defaults) info.set_defaults(config);
  Lister lister;
  config.algorithm_config->settings(lister);
  return json::serialize(json::object{{"name", info.name},
                                      {"summary", info.summary},
                                      {"sampling", json::value_from(info.sampling)},
                                      {"columns", json::value_from(info.columns)},
                                      {"settings", lister.list},
                                      {"defaults", to_toml(config)}});
}

AlgorithmInfo info_of(std::string_view facts, const std::string& library) try {
  return info_from(json::parse(facts).as_object(), library);
} catch (const Error&) { throw; } catch (const std::exception& error) {
  fail(Exit::usage, "plugin-broken", "what {} says of itself: {}", library, error.what());
}

}  // namespace myriad
