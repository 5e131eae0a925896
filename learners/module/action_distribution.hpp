// Action distributions over a batch: log-probability, entropy and KL divergence from action_dist_inputs.
//
// `distribution_jacobian` gives all three at once with their derivatives written out (on a CPU most of a small update
// is operator dispatch), `distribution_terms` is the same as one autograd operation, and the single functions are the
// same in torch's operators, for any device.
#pragma once

#include <ATen/core/Tensor.h>

#include "rl/module_spec.hpp"

namespace myriad {

/// log p(a | inputs): inputs [n, k], actions [n, ...] int32 indices from 0 or float32 (stored_dtype).
at::Tensor log_prob(const ActionDistribution& distribution, const at::Tensor& inputs,
                    const at::Tensor& actions);  // [n]

/// H(p), differential for real actions. A squashed Gaussian's by a 16-point Gauss-Hermite rule.
at::Tensor entropy(const ActionDistribution& distribution, const at::Tensor& inputs);  // [n]

/// KL(p || q).
at::Tensor kl_divergence(const ActionDistribution& distribution, const at::Tensor& p, const at::Tensor& q);  // [n]

/// The three terms of every sample and their derivatives by the inputs, without autograd. Float32 on a CPU.
struct DistributionJacobian {
  at::Tensor terms;        // [3, n]     log p(a), H(p), KL(behaviour || p)
  at::Tensor derivatives;  // [3, n, k]
};
DistributionJacobian distribution_jacobian(const ActionDistribution& distribution, const at::Tensor& inputs,
                                           const at::Tensor& behaviour_inputs, const at::Tensor& actions);

struct DistributionTerms {
  at::Tensor logp, entropy, kl;  // [n] each
};

/// log p(a), H(p) and KL(behaviour || p), differentiable in `inputs`.
DistributionTerms distribution_terms(const ActionDistribution& distribution, const at::Tensor& inputs,
                                     const at::Tensor& behaviour_inputs, const at::Tensor& actions);

}  // namespace myriad
