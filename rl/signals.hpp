// What asks a process to end, and what would end it by chance.
#pragma once

#include <signal.h>

#include <array>

namespace myriad {

/// A terminal, a scheduler or a limit asks a process to end.
inline constexpr std::array kEndingSignals{SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGXCPU};

/// For a process whose parent decides when it ends: schedulers signal every process of a job at once.
void ignore_ending_signals();

/// A write beyond the limit of a file's size, or to a reader that is gone, fails, and does not end the process.
void make_writes_fail();

/// A closed descriptor of 0 to 2 would be given to the next file that is opened, and what is printed would go there.
void open_standard_descriptors();

/// Whether a signal that asks to end waits for this thread, which blocks it.
bool asked_to_end();

}  // namespace myriad
