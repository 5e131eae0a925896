#include "apps/driver/report_rows.hpp"

#include <doctest/doctest.h>

#include <cmath>

namespace myriad {
namespace {

wire::IterationReportT report(const Metrics& metrics) {
  wire::IterationReportT report;
  report.training_iteration = 1;
  report.num_env_steps_sampled_lifetime = 512;
  report.weights_version = 2;
  for (const auto& [key, value] : metrics) {
    auto row = std::make_unique<wire::KeyValueT>();
    row->key = key;
    row->value = value;
    report.metrics.push_back(std::move(row));
  }
  return report;
}

const Metrics kAsync = {{"dropped/duplicate", 0},
                        {"dropped/too_old", 7},
                        {"learner_update_s", 0.9},
                        {"learner_wait_s", 0.1},
                        {"learners/default_policy/entropy", 0.5},
                        {"num_updates", 5},
                        {"policy_lag_hist/1", 40},
                        {"policy_lag_max", 4},
                        {"policy_lag_mean", 1.5},
                        {"policy_lag_p95", 3},
                        {"queue_age_mean_s", 0.02},
                        {"sampling_s", 3},
                        {"secret_s", 1},
                        {"timers/assemble", 0.01},
                        {"waiting_s", 1}};

}  // namespace

TEST_SUITE("apps/report_rows") {
  TEST_CASE("report_rows: the learner's measures under the results' names, groups as they are, nothing twice") {
    const DriverCore core({});
    const Report rows = report_rows(report(kAsync), metrics_of(report(kAsync)), core, {10.0, 2.0, 512});
    CHECK(number_in(rows, "env_runners/policy_lag_mean") == 1.5);
    CHECK(number_in(rows, "env_runners/policy_lag_p95") == 3);
    CHECK(number_in(rows, "env_runners/policy_lag_max") == 4);
    CHECK(number_in(rows, "timers/fragment_queue_age_mean_timer") == 0.02);
    CHECK(number_in(rows, "learners/num_updates") == 5);
    CHECK(number_in(rows, "timers/learner_wait_timer") == 0.1);
    CHECK(number_in(rows, "timers/assemble") == 0.01);
    CHECK(number_in(rows, "policy_lag_hist/1") == 40);
    CHECK(number_in(rows, "dropped/too_old") == 7);
    CHECK(number_in(rows, "env_runners/weights_seq_no") == 1);
    CHECK(number_in(rows, "env_runners/num_env_steps_sampled_lifetime_throughput") == 256);
    CHECK(number_in(rows, "fault_tolerance/num_healthy_workers") == 0);
    CHECK_FALSE(number_in(rows, "secret_s").has_value());
    CHECK_NOTHROW(to_json_line(rows));  // throws where a key is there twice, or a value and a group
  }

  TEST_CASE("show_metrics: shares, lag, and drops by reason; in sync the lag is zero") {
    Snapshot s;
    show_metrics(kAsync, false, s);
    CHECK(s.sampling_share == 0.75);
    CHECK(s.learner_busy_share == doctest::Approx(0.9));
    CHECK(s.lag_mean == 1.5);
    CHECK(s.lag_max == 4);
    CHECK(s.dropped == 7);
    CHECK(s.dropped_by == std::vector<std::pair<std::string, int64_t>>{{"too_old", 7}});
    CHECK(s.learner == std::vector<std::pair<std::string, double>>{{"entropy", 0.5}});
    show_metrics({}, true, s);
    CHECK(s.lag_mean == 0);
    CHECK(std::isnan(s.sampling_share));
    CHECK(s.dropped_by.empty());
    show_metrics({}, false, s);
    CHECK(std::isnan(s.lag_mean));
  }
}

}  // namespace myriad
