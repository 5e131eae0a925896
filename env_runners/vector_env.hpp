// VectorEnv: B environments of one kind stepped together, with time limits, auto-reset and episode statistics.
//
// Owned by one RolloutWorker, used by one thread. Environment b has the global index first_env_index + b and its own
// random stream of that index, so what it experiences does not depend on which process runs it. Observations are
// written where the caller says. Same-step reset: where an episode ended the row already holds the next episode's S_0.
//
//   step t:  A_t -> Environment::step -> S_{t+1} --ended?--> [truncated only: copy to final_obs] -> reset -> S_0
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "rl/action_mask.hpp"
#include "rl/connector.hpp"
#include "rl/environment.hpp"
#include "rl/fragment.hpp"
#include "rl/weights.hpp"

namespace myriad {

/// Whether a row lies in its space, without a word: the fast question asked of every observation.
class RowCheck {
 public:
  explicit RowCheck(const Space& space);
  bool holds(const std::byte* row) const;

 private:
  struct Range {
    DType dtype;
    size_t offset, count, first;  ///< bytes from the start of the row; elements; index of the first bound
  };
  template <class T>
  bool range_holds(const Range& range, const T* low, const T* high, const std::byte* row) const;

  std::vector<Range> ranges_;              ///< leaves whose type alone does not keep them in the space
  std::vector<float> low_f32_, high_f32_;  ///< infinite bounds are the largest finite floats: NaN and inf fail too
  std::vector<double> low_f64_, high_f64_;
  std::vector<uint8_t> low_u8_, high_u8_;
  std::vector<int32_t> low_i32_, high_i32_;
  std::vector<int64_t> low_i64_, high_i64_;
};

/// The code of an observation's violation: "nan" for a value that is not finite, else "obs-bounds".
std::string_view observation_error_code(std::string_view violation);

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
  };

  /// Where one step is written.
  struct Destination {
    std::byte* obs;        ///< [B, row_bytes]  S_{t+1}, or S_0 of the next episode
    float* rewards;        ///< [B]             R_{t+1} through the RewardConnector
    uint8_t* terminateds;  ///< [B]
    uint8_t* truncateds;   ///< [B]
    std::byte* final_obs;  ///< [<= B, row_bytes]  S_{t+1} of episodes truncated and not terminated, by ascending b
    std::vector<EpisodeStats>* episodes;                              ///< finished episodes are appended
    std::vector<std::pair<size_t, const OwnAction*>>* own = nullptr;  ///< (b, what it did instead) are appended
  };

  /// Makes the environments. Throws Error("unknown-env-option") and what the simulator throws.
  VectorEnv(const EnvSpec& spec, const Options& options);

  int num_envs() const { return static_cast<int>(slots_.size()); }
  const EnvSpec& spec() const { return spec_; }
  size_t row_bytes() const { return spec_.observation_space.row_bytes(); }

  /// What the episodes that begin from now on have: {level, low and high of each option of Options::curriculum}, or
  /// nothing without options. Each episode draws its values from its environment's stream.
  void set_curriculum(std::span<const double> values);

  /// Starts a new episode in every environment; writes S_0 to `obs` [B, row_bytes].
  void reset(std::byte* obs);

  /// Steps every environment with its row of `actions` [B, action row_bytes]; returns the rows of final_obs written.
  /// Throws Error (exit 3; env-exception, nan, obs-bounds, no-action) naming environment, global index, seed, step and
  /// fact.
  size_t step(const std::byte* actions, const Destination& to);

  /// Everything but the observations: simulators, random positions, running episodes, reward statistics.
  TensorMap state() const;
  /// Restores what state() gave and writes the observations to `obs`. Returns the local indices of environments which
  /// cannot give their state: their episodes start anew. Throws Error("foreign-checkpoint") for another seed or index.
  std::vector<int> set_state(const TensorMap& state, std::byte* obs);

 private:
  struct Slot {
    std::unique_ptr<Environment> env;
    RandomStream random;
    double episode_return = 0.0;
    uint32_t episode_length = 0;       // env steps
    uint32_t level = 0;                // of the episode, as its options
    std::vector<double> options = {};  // [curriculum]
  };
  Row row(std::byte* rows, size_t b) const { return Row({rows + b * row_bytes(), row_bytes()}); }
  void start_episode(Slot& slot, Row observation);
  void draw_options(Slot& slot);
  void apply_options(Slot& slot);
  [[noreturn]] void fail_step(size_t b, std::string_view code, std::string_view fact) const;
  [[noreturn]] void fail_observation(size_t b, Row observation) const;
  void check_start(size_t b, Row observation) const;
  void check_mask(size_t b, Row observation) const;
  template <class F>
  void for_each_env(F&& f);

  EnvSpec spec_;
  Options options_;
  EnvOptions all_options_;  // of the environment that got new ones last
  RowCheck observation_check_;
  std::optional<ActionMask> mask_;
  RewardConnector to_learner_;
  std::vector<double> curriculum_;  // of set_curriculum(); empty before the first
  size_t action_bytes_;
  uint32_t time_limit_;
  std::vector<Slot> slots_;
};

}  // namespace myriad
