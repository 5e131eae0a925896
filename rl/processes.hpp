// Processes that a run's own leave behind, found by what they were started with.
//
// A simulator may start programs of its own: a game, a display, a server. Whoever their parent is by then, they carry
// the variables that the simulator was started with, and are ended with it.
#pragma once

#include <initializer_list>
#include <string>

namespace myriad {

/// SIGKILL to every process, but this one, that was started with all of these in its environment: "NAME=value", or
/// "NAME=begin*" for any value that begins so. Again until there is none; what cannot be ended is left after a second.
void end_processes_with(std::initializer_list<std::string> variables);

}  // namespace myriad
