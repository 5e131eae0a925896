// The groups of a Config, each with its list of settings: rl/config.cpp.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "rl/config.hpp"

namespace myriad {

/// The settings before any [group].
void top_settings(Config& config, SettingVisitor& v);

/// Hands the settings of a group to a visitor.
using SettingList = std::function<void(SettingVisitor& v)>;

/// Calls f(group, list) for each group in the file's order; the first one, "", is the top.
void for_each_group(Config& config, const std::function<void(std::string_view group, const SettingList& list)>& f);

using Places = std::map<std::string, std::string>;  ///< "training.lr" -> where it was set: "cartpole.toml:3:9"

/// Whether a config's `text` (of file `name`) or overrides set `key`, "training.lr". Throws Error("bad-toml").
bool is_set(std::string_view text, std::string_view name, const std::vector<std::string>& overrides,
            std::string_view key);

}  // namespace myriad
