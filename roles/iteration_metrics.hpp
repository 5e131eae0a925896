// IterationMetrics: the metrics of an iteration's updates, and the ages of the fragments they were made of.
//
// Each update adds numbers under RLlib's names. An iteration of several updates has the last, the sum or the mean of
// each number, which its name decides. Each fragment adds its policy lag, its wait for a place and the runner's times.
// Pure.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "rl/wire/messages.hpp"

namespace myriad {

/// How the values of an iteration's updates become one.
enum class Combine : uint8_t { last, sum, mean };
Combine combine_of(std::string_view metric);

/// What the learner keeps of a fragment beside its columns.
struct FragmentFacts {
  FragmentId id;
  uint64_t weights_version = 0;  ///< it was sampled with
  uint64_t clients_lag = 0;      ///< versions between that and the oldest that a client acted with in it
  uint64_t policy_lag = 0;       ///< versions between the oldest and the one its batch is trained at
  Time queue_age{};              ///< arrival to placement
  uint64_t sampling_ns = 0, waiting_ns = 0;
  std::vector<wire::Episode> episodes;
  std::vector<uint32_t> failures = {};  ///< as in FragmentHeader, as the next two
  uint64_t outside = 0;
  std::vector<wire::NumberStatsT> numbers = {};
};

/// Keys of what the environments report; after the last slash of kNumbers + name: episodes, mean_sum, mean_min, ...
constexpr std::string_view kEnvFailures = "num_env_failures/", kOutside = "num_observations_out_of_bounds",
                           kNumbers = "numbers/";

class IterationMetrics {
 public:
  static constexpr size_t kMaxNumbers = 256;      ///< of other names than the first ones are left out
  static constexpr size_t kMaxEpisodes = 40'000;  ///< a report is one message; the newest stay

  void add_update(const std::map<std::string, double>& metrics);
  void add_fragment(FragmentFacts facts);

  /// The rows of the iteration, and its episodes; the next one begins.
  std::map<std::string, double> take(uint32_t num_slots, std::vector<wire::Episode>& episodes);

 private:
  struct Value {
    double value = 0;
    uint64_t count = 0;
  };
  void add_lags(std::map<std::string, double>& rows) const;

  std::map<std::string, Value> values_;
  std::map<uint64_t, uint64_t> lags_;  // fragments by lag
  std::vector<wire::Episode> episodes_;
  EnvFailureCounts failures_{};
  uint64_t outside_ = 0;
  std::map<std::string, wire::NumberStatsT> numbers_;
  uint64_t updates_ = 0, fragments_ = 0;
  double sampling_s_ = 0, waiting_s_ = 0, queue_s_ = 0, queue_max_s_ = 0;
};

}  // namespace myriad
