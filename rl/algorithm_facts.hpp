// An AlgorithmInfo as data: from it a process that does not open an algorithm's plugin has its settings, their
// defaults, its sampling modes and columns. The network is not among them: it depends on spaces and config, and
// is Config::plugins.module.
//
//   myriad-learner --algorithm-facts PATH  --facts-->  driver  --[plugins] of the run's config-->  agents, runners,
//   evaluation
#pragma once

#include <string>
#include <string_view>

#include "rl/algorithm_info.hpp"

namespace myriad {

/// JSON, one line.
std::string facts_of(const AlgorithmInfo& info);

/// The info of the plugin at `library`, without its network. Throws Error("plugin-broken") for what facts_of() does not
/// write.
AlgorithmInfo info_of(std::string_view facts, const std::string& library);

}  // namespace myriad
