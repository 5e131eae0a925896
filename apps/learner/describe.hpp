// What a learner says of an algorithm's plugin before a run, to a driver that has no torch: its facts, its network.
#pragma once

#include <string>

#include "rl/config.hpp"

namespace myriad {

/// Opens the library first, where the algorithm of the config `text` is a plugin.
Config load_config_with_plugin(const std::string& text, const std::string& name);

/// `--algorithm-facts PATH`, or `--module` with a run's config on standard input: one JSON object to standard output,
/// {"answer": text} or {"exit", "code", "error"}. What the library prints goes to standard error. Returns main()'s
/// exit status.
int describe(int argc, char** argv);

/// Whether these are describe()'s arguments.
bool is_description(int argc, char** argv);

}  // namespace myriad
