#include "apps/driver/run_progress.hpp"

#include <algorithm>
#include <cmath>

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
  return progress;
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
  shown_.directory = fs::proximate(directory).string();
}

Report RunProgress::report(const wire::IterationReportT& report, const Metrics& metrics, const DriverCore& core,
                           Time now) {
  const double steps = static_cast<double>(core.env_steps());
  const SinceLastReport since{core.time_total_s(now), to_seconds(now - last_report_), steps - last_steps_};
  last_report_ = now;
  last_steps_ = steps;
  if (const double mean = core.episode_return_mean(); !std::isnan(mean)) best_ = std::fmax(best_.value_or(mean), mean);
  show_metrics(metrics, config_.training.sampling == "sync", shown_);
  return report_rows(report, metrics, core, since);
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
  if (const int64_t goal = config_.stop.num_env_steps_sampled_lifetime; goal > 0 && done > 0)
    snapshot.eta_s =
        std::max(0.0, (static_cast<double>(goal) - static_cast<double>(core.env_steps())) / snapshot.steps_per_s);
  snapshot.return_mean = core.episode_return_mean();
  snapshot.return_best = best_.value_or(Snapshot::kUnknown);
  const Fleet::Counts fleet = core.fleet().counts();
  snapshot.hosts_alive = fleet.hosts;
  snapshot.runners_alive = fleet.running;
  return snapshot;
}

}  // namespace myriad
