#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <doctest/doctest.h>

#include <cmath>

#include "learners/learner.hpp"
#include "tests/algorithms/examples.hpp"

using namespace myriad;

TEST_SUITE_BEGIN("algorithms/a2c");

namespace {

Config a2c(std::vector<std::string> settings = {}) { return load_config("algorithm = 'A2C'", "test", settings); }

}  // namespace

TEST_CASE("A2C: the loss of two samples by hand") {
  const auto algorithm = make_algorithm(a2c({"training.vf_loss_coeff=0.5"}));
  const ModuleSpec spec = make_mlp_spec(Space::box(-1, 1, {2}), Space::discrete(2), ModelConfig());
  const Columns minibatch{{"actions", at::tensor(std::vector<int>{1, 0}, at::kInt).view({2, 1})},
                          {"advantages", at::tensor({2.0f, -1.0f})},
                          {"value_targets", at::tensor({0.0f, 1.0f})},
                          {"entropy_coeff", at::scalar_tensor(0.1)}};
  const Loss loss = loss_of(*algorithm, spec, {at::zeros({2, 2}), at::tensor({1.0f, 0.0f})}, minibatch);
  // Both log probabilities are -log 2, errors 1 and -1, entropies log 2.
  const double log2 = std::log(2.0);
  const at::Tensor want = at::tensor(std::vector<double>{log2 * (2 - 1) / 2, 1.0, log2}, at::kFloat);
  CHECK(at::allclose(loss.metrics, want));
  CHECK(loss.total.item<double>() == doctest::Approx(log2 / 2 + 0.5 * 1.0 - 0.1 * log2));
}

TEST_CASE("A2C: targets are GAE by hand, of a batch without environments nothing") {
  const auto algorithm = make_algorithm(a2c({"training.gamma=0.5", "training.lambda_=1"}));
  const TrajectoriesExample e = three_ends();
  TensorBatch batch;
  batch.steps = 2, batch.environments = 3;
  batch.columns = {{"rewards", at::tensor(e.rewards).view({2, 3})},
                   {"terminateds", at::tensor(e.terminateds, at::kByte).view({2, 3})},
                   {"truncateds", at::tensor(e.truncateds, at::kByte).view({2, 3})}};
  batch.columns[kFinalIndex] = final_index(batch.columns.at("terminateds"), batch.columns.at("truncateds"));
  batch.values = at::tensor(e.values).view({3, 3});
  batch.final_values = at::tensor(e.final_values);
  const TargetColumns got = algorithm->targets(batch, {});
  // Step 1: 2 + 10 / 2 = 7. Step 0: terminal 1; time limit 1 + 8 / 2 = 5; else 1 + 7 / 2 = 4.5.
  CHECK(at::allclose(got.columns.at("value_targets"), at::tensor({1.0f, 5.0f, 4.5f, 7.0f, 7.0f, 7.0f}).view({2, 3})));
  CHECK(at::allclose(got.columns.at("advantages"), at::tensor({-3.0f, 1.0f, 0.5f, 1.0f, 1.0f, 1.0f}).view({2, 3})));
  TensorBatch nothing;
  nothing.values = at::zeros({0});
  CHECK(algorithm->targets(nothing, {}).columns.at("advantages").numel() == 0);
}

TEST_CASE("A2C: an algorithm without an accelerator is refused by executor native, and trained by the others") {
  for (const char* executor : {"auto", "torch"}) {
    CAPTURE(executor);
    const Learner learner(a2c({fmt::format("learners.executor={}", executor)}), Space::box(-1, 1, {2}),
                          Space::discrete(2));
    CHECK(learner.device().is_cpu());
  }
  CHECK_THROWS_WITH_AS(Learner(a2c({"learners.executor=native"}), Space::box(-1, 1, {2}), Space::discrete(2)),
                       "A2C has no loss by hand, which executor 'native' wants; 'auto' and 'torch' train it", Error);
}

TEST_CASE("A2C: torch, which trains it, has the learner's threads where the module is large") {
  for (const auto& [hiddens, threads] : {std::pair("[64, 64]", 1), std::pair("[512, 512]", 3)}) {
    const Learner learner(a2c({fmt::format("rl_module.fcnet_hiddens={}", hiddens), "learners.num_threads=3"}),
                          Space::box(-1, 1, {2}), Space::discrete(2));
    CHECK(at::get_num_threads() == threads);
  }
}

TEST_SUITE_END();
