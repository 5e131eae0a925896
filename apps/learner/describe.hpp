// What a learner tells a driver, which has no torch, before a run: of an algorithm's plugin its facts and its network,
// of a config whether a learner can train it.
#pragma once

#include <string>

#include "rl/config.hpp"

namespace myriad {

/// Opens the library first, where the algorithm of the config `text` is a plugin.
Config load_config_with_plugin(const std::string& text, const std::string& name);

/// `--algorithm-facts PATH`, or `--module PATH` or `--trains PATH` with a run's config on standard input: answer_of()
/// to standard output, {"answer": text} or an error. PATH is the library, for messages. What it prints goes to standard
/// error. Returns main()'s exit status.
int describe(char** argv);

/// Whether these are describe()'s arguments.
bool is_description(int argc, char** argv);

}  // namespace myriad
