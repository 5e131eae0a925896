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

TEST_SUITE_END();
