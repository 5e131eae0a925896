// Keys that no group has: refused with the nearest one, the group it belongs in, or what we call another library's
// name.
#pragma once

#include <string>
#include <utility>
#include <vector>

#include "rl/config/reader.hpp"

namespace myriad {

using KnownKeys = std::vector<std::pair<std::string, std::vector<std::string>>>;  ///< group -> keys, in order

KnownKeys known_keys(Config& config);

/// Throws Error("unknown-key"), or Error("wrong-type") where a value stands in place of a group.
void refuse_unknown(const Source& source, const KnownKeys& known);

/// What to_toml() of an earlier version wrote, without the settings that there are no longer.
std::string without_retired(std::string_view written);

}  // namespace myriad
