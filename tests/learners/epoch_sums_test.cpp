#include "learners/epoch_sums.hpp"

#include <doctest/doctest.h>

#include <array>

using namespace myriad;

TEST_SUITE_BEGIN("learners/epoch_sums");

namespace {

constexpr std::array<std::string_view, 1> kNames{"a_loss"};
const ValueFit kHalf{{4, 0, 8}, {4, 0, 4}}, kNone{{4, 0, 8}, {4, 0, 8}};  // explained variance 0.5 and 0

void add(EpochSums& sums, double total, double metric, const ValueFit& fit, double norm, int64_t rows) {
  sums.add(total, std::array{metric}, fit, norm, rows);
}

}  // namespace

TEST_CASE("EpochSums: means by rows, by hand") {
  EpochSums sums(kNames, true);
  sums.enter(1);
  add(sums, 1.0, 10.0, kHalf, 2.0, 30);
  add(sums, 5.0, 20.0, kNone, 6.0, 10);
  const Metrics metrics = sums.metrics();
  CHECK(metrics.at("total_loss") == 2.0);  // (30 + 50) / 40
  CHECK(metrics.at("a_loss") == 12.5);
  CHECK(metrics.at("vf_explained_var") == 0.375);
  CHECK(metrics.at("gradients_default_optimizer_global_norm") == 3.0);
  CHECK(metrics.at("num_module_steps_trained") == 40);
  CHECK(metrics.size() == 5);
  CHECK(sums.trained() == 40);
}

TEST_CASE("EpochSums: another epoch begins anew, and rows of the update go on; the next update forgets both") {
  EpochSums sums(kNames, false);
  sums.enter(1);
  add(sums, 1.0, 1.0, {}, 1.0, 8);
  sums.enter(2);
  CHECK(sums.metrics() == Metrics{{"num_module_steps_trained", 0}});  // all of its steps were skipped
  add(sums, 3.0, 7.0, {}, 1.0, 4);
  CHECK(sums.metrics().at("total_loss") == 3.0);
  CHECK(sums.metrics().at("a_loss") == 7.0);
  CHECK(!sums.metrics().contains("vf_explained_var"));
  CHECK(sums.trained() == 12);
  sums.begin_update();
  CHECK(sums.trained() == 0);
  CHECK(sums.metrics() == Metrics{{"num_module_steps_trained", 0}});
}

TEST_SUITE_END();
