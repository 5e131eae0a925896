#include "apps/driver/report_rows.hpp"

#include <algorithm>
#include <cmath>

#include "roles/iteration_metrics.hpp"

namespace myriad {
namespace {

constexpr std::string_view kDropped = "dropped/";

/// RLlib's custom_metrics: the mean, the least and the greatest of the episodes' means, and the mean of their last.
void add_numbers(const Metrics& metrics, Report& rows) {
  constexpr std::string_view kCount = "/episodes";
  for (auto it = metrics.lower_bound(std::string(kNumbers)); it != metrics.end() && it->first.starts_with(kNumbers);
       ++it) {
    const auto& [key, episodes] = *it;
    if (!key.ends_with(kCount) || episodes <= 0) continue;
    const std::string name = key.substr(kNumbers.size(), key.size() - kNumbers.size() - kCount.size());
    std::string shown = name;
    std::ranges::replace(shown, '/', '.');  // results are nested by slashes
    const auto part = [&](const char* part) {
      const auto found = metrics.find(fmt::format("{}{}/{}", kNumbers, name, part));
      return found == metrics.end() ? Snapshot::kUnknown : found->second;
    };
    const std::string row = "env_runners/custom_metrics/" + shown;
    rows.push_back({row + "_mean", part("mean_sum") / episodes});
    rows.push_back({row + "_min", part("mean_min")});
    rows.push_back({row + "_max", part("mean_max")});
    rows.push_back({row + "_last_mean", part("last_sum") / episodes});
  }
}

}  // namespace

Metrics metrics_of(const wire::IterationReportT& report) {
  Metrics metrics;
  for (const auto& row : report.metrics) metrics[row->key] = row->value;
  return metrics;
}

Report report_rows(const wire::IterationReportT& report, const Metrics& metrics, const DriverCore& core,
                   const SinceLastReport& since) {
  double low = Snapshot::kUnknown, high = low;
  for (const double value : core.recent_returns()) low = std::fmin(low, value), high = std::fmax(high, value);
  const double steps = static_cast<double>(core.env_steps());
  const Fleet::Counts fleet = core.fleet().counts();
  Report rows{{"training_iteration", static_cast<double>(core.training_iteration())},
              {"num_env_steps_sampled_lifetime", steps},
              {"time_total_s", since.time_total_s},
              {"time_this_iter_s", since.iteration_s},
              {"env_runners/episode_return_mean", core.episode_return_mean()},
              {"env_runners/episode_return_min", low},
              {"env_runners/episode_return_max", high},
              {"env_runners/episode_len_mean", core.episode_len_mean()},
              {"env_runners/num_episodes", static_cast<double>(report.episodes.size())},
              {"env_runners/num_episodes_lifetime", static_cast<double>(core.episodes_lifetime())},
              {"env_runners/num_env_steps_sampled", since.steps},
              {"env_runners/num_env_steps_sampled_lifetime", steps},
              {"env_runners/num_env_steps_sampled_lifetime_throughput", since.steps / since.iteration_s},
              {"env_runners/weights_seq_no", static_cast<double>(report.weights_version - 1)},
              {"fault_tolerance/num_healthy_hosts", static_cast<double>(fleet.hosts)},
              {"fault_tolerance/num_healthy_workers", static_cast<double>(fleet.running)},
              {"fault_tolerance/num_quarantined_workers", static_cast<double>(fleet.quarantined)},
              {"fault_tolerance/num_remote_worker_restarts", static_cast<double>(fleet.restarts)}};
  if (fleet.sampling_version >= 0) {
    rows.push_back({"env_runners/weights_versions_behind_max",
                    static_cast<double>(report.weights_version) - static_cast<double>(fleet.sampling_version)});
    rows.push_back({"timers/weights_latency_p50_ms", fleet.weights_latency_p50_ms});
    rows.push_back({"timers/weights_latency_p99_ms", fleet.weights_latency_p99_ms});
    rows.push_back({"timers/weights_latency_max_ms", fleet.weights_latency_max_ms});
  }
  // What the learner measures, under the name it has in the results.
  for (const auto& [metric, key] :
       {std::pair{"sampling_s", "timers/env_runner_sampling_timer"},
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
        {"num_observations_out_of_bounds", "env_runners/num_observations_out_of_bounds"},
        {"num_updates", "learners/num_updates"}})
    if (const auto found = metrics.find(metric); found != metrics.end()) rows.push_back({key, found->second});
  for (const auto& [key, value] : metrics) {
    const std::string group = key.substr(0, key.find('/') + 1);
    if (group == "learners/" || group == kDropped || group == "timers/" || group == "policy_lag_hist/")
      rows.push_back({key, value});
    if (group == kEnvFailures) rows.push_back({"env_runners/" + key, value});
  }
  add_numbers(metrics, rows);
  return rows;
}

void show_metrics(const Metrics& metrics, bool in_step, Snapshot& snapshot) {
  const auto metric = [&](const std::string& key, double otherwise = Snapshot::kUnknown) {
    const auto found = metrics.find(key);
    return found == metrics.end() ? otherwise : found->second;
  };
  snapshot.learner.clear();
  for (const auto& [label, key] : {std::pair{"kl", "mean_kl_loss"},
                                   {"entropy", "entropy"},
                                   {"vf", "vf_loss"},
                                   {"expl.var", "vf_explained_var"},
                                   {"grad", "gradients_default_optimizer_global_norm"}})
    if (const auto it = metrics.find(std::string("learners/default_policy/") + key); it != metrics.end())
      snapshot.learner.emplace_back(label, it->second);
  const double sampling_s = metric("sampling_s"), waiting_s = metric("waiting_s"),
               update_s = metric("learner_update_s"), wait_s = metric("learner_wait_s");
  snapshot.sampling_share = sampling_s / (sampling_s + waiting_s);
  snapshot.wait_share = waiting_s / (sampling_s + waiting_s);
  snapshot.learner_busy_share = update_s / (update_s + wait_s);
  snapshot.lag_mean = metric("policy_lag_mean", in_step ? 0.0 : Snapshot::kUnknown);
  snapshot.lag_max = metric("policy_lag_max", in_step ? 0.0 : Snapshot::kUnknown);
  snapshot.dropped = 0;
  snapshot.dropped_by.clear();
  for (const auto& [key, value] : metrics) {
    if (!key.starts_with(kDropped) || value <= 0) continue;
    snapshot.dropped += static_cast<int64_t>(value);
    snapshot.dropped_by.emplace_back(key.substr(kDropped.size()), static_cast<int64_t>(value));
  }
}

}  // namespace myriad
