#include "learners/module/action_distribution.hpp"

#include <ATen/ATen.h>
#include <doctest/doctest.h>

#include <cmath>
#include <numbers>
#include <tuple>

using namespace myriad;

TEST_SUITE_BEGIN("learners/module/action_distribution");

namespace {

at::Tensor row(std::vector<float> values) { return at::tensor(values).view({1, -1}); }
at::Tensor choice(std::vector<int> values) { return at::tensor(values, at::kInt).view({1, -1}); }
double value(const at::Tensor& t) { return t.item<double>(); }

at::Tensor random_tensor(int64_t n, int64_t k, uint64_t seed) {
  at::Tensor tensor = at::empty({n, k}, at::kFloat);
  RandomStream random(seed, StreamPurpose::simulation, 2);
  for (int64_t i = 0; i < n * k; ++i) tensor.mutable_data_ptr<float>()[i] = static_cast<float>(0.7 * random.normal());
  return tensor;
}

/// Of a Composite of DiagGaussian 2, MultiCategorical 2 and 3, SquashedGaussian 1, Categorical 5, Beta 1.
at::Tensor composite_actions(int64_t n) {
  const at::Tensor count = at::arange(n, at::kFloat).view({n, 1});
  return at::cat({random_tensor(n, 2, 11), count.remainder(2), count.remainder(3), at::tanh(random_tensor(n, 1, 12)),
                  count.remainder(5), at::tanh(random_tensor(n, 1, 13))},
                 1);
}

}  // namespace

TEST_CASE("Categorical: logits log 1, log 3 give probabilities 1/4 and 3/4") {
  const ActionDistribution d = Categorical{2};
  const at::Tensor p = row({0.0f, std::log(3.0f)}), q = row({0.0f, 0.0f});
  CHECK(value(log_prob(d, p, choice({1}))) == doctest::Approx(std::log(0.75)));
  CHECK(value(entropy(d, p)) == doctest::Approx(-0.25 * std::log(0.25) - 0.75 * std::log(0.75)));
  CHECK(value(kl_divergence(d, p, q)) == doctest::Approx(0.25 * std::log(0.5) + 0.75 * std::log(1.5)));
  CHECK(value(kl_divergence(d, p, p)) == doctest::Approx(0.0));
}

TEST_CASE("MultiCategorical: independent parts add up") {
  const ActionDistribution d = MultiCategorical{{2, 3}};
  const at::Tensor p = row({0.0f, std::log(3.0f), 0.0f, 0.0f, 0.0f});
  CHECK(value(log_prob(d, p, choice({0, 2}))) == doctest::Approx(std::log(0.25 / 3)));
  CHECK(value(entropy(d, p)) == doctest::Approx(-0.25 * std::log(0.25) - 0.75 * std::log(0.75) + std::log(3.0)));
  CHECK(value(kl_divergence(d, p, at::zeros({1, 5}))) == doctest::Approx(0.25 * std::log(0.5) + 0.75 * std::log(1.5)));
}

TEST_CASE("DiagGaussian: hand numbers and numeric integrals") {
  const ActionDistribution d = DiagGaussian{1, true};
  const float s = 0.4f;
  const at::Tensor p = row({0.3f, std::log(s)}), q = row({-0.2f, std::log(0.9f)});
  CHECK(value(log_prob(d, p, row({0.7f}))) ==
        doctest::Approx(-0.5 - std::log(0.4) - 0.5 * std::log(2 * std::numbers::pi)));
  CHECK(value(entropy(d, p)) == doctest::Approx(0.5 * std::log(2 * std::numbers::pi * std::numbers::e * 0.16)));
  double mass = 0, h = 0, kl = 0;  // midpoint rule over [-5, 5]
  const int64_t n = 20000;
  const at::Tensor x = (at::arange(n, at::kFloat).view({n, 1}) + 0.5) * (10.0 / static_cast<double>(n)) - 5.0;
  const at::Tensor lp = log_prob(d, p.expand({n, 2}), x), lq = log_prob(d, q.expand({n, 2}), x);
  const at::Tensor density = lp.to(at::kDouble).exp() * (10.0 / static_cast<double>(n));
  mass = value(density.sum());
  h = value(-(density * lp).sum());
  kl = value((density * (lp - lq)).sum());
  CHECK(mass == doctest::Approx(1.0).epsilon(1e-4));
  CHECK(value(entropy(d, p)) == doctest::Approx(h).epsilon(1e-4));
  CHECK(value(kl_divergence(d, p, q)) == doctest::Approx(kl).epsilon(1e-4));
}

TEST_CASE("SquashedGaussian and Beta: numeric integrals over the actions") {
  const auto shape = [](double s) { return static_cast<float>(std::log(std::exp(s) - 1)); };
  const std::vector<std::tuple<ActionDistribution, at::Tensor, at::Tensor>> cases{
      {SquashedGaussian{{1, true}}, row({0.3f, std::log(0.4f)}), row({-0.2f, std::log(0.9f)})},
      {SquashedGaussian{{1, false}}, row({-1.0f, std::log(0.7f)}), row({0.5f, std::log(0.5f)})},
      {Beta{1}, row({shape(2), shape(1)}), row({shape(0.5), shape(3)})}};
  for (const auto& [d, p, q] : cases) {
    const int64_t n = 200000;
    const double width = 2.0 / static_cast<double>(n);
    const at::Tensor x = ((at::arange(n, at::kDouble).view({n, 1}) + 0.5) * width - 1.0).to(at::kFloat);
    const at::Tensor lp = log_prob(d, p.expand({n, 2}), x).to(at::kDouble),
                     lq = log_prob(d, q.expand({n, 2}), x).to(at::kDouble), density = lp.exp() * width;
    CHECK(value(density.sum()) == doctest::Approx(1.0).epsilon(1e-3));
    CHECK(value(entropy(d, p)) == doctest::Approx(value(-(density * lp).sum())).epsilon(2e-3));
    CHECK(value(kl_divergence(d, p, q)) == doctest::Approx(value((density * (lp - lq)).sum())).epsilon(2e-3));
    CHECK(std::abs(value(kl_divergence(d, p, p))) < 1e-6);
  }
  // Beta(3, 2) at x = 1/2, an action of 0: 12 / 8 of the unit interval, which is half of what the actions have.
  CHECK(value(log_prob(Beta{1}, row({shape(2), shape(1)}), row({0.0f}))) == doctest::Approx(std::log(0.75)));
}

TEST_CASE("Composite: log probability, entropy and KL are the parts', added up") {
  // A Gaussian of deviation 1 at its mean; probabilities 1/4, 3/4 and the second of them; one of three that are as
  // likely.
  const ActionDistribution d = Composite{{DiagGaussian{1, true}, Categorical{2}, MultiCategorical{{3}}}};
  const at::Tensor p = row({0.5f, 0, 0, std::log(3.0f), 0, 0, 0}), q = row({0.5f, 0, 0, 0, 0, 0, 0}),
                   action = row({0.5f, 1, 2});
  const double half_log_2pi = 0.5 * std::log(2 * std::numbers::pi);
  CHECK(value(log_prob(d, p, action)) == doctest::Approx(-half_log_2pi + std::log(0.75) - std::log(3.0)));
  CHECK(value(entropy(d, p)) ==
        doctest::Approx(half_log_2pi + 0.5 - 0.25 * std::log(0.25) - 0.75 * std::log(0.75) + std::log(3.0)));
  CHECK(value(kl_divergence(d, p, q)) == doctest::Approx(0.25 * std::log(0.5) + 0.75 * std::log(1.5)));
  // Of all kinds, against each part by itself.
  const int64_t n = 20;
  const Composite all{
      {DiagGaussian{2, true}, MultiCategorical{{2, 3}}, SquashedGaussian{{1, false}}, Categorical{5}, Beta{1}}};
  const at::Tensor x = random_tensor(n, 18, 3), y = random_tensor(n, 18, 4), actions = composite_actions(n);
  at::Tensor logp = at::zeros({n}), h = at::zeros({n}), kl = at::zeros({n});
  for (const ActionPart& part : action_parts(all)) {
    const auto own = [&](const at::Tensor& inputs) { return inputs.narrow(1, part.input, part.num_inputs); };
    logp = logp + log_prob(part.distribution, own(x), actions.narrow(1, part.element, part.num_elements));
    h = h + entropy(part.distribution, own(x));
    kl = kl + kl_divergence(part.distribution, own(x), own(y));
  }
  CHECK(at::allclose(log_prob(all, x, actions), logp));
  CHECK(at::allclose(entropy(all, x), h));
  CHECK(at::allclose(kl_divergence(all, x, y), kl));
}

TEST_CASE("distribution_terms: values and derivatives equal those of torch's operators") {
  const int64_t n = 50;
  const std::vector<std::pair<ActionDistribution, at::Tensor>> cases{
      {Categorical{5}, at::arange(n, at::kInt).remainder(5).view({n, 1}).contiguous()},
      {MultiCategorical{{2, 3}},
       at::stack({at::arange(n, at::kInt).remainder(2), at::arange(n, at::kInt).remainder(3)}, 1).contiguous()},
      {DiagGaussian{3, true}, random_tensor(n, 3, 11)},
      {SquashedGaussian{{3, true}}, at::tanh(random_tensor(n, 3, 11))},
      {Beta{3}, at::tanh(random_tensor(n, 3, 11))},
      {Composite{
           {DiagGaussian{2, true}, MultiCategorical{{2, 3}}, SquashedGaussian{{1, false}}, Categorical{5}, Beta{1}}},
       composite_actions(n)}};
  for (const auto& [distribution, actions] : cases) {
    const int64_t k = inputs_size(distribution);
    const at::Tensor behaviour = random_tensor(n, k, 1);
    at::Tensor fused = random_tensor(n, k, 2).set_requires_grad(true),
               plain = random_tensor(n, k, 2).set_requires_grad(true);
    const DistributionTerms terms = distribution_terms(distribution, fused, behaviour, actions);
    const std::vector<at::Tensor> ours{terms.logp, terms.entropy, terms.kl};
    const std::vector<at::Tensor> theirs{log_prob(distribution, plain, actions), entropy(distribution, plain),
                                         kl_divergence(distribution, behaviour, plain)};
    at::Tensor loss = at::zeros({}), reference = at::zeros({});
    for (size_t i = 0; i < 3; ++i) {
      const at::Tensor apart = (ours[i] - theirs[i]).abs() / theirs[i].abs().clamp_min(1.0);  // sums of parts are large
      CHECK(apart.max().item<float>() <= 1e-5f);
      const at::Tensor weights = random_tensor(n, 1, 20 + i).squeeze(1);
      loss = loss + (ours[i] * weights).sum();
      reference = reference + (theirs[i] * weights).sum();
    }
    loss.backward();
    reference.backward();
    CHECK((fused.grad() - plain.grad()).abs().max().item<float>() <=
          1e-5f * (1 + plain.grad().abs().max().item<float>()));
    // A loss of one term alone.
    at::Tensor alone = random_tensor(n, k, 2).set_requires_grad(true),
               alone_plain = random_tensor(n, k, 2).set_requires_grad(true);
    distribution_terms(distribution, alone, behaviour, actions).kl.sum().backward();
    kl_divergence(distribution, behaviour, alone_plain).sum().backward();
    CHECK((alone.grad() - alone_plain.grad()).abs().max().item<float>() <=
          1e-5f * (1 + alone_plain.grad().abs().max().item<float>()));
  }
}

TEST_CASE("distribution_terms: a squashed Gaussian's and a Beta's derivatives equal difference quotients") {
  for (const ActionDistribution& d : {ActionDistribution(SquashedGaussian{{2, true}}), ActionDistribution(Beta{2}),
                                      ActionDistribution(Composite{{DiagGaussian{1, true}, Beta{1}}})}) {
    const at::Tensor behaviour = row({0.1f, -0.4f, 0.3f, -0.2f}).clone(), actions = row({0.3f, -0.8f});
    for (const int term : {0, 1, 2}) {
      at::Tensor x = row({0.5f, -0.2f, 0.2f, -0.6f}).clone().set_requires_grad(true);
      const DistributionTerms terms = distribution_terms(d, x, behaviour, actions);
      (term == 0 ? terms.logp : term == 1 ? terms.entropy : terms.kl).sum().backward();
      const auto at_point = [&](const at::Tensor& point) {
        return value(term == 0   ? log_prob(d, point, actions.to(at::kDouble))
                     : term == 1 ? entropy(d, point)
                                 : kl_divergence(d, behaviour.to(at::kDouble), point));
      };
      for (int64_t j = 0; j < 4; ++j) {
        at::Tensor up = x.detach().to(at::kDouble), down = up.clone();
        up[0][j] += 1e-5;
        down[0][j] -= 1e-5;
        CHECK(x.grad()[0][j].item<double>() == doctest::Approx((at_point(up) - at_point(down)) / 2e-5).epsilon(1e-3));
      }
    }
  }
}

TEST_CASE("distribution_terms: derivatives equal difference quotients") {
  const ActionDistribution d = Categorical{3};
  const at::Tensor behaviour = row({0.1f, -0.4f, 0.3f}).clone(), actions = choice({2});
  at::Tensor x = row({0.5f, -0.2f, 0.8f}).clone().set_requires_grad(true);
  distribution_terms(d, x, behaviour, actions).entropy.sum().backward();
  for (int64_t j = 0; j < 3; ++j) {
    at::Tensor up = x.detach().to(at::kDouble), down = up.clone();
    up[0][j] += 1e-5;
    down[0][j] -= 1e-5;
    CHECK(x.grad()[0][j].item<double>() ==
          doctest::Approx((value(entropy(d, up)) - value(entropy(d, down))) / 2e-5).epsilon(1e-3));
  }
}

TEST_SUITE_END();
