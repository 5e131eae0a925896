#include "apps/driver/run_progress.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

#include "apps/driver/final_evaluation.hpp"

#include "apps/driver/run_directory.hpp"

namespace myriad {
namespace fs = std::filesystem;
namespace {

constexpr size_t kEvents = 16;  // that a snapshot has

std::vector<StopProgress> stop_progress(const StopConfig& stop, const DriverCore& core, double elapsed_s) {
  std::vector<StopProgress> progress;
  if (stop.training_iteration > 0)
    progress.push_back({"training_iteration", "iterations", static_cast<double>(core.training_iteration()),
                        static_cast<double>(stop.training_iteration)});
  if (stop.num_env_steps_sampled_lifetime > 0)
    progress.push_back({"num_env_steps_sampled_lifetime", "env steps", static_cast<double>(core.env_steps()),
                        static_cast<double>(stop.num_env_steps_sampled_lifetime)});
  if (stop.episode_return_mean)
    progress.push_back({"episode_return_mean", "", core.episode_return_mean(), *stop.episode_return_mean});
  if (stop.time_total_s > 0) progress.push_back({"time_total_s", "s", elapsed_s, stop.time_total_s});
  if (stop.evaluations_without_improvement > 0)
    progress.push_back({"evaluations_without_improvement", "evaluations without improvement",
                        static_cast<double>(core.evaluations().returns().since),
                        static_cast<double>(stop.evaluations_without_improvement)});
  if (stop.iterations_without_improvement > 0)
    progress.push_back({"iterations_without_improvement", "iterations without improvement",
                        static_cast<double>(core.training_return().since),
                        static_cast<double>(stop.iterations_without_improvement)});
  return progress;
}

/// What every report has of the evaluations, in a run that has any.
Report evaluation_group(const std::optional<Report>& evaluated, const DriverCore& core) {
  const Evaluations& evaluations = core.evaluations();
  Report rows = evaluated ? *evaluated : evaluation_rows({}, nullptr, evaluations.best_iteration());
  rows.push_back({"num_skipped", static_cast<double>(evaluations.num_skipped())});
  rows.push_back({"num_failed", static_cast<double>(evaluations.num_failed())});
  for (ReportValue& row : rows) row.key.insert(0, kEvaluationGroup);
  return rows;
}

}  // namespace

RunProgress::RunProgress(const Config& config, const fs::path& directory, uint64_t env_steps,
                         std::optional<double> best, Time now)
    : config_(config),
      base_steps_(env_steps),
      best_(best),
      started_(now),
      last_report_(now),
      last_steps_(static_cast<double>(env_steps)) {
  shown_.run_name = directory.filename().string();
  shown_.env = config.environment.env;
  shown_.algorithm = config.algorithm;
  shown_.seed = config.seed;
  shown_.hosts_total = config.num_hosts();
  shown_.runners_total = config.env_runners.num_env_runners;
  shown_.envs = shown_.runners_total * config.env_runners.num_envs_per_env_runner;
  shown_.directory = as_typed(directory);
}

Report RunProgress::report(const wire::IterationReportT& report, const Metrics& metrics, const DriverCore& core,
                           Time now) {
  const double steps = static_cast<double>(core.env_steps());
  const SinceLastReport since{core.time_total_s(now), to_seconds(now - last_report_), steps - last_steps_};
  last_report_ = now;
  last_steps_ = steps;
  if (const double mean = core.episode_return_mean(); !std::isnan(mean)) best_ = std::fmax(best_.value_or(mean), mean);
  show_metrics(metrics, config_.training.sampling == "sync", shown_);
  if (!base_iteration_) base_iteration_ = core.training_iteration() - 1;
  Report rows = report_rows(report, metrics, core, since);
  if (config_.evaluation.evaluation_interval > 0)
    for (ReportValue& row : evaluation_group(std::exchange(evaluated_, std::nullopt), core))
      rows.push_back(std::move(row));
  return rows;
}

void RunProgress::evaluated(const Report& rows) {
  evaluated_ = rows;
  shown_.evaluation_return = number_in(rows, "env_runners/episode_return_mean").value_or(Snapshot::kUnknown);
}

void RunProgress::event(const std::string& text) {
  shown_.events.push_back(text);
  if (shown_.events.size() > kEvents) shown_.events.erase(shown_.events.begin());
}

Snapshot RunProgress::snapshot(const DriverCore& core, Time now) const {
  Snapshot snapshot = shown_;
  snapshot.elapsed_s = core.time_total_s(now);
  snapshot.iteration = static_cast<int64_t>(core.training_iteration());
  snapshot.steps = static_cast<int64_t>(core.env_steps());
  const double done = static_cast<double>(core.env_steps() - base_steps_), spent = to_seconds(now - started_);
  if (done > 0) snapshot.steps_per_s = done / spent;
  snapshot.stop = stop_progress(config_.stop, core, snapshot.elapsed_s);
  // At most: a return, or its standstill, may end the run before any budget does.
  const auto ends_in = [&](double left_s) { snapshot.eta_s = std::fmin(snapshot.eta_s, std::max(0.0, left_s)); };
  if (const auto goal = static_cast<double>(config_.stop.num_env_steps_sampled_lifetime); goal > 0 && done > 0)
    ends_in((goal - static_cast<double>(core.env_steps())) / snapshot.steps_per_s);
  const double iterations = static_cast<double>(core.training_iteration() - base_iteration_.value_or(0));
  if (const auto goal = static_cast<double>(config_.stop.training_iteration); goal > 0 && base_iteration_ && spent > 0)
    ends_in((goal - static_cast<double>(core.training_iteration())) * spent / iterations);
  if (config_.stop.time_total_s > 0) ends_in(config_.stop.time_total_s - snapshot.elapsed_s);
  snapshot.return_mean = core.episode_return_mean();
  snapshot.return_best = best_.value_or(Snapshot::kUnknown);
  if (const auto& best = core.evaluations().returns().best) snapshot.evaluation_best = *best;
  const Fleet::Counts fleet = core.fleet().counts();
  snapshot.hosts_alive = fleet.hosts;
  snapshot.runners_alive = fleet.running;
  return snapshot;
}

}  // namespace myriad
