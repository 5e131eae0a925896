// Trajectories: what value targets are computed from, and the one walk over them that knows terminations, time limits
// and cuts. Pure, without torch.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "rl/check.hpp"

namespace myriad {

/// T steps of N environments, side by side.
struct Trajectories {
  size_t steps = 0, environments = 0;
  std::span<const float> rewards;        // [T, N]    R_{t+1}
  std::span<const uint8_t> terminateds;  // [T, N]    S_{t+1} is terminal
  std::span<const uint8_t> truncateds;   // [T, N]    S_{t+1} ended its episode by the time limit
  std::span<const float> values;         // [T+1, N]  V(obs[t])
  std::span<const float> final_values;   // [F]       V(final_obs), time-major over truncated and not terminated steps
};

/// Calls `step(i, environment, V_next, ended)` for i = T*N - 1 ... 0, where
/// V_next[t] = (1 - terminated) * (truncated ? V(final_obs) : V(obs[t+1])), and `ended` says that what follows row i in
/// its column belongs to another episode. Throws Error when shapes do not fit; `name` says whose.
template <class Step>
void walk_back(std::string_view name, const Trajectories& x, Step step) {
  const size_t n = x.environments, rows = x.steps * n;
  check(rows > 0, "{} over {} steps of {} environments", name, x.steps, n);
  check(x.rewards.size() == rows && x.terminateds.size() == rows && x.truncateds.size() == rows,
        "{} wants {} steps, got {} rewards, {} terminateds, {} truncateds", name, rows, x.rewards.size(),
        x.terminateds.size(), x.truncateds.size());
  check(x.values.size() == rows + n, "{} wants {} values, got {}", name, rows + n, x.values.size());
  size_t final_row = x.final_values.size();  // read backwards, as the steps are
  for (size_t i = rows; i-- > 0;) {
    double next_value = x.values[i + n];
    if (x.terminateds[i]) {
      next_value = 0.0;
    } else if (x.truncateds[i]) {
      check(final_row > 0, "{} got {} final values, fewer than steps cut by the time limit", name,
            x.final_values.size());
      next_value = x.final_values[--final_row];
    }
    step(i, i % n, next_value, x.terminateds[i] || x.truncateds[i]);
  }
  check(final_row == 0, "{} got {} final values, {} more than steps cut by the time limit", name, x.final_values.size(),
        final_row);
}

}  // namespace myriad
