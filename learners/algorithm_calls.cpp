#include "learners/algorithm_calls.hpp"

#include <signal.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstring>

#include "rl/check.hpp"

namespace myriad {
namespace {

constexpr std::array kSignals{SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT};

// What the handler reads.
std::atomic<bool> inside_algorithm = false;
std::array<char, 512> crash_text{};  // " in a call of NAME\n"

/// Only async-signal-safe calls. The handler is taken back before it runs, so that raise() ends the process as without
/// it.
void say_crash(int signal) {
  if (inside_algorithm) {
    constexpr std::string_view kBegin = "error[algorithm-crashed] SIG";
    const char* name = ::sigabbrev_np(signal);
    (void)!::write(STDERR_FILENO, kBegin.data(), kBegin.size());
    (void)!::write(STDERR_FILENO, name, std::strlen(name));
    (void)!::write(STDERR_FILENO, crash_text.data(), std::strlen(crash_text.data()));
  }
  ::raise(signal);
}

}  // namespace

std::string plugin_name(const AlgorithmInfo& info) {
  return info.library.empty() ? "" : fmt::format("{} of {}", info.name, info.library);
}

AlgorithmCalls::AlgorithmCalls(const AlgorithmInfo& info) : name_(plugin_name(info)) {
  if (name_.empty()) return;
  const std::string text = fmt::format(" in a call of {}", name_).substr(0, crash_text.size() - 2) + "\n";
  std::memcpy(crash_text.data(), text.c_str(), text.size() + 1);
  struct sigaction action {};
  action.sa_handler = say_crash;
  action.sa_flags = SA_RESETHAND | SA_NODEFER;
  for (const int signal : kSignals) ::sigaction(signal, &action, nullptr);
}

AlgorithmCalls::Inside::Inside() { inside_algorithm = true; }
AlgorithmCalls::Inside::~Inside() { inside_algorithm = false; }

void AlgorithmCalls::rethrow_named() const {
  try {
    throw;
  } catch (const Error& error) {
    throw Error(error.exit_status(), error.code(), fmt::format("{}: {}", name_, error.what()));
  } catch (const std::exception& error) {
    fail(Exit::environment, "algorithm-exception", "{}: {}", name_, error.what());
  } catch (...) { fail(Exit::environment, "algorithm-exception", "{} threw what is no std::exception", name_); }
}

}  // namespace myriad
