// A Dict of actions from the runner to the update: every executor and algorithm.
#include <ATen/ATen.h>
#include <doctest/doctest.h>

#include <cmath>
#include <utility>

#include "env_runners/evaluator.hpp"
#include "env_runners/rollout_worker.hpp"
#include "learners/device/device_support.hpp"
#include "learners/module/action_distribution.hpp"
#include "tests/env_runners/toy_envs.hpp"
#include "tests/learners/learner_examples.hpp"

using namespace myriad;
using namespace myriad::test;

TEST_SUITE_BEGIN("learners/composite_actions");

namespace {

constexpr int kB = 16, kT = 64;

Config config_for_pad(const std::string& algorithm, const std::string& executor, const EnvSpec& env) {
  Config config =
      algorithm == "PPO" || algorithm == "A2C" ? config_of(executor) : async_config(algorithm.c_str(), executor);
  const Config run = config_for(env, kB, kT);
  config.environment = run.environment;
  config.env_runners = run.env_runners;
  config.training.train_batch_size = kB * kT;
  config.training.gamma = 0.0;
  config.training.lr = 3e-3;
  config.training.minibatch_size = algorithm == "PPO" ? 256 : 0;
  if (algorithm == "A2C") {
    config.algorithm = "A2C";
    config.algorithm_config = find_algorithm("A2C").make_config();
    config.training.num_epochs = 1;
  }
  return config;
}

struct Play {
  Config config;
  const EnvSpec& env;
  Learner learner;
  std::shared_ptr<const FragmentLayout> layout;
  Fragment fragment;
  RolloutWorker worker;

  Play(Config c, const EnvSpec& e, bool on_device = false)
      : config(std::move(c)),
        env(e),
        learner(config, env.observation_space, env.action_space, on_device ? make_cpu_support() : nullptr),
        layout(std::make_shared<const FragmentLayout>(fragment_layout(config, env, learner.spec()))),
        fragment(layout),
        worker(config, env, learner.spec(), 0) {}

  /// Samples a batch; its mean reward.
  double sample() {
    worker.sample(fragment, learner.weights());
    double sum = 0;
    for (const float r : fragment.values<float>(layout->column("rewards"))) sum += static_cast<double>(r);
    return sum / (kB * kT);
  }
};

}  // namespace

TEST_CASE("Composite actions: on unchanged weights the learner's probabilities are the runner's") {
  for (const EnvSpec* env : {&gamepad(), &masked_gamepad()})
    for (const char* executor : {"native", "torch"})
      for (const char* distribution : {"diag_gaussian", "squashed_gaussian", "beta"}) {
        CAPTURE(env->id);
        CAPTURE(executor);
        CAPTURE(distribution);
        Config config = config_for_pad("PPO", executor, *env);
        config.rl_module.action_distribution = distribution;
        config.training.lr = 0.0;
        if (env == &masked_gamepad()) config.environment.env_config = {{"allowed", 2}};
        Play play(std::move(config), *env);
        (void)play.sample();
        Metrics metrics = play.learner.update(&play.fragment).metrics;
        CHECK(std::abs(metrics.at("mean_kl_loss")) < 1e-5);
        const auto of = [&](const char* name) { return play.fragment.values<float>(play.layout->column(name)); };
        const auto n = static_cast<int64_t>(of("logp").size());
        const at::Tensor again =
            log_prob(play.learner.spec().distribution, at::from_blob(of("action_dist_inputs").data(), {n, 18}),
                     at::from_blob(of("actions").data(), {n, 8}));
        CHECK((again - at::from_blob(of("logp").data(), {n})).abs().max().item<float>() <= 2e-5f);
      }
}

TEST_CASE("Composite actions: a fragment whose choices cannot be is refused") {
  Play play(config_for_pad("PPO", "native", gamepad()), gamepad());
  (void)play.sample();
  auto actions = play.fragment.values<float>(play.layout->column("actions"));
  actions[8 + 7] = 3;  // of move's three
  CHECK_THROWS_WITH_AS(check_batch(play.fragment, play.learner.spec(), gamepad().action_space),
                       "actions[15] is choice 3 of 3", Error);
  actions[8 + 7] = 0.5f;
  CHECK_THROWS_AS(check_batch(play.fragment, play.learner.spec(), gamepad().action_space), Error);
}

TEST_CASE("Composite actions: PPO, IMPALA, APPO and A2C learn what only the right joint action earns") {
  for (const std::string algorithm : {"PPO", "IMPALA", "APPO", "A2C"})
    for (const std::string way : {"native", "torch", "device"}) {
      if (algorithm == "A2C" && way == "native") continue;
      if (algorithm != "PPO" && way == "torch") continue;  // the device's losses are torch's
      CAPTURE(algorithm);
      CAPTURE(way);
      Play play(config_for_pad(algorithm, way == "native" ? "native" : "torch", gamepad()), gamepad(), way == "device");
      CHECK(play.sample() < 0.03);  // drawn at random: about 1 in 144
      int updates = 0;
      double mean = 0;
      for (; updates < 400 && mean < 0.8; ++updates) {
        const UpdateResult result = play.learner.update(&play.fragment);
        REQUIRE(result.metrics.at("num_skipped_updates") == 0);
        mean = play.sample();
      }
      MESSAGE(algorithm, " ", way, ": ", updates, " updates");
      CHECK(mean >= 0.8);
      const EvaluationResult played =
          evaluate(play.config, gamepad(), play.learner.spec(), play.learner.weights(), 100, 5, false);
      CHECK(played.return_mean() > 9.5);  // of ten steps
    }
}

TEST_SUITE_END();
