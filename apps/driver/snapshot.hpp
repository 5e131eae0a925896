// Snapshot: the state of a run at one moment, for the live view and other observers of a run that trains.
#pragma once

#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

namespace myriad {

/// How far a run is towards one way to stop.
struct StopProgress {
  std::string key;   ///< the setting in [stop]: "num_env_steps_sampled_lifetime"
  std::string unit;  ///< "env steps", "iterations", "s"; "" for a return
  double value = 0.0;
  double goal = 0.0;
};

/// What is known at one moment; NaN where there is nothing to say yet.
struct Snapshot {
  static constexpr double kUnknown = std::numeric_limits<double>::quiet_NaN();

  std::string run_name, env, algorithm;
  int64_t seed = 0;
  double elapsed_s = 0.0;
  int64_t iteration = 0;
  int64_t steps = 0;  ///< env steps, lifetime
  double steps_per_s = kUnknown;
  double eta_s = kUnknown;
  std::vector<StopProgress> stop;
  double return_mean = kUnknown, return_best = kUnknown;
  double evaluation_return = kUnknown, evaluation_best = kUnknown;  ///< mean returns of evaluations: last, best
  std::vector<std::pair<std::string, double>> learner;              ///< {"kl", 0.011}, ... in the order shown
  double lag_mean = kUnknown, lag_max = kUnknown;                   ///< policy lag, updates
  int64_t dropped = 0;                                              ///< messages and fragments, all reasons
  std::vector<std::pair<std::string, int64_t>> dropped_by;          ///< reason, number; those above zero
  double sampling_share = kUnknown;          ///< of a runner's time: stepping and inference, [0, 1]
  double wait_share = kUnknown;              ///< of a runner's time: waiting for credit or weights
  double learner_busy_share = kUnknown;      ///< of the learner's time
  int64_t hosts_alive = 0, hosts_total = 1;  ///< shown where there can be more than one
  int64_t runners_alive = 0, runners_total = 0, envs = 0;
  std::vector<std::string> events;  ///< newest last; the last two are shown
  std::string directory;
};

}  // namespace myriad
