// EnvStepper: one environment, its random stream and its running episode: the contract of rl/environment.hpp, kept in
// one place for all that step environments: VectorEnv, Evaluator, `myriad play`, `myriad check-env`, the tests of sims.
//
//   reset -> S_0;  [submit A_t ->] step A_t -> R_{t+1}, S_{t+1};  ...until terminated or truncated;  reset -> S_0
//
// It adds the time limit, sums the episode, checks what the environment gives, names environment and step in every
// error, and makes an environment that failed anew. One thread; a step neither allocates nor locks.
#pragma once

#include <cmath>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "env_runners/row_check.hpp"
#include "rl/action_mask.hpp"
#include "rl/check.hpp"
#include "rl/env_context.hpp"
#include "rl/env_failure.hpp"
#include "rl/environment.hpp"
#include "rl/fragment.hpp"
#include "rl/random.hpp"

namespace myriad {

/// What the steppers of one environment share.
struct EnvRules {
  /// `spec` with `options` over its own; `max_episode_steps` [env steps]: 0 = no time limit; environments are made in
  /// `context`. Throws Error("unknown-env-option").
  EnvRules(const EnvSpec& spec, const EnvOptions& options, int64_t max_episode_steps, EnvContext context = {},
           OutOfBounds out_of_bounds = OutOfBounds::error);

  EnvSpec spec;         ///< as configured: its options are those environments are made with
  uint32_t time_limit;  ///< env steps; 0 = none, or of several agents, whose simulator keeps it
  RowCheck observations;
  std::optional<ActionMask> mask;
  EnvContext context;
  OutOfBounds out_of_bounds;
};

/// An environment broke the contract, or threw.
struct EnvError : Error {
  /// `who`: "CartPole-v1 env 41 (seed 9)"; `where`: "at step 3 of its episode".
  EnvError(std::string_view code, const std::string& who, std::string where, std::string fact, const std::string& id);
  std::string where, fact;
  EnvFailure cause;
  uint32_t in_a_row = 1;  ///< so many, where they are given up
  bool mendable = true;   ///< false: an environment made anew would fail alike (a mistake in the config)
};

class EnvStepper {
 public:
  /// Makes the environment, whose stream is that of {seed, purpose, index} from its start; errors name it by them.
  /// Throws what making it throws.
  EnvStepper(std::shared_ptr<const EnvRules> rules, uint64_t seed, StreamPurpose purpose, uint64_t index);

  Environment& env() { return *env_; }
  const Environment& env() const { return *env_; }
  RandomStream& random() { return random_; }
  const RandomStream& random() const { return random_; }
  double episode_return() const { return episode_return_; }    ///< undiscounted, of the environment's own rewards
  uint32_t episode_length() const { return episode_length_; }  ///< env steps

  /// Observations outside their space that were clipped or let through, and what the first of them was.
  uint64_t num_outside() const { return outside_; }
  const std::string& first_outside() const { return first_outside_; }

  /// From here on it is environment (evaluation: episode) `index`, with that stream from its start.
  void set_index(uint64_t index);

  /// Between two episodes: every option of the spec. Makes the environment anew where it cannot change its own.
  void set_options(const EnvOptions& options);

  /// After an error, for its reason `why`: the environment as if just made, with every option of the spec. Its stream
  /// goes on; the next call is reset().
  void renew(const EnvOptions& options, std::string_view why);

  // Each throws EnvError("env-exception") for what the environment throws.

  /// Begins an episode; writes S_0.
  void reset(Row observation) {
    episode_return_ = 0.0;
    episode_length_ = 0;
    guarded([&] { env_->reset(random_, observation); });
  }

  /// Where EnvSpec::submits: the action that step() will bring, before the first step() of a vector.
  void submit(ConstRow action) {
    guarded([&] { env_->submit(action, random_); });
  }

  /// Writes S_{t+1}. `truncated` also at the time limit, beside a termination too, as Gymnasium's TimeLimit.
  StepResult step(ConstRow action, Row observation) {
    ++episode_length_;
    StepResult result;
    guarded([&] { result = env_->step(action, random_, observation); });
    episode_return_ += result.reward;
    result.truncated |= episode_length_ == rules_->time_limit;
    return result;
  }

  /// Adds what the environment says of the episode that its last step() belongs to; beyond kMaxNumbers names are left
  /// out.
  void add_numbers(std::vector<NumberStats>& to);
  static constexpr size_t kMaxNumbers = 64;

  /// Goes on in the episode that state() of such an environment was taken in; writes its S_t.
  void resume(const RandomStream& random, double episode_return, uint32_t episode_length, std::span<const double> state,
              Row observation);

  /// Throws EnvError("nan" | "obs-bounds" | "no-action") for an S_t that is outside its space, or that allows no
  /// action. EnvRules::out_of_bounds may clip it, or let it through.
  void check_start(Row observation) {
    if (!rules_->observations.holds(observation.bytes().data())) [[unlikely]]
      take_outside(observation);
    if (rules_->mask && !rules_->mask->allows_any(observation.bytes())) [[unlikely]]
      fail("no-action", std::string(ActionMask::kNoAction));
  }

  /// The same for what step() gave; the last state of an episode may forbid every action. `seen_reward`: the reward as
  /// it is used, which has to be finite.
  void check_step(const StepResult& result, double seen_reward, Row observation) {
    if (!std::isfinite(seen_reward)) [[unlikely]]
      fail("nan", fmt::format("reward = {}", result.reward));
    if (!rules_->observations.holds(observation.bytes().data())) [[unlikely]]
      take_outside(observation);
    if (rules_->mask && !result.terminated && !result.truncated && !rules_->mask->allows_any(observation.bytes()))
        [[unlikely]]
      fail("no-action", std::string(ActionMask::kNoAction));
  }

 private:
  template <class F>
  void guarded(F&& f) const {
    try {
      f();
    } catch (...) { fail_exception(); }
  }
  std::unique_ptr<Environment> made(const EnvOptions& options) const;
  EnvError error(std::string_view code, std::string fact) const;
  [[noreturn]] void fail(std::string_view code, std::string fact) const { throw error(code, std::move(fact)); }
  void take_outside(Row observation);
  [[noreturn]] void fail_exception() const;  ///< of the exception being handled

  std::shared_ptr<const EnvRules> rules_;
  RandomStream random_;
  double episode_return_ = 0.0;
  uint32_t episode_length_ = 0;
  StreamPurpose purpose_;
  uint64_t seed_, index_;
  uint64_t outside_ = 0;
  std::string first_outside_;
  std::unique_ptr<Environment> env_;
};

}  // namespace myriad
