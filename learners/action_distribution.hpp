// Action distributions over a batch: log-probability, entropy and KL divergence from action_dist_inputs.
//
// `distribution_terms` gives all three at once as one autograd operation with its derivatives written out (on a CPU most
// of a small update is operator dispatch); the single functions are the same in torch's operators, for any device.
#pragma once

#include <ATen/core/Tensor.h>

#include "rl/module_spec.hpp"

namespace myriad {

/// log p(a | inputs): inputs [n, k], actions [n, ...] int32 indices from 0 or float32.
at::Tensor log_prob(const ActionDistribution& distribution, const at::Tensor& inputs, const at::Tensor& actions);  // [n]

/// H(p), differential for a Gaussian.
at::Tensor entropy(const ActionDistribution& distribution, const at::Tensor& inputs);  // [n]

/// KL(p || q).
at::Tensor kl_divergence(const ActionDistribution& distribution, const at::Tensor& p, const at::Tensor& q);  // [n]

struct DistributionTerms {
  at::Tensor logp, entropy, kl;  // [n] each
};

/// log p(a), H(p) and KL(behaviour || p), differentiable in `inputs`. Float32 on a CPU.
DistributionTerms distribution_terms(const ActionDistribution& distribution, const at::Tensor& inputs,
                                     const at::Tensor& behaviour_inputs, const at::Tensor& actions);

}  // namespace myriad
