#include "learners/tensor_batch.hpp"

#include <ATen/ATen.h>
#include <doctest/doctest.h>

#include "env_runners/rollout_worker.hpp"
#include "learners/device/device_batch.hpp"
#include "rl/check.hpp"
#include "rl/random.hpp"
#include "rl/wrappers.hpp"
#include "tests/env_runners/toy_envs.hpp"
#include "tests/rl/frame_stacks.hpp"

using namespace myriad;

TEST_SUITE_BEGIN("learners/tensor_batch");

namespace {

ModuleSpec spec_of(const Space& actions) {
  ModelConfig config;
  config.fcnet_hiddens = {4};
  return make_mlp_spec(Space::box(-1, 1, {2}), actions, config);
}

Fragment fragment_of(DType actions) {
  auto layout = std::make_shared<FragmentLayout>(2, 3);
  layout->add("obs", Rows::step_and_bootstrap, DType::f32, {2})
      .add("actions", Rows::step, actions, {1})
      .add("rewards", Rows::step, DType::f32, {});
  layout->add("final_obs", Rows::final_step, DType::f32, {2});
  Fragment fragment(layout);
  float next = 0;
  for (float& x : fragment.values<float>(layout->column("obs"))) x = next++;
  fragment.final_rows = 2;
  for (size_t i = 0; i < 4; ++i)
    fragment.values<float>(layout->column("final_obs"))[i] = 100.0f + static_cast<float>(i);
  return fragment;
}

}  // namespace

TEST_CASE("make_tensor_batch: columns are views of the fragment, time-major") {
  Fragment f = fragment_of(DType::i32);
  const TensorBatch batch = make_tensor_batch(f, spec_of(Space::discrete(2)), Space::discrete(2), nullptr);
  CHECK(batch.obs.sizes().vec() == std::vector<int64_t>{3, 3, 2});
  CHECK(batch.obs[1][2][1].item<float>() == 11.0f);
  CHECK(batch.columns.at("obs").sizes().vec() == std::vector<int64_t>{2, 3, 2});
  CHECK(batch.final_obs.sizes().vec() == std::vector<int64_t>{2, 2});
  CHECK(batch.final_obs[1][0].item<float>() == 102.0f);
  CHECK(batch.columns.at("rewards").const_data_ptr() == f.row(f.layout().column("rewards"), 0));
  CHECK(batch.obs.const_data_ptr() == f.row(f.layout().column("obs"), 0));
}

TEST_CASE("make_tensor_batch: the filter applies to obs and final_obs and leaves the fragment as it was") {
  Fragment f = fragment_of(DType::i32);
  MeanStdFilter filter(2);
  const std::vector<float> rows{0, 0, 2, 4};
  filter.update(rows);
  const TensorBatch batch = make_tensor_batch(f, spec_of(Space::discrete(2)), Space::discrete(2), &filter);
  std::vector<float> want(2);
  filter.apply(std::vector<float>{10, 11}, want);
  CHECK(batch.obs[1][2][0].item<float>() == want[0]);
  CHECK(batch.obs[1][2][1].item<float>() == want[1]);
  filter.apply(std::vector<float>{102, 103}, want);
  CHECK(batch.final_obs[1][1].item<float>() == want[1]);
  CHECK(f.values<float>(f.layout().column("obs"))[11] == 11.0f);
}

TEST_CASE("make_tensor_batch: Discrete actions count from 0, and none lies outside") {
  Fragment f = fragment_of(DType::i32);
  const Space actions = Space::discrete(2, 5);
  CHECK_THROWS_AS(make_tensor_batch(f, spec_of(actions), actions, nullptr), Error);
  for (int32_t& a : f.values<int32_t>(f.layout().column("actions"))) a = 6;
  CHECK(make_tensor_batch(f, spec_of(actions), actions, nullptr).columns.at("actions").min().item<int>() == 1);
}

TEST_CASE("stacked: by hand, three frames of one feature over four steps") {
  const at::Tensor frames = at::arange(10, 17, at::kFloat).view({7, 1, 1});  // S_0 is 10 11 12, then 13, 14, 15, 16
  using Flags = std::vector<int>;
  const auto stacks = [&](const Flags& terminateds, const Flags& truncateds) {
    const auto flags = [](const Flags& of_steps) { return at::tensor(of_steps).to(at::kByte).view({4, 1}); };
    const at::Tensor rows = stacked(frames, flags(terminateds), flags(truncateds), 3);
    CHECK(rows.sizes().vec() == std::vector<int64_t>{5, 1, 3});
    return std::vector<float>(rows.const_data_ptr<float>(), rows.const_data_ptr<float>() + rows.numel());
  };
  const Flags none(4, 0);
  using Floats = std::vector<float>;
  CHECK(stacks(none, none) == Floats{10, 11, 12, 11, 12, 13, 12, 13, 14, 13, 14, 15, 14, 15, 16});
  // S_2, whose frame is 14, begins an episode: the step before ended one.
  const Floats middle{10, 11, 12, 11, 12, 13, 14, 14, 14, 14, 14, 15, 14, 15, 16};
  CHECK(stacks({0, 1, 0, 0}, none) == middle);
  CHECK(stacks(none, {0, 1, 0, 0}) == middle);
  CHECK(stacks({0, 1, 0, 0}, {0, 1, 0, 0}) == middle);
  // S_1 and S_2 do; S_2 and S_4 do.
  CHECK(stacks({1, 0, 0, 0}, {0, 1, 0, 0}) == Floats{10, 11, 12, 13, 13, 13, 14, 14, 14, 14, 14, 15, 14, 15, 16});
  CHECK(stacks({0, 1, 0, 1}, none) == Floats{10, 11, 12, 11, 12, 13, 14, 14, 14, 14, 14, 15, 16, 16, 16});
  // The bootstrap observation does.
  CHECK(stacks(none, {0, 0, 0, 1}) == Floats{10, 11, 12, 11, 12, 13, 12, 13, 14, 13, 14, 15, 16, 16, 16});
  CHECK_THROWS_AS(stacked(frames, at::zeros({4, 1}, at::kByte), at::zeros({4, 1}, at::kByte), 2), Error);
}

TEST_CASE("stacked: environments and features stay apart") {
  // frames[row][e] = {10 row + e, -(10 row + e)}; environment 1 ends at step 0.
  const at::Tensor count = at::arange(4, at::kFloat).mul(10).unsqueeze(1) + at::arange(2, at::kFloat);
  const at::Tensor frames = at::stack({count, -count}, 2);
  const at::Tensor terminateds = at::tensor({0, 1, 0, 0}, at::kByte).view({2, 2});
  const at::Tensor rows = stacked(frames, terminateds, at::zeros_like(terminateds), 2);
  const auto stack = [&](int64_t t, int64_t e) {
    const float* row = rows.const_data_ptr<float>() + (t * 2 + e) * 4;
    return std::vector<float>(row, row + 4);
  };
  using Floats = std::vector<float>;
  CHECK(stack(0, 0) == Floats{0, 0, 10, -10});
  CHECK(stack(0, 1) == Floats{1, -1, 11, -11});
  CHECK(stack(1, 0) == Floats{10, -10, 20, -20});
  CHECK(stack(1, 1) == Floats{21, -21, 21, -21});
  CHECK(stack(2, 0) == Floats{20, -20, 30, -30});
  CHECK(stack(2, 1) == Floats{21, -21, 31, -31});
}

TEST_CASE("stacked: the rule of rl/fragment.hpp, over random ends") {
  RandomStream random(5, StreamPurpose::simulation, 0);
  for (int i = 0; i < 200; ++i) {
    const auto below = [&](uint64_t n) { return static_cast<int>(random.below(n)); };
    auto layout = std::make_shared<FragmentLayout>(1 + below(8), 1 + below(4), 2 + below(6));
    layout->add("frames", Rows::frame, DType::f32, {1 + below(3)})
        .add("terminateds", Rows::step, DType::u8, {})
        .add("truncateds", Rows::step, DType::u8, {});
    Fragment fragment(layout);
    for (float& x : fragment.values<float>(layout->column("frames"))) x = static_cast<float>(random.normal());
    for (const char* name : {"terminateds", "truncateds"})
      for (uint8_t& flag : fragment.values<uint8_t>(layout->column(name))) flag = below(4) == 0;
    const at::Tensor rows = observations(fragment);
    CHECK(std::vector<float>(rows.const_data_ptr<float>(), rows.const_data_ptr<float>() + rows.numel()) ==
          test::stacks_of(fragment));
  }
}

TEST_CASE("make_tensor_batch: of frames, the very observations that a runner's policy saw") {
  for (const int k : {1, 3, 5}) {
    CAPTURE(k);
    Config config = test::config_for(test::chancy(), 3, 4);
    config.environment.frame_stack = k;
    const EnvSpec env = wrapped_spec(test::chancy(), config.environment);
    const ModuleSpec spec = make_mlp_spec(env.observation_space, env.action_space, config.rl_module);
    RolloutWorker worker(config, env, spec, 0);
    const Weights weights{
        .version = 1, .layout_hash = spec.hash(), .values = initial_parameters(spec, 1), .filter = {}};
    EigenPolicy policy(spec);
    policy.load(weights.values);
    Fragment fragment(std::make_shared<const FragmentLayout>(fragment_layout(config, env, spec)));
    for (int i = 0; i < 20; ++i) {
      worker.sample(fragment, weights);
      const TensorBatch batch = make_tensor_batch(fragment, spec, env.action_space, nullptr);
      REQUIRE(batch.obs.sizes().vec() == std::vector<int64_t>{5, 3, 2 * k});
      std::vector<float> inputs(4 * 3 * 2);
      policy.forward(batch.obs.const_data_ptr<float>(), 12, inputs.data());
      const auto seen = fragment.values<float>(fragment.layout().column("action_dist_inputs"));
      CHECK(inputs == std::vector<float>(seen.begin(), seen.end()));
    }
  }
}

TEST_CASE("make_tensor_batch: of a picture beside floats, which stays bytes, the very observations that a policy saw") {
  Config config = test::config_for(test::camera(), 3, 7);
  config.algorithm_config = find_algorithm(config.algorithm).make_config();
  const EnvSpec& env = test::camera();
  const ModuleSpec spec = make_mlp_spec(env.observation_space, env.action_space, config.rl_module);
  const auto layout = std::make_shared<const FragmentLayout>(fragment_layout(config, env, spec));
  REQUIRE(layout->observation_columns().size() == 3);
  CHECK(layout->column("obs.0").row_bytes == 2 * sizeof(float));
  CHECK(layout->column("obs.1").dtype == DType::u8);
  CHECK(layout->column("obs.1").row_bytes == 64);
  CHECK(layout->column("obs.2").row_bytes == 3 * sizeof(float));  // one-hot
  CHECK(layout->column("final_obs").row_bytes == 69 * sizeof(float));
  CHECK(layout->find("obs") == nullptr);
  RolloutWorker worker(config, env, spec, 0);
  const Weights weights{.version = 1, .layout_hash = spec.hash(), .values = initial_parameters(spec, 1), .filter = {}};
  EigenPolicy policy(spec);
  policy.load(weights.values);
  const auto support = make_cpu_support();
  const auto algorithm = make_algorithm(config);
  RecordedWork work(*support, false);
  DeviceBatch device(spec, env.action_space, *algorithm, *support, work);
  size_t final_rows = 0;
  for (int i = 0; i < 20; ++i) {
    Fragment fragment(layout);
    worker.sample(fragment, weights);
    final_rows += fragment.final_rows;
    CHECK(fragment_violation(*layout, fragment.used(), fragment.final_rows, env.action_space) == "");
    const TensorBatch batch = make_tensor_batch(fragment, spec, env.action_space, nullptr);
    REQUIRE(batch.obs.sizes().vec() == std::vector<int64_t>{8, 3, 69});
    std::vector<float> inputs(7 * 3 * 2);
    policy.forward(batch.obs.const_data_ptr<float>(), 7 * 3, inputs.data());
    const auto seen = fragment.values<float>(layout->column("action_dist_inputs"));
    CHECK(inputs == std::vector<float>(seen.begin(), seen.end()));
    device.load(fragment, nullptr);
    const at::Tensor rows = batch.obs.reshape({-1, 69});
    CHECK(at::equal(device.all_obs().narrow(0, 0, rows.size(0)), rows));
    Columns kept;
    device.keep(kept);
    device.bring_back(kept);
    CHECK(at::equal(device.all_obs().narrow(0, 0, rows.size(0)), rows));
  }
  CHECK(final_rows > 0);
  config.environment.observation_filter = "MeanStdFilter";
  CHECK(fragment_layout(config, env, spec).column("obs").dtype == DType::f32);
}

TEST_CASE("make_tensor_batch: columns that do not fit the module are refused") {
  Fragment f = fragment_of(DType::f32);
  CHECK_THROWS_AS(make_tensor_batch(f, spec_of(Space::discrete(2)), Space::discrete(2), nullptr), Error);
  const Space two = Space::box(-1, 1, {2});
  CHECK_THROWS_AS(make_tensor_batch(f, spec_of(two), two, nullptr), Error);
  auto layout = std::make_shared<FragmentLayout>(2, 3, 3);  // stacks of three features
  layout->add("frames", Rows::frame, DType::f32, {1})
      .add("terminateds", Rows::step, DType::u8, {})
      .add("truncateds", Rows::step, DType::u8, {})
      .add("actions", Rows::step, DType::i32, {1});
  Fragment stacks(layout);
  CHECK_THROWS_AS(make_tensor_batch(stacks, spec_of(Space::discrete(2)), Space::discrete(2), nullptr), Error);
}

TEST_CASE("sequence_columns: obs become rows of steps, bootstrap and final_obs; environments keep theirs") {
  TensorBatch batch;
  batch.steps = 2;
  batch.environments = 3;
  batch.obs = at::arange(9, at::kFloat).view({3, 3, 1});  // obs[t][e] = 3 t + e
  batch.final_obs = at::tensor({100.0f, 101.0f, 102.0f}).view({3, 1});
  batch.columns = {{"obs", batch.obs.narrow(0, 0, 2)},
                   {"rewards", at::arange(6, at::kFloat).view({2, 3})},
                   {"terminateds", at::tensor({0, 1, 0, 0, 0, 0}, at::kByte).view({2, 3})},
                   {"truncateds", at::tensor({1, 1, 0, 0, 1, 1}, at::kByte).view({2, 3})}};  // not the terminated one
  const Columns all = sequence_columns(batch, {"obs", "rewards", "terminateds", "truncateds"});
  const auto row = [](const at::Tensor& x) {
    const at::Tensor c = x.contiguous();
    return std::vector<float>(c.const_data_ptr<float>(), c.const_data_ptr<float>() + c.numel());
  };
  CHECK(row(all.at("obs")) == std::vector<float>{0, 1, 2, 3, 4, 5, 6, 7, 8, 100, 101, 102});
  CHECK(row(step_obs(all)) == std::vector<float>{0, 1, 2, 3, 4, 5});
  const std::vector<int64_t> environments{2, 0};
  const Columns part = sequence_columns_of(all, environments);
  CHECK(row(part.at("obs")) == std::vector<float>{2, 0, 5, 3, 8, 6, 100, 102});
  CHECK(row(part.at("rewards")) == std::vector<float>{2, 0, 5, 3});
  CHECK(part.at("truncateds")[0][1].item<int>() == 1);
  CHECK_THROWS_AS(sequence_columns(batch, {"logp"}), Error);
}

TEST_SUITE_END();
