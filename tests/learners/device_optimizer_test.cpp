// On the CPU, against Optimizer.
#include "learners/device/device_optimizer.hpp"

#include <ATen/ATen.h>
#include <doctest/doctest.h>

#include <cmath>

#include "learners/native/optimizer.hpp"
#include "rl/check.hpp"

using namespace myriad;

TEST_SUITE_BEGIN("learners/device/device_optimizer");

namespace {

const ModuleSpec& spec() {
  static const ModuleSpec spec = make_mlp_spec(Space::box(-1, 1, {3}), Space::discrete(2), ModelConfig());
  return spec;
}

std::span<float> span_of(const at::Tensor& t) { return {t.mutable_data_ptr<float>(), static_cast<size_t>(t.numel())}; }

}  // namespace

TEST_CASE("DeviceOptimizer: a hundred steps as Optimizer takes them, with and without clipping and rates by part") {
  at::manual_seed(1);
  const auto size = static_cast<int64_t>(spec().num_parameters());
  const std::map<std::string, double> parts{{"encoder", 0.5}, {"encoder.0.bias", 0}, {"pi", 0}, {"vf", 3}};
  for (const auto& [clip, multipliers] : {std::pair(std::optional<double>(), std::map<std::string, double>()),
                                          {std::optional<double>(0.5), {}},
                                          {std::optional<double>(1e6), {}},
                                          {std::optional<double>(0.5), parts}}) {
    Optimizer want(spec(), 1e-8, clip, multipliers);
    DeviceOptimizer got(lr_ranges(spec(), multipliers), 1e-8, clip, c10::kCPU);
    const at::Tensor a = at::randn({size}), b = a.clone();
    for (int i = 0; i < 100; ++i) {
      const at::Tensor gradient = at::randn({size}) * (i % 10 == 0 ? 100 : 1);
      const double lr = 1e-3 * (1 + i % 3);
      CHECK(want.step(span_of(a), span_of(gradient), lr) == Optimizer::Outcome::stepped);
      const at::Tensor norm = at::linalg_vector_norm(gradient);
      got.step(b, gradient, at::full({}, lr), norm);
      CHECK(norm.item<double>() == doctest::Approx(want.gradient_norm()).epsilon(1e-5));
      CHECK(got.count(norm.item<double>()));
    }
    CHECK((a - b).abs().max().item<float>() <= 2e-5f);
    CHECK(got.state().at("steps").i64() == want.state().at("steps").i64());
  }
}

TEST_CASE("DeviceOptimizer: a gradient that is not finite changes nothing and is counted, in a row too") {
  DeviceOptimizer optimizer({{{0, 4}}}, 1e-8, 1.0, c10::kCPU);
  const at::Tensor parameters = at::ones({4});
  const auto step = [&](const at::Tensor& gradient) {
    const at::Tensor norm = at::linalg_vector_norm(gradient);
    optimizer.step(parameters, gradient, at::full({}, 0.1), norm);
    return optimizer.count(norm.item<double>());
  };
  CHECK(step(at::ones({4})));
  const TensorMap before = optimizer.state();
  const at::Tensor kept = parameters.clone();
  const auto counters = [&] {
    const DeviceOptimizer::Counters& c = optimizer.counters();
    return std::vector<int64_t>{c.steps, c.skipped, c.skipped_in_a_row, c.longest_row};
  };
  for (const float bad : {NAN, INFINITY}) {
    CHECK(!step(at::full({4}, bad)));
    CHECK(at::equal(parameters, kept));
    CHECK(optimizer.state().at("exp_avg").f32() == before.at("exp_avg").f32());
    CHECK(optimizer.state().at("exp_avg_sq").f32() == before.at("exp_avg_sq").f32());
  }
  CHECK(counters() == std::vector<int64_t>{1, 2, 2, 2});  // steps, skipped, in a row, longest row
  CHECK(step(at::ones({4})));
  CHECK(counters() == std::vector<int64_t>{2, 2, 0, 2});
  CHECK(!at::equal(parameters, kept));
  optimizer.set_state(optimizer.state());
  CHECK(counters() == std::vector<int64_t>{2, 2, 0, 0});
  const at::Tensor untouched = at::ones({4});
  DeviceOptimizer fresh({{{0, 4}}}, 1e-8, 1.0, c10::kCPU);
  fresh.step(untouched, at::full({4}, NAN), at::full({}, 0.1), at::full({}, NAN));
  fresh.step(untouched, at::ones({4}), at::full({}, 0.1), at::full({}, 2.0));
  CHECK(untouched[0].item<float>() == doctest::Approx(0.9));  // Adam's first step is lr long: the skipped one was none
}

TEST_CASE("DeviceOptimizer: its state is Optimizer's, and both go on from either") {
  at::manual_seed(2);
  const auto size = static_cast<int64_t>(spec().num_parameters());
  Optimizer here(spec(), 1e-8, 0.5);
  DeviceOptimizer there(lr_ranges(spec(), {}), 1e-8, 0.5, c10::kCPU);
  const at::Tensor a = at::randn({size}), b = a.clone();
  const at::Tensor lr = at::full({}, 1e-2);
  for (int i = 0; i < 5; ++i) {
    const at::Tensor random = at::randn({size});
    there.step(b, random, lr, at::linalg_vector_norm(random));
    there.count(1.0);
  }
  a.copy_(b);
  here.set_state(there.state());
  CHECK(here.num_steps() == 5);
  const at::Tensor gradient = at::randn({size});
  CHECK(here.step(span_of(a), span_of(gradient), 1e-2) == Optimizer::Outcome::stepped);
  DeviceOptimizer again(lr_ranges(spec(), {}), 1e-8, 0.5, c10::kCPU);
  again.set_state(there.state());
  again.step(b, gradient, lr, at::linalg_vector_norm(gradient));
  CHECK((a - b).abs().max().item<float>() <= 1e-6f);
  TensorMap broken = there.state();
  broken["exp_avg"] = Tensor::of(std::vector<float>{1, 2}, {2});
  CHECK_THROWS_AS(again.set_state(broken), Error);
  broken.erase("exp_avg");
  CHECK_THROWS_AS(again.set_state(broken), Error);
}

TEST_SUITE_END();
