#include "learners/module/action_distribution.hpp"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cmath>
#include <numbers>

#include "rl/check.hpp"
#include "rl/overloaded.hpp"

namespace myriad {
namespace {

const double kHalfLog2Pi = 0.5 * std::log(2.0 * std::numbers::pi);

/// Sums `term(group's columns, i)` over a MultiCategorical's groups.
template <class Term>
at::Tensor sum_groups(const MultiCategorical& d, Term term) {
  at::Tensor sum;
  int64_t start = 0;
  for (size_t i = 0; i < d.nvec.size(); ++i) {
    const at::Tensor part = term(start, d.nvec[i], static_cast<int64_t>(i));
    sum = sum.defined() ? sum + part : part;
    start += d.nvec[i];
  }
  return sum;
}

at::Tensor categorical_log_prob(const at::Tensor& logits, const at::Tensor& actions) {
  return at::log_softmax(logits, 1).gather(1, actions.reshape({-1, 1}).to(at::kLong)).squeeze(1);
}
at::Tensor categorical_entropy(const at::Tensor& logits) {
  const at::Tensor log_p = at::log_softmax(logits, 1);
  return -(log_p.exp() * log_p).sum(1);
}
at::Tensor categorical_kl(const at::Tensor& p, const at::Tensor& q) {
  const at::Tensor log_p = at::log_softmax(p, 1);
  return (log_p.exp() * (log_p - at::log_softmax(q, 1))).sum(1);
}

/// One sample's terms, and their derivatives by the inputs where `jacobian` is given: rows logp, entropy, kl of [k]
/// each.
struct SampleTerms {
  float logp = 0, entropy = 0, kl = 0;
};

void categorical_terms(int n, const float* logits, const float* behaviour, int32_t action, SampleTerms& out,
                       float* d_logp, float* d_entropy, float* d_kl) {
  const auto log_sum_exp = [n](const float* x) {
    float top = x[0], sum = 0;
    for (int j = 1; j < n; ++j) top = std::max(top, x[j]);
    for (int j = 0; j < n; ++j) sum += std::exp(x[j] - top);
    return top + std::log(sum);
  };
  const float norm = log_sum_exp(logits), behaviour_norm = log_sum_exp(behaviour);
  float h = 0;
  for (int j = 0; j < n; ++j) {
    const float log_p = logits[j] - norm, log_q = behaviour[j] - behaviour_norm;
    const float p = std::exp(log_p), q = std::exp(log_q);
    h -= p * log_p;
    out.kl += q * (log_q - log_p);
    d_logp[j] = (j == action ? 1.0f : 0.0f) - p;
    d_kl[j] = p - q;
    d_entropy[j] = p;  // completed below, once H is known
  }
  for (int j = 0; j < n; ++j) d_entropy[j] *= -(logits[j] - norm + h);
  out.logp += logits[action] - norm;
  out.entropy += h;
}

void gaussian_terms(int n, const float* inputs, const float* behaviour, const float* action, SampleTerms& out,
                    float* d_logp, float* d_entropy, float* d_kl) {
  const float half_log_2pi = static_cast<float>(kHalfLog2Pi);
  for (int j = 0; j < n; ++j) {
    const float log_std = inputs[n + j], precision = std::exp(-2.0f * log_std), apart = action[j] - inputs[j];
    const float z2 = apart * apart * precision, between = inputs[j] - behaviour[j];
    const float spread = (std::exp(2.0f * behaviour[n + j]) + between * between) * precision;
    out.logp -= 0.5f * z2 + log_std + half_log_2pi;
    out.entropy += log_std + 0.5f + half_log_2pi;
    out.kl += log_std - behaviour[n + j] + 0.5f * spread - 0.5f;
    d_logp[j] = apart * precision;
    d_logp[n + j] = z2 - 1.0f;
    d_entropy[j] = 0.0f;
    d_entropy[n + j] = 1.0f;
    d_kl[j] = between * precision;
    d_kl[n + j] = 1.0f - spread;
  }
}

/// Q-values say which action is the best one, and no probabilities: those are epsilon's.
[[noreturn]] void no_probabilities() {
  fail(Exit::internal, "internal",
       "a loss of log probabilities, entropy or KL got an epsilon-greedy policy's Q-values");
}

struct TermsFunction : torch::autograd::Function<TermsFunction> {
  using Context = torch::autograd::AutogradContext;
  using List = torch::autograd::variable_list;

  static List forward(Context* context, const at::Tensor& inputs, const ActionDistribution* distribution,
                      const at::Tensor& behaviour, const at::Tensor& actions) {
    context->set_materialize_grads(false);  // a term the loss leaves out costs nothing
    const DistributionJacobian j = distribution_jacobian(*distribution, inputs, behaviour, actions);
    context->saved_data["jacobian"] = j.derivatives;
    return {j.terms.select(0, 0), j.terms.select(0, 1), j.terms.select(0, 2)};
  }

  static List backward(Context* context, List gradients) {
    const at::Tensor jacobian = context->saved_data["jacobian"].toTensor();
    const int64_t n = jacobian.size(1), k = jacobian.size(2);
    at::Tensor d_inputs = at::zeros({n, k}, jacobian.options());
    float* out = d_inputs.mutable_data_ptr<float>();
    for (size_t term = 0; term < 3; ++term) {
      if (!gradients[term].defined()) continue;
      const at::Tensor weights = gradients[term].contiguous();
      const float* w = weights.const_data_ptr<float>();
      const float* d = jacobian.const_data_ptr<float>() + static_cast<int64_t>(term) * n * k;
      for (int64_t i = 0; i < n; ++i)
        for (int64_t j = 0; j < k; ++j) out[i * k + j] += w[i] * d[i * k + j];
    }
    return {d_inputs, at::Tensor(), at::Tensor(), at::Tensor()};
  }
};

}  // namespace

at::Tensor log_prob(const ActionDistribution& distribution, const at::Tensor& inputs, const at::Tensor& actions) {
  return std::visit(Overloaded{[&](const Categorical&) { return categorical_log_prob(inputs, actions); },
                               [&](const MultiCategorical& d) {
                                 return sum_groups(d, [&](int64_t start, int64_t n, int64_t i) {
                                   return categorical_log_prob(inputs.narrow(1, start, n), actions.select(1, i));
                                 });
                               },
                               [&](const DiagGaussian& d) {
                                 const at::Tensor log_std = inputs.narrow(1, d.n, d.n);
                                 const at::Tensor z = (actions - inputs.narrow(1, 0, d.n)) * (-log_std).exp();
                                 return -(0.5 * z * z + log_std + kHalfLog2Pi).sum(1);
                               },
                               [](const EpsilonGreedy&) -> at::Tensor { no_probabilities(); }},
                    distribution);
}

at::Tensor entropy(const ActionDistribution& distribution, const at::Tensor& inputs) {
  return std::visit(
      Overloaded{[&](const Categorical&) { return categorical_entropy(inputs); },
                 [&](const MultiCategorical& d) {
                   return sum_groups(d, [&](int64_t start, int64_t n, int64_t) {
                     return categorical_entropy(inputs.narrow(1, start, n));
                   });
                 },
                 [&](const DiagGaussian& d) { return inputs.narrow(1, d.n, d.n).sum(1) + d.n * (0.5 + kHalfLog2Pi); },
                 [](const EpsilonGreedy&) -> at::Tensor { no_probabilities(); }},
      distribution);
}

at::Tensor kl_divergence(const ActionDistribution& distribution, const at::Tensor& p, const at::Tensor& q) {
  return std::visit(
      Overloaded{[&](const Categorical&) { return categorical_kl(p, q); },
                 [&](const MultiCategorical& d) {
                   return sum_groups(d, [&](int64_t start, int64_t n, int64_t) {
                     return categorical_kl(p.narrow(1, start, n), q.narrow(1, start, n));
                   });
                 },
                 [&](const DiagGaussian& d) {
                   const at::Tensor log_p = p.narrow(1, d.n, d.n), log_q = q.narrow(1, d.n, d.n);
                   const at::Tensor apart = p.narrow(1, 0, d.n) - q.narrow(1, 0, d.n);
                   return (log_q - log_p + 0.5 * ((2 * log_p).exp() + apart * apart) * (-2 * log_q).exp() - 0.5).sum(1);
                 },
                 [](const EpsilonGreedy&) -> at::Tensor { no_probabilities(); }},
      distribution);
}

DistributionJacobian distribution_jacobian(const ActionDistribution& distribution, const at::Tensor& given_inputs,
                                           const at::Tensor& given_behaviour, const at::Tensor& given_actions) {
  const at::Tensor inputs = given_inputs.contiguous(), behaviour = given_behaviour.contiguous(),
                   actions = given_actions.contiguous();
  const int64_t n = inputs.size(0), k = inputs_size(distribution), width = n == 0 ? 0 : actions.numel() / n;
  check(inputs.dim() == 2 && inputs.size(1) == k && behaviour.sizes() == inputs.sizes() && actions.size(0) == n,
        "action_dist_inputs [{}, {}] do not fit a distribution of {} inputs", n, inputs.size(1), k);
  check((actions.scalar_type() == at::kInt) != std::holds_alternative<DiagGaussian>(distribution),
        "actions are of a wrong type");
  const DistributionJacobian result{at::empty({3, n}, inputs.options()), at::empty({3, n, k}, inputs.options())};
  const float* x = inputs.const_data_ptr<float>();
  const float* mu = behaviour.const_data_ptr<float>();
  std::array<float*, 3> out, d;
  for (size_t i = 0; i < 3; ++i) {
    out[i] = result.terms.mutable_data_ptr<float>() + static_cast<int64_t>(i) * n;
    d[i] = result.derivatives.mutable_data_ptr<float>() + static_cast<int64_t>(i) * n * k;
  }
  const int32_t* indices = actions.scalar_type() == at::kInt ? actions.const_data_ptr<int32_t>() : nullptr;
  const float* reals = indices ? nullptr : actions.const_data_ptr<float>();
  const auto each = [&](auto sample) {
    for (int64_t i = 0; i < n; ++i) {
      SampleTerms t;
      sample(i, i * k, t);
      out[0][i] = t.logp;
      out[1][i] = t.entropy;
      out[2][i] = t.kl;
    }
  };
  std::visit(Overloaded{[&](const Categorical& c) {
                          each([&](int64_t i, int64_t at, SampleTerms& t) {
                            categorical_terms(c.n, x + at, mu + at, indices[i], t, d[0] + at, d[1] + at, d[2] + at);
                          });
                        },
                        [&](const MultiCategorical& m) {
                          each([&](int64_t i, int64_t at, SampleTerms& t) {
                            for (size_t g = 0; g < m.nvec.size(); at += m.nvec[g++])
                              categorical_terms(m.nvec[g], x + at, mu + at,
                                                indices[i * width + static_cast<int64_t>(g)], t, d[0] + at, d[1] + at,
                                                d[2] + at);
                          });
                        },
                        [&](const DiagGaussian& g) {
                          each([&](int64_t i, int64_t at, SampleTerms& t) {
                            gaussian_terms(g.n, x + at, mu + at, reals + i * width, t, d[0] + at, d[1] + at, d[2] + at);
                          });
                        },
                        [](const EpsilonGreedy&) { no_probabilities(); }},
             distribution);
  return result;
}

DistributionTerms distribution_terms(const ActionDistribution& distribution, const at::Tensor& inputs,
                                     const at::Tensor& behaviour_inputs, const at::Tensor& actions) {
  auto terms = TermsFunction::apply(inputs, &distribution, behaviour_inputs, actions);
  return {terms[0], terms[1], terms[2]};
}

}  // namespace myriad
