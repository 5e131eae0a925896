// A ModuleSpec as JSON, for readers that are not C++: module.json of a checkpoint (docs/howto-module.md says the keys).
#pragma once

#include <string>
#include <string_view>

#include "rl/module_spec.hpp"

namespace myriad {

/// One line. Floats are written so that they read back as the same bits.
std::string to_json(const ModuleSpec& spec);

/// Throws Error("bad-module") for what is no spec: not JSON, unknown keys and kinds, missing ones, wrong types, and
/// everything that check_module refuses.
ModuleSpec module_from_json(std::string_view text);

}  // namespace myriad
