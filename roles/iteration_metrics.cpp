#include "roles/iteration_metrics.hpp"

#include <algorithm>
#include <array>
#include <cmath>

namespace myriad {

Combine combine_of(std::string_view metric) {
  for (const std::string_view part : {"lifetime", "num_trainable", "curr_", "learning_rate"})
    if (metric.find(part) != std::string_view::npos) return Combine::last;
  const std::string_view leaf = metric.substr(metric.rfind('/') + 1);  // npos + 1 = 0: all of it
  return leaf.starts_with("num_") || metric.ends_with("_s") ? Combine::sum : Combine::mean;
}

void IterationMetrics::add_update(const std::map<std::string, double>& metrics) {
  ++updates_;
  for (const auto& [key, value] : metrics) {
    Value& v = values_[key];
    ++v.count;
    v.value = combine_of(key) == Combine::last ? value : v.value + value;
  }
}

void IterationMetrics::add_fragment(FragmentFacts facts) {
  ++fragments_;
  ++lags_[facts.policy_lag];
  queue_s_ += to_seconds(facts.queue_age);
  queue_max_s_ = std::max(queue_max_s_, to_seconds(facts.queue_age));
  sampling_s_ += static_cast<double>(facts.sampling_ns) * 1e-9;
  waiting_s_ += static_cast<double>(facts.waiting_ns) * 1e-9;
  episodes_.insert(episodes_.end(), facts.episodes.begin(), facts.episodes.end());
  for (size_t i = 0; i < std::min(failures_.size(), facts.failures.size()); ++i) failures_[i] += facts.failures[i];
  outside_ += facts.outside;
  for (const wire::NumberStatsT& more : facts.numbers) {
    if (more.episodes == 0 || (numbers_.size() == kMaxNumbers && !numbers_.contains(more.name))) continue;
    const auto [found, is_new] = numbers_.try_emplace(more.name, more);
    if (is_new) continue;
    wire::NumberStatsT& all = found->second;
    all.episodes += more.episodes;
    all.mean_sum += more.mean_sum;
    all.mean_min = std::min(all.mean_min, more.mean_min);
    all.mean_max = std::max(all.mean_max, more.mean_max);
    all.last_sum += more.last_sum;
  }
}

void IterationMetrics::add_lags(std::map<std::string, double>& rows) const {
  static constexpr std::array<std::pair<uint64_t, const char*>, 8> kBins{
      {{0, "0"}, {1, "1"}, {2, "2"}, {4, "3-4"}, {8, "5-8"}, {16, "9-16"}, {32, "17-32"}, {UINT64_MAX, "33+"}}};
  for (const auto& [last, name] : kBins) rows[std::string("policy_lag_hist/") + name] = 0;
  double sum = 0;
  uint64_t below = 0;
  rows["policy_lag_p95"] = rows["policy_lag_max"] = 0;
  for (const auto& [lag, count] : lags_) {
    sum += static_cast<double>(lag) * static_cast<double>(count);
    // The least lag that 95 of 100 fragments do not exceed.
    if (below * 100 < fragments_ * 95) rows["policy_lag_p95"] = static_cast<double>(lag);
    below += count;
    rows["policy_lag_max"] = static_cast<double>(lag);
    const auto bin = std::find_if(kBins.begin(), kBins.end(), [&](const auto& b) { return lag <= b.first; });
    rows[std::string("policy_lag_hist/") + bin->second] += static_cast<double>(count);
  }
  rows["policy_lag_mean"] = fragments_ == 0 ? 0 : sum / static_cast<double>(fragments_);
}

std::map<std::string, double> IterationMetrics::take(uint32_t num_slots, std::vector<wire::Episode>& episodes) {
  std::map<std::string, double> rows;
  for (const auto& [key, v] : values_)
    rows[key] = combine_of(key) == Combine::mean ? v.value / static_cast<double>(v.count) : v.value;
  const double fragments = std::max(1.0, static_cast<double>(fragments_));
  rows["num_updates"] = static_cast<double>(updates_);
  rows["num_fragments"] = static_cast<double>(fragments_);
  rows["sampling_s"] = sampling_s_ / num_slots;  // of a runner
  rows["waiting_s"] = waiting_s_ / num_slots;
  rows["fragment_sampling_s"] = sampling_s_ / fragments;
  rows["fragment_waiting_s"] = waiting_s_ / fragments;
  rows["queue_age_mean_s"] = queue_s_ / fragments;
  rows["queue_age_max_s"] = queue_max_s_;
  add_lags(rows);
  for (size_t i = 0; i < failures_.size(); ++i)
    rows[fmt::format("{}{}", kEnvFailures, kEnvFailureNames[i])] = failures_[i];
  rows[std::string(kOutside)] = static_cast<double>(outside_);
  for (const auto& [name, all] : numbers_)
    for (const auto& [part, value] : {std::pair("episodes", static_cast<double>(all.episodes)),
                                      std::pair("mean_sum", all.mean_sum), std::pair("mean_min", all.mean_min),
                                      std::pair("mean_max", all.mean_max), std::pair("last_sum", all.last_sum)})
      rows[fmt::format("{}{}/{}", kNumbers, name, part)] = value;
  const size_t left_out = episodes_.size() - std::min(episodes_.size(), kMaxEpisodes);
  rows["num_episodes_left_out"] = static_cast<double>(left_out);
  episodes.assign(episodes_.begin() + static_cast<std::ptrdiff_t>(left_out), episodes_.end());
  *this = {};
  return rows;
}

}  // namespace myriad
