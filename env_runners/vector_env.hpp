// VectorEnv: B environments of one kind stepped together, with automatic resets, curricula and episode statistics.
//
// Owned by one RolloutWorker, used by one thread. Environment b is an EnvStepper with the global index
// first_env_index + b and the random stream of that index: what it experiences does not depend on which process runs
// it. Observations are written where the caller says. Same-step reset: where an episode ended the row already holds the
// next episode's S_0.
//
//   step t:  A_t -> Environment::step -> S_{t+1} --ended?--> [truncated only: copy to final_obs] -> reset -> S_0
//
// A failure ends the episode of its environment and no more: it is made anew and begins another one, in the same step.
// The step counts as truncated at S_t, the last state that is known, with reward 0; its return is no episode's. Agents
// of one world (EnvSpec::agents) end together, those that have been stepped at their S_{t+1}.
#pragma once

#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "env_runners/env_stepper.hpp"
#include "rl/connector.hpp"
#include "rl/environment.hpp"
#include "rl/fragment.hpp"
#include "rl/weights.hpp"

namespace myriad {

class VectorEnv {
 public:
  struct Options {
    int num_envs = 1;              ///< B
    uint64_t first_env_index = 0;  ///< global index of environment 0
    uint64_t first_draw = 0;       ///< position of fresh random streams
    uint64_t seed = 0;
    EnvOptions env_config = {};
    int64_t max_episode_steps = 0;             ///< env steps; 0 = no time limit
    std::vector<std::string> curriculum = {};  ///< options that set_curriculum() sets, sorted
    RewardConnector::Options rewards = {};     ///< of the rewards written; episode returns stay the environment's own
    OutOfBounds out_of_bounds = OutOfBounds::error;
    bool restarts = false;               ///< a failure ends its episode; false: it is thrown
    uint32_t max_failures_in_a_row = 1;  ///< of one environment, soon after it was made anew; then it is thrown
  };

  /// Failures as early in an environment's life are in a row with the one before. [env steps]
  static constexpr uint32_t kEarly = 10;

  /// Where one step is written.
  struct Destination {
    std::byte* obs;        ///< [B, row_bytes]  S_{t+1}, or S_0 of the next episode
    float* rewards;        ///< [B]             R_{t+1} through the RewardConnector
    uint8_t* terminateds;  ///< [B]
    uint8_t* truncateds;   ///< [B]
    std::byte* final_obs;  ///< [<= B, row_bytes]  S_{t+1} of episodes truncated and not terminated, by ascending b
    std::vector<EpisodeStats>* episodes;                              ///< finished episodes are appended
    std::vector<std::pair<size_t, const OwnAction*>>* own = nullptr;  ///< (b, what it did instead) are appended
    const std::byte* before = nullptr;  ///< [B, row_bytes]  S_t, apart from `obs`; wanted where Options::restarts
  };

  /// Makes the environments. Throws Error("unknown-env-option") and what the simulator throws.
  VectorEnv(const EnvSpec& spec, const Options& options, const EnvContext& context = {});

  int num_envs() const { return static_cast<int>(slots_.size()); }
  const EnvSpec& spec() const { return rules_->spec; }
  size_t row_bytes() const { return row_bytes_; }

  /// What the episodes that begin from now on have: {level, low and high of each option of Options::curriculum}, or
  /// nothing without options. Each episode draws its values from its environment's stream.
  void set_curriculum(std::span<const double> values);

  /// Is told of each kind of event when it happens first, tenth, hundredth, ...
  void on_event(std::function<void(std::string_view kind, const std::string& text)> tell) { tell_ = std::move(tell); }

  /// Starts a new episode in every environment; writes S_0 to `obs` [B, row_bytes].
  void reset(std::byte* obs);

  /// Steps every environment with its row of `actions` [B, action row_bytes]; returns the rows of final_obs written.
  /// Throws EnvError("env-exception" | "nan" | "obs-bounds" | "no-action"), with Options::restarts for too many in a
  /// row.
  size_t step(const std::byte* actions, const Destination& to);

  /// What happened since the last call.
  EnvReport take_report();

  /// Everything but the observations: simulators, random positions, running episodes, reward statistics.
  TensorMap state() const;
  /// Restores what state() gave and writes the observations to `obs`. Returns the local indices of environments which
  /// cannot give their state: their episodes start anew. Throws Error("foreign-checkpoint") for another seed or index.
  std::vector<int> set_state(const TensorMap& state, std::byte* obs);

 private:
  struct Slot {
    EnvStepper stepper;
    uint32_t level = 0;                // of the episode, as its options
    std::vector<double> options = {};  // [curriculum]
    uint32_t failures_in_a_row = 0;
    bool fresh = true;                           // no episode has ended since it was made
    std::exception_ptr not_submitted = nullptr;  // what submit() threw
  };
  Row row(std::byte* rows, size_t b) const { return Row({rows + b * row_bytes_, row_bytes_}); }
  void start_episode(Slot& slot, Row observation);
  void try_start(Slot& slot, Row observation);
  void fail_episode(size_t b, const EnvError& error, const Destination& to, size_t& final_rows);
  void cut(size_t b, const std::byte* last, const Destination& to, size_t& final_rows) const;
  void restart(Slot& slot, std::string why, Row observation);
  void note_failure(Slot& slot, const EnvError& error);
  void tell_rarely(std::string_view kind, uint64_t count, const std::string& text) const;
  void draw_options(Slot& slot);
  void apply_options(Slot& slot);

  std::shared_ptr<const EnvRules> rules_;
  Options options_;
  EnvOptions all_options_;  // of the environment that got new ones last
  RewardConnector to_learner_;
  std::vector<double> curriculum_;  // of set_curriculum(); empty before the first
  size_t row_bytes_, action_bytes_;
  std::vector<Slot> slots_;
  EnvReport report_;  // since take_report()
  // Since the start.
  EnvFailureCounts failures_{};
  uint64_t outside_ = 0;  // until take_report()
  uint64_t bad_numbers_ = 0, warnings_ = 0;
  std::function<void(std::string_view, const std::string&)> tell_;
};

}  // namespace myriad
