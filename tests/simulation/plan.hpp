// Plan: what a seed draws for its schedule: topology, mode, limits, which faults exist at all (swarm testing), their
// rates and moments.
#pragma once

#include <cmath>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "roles/learner_core.hpp"

namespace myriad::simulation {

enum class Fault : uint8_t {
  loss,
  duplicates,
  latency,
  bit_flips,
  runner_kills,
  runner_pauses,
  hangs,
  bad_slot,
  spawn_failures,
  hostile,
  agent_kills,
  agent_drains,
  agent_pauses,
  pins,       // async: new weights wait for a free buffer
  outsiders,  // agents join from outside and leave again (hosts.launcher "none")
  learner_kills,
  interrupt,
  disk,
  crash,
  usage_error,
  learner_pauses,
  resizes,
  count
};
std::string_view name_of(Fault fault);
inline constexpr uint32_t kAllFaults = (1u << static_cast<uint32_t>(Fault::count)) - 1;
constexpr uint32_t bit(Fault fault) { return 1u << static_cast<uint32_t>(fault); }
/// Faults after which a sync or lag1 run must still train on exactly the same batches.
inline constexpr uint32_t kHarmlessFaults = bit(Fault::loss) | bit(Fault::duplicates) | bit(Fault::latency) |
                                            bit(Fault::bit_flips) | bit(Fault::learner_kills) |
                                            bit(Fault::learner_pauses);

inline uint64_t mix(uint64_t a, uint64_t b = 0) {
  uint64_t z = a + 0x9e3779b97f4a7c15ULL * (b + 1);  // splitmix64's finaliser (Steele et al. 2014)
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ULL;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebULL;
  return z ^ (z >> 31);
}

/// Fast, and apart from the roles' own streams.
class Dice {
 public:
  explicit Dice(uint64_t seed) : state_(mix(seed, 0xd1ce)) {}
  uint64_t next() { return mix(state_ += 0x9e3779b97f4a7c15ULL); }
  double uniform() { return static_cast<double>(next() >> 11) * 0x1.0p-53; }
  bool chance(double p) { return p > 0 && uniform() < p; }
  uint64_t below(uint64_t n) { return next() % n; }
  uint32_t below32(uint64_t n) { return static_cast<uint32_t>(below(n)); }
  Time time(Time low, Time high) {
    return low + Time(static_cast<int64_t>(uniform() * static_cast<double>((high - low).count())));
  }
  Time log_time(Time low, Time high) {
    return Time(static_cast<int64_t>(
        static_cast<double>(low.count()) *
        std::pow(static_cast<double>(high.count()) / static_cast<double>(low.count()), uniform())));
  }
  /// The moment of the next event at `rate` a second.
  Time after(double rate) { return seconds(-std::log(1 - uniform()) / rate); }

 private:
  uint64_t state_;
};

struct Plan {
  SamplingMode mode = SamplingMode::sync;
  uint32_t learners = 1, agents = 1, slots = 1, fragments = 1, faults = 0;
  double loss = 0, duplicates = 0, flips = 0, slow = 0, kills_per_s = 0, pauses_per_s = 0, hang = 0, spawn_failure = 0,
         hostile = 0, agent_kills_per_s = 0, agent_drains_per_s = 0, agent_pauses_per_s = 0, learner_kills_per_s = 0,
         learner_pauses_per_s = 0, pinned = 0, disk = 0;
  bool outsiders = false, replaced = true;  // replaced: an agent from outside that left is followed by another
  Time jitter{}, faults_end{}, interrupt = Time::max(), second_interrupt = Time::max();
  std::vector<Time> crashes, resizes;
  uint32_t bad_slot = UINT32_MAX;
  Time sample{}, update{}, step_timeout{}, loop{};  // loop: what an agent reads at once
  uint32_t learner_queue_size = 1, broadcast_interval = 1, weights_fanout = 8;
  std::optional<uint64_t> max_policy_lag;
  Time min_time_per_iteration{};
  uint64_t start_iteration = 0, start_steps = 0, start_version = 0;
  uint64_t stop_iteration = 0, stop_steps = 0, checkpoint_frequency = 0;
  uint32_t num_to_keep = 1, max_crashes = 5;
  uint64_t evaluation_interval = 0;
  bool evaluation_parallel = true, evaluation_at_end = false, scores_training = false;
  Time evaluation{};  // how long one takes, at most
  double evaluation_failure = 0;
  uint64_t failing_update = UINT64_MAX;  ///< the version that no shard can make
  double lone_failure = 0;               ///< that a shard alone cannot make one

  bool has(Fault fault) const { return (faults & bit(fault)) != 0; }
  bool by_slot() const { return mode != SamplingMode::async; }
  uint64_t window() const { return uint64_t{learner_queue_size} * fragments + std::min(slots, 1024u); }
};

/// `agents`, `learners`: instead of the number drawn, 0 = as drawn; everything else stays.
Plan draw_plan(uint64_t seed, uint32_t allowed, uint32_t agents, uint32_t learners);
std::string to_text(const Plan& plan);

}  // namespace myriad::simulation
