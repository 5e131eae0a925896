#include "learners/tensor_batch.hpp"

#include <ATen/ATen.h>
#include <doctest/doctest.h>

#include "rl/check.hpp"

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

TEST_CASE("make_tensor_batch: columns that do not fit the module are refused") {
  Fragment f = fragment_of(DType::f32);
  CHECK_THROWS_AS(make_tensor_batch(f, spec_of(Space::discrete(2)), Space::discrete(2), nullptr), Error);
  const Space two = Space::box(-1, 1, {2});
  CHECK_THROWS_AS(make_tensor_batch(f, spec_of(two), two, nullptr), Error);
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
