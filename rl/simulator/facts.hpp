// What simulators say of themselves before they hold an environment: their Hellos, each asked once.
//
// A start may take minutes, and driver, learners, agents and the evaluation want the same answers. The driver asks
// first; what it was told goes into the config of the run (Config::plugins.environment), where the others find it.
#pragma once

#include <functional>
#include <string>

#include "rl/environment.hpp"
#include "rl/simulator/messages.hpp"

namespace myriad::simulator {

/// The Hello of `source` with these options, as this process knows it; null where it was not told.
const HelloT* known_hello(const std::string& source, const EnvOptions& options);

/// The same, and `ask` where it is not known.
const HelloT& hello_of(const std::string& source, const EnvOptions& options, const std::function<HelloT()>& ask);

/// Takes over what another process was told: its told_facts(). Throws Error("corrupt-file").
void learn_facts(const std::string& text);

/// All that this process was told, for a config; "" where that is nothing, or too much for one.
std::string told_facts();

}  // namespace myriad::simulator
