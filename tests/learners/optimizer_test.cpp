#include "learners/native/optimizer.hpp"

#include <doctest/doctest.h>
#include <torch/optim/adam.h>

#include <cmath>

#include "rl/check.hpp"

using namespace myriad;

TEST_SUITE_BEGIN("learners/native/optimizer");

namespace {
/// Linear heads alone: pi.weight [0, 2), pi.bias [2, 4), vf.weight [4], vf.bias [5].
ModuleSpec tiny() {
  ModuleSpec spec;
  spec.obs_size = 1;
  spec.networks = {{"encoder", {"obs"}, {}, true},
                   {"pi", {"encoder"}, {Linear{1, 2}}, true},
                   {"vf_encoder", {"obs"}, {}},
                   {"vf", {"vf_encoder"}, {Linear{1, 1}}}};
  spec.distribution = Categorical{2};
  return spec;
}
}  // namespace

TEST_CASE("Adam: the first steps by hand") {
  Optimizer adam(tiny(), 1e-8, std::nullopt);
  std::vector<float> x{1, 2, 3, 4, 5, 6};
  const std::vector<float> g{0.5f, -2, 0, 1, 1, 1};
  REQUIRE(adam.step(x, g, 0.1) == Optimizer::Outcome::stepped);
  // After bias correction m = g and v = g^2, so each moves by lr * sign(g).
  CHECK(x[0] == doctest::Approx(0.9));
  CHECK(x[1] == doctest::Approx(2.1));
  CHECK(x[2] == 3.0f);
  CHECK(adam.gradient_norm() == doctest::Approx(std::sqrt(0.25 + 4 + 3)));
  const std::vector<float> second{-0.5f, -2, 0, 1, 1, 1};
  REQUIRE(adam.step(x, second, 0.1) == Optimizer::Outcome::stepped);
  // m = (0.9*0.05 - 0.05) / 0.19 = -0.0263158, v = 0.25: x moves by 0.1 * 0.0263158 / 0.5.
  CHECK(x[0] == doctest::Approx(0.9 + 0.1 * 0.0263158 / 0.5).epsilon(1e-5));
}

TEST_CASE("Adam: parts with a learning rate of their own, and frozen ones") {
  Optimizer adam(tiny(), 1e-8, std::nullopt, {{"pi", 0.1}, {"pi.bias", 0}, {"vf.bias", 2}});
  std::vector<float> x{1, 2, 3, 4, 5, 6};
  std::vector<float> g{0.5f, -2, 9, 9, 1, -1};
  adam.clear_frozen(g, {0, 6});
  REQUIRE(g == std::vector<float>{0.5f, -2, 0, 0, 1, -1});
  REQUIRE(adam.step(x, g, 0.1) == Optimizer::Outcome::stepped);
  CHECK(x[0] == doctest::Approx(0.99));  // each by its rate times sign(g)
  CHECK(x[1] == doctest::Approx(2.01));
  CHECK(x[2] == 3.0f);
  CHECK(x[3] == 4.0f);
  CHECK(x[4] == doctest::Approx(4.9));
  CHECK(x[5] == doctest::Approx(6.2));
  CHECK(adam.gradient_norm() == doctest::Approx(std::sqrt(0.25 + 4 + 2)));
  // The same of a part: pi.weight[1], pi.bias and vf.weight.
  std::vector<float> part{9, 9, 9, 9};
  adam.clear_frozen(part, {1, 5});
  REQUIRE(part == std::vector<float>{9, 0, 0, 9});
  adam.set_part({1, 5}, {{}, AlignedVector(4), AlignedVector(4)});
  std::vector<float> y{2, 3, 4, 5};
  REQUIRE(adam.step(y, part, 0.1, 162) == Optimizer::Outcome::stepped);
  CHECK(y[0] == doctest::Approx(1.99));
  CHECK(y[1] == 3.0f);
  CHECK(y[3] == doctest::Approx(4.9));
}

TEST_CASE("Adam: a hundred clipped steps equal torch's") {
  ModelConfig config;
  config.fcnet_hiddens = {16};
  const ModuleSpec spec = make_mlp_spec(Space::box(-1, 1, {3}), Space::discrete(2), config);
  std::vector<float> ours = initial_parameters(spec, 1);
  const auto count = static_cast<int64_t>(ours.size());
  at::Tensor theirs = at::from_blob(ours.data(), {count}, at::kFloat).clone().set_requires_grad(true);
  torch::optim::Adam torch_adam({theirs}, torch::optim::AdamOptions(1e-2).eps(1e-6));
  Optimizer adam(spec, 1e-6, 0.5);
  RandomStream random(2, StreamPurpose::simulation, 0);
  std::vector<float> gradient(ours.size());
  for (int step = 0; step < 100; ++step) {
    for (float& g : gradient)
      g = static_cast<float>(random.normal() * (step % 3 == 0 ? 1e-3 : 1.0));  // some are not clipped
    at::Tensor g = at::from_blob(gradient.data(), {count}, at::kFloat).clone();
    g.mul_(std::min(1.0, 0.5 / (g.norm().item<double>() + 1e-6)));
    theirs.mutable_grad() = g;
    torch_adam.step();
    REQUIRE(adam.step(ours, gradient, 1e-2) == Optimizer::Outcome::stepped);
  }
  const float* want = theirs.const_data_ptr<float>();
  for (size_t i = 0; i < ours.size(); ++i) CHECK(std::abs(ours[i] - want[i]) <= 1e-5f);
}

TEST_CASE("Optimizer: a gradient that is not finite changes nothing; the third in a row names its tensor") {
  Optimizer adam(tiny(), 1e-8, 1.0);
  std::vector<float> x{1, 2, 3, 4, 5, 6};
  const std::vector<float> before = x, good(6, 1.0f);
  std::vector<float> bad = good;
  bad[3] = std::nanf("");  // pi.weight is [0, 2), pi.bias [2, 4)
  CHECK(adam.step(x, bad, 0.1) == Optimizer::Outcome::skipped);
  CHECK(adam.step(x, bad, 0.1) == Optimizer::Outcome::skipped);
  CHECK(x == before);
  CHECK(adam.step(x, good, 0.1) == Optimizer::Outcome::stepped);  // a good one starts the count anew
  CHECK(adam.step(x, bad, 0.1) == Optimizer::Outcome::skipped);
  CHECK(adam.step(x, bad, 0.1) == Optimizer::Outcome::skipped);
  try {
    static_cast<void>(adam.step(x, bad, 0.1));
    FAIL("it went on");
  } catch (const Error& error) {
    CHECK(error.code() == "diverged");
    CHECK(std::string(error.what()).find("'pi.bias'") != std::string::npos);
  }
  CHECK(adam.num_skipped() == 5);
  CHECK(adam.num_steps() == 1);
}

TEST_CASE("Optimizer: a saved state continues bit for bit, a foreign one is refused") {
  Optimizer a(tiny(), 1e-8, 1.0), b(tiny(), 1e-8, 1.0);
  std::vector<float> x{1, 2, 3, 4, 5, 6};
  const std::vector<float> g{0.5f, -2, 0, 1, 1, 1};
  static_cast<void>(a.step(x, g, 0.1));
  b.set_state(a.state());
  std::vector<float> y = x;
  static_cast<void>(a.step(x, g, 0.1));
  static_cast<void>(b.step(y, g, 0.1));
  CHECK(x == y);
  // Skipped 3, of these 2 in a row: the next one is the third, there as here.
  const std::vector<float> bad(6, std::nanf(""));
  for (const auto& gradient : {bad, g, bad, bad}) static_cast<void>(a.step(x, gradient, 0.1));
  b.set_state(a.state());
  CHECK(b.num_skipped() == 3);
  CHECK(b.num_steps() == a.num_steps());
  CHECK_THROWS_AS(static_cast<void>(b.step(y, bad, 0.1)), Error);
  b.set_state(a.state());
  CHECK(b.step(y, g, 0.1) == Optimizer::Outcome::stepped);
  CHECK(b.step(y, bad, 0.1) == Optimizer::Outcome::skipped);
  TensorMap state = a.state();
  state["exp_avg"].bytes.resize(4);
  CHECK_THROWS_AS(b.set_state(state), Error);
  state.erase("steps");
  CHECK_THROWS_AS(b.set_state(state), Error);
}

TEST_SUITE_END();
