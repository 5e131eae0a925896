// The algorithms' losses and targets in torch's operators, on the CPU, against what the CPU's learner trains with.
#include "algorithms/appo.hpp"
#include "algorithms/ops/device_targets.hpp"
#include "algorithms/ops/gae.hpp"
#include "algorithms/ppo.hpp"
#include "tests/algorithms/examples.hpp"

using namespace myriad;

TEST_SUITE_BEGIN("algorithms/device_loss");

namespace {

std::unique_ptr<Algorithm> algorithm_of(const char* name, std::unique_ptr<AlgorithmConfig> own) {
  Config config;
  config.algorithm = name;
  config.training.gamma = 0.9;
  config.algorithm_config = std::move(own);
  return make_algorithm(config);
}

DeviceTrajectories on_device(const TrajectoriesExample& e) {
  const auto t = static_cast<int64_t>(e.steps), n = static_cast<int64_t>(e.environments);
  const at::Tensor terminated = at::tensor(e.terminateds, at::kByte).view({t, n}),
                   truncated = at::tensor(e.truncateds, at::kByte).view({t, n});
  std::vector<float> final_values = e.final_values;
  final_values.push_back(NAN);  // a row that no index names
  return {.rewards = at::tensor(e.rewards).view({t, n}),
          .terminated = terminated.to(at::kBool),
          .truncated = truncated.to(at::kBool),
          .final_index = final_index(terminated, truncated),
          .values = at::tensor(e.values).view({t + 1, n}),
          .final_values = at::tensor(final_values)};
}

void check_close(const at::Tensor& got, std::span<const float> want, float tolerance) {
  REQUIRE(static_cast<size_t>(got.numel()) == want.size());
  const at::Tensor flat = got.contiguous();
  for (size_t i = 0; i < want.size(); ++i) {
    CAPTURE(i);
    CHECK(std::abs(flat.const_data_ptr<float>()[i] - want[i]) <= tolerance);
  }
}

void add_coefficients(const Algorithm& algorithm, Columns& minibatch) {
  for (const auto& [name, value] : algorithm.coefficients()) minibatch[name] = at::full({}, value, at::kFloat);
}

/// Totals, metrics and gradients of both losses.
void check_same_loss(const Algorithm& algorithm, const ModuleSpec& spec, const ModuleOutput& output, const Columns& cpu,
                     const Columns& device) {
  const HostLoss want = sampled(algorithm).sample_loss(spec, output, cpu);
  at::Tensor y = output.action_dist_inputs.clone().set_requires_grad(true),
             w = output.values.clone().set_requires_grad(true);
  const Loss got = loss_of(algorithm, spec, {y, w}, device);
  got.total.backward();
  CHECK(got.total.item<double>() == doctest::Approx(want.total).epsilon(1e-4));
  REQUIRE(got.metrics.sizes() == want.metrics.sizes());
  for (int64_t i = 0; i < want.metrics.numel(); ++i) {
    CAPTURE(algorithm.loss_metrics()[static_cast<size_t>(i)]);
    CHECK(got.metrics[i].item<double>() == doctest::Approx(want.metrics[i].item<double>()).epsilon(1e-4));
  }
  REQUIRE(got.fit.defined() == want.fit.has_value());
  if (want.fit) {
    const std::array numbers = want.fit->numbers();
    for (size_t i = 0; i < numbers.size(); ++i)
      CHECK(got.fit[static_cast<int64_t>(i)].item<double>() == doctest::Approx(numbers[i]).epsilon(1e-4));
  }
  if (!w.grad().defined()) w.mutable_grad() = at::zeros_like(w);  // a loss without the values
  const float scale = want.d_inputs.abs().max().item<float>() + want.d_values.abs().max().item<float>();
  CHECK((want.d_inputs - y.grad()).abs().max().item<float>() <= 1e-5f * scale);
  CHECK((want.d_values - w.grad()).abs().max().item<float>() <= 1e-5f * scale);
}

}  // namespace

TEST_CASE("backward_scan: x[t] = d[t] + c[t] x[t+1], for every length") {
  at::manual_seed(1);
  for (int64_t steps = 1; steps <= 9; ++steps) {
    const at::Tensor d = at::randn({steps, 3}), c = at::rand({steps, 3});
    at::Tensor want = at::zeros_like(d), x = at::zeros({3});
    for (int64_t t = steps; t-- > 0;) want[t].copy_(x = d[t] + c[t] * x);
    CHECK(at::allclose(backward_scan(d, c), want, 1e-5, 1e-6));
  }
}

TEST_CASE("backward_scan: powers of one half by hand") {
  const at::Tensor x = backward_scan(at::ones({4, 1}), at::full({4, 1}, 0.5));
  check_close(x, std::vector<float>{1.875f, 1.75f, 1.5f, 1.0f}, 0);
}

TEST_CASE("final_index: rows of final_obs in time-major order of what the time limit cut") {
  // truncated at 1, 2 and 5; 2 is terminated too and has no row.
  const at::Tensor terminated = at::tensor({0, 0, 1, 0, 0, 0}, at::kByte).view({2, 3}),
                   truncated = at::tensor({0, 1, 1, 0, 0, 1}, at::kByte).view({2, 3});
  CHECK(at::equal(final_index(terminated, truncated).flatten().index_select(0, at::tensor({1, 5})),
                  at::tensor({0, 1}, at::kLong)));
  CHECK(final_index(terminated, truncated).min().item<int64_t>() == 0);
}

TEST_CASE("device_gae: the three ends by hand") {
  // gamma 0.5, lambda 1. Step 1: 2 + 0.5 * 10 - 6 = 1. Step 0: 1 - 4 = -3 | 1 + 0.5 * 8 - 4 = 1 | 1 + 3 - 4 + 0.5 =
  // 0.5.
  const DeviceTargets t = device_gae(on_device(three_ends()), 0.5, 1.0);
  check_close(t.advantages, std::vector<float>{-3, 1, 0.5, 1, 1, 1}, 0);
  check_close(t.values, std::vector<float>{1, 5, 4.5, 7, 7, 7}, 0);
}

TEST_CASE("device_gae and device_vtrace: as the walk of the CPU on random trajectories") {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    const TrajectoriesExample e = random_trajectories(seed);
    std::vector<float> advantages(60), targets(60), ratios(60);
    compute_gae(e.view(), 0.99, 0.95, advantages, targets);
    const DeviceTargets gae = device_gae(on_device(e), 0.99, 0.95);
    check_close(gae.advantages, advantages, 1e-5f);
    check_close(gae.values, targets, 1e-5f);
    RandomStream random(seed, StreamPurpose::simulation, 1);
    for (float& r : ratios) r = static_cast<float>(std::exp(random.normal()));
    const VtraceSettings settings{1.2, 1.1, 1.3, 0.9};
    compute_vtrace(e.view(), ratios, 0.99, settings, targets, advantages);
    const DeviceTargets vtrace = device_vtrace(on_device(e), at::tensor(ratios).view({12, 5}), 0.99, settings);
    check_close(vtrace.advantages, advantages, 1e-5f);
    check_close(vtrace.values, targets, 1e-5f);
  }
}

TEST_CASE("device_moments: of numbers on two shards, one of which may have none") {
  // 1 2 3 | 4 6: mean 3.2, m2 4.84 + 1.44 + 0.04 + 0.64 + 7.84 = 14.8.
  const std::vector<at::Tensor> parts{at::tensor({1.0f, 2.0f, 3.0f}).view({1, 3}),
                                      at::tensor({4.0f, 6.0f}).view({1, 2}), at::zeros({1, 0})};
  const auto together = [&](const at::Tensor& mine, const at::Tensor& other) {
    int call = 0;  // the other shard's sums of both passes
    return device_moments(mine, [&](const at::Tensor& sums) {
      if (call++ == 0)
        sums.add_(at::cat({other.sum(1), at::full({1}, static_cast<float>(other.size(1)))}));
      else
        sums.add_((other - 3.2).square().sum(1));
    });
  };
  for (const auto& [mine, other] : {std::pair{0, 1}, {1, 0}}) {
    const DeviceMoments m = together(parts[static_cast<size_t>(mine)], parts[static_cast<size_t>(other)]);
    CHECK(m.count.item<double>() == 5);
    CHECK(m.mean[0].item<double>() == doctest::Approx(3.2));
    CHECK(m.m2[0].item<double>() == doctest::Approx(14.8));
  }
  const DeviceMoments none = together(parts[2], at::cat({parts[0], parts[1]}, 1));
  CHECK(none.mean[0].item<double>() == doctest::Approx(3.2));
  CHECK(none.m2[0].item<double>() == doctest::Approx(14.8));
}

TEST_CASE("device_fit: parts of a minibatch, merged, are the minibatch's, as ValueFit's") {
  at::manual_seed(2);
  const at::Tensor targets = at::randn({50}) + 3, values = targets + 0.5 * at::randn({50});
  const auto fit = [](const at::Tensor& t, const at::Tensor& v) {
    const at::Tensor numbers = device_fit(t, v).to(at::kDouble);
    REQUIRE(numbers.numel() == ValueFit::kNumbers);
    return ValueFit::of(std::span<const double, ValueFit::kNumbers>(numbers.const_data_ptr<double>(), 5));
  };
  const double want = 1 - (targets - values).var().item<double>() / targets.var().item<double>();
  CHECK(fit(targets, values).explained_variance() == doctest::Approx(want));
  ValueFit merged = fit(targets.narrow(0, 0, 20), values.narrow(0, 0, 20));
  merged.merge(ValueFit::of(std::array<double, 5>{}));
  merged.merge(fit(targets.narrow(0, 20, 30), values.narrow(0, 20, 30)));
  CHECK(merged.explained_variance() == doctest::Approx(want));
  CHECK(fit(targets, -9 * targets).explained_variance() == -1.0);
  CHECK(fit(at::ones({5}), at::randn({5})).explained_variance() == 0.0);
}

TEST_CASE("device_explained_variance: ValueFit's, without waiting") {
  const auto of = [](double targets, double residuals) {
    return device_explained_variance(at::full({}, targets), at::full({}, residuals)).item<double>();
  };
  CHECK(of(4, 1) == 0.75);
  CHECK(of(1, 9) == -1.0);
  CHECK(of(0, 1) == 0.0);
}

TEST_CASE("PPO: loss is sample_loss, with its gradient") {
  auto own = std::make_unique<PpoConfig>();
  own->entropy_coeff = 0.05;
  own->vf_clip_param = 1.0;
  own->vf_loss_coeff = 0.7;
  own->clip_param = 0.1;
  own->kl_coeff = 0.4;
  const auto algorithm = algorithm_of("PPO", std::move(own));
  algorithm->begin_update(0);
  at::manual_seed(3);
  const Space pad = Dict{{{"aim", Space::box(-1, 1, {2})}, {"move", Space::discrete(3)}}};
  for (const Space& space : {Space::discrete(3), Space(MultiDiscrete{{2, 4}}), Space::box(-1, 1, {2}), pad}) {
    const ModuleSpec spec = make_mlp_spec(Space::box(-1, 1, {2}), space, ModelConfig());
    const int64_t k = inputs_size(spec.distribution);
    const at::Tensor behaviour = at::randn({64, k}) * 0.3;
    const at::Tensor actions = space.get_if<Box>()        ? at::randn({64, 2})
                               : space.get_if<Discrete>() ? at::randint(3, {64, 1}, at::kInt)
                               : space.is_leaf()          ? at::randint(2, {64, 2}, at::kInt)
                                                          : composite_actions(spec.distribution, 64);
    Columns minibatch{{"actions", actions},
                      {"logp", log_prob(spec.distribution, behaviour, actions)},
                      {"action_dist_inputs", behaviour},
                      {"advantages", at::randn({64})},
                      {"value_targets", at::randn({64})}};
    Columns device = minibatch;
    add_coefficients(*algorithm, device);
    check_same_loss(*algorithm, spec, {behaviour + at::randn({64, k}) * 0.3, at::randn({64})}, minibatch, device);
  }
}

TEST_CASE("PQN: loss is sample_loss, with its gradient") {
  const auto algorithm = algorithm_of("PQN", find_algorithm("PQN").make_config());
  at::manual_seed(3);
  for (const int actions : {1, 4}) {
    const ModuleSpec spec = make_q_spec(Space::box(-1, 1, {2}), Space::discrete(actions), ModelConfig());
    const Columns minibatch{{"actions", at::randint(actions, {64, 1}, at::kInt)}, {"value_targets", at::randn({64})}};
    check_same_loss(*algorithm, spec, {at::randn({64, actions}), at::randn({64})}, minibatch, minibatch);
  }
}

TEST_CASE("PPO and PQN: targets are sample_targets'") {
  for (const char* name : {"PPO", "PQN"})
    for (uint64_t seed = 1; seed <= 3; ++seed) {
      CAPTURE(name);
      const auto algorithm = algorithm_of(name, find_algorithm(name).make_config());
      const SequenceExample e(Space::discrete(3), seed);
      TensorBatch batch;
      batch.steps = e.kSteps;
      batch.environments = e.kEnvironments;
      batch.columns = e.columns;
      batch.values = at::tensor(e.trajectories.values).view({e.kSteps + 1, e.kEnvironments});
      batch.final_values = at::tensor(e.trajectories.final_values);
      TensorBatch device = batch;
      device.columns[kFinalIndex] = final_index(e.columns.at("terminateds"), e.columns.at("truncateds"));
      device.final_values = at::cat({batch.final_values, at::full({3}, NAN)});
      Metrics metrics;
      sampled(*algorithm).sample_targets(batch, metrics, {});
      const TargetColumns got = algorithm->targets(device, {});
      CHECK(got.columns.size() == (std::string_view(name) == "PPO" ? 2 : 1));
      for (const auto& [column, values] : got.columns) {
        CAPTURE(column);
        CHECK(at::allclose(values, batch.columns.at(column), 1e-4, 1e-5));
      }
      REQUIRE(got.names.size() == 1);
      CHECK(got.metrics[0].item<double>() == doctest::Approx(metrics.at(std::string(got.names[0]))).epsilon(1e-4));
    }
}

TEST_CASE("IMPALA and APPO: loss is sample_loss, with its gradient") {
  for (const char* name : {"IMPALA", "APPO"})
    for (const Space& space : {Space::discrete(3), Space::box(-1, 1, {2}),
                               Space(Dict{{{"aim", Space::box(-1, 1, {2})}, {"move", Space::discrete(3)}}})})
      for (uint64_t seed = 1; seed <= 3; ++seed) {
        CAPTURE(name);
        auto own = std::make_unique<AppoConfig>();  // IMPALA takes its part of it
        own->use_kl_loss = true;
        own->entropy_coeff = 0.05;
        if (seed > 1) {  // each setting away from its default, and from the others
          own->lambda_ = 0.8;
          own->vtrace_clip_rho_threshold = 1.2;
          own->vtrace_clip_c_threshold = 0.9;
          own->vtrace_clip_pg_rho_threshold = 1.1;
          own->vf_loss_coeff = 0.7;
          own->clip_param = 0.2;
          own->is_ratio_clip = 1.05;
          own->kl_coeff = 0.3;
        }
        const auto algorithm = algorithm_of(name, std::move(own));
        algorithm->begin_update(0);
        SequenceExample e(space, seed);
        const at::Tensor target = e.flat("action_dist_inputs") + at::randn_like(e.flat("action_dist_inputs")) * 0.1;
        const at::Tensor actions = e.flat("actions");
        e.columns[kTargetInputs] = target.view_as(e.columns.at("action_dist_inputs"));
        e.columns[kTargetLogp] = log_prob(e.spec.distribution, target, actions).view_as(e.columns.at("logp"));
        Columns device = e.columns;
        device[kFinalIndex] = final_index(e.columns.at("terminateds"), e.columns.at("truncateds"));
        add_coefficients(*algorithm, device);
        check_same_loss(*algorithm, e.spec, {e.inputs, e.values}, e.columns, device);
      }
}

TEST_SUITE_END();
