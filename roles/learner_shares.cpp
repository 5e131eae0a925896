#include "roles/learner_shares.hpp"

#include <algorithm>
#include <numeric>
#include <utility>

namespace myriad {
namespace {

std::vector<uint32_t> divide_by(uint32_t fragments, const std::vector<double>& weights) {
  const auto with_some = static_cast<uint32_t>(std::ranges::count_if(weights, [](double w) { return w > 0; }));
  const double all = std::accumulate(weights.begin(), weights.end(), 0.0);
  std::vector<uint32_t> shares;
  uint32_t given = 0, left = with_some;
  double before = 0;
  for (const double weight : weights) {
    before += weight;
    if (weight > 0) --left;
    // The last one gets what is left: sums of doubles are not exact.
    const auto rest = left == 0 ? fragments - with_some : static_cast<uint32_t>((fragments - with_some) * before / all);
    shares.push_back(weight > 0 ? 1 + rest - given : 0);
    given = std::max(given, rest);
  }
  return shares;
}

}  // namespace

std::vector<uint32_t> LearnerShares::divide(uint32_t fragments, const std::vector<uint64_t>& slots) const {
  std::vector<double> weights(slots.begin(), slots.end());
  if (speeds_.size() == slots.size())
    for (size_t shard = 0; shard < slots.size(); ++shard) weights[shard] = slots[shard] > 0 ? speeds_[shard] : 0.0;
  return divide_by(fragments, weights);
}

void LearnerShares::begin(std::vector<uint32_t> shares, Time now) {
  if (shares.size() != shares_.size()) {
    speeds_.clear();
    settled_ = false;
  }
  shares_ = std::move(shares);
  work_.assign(shares_.size(), {});
  began_ = now;
}

void LearnerShares::add(uint32_t shard, double updates, double busy_s, double wait_s) {
  if (shard >= work_.size()) return;
  work_[shard].updates += updates;
  work_[shard].busy_s += busy_s;
  work_[shard].wait_s += wait_s;
}

bool LearnerShares::improve(Time now) {
  if (now < began_ + kWindow) return false;
  const double window_s = to_seconds(now - std::exchange(began_, now));
  const std::vector<Work> work = std::exchange(work_, std::vector<Work>(shares_.size()));
  if (std::ranges::any_of(work, [&](const Work& w) { return w.wait_s > kStarved * window_s; })) return starved();
  std::vector<double> speeds;
  for (size_t shard = 0; shard < shares_.size(); ++shard) {
    const double fragments = work[shard].updates * shares_[shard];
    if (fragments <= 0 || work[shard].busy_s <= 0) return false;  // a shard without work, or without a report
    speeds.push_back(fragments / work[shard].busy_s);
  }
  const auto seconds_of_update = [&](const std::vector<uint32_t>& shares) {
    double slowest = 0;
    for (size_t shard = 0; shard < shares.size(); ++shard) slowest = std::max(slowest, shares[shard] / speeds[shard]);
    return slowest;
  };
  const auto fragments = std::accumulate(shares_.begin(), shares_.end(), 0u);
  const double saved_s = seconds_of_update(shares_) - seconds_of_update(divide_by(fragments, speeds));
  if (work[0].updates * saved_s < kWorth * window_s) return false;
  if (settled_) return false;
  speeds_ = std::move(speeds);
  return true;
}

/// A shard waits for its runners, whose number no share changes: shares by speed are given up for good.
bool LearnerShares::starved() {
  if (speeds_.empty()) return false;
  speeds_.clear();
  settled_ = true;
  return true;
}

}  // namespace myriad
