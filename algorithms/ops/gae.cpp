#include "algorithms/ops/gae.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

namespace myriad {
namespace {

struct Moments {
  double mean = 0, variance = 0;
};

template <class Value>
Moments moments(size_t count, Value value) {
  Moments m;
  for (size_t i = 0; i < count; ++i) m.mean += value(i);
  m.mean /= static_cast<double>(count);
  for (size_t i = 0; i < count; ++i) m.variance += (value(i) - m.mean) * (value(i) - m.mean);
  m.variance /= static_cast<double>(count);
  return m;
}

}  // namespace

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
  const double total = moments(targets.size(), [&](size_t i) { return double{targets[i]}; }).variance;
  const double left =
      moments(targets.size(), [&](size_t i) { return double{targets[i]} - double{predictions[i]}; }).variance;
  return total > 0.0 ? std::max(-1.0, 1.0 - left / total) : 0.0;
}

void standardise(std::span<float> values) {
  if (values.empty()) return;
  const Moments m = moments(values.size(), [&](size_t i) { return double{values[i]}; });
  const double scale = 1.0 / std::max(std::sqrt(m.variance), 1e-4);
  for (float& v : values) v = static_cast<float>((v - m.mean) * scale);
}

}  // namespace myriad
