#include "algorithms/ops/gae.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

namespace myriad {

void compute_gae(const Trajectories& x, double gamma, double lambda, std::span<float> advantages,
                 std::span<float> value_targets) {
  const size_t rows = x.steps * x.environments;
  check(advantages.size() == rows && value_targets.size() == rows, "GAE writes {} steps, got room for {} and {}", rows,
        advantages.size(), value_targets.size());
  std::vector<double> next_advantage(x.environments, 0.0);
  walk_back("GAE", x, [&](size_t i, size_t env, double next_value, bool ended) {
    const double delta = x.rewards[i] + gamma * next_value - x.values[i];
    next_advantage[env] = delta + (ended ? 0.0 : gamma * lambda * next_advantage[env]);
    advantages[i] = static_cast<float>(next_advantage[env]);
    value_targets[i] = static_cast<float>(next_advantage[env] + x.values[i]);
  });
}

double explained_variance(std::span<const float> targets, std::span<const float> predictions) {
  check(targets.size() == predictions.size() && !targets.empty(), "explained variance of {} targets and {} predictions",
        targets.size(), predictions.size());
  return value_fit(targets, predictions).explained_variance();
}

ValueFit value_fit(std::span<const float> targets, std::span<const float> values, const SumOverGroup& sum) {
  const auto [target, residual] = moments_of<2>(
      targets.size(),
      [&](size_t i) {
        return std::array{double{targets[i]}, double{targets[i]} - double{values[i]}};
      },
      sum);
  return {target, residual};
}

void standardise(std::span<float> values, const Moments& moments) {
  const double scale = 1.0 / std::max(std::sqrt(moments.variance()), 1e-4);
  for (float& v : values) v = static_cast<float>((v - moments.mean) * scale);
}

void standardise(std::span<float> values) {
  standardise(values, moments_of<1>(values.size(), [&](size_t i) { return std::array{double{values[i]}}; })[0]);
}

}  // namespace myriad
