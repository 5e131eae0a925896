// Settings that are right alone and impossible together.
#pragma once

#include <string_view>

#include "rl/config/groups.hpp"

namespace myriad {

/// Throws Error("impossible"), or Error("out-of-range") for a device, with the place of the setting and the nearest
/// value that can be. `name`: the file's, for settings that were set nowhere.
void refuse_impossible(const Config& config, const Places& places, std::string_view name);

}  // namespace myriad
