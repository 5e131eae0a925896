#include "rl/config/toml_text.hpp"

#include <algorithm>
#include <cctype>
#include <cmath>

namespace myriad {

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

std::string full_name(std::string_view group, std::string_view key) {
  return group.empty() ? std::string(key) : fmt::format("{}.{}", group, key);
}

std::string one_line(std::string_view text) {
  std::string line(text);
  std::ranges::replace(line, '\n', ' ');
  return line;
}

}  // namespace myriad
