// SharedRows: where the rows of a simulator's environments lie in the memory that it shares with Myriad
// (docs/protocol.md).
#pragma once

#include <cstddef>

namespace myriad::simulator {

/// Numbers of an episode that there is room for.
constexpr size_t kMaxNumbers = 32;

/// Offsets of the blocks; observations are first.
struct SharedRows {
  SharedRows() = default;
  SharedRows(size_t n, size_t observation, size_t action)
      : observation_bytes(observation),
        action_bytes(action),
        finals(aligned(n * observation)),
        actions(finals + aligned(n * observation)),
        rewards(actions + aligned(n * action)),
        flags(rewards + aligned(n * sizeof(double))),
        active(flags + aligned(n)),
        numbers(active + aligned(n)),
        bytes(numbers + aligned(n * kMaxNumbers * 2 * sizeof(double))) {}

  size_t observation_bytes = 0, action_bytes = 0;  ///< of a row
  size_t finals = 0, actions = 0, rewards = 0, flags = 0, active = 0, numbers = 0;
  size_t bytes = 0;  ///< of all

 private:
  static size_t aligned(size_t size) { return (size + 63) / 64 * 64; }
};

}  // namespace myriad::simulator
