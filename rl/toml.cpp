#include "rl/toml.hpp"

#include <algorithm>
#include <tuple>

#include "rl/check.hpp"
#include "rl/toml_headers.hpp"

namespace myriad {
namespace {

constexpr size_t kMaxBytes = size_t{64} << 10;  // toml++ recurses once for each dot of a key
constexpr int kMaxDepth = 64;
constexpr size_t kShownText = 40;  // characters of a string that an error repeats

std::string place_of(const toml::source_region& region, std::string_view name) {
  return fmt::format("{}:{}:{}", name, region.begin.line, region.begin.column);
}

TomlValue convert(const toml::node& node, std::string_view name, int depth = 0) {
  TomlValue result{.place = place_of(node.source(), name), .value = false};
  if (depth > kMaxDepth) fail(Exit::usage, "bad-toml", "{}: nested more than {} deep", result.place, kMaxDepth);
  if (const auto* text = node.as_string()) {
    result.value = text->get();
  } else if (const auto* integer = node.as_integer()) {
    result.value = static_cast<double>(integer->get());
  } else if (const auto* real = node.as_floating_point()) {
    result.value = real->get();
  } else if (const auto* flag = node.as_boolean()) {
    result.value = flag->get();
  } else if (const auto* items = node.as_array()) {
    auto& array = result.value.emplace<TomlValue::Array>();
    for (const toml::node& item : *items) array.push_back(convert(item, name, depth + 1));
  } else if (const auto* entries = node.as_table()) {
    std::vector<std::tuple<uint32_t, uint32_t, TomlEntry>> ordered;  // toml++ sorts keys by name
    for (const auto& [key, value] : *entries) {
      const auto& begin = key.source().begin;
      ordered.emplace_back(
          begin.line, begin.column,
          TomlEntry{std::string(key.str()), place_of(key.source(), name), convert(value, name, depth + 1)});
    }
    const auto position = [](const auto& entry) { return std::pair(std::get<0>(entry), std::get<1>(entry)); };
    std::ranges::sort(ordered, {}, position);
    auto& table = result.value.emplace<TomlValue::Table>();
    for (auto& [line, column, entry] : ordered) table.push_back(std::move(entry));
  } else {
    fail(Exit::usage, "wrong-type", "{}: dates and times mean nothing here", result.place);
  }
  return result;
}

}  // namespace

std::string TomlValue::describe() const {
  if (const auto* flag = std::get_if<bool>(&value)) return *flag ? "true" : "false";
  if (number() != nullptr) return fmt::format("{}", *number());
  if (text() != nullptr)
    return fmt::format("\"{}\" (string)",
                       text()->size() > kShownText ? text()->substr(0, kShownText) + "..." : *text());
  if (array() != nullptr) return fmt::format("an array of {}", array()->size());
  return "a table";
}

const TomlValue* TomlValue::find(std::string_view key) const {
  check(table() != nullptr, "{}: no table", place);
  const auto found = std::ranges::find(*table(), key, &TomlEntry::key);
  return found == table()->end() ? nullptr : &found->value;
}

void TomlValue::allow_keys(std::string_view where, const std::vector<std::string>& known) const {
  check(table() != nullptr, "{}: no table", place);
  for (const TomlEntry& entry : *table())
    if (std::ranges::find(known, entry.key) == known.end())
      fail(Exit::usage, "unknown-key", "{}: {} has no {}{}", entry.place, where, entry.key,
           suggestion(entry.key, known));
}

void TomlValue::wrong_type(std::string_view what, std::string_view want) const {
  fail(Exit::usage, "wrong-type", "{}: {} is {}, want {}", place, what, describe(), want);
}

toml::table parse_toml(std::string_view text, std::string_view name) {
  if (text.size() > kMaxBytes)
    fail(Exit::usage, "bad-toml", "{} has {} bytes; at most {}", name, text.size(), kMaxBytes);
  try {
    return toml::parse(text, std::string(name));
  } catch (const toml::parse_error& error) {
    std::string problem(error.description());
    std::ranges::replace(problem, '\n', ' ');
    fail(Exit::usage, "bad-toml", "{}:{}:{}: not TOML: {}", name, error.source().begin.line,
         error.source().begin.column, problem);
  }
}

TomlValue read_toml(std::string_view text, std::string_view name) { return convert(parse_toml(text, name), name); }

}  // namespace myriad
