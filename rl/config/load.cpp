// load_config(): TOML text and overrides into a Config.
#include <algorithm>
#include <cctype>

#include "rl/algorithm_facts.hpp"
#include "rl/algorithm_info.hpp"
#include "rl/check.hpp"
#include "rl/config/combinations.hpp"
#include "rl/config/groups.hpp"
#include "rl/config/reader.hpp"
#include "rl/config/toml_text.hpp"
#include "rl/config/unknown_keys.hpp"

namespace myriad {
namespace {

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
  refuse_impossible(config, places, name);
  return config;
}

std::string algorithm_of(std::string_view text, std::string_view name, const std::vector<std::string>& overrides) {
  Config config;
  Places places;
  read_algorithm(sources_of(text, name, overrides), config, places);
  return config.algorithm;
}

bool is_set(std::string_view text, std::string_view name, const std::vector<std::string>& overrides,
            std::string_view key) {
  return std::ranges::any_of(sources_of(text, name, overrides),
                             [key](const Source& source) { return static_cast<bool>(source.table.at_path(key)); });
}

void read_settings(std::string_view text, std::string_view name, Config& config) {
  Places places;
  read_groups(sources_of(text, name, {}), config, places);
}

}  // namespace myriad
