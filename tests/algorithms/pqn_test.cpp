#include <ATen/ATen.h>
#include <doctest/doctest.h>

#include <cmath>

#include "learners/learner.hpp"
#include "rl/run_layout.hpp"
#include "tests/algorithms/examples.hpp"
#include "tests/error_of.hpp"

using namespace myriad;

TEST_SUITE_BEGIN("algorithms/pqn");

namespace {

Config pqn(std::vector<std::string> settings = {}) { return load_config("algorithm = 'PQN'", "test", settings); }

/// Over the trajectories; `final_rows` more of final_obs that no index names.
TensorBatch batch_of(const TrajectoriesExample& e, int64_t final_rows = 0) {
  TensorBatch batch;
  batch.steps = static_cast<int64_t>(e.steps), batch.environments = static_cast<int64_t>(e.environments);
  const auto grid = [&](const at::Tensor& x) { return x.view({-1, batch.environments}); };
  batch.columns = {{"rewards", grid(at::tensor(e.rewards))},
                   {"terminateds", grid(at::tensor(e.terminateds, at::kByte))},
                   {"truncateds", grid(at::tensor(e.truncateds, at::kByte))}};
  batch.columns[kFinalIndex] = final_index(batch.columns.at("terminateds"), batch.columns.at("truncateds"));
  batch.values = grid(at::tensor(e.values));
  batch.final_values = at::cat({at::tensor(e.final_values), at::full({final_rows}, NAN)});
  return batch;
}

/// Both forms' targets [T * N].
std::array<at::Tensor, 2> targets_of(const Config& config, const TrajectoriesExample& e) {
  const auto algorithm = make_algorithm(config);
  TensorBatch batch = batch_of(e);
  Metrics metrics;
  sampled(*algorithm).sample_targets(batch, metrics, {});
  return {algorithm->targets(batch_of(e, 1), {}).columns.at("value_targets").flatten(),
          batch.columns.at("value_targets").flatten()};
}

/// Q(lambda) as the paper has it: over max_a Q, and max_a Q of final_obs at a time limit.
std::vector<double> q_lambda(const TrajectoriesExample& e, double gamma, double lambda) {
  const size_t n = e.environments, rows = e.steps * n;
  std::vector<double> targets(rows);
  size_t final_row = e.final_values.size();
  for (size_t i = rows; i-- > 0;) {
    const double next = e.values[i + n];
    if (e.terminateds[i])
      targets[i] = e.rewards[i];
    else if (e.truncateds[i])
      targets[i] = e.rewards[i] + gamma * e.final_values[--final_row];
    else if (i + n >= rows)
      targets[i] = e.rewards[i] + gamma * next;
    else
      targets[i] = e.rewards[i] + gamma * ((1 - lambda) * next + lambda * targets[i + n]);
  }
  return targets;
}

}  // namespace

TEST_CASE("PQN: the loss of two samples by hand") {
  const auto algorithm = make_algorithm(pqn());
  const ModuleSpec spec = make_q_spec(Space::box(-1, 1, {2}), Space::discrete(3), ModelConfig());
  const Columns minibatch{{"actions", at::tensor(std::vector<int>{2, 0}, at::kInt).view({2, 1})},
                          {"value_targets", at::tensor({1.0f, 5.0f})}};
  at::Tensor q = at::tensor({7.0f, 8.0f, 4.0f, 3.0f, 9.0f, 6.0f}).view({2, 3}).set_requires_grad(true);
  const Loss loss = loss_of(*algorithm, spec, {q, at::zeros({2})}, minibatch);
  // Q(s, a) are 4 and 3, errors 3 and -2: 0.5 (9 + 4) / 2. d/dQ(s, a) = error / 2.
  CHECK(at::allclose(loss.metrics, at::tensor({3.25f, 3.5f})));
  CHECK(loss.total.item<double>() == doctest::Approx(3.25));
  loss.total.backward();
  CHECK(at::allclose(q.grad(), at::tensor({0.0f, 0.0f, 1.5f, -1.0f, 0.0f, 0.0f}).view({2, 3})));
}

TEST_CASE("PQN: targets are Q(lambda) by hand at a terminal state, a time limit and the fragment's end") {
  const TrajectoriesExample e = three_ends();
  // gamma 0.5. Step 1, the fragment's last: 2 + 10 / 2 = 7. Step 0: terminal 1; time limit 1 + 8 / 2 = 5; else
  // 1 + ((1 - lambda) 6 + lambda 7) / 2.
  for (const auto& [lambda, goes_on] : {std::pair(0.0, 4.0f), {0.5, 4.25f}, {1.0, 4.5f}})
    for (const at::Tensor& got : targets_of(pqn({"training.gamma=0.5", fmt::format("training.lambda_={}", lambda)}), e))
      CHECK(at::allclose(got, at::tensor({1.0f, 5.0f, goes_on, 7.0f, 7.0f, 7.0f})));
}

TEST_CASE("PQN: targets are the recursion of Q(lambda) on random trajectories") {
  for (uint64_t seed = 1; seed <= 10; ++seed) {
    const TrajectoriesExample e = random_trajectories(seed);
    const std::vector<double> want = q_lambda(e, 0.99, 0.65);
    for (const at::Tensor& got : targets_of(pqn(), e))
      CHECK(at::allclose(got, at::tensor(want).to(at::kFloat), 1e-4, 1e-5));
  }
}

TEST_CASE("PQN: of a batch without environments there are no targets") {
  const auto algorithm = make_algorithm(pqn());
  TensorBatch nothing;
  nothing.values = at::zeros({0});
  CHECK(algorithm->targets(nothing, {}).columns.at("value_targets").numel() == 0);
}

TEST_CASE("PQN: CleanRL's defaults, and what the schedule of epsilon says") {
  const Config config = pqn();
  CHECK(config.training.lr == Schedule(2.5e-4));
  CHECK(config.training.gamma == 0.99);
  CHECK(config.training.train_batch_size == 512);
  CHECK(config.training.minibatch_size == 128);
  CHECK(config.training.num_epochs == 4);
  CHECK(config.training.grad_clip == 10.0);
  CHECK(config.training.sampling == "sync");
  const EnvSpec env{.id = "a",
                    .observation_space = Space::box(-1, 1, {4}),
                    .action_space = Space::discrete(2),
                    .source = "",
                    .make = nullptr};
  CHECK(module_of(config, env).to_string() ==
        "4 -> 120 layernorm relu -> 84 layernorm relu -> epsilon-greedy 2; value: the greatest");
  const Schedule& epsilon = find_algorithm("PQN").epsilon(config);
  CHECK(epsilon.at(0) == 1.0);
  CHECK(epsilon.at(125'000) == doctest::Approx(0.525));
  CHECK(epsilon.at(250'000) == 0.05);
  CHECK(epsilon.at(500'000) == 0.05);
}

TEST_CASE("PQN: what it cannot do is an error with its name") {
  const Space one = Space::box(-1, 1, {1});
  const auto refused = [&](const Config& config, const Space& actions) {
    return error_of([&] { Learner(config, one, actions); });
  };
  CHECK(refused(pqn(), one) == "error[unsupported-space] PQN wants a Discrete action space, got " + one.to_string());
  CHECK(refused(pqn(), Space(MultiDiscrete{{2, 3}})).find("PQN wants a Discrete action space") != std::string::npos);
  CHECK(refused(pqn({"rl_module.vf_share_layers=true"}), Space::discrete(2)) ==
        "error[impossible] rl_module.vf_share_layers is true: PQN has no value network; want false");
  CHECK_THROWS_WITH_AS(pqn({"training.sampling=async"}), doctest::Contains("PQN samples sync or lag1"), Error);
  CHECK_THROWS_AS(pqn({"training.epsilon=1.5"}), Error);
}

TEST_CASE("PQN: a checkpoint has the epsilon of its env steps") {
  for (const char* executor : {"native", "torch"}) {
    Learner learner(pqn({"training.epsilon=[[0, 1.0], [512, 0.5]]", fmt::format("learners.executor={}", executor)}),
                    Space::box(-1, 1, {2}), Space::discrete(2));
    CHECK(learner.state().connectors.at("epsilon").f64() == std::vector{1.0});
    reward_after(learner, 1, 0);  // 256 env steps
    CHECK(learner.state().connectors.at("epsilon").f64() == std::vector{0.75});
  }
}

TEST_CASE("PQN: learns a two-step problem, from batches of the last policy and of the one before") {
  for (const char* executor : {"native", "torch"})
    for (const int lag : {0, 1}) {
      CAPTURE(executor);
      CAPTURE(lag);
      Learner learner(pqn({"rl_module.fcnet_hiddens=[32, 32]", "training.lr=3e-3", "learners.num_threads=1",
                           fmt::format("learners.executor={}", executor)}),
                      Space::box(-1, 1, {2}), Space::discrete(2));
      CHECK(reward_after(learner, 60, lag) > 0.9);  // one action in ten is random: at most 0.95
    }
}

TEST_SUITE_END();
