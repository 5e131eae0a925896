#include "env_runners/action_dist.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <numbers>

#include "rl/check.hpp"

using namespace myriad;

namespace {

template <class T>
std::byte* bytes(std::vector<T>& values) {
  return reinterpret_cast<std::byte*>(values.data());
}

std::vector<RandomStream> streams(size_t n, uint64_t seed = 11) {
  std::vector<RandomStream> list;
  for (size_t i = 0; i < n; ++i) list.emplace_back(seed, StreamPurpose::action, i);
  return list;
}

/// Pearson's statistic of counts against probabilities.
double chi_square(const std::vector<int>& counts, const std::vector<double>& probabilities) {
  double total = 0, sum = 0;
  for (int count : counts) total += count;
  for (size_t i = 0; i < counts.size(); ++i) {
    const double want = total * probabilities[i];
    sum += (counts[i] - want) * (counts[i] - want) / want;
  }
  return sum;
}

}  // namespace

TEST_SUITE("env_runners/action_dist") {
  TEST_CASE("Categorical: frequencies and logp follow the logits, Discrete::start is added") {
    ActionDist dist(Categorical{4}, Space::discrete(4, 10));
    // p = softmax(log [1 2 3 4]) = [0.1 0.2 0.3 0.4]
    const std::vector<float> logits{0.0f, std::log(2.0f), std::log(3.0f), std::log(4.0f)};
    std::vector<RandomStream> stream = streams(1);
    std::vector<int> counts(4);
    std::vector<int32_t> action(1);
    float logp = 0;
    for (int i = 0; i < 40000; ++i) {
      dist.sample(logits.data(), stream, bytes(action), &logp);
      REQUIRE(action[0] >= 10);
      REQUIRE(action[0] <= 13);
      ++counts[static_cast<size_t>(action[0] - 10)];
      CHECK(logp == doctest::Approx(std::log(0.1 * (action[0] - 9))).epsilon(1e-6));
    }
    CHECK(chi_square(counts, {0.1, 0.2, 0.3, 0.4}) < 16.3);  // 99.9 % quantile for 3 degrees of freedom
    dist.mode(logits.data(), 1, bytes(action), &logp);
    CHECK(action[0] == 13);
    CHECK(logp == doctest::Approx(std::log(0.4)));
    action[0] = 9;
    CHECK_THROWS_AS((void)dist.logp(logits.data(), bytes(action)), Error);
  }

  TEST_CASE("Categorical: huge and masked logits neither overflow nor are drawn") {
    ActionDist dist(Categorical{3}, Space::discrete(3));
    const std::vector<float> logits{-1e30f, 500.0f, -1e30f};
    std::vector<RandomStream> stream = streams(1);
    std::vector<int32_t> action(1);
    float logp = 0;
    for (int i = 0; i < 1000; ++i) {
      dist.sample(logits.data(), stream, bytes(action), &logp);
      CHECK(action[0] == 1);
      CHECK(logp == 0.0f);
    }
  }

  TEST_CASE("EpsilonGreedy: the best action, or with probability epsilon any, at its true probability") {
    ActionDist dist(EpsilonGreedy{4}, Space::discrete(4, 10));
    CHECK(dist.is_epsilon_greedy());
    const std::vector<float> q{-3.0f, 2.0f, 2.0f, -50.0f};  // of equals the first is the best
    std::vector<RandomStream> stream = streams(1);
    std::vector<int32_t> action(1);
    float logp = 0;
    dist.sample(q.data(), stream, bytes(action), &logp);  // epsilon is 0 until it is set
    CHECK(action[0] == 11);
    CHECK(logp == 0.0f);
    for (const double epsilon : {0.4, 1.0}) {
      dist.set_epsilon(epsilon);
      const double best = 1 - epsilon + epsilon / 4, other = epsilon / 4;
      std::vector<int> counts(4);
      for (int i = 0; i < 40000; ++i) {
        dist.sample(q.data(), stream, bytes(action), &logp);
        REQUIRE(action[0] >= 10);
        REQUIRE(action[0] <= 13);
        ++counts[static_cast<size_t>(action[0] - 10)];
        CHECK(logp == doctest::Approx(std::log(action[0] == 11 ? best : other)).epsilon(1e-6));
        CHECK(logp == dist.logp(q.data(), bytes(action)));
      }
      CHECK(chi_square(counts, {other, best, other, other}) < 16.3);  // 99.9 % quantile for 3 degrees of freedom
      dist.mode(q.data(), 1, bytes(action), &logp);
      CHECK(action[0] == 11);
      CHECK(logp == doctest::Approx(std::log(best)));
    }
    dist.set_epsilon(0.0);
    action[0] = 10;
    CHECK(dist.logp(q.data(), bytes(action)) == -INFINITY);
    action[0] = 9;
    CHECK_THROWS_AS((void)dist.logp(q.data(), bytes(action)), Error);
    for (const float odd : {NAN, INFINITY, -INFINITY}) {
      const std::vector<float> broken{0.0f, 1.0f, odd, 2.0f};
      dist.sample(broken.data(), stream, bytes(action), &logp);
      CHECK(std::isnan(logp));
    }
    for (const double epsilon : {-0.1, 1.1, std::nan("")}) CHECK_THROWS_AS(dist.set_epsilon(epsilon), Error);
    ActionDist logits(Categorical{4}, Space::discrete(4));
    CHECK(!logits.is_epsilon_greedy());
    CHECK_THROWS_AS(logits.set_epsilon(0.1), Error);
    CHECK_THROWS_AS(ActionDist(EpsilonGreedy{3}, Space::discrete(4)), Error);
    CHECK_THROWS_AS(ActionDist(EpsilonGreedy{2}, Space::box(-1, 1, {2})), Error);
  }

  TEST_CASE("MultiCategorical: elements are independent and their logp adds up") {
    ActionDist dist(MultiCategorical{{2, 3}}, Space(MultiDiscrete{{2, 3}}));
    const std::vector<float> logits{0.0f, std::log(3.0f), std::log(5.0f), std::log(3.0f), std::log(2.0f)};
    const double first[]{0.25, 0.75}, second[]{0.5, 0.3, 0.2};
    std::vector<RandomStream> stream = streams(1);
    std::vector<int> counts(6);
    std::vector<int32_t> action(2);
    float logp = 0;
    for (int i = 0; i < 40000; ++i) {
      dist.sample(logits.data(), stream, bytes(action), &logp);
      ++counts[static_cast<size_t>(action[0] * 3 + action[1])];
      CHECK(logp == doctest::Approx(std::log(first[action[0]] * second[action[1]])).epsilon(1e-6));
    }
    std::vector<double> p;
    for (double a : first)
      for (double b : second) p.push_back(a * b);
    CHECK(chi_square(counts, p) < 20.5);  // 99.9 % for 5 degrees of freedom
    dist.mode(logits.data(), 1, bytes(action), &logp);
    CHECK(action == std::vector<int32_t>{1, 0});
  }

  TEST_CASE("MultiCategorical: covers MultiBinary") {
    ActionDist dist(MultiCategorical{{2, 2}}, Space(MultiBinary{2}));
    std::vector<int32_t> action(2);
    float logp = 0;
    dist.mode(std::vector<float>{0.0f, 1.0f, 1.0f, 0.0f}.data(), 1, bytes(action), &logp);
    CHECK(action == std::vector<int32_t>{1, 0});
  }

  TEST_CASE("DiagGaussian: moments, tails and logp are a normal's, in float32 and float64") {
    for (const DType dtype : {DType::f32, DType::f64}) {
      ActionDist dist(DiagGaussian{3, true}, Space::box(-1, 1, {3}, dtype));
      const std::vector<float> inputs{1.0f, -2.0f, 0.0f, std::log(0.5f), std::log(2.0f), 0.0f};
      const double mean[]{1, -2, 0}, std_dev[]{0.5, 2, 1};
      std::vector<RandomStream> stream = streams(1);
      std::vector<float> a32(3);
      std::vector<double> a64(3);
      float logp = 0;
      constexpr int kSamples = 50000;
      double sum[3]{}, squares[3]{}, cross = 0;
      int beyond[3]{};
      for (int i = 0; i < kSamples; ++i) {
        std::byte* row = dtype == DType::f32 ? bytes(a32) : bytes(a64);
        dist.sample(inputs.data(), stream, row, &logp);
        double want = 0, z[3];
        for (int j = 0; j < 3; ++j) {
          const double a =
              dtype == DType::f32 ? static_cast<double>(a32[static_cast<size_t>(j)]) : a64[static_cast<size_t>(j)];
          z[j] = (a - mean[j]) / std_dev[j];
          sum[j] += z[j], squares[j] += z[j] * z[j];
          beyond[j] += std::abs(z[j]) > 2;
          want += -0.5 * z[j] * z[j] - std::log(std_dev[j]) - 0.5 * std::log(2 * std::numbers::pi);
        }
        cross += z[0] * z[1];  // the two halves of one Box-Muller pair
        REQUIRE(static_cast<double>(logp) == doctest::Approx(want).epsilon(1e-5));
        REQUIRE(dist.logp(inputs.data(), row) == logp);
      }
      for (int j = 0; j < 3; ++j) {  // 4 standard errors each
        CHECK(std::abs(sum[j] / kSamples) < 4 / std::sqrt(kSamples));
        CHECK(std::abs(squares[j] / kSamples - 1) < 4 * std::sqrt(2.0 / kSamples));
        CHECK(std::abs(beyond[j] / double(kSamples) - 0.0455) < 4 * std::sqrt(0.0455 / kSamples));
      }
      CHECK(std::abs(cross / kSamples) < 4 / std::sqrt(kSamples));
    }
  }

  TEST_CASE("ActionDist: what an environment draws does not depend on its neighbours") {
    ActionDist dist(DiagGaussian{2, true}, Space::box(-1, 1, {2}));
    const std::vector<float> inputs{0.1f, 0.2f, 0.0f, 0.0f, 0.1f, 0.2f, 0.0f, 0.0f};
    std::vector<RandomStream> both = streams(2);
    std::vector<RandomStream> second{both[1]};
    std::vector<float> two(4), one(2), logp(2);
    dist.sample(inputs.data(), both, bytes(two), logp.data());
    dist.sample(inputs.data(), second, bytes(one), logp.data());
    CHECK(two[2] == one[0]);
    CHECK(two[3] == one[1]);
  }

  TEST_CASE("ActionDist: a distribution that does not fit the space is refused") {
    CHECK_THROWS_AS(ActionDist(Categorical{2}, Space::discrete(3)), Error);
    CHECK_THROWS_AS(ActionDist(DiagGaussian{2, true}, Space::box(-1, 1, {3})), Error);
    CHECK_THROWS_AS(ActionDist(Categorical{2}, Space::box(-1, 1, {2})), Error);
  }

  TEST_CASE("UniformActions: logp is that of the draw, in the policy's range") {
    RandomStream random(1, StreamPurpose::action, 0);
    std::vector<int32_t> choice(1);
    const UniformActions discrete(Space::discrete(4), true);
    std::vector<int> counts(4);
    for (int i = 0; i < 20000; ++i) {
      CHECK(discrete(random, {bytes(choice), 4}) == doctest::Approx(std::log(0.25)));
      ++counts[static_cast<size_t>(choice[0])];
    }
    CHECK(chi_square(counts, {0.25, 0.25, 0.25, 0.25}) < 16.3);

    std::vector<float> action(2);
    const UniformActions normalized(Space::box(-2, 6, {2}), true), raw(Space::box(-2, 6, {2}), false),
        open(Space::box(-INFINITY, INFINITY, {2}), true);
    float low = 9, high = -9;
    for (int i = 0; i < 2000; ++i) {
      CHECK(normalized(random, {bytes(action), 8}) == doctest::Approx(-2 * std::log(2.0)));
      low = std::min(low, action[0]), high = std::max(high, action[0]);
    }
    CHECK(low >= -1.0f);
    CHECK(low < -0.98f);
    CHECK(high <= 1.0f);
    CHECK(high > 0.98f);
    CHECK(raw(random, {bytes(action), 8}) == doctest::Approx(-2 * std::log(8.0)));
    const float logp = open(random, {bytes(action), 8});
    CHECK(logp ==
          doctest::Approx(-0.5 * (action[0] * action[0] + action[1] * action[1]) - std::log(2 * std::numbers::pi))
              .epsilon(1e-5));
    // One bound: exponential from it, of density e^-distance, normalized or not.
    const Space half(Box{.low = {1, -INFINITY}, .high = {INFINITY, -2}, .shape = {2}});
    for (const bool normalize : {false, true}) {
      const UniformActions from_bound(half, normalize);
      double up = 0, down = 0;
      for (int i = 0; i < 4000; ++i) {
        const float density = from_bound(random, {bytes(action), 8});
        const double above = double(action[0]) - 1, below = -2 - double(action[1]);
        CHECK((above >= 0 && below >= 0));
        CHECK(density == doctest::Approx(-above - below).epsilon(1e-5));
        up += above / 4000, down += below / 4000;
      }
      CHECK(std::abs(up - 1) < 5 / std::sqrt(4000.0));  // mean and deviation of the exponential are 1
      CHECK(std::abs(down - 1) < 5 / std::sqrt(4000.0));
    }
  }
}
