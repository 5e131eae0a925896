#include "algorithms/ops/vtrace.hpp"

#include "algorithms/ops/gae.hpp"
#include "tests/algorithms/examples.hpp"

using namespace myriad;

TEST_SUITE_BEGIN("algorithms/vtrace");

namespace {

struct Vtrace {
  std::vector<float> targets, advantages;
};
Vtrace vtrace(const Trajectories& x, const std::vector<float>& ratios, double gamma, const VtraceSettings& settings) {
  Vtrace out{std::vector<float>(x.rewards.size()), std::vector<float>(x.rewards.size())};
  compute_vtrace(x, ratios, gamma, settings, out.targets, out.advantages);
  return out;
}

std::vector<float> random_ratios(size_t count, uint64_t seed) {
  RandomStream random(seed, StreamPurpose::simulation, 1);
  std::vector<float> ratios(count);
  for (float& r : ratios) r = static_cast<float>(std::exp(random.normal()));
  return ratios;
}

}  // namespace

TEST_CASE("compute_vtrace: a termination, a time limit and a cut by hand") {
  const TrajectoriesExample e = three_ends();
  const Vtrace out = vtrace(e.view(), {2, 0.5f, 3, 0.5f, 2, 0.25f}, 0.5, {});
  // t = 1, all: delta = 2 + 0.5 * 10 - 6 = 1, times rho = 0.5, 1, 0.25.
  // t = 0: terminal 1 - 4 = -3; limit 0.5 (1 + 0.5 * 8 - 4) = 0.5; going on 1 + 0.5 * 6 - 4 = 0, plus 0.5 * 0.25.
  CHECK(out.targets == std::vector<float>{1, 4.5f, 4.125f, 6.5f, 7, 6.25f});
  CHECK(out.advantages == std::vector<float>{-3, 0.5f, 0.125f, 0.5f, 1, 0.25f});  // 1 + 0.5 * 6.25 - 4 = 0.125
}

TEST_CASE("compute_vtrace: each threshold bounds its own ratio, lambda scales c") {
  const TrajectoriesExample e = three_ends();
  const VtraceSettings settings{.clip_rho = 2, .clip_c = 0.5, .clip_pg_rho = 3, .lambda = 0.5};
  const Vtrace out = vtrace(e.view(), {4, 0.5f, 3, 0.5f, 4, 0.25f}, 0.5, settings);
  // t = 1: rho = 0.5, 2, 0.25; weights 0.5, 3, 0.25.
  // t = 0: terminal rho 2, weight 3; going on c = 0.5 * 0.5: 2 * 0 + 0.5 * 0.25 * 0.25, weight 3 on 0.125.
  CHECK(out.targets == std::vector<float>{-2, 4.5f, 4.03125f, 6.5f, 8, 6.25f});
  CHECK(out.advantages == std::vector<float>{-9, 0.5f, 0.375f, 0.5f, 3, 0.25f});
}

TEST_CASE("compute_vtrace: on-policy its targets are lambda-returns, and with lambda 1 its advantages GAE's") {
  const TrajectoriesExample e = random_trajectories(4);
  for (const double lambda : {0.0, 0.6, 1.0})
    for (const double clip : {1.0, 3.0}) {
      const Vtrace out = vtrace(e.view(), std::vector<float>(60, 1.0f), 0.9, {clip, clip, clip, lambda});
      std::vector<float> advantages(60), targets(60);
      compute_gae(e.view(), 0.9, lambda, advantages, targets);
      for (size_t i = 0; i < 60; ++i) {
        CHECK(out.targets[i] == doctest::Approx(targets[i]).epsilon(1e-5));
        if (lambda == 1.0) CHECK(out.advantages[i] == doctest::Approx(advantages[i]).epsilon(1e-5));
      }
    }
}

TEST_CASE("compute_vtrace: off-policy its targets are the paper's sum over the steps ahead") {
  const TrajectoriesExample e = random_trajectories(5);
  const std::vector<float> ratios = random_ratios(60, 5);
  const VtraceSettings s{.clip_rho = 1.5, .clip_c = 0.8};
  const Vtrace out = vtrace(e.view(), ratios, 0.9, s);
  for (size_t i = 0; i < 60; ++i) {
    double sum = 0, weight = 1;  // gamma^(j - i) c_i ... c_(j-1)
    for (size_t j = i; j < 60; j += e.environments) {
      double next = e.values[j + e.environments];
      size_t row = 0;
      for (size_t k = 0; k < j; ++k) row += e.truncateds[k] && !e.terminateds[k];
      if (e.terminateds[j])
        next = 0;
      else if (e.truncateds[j])
        next = e.final_values[row];
      sum += weight * std::min(double{ratios[j]}, s.clip_rho) * (e.rewards[j] + 0.9 * next - e.values[j]);
      if (e.terminateds[j] || e.truncateds[j]) break;
      weight *= 0.9 * std::min(double{ratios[j]}, s.clip_c);
    }
    CHECK(out.targets[i] == doctest::Approx(e.values[i] + sum).epsilon(1e-4));
  }
}

TEST_CASE("compute_vtrace: a cut where the bootstrap value is already vs changes nothing") {
  TrajectoriesExample e = random_trajectories(6);
  std::ranges::fill(e.truncateds, uint8_t{0});
  e.final_values.clear();
  const std::vector<float> ratios = random_ratios(60, 6);
  const VtraceSettings s{.clip_rho = 0.9, .clip_c = 0.9};  // equal, as the identity wants
  const Vtrace whole = vtrace(e.view(), ratios, 0.9, s);
  TrajectoriesExample first = e;
  first.steps = 6;
  for (auto* v : {&first.rewards, &first.values}) v->resize(30);
  for (auto* v : {&first.terminateds, &first.truncateds}) v->resize(30);
  first.values.insert(first.values.end(), whole.targets.begin() + 30, whole.targets.begin() + 35);
  const Vtrace half = vtrace(first.view(), {ratios.begin(), ratios.begin() + 30}, 0.9, s);
  for (size_t i = 0; i < 30; ++i) {
    CHECK(half.targets[i] == doctest::Approx(whole.targets[i]).epsilon(1e-5));
    CHECK(half.advantages[i] == doctest::Approx(whole.advantages[i]).epsilon(1e-5));
  }
}

TEST_CASE("compute_vtrace: NaN passes through the thresholds; shapes that do not fit are refused") {
  TrajectoriesExample e = three_ends();
  CHECK(std::isnan(vtrace(e.view(), {1, 1, std::nanf(""), 1, 1, 1}, 0.5, {}).advantages[2]));
  CHECK_THROWS_AS(vtrace(e.view(), std::vector<float>(5, 1.0f), 0.5, {}), Error);
  e.final_values.clear();
  CHECK_THROWS_AS(vtrace(e.view(), std::vector<float>(6, 1.0f), 0.5, {}), Error);
}

TEST_SUITE_END();
