// What can go wrong with an environment, as results count it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace myriad {

enum class EnvFailure : uint8_t {
  exception,      ///< it threw
  nan,            ///< an observation or reward that is not finite
  out_of_bounds,  ///< an observation outside its space
  no_action,      ///< a mask that allows no action
  unstable,       ///< MuJoCo gave up the simulation
  simulator       ///< its process ended, was silent, or spoke nonsense
};

/// By EnvFailure: "num_env_failures/NAME".
constexpr std::array<std::string_view, 6> kEnvFailureNames{"exception", "nan",      "out_of_bounds",
                                                           "no_action", "unstable", "simulator"};

/// How many there were of each.
using EnvFailureCounts = std::array<uint32_t, kEnvFailureNames.size()>;

/// Of an error with this code.
constexpr EnvFailure failure_of(std::string_view code) {
  if (code == "nan") return EnvFailure::nan;
  if (code == "obs-bounds") return EnvFailure::out_of_bounds;
  if (code == "no-action") return EnvFailure::no_action;
  if (code == "unstable") return EnvFailure::unstable;
  for (const std::string_view gone : {"simulator-gone", "simulator-silent", "simulator-malformed"})
    if (code == gone) return EnvFailure::simulator;
  return EnvFailure::exception;
}

/// Whether the `count`-th of equal events is told: the first, tenth, hundredth, ...
constexpr bool is_told(uint64_t count) {
  uint64_t power = 1;
  while (power < count) power *= 10;
  return power == count;
}

}  // namespace myriad
