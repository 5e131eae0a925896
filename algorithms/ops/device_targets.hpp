// Value targets in torch's operators, for any device: the same as gae.hpp and vtrace.hpp over time-major tensors.
//
//   x[t] = d[t] + c[t] x[t+1]
//
// is a scan over affine maps (Blelloch 1990, "Prefix Sums and Their Applications"): log2(T) steps over whole tensors in
// place of T small ones. Nothing here waits for the device or brings numbers from the host, so that all of it can be
// recorded in a CUDA graph. Float32, where the CPU's walk sums in float64.
#pragma once

#include <ATen/core/Tensor.h>

#include "algorithms/ops/vtrace.hpp"
#include "learners/algorithm.hpp"

namespace myriad {

/// x[T] = 0, x[t] = d[t] + c[t] x[t+1].
at::Tensor backward_scan(const at::Tensor& d, const at::Tensor& c);  // [T, N] each -> [T, N]

/// What targets are computed from; Trajectories as tensors.
struct DeviceTrajectories {
  at::Tensor rewards;       // [T, N]    R_{t+1}
  at::Tensor terminated;    // [T, N]    bool: S_{t+1} is terminal
  at::Tensor truncated;     // [T, N]    bool: S_{t+1} ended its episode by the time limit
  at::Tensor final_index;   // [T, N]    of final_values, where truncated and not terminated
  at::Tensor values;        // [T+1, N]  V(obs[t]), without autograd
  at::Tensor final_values;  // [C]       V(final_obs); rows that no index names may hold anything; C > 0
};

/// The columns of `minibatch` with the values of its obs rows [(T+1) * N + C].
DeviceTrajectories device_trajectories(const Columns& minibatch, const at::Tensor& values);

struct DeviceTargets {
  at::Tensor values, advantages;  // [T, N]
};
DeviceTargets device_gae(const DeviceTrajectories& x, double gamma, double lambda);
DeviceTargets device_vtrace(const DeviceTrajectories& x, const at::Tensor& ratios,  // [T, N]  w
                            double gamma, const VtraceSettings& settings);

/// Of the rows of a matrix, over the whole group; a shard may have no columns. In two passes, as moments_of().
struct DeviceMoments {
  at::Tensor count;     // []   of numbers in a row
  at::Tensor mean, m2;  // [k]  m2: sum of squared deviations
};
DeviceMoments device_moments(const at::Tensor& rows, const DeviceSum& sum);  // [k, n]

/// 1 - residuals / targets, sums of squared deviations both, at least -1; 0 where the targets do not vary.
at::Tensor device_explained_variance(const at::Tensor& targets, const at::Tensor& residuals);  // [] each

/// GAE over a batch whose values are filled, perhaps over no environments, and what is true of the whole group's.
struct GaeOfBatch {
  GaeOfBatch(const TensorBatch& batch, double gamma, double lambda, const DeviceSum& sum);
  at::Tensor advantages, targets;       // [T, N]
  at::Tensor mean_advantage, variance;  // []  of the advantages
  at::Tensor explained_variance;        // []  of the targets by the values
};

/// ValueFit::numbers() of one minibatch, as Loss::fit has them.
at::Tensor device_fit(const at::Tensor& targets, const at::Tensor& values);  // [n] each -> [5]

}  // namespace myriad
