// LearnerShares: how many of a batch's fragments each shard of the learner group gets: in proportion to its runner
// slots or, where no place belongs to a slot (async), to its measured speed.
#pragma once

#include <cstdint>
#include <vector>

#include "rl/system.hpp"

namespace myriad {

class LearnerShares {
 public:
  static constexpr Time kWindow = std::chrono::seconds(10);  ///< of a measurement
  static constexpr double kWorth = 0.1;                      ///< of the time: other shares must save as much
  static constexpr double kStarved = 0.3;                    ///< of the time: a shard that waits as much for fragments

  /// A fragment for each shard that has slots, the rest by speed where that is known of all, else by slots.
  std::vector<uint32_t> divide(uint32_t fragments, const std::vector<uint64_t>& slots) const;

  /// A group with these shares begins.
  void begin(std::vector<uint32_t> shares, Time now);

  /// `shard` made `updates`, computed for `busy_s`, without what it waited for others, and waited `wait_s` for batches.
  void add(uint32_t shard, double updates, double busy_s, double wait_s);

  /// At the end of a window: whether shares by the speeds measured in it are worth a new group, or those in use are
  /// not.
  bool improve(Time now);

 private:
  bool starved();
  struct Work {
    double updates = 0, busy_s = 0, wait_s = 0;
  };
  std::vector<double> speeds_;  // fragments a second, by shard; empty: not known
  std::vector<uint32_t> shares_;
  std::vector<Work> work_;  // in this window
  bool settled_ = false;    // shares by speed were tried with so many shards, and starved one
  Time began_{};
};

}  // namespace myriad
