#include "algorithms/ops/gae.hpp"

#include <array>
#include <cmath>
#include <vector>

#include "rl/check.hpp"
#include "tests/algorithms/examples.hpp"

using namespace myriad;

TEST_SUITE_BEGIN("algorithms/gae");

namespace {

struct Gae {
  std::vector<float> advantages, targets;
};
Gae gae(const TrajectoriesExample& e, double gamma, double lambda) {
  Gae out{std::vector<float>(e.rewards.size()), std::vector<float>(e.rewards.size())};
  compute_gae(e.view(), gamma, lambda, out.advantages, out.targets);
  return out;
}

}  // namespace

TEST_CASE("compute_gae: a termination, a time limit and a cut by hand") {
  const TrajectoriesExample e = three_ends();
  const Gae out = gae(e, 0.5, 0.5);
  // t = 1, all: 2 + 0.5 * 10 - 6 = 1.
  // t = 0: terminal 1 - 4 = -3; limit 1 + 0.5 * 8 - 4 = 1; going on 1 + 0.5 * 6 - 4 = 0, plus 0.25 * 1.
  CHECK(out.advantages == std::vector<float>{-3, 1, 0.25f, 1, 1, 1});
  CHECK(out.targets == std::vector<float>{1, 5, 4.25f, 7, 7, 7});
}

TEST_CASE("compute_gae: final values are read in time-major order, not where a termination came at the limit") {
  const TrajectoriesExample e{.steps = 2,
                              .environments = 2,
                              .rewards = {0, 0, 0, 0},
                              .values = {0, 0, 0, 0, 0, 0},
                              .final_values = {1, 2},
                              .terminateds = {0, 1, 0, 0},
                              .truncateds = {1, 1, 0, 1}};
  CHECK(gae(e, 1.0, 0.0).advantages == std::vector<float>{1, 0, 0, 2});
}

TEST_CASE("compute_gae: lambda 0 is the one-step TD error") {
  const TrajectoriesExample e = random_trajectories(1);
  const Gae out = gae(e, 0.9, 0.0);
  size_t final_row = 0;
  for (size_t i = 0; i < e.rewards.size(); ++i) {
    double next = e.values[i + e.environments];
    if (e.truncateds[i] && !e.terminateds[i]) next = e.final_values[final_row++];
    if (e.terminateds[i]) next = 0;
    CHECK(out.advantages[i] == doctest::Approx(e.rewards[i] + 0.9 * next - e.values[i]).epsilon(1e-5));
  }
}

TEST_CASE("compute_gae: lambda 1 is the discounted return minus V") {
  const TrajectoriesExample e = random_trajectories(2);
  const Gae out = gae(e, 0.9, 1.0);
  for (size_t i = 0; i < e.rewards.size(); ++i) {
    double result = 0, discount = 1;
    for (size_t j = i;; j += e.environments) {
      result += discount * e.rewards[j];
      discount *= 0.9;
      if (e.terminateds[j]) break;
      if (e.truncateds[j]) {
        size_t row = 0;
        for (size_t k = 0; k < j; ++k) row += e.truncateds[k] && !e.terminateds[k];
        result += discount * e.final_values[row];
        break;
      }
      if (j + e.environments >= e.rewards.size()) {
        result += discount * e.values[j + e.environments];
        break;
      }
    }
    CHECK(out.targets[i] == doctest::Approx(result).epsilon(1e-4));
    CHECK(out.advantages[i] == doctest::Approx(result - e.values[i]).epsilon(1e-4));
  }
}

TEST_CASE("compute_gae: shapes that do not fit are refused") {
  TrajectoriesExample e = random_trajectories(3);
  e.final_values.push_back(0);
  CHECK_THROWS_AS(gae(e, 0.9, 0.9), Error);
  e.final_values.resize(e.final_values.size() - 2);
  CHECK_THROWS_AS(gae(e, 0.9, 0.9), Error);
  e = random_trajectories(3);
  e.values.pop_back();
  CHECK_THROWS_AS(gae(e, 0.9, 0.9), Error);
}

TEST_CASE("explained_variance: 1 for the truth, 0 for a constant, floored at -1") {
  const std::vector<float> y{1, 2, 3, 4};
  CHECK(explained_variance(y, y) == 1.0);
  CHECK(explained_variance(y, std::vector<float>(4, 7.0f)) == doctest::Approx(0.0));
  CHECK(explained_variance(y, std::vector<float>{-100, 100, -100, 100}) == -1.0);
  CHECK(explained_variance(std::vector<float>(4, 1.0f), y) == 0.0);
}

TEST_CASE("standardise: mean 0 and std 1, but no std below 1e-4") {
  const auto standardised = [](std::vector<float> x) {
    standardise(x);
    return x;
  };
  const std::vector<float> x = standardised({1, 2, 3, 6});  // mean 3, population variance 3.5
  for (size_t i = 0; i < 4; ++i) CHECK(x[i] == doctest::Approx(std::array{-2, -1, 0, 3}[i] / std::sqrt(3.5)));
  CHECK(standardised({2e-4f, -2e-4f})[0] == doctest::Approx(1));     // std 2e-4
  CHECK(standardised({5e-5f, -5e-5f})[1] == doctest::Approx(-0.5));  // std 5e-5: by 1e-4
  const float little = std::ldexp(1.0f, -20);  // of numbers that are equal but for their last bits
  const std::vector<float> close = standardised({1, 1 + little, 1 - little});
  CHECK(close[0] == 0.0f);
  CHECK(close[1] == doctest::Approx(0.0095367431640625));  // 2^-20 / 1e-4
  CHECK(close[2] == doctest::Approx(-0.0095367431640625));
}

TEST_SUITE_END();
