#include "learners/module/action_distribution.hpp"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>
#include <utility>

#include "rl/check.hpp"
#include "rl/overloaded.hpp"

namespace myriad {
namespace {

const double kHalfLog2Pi = 0.5 * std::log(2.0 * std::numbers::pi);

/// Sums `term(part)` over a Composite's parts.
template <class Term>
at::Tensor sum_parts(const Composite& d, Term term) {
  at::Tensor sum;
  for (const ActionPart& part : action_parts(d)) {
    const at::Tensor one = term(part);
    sum = sum.defined() ? sum + one : one;
  }
  return sum;
}
at::Tensor inputs_of(const ActionPart& part, const at::Tensor& inputs) {
  return inputs.narrow(1, part.input, part.num_inputs);
}

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

/// Nodes above 0 and their weights: the expectation of f(z), z standard normal, is sum w (f(z) + f(-z)), exact for
/// polynomials up to degree 31 (Golub and Welsch 1969, "Calculation of Gauss Quadrature Rules").
struct HermiteNode {
  double z, weight;
};
constexpr HermiteNode kHermite[] = {
    {0.3867606045005574, 0.286568521238012},     {1.1638291005549648, 0.1583383727509497},
    {1.9519803457163334, 0.04728475235401406},   {2.7602450476307014, 0.007266937601184749},
    {3.6008736241715487, 0.0005259849265739087}, {4.492955302520011, 1.530003216248732e-05},
    {5.472225705949343, 1.309473216286817e-07},  {6.630878198393129, 1.4978147231618412e-10}};

/// E log(1 - tanh(u)^2), u normal: what squashing takes from the entropy. log(1 - tanh(u)^2) = 2 (log 2 - u -
/// softplus(-2 u)).
at::Tensor squashing_entropy(const at::Tensor& mean, const at::Tensor& log_std) {  // [n, k] -> [n]
  const at::Tensor std = log_std.exp();
  at::Tensor sum = at::zeros_like(mean);
  for (const HermiteNode& node : kHermite)
    for (const double z : {node.z, -node.z}) {
      const at::Tensor u = mean + z * std;
      sum = sum + node.weight * 2.0 * (std::numbers::ln2 - u - at::softplus(-2.0 * u));
    }
  return sum.sum(1);
}

struct BetaParameters {
  at::Tensor alpha, beta;  // [n, k]
  BetaParameters(const Beta& d, const at::Tensor& inputs)
      : alpha(1.0 + at::softplus(inputs.narrow(1, 0, d.n))), beta(1.0 + at::softplus(inputs.narrow(1, d.n, d.n))) {}
  at::Tensor log_norm() const { return at::lgamma(alpha) + at::lgamma(beta) - at::lgamma(alpha + beta); }
};

at::Tensor beta_log_prob(const Beta& d, const at::Tensor& inputs, const at::Tensor& actions) {
  const BetaParameters p(d, inputs);
  const at::Tensor x = (0.5 * (actions + 1.0)).clamp(kBetaBound, 1.0f - kBetaBound);
  return ((p.alpha - 1.0) * x.log() + (p.beta - 1.0) * at::log1p(-x) - p.log_norm() - std::numbers::ln2).sum(1);
}
at::Tensor beta_entropy(const Beta& d, const at::Tensor& inputs) {
  const BetaParameters p(d, inputs);
  return (p.log_norm() - (p.alpha - 1.0) * at::digamma(p.alpha) - (p.beta - 1.0) * at::digamma(p.beta) +
          (p.alpha + p.beta - 2.0) * at::digamma(p.alpha + p.beta) + std::numbers::ln2)
      .sum(1);
}
at::Tensor beta_kl(const Beta& d, const at::Tensor& p_inputs, const at::Tensor& q_inputs) {
  const BetaParameters p(d, p_inputs), q(d, q_inputs);
  return (q.log_norm() - p.log_norm() + (p.alpha - q.alpha) * at::digamma(p.alpha) +
          (p.beta - q.beta) * at::digamma(p.beta) +
          (q.alpha - p.alpha + q.beta - p.beta) * at::digamma(p.alpha + p.beta))
      .sum(1);
}

/// psi(x) and psi'(x), x >= 1: up to 10 by recurrence, then the asymptotic series (Abramowitz and Stegun 1964, 6.3.18,
/// 6.4.12).
std::pair<double, double> digamma_trigamma(double x) {
  double psi = 0, slope = 0;
  for (; x < 10; ++x) psi -= 1 / x, slope += 1 / (x * x);
  const double i = 1 / x, s = i * i;
  psi += std::log(x) - 0.5 * i - s * (1.0 / 12 - s * (1.0 / 120 - s * (1.0 / 252 - s / 240)));
  slope += i + 0.5 * s + s * i * (1.0 / 6 - s * (1.0 / 30 - s * (1.0 / 42 - s / 30)));
  return {psi, slope};
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

/// A Gaussian's terms, at the action's u; the squashing adds what does not depend on the inputs to logp, nothing to KL.
void squashed_terms(int n, const float* inputs, const float* behaviour, const float* action, SampleTerms& out,
                    float* d_logp, float* d_entropy, float* d_kl) {
  for (int j = 0; j < n; ++j) {
    const float a = std::clamp(action[j], -kSquashedBound, kSquashedBound), u = std::atanh(a);
    const float element[2] = {inputs[j], inputs[n + j]}, before[2] = {behaviour[j], behaviour[n + j]};
    float by_logp[2], by_entropy[2], by_kl[2];
    gaussian_terms(1, element, before, &u, out, by_logp, by_entropy, by_kl);
    out.logp -= std::log((1.0f - a) * (1.0f + a));
    const double mean = double{element[0]}, std = std::exp(double{element[1]});
    double taken = 0, by_mean = 0, by_log_std = 0;
    for (const HermiteNode& node : kHermite)
      for (const double z : {node.z, -node.z}) {
        const double at = mean + std * z, t = std::tanh(at);
        taken += node.weight * 2 * (std::numbers::ln2 - std::abs(at) - std::log1p(std::exp(-2 * std::abs(at))));
        by_mean -= node.weight * 2 * t;
        by_log_std -= node.weight * 2 * t * std * z;
      }
    out.entropy += static_cast<float>(taken);
    for (int k = 0; k < 2; ++k) {
      d_logp[k * n + j] = by_logp[k];
      d_kl[k * n + j] = by_kl[k];
    }
    d_entropy[j] = static_cast<float>(by_mean);
    d_entropy[n + j] = 1.0f + static_cast<float>(by_log_std);
  }
}

void beta_terms(int n, const float* inputs, const float* behaviour, const float* action, SampleTerms& out,
                float* d_logp, float* d_entropy, float* d_kl) {
  const auto shape = [](float x) { return 1 + std::max(double{x}, 0.0) + std::log1p(std::exp(-std::abs(double{x}))); };
  const auto slope = [](float x) { return 1 / (1 + std::exp(-double{x})); };  // of softplus
  const auto log_norm = [](double a, double b) { return std::lgamma(a) + std::lgamma(b) - std::lgamma(a + b); };
  for (int j = 0; j < n; ++j) {
    const double a = shape(inputs[j]), b = shape(inputs[n + j]), a0 = shape(behaviour[j]), b0 = shape(behaviour[n + j]);
    const double x = double{std::clamp(0.5f * (action[j] + 1.0f), kBetaBound, 1.0f - kBetaBound)};
    const double log_x = std::log(x), log_rest = std::log1p(-x), norm = log_norm(a, b);
    const auto [psi_a, slope_a] = digamma_trigamma(a);
    const auto [psi_b, slope_b] = digamma_trigamma(b);
    const auto [psi_ab, slope_ab] = digamma_trigamma(a + b);
    const double psi_a0 = digamma_trigamma(a0).first, psi_b0 = digamma_trigamma(b0).first,
                 psi_ab0 = digamma_trigamma(a0 + b0).first;
    out.logp += static_cast<float>((a - 1) * log_x + (b - 1) * log_rest - norm - std::numbers::ln2);
    out.entropy +=
        static_cast<float>(norm - (a - 1) * psi_a - (b - 1) * psi_b + (a + b - 2) * psi_ab + std::numbers::ln2);
    out.kl += static_cast<float>(norm - log_norm(a0, b0) + (a0 - a) * psi_a0 + (b0 - b) * psi_b0 +
                                 (a - a0 + b - b0) * psi_ab0);
    const double by_a = slope(inputs[j]), by_b = slope(inputs[n + j]);
    d_logp[j] = static_cast<float>(by_a * (log_x - psi_a + psi_ab));
    d_logp[n + j] = static_cast<float>(by_b * (log_rest - psi_b + psi_ab));
    d_entropy[j] = static_cast<float>(by_a * ((a + b - 2) * slope_ab - (a - 1) * slope_a));
    d_entropy[n + j] = static_cast<float>(by_b * ((a + b - 2) * slope_ab - (b - 1) * slope_b));
    d_kl[j] = static_cast<float>(by_a * (psi_a - psi_ab - psi_a0 + psi_ab0));
    d_kl[n + j] = static_cast<float>(by_b * (psi_b - psi_ab - psi_b0 + psi_ab0));
  }
}

/// Of one part of a distribution; `action`: its elements, int32 or float32. `d`: derivatives of logp, entropy and KL.
template <class Element>
void part_terms(const ActionDistribution& distribution, const float* inputs, const float* behaviour,
                const Element* action, SampleTerms& out, const std::array<float*, 3>& d) {
  const auto choice = [&](int n, int64_t logit, size_t element) {
    categorical_terms(n, inputs + logit, behaviour + logit, static_cast<int32_t>(action[element]), out, d[0] + logit,
                      d[1] + logit, d[2] + logit);
  };
  const auto reals = [&](auto terms, int n) {
    if constexpr (std::is_same_v<Element, float>) terms(n, inputs, behaviour, action, out, d[0], d[1], d[2]);
  };
  std::visit(Overloaded{[&](const Categorical& c) { choice(c.n, 0, 0); },
                        [&](const MultiCategorical& m) {
                          int64_t logit = 0;
                          for (size_t g = 0; g < m.nvec.size(); logit += m.nvec[g++]) choice(m.nvec[g], logit, g);
                        },
                        [&](const DiagGaussian& g) { reals(gaussian_terms, g.n); },
                        [&](const SquashedGaussian& g) { reals(squashed_terms, g.n); },
                        [&](const Beta& b) { reals(beta_terms, b.n); },
                        [](const EpsilonGreedy&) { no_probabilities(); }, [](const Composite&) {}},
             distribution);
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
                               [&](const SquashedGaussian& d) {
                                 const DiagGaussian& u = d;
                                 const at::Tensor a = actions.clamp(-kSquashedBound, kSquashedBound);
                                 return log_prob(u, inputs, at::atanh(a)) - ((1.0 - a) * (1.0 + a)).log().sum(1);
                               },
                               [&](const Beta& d) { return beta_log_prob(d, inputs, actions); },
                               [](const EpsilonGreedy&) -> at::Tensor { no_probabilities(); },
                               [&](const Composite& d) {
                                 return sum_parts(d, [&](const ActionPart& part) {
                                   return log_prob(part.distribution, inputs_of(part, inputs),
                                                   actions.narrow(1, part.element, part.num_elements));
                                 });
                               }},
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
                 [&](const SquashedGaussian& d) {
                   const DiagGaussian& u = d;
                   return entropy(u, inputs) + squashing_entropy(inputs.narrow(1, 0, d.n), inputs.narrow(1, d.n, d.n));
                 },
                 [&](const Beta& d) { return beta_entropy(d, inputs); },
                 [](const EpsilonGreedy&) -> at::Tensor { no_probabilities(); },
                 [&](const Composite& d) {
                   return sum_parts(
                       d, [&](const ActionPart& part) { return entropy(part.distribution, inputs_of(part, inputs)); });
                 }},
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
                 [&](const Beta& d) { return beta_kl(d, p, q); },
                 [](const EpsilonGreedy&) -> at::Tensor { no_probabilities(); },
                 [&](const Composite& d) {
                   return sum_parts(d, [&](const ActionPart& part) {
                     return kl_divergence(part.distribution, inputs_of(part, p), inputs_of(part, q));
                   });
                 }},
      distribution);
}

DistributionJacobian distribution_jacobian(const ActionDistribution& distribution, const at::Tensor& given_inputs,
                                           const at::Tensor& given_behaviour, const at::Tensor& given_actions) {
  const at::Tensor inputs = given_inputs.contiguous(), behaviour = given_behaviour.contiguous(),
                   actions = given_actions.contiguous();
  const int64_t n = inputs.size(0), k = inputs_size(distribution), width = n == 0 ? 0 : actions.numel() / n;
  check(inputs.dim() == 2 && inputs.size(1) == k && behaviour.sizes() == inputs.sizes() && actions.size(0) == n,
        "action_dist_inputs [{}, {}] do not fit a distribution of {} inputs", n, inputs.size(1), k);
  check(actions.scalar_type() == (stored_dtype(distribution) == DType::i32 ? at::kInt : at::kFloat),
        "actions are of a wrong type");
  const DistributionJacobian result{at::empty({3, n}, inputs.options()), at::empty({3, n, k}, inputs.options())};
  const float* x = inputs.const_data_ptr<float>();
  const float* mu = behaviour.const_data_ptr<float>();
  std::array<float*, 3> out, d;
  for (size_t i = 0; i < 3; ++i) {
    out[i] = result.terms.mutable_data_ptr<float>() + static_cast<int64_t>(i) * n;
    d[i] = result.derivatives.mutable_data_ptr<float>() + static_cast<int64_t>(i) * n * k;
  }
  const std::vector<ActionPart> parts = action_parts(distribution);
  const auto each = [&](auto* elements) {
    for (int64_t i = 0; i < n; ++i) {
      SampleTerms t;
      for (const ActionPart& part : parts) {
        const int64_t at = i * k + part.input;
        part_terms(part.distribution, x + at, mu + at, elements + i * width + part.element, t,
                   {d[0] + at, d[1] + at, d[2] + at});
      }
      out[0][i] = t.logp;
      out[1][i] = t.entropy;
      out[2][i] = t.kl;
    }
  };
  if (actions.scalar_type() == at::kInt)
    each(actions.const_data_ptr<int32_t>());
  else
    each(actions.const_data_ptr<float>());
  return result;
}

DistributionTerms distribution_terms(const ActionDistribution& distribution, const at::Tensor& inputs,
                                     const at::Tensor& behaviour_inputs, const at::Tensor& actions) {
  auto terms = TermsFunction::apply(inputs, &distribution, behaviour_inputs, actions);
  return {terms[0], terms[1], terms[2]};
}

}  // namespace myriad
