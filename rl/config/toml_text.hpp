// The spelling of values in TOML, as files are written and as messages repeat what they got.
#pragma once

#include <string>
#include <string_view>

#include "rl/check.hpp"
#include "rl/config.hpp"

namespace myriad {

/// The shortest text that reads back as the same double, as a TOML float: "1.0", "0.001", "inf".
std::string spell(double value);
std::string spell(const Schedule& schedule);  ///< "0.001", or "[[0, 0.001], [1000, 0.0]]"
std::string spell(const OptionRange& range);  ///< "0.5", or "[0.5, 1.5]"
std::string spell_key(std::string_view key);  ///< bare where TOML allows it, else quoted
std::string quote(std::string_view text);     ///< a basic string

/// An inline table: "{ length = 0.5, mass = 1.0 }".
template <class Map>
std::string spell_table(const Map& map) {
  std::string text;
  for (const auto& [name, value] : map)
    text += fmt::format("{}{} = {}", text.empty() ? "" : ", ", spell_key(name), spell(value));
  return map.empty() ? "{}" : fmt::format("{{ {} }}", text);
}

/// "training.lr"; a setting at the top has no group.
std::string full_name(std::string_view group, std::string_view key);

/// With spaces in place of line ends: a message is one line.
std::string one_line(std::string_view text);

}  // namespace myriad
