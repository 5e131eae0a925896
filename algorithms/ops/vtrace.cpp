#include "algorithms/ops/vtrace.hpp"

#include <algorithm>
#include <vector>

namespace myriad {

void compute_vtrace(const Trajectories& x, std::span<const float> ratios, double gamma, const VtraceSettings& settings,
                    std::span<float> value_targets, std::span<float> advantages) {
  const size_t rows = x.steps * x.environments;
  check(ratios.size() == rows, "V-trace wants {} ratios, got {}", rows, ratios.size());
  check(advantages.size() == rows && value_targets.size() == rows, "V-trace writes {} steps, got room for {} and {}",
        rows, value_targets.size(), advantages.size());
  std::vector<double> next_correction(x.environments, 0.0);  // vs[t+1] - V[t+1]
  walk_back("V-trace", x, [&](size_t i, size_t env, double next_value, bool ended) {
    // The ratio comes first in each min: NaN passes on, and the optimizer counts it.
    const double w = ratios[i], after = ended ? 0.0 : next_correction[env];
    const double delta = x.rewards[i] + gamma * next_value - x.values[i];
    next_correction[env] =
        std::min(w, settings.clip_rho) * delta + gamma * settings.lambda * std::min(w, settings.clip_c) * after;
    value_targets[i] = static_cast<float>(x.values[i] + next_correction[env]);
    advantages[i] = static_cast<float>(std::min(w, settings.clip_pg_rho) * (delta + gamma * after));
  });
}

}  // namespace myriad
