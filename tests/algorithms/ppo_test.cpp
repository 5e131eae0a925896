#include "algorithms/ppo.hpp"

#include <ATen/ATen.h>
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "learners/algorithm.hpp"
#include "learners/module/action_distribution.hpp"
#include "tests/algorithms/examples.hpp"

using namespace myriad;

TEST_SUITE_BEGIN("algorithms/ppo");

namespace {

std::unique_ptr<Algorithm> ppo(const PpoConfig& own, double gamma = 0.99) {
  Config config;
  config.training.gamma = gamma;
  config.algorithm_config = std::make_unique<PpoConfig>(own);
  return make_algorithm(config);
}

ModuleSpec two_actions() {
  ModelConfig config;
  config.fcnet_hiddens = {4};
  return make_mlp_spec(Space::box(-1, 1, {2}), Space::discrete(2), config);
}

at::Tensor column(std::vector<float> values) { return at::tensor(values); }

/// New policy: 1/4, 3/4 everywhere; behaviour: uniform. Action 1: ratio 1.5, action 0: ratio 0.5.
HostLoss loss_of_four(const Algorithm& algorithm) {
  const at::Tensor inputs = column({0, std::log(3.0f)}).repeat({4, 1}).contiguous();
  const Columns minibatch{{"actions", at::tensor(std::vector<int>{1, 1, 0, 0}, at::kInt).view({4, 1})},
                          {"logp", at::full({4}, std::log(0.5f))},
                          {"action_dist_inputs", at::zeros({4, 2})},
                          {"advantages", column({1, -1, 1, -1})},
                          {"value_targets", column({1, 2, 3, 10})}};
  return sampled(algorithm).sample_loss(two_actions(), {inputs, column({0, 0, 2, 5})}, minibatch);
}
const double kEntropy = -0.25 * std::log(0.25) - 0.75 * std::log(0.75);
const double kKl = 0.5 * std::log(0.5 / 0.25) + 0.5 * std::log(0.5 / 0.75);  // behaviour || new

/// sample_targets(), and targets() with a final row that no index names.
std::vector<Columns> targets_of(const Algorithm& algorithm, const TrajectoriesExample& e,
                                std::vector<Metrics>& metrics) {
  const auto t = static_cast<int64_t>(e.steps), n = static_cast<int64_t>(e.environments);
  TensorBatch batch;
  batch.steps = t;
  batch.environments = n;
  batch.columns = {{"rewards", column(e.rewards).view({t, n})},
                   {"terminateds", at::tensor(e.terminateds, at::kByte).view({t, n})},
                   {"truncateds", at::tensor(e.truncateds, at::kByte).view({t, n})}};
  batch.values = column(e.values).view({t + 1, n});
  batch.final_values = at::tensor(at::ArrayRef<float>(e.final_values.data(), e.final_values.size()));
  TensorBatch device = batch;
  device.columns[kFinalIndex] = final_index(batch.columns.at("terminateds"), batch.columns.at("truncateds"));
  device.final_values = at::cat({batch.final_values, column({NAN})});
  metrics.resize(2);
  sampled(algorithm).sample_targets(batch, metrics[0], {});
  const TargetColumns there = algorithm.targets(device, {});
  for (size_t i = 0; i < there.names.size(); ++i)
    metrics[1][std::string(there.names[i])] = there.metrics[static_cast<int64_t>(i)].item<double>();
  return {batch.columns, there.columns};
}

void check_column(const at::Tensor& got, const std::vector<double>& want) {
  REQUIRE(static_cast<size_t>(got.numel()) == want.size());
  const at::Tensor flat = got.flatten();
  for (size_t i = 0; i < want.size(); ++i)
    CHECK(flat[static_cast<int64_t>(i)].item<double>() == doctest::Approx(want[i]).epsilon(1e-5));
}

}  // namespace

TEST_CASE("PPO: the loss of four samples by hand") {
  PpoConfig own;
  own.clip_param = 0.2;
  own.kl_coeff = 0.5;
  own.entropy_coeff = 0.1;
  own.vf_clip_param = 4.0;
  const auto algorithm = ppo(own);
  algorithm->begin_update(0);
  const HostLoss loss = loss_of_four(*algorithm);
  // min(1.5, 1.2) + min(-1.5, -1.2) + min(0.5, 0.8) + min(-0.5, -0.8) = 1.2 - 1.5 + 0.5 - 0.8 = -0.6.
  CHECK(metric(*algorithm, loss, "policy_loss") == doctest::Approx(0.15));
  CHECK(metric(*algorithm, loss, "vf_loss") == doctest::Approx((1 + 4 + 1 + 4) / 4.0));  // 25 is clamped to 4
  CHECK(metric(*algorithm, loss, "vf_loss_unclipped") == doctest::Approx((1 + 4 + 1 + 25) / 4.0));
  CHECK(metric(*algorithm, loss, "entropy") == doctest::Approx(kEntropy));
  CHECK(metric(*algorithm, loss, "mean_kl_loss") == doctest::Approx(kKl));
  CHECK(loss.total == doctest::Approx(0.15 + 2.5 - 0.1 * kEntropy + 0.5 * kKl));
}

TEST_CASE("PPO: targets by hand, of the config's gamma and lambda, on a device too") {
  PpoConfig own;
  own.lambda_ = 0.5;
  for (const bool normalize : {false, true}) {
    CAPTURE(normalize);
    own.normalize_advantages = normalize;
    std::vector<Metrics> metrics;
    for (const Columns& columns : targets_of(*ppo(own, 0.5), three_ends(), metrics)) {
      // As compute_gae's test has them; sum 1.25, sum of squares 13.0625.
      const double mean = 1.25 / 6, std = std::sqrt(13.0625 / 6 - mean * mean);
      std::vector<double> advantages{-3, 1, 0.25, 1, 1, 1};
      for (double& a : advantages) a = normalize ? (a - mean) / std : a;
      check_column(columns.at("advantages"), advantages);
      check_column(columns.at("value_targets"), {1, 5, 4.25, 7, 7, 7});
    }
    // Residuals are the advantages: m2 13.0625 - 1.25^2 / 6 = 12.80208; targets: 191.0625 - 31.25^2 / 6 = 28.30208.
    for (const Metrics& m : metrics)
      CHECK(m.at("vf_explained_var") == doctest::Approx(1 - 12.80208333 / 28.30208333).epsilon(1e-5));
  }
}

TEST_CASE("PPO: advantages that hardly differ are not blown up, on a device neither") {
  // Terminal steps, V = 0: the advantages are the rewards, of std 5e-5, and divided by 1e-4.
  const TrajectoriesExample e{.steps = 1,
                              .environments = 2,
                              .rewards = {5e-5f, -5e-5f},
                              .values = {0, 0, 0, 0},
                              .final_values = {},
                              .terminateds = {1, 1},
                              .truncateds = {0, 0}};
  std::vector<Metrics> metrics;
  for (const Columns& columns : targets_of(*ppo({}), e, metrics)) check_column(columns.at("advantages"), {0.5, -0.5});
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
    const HostLoss loss = sampled(*algorithm)
                              .sample_loss(spec, {start, value},
                                           {{"actions", actions},
                                            {"logp", logp},
                                            {"action_dist_inputs", behaviour},
                                            {"advantages", advantages},
                                            {"value_targets", targets}});
    at::Tensor y = start.clone().set_requires_grad(true), w = value.clone().set_requires_grad(true);
    const at::Tensor ratio = (log_prob(spec.distribution, y, actions) - logp).exp();
    const at::Tensor want = (-at::minimum(ratio * advantages, ratio.clamp(0.7, 1.3) * advantages) +
                             0.7 * (w - targets).square().clamp(0, 1.0) - 0.05 * entropy(spec.distribution, y) +
                             0.2 * kl_divergence(spec.distribution, behaviour, y))
                                .mean();
    want.backward();
    CHECK(loss.total == doctest::Approx(want.item<double>()).epsilon(1e-5));
    CHECK((loss.d_inputs - y.grad()).abs().max().item<float>() <= 1e-6f);
    CHECK((loss.d_values - w.grad()).abs().max().item<float>() <= 1e-6f);
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
  const auto total = [&](const Algorithm& a) { return double{loss_of_four(a).total}; };
  const double before = total(*algorithm);
  algorithm->set_state({{"kl_coeff", 0.7}});
  CHECK(algorithm->state().at("kl_coeff") == 0.7);
  CHECK(algorithm->coefficients().at("kl_coeff") == 0.7);
  CHECK(total(*algorithm) - before == doctest::Approx((0.7 - 0.15) * kKl));
  own.use_kl_loss = false;
  CHECK(total(*ppo(own)) - before == doctest::Approx(-0.15 * kKl));
  CHECK(ppo(own)->coefficients().at("kl_coeff") == 0.0);
}

TEST_CASE("PPO: epochs end above target_kl_stop, and never where it is 0") {
  PpoConfig own;
  own.kl_target = 0.01;
  CHECK_FALSE(ppo(own)->may_stop_epochs());
  CHECK_FALSE(ppo(own)->stops_epochs({{"mean_kl_loss", 9.0}}));
  own.target_kl_stop = 0.05;
  CHECK(ppo(own)->may_stop_epochs());
  CHECK_FALSE(ppo(own)->stops_epochs({{"mean_kl_loss", 0.05}}));
  CHECK(ppo(own)->stops_epochs({{"mean_kl_loss", 0.0501}}));
}

TEST_CASE("PPO: the entropy coefficient follows its schedule over env steps") {
  PpoConfig own;
  own.entropy_coeff = Schedule({{0.0, 1.0}, {100.0, 0.0}});
  const auto algorithm = ppo(own);
  const auto total = [&](double env_steps) {
    algorithm->begin_update(env_steps);
    return double{loss_of_four(*algorithm).total};
  };
  CHECK(total(25) - total(100) == doctest::Approx(-0.75 * kEntropy));
  algorithm->begin_update(25);
  CHECK(algorithm->coefficients().at("entropy_coeff") == doctest::Approx(0.75));
  Metrics metrics;
  algorithm->end_update(metrics);
  CHECK(metrics.at("curr_entropy_coeff") == doctest::Approx(0.75));
}

TEST_SUITE_END();
