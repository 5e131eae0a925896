#include "algorithms/appo.hpp"

#include "tests/algorithms/examples.hpp"

using namespace myriad;

TEST_SUITE_BEGIN("algorithms/appo");

namespace {

constexpr double kGamma = 0.9;
constexpr int64_t kSamples = SequenceExample::kSamples;

std::unique_ptr<Algorithm> algorithm_of(const char* name, std::unique_ptr<AlgorithmConfig> own) {
  Config config;
  config.algorithm = name;
  config.training.gamma = kGamma;
  config.training.train_batch_size = 500;
  config.algorithm_config = std::move(own);
  return make_algorithm(config);
}
std::unique_ptr<Algorithm> appo(const AppoConfig& own) {
  return algorithm_of("APPO", std::make_unique<AppoConfig>(own));
}

/// Gives the columns of a target policy with these action_dist_inputs [T * N, k].
void add_target(SequenceExample& e, const at::Tensor& inputs) {
  e.columns[kTargetInputs] = inputs.view({e.kSteps, e.kEnvironments, -1});
  e.columns[kTargetLogp] = log_prob(e.spec.distribution, inputs, e.flat("actions")).view({e.kSteps, e.kEnvironments});
}

}  // namespace

TEST_CASE("APPO: the surrogate of one step in three environments by hand") {
  AppoConfig own;
  own.clip_param = 0.4;
  own.vf_loss_coeff = 0.0;
  own.entropy_coeff = 0.0;
  const auto algorithm = appo(own);
  algorithm->begin_update(0);
  ModelConfig model;
  const ModuleSpec spec = make_mlp_spec(Space::box(-1, 1, {2}), Space::discrete(2), model);
  // Policy 1/2, 1/2; the target took the action with 1/4, 1/4 and 1/5, the behaviour with 1/2, 1/4 and 4/5.
  // V-trace's rho 0.5, 1, 0.25 on TD errors 4, -4, 4; mu / target = 2, 1, 4 (clipped to 2);
  // ratio = 2 * 1 = 2, 1 * 2 = 2, 2 * 0.625 = 1.25 against [0.6, 1.4].
  const Columns columns{{"actions", at::tensor({1, 1, 1}, at::kInt).view({1, 3, 1})},
                        {"logp", at::tensor({0.5f, 0.25f, 0.8f}).log().view({1, 3})},
                        {kTargetLogp, at::tensor({0.25f, 0.25f, 0.2f}).log().view({1, 3})},
                        {kTargetInputs, at::zeros({1, 3, 2})},
                        {"rewards", at::tensor({4.0f, -4.0f, 4.0f}).view({1, 3})},
                        {"terminateds", at::ones({1, 3}, at::kByte)},
                        {"truncateds", at::zeros({1, 3}, at::kByte)}};
  const HostLoss loss = sampled(*algorithm).sample_loss(spec, {at::zeros({6, 2}), at::zeros({6})}, columns);
  // Advantages 2, -4, 1: min(4, 2.8) + min(-8, -5.6) + min(1.25, 1.25).
  CHECK(metric(*algorithm, loss, "policy_loss") == doctest::Approx(-(2.8 - 8 + 1.25) / 3));
  CHECK(metric(*algorithm, loss, "vf_loss") == doctest::Approx(0.5 * (4 + 16 + 1) / 3));
  CHECK(metric(*algorithm, loss, "importance_ratio_mean") == doctest::Approx((0.5 + 1 + 0.25) / 3));
  CHECK(loss.total == doctest::Approx(metric(*algorithm, loss, "policy_loss")));
}

TEST_CASE("APPO: the derivatives equal those of the formula in torch's operators") {
  AppoConfig own;
  own.clip_param = 0.2;
  own.is_ratio_clip = 1.3;
  own.use_kl_loss = true;
  own.kl_coeff = 0.3;
  own.vf_loss_coeff = 0.7;
  own.entropy_coeff = 0.05;
  const auto algorithm = appo(own);
  algorithm->begin_update(0);
  for (const Space& space : {Space::discrete(3), Space::box(-1, 1, {2})}) {
    SequenceExample e(space, 9);
    const at::Tensor target = e.flat("action_dist_inputs") + 0.2 * at::randn_like(e.flat("action_dist_inputs"));
    add_target(e, target);
    const HostLoss loss = sampled(*algorithm).sample_loss(e.spec, {e.inputs, e.values}, e.columns);
    at::Tensor y = e.inputs.clone().set_requires_grad(true), w = e.values.clone().set_requires_grad(true);
    const at::Tensor now = y.narrow(0, 0, kSamples), mu = e.flat("logp"), old = e.flat(kTargetLogp);
    const auto [targets, a] = e.vtrace((old - mu).exp(), kGamma, own.vtrace());
    const at::Tensor ratio =
        (mu - old).exp().clamp(0.0, 1.3) * (log_prob(e.spec.distribution, now, e.flat("actions")) - mu).exp();
    const at::Tensor want =
        (-at::minimum(ratio * a, ratio.clamp(0.8, 1.2) * a) +
         0.7 * 0.5 * (w.narrow(0, 0, kSamples) - targets).square() - 0.05 * entropy(e.spec.distribution, now) +
         0.3 * kl_divergence(e.spec.distribution, target, now))
            .mean();
    want.backward();
    CHECK(loss.total == doctest::Approx(want.item<double>()).epsilon(1e-5));
    CHECK((loss.d_inputs - y.grad()).abs().max().item<float>() <= 1e-6f);
    CHECK((loss.d_values - w.grad()).abs().max().item<float>() <= 1e-6f);
  }
}

TEST_CASE("APPO: where policy, target and behaviour agree its gradient is IMPALA's mean") {
  SequenceExample e(Space::discrete(3), 10, 0.0f);
  add_target(e, e.flat("action_dist_inputs"));
  const auto gradients = [&](Algorithm& algorithm) {
    algorithm.begin_update(0);
    const HostLoss loss = sampled(algorithm).sample_loss(e.spec, {e.inputs, e.values}, e.columns);
    return at::cat({loss.d_inputs.flatten(), loss.d_values});
  };
  const at::Tensor a = gradients(*appo(AppoConfig())),
                   i = gradients(*algorithm_of("IMPALA", std::make_unique<ImpalaConfig>()));
  CHECK((a - i / static_cast<double>(kSamples)).abs().max().item<float>() <= 1e-6f);
}

TEST_CASE("APPO: the target follows every freq x N x K batches that went through the loss") {
  AppoConfig own;
  own.target_network_update_freq = 0.5;
  own.circular_buffer_num_batches = 4;
  own.circular_buffer_iterations_per_batch = 3;
  own.tau = 0.25;
  const auto plan = std::get<SequencePlan>(appo(own)->plan());
  CHECK(plan.buffer->batches == 4);
  CHECK(plan.buffer->uses == 3);
  CHECK(plan.target->interval == 0.5 * 4 * 3 * 500);
  CHECK(plan.target->tau == 0.25);
}

TEST_CASE("APPO: the entropy coefficient follows its schedule over env steps") {
  AppoConfig own;
  own.entropy_coeff = Schedule({{0.0, 1.0}, {100.0, 0.0}});
  const auto algorithm = appo(own);
  SequenceExample e(Space::discrete(3), 12);
  add_target(e, e.flat("action_dist_inputs"));
  const auto loss_at = [&](double env_steps) {
    algorithm->begin_update(env_steps);
    return sampled(*algorithm).sample_loss(e.spec, {e.inputs, e.values}, e.columns);
  };
  const HostLoss there = loss_at(100), here = loss_at(25);
  CHECK(here.total - there.total == doctest::Approx(-0.75 * metric(*algorithm, here, "entropy")).epsilon(1e-4));
  CHECK(algorithm->coefficients().at("entropy_coeff") == doctest::Approx(0.75));
  Metrics metrics;
  algorithm->end_update(metrics);
  CHECK(metrics.at("curr_entropy_coeff") == doctest::Approx(0.75));
}

TEST_CASE("APPO: kl_coeff adapts only where it is used") {
  AppoConfig own;
  Metrics metrics{{"mean_kl_loss", 1.0}};
  auto algorithm = appo(own);
  algorithm->end_update(metrics);
  CHECK(metrics.at("curr_kl_coeff") == 0.0);
  own.use_kl_loss = true;
  algorithm = appo(own);
  algorithm->end_update(metrics);
  CHECK(metrics.at("curr_kl_coeff") == doctest::Approx(1.5));
  CHECK(algorithm->state().at("kl_coeff") == doctest::Approx(1.5));
}

TEST_CASE("APPO: learns a two-step problem from batches of a policy three updates old") {
  Config config = load_config("algorithm = 'APPO'", "test", {"training.circular_buffer_num_batches=4"});
  config.rl_module.fcnet_hiddens = {16, 16};
  config.training.lr = 5e-3;
  config.training.train_batch_size = 256;
  config.learners.num_threads = 1;
  Learner learner(config, Space::box(-1, 1, {2}), Space::discrete(2));
  CHECK(reward_after(learner, 120, 3) > 0.9);
}

TEST_SUITE_END();
