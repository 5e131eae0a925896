#include "algorithms/ops/gae.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "rl/check.hpp"

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
  const size_t n = x.environments, rows = x.steps * n;
  check(rows > 0, "GAE over {} steps of {} environments", x.steps, n);
  check(x.rewards.size() == rows && x.terminateds.size() == rows && x.truncateds.size() == rows,
        "GAE wants {} steps, got {} rewards, {} terminateds, {} truncateds", rows, x.rewards.size(),
        x.terminateds.size(), x.truncateds.size());
  check(x.values.size() == rows + n, "GAE wants {} values, got {}", rows + n, x.values.size());
  check(advantages.size() == rows && value_targets.size() == rows, "GAE writes {} steps, got room for {} and {}", rows,
        advantages.size(), value_targets.size());
  size_t final_row = x.final_values.size();  // read backwards, as the steps are
  std::vector<double> next_advantage(n, 0.0);
  for (size_t i = rows; i-- > 0;) {
    const size_t env = i % n;
    double next_value = x.values[i + n];
    if (x.terminateds[i]) {
      next_value = 0.0;
    } else if (x.truncateds[i]) {
      check(final_row > 0, "GAE got {} final values, fewer than steps cut by the time limit", x.final_values.size());
      next_value = x.final_values[--final_row];
    }
    const double delta = x.rewards[i] + gamma * next_value - x.values[i];
    const bool ended = x.terminateds[i] || x.truncateds[i];
    next_advantage[env] = delta + (ended ? 0.0 : gamma * lambda * next_advantage[env]);
    advantages[i] = static_cast<float>(next_advantage[env]);
    value_targets[i] = static_cast<float>(next_advantage[env] + x.values[i]);
  }
  check(final_row == 0, "GAE got {} final values, {} more than steps cut by the time limit", x.final_values.size(),
        final_row);
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
