#include "apps/driver/run_progress.hpp"

#include <doctest/doctest.h>

#include <cmath>

#include "apps/driver/final_evaluation.hpp"
#include "tests/simulation/driver_harness.hpp"

namespace myriad {
namespace {

using driver_harness::Run;

struct Training {
  Config config;
  Run run;
  explicit Training(uint64_t env_steps = 0) : run(options(env_steps)) {
    config.env_runners.num_env_runners = 4;
    config.hosts.num_hosts = 2;
    config.seed = 5;
    config.stop.num_env_steps_sampled_lifetime = 10'000;
    run.everybody();
  }
  static DriverCore::Options options(uint64_t env_steps) {
    DriverCore::Options options = Run::options();
    options.num_env_steps_sampled_lifetime = env_steps;
    return options;
  }
  /// The report of an iteration, given to the core and to `progress`.
  Report report(RunProgress& progress, uint64_t iteration, uint64_t env_steps, double episode_return) {
    wire::IterationReportT report;
    report.training_iteration = iteration;
    report.num_env_steps_sampled_lifetime = env_steps;
    report.episodes.emplace_back(episode_return, 1, 0, 0);
    run.receive(wire::IterationReportT(report));
    return progress.report(report, {{"learners/default_policy/entropy", 0.5}}, run.core, run.now);
  }
};

}  // namespace

TEST_SUITE("apps/run_progress") {
  TEST_CASE("RunProgress: a snapshot has the run's names, its counts, its rate and how far it is") {
    Training training(1000);
    RunProgress progress(training.config, "/runs/0007-calm-heron", 1000, std::nullopt, training.run.now);
    const Snapshot before = progress.snapshot(training.run.core, training.run.now);
    CHECK(before.run_name == "0007-calm-heron");
    CHECK(before.env == "CartPole-v1");
    CHECK(before.algorithm == "PPO");
    CHECK(before.seed == 5);
    CHECK(before.hosts_alive == 2);
    CHECK(before.hosts_total == 2);
    CHECK(before.runners_alive == 4);
    CHECK(before.runners_total == 4);
    CHECK(before.envs == 32);
    CHECK(before.steps == 1000);
    CHECK(std::isnan(before.steps_per_s));
    CHECK(std::isnan(before.eta_s));
    CHECK(std::isnan(before.return_best));

    training.run.now += std::chrono::seconds(2);
    training.report(progress, 1, 4000, 10);
    const Snapshot after = progress.snapshot(training.run.core, training.run.now);
    CHECK(after.iteration == 1);
    CHECK(after.steps_per_s == 1500);  // (4000 - 1000) / 2 s
    CHECK(after.eta_s == 4);           // (10,000 - 4000) / 1500
    CHECK(after.return_mean == 10);
    CHECK(after.return_best == 10);
    REQUIRE(after.stop.size() == 1);
    CHECK(after.stop[0].key == "num_env_steps_sampled_lifetime");
    CHECK(after.stop[0].value == 4000);
    CHECK(after.stop[0].goal == 10'000);
    CHECK(after.learner == std::vector<std::pair<std::string, double>>{{"entropy", 0.5}});
  }

  TEST_CASE("RunProgress: eta is of the budget that ends first; a return or a standstill is none") {
    Training training;
    training.config.stop.training_iteration = 50;  // of those that are behind it: 40
    training.config.stop.episode_return_mean = 500;
    training.config.stop.evaluations_without_improvement = 2;
    const auto eta = [&] {
      Run run(Training::options(1000));
      RunProgress progress(training.config, "/runs/1", 1000, std::nullopt, run.now);
      run.everybody();
      CHECK(std::isnan(progress.snapshot(run.core, run.now).eta_s));
      run.now += std::chrono::seconds(2);
      wire::IterationReportT report;
      report.training_iteration = 1;
      report.num_env_steps_sampled_lifetime = 4000;
      run.receive(wire::IterationReportT(report));
      progress.report(report, {}, run.core, run.now);
      return progress.snapshot(run.core, run.now).eta_s;
    };
    training.config.stop.num_env_steps_sampled_lifetime = 0;
    CHECK(eta() == 98);  // 49 iterations of 2 s
    training.config.stop.num_env_steps_sampled_lifetime = 10'000;
    CHECK(eta() == 4);  // 6000 env steps at 1500 a second
    training.config.stop.time_total_s = 5;
    training.config.stop.num_env_steps_sampled_lifetime = 0;
    training.config.stop.training_iteration = 0;
    Run run(Training::options(0));
    RunProgress progress(training.config, "/runs/1", 0, std::nullopt, run.now);
    run.now += std::chrono::seconds(2);
    CHECK(progress.snapshot(run.core, run.now).eta_s == 3);
    run.now += std::chrono::seconds(9);
    CHECK(progress.snapshot(run.core, run.now).eta_s == 0);
    training.config.stop.time_total_s = 0;
    CHECK(std::isnan(progress.snapshot(run.core, run.now).eta_s));
  }

  TEST_CASE("RunProgress: an evaluation is in the report that follows, and every report of such a run has its keys") {
    Training training;
    training.config.evaluation.evaluation_interval = 2;
    RunProgress progress(training.config, "/runs/1", 0, std::nullopt, training.run.now);
    const auto value = [](const Report& rows, const char* key) { return number_in(rows, key).value_or(-1); };
    training.run.now += std::chrono::seconds(1);
    const Report before = training.report(progress, 1, 100, 1);
    CHECK(std::isnan(value(before, "evaluation/env_runners/episode_return_mean")));
    CHECK(std::isnan(value(before, "evaluation/training_iteration")));
    CHECK(value(before, "evaluation/num_failed") == 0);
    const EvaluationNumbers result{12, 3, 9, 15, 30, 20, 0, 0, 0};
    progress.evaluated(evaluation_rows({1, 100, 0.5}, &result, 1));
    const Report after = training.report(progress, 2, 200, 1);
    CHECK(value(after, "evaluation/training_iteration") == 1);
    CHECK(value(after, "evaluation/num_env_steps_sampled_lifetime") == 100);
    CHECK(value(after, "evaluation/env_runners/episode_return_mean") == 12);
    CHECK(value(after, "evaluation/env_runners/episode_return_max") == 15);
    CHECK(value(after, "evaluation/env_runners/num_episodes") == 20);
    CHECK(value(after, "evaluation/time_this_iter_s") == 0.5);
    CHECK(value(after, "evaluation/best_training_iteration") == 1);
    const Report later = training.report(progress, 3, 300, 1);
    CHECK(std::isnan(value(later, "evaluation/training_iteration")));
    REQUIRE(before.size() == after.size());
    for (size_t i = 0; i < before.size(); ++i) CHECK(before[i].key == after[i].key);  // columns of progress.csv
    CHECK(progress.snapshot(training.run.core, training.run.now).evaluation_return == 12);
  }

  TEST_CASE("RunProgress: a report's times and steps are those since the report before") {
    Training training;
    RunProgress progress(training.config, "/runs/1", 0, std::nullopt, training.run.now);
    training.run.now += std::chrono::seconds(3);
    training.report(progress, 1, 600, 1);
    training.run.now += std::chrono::seconds(2);
    const Report rows = training.report(progress, 2, 1000, 1);
    CHECK(number_in(rows, "time_this_iter_s") == 2);
    CHECK(number_in(rows, "env_runners/num_env_steps_sampled") == 400);
    CHECK(number_in(rows, "env_runners/num_env_steps_sampled_lifetime_throughput") == 200);
  }

  TEST_CASE("RunProgress: the best return is the run's, over its lives") {
    Training training;
    RunProgress fresh(training.config, "/runs/1", 0, std::nullopt, training.run.now);
    CHECK_FALSE(fresh.best().has_value());
    training.report(fresh, 1, 100, 30);
    CHECK(fresh.best() == 30);
    training.report(fresh, 2, 200, 10);  // mean of two: 20
    CHECK(fresh.best() == 30);
    const RunProgress resumed(training.config, "/runs/1", 200, 50.0, training.run.now);
    CHECK(resumed.best() == 50);
    CHECK(resumed.snapshot(training.run.core, training.run.now).return_best == 50);
  }

  TEST_CASE("RunProgress: a snapshot keeps the last 16 events, and each way to stop that the config names") {
    Training training;
    training.config.stop.training_iteration = 3;
    training.config.stop.episode_return_mean = 475;
    training.config.stop.time_total_s = 60;
    training.config.stop.evaluations_without_improvement = 4;
    training.config.stop.iterations_without_improvement = 9;
    RunProgress progress(training.config, "/runs/1", 0, std::nullopt, training.run.now);
    for (int i = 0; i < 20; ++i) progress.event(std::to_string(i));
    const Snapshot snapshot = progress.snapshot(training.run.core, training.run.now);
    REQUIRE(snapshot.events.size() == 16);
    CHECK(snapshot.events.front() == "4");
    CHECK(snapshot.events.back() == "19");
    std::vector<std::string> keys;
    for (const StopProgress& stop : snapshot.stop) keys.push_back(stop.key);
    CHECK(keys == std::vector<std::string>{"training_iteration", "num_env_steps_sampled_lifetime",
                                           "episode_return_mean", "time_total_s", "evaluations_without_improvement",
                                           "iterations_without_improvement"});
  }
}

}  // namespace myriad
