#include "env_runners/action_dist.hpp"

#include <doctest/doctest.h>

#include <algorithm>
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

  TEST_CASE("EpsilonGreedy: a masked action is never the best one, nor any") {
    ActionDist dist(EpsilonGreedy{4}, Space::discrete(4));
    dist.set_epsilon(0.6);
    const std::vector<float> q{kMaskedLogit, -2.0f, kMaskedLogit, -5.0f};
    std::vector<RandomStream> stream = streams(1);
    std::vector<int32_t> action(1);
    std::vector<int> counts(4);
    float logp = 0;
    for (int i = 0; i < 20000; ++i) {
      dist.sample(q.data(), stream, bytes(action), &logp);
      ++counts[static_cast<size_t>(action[0])];
      CHECK(logp == doctest::Approx(std::log(action[0] == 1 ? 0.7 : 0.3)).epsilon(1e-6));
      CHECK(logp == dist.logp(q.data(), bytes(action)));
    }
    CHECK(counts[0] + counts[2] == 0);
    CHECK(chi_square({counts[1], counts[3]}, {0.7, 0.3}) < 10.9);  // 99.9 % for 1 degree of freedom
    dist.mode(q.data(), 1, bytes(action), &logp);
    CHECK(action[0] == 1);
    action[0] = 2;
    CHECK(dist.logp(q.data(), bytes(action)) == -INFINITY);
  }

  TEST_CASE("draw_choice: no masked choice, at either end of u and whatever is rounded") {
    const float m = kMaskedLogit;
    constexpr double kLast = 1.0 - 0x1p-53;  // the largest u that is drawn
    for (const std::vector<float>& logits : {std::vector<float>{m, 0.3f, m},
                                             {m, m, -50.0f},
                                             {0.3f, m, 0.2f, m},
                                             {m, 0.1f, m, 700.0f, 0.1f, m},
                                             {m, -1.0f, -1.1f, -1.2f, -1.3f, m, m}}) {
      std::vector<float> cumulative;
      const float top = *std::ranges::max_element(logits);
      for (const float x : logits)
        cumulative.push_back((cumulative.empty() ? 0.0f : cumulative.back()) + std::exp(x - top));
      for (const double u : {0.0, 0x1p-53, 0.25, 0.5, 0.75, kLast, 1.0}) {
        CAPTURE(u);
        const int choice = draw_choice(logits.data(), cumulative.data(), static_cast<int>(logits.size()), u);
        CHECK(logits.at(static_cast<size_t>(choice)) > m);
      }
    }
  }

  TEST_CASE("ActionDist: a masked choice has no probability, and is neither drawn nor the mode") {
    const float m = kMaskedLogit;
    ActionDist dist(MultiCategorical{{2, 3}}, Space(MultiDiscrete{{2, 3}}));
    const std::vector<float> logits{m, -3.0f, std::log(3.0f), m, 0.0f};
    std::vector<RandomStream> stream = streams(1);
    std::vector<int> counts(3);
    std::vector<int32_t> action(2);
    float logp = 0;
    for (int i = 0; i < 20000; ++i) {
      dist.sample(logits.data(), stream, bytes(action), &logp);
      REQUIRE(action[0] == 1);
      ++counts[static_cast<size_t>(action[1])];
      CHECK(logp == doctest::Approx(std::log(action[1] == 0 ? 0.75 : 0.25)).epsilon(1e-6));
    }
    CHECK(counts[1] == 0);
    CHECK(chi_square({counts[0], counts[2]}, {0.75, 0.25}) < 10.9);  // 99.9 % for 1 degree of freedom
    dist.mode(logits.data(), 1, bytes(action), &logp);
    CHECK(action == std::vector<int32_t>{1, 0});
    action = {0, 0};
    CHECK(dist.logp(logits.data(), bytes(action)) == -INFINITY);
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

  TEST_CASE("SquashedGaussian: atanh of it is the Gaussian's, and its density has the squashing's derivative") {
    ActionDist dist(SquashedGaussian{{2, true}}, Space::box(-1, 1, {2}));
    const std::vector<float> inputs{0.4f, -1.0f, std::log(0.5f), std::log(0.8f)};
    const double mean[]{0.4, -1}, std_dev[]{0.5, 0.8};
    std::vector<RandomStream> stream = streams(1);
    std::vector<float> action(2);
    float logp = 0;
    double sum[2]{}, squares[2]{};
    constexpr int kSamples = 50000;
    for (int i = 0; i < kSamples; ++i) {
      dist.sample(inputs.data(), stream, bytes(action), &logp);
      double want = 0;
      for (size_t j = 0; j < 2; ++j) {
        const double a = static_cast<double>(action[j]), z = (std::atanh(a) - mean[j]) / std_dev[j];
        sum[j] += z, squares[j] += z * z;
        want += -0.5 * z * z - std::log(std_dev[j]) - 0.5 * std::log(2 * std::numbers::pi) - std::log(1 - a * a);
      }
      REQUIRE(static_cast<double>(logp) == doctest::Approx(want).epsilon(1e-3));
      REQUIRE(dist.logp(inputs.data(), bytes(action)) == logp);
    }
    for (int j = 0; j < 2; ++j) {
      CHECK(std::abs(sum[j] / kSamples) < 4 / std::sqrt(kSamples));
      CHECK(std::abs(squares[j] / kSamples - 1) < 4 * std::sqrt(2.0 / kSamples));
    }
    dist.mode(inputs.data(), 1, bytes(action), &logp);
    CHECK(action[0] == doctest::Approx(std::tanh(0.4)));
    CHECK(action[1] == doctest::Approx(std::tanh(-1.0)));
    // Far out the action stays inside, and its density finite.
    const std::vector<float> far{50.0f, -50.0f, 1.0f, 1.0f};
    dist.sample(far.data(), stream, bytes(action), &logp);
    CHECK((action[0] < 1.0f && action[0] > 0.99f && action[1] > -1.0f));
    CHECK(std::isfinite(logp));
    action = {1.0f, -1.0f};  // of somebody else
    CHECK(std::isfinite(dist.logp(inputs.data(), bytes(action))));
  }

  TEST_CASE("Beta: moments, mode and density, in float32 and float64") {
    // softplus of these is 2, 1 | 1, 4: alpha 3, 2 and beta 2, 5.
    const auto shape = [](double s) { return static_cast<float>(std::log(std::exp(s) - 1)); };
    const std::vector<float> inputs{shape(2), shape(1), shape(1), shape(4)};
    const double alpha[]{3, 2}, beta[]{2, 5};
    for (const DType dtype : {DType::f32, DType::f64}) {
      ActionDist dist(Beta{2}, Space::box(-3, 5, {2}, dtype));
      std::vector<RandomStream> stream = streams(1);
      std::vector<float> a32(2);
      std::vector<double> a64(2);
      std::byte* row = dtype == DType::f32 ? bytes(a32) : bytes(a64);
      const auto x = [&](size_t j) { return (1 + (dtype == DType::f32 ? double{a32[j]} : a64[j])) / 2; };
      float logp = 0;
      double sum[2]{}, squares[2]{};
      constexpr int kSamples = 50000;
      for (int i = 0; i < kSamples; ++i) {
        dist.sample(inputs.data(), stream, row, &logp);
        // B(3, 2) = 1/12, B(2, 5) = 1/30; each a is twice as far as its x.
        const double want =
            std::log(12 * x(0) * x(0) * (1 - x(0)) / 2) + std::log(30 * x(1) * std::pow(1 - x(1), 4) / 2);
        REQUIRE(static_cast<double>(logp) == doctest::Approx(want).epsilon(1e-3));
        REQUIRE(dist.logp(inputs.data(), row) == logp);
        for (size_t j = 0; j < 2; ++j) sum[j] += x(j), squares[j] += x(j) * x(j);
      }
      for (size_t j = 0; j < 2; ++j) {
        const double both = alpha[j] + beta[j], mean = alpha[j] / both,
                     variance = alpha[j] * beta[j] / (both * both * (both + 1));
        CHECK(std::abs(sum[j] / kSamples - mean) < 4 * std::sqrt(variance / kSamples));
        CHECK(squares[j] / kSamples - mean * mean == doctest::Approx(variance).epsilon(0.04));
      }
      dist.mode(inputs.data(), 1, row, &logp);
      CHECK(x(0) == doctest::Approx(2.0 / 3));
      CHECK(x(1) == doctest::Approx(1.0 / 5));
    }
    ActionDist dist(Beta{1}, Space::box(-1, 1, {1}));
    const std::vector<float> flat{-200.0f, -200.0f};
    std::vector<float> action(1);
    float logp = 0;
    dist.mode(flat.data(), 1, bytes(action), &logp);
    CHECK(action[0] == 0.0f);
    CHECK(logp == doctest::Approx(std::log(0.5)));
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

  TEST_CASE("UniformActions: with a mask only what it allows, with the probability of that") {
    RandomStream random(1, StreamPurpose::action, 0);
    UniformActions discrete(Space::discrete(4, 10), true), pair(Space(MultiDiscrete{{2, 3}}), true);
    const std::vector<float> one{0, 0, 1, 0}, few{1, 0, 1, 0, 1};
    std::vector<int32_t> action(2);
    std::vector<int> counts(3);
    CHECK(discrete(random, {bytes(action), 4}, one.data()) == 0.0f);
    CHECK(action[0] == 12);
    for (int i = 0; i < 2000; ++i) {
      CHECK(pair(random, {bytes(action), 8}, few.data()) == doctest::Approx(std::log(0.5)));
      REQUIRE(action[0] == 0);
      ++counts[static_cast<size_t>(action[1])];
    }
    CHECK(counts[1] == 0);
    CHECK(chi_square({counts[0], counts[2]}, {0.5, 0.5}) < 10.9);
  }

  TEST_CASE("UniformActions: logp is that of the draw, in the policy's range") {
    RandomStream random(1, StreamPurpose::action, 0);
    std::vector<int32_t> choice(1);
    UniformActions discrete(Space::discrete(4), true);
    std::vector<int> counts(4);
    for (int i = 0; i < 20000; ++i) {
      CHECK(discrete(random, {bytes(choice), 4}) == doctest::Approx(std::log(0.25)));
      ++counts[static_cast<size_t>(choice[0])];
    }
    CHECK(chi_square(counts, {0.25, 0.25, 0.25, 0.25}) < 16.3);

    std::vector<float> action(2);
    UniformActions normalized(Space::box(-2, 6, {2}), true), raw(Space::box(-2, 6, {2}), false),
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
      UniformActions from_bound(half, normalize);
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

  TEST_CASE("Composite: parts draw one after the other from one stream, and their logp adds up") {
    const Space space = Dict{{{"aim", Space::box(-1, 1, {3})},
                              {"keys", MultiBinary{2}},
                              {"level", Space::box(0, 1, {1}, DType::f64)},
                              {"move", Space::discrete(3, 10)}}};
    const Composite all{{DiagGaussian{3, true}, MultiCategorical{{2, 2}}, Beta{1}, Categorical{3}}};
    const std::vector<float> inputs{0.1f, -0.2f, 0.3f, -0.5f, 0.0f,  -1.0f, 0.4f, -0.4f,
                                    1.0f, 0.0f,  0.5f, -0.5f, -1.0f, 2.0f,  0.5f};
    ActionDist dist(all, space);
    CHECK(dist.num_inputs() == 15);
    CHECK(dist.row_bytes() == 7 * sizeof(float));
    ActionDist aim(DiagGaussian{3, true}, Space::box(-1, 1, {3})), keys(MultiCategorical{{2, 2}}, MultiBinary{2}),
        level(Beta{1}, Space::box(0, 1, {1})), move(Categorical{3}, Space::discrete(3));
    std::vector<RandomStream> together = streams(1), apart = streams(1);
    std::vector<float> action(7);
    for (int i = 0; i < 100; ++i) {
      const bool draws = i < 99;  // the last one is the mode
      float logp = 0, part[4];
      if (draws)
        dist.sample(inputs.data(), together, bytes(action), &logp);
      else
        dist.mode(inputs.data(), 1, bytes(action), &logp);
      std::vector<float> reals(4);
      std::vector<int32_t> choices(3);
      const auto draw = [&](ActionDist& d, const float* in, std::byte* to, float* p) {
        if (draws)
          d.sample(in, apart, to, p);
        else
          d.mode(in, 1, to, p);
      };
      draw(aim, inputs.data(), bytes(reals), &part[0]);
      draw(keys, inputs.data() + 6, bytes(choices), &part[1]);
      draw(level, inputs.data() + 10, bytes(reals) + 3 * sizeof(float), &part[2]);
      draw(move, inputs.data() + 12, bytes(choices) + 2 * sizeof(int32_t), &part[3]);
      CHECK(action == std::vector<float>{reals[0], reals[1], reals[2], float(choices[0]), float(choices[1]), reals[3],
                                         float(choices[2])});
      CHECK(logp == part[0] + part[1] + part[2] + part[3]);
      CHECK(dist.logp(inputs.data(), bytes(action)) == logp);
    }
    action[6] = 3;
    CHECK_THROWS_AS((void)dist.logp(inputs.data(), bytes(action)), Error);
    for (const Composite& other :
         {Composite{{DiagGaussian{3, true}, MultiCategorical{{2, 2}}, Beta{1}}},
          Composite{{DiagGaussian{3, true}, MultiCategorical{{2, 2}}, Beta{1}, Categorical{4}}}})
      CHECK_THROWS_AS(ActionDist(other, space), Error);
    CHECK_THROWS_AS(ActionDist(Composite{{Categorical{3}}}, Space::discrete(3)), Error);
    CHECK_THROWS_AS(ActionDist(Categorical{3}, Tuple{{Space::discrete(3)}}), Error);
  }

  TEST_CASE("UniformActions: of a Dict, as fragments keep them, with and without a mask") {
    const Space space = Dict{{{"aim", Space::box(-2, 6, {1})},
                              {"far", Space::box(-INFINITY, INFINITY, {1}, DType::f64)},
                              {"keys", MultiBinary{1}},
                              {"move", Space::discrete(3, 10)}}};
    RandomStream random(1, StreamPurpose::action, 0);
    UniformActions uniform(space, true), raw(space, false);
    const std::vector<float> mask{0, 1, 1, 0, 1};
    std::vector<float> action(4);
    std::vector<int> counts(6);
    float low = 9, high = -9;
    const auto density = [&](double choices) {
      return doctest::Approx(-std::log(2.0) - 0.5 * double(action[1]) * double(action[1]) -
                             0.5 * std::log(2 * std::numbers::pi) - choices)
          .epsilon(1e-5);
    };
    for (int i = 0; i < 6000; ++i) {
      const float logp = uniform(random, {bytes(action), 16});
      CHECK(logp == density(std::log(6.0)));
      low = std::min(low, action[0]), high = std::max(high, action[0]);
      ++counts.at(static_cast<size_t>(3 * action[2] + action[3]));
    }
    CHECK(chi_square(counts, std::vector<double>(6, 1.0 / 6)) < 20.5);  // 99.9 % for 5 degrees of freedom
    CHECK((low >= -1 && low < -0.98f && high <= 1 && high > 0.98f));
    counts.assign(3, 0);
    for (int i = 0; i < 2000; ++i) {
      const float logp = uniform(random, {bytes(action), 16}, mask.data());
      CHECK(logp == density(std::log(2.0)));
      CHECK(action[2] == 1.0f);
      ++counts.at(static_cast<size_t>(action[3]));
    }
    CHECK(counts[1] == 0);
    CHECK(chi_square({counts[0], counts[2]}, {0.5, 0.5}) < 10.9);
    high = -9;
    for (int i = 0; i < 100; ++i) (void)raw(random, {bytes(action), 16}), high = std::max(high, action[0]);
    CHECK(high > 4);
  }
}
