// Errors: one exception type, thrown by `check` and `fail`, printed once by main().
//
// A message states one fact, then what was got, what was wanted, and the next step. The code in brackets is stable
// and searchable; the exit status tells a script who has to act.
#pragma once

#include <fmt/format.h>

#include <span>
#include <stdexcept>
#include <string>
#include <string_view>

namespace myriad {

/// Exit statuses of every Myriad program.
enum class Exit : int { ok = 0, usage = 2, environment = 3, resource = 4, internal = 5, interrupted = 130 };

class Error : public std::runtime_error {
 public:
  Error(Exit exit, std::string code, const std::string& message)
      : std::runtime_error(message), exit_(exit), code_(std::move(code)) {}

  Exit exit_status() const { return exit_; }
  const std::string& code() const { return code_; }  ///< e.g. "unknown-key"

  /// The line main() prints: `error[unknown-key] message`.
  std::string line() const { return fmt::format("error[{}] {}", code_, what()); }

 private:
  Exit exit_;
  std::string code_;
};

template <class... Args>
[[noreturn]] void fail(Exit exit, std::string_view code, fmt::format_string<Args...> format, Args&&... args) {
  throw Error(exit, std::string(code), fmt::format(format, std::forward<Args>(args)...));
}

/// Throws Error("internal") unless `condition` holds: contracts between parts, shapes, corrupt in-memory state.
template <class... Args>
void check(bool condition, fmt::format_string<Args...> format, Args&&... args) {
  if (!condition) [[unlikely]]
    fail(Exit::internal, "internal", format, std::forward<Args>(args)...);
}

/// The known name closest to `name` by edit distance, or "" when none is near enough to suggest.
std::string nearest_name(std::string_view name, std::span<const std::string> known);

/// "; did you mean lr?" or, when nothing is near, "; known: a, b, c".
std::string suggestion(std::string_view name, std::span<const std::string> known);

}  // namespace myriad
