// Generalised advantage estimation (Schulman et al. 2016, "High-Dimensional Continuous Control Using GAE"): pure
// functions over time-major arrays, shapes checked first.
#pragma once

#include <cstdint>
#include <span>

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

/// delta[t] = r[t] + gamma V_next[t] - V[t],  A[t] = delta[t] + gamma lambda A[t+1] inside an episode, where
/// V_next[t] = (1 - terminated) * (truncated ? V(final_obs) : V(obs[t+1])); targets = A + V.
void compute_gae(const Trajectories& trajectories, double gamma, double lambda,
                 std::span<float> advantages,      // [T, N]
                 std::span<float> value_targets);  // [T, N]

/// 1 - Var(targets - predictions) / Var(targets), at least -1; 0 where the targets do not vary.
double explained_variance(std::span<const float> targets, std::span<const float> predictions);

/// (x - mean) / max(std, 1e-4) in place, with the population's std.
void standardise(std::span<float> values);

}  // namespace myriad
