// Generalised advantage estimation (Schulman et al. 2016, "High-Dimensional Continuous Control Using GAE"): pure
// functions over time-major arrays, shapes checked first.
#pragma once

#include <span>

#include "algorithms/ops/trajectories.hpp"
#include "learners/moments.hpp"

namespace myriad {

/// delta[t] = r[t] + gamma V_next[t] - V[t],  A[t] = delta[t] + gamma lambda A[t+1] inside an episode, with
/// V_next of walk_back(); targets = A + V.
void compute_gae(const Trajectories& trajectories, double gamma, double lambda,
                 std::span<float> advantages,      // [T, N]
                 std::span<float> value_targets);  // [T, N]

/// 1 - Var(targets - predictions) / Var(targets), at least -1; 0 where the targets do not vary.
double explained_variance(std::span<const float> targets, std::span<const float> predictions);
ValueFit value_fit(std::span<const float> targets, std::span<const float> values, const SumOverGroup& sum = {});

/// (x - mean) / max(std, 1e-4) in place, with the population's std: of `moments`, or of the values themselves.
void standardise(std::span<float> values, const Moments& moments);
void standardise(std::span<float> values);

}  // namespace myriad
