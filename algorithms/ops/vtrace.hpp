// V-trace (Espeholt et al. 2018, "IMPALA: Scalable Distributed Deep-RL with Importance Weighted Actor-Learner
// Architectures", section 4.1): targets and advantages of a policy pi from steps of a behaviour policy mu. A pure
// function over time-major arrays, shapes checked first.
#pragma once

#include <span>

#include "algorithms/ops/trajectories.hpp"

namespace myriad {

struct VtraceSettings {
  double clip_rho = 1.0;     ///< rho-bar: which policy's value the targets converge to, between mu's and pi's
  double clip_c = 1.0;       ///< c-bar: how far a TD error reaches back
  double clip_pg_rho = 1.0;  ///< of the weight in the policy gradient
  double lambda = 1.0;       ///< the paper's remark 2: 0 = one-step targets
};

/// With w = pi(a|s) / mu(a|s), rho = min(rho-bar, w), c = lambda min(c-bar, w) and V_next of walk_back():
///   vs[t] - V[t] = rho (r[t] + gamma V_next[t] - V[t]) + gamma c (vs[t+1] - V[t+1]) inside an episode
///   A[t]         = min(pg-rho-bar, w) (r[t] + gamma vs_next[t] - V[t])
/// where vs_next is vs[t+1] inside an episode, V_next[t] at its end and at the fragment's.
void compute_vtrace(const Trajectories& trajectories, std::span<const float> ratios,  // [T, N]  w
                    double gamma, const VtraceSettings& settings,
                    std::span<float> value_targets,  // [T, N]  vs
                    std::span<float> advantages);    // [T, N]  A

}  // namespace myriad
