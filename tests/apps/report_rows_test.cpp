#include "apps/driver/report_rows.hpp"

#include <doctest/doctest.h>

#include <cmath>

#include "apps/driver/observers/results_file.hpp"
#include "tests/simulation/driver_harness.hpp"

namespace myriad {
namespace {

using driver_harness::Run;

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
  TEST_CASE("report_rows: failures by cause; numbers of episodes as RLlib's custom_metrics") {
    const DriverCore core({});
    const wire::IterationReportT told = report({{"num_env_failures/nan", 3},
                                                {"num_observations_out_of_bounds", 9},
                                                {"numbers/reward/forward/episodes", 4},
                                                {"numbers/reward/forward/last_sum", 6},
                                                {"numbers/reward/forward/mean_max", 5},
                                                {"numbers/reward/forward/mean_min", -1},
                                                {"numbers/reward/forward/mean_sum", 8}});
    const Report rows = report_rows(told, metrics_of(told), core, {10.0, 2.0, 512});
    CHECK(number_in(rows, "env_runners/num_env_failures/nan") == 3);
    CHECK(number_in(rows, "env_runners/num_observations_out_of_bounds") == 9);
    const std::string name = "env_runners/custom_metrics/reward.forward";
    CHECK(number_in(rows, name + "_mean") == 2);
    CHECK(number_in(rows, name + "_min") == -1);
    CHECK(number_in(rows, name + "_max") == 5);
    CHECK(number_in(rows, name + "_last_mean") == 1.5);
  }

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

  TEST_CASE("report_rows: what the last episodes say: mean, least and greatest return, mean length, numbers of them") {
    DriverCore::Options options = Run::options();
    options.smoothing_episodes = 3;
    options.training_iteration = 4;
    options.recent_returns = {1000, 30};  // the first leaves
    options.recent_lengths = {1000, 7};
    options.num_episodes_lifetime = 12;
    Run run(options);
    run.learner_forms();
    wire::IterationReportT said = report({});
    said.training_iteration = 5;
    said.num_env_steps_sampled_lifetime = 4096;
    said.episodes.emplace_back(10.0, 3, 0, 0);
    said.episodes.emplace_back(20.0, 8, 1, 0);
    run.receive(wire::IterationReportT(said));
    const Report rows = report_rows(said, {}, run.core, {.time_total_s = 10, .iteration_s = 4, .steps = 1024});
    CHECK(number_in(rows, "training_iteration") == 5);
    CHECK(number_in(rows, "time_total_s") == 10);
    CHECK(number_in(rows, "time_this_iter_s") == 4);
    CHECK(number_in(rows, "num_env_steps_sampled_lifetime") == 4096);
    CHECK(number_in(rows, "env_runners/num_env_steps_sampled_lifetime") == 4096);
    CHECK(number_in(rows, "env_runners/num_env_steps_sampled") == 1024);
    CHECK(number_in(rows, "env_runners/num_env_steps_sampled_lifetime_throughput") == 256);
    CHECK(number_in(rows, "env_runners/episode_return_mean") == 20);  // 30, 10, 20
    CHECK(number_in(rows, "env_runners/episode_return_min") == 10);
    CHECK(number_in(rows, "env_runners/episode_return_max") == 30);
    CHECK(number_in(rows, "env_runners/episode_len_mean") == 6);  // 7, 3, 8
    CHECK(number_in(rows, "env_runners/num_episodes") == 2);
    CHECK(number_in(rows, "env_runners/num_episodes_lifetime") == 14);
    const Report none = report_rows(report({}), {}, DriverCore({}), {});
    for (const char* key : {"episode_return_mean", "episode_return_min", "episode_return_max", "episode_len_mean"}) {
      CAPTURE(key);
      CHECK(std::isnan(number_in(none, std::string("env_runners/") + key).value()));
    }
  }

  TEST_CASE("report_rows: of all agents the healthy runners, restarts, the oldest weights and the worst latencies") {
    Run run(Run::options());
    run.everybody();
    CHECK(number_in(report_rows(report({}), {}, run.core, {}), "fault_tolerance/num_healthy_workers") == 4);
    CHECK(number_in(report_rows(report({}), {}, run.core, {}), "fault_tolerance/num_healthy_hosts") == 2);
    Run other(Run::options());
    other.everybody();
    other.quarantine(1, "SIGSEGV");
    CHECK(number_in(report_rows(report({}), {}, other.core, {}), "fault_tolerance/num_healthy_workers") == 2);
    CHECK(number_in(report_rows(report({}), {}, other.core, {}), "fault_tolerance/num_quarantined_workers") == 2);
    const auto status = [&](uint32_t agent, uint32_t running, uint64_t restarts, int64_t oldest, float latency) {
      wire::AgentStatusT said = Run::status(agent);
      said.running = running;
      said.restarts = restarts;
      said.weights_version = oldest + 1;
      said.oldest_version = oldest;
      said.weights_latency_p50_ms = latency;
      said.weights_latency_p99_ms = 10 * latency;
      said.weights_latency_max_ms = 100 * latency;
      run.receive(said, Run::peer(agent, 0));
    };
    status(0, 2, 3, 7, 0.25f);
    status(1, 1, 1, 5, 0.5f);
    wire::IterationReportT said = report({});
    said.weights_version = 9;
    const Report rows = report_rows(said, {}, run.core, {});
    CHECK(number_in(rows, "fault_tolerance/num_healthy_workers") == 3);
    CHECK(number_in(rows, "fault_tolerance/num_remote_worker_restarts") == 4);
    CHECK(number_in(rows, "env_runners/weights_seq_no") == 8);  // what the next one is sampled with is 9
    CHECK(number_in(rows, "env_runners/weights_versions_behind_max") == 4);
    CHECK(number_in(rows, "timers/weights_latency_p50_ms") == 0.5);
    CHECK(number_in(rows, "timers/weights_latency_p99_ms") == 5);
    CHECK(number_in(rows, "timers/weights_latency_max_ms") == 50);
  }

  TEST_CASE("report_rows: each of the learner's measures has its own name in the results") {
    const std::vector<std::pair<const char*, const char*>> names{
        {"sampling_s", "timers/env_runner_sampling_timer"},
        {"waiting_s", "timers/env_runner_waiting_timer"},
        {"learner_update_s", "timers/learner_update_timer"},
        {"learner_wait_s", "timers/learner_wait_timer"},
        {"learner_collective_s", "timers/learner_collective_timer"},
        {"policy_lag_mean", "env_runners/policy_lag_mean"},
        {"policy_lag_p95", "env_runners/policy_lag_p95"},
        {"policy_lag_max", "env_runners/policy_lag_max"},
        {"queue_age_mean_s", "timers/fragment_queue_age_mean_timer"},
        {"queue_age_max_s", "timers/fragment_queue_age_max_timer"},
        {"fragment_sampling_s", "timers/fragment_sampling_timer"},
        {"fragment_waiting_s", "timers/fragment_waiting_timer"},
        {"num_fragments", "env_runners/num_fragments"},
        {"num_fragments_received_since_start", "env_runners/num_fragments_received_since_start"},
        {"num_bytes_received_since_start", "env_runners/num_bytes_received_since_start"},
        {"num_weights_bytes_sent_since_start", "learners/num_weights_bytes_sent_since_start"},
        {"num_fragments_missing_since_start", "env_runners/num_fragments_missing_since_start"},
        {"num_messages_resent_since_start", "env_runners/num_messages_resent_since_start"},
        {"num_env_runners_contributed_since_start", "env_runners/num_env_runners_contributed_since_start"},
        {"num_episodes_left_out", "env_runners/num_episodes_left_out"},
        {"num_updates", "learners/num_updates"}};
    Metrics metrics;
    for (size_t i = 0; i < names.size(); ++i) metrics[names[i].first] = 100.0 + static_cast<double>(i);
    const Report rows = report_rows(report(metrics), metrics, DriverCore({}), {});
    for (size_t i = 0; i < names.size(); ++i) {
      CAPTURE(names[i].first);
      CHECK(number_in(rows, names[i].second) == 100.0 + static_cast<double>(i));
    }
  }

  TEST_CASE("show_metrics: shares, lag, and drops by reason; in sync the lag is zero") {
    Snapshot s;
    show_metrics(kAsync, false, s);
    CHECK(s.sampling_share == 0.75);
    CHECK(s.wait_share == 0.25);
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
    const std::string policy = "learners/default_policy/";
    show_metrics({{policy + "mean_kl_loss", 1},
                  {policy + "entropy", 2},
                  {policy + "vf_loss", 3},
                  {policy + "vf_explained_var", 4},
                  {policy + "gradients_default_optimizer_global_norm", 5}},
                 true, s);
    CHECK(s.learner == std::vector<std::pair<std::string, double>>{
                           {"kl", 1}, {"entropy", 2}, {"vf", 3}, {"expl.var", 4}, {"grad", 5}});
  }
}

}  // namespace myriad
