#include "algorithms/impala.hpp"

#include "algorithms/ops/gae.hpp"
#include "tests/algorithms/examples.hpp"

using namespace myriad;

TEST_SUITE_BEGIN("algorithms/impala");

namespace {

constexpr double kGamma = 0.9;
constexpr int64_t kSamples = SequenceExample::kSamples;

std::unique_ptr<Algorithm> impala(const ImpalaConfig& own) {
  Config config;
  config.algorithm = "IMPALA";
  config.training.gamma = kGamma;
  config.algorithm_config = std::make_unique<ImpalaConfig>(own);
  return make_algorithm(config);
}

}  // namespace

TEST_CASE("IMPALA: the loss of one step in two environments by hand") {
  ImpalaConfig own;
  own.entropy_coeff = 0.1;
  own.vf_loss_coeff = 0.5;
  own.vtrace_clip_c_threshold = 2.0;  // of a later step's correction: there is none
  const auto algorithm = impala(own);
  algorithm->begin_update(0);
  ModelConfig model;
  const ModuleSpec spec = make_mlp_spec(Space::box(-1, 1, {2}), Space::discrete(2), model);
  // New policy 1/4, 3/4; behaviour uniform: ratio 1.5 (clipped to 1) for action 1, 0.5 for action 0.
  const at::Tensor inputs = at::tensor({0.0f, std::log(3.0f)}).repeat({5, 1}).contiguous();
  const at::Tensor values = at::tensor({1.0f, 2.0f, 10.0f, 20.0f, 30.0f});  // V, bootstrap row, final_obs
  const Columns columns{{"actions", at::tensor({1, 0}, at::kInt).view({1, 2, 1})},
                        {"logp", at::full({1, 2}, std::log(0.5f))},
                        {"action_dist_inputs", at::zeros({1, 2, 2})},
                        {"rewards", at::tensor({3.0f, 3.0f}).view({1, 2})},
                        {"terminateds", at::tensor({0, 0}, at::kByte).view({1, 2})},
                        {"truncateds", at::tensor({0, 1}, at::kByte).view({1, 2})}};
  const HostLoss loss = sampled(*algorithm).sample_loss(spec, {inputs, values}, columns);
  const double a = 3 + 0.9 * 10 - 1, b = 0.5 * (3 + 0.9 * 30 - 2);  // cut: the bootstrap row; limit: final_obs
  const double policy = -std::log(0.75) * a - std::log(0.25) * b, vf = 0.5 * (a * a + b * b);
  const double h = -0.25 * std::log(0.25) - 0.75 * std::log(0.75);
  CHECK(metric(*algorithm, loss, "policy_loss") == doctest::Approx(policy / 2));
  CHECK(metric(*algorithm, loss, "vf_loss") == doctest::Approx(vf / 2));
  CHECK(metric(*algorithm, loss, "entropy") == doctest::Approx(h));
  CHECK(metric(*algorithm, loss, "mean_kl_loss") ==
        doctest::Approx(0.5 * std::log(0.5 / 0.25) + 0.5 * std::log(0.5 / 0.75)));
  CHECK(metric(*algorithm, loss, "importance_ratio_mean") == doctest::Approx(1.0));
  CHECK(metric(*algorithm, loss, "importance_ratio_clipped") == doctest::Approx(0.5));
  CHECK(loss.total == doctest::Approx(policy + 0.5 * vf - 0.1 * 2 * h));  // sums
}

TEST_CASE("IMPALA: the derivatives equal those of the formula in torch's operators") {
  ImpalaConfig own;
  own.vtrace_clip_rho_threshold = 1.2;
  own.vtrace_clip_c_threshold = 0.9;
  own.vtrace_clip_pg_rho_threshold = 1.1;
  own.lambda_ = 0.8;
  own.vf_loss_coeff = 0.7;
  own.entropy_coeff = 0.05;
  const auto algorithm = impala(own);
  algorithm->begin_update(0);
  for (const Space& space : {Space::discrete(3), Space::box(-1, 1, {2})}) {
    const SequenceExample e(space, 7);
    const HostLoss loss = sampled(*algorithm).sample_loss(e.spec, {e.inputs, e.values}, e.columns);
    at::Tensor y = e.inputs.clone().set_requires_grad(true), w = e.values.clone().set_requires_grad(true);
    const at::Tensor now = y.narrow(0, 0, kSamples), logp = log_prob(e.spec.distribution, now, e.flat("actions"));
    const auto [targets, advantages] = e.vtrace((logp - e.flat("logp")).exp().detach(), kGamma, own.vtrace());
    const at::Tensor want = -(logp * advantages).sum() +
                            0.7 * 0.5 * (w.narrow(0, 0, kSamples) - targets).square().sum() -
                            0.05 * entropy(e.spec.distribution, now).sum();
    want.backward();
    CHECK(loss.total == doctest::Approx(want.item<double>()).epsilon(1e-5));
    CHECK((loss.d_inputs - y.grad()).abs().max().item<float>() <= 1e-5f);
    CHECK((loss.d_values - w.grad()).abs().max().item<float>() <= 1e-5f);
    CHECK(loss.d_inputs.slice(0, kSamples).abs().max().item<float>() == 0.0f);
  }
}

TEST_CASE("IMPALA: on-policy its gradient is that of the policy gradient with GAE's advantages at lambda 1") {
  ImpalaConfig own;
  own.vf_loss_coeff = 0.0;
  own.entropy_coeff = 0.0;
  const auto algorithm = impala(own);
  algorithm->begin_update(0);
  const SequenceExample e(Space::discrete(3), 8, 0.0f);
  at::Tensor y = e.inputs.clone().set_requires_grad(true);
  const HostLoss loss = sampled(*algorithm).sample_loss(e.spec, {e.inputs, e.values}, e.columns);
  const at::Tensor advantages = at::empty({kSamples}), targets = at::empty({kSamples});
  compute_gae(e.trajectories.view(), kGamma, 1.0, {advantages.mutable_data_ptr<float>(), size_t{kSamples}},
              {targets.mutable_data_ptr<float>(), size_t{kSamples}});
  (-(log_prob(e.spec.distribution, y.narrow(0, 0, kSamples), e.flat("actions")) * advantages).sum()).backward();
  CHECK((loss.d_inputs - y.grad()).abs().max().item<float>() <= 1e-5f);
}

TEST_CASE("IMPALA: the entropy coefficient follows its schedule over env steps") {
  ImpalaConfig own;
  own.entropy_coeff = Schedule({{0.0, 1.0}, {100.0, 0.0}});
  const auto algorithm = impala(own);
  const SequenceExample e(Space::discrete(3), 12);
  const auto loss_at = [&](double env_steps) {
    algorithm->begin_update(env_steps);
    return sampled(*algorithm).sample_loss(e.spec, {e.inputs, e.values}, e.columns);
  };
  const HostLoss there = loss_at(100), here = loss_at(25);
  CHECK(here.total - there.total ==
        doctest::Approx(-0.75 * kSamples * metric(*algorithm, here, "entropy")).epsilon(1e-4));
  CHECK(algorithm->coefficients().at("entropy_coeff") == doctest::Approx(0.75));
  Metrics metrics;
  algorithm->end_update(metrics);
  CHECK(metrics.at("curr_entropy_coeff") == doctest::Approx(0.75));
}

TEST_CASE("IMPALA: RLlib's defaults") {
  Config config = load_config("algorithm = 'IMPALA'", "test");
  CHECK(config.training.lr == Schedule(5e-4));
  CHECK(config.training.train_batch_size == 500);
  CHECK(config.training.grad_clip == 40.0);
  CHECK(config.training.sampling == "async");
  CHECK(config.fragment_length() == 50);
  CHECK(config.fragments_per_batch() == 10);
}

TEST_CASE("IMPALA: learns a two-step problem from batches of a policy three updates old") {
  Config config = load_config("algorithm = 'IMPALA'", "test");
  config.rl_module.fcnet_hiddens = {16, 16};
  config.training.lr = 5e-3;
  config.learners.num_threads = 1;
  Learner learner(config, Space::box(-1, 1, {2}), Space::discrete(2));
  CHECK(reward_after(learner, 120, 3) > 0.9);
}

TEST_SUITE_END();
