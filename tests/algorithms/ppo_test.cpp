#include "algorithms/ppo.hpp"

#include <ATen/ATen.h>
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "learners/action_distribution.hpp"
#include "learners/algorithm.hpp"
#include "tests/algorithms/examples.hpp"

using namespace myriad;

TEST_SUITE_BEGIN("algorithms/ppo");

namespace {

std::unique_ptr<Algorithm> ppo(const PpoConfig& own) {
  Config config;
  config.algorithm_config = std::make_unique<PpoConfig>(own);
  return make_algorithm(config);
}

ModuleSpec two_actions() {
  ModelConfig config;
  config.fcnet_hiddens = {4};
  return make_mlp_spec(Space::box(-1, 1, {2}), Space::discrete(2), config);
}

at::Tensor column(std::vector<float> values) { return at::tensor(values); }

}  // namespace

TEST_CASE("PPO: the loss of four samples by hand") {
  PpoConfig own;
  own.clip_param = 0.2;
  own.kl_coeff = 0.5;
  own.entropy_coeff = 0.1;
  own.vf_clip_param = 4.0;
  const auto algorithm = ppo(own);
  algorithm->begin_update(0);
  // New policy: 1/4, 3/4 everywhere; behaviour: uniform. Action 1: ratio 1.5, action 0: ratio 0.5.
  const at::Tensor inputs = column({0, std::log(3.0f)}).repeat({4, 1}).contiguous();
  const Columns minibatch{{"actions", at::tensor(std::vector<int>{1, 1, 0, 0}, at::kInt).view({4, 1})},
                          {"logp", at::full({4}, std::log(0.5f))},
                          {"action_dist_inputs", at::zeros({4, 2})},
                          {"advantages", column({1, -1, 1, -1})},
                          {"value_targets", column({1, 2, 3, 10})}};
  const Loss loss = algorithm->loss(two_actions(), {inputs, column({0, 0, 2, 5})}, minibatch);
  // min(1.5, 1.2) + min(-1.5, -1.2) + min(0.5, 0.8) + min(-0.5, -0.8) = 1.2 - 1.5 + 0.5 - 0.8 = -0.6.
  CHECK(metric(*algorithm, loss, "policy_loss") == doctest::Approx(0.15));
  CHECK(metric(*algorithm, loss, "vf_loss") == doctest::Approx((1 + 4 + 1 + 4) / 4.0));  // 25 is clamped to 4
  CHECK(metric(*algorithm, loss, "vf_loss_unclipped") == doctest::Approx((1 + 4 + 1 + 25) / 4.0));
  const double h = -0.25 * std::log(0.25) - 0.75 * std::log(0.75);
  const double kl = 0.5 * std::log(0.5 / 0.25) + 0.5 * std::log(0.5 / 0.75);  // behaviour || new
  CHECK(metric(*algorithm, loss, "entropy") == doctest::Approx(h));
  CHECK(metric(*algorithm, loss, "mean_kl_loss") == doctest::Approx(kl));
  CHECK(loss.total.item<double>() == doctest::Approx(0.15 + 2.5 - 0.1 * h + 0.5 * kl));
}

TEST_CASE("PPO: the derivatives equal those of the formula in torch's operators") {
  PpoConfig own;
  own.entropy_coeff = 0.05;
  own.vf_clip_param = 1.0;
  own.vf_loss_coeff = 0.7;
  const auto algorithm = ppo(own);
  algorithm->begin_update(0);
  const std::vector<std::pair<Space, at::Tensor>> cases{
      {Space::discrete(3), at::arange(64, at::kInt).remainder(3).view({64, 1}).contiguous()},
      {Space::box(-1, 1, {2}), at::randn({64, 2})}};
  for (const auto& [space, actions] : cases) {
    ModelConfig model;
    const ModuleSpec spec = make_mlp_spec(Space::box(-1, 1, {2}), space, model);
    const int64_t k = inputs_size(spec.distribution);
    const at::Tensor behaviour = at::randn({64, k}) * 0.3, advantages = at::randn({64}), targets = at::randn({64});
    const at::Tensor start = behaviour + at::randn({64, k}) * 0.3;
    const at::Tensor logp = log_prob(spec.distribution, behaviour, actions), value = at::randn({64});
    at::Tensor x = start.clone().set_requires_grad(true), v = value.clone().set_requires_grad(true);
    const Loss loss = algorithm->loss(spec, {x, v},
                                      {{"actions", actions},
                                       {"logp", logp},
                                       {"action_dist_inputs", behaviour},
                                       {"advantages", advantages},
                                       {"value_targets", targets}});
    loss.total.backward();
    at::Tensor y = start.clone().set_requires_grad(true), w = value.clone().set_requires_grad(true);
    const at::Tensor ratio = (log_prob(spec.distribution, y, actions) - logp).exp();
    const at::Tensor want = (-at::minimum(ratio * advantages, ratio.clamp(0.7, 1.3) * advantages) +
                             0.7 * (w - targets).square().clamp(0, 1.0) - 0.05 * entropy(spec.distribution, y) +
                             0.2 * kl_divergence(spec.distribution, behaviour, y))
                                .mean();
    want.backward();
    CHECK(loss.total.item<double>() == doctest::Approx(want.item<double>()).epsilon(1e-5));
    CHECK((x.grad() - y.grad()).abs().max().item<float>() <= 1e-6f);
    CHECK((v.grad() - w.grad()).abs().max().item<float>() <= 1e-6f);
  }
}

TEST_CASE("PPO: kl_coeff grows by half above twice the target and halves below half of it") {
  PpoConfig own;
  own.kl_target = 0.01;
  const auto algorithm = ppo(own);
  const auto after = [&](double kl) {
    Metrics metrics{{"mean_kl_loss", kl}};
    algorithm->end_update(metrics);
    CHECK(metrics.at("curr_kl_coeff") == algorithm->state().at("kl_coeff"));
    return algorithm->state().at("kl_coeff");
  };
  CHECK(after(0.0201) == doctest::Approx(0.3));
  CHECK(after(0.0199) == doctest::Approx(0.3));
  CHECK(after(0.0051) == doctest::Approx(0.3));
  CHECK(after(0.0049) == doctest::Approx(0.15));
  CHECK(after(std::nan("")) == doctest::Approx(0.15));
  algorithm->set_state({{"kl_coeff", 0.7}});
  CHECK(algorithm->state().at("kl_coeff") == 0.7);
}

TEST_CASE("PPO: the entropy coefficient follows its schedule over env steps") {
  PpoConfig own;
  own.entropy_coeff = Schedule({{0.0, 1.0}, {100.0, 0.0}});
  const auto algorithm = ppo(own);
  algorithm->begin_update(25);
  Metrics metrics;
  algorithm->end_update(metrics);
  CHECK(metrics.at("curr_entropy_coeff") == doctest::Approx(0.75));
}

TEST_SUITE_END();
