// Action masks from the runner to the update: every executor, distribution and algorithm.
#include <ATen/ATen.h>
#include <doctest/doctest.h>

#include <cmath>

#include "env_runners/evaluator.hpp"
#include "env_runners/rollout_worker.hpp"
#include "learners/device/device_support.hpp"
#include "learners/module/action_distribution.hpp"
#include "rl/action_mask.hpp"
#include "tests/env_runners/toy_envs.hpp"
#include "tests/learners/learner_examples.hpp"
#include "tests/learners/same_gradient.hpp"

using namespace myriad;
using namespace myriad::test;

TEST_SUITE_BEGIN("learners/action_mask");

namespace {

at::Tensor random_tensor(int64_t n, int64_t k, uint64_t seed, double scale = 1.0) {
  at::Tensor tensor = at::empty({n, k}, at::kFloat);
  RandomStream random(seed, StreamPurpose::simulation, 3);
  for (int64_t i = 0; i < n * k; ++i) tensor.mutable_data_ptr<float>()[i] = static_cast<float>(scale * random.normal());
  return tensor;
}

std::vector<float> parameters_of(const ModuleSpec& spec) {
  std::vector<float> values = initial_parameters(spec, 3);
  RandomStream random(4, StreamPurpose::simulation, 1);
  for (float& v : values) v += static_cast<float>(0.1 * random.normal());
  return values;
}

/// Observations [n, obs_size] with masks at which each element has a choice.
at::Tensor observations(const ModuleSpec& spec, const Space& action, int64_t n) {
  at::Tensor obs = random_tensor(n, spec.obs_size, 8);
  RandomStream random(9, StreamPurpose::simulation, 1);
  for (int64_t i = 0; i < n; ++i) {
    float* mask = obs.mutable_data_ptr<float>() + i * spec.obs_size + spec.mask_offset;
    for (const Choice& choice : choices_of(action)) {
      for (int j = 0; j < choice.n; ++j) mask[j] = random.below(2) == 0 ? 0.0f : 1.0f;
      mask[random.below(static_cast<uint64_t>(choice.n))] = 1.0f;
      mask += choice.n;
    }
  }
  return obs;
}

/// The modules of the toys: the mask in front and behind, shared and separate encoders, with and without layers.
std::vector<std::pair<ModuleSpec, const EnvSpec*>> modules() {
  std::vector<std::pair<ModuleSpec, const EnvSpec*>> all;
  for (const EnvSpec* env : {&masked(), &masked_pair(), &masked_bits(), &masked_gamepad()})
    for (const bool shared : {false, true})
      for (const std::vector<int>& hiddens : {std::vector<int>{}, {16, 8}}) {
        ModelConfig config;
        config.fcnet_hiddens = hiddens;
        config.vf_share_layers = shared;
        all.emplace_back(make_module_spec(env->observation_space, env->action_space, config), env);
      }
  return all;
}

float largest_difference(const at::Tensor& a, const at::Tensor& b) { return (a - b).abs().max().item<float>(); }

ModulePass pass(const ModuleSpec& spec, Executor executor, const at::Tensor& obs) {
  const int64_t n = obs.size(0);
  const double weight = 1 / static_cast<double>(n);
  return pass_of(spec, parameters_of(spec), executor, obs, random_tensor(n, inputs_size(spec.distribution), 2, weight),
                 random_tensor(1, n, 5, weight).squeeze(0));
}

Config config_for_masks(const std::string& algorithm, const std::string& executor, const EnvSpec& env) {
  Config config = algorithm == "PPO" ? config_of(executor) : async_config(algorithm.c_str(), executor);
  const Config run = config_for(env, 16, 64);
  config.environment = run.environment;
  config.environment.observation_filter = "MeanStdFilter";
  config.env_runners = run.env_runners;
  config.training.minibatch_size = algorithm == "PPO" ? 256 : 0;
  config.training.train_batch_size = 16 * 64;
  config.training.gamma = 0.0;
  config.training.lr = 3e-3;
  return config;
}

}  // namespace

TEST_CASE("ActionMask: in every executor the masked logits are kMaskedLogit, and nothing else sees the mask") {
  for (const auto& [spec, env] : modules()) {
    CAPTURE(spec.to_string());
    const int64_t n = 40, k = inputs_size(spec.distribution);
    const at::Tensor obs = observations(spec, env->action_space, n);
    const at::Tensor allowed = at::ones({n, k}, at::kBool);
    for (const ActionPart& part : action_parts(spec.distribution))
      allowed.narrow(1, part.input, part.num_choices)
          .copy_(obs.narrow(1, spec.mask_offset + part.choice, part.num_choices).ne(0));
    at::Tensor open = obs.clone();
    open.narrow(1, spec.mask_offset, spec.mask_size()).fill_(1);
    EigenPolicy policy(spec);
    const std::vector<float> parameters = parameters_of(spec);
    policy.load(parameters);
    const auto eigen = [&](const at::Tensor& rows) {
      at::Tensor inputs = at::empty({n, k}, at::kFloat);
      policy.forward(rows.const_data_ptr<float>(), static_cast<size_t>(n), inputs.mutable_data_ptr<float>());
      return inputs;
    };
    const ModulePass torch = pass(spec, Executor::torch, obs), native = pass(spec, Executor::native, obs);
    for (const at::Tensor& inputs : {eigen(obs), torch.inputs, native.inputs}) {
      CHECK(inputs.eq(kMaskedLogit).eq(allowed.logical_not()).all().item<bool>());
      CHECK(largest_difference(inputs.masked_fill(allowed.logical_not(), 0),
                               torch.inputs.masked_fill(allowed.logical_not(), 0)) <= 1e-5f);
    }
    CHECK(eigen(obs).equal(eigen(open).masked_fill(allowed.logical_not(), kMaskedLogit)));
    CHECK(pass(spec, Executor::torch, open).values.equal(torch.values));
    CHECK(pass(spec, Executor::native, open).values.equal(native.values));
    CHECK(largest_difference(torch.values, native.values) <= 1e-5f);
    check_same_gradient(spec, torch.gradient, native.gradient);
  }
}

TEST_CASE("ActionMask: a masked distribution is that of the allowed actions alone, derivatives too") {
  // Of four logits the second and fourth are allowed, and the others as good as not there.
  const int64_t n = 30;
  const ActionDistribution four = Categorical{4}, two = Categorical{2};
  const at::Tensor masked_columns = at::tensor({1, 0, 1, 0}).to(at::kBool);
  const at::Tensor picked = at::tensor({1, 3}, at::kLong);
  const at::Tensor behaviour = random_tensor(n, 4, 1).masked_fill(masked_columns, kMaskedLogit);
  const at::Tensor choice = at::arange(n, at::kInt).remainder(2).view({n, 1}).contiguous();
  const at::Tensor action = (choice * 2 + 1).contiguous();
  for (const bool by_hand : {false, true}) {
    at::Tensor logits = random_tensor(n, 4, 2).set_requires_grad(true),
               reduced = random_tensor(n, 4, 2).index_select(1, picked).contiguous().set_requires_grad(true);
    const at::Tensor inputs = logits.masked_fill(masked_columns, kMaskedLogit),
                     few = behaviour.index_select(1, picked).contiguous();
    const auto terms = [&](const ActionDistribution& d, const at::Tensor& x, const at::Tensor& mu,
                           const at::Tensor& a) {
      if (by_hand) return distribution_terms(d, x, mu, a);
      return DistributionTerms{log_prob(d, x, a), entropy(d, x), kl_divergence(d, mu, x)};
    };
    const DistributionTerms a = terms(four, inputs, behaviour, action), b = terms(two, reduced, few, choice);
    CHECK(largest_difference(a.logp, b.logp) <= 1e-6f);
    CHECK(largest_difference(a.entropy, b.entropy) <= 1e-6f);
    CHECK(largest_difference(a.kl, b.kl) <= 1e-6f);
    // Coefficients that would make an infinity of -1e30, if it were multiplied by them before the zero.
    (3e6 * a.logp.sum() + 2e6 * a.entropy.sum() + 1e6 * a.kl.sum()).backward();
    (3e6 * b.logp.sum() + 2e6 * b.entropy.sum() + 1e6 * b.kl.sum()).backward();
    CHECK(logits.grad().index_select(1, at::tensor({0, 2}, at::kLong)).eq(0).all().item<bool>());
    CHECK(largest_difference(logits.grad().index_select(1, picked) / 1e6, reduced.grad() / 1e6) <= 1e-5f);
  }
}

TEST_CASE("ActionMask: where one action is allowed its probability is 1 and everything else 0, exactly") {
  const ActionDistribution d = Categorical{3};
  const at::Tensor p = at::tensor({kMaskedLogit, 2.5f, kMaskedLogit}).view({1, 3}),
                   q = at::tensor({kMaskedLogit, -7.25f, kMaskedLogit}).view({1, 3}),
                   action = at::tensor({1}, at::kInt).view({1, 1});
  CHECK(log_prob(d, p, action).item<float>() == 0.0f);
  CHECK(entropy(d, p).item<float>() == 0.0f);
  CHECK(kl_divergence(d, p, q).item<float>() == 0.0f);
  const DistributionJacobian j = distribution_jacobian(d, p, q, action);
  CHECK(j.terms.eq(0).all().item<bool>());
  CHECK(j.derivatives.eq(0).all().item<bool>());
}

TEST_CASE("ActionMask: on unchanged weights the learner's probabilities are the runner's") {
  for (const EnvSpec* env : {&masked(), &masked_pair()})
    for (const char* executor : {"native", "torch"}) {
      CAPTURE(env->id);
      CAPTURE(executor);
      Config config = config_for_masks("PPO", executor, *env);
      config.environment.env_config = {{"allowed", 2}};
      config.training.lr = 0.0;
      Learner learner(config, env->observation_space, env->action_space);
      const auto layout = std::make_shared<const FragmentLayout>(fragment_layout(config, *env, learner.spec()));
      Fragment fragment(layout);
      RolloutWorker worker(config, *env, learner.spec(), 0);
      worker.sample(fragment, learner.weights());
      Metrics metrics = learner.update(&fragment).metrics;
      CHECK(std::abs(metrics.at("mean_kl_loss")) < 1e-6);
      // Two of three or four choices, one of two: at most log 2 of each element.
      CHECK(metrics.at("entropy") <= (env == &masked() ? 1 : 2) * std::log(2.0));
      CHECK(metrics.at("entropy") > 0.6);
      const auto logp = fragment.values<float>(layout->column("logp"));
      const auto inputs = fragment.values<float>(layout->column("action_dist_inputs"));
      const auto size = static_cast<int64_t>(logp.size()), k = int64_t{inputs_size(learner.spec().distribution)};
      const auto actions = fragment.values<int32_t>(layout->column("actions"));
      const int start = env == &masked() ? 10 : 0;
      const at::Tensor again = log_prob(
          learner.spec().distribution, at::from_blob(inputs.data(), {size, k}),
          at::from_blob(actions.data(), {size, static_cast<int64_t>(actions.size()) / size}, at::kInt) - start);
      CHECK(largest_difference(again, at::from_blob(logp.data(), {size})) <= 1e-6f);
    }
}

TEST_CASE("ActionMask: PPO, IMPALA, APPO and A2C learn among allowed actions, and take no other") {
  for (const char* algorithm : {"PPO", "IMPALA", "APPO", "A2C"})
    for (const std::string way : {"native", "torch", "device"}) {
      if (algorithm == std::string("A2C") && way == "native") continue;
      CAPTURE(algorithm);
      CAPTURE(way);
      const EnvSpec& env = masked();
      Config config = config_for_masks(algorithm == std::string("A2C") ? "PPO" : algorithm,
                                       way == "native" ? "native" : "torch", env);
      if (algorithm == std::string("A2C")) {
        config.algorithm = "A2C";
        config.algorithm_config = find_algorithm("A2C").make_config();
        config.training.minibatch_size = 0;
        config.training.num_epochs = 1;
      }
      config.environment.env_config = {{"allowed", 2}};
      Learner learner(config, env.observation_space, env.action_space, way == "device" ? make_cpu_support() : nullptr);
      const auto layout = std::make_shared<const FragmentLayout>(fragment_layout(config, env, learner.spec()));
      Fragment fragment(layout);
      RolloutWorker worker(config, env, learner.spec(), 0);
      const auto mean_reward = [&] {  // of actions drawn as likely as any: 1/2; of the better of two: 2/3
        worker.sample(fragment, learner.weights());
        double sum = 0;
        for (const float r : fragment.values<float>(layout->column("rewards"))) sum += static_cast<double>(r);
        return sum / (16 * 64);
      };
      CHECK(std::abs(mean_reward() - 0.5) < 0.05);
      for (int update = 0; update < 150; ++update) {
        const UpdateResult result = learner.update(&fragment);
        REQUIRE(result.metrics.at("num_skipped_updates") == 0);
        (void)mean_reward();
      }
      CHECK(mean_reward() > 0.6);
      const EvaluationResult played = evaluate(config, env, learner.spec(), learner.weights(), 100, 5, false);
      double steps = 0;
      for (const auto& episode : played.episodes) steps += episode.length;
      CHECK(played.return_mean() * 100 / steps > 0.6);
    }
}

TEST_SUITE_END();
