// Modules of more networks than a policy and a value, in every executor.
#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>
#include <doctest/doctest.h>

#include <cmath>

#include "env_runners/eigen_policy.hpp"
#include "rl/check.hpp"
#include "tests/error_of.hpp"
#include "tests/learners/same_gradient.hpp"

using namespace myriad;

TEST_SUITE_BEGIN("learners/networks");

namespace {

/// A squashed Gaussian policy, two critics of observation and action, and one of what the policy's encoder gives.
ModuleSpec with_critics() {
  ModuleSpec spec;
  spec.obs_size = 2;
  spec.distribution = SquashedGaussian{{1, true}};
  spec.networks = {
      {"encoder", {"obs"}, {Linear{2, 2}, Activate{Activation::elu, 2}}, true},
      {"pi", {"encoder"}, {Linear{2, 1}}, true},
      {"qf1", {"obs", "actions"}, {Linear{3, 2}, Activate{Activation::elu, 2}, Linear{2, 1}}},
      {"qf2", {"obs", "actions"}, {Linear{3, 1}}},
      {"qf3", {"actions", "encoder"}, {Linear{3, 1}}},
  };
  check_module(spec);
  return spec;
}

std::vector<float> numbers_by_hand(const ModuleSpec& spec) {
  const std::map<std::string, std::vector<float>> by_name{
      {"encoder.0.weight", {1, 0, 1, -1}},
      {"encoder.0.bias", {0, 5}},
      {"pi.weight", {2, 1}},
      {"pi.bias", {0.5}},
      {"log_std", {-1}},
      {"qf1.0.weight", {1, 1, 1, 2, 0, 1}},
      {"qf1.0.bias", {0, 2}},
      {"qf1.2.weight", {10, 7}},
      {"qf1.2.bias", {1}},
      {"qf2.0.weight", {1, 10, 100}},
      {"qf2.0.bias", {0}},
      {"qf3.weight", {1, 10, 100}},
      {"qf3.bias", {0.25}},
  };
  std::vector<float> values;
  for (const Parameter& p : spec.parameters()) {
    const std::vector<float>& here = by_name.at(p.name);
    REQUIRE(here.size() == p.count);
    values.insert(values.end(), here.begin(), here.end());
  }
  REQUIRE(spec.parameters().size() == by_name.size());
  return values;
}

std::vector<at::Tensor> tensors_of(const ModuleSpec& spec, const std::vector<float>& values) {
  at::Tensor flat = at::empty({static_cast<int64_t>(values.size())}, at::kFloat);
  std::ranges::copy(values, flat.mutable_data_ptr<float>());
  return parameter_views(spec, flat);
}

const std::vector<std::string> kAll{"pi", "qf1", "qf2", "qf3", "encoder"};

}  // namespace

TEST_CASE("Networks: each by its name, by hand") {
  const ModuleSpec spec = with_critics();
  const std::vector<at::Tensor> tensors = tensors_of(spec, numbers_by_hand(spec));
  const NetworkInputs inputs{at::tensor({1.0f, 2.0f}).view({1, 2}), at::tensor({3.0f}).view({1, 1})};
  const auto output = [&](const std::string& name) {
    const at::Tensor row = outputs_of(spec, tensors, {name}, inputs).at(0);
    REQUIRE(row.size(0) == 1);
    return std::vector<float>(row.const_data_ptr<float>(), row.const_data_ptr<float>() + row.size(1));
  };
  CHECK(output("encoder") == std::vector<float>{1, 4});  // 1 and 1 - 2 + 5
  CHECK(output("pi") == std::vector<float>{6.5, -1});    // 2 + 4 + 0.5, and the log std
  CHECK(output("qf1") == std::vector<float>{110});       // 6 and 2 + 3 + 2: 60 + 49 + 1
  CHECK(output("qf2") == std::vector<float>{321});       // 1 + 20 + 300
  CHECK(output("qf3") == std::vector<float>{413.25});    // 3 + 10 * 1 + 100 * 4 + 0.25
  const std::vector<at::Tensor> two = outputs_of(spec, tensors, {"qf2", "pi"}, inputs);
  CHECK(two.at(0).item<float>() == 321);
  CHECK(two.at(1)[0][0].item<float>() == 6.5);
  CHECK(error_of([&] { output("qf4"); }) == "error[bad-module] a module has no network qf4; did you mean qf1?");
  CHECK(
      error_of([&] { outputs_of(spec, tensors, {"qf1"}, {inputs.obs}); }).ends_with("qf1 reads actions, and got none"));
  // Other actions move the critics alone.
  const NetworkInputs other{inputs.obs, inputs.actions + 1};
  const std::vector<at::Tensor> before = outputs_of(spec, tensors, kAll, inputs),
                                after = outputs_of(spec, tensors, kAll, other);
  for (size_t i = 0; i < kAll.size(); ++i) CHECK(at::equal(before[i], after[i]) == !kAll[i].starts_with("qf"));
  // A forward pass wants none, and there is no value.
  const ModuleOutput forward = torch_forward(spec, tensors, inputs.obs);
  CHECK(at::equal(forward.action_dist_inputs, before[0]));
  CHECK(!forward.values.defined());
}

TEST_CASE("Networks: a pass computes what is asked for, once") {
  const ModuleSpec spec = with_critics();
  const std::vector<at::Tensor> tensors = tensors_of(spec, numbers_by_hand(spec));
  const std::vector<TorchLayer> layers = layers_of(spec);
  const auto offsets = [&](const std::vector<std::string>& names) {
    std::vector<size_t> called;
    run_networks(spec, layers, names, {at::ones({4, 2}), at::ones({4, 1})},
                 [&](const TorchLayer& l, const at::Tensor& x) {
                   called.push_back(l.range.begin);
                   return l.function(x, at::ArrayRef<at::Tensor>(tensors).slice(l.first, l.count));
                 });
    return called;
  };
  // encoder 0, pi 6, log_std 9, qf1 10 and 18, qf2 21, qf3 25.
  CHECK(offsets(kAll) == std::vector<size_t>{0, 6, 9, 10, 18, 21, 25});
  CHECK(offsets({"qf2"}) == std::vector<size_t>{21});
  CHECK(offsets({"qf3", "qf1"}) == std::vector<size_t>{0, 10, 18, 25});
  CHECK(offsets({"pi"}) == std::vector<size_t>{0, 6, 9});
}

TEST_CASE("Networks: gradients are those of finite differences, and none beyond what was asked for") {
  const ModuleSpec spec = with_critics();
  const std::vector<float> initial = initial_parameters(spec, 3);
  at::Tensor flat = at::empty({static_cast<int64_t>(initial.size())}, at::kFloat);
  std::ranges::copy(initial, flat.mutable_data_ptr<float>());
  flat = flat.to(at::kDouble).set_requires_grad(true);
  const at::Tensor obs = at::tensor({0.3, -1.2, 2.0, 0.5}).to(at::kDouble).view({2, 2}),
                   actions = at::tensor({0.7, -0.4}).to(at::kDouble).view({2, 1});
  const auto loss = [&](const at::Tensor& parameters, const std::vector<std::string>& names) {
    at::Tensor sum = at::zeros({}, at::kDouble);
    for (const at::Tensor& output : outputs_of(spec, parameter_views(spec, parameters), names, {obs, actions}))
      sum = sum + (output.to(at::kDouble) + 0.5).square().sum();
    return sum;
  };
  loss(flat, kAll).backward();
  const at::Tensor all = flat.grad().clone();
  constexpr double kStep = 0x1p-10;
  for (int64_t i = 0; i < flat.numel(); ++i) {
    const at::NoGradGuard no_grad;
    at::Tensor more = flat.detach().clone(), less = flat.detach().clone();
    more[i] += kStep, less[i] -= kStep;
    const double difference = (loss(more, kAll) - loss(less, kAll)).item<double>() / (2 * kStep);
    CHECK(all[i].item<double>() == doctest::Approx(difference).epsilon(2e-3));
  }
  flat.mutable_grad() = at::Tensor();
  loss(flat, {"qf1"}).backward();
  for (const Parameter& p : spec.parameters()) {
    const at::Tensor here = flat.grad().narrow(0, static_cast<int64_t>(p.offset), static_cast<int64_t>(p.count));
    CHECK((here.abs().max().item<double>() > 0) == p.name.starts_with("qf1"));
  }
}

TEST_CASE("Networks: runners compute those that act, on their part of the parameters") {
  const ModuleSpec spec = with_critics();
  CHECK(spec.num_inference_parameters() == 10);
  const std::vector<float> values = initial_parameters(spec, 3);
  EigenPolicy policy(spec);
  policy.load(std::span(values).first(10));
  const at::Tensor obs = at::randn({5, 2});
  at::Tensor eigen = at::empty({5, 2});
  policy.forward(obs.const_data_ptr<float>(), 5, eigen.mutable_data_ptr<float>());
  CHECK(at::allclose(eigen, torch_forward(spec, tensors_of(spec, values), obs).action_dist_inputs, 1e-5, 1e-5));
}

TEST_CASE("Networks: what a forward pass does not need has no gradient") {
  ModuleSpec spec = with_critics();
  spec.networks.push_back({"vf", {"encoder"}, {Linear{2, 1}}});
  const ModulePass pass =
      pass_of(spec, initial_parameters(spec, 3), Executor::torch, at::ones({3, 2}), at::ones({3, 2}), at::ones({3}));
  CHECK(pass.values.sizes() == at::IntArrayRef{3});
  for (const Parameter& p : spec.parameters()) {
    CAPTURE(p.name);
    float most = 0;
    for (const float g : std::span(pass.gradient).subspan(p.offset, p.count)) most = std::max(most, std::abs(g));
    CHECK((most > 0) == !p.name.starts_with("qf"));
  }
}

TEST_CASE("Networks: the native executor names the one that it cannot train") {
  ModuleSpec spec = with_critics();
  CHECK(NativeModule::obstacle(spec) == "a policy without a value");
  spec.networks.push_back({"vf", {"encoder"}, {Linear{2, 1}}});
  CHECK(NativeModule::obstacle(spec) == "the network qf1");
  CHECK(error_of([&] { NativeModule(spec, 1); }) ==
        "error[impossible] learners.executor 'native' cannot train the network qf1; 'torch' and 'auto' can");
  std::erase_if(spec.networks, [](const Network& network) { return network.name.starts_with("qf"); });
  CHECK(NativeModule::obstacle(spec).empty());
  spec.networks.back().inputs = {"obs"};
  CHECK(NativeModule::obstacle(spec) == "the network vf");
  spec.networks.back() = {"vf", {"encoder"}, {Linear{2, 2}, Linear{2, 1}}};
  CHECK(NativeModule::obstacle(spec) == "the network vf");
}

TEST_SUITE_END();
