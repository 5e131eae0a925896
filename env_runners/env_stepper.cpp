#include "env_runners/env_stepper.hpp"

#include <limits>
#include <utility>

namespace myriad {

EnvRules::EnvRules(const EnvSpec& given, const EnvOptions& options, int64_t max_episode_steps, EnvContext made_in)
    : spec(configured_spec(given, options, made_in)),
      time_limit(static_cast<uint32_t>(max_episode_steps)),
      observations(spec.observation_space),
      mask(ActionMask::of(spec.observation_space, spec.action_space)),
      context(std::move(made_in)) {
  check(max_episode_steps >= 0 && max_episode_steps <= std::numeric_limits<uint32_t>::max(), "a time limit of {} steps",
        max_episode_steps);
}

EnvError::EnvError(std::string_view code, const std::string& who, std::string at, std::string what,
                   const std::string& id)
    : Error(Exit::environment, std::string(code),
            fmt::format("{} {}: {}; check: myriad check-env {}", who, at, what, id)),
      where(std::move(at)),
      fact(std::move(what)) {}

EnvStepper::EnvStepper(std::shared_ptr<const EnvRules> rules, uint64_t seed, StreamPurpose purpose, uint64_t index)
    : rules_(std::move(rules)),
      env_(make_environment(rules_->spec, rules_->spec.options, rules_->context)),
      random_(seed, purpose, index),
      purpose_(purpose),
      seed_(seed),
      index_(index) {}

void EnvStepper::set_index(uint64_t index) {
  index_ = index;
  random_ = RandomStream(seed_, purpose_, index);
}

void EnvStepper::set_options(const EnvOptions& options) {
  episode_return_ = 0.0;
  episode_length_ = 0;
  guarded([&] {
    if (!env_->set_options(options)) env_ = make_environment(rules_->spec, options, rules_->context);
  });
}

void EnvStepper::resume(const RandomStream& random, double episode_return, uint32_t episode_length,
                        std::span<const double> state, Row observation) {
  random_ = random;
  episode_return_ = episode_return;
  episode_length_ = episode_length;
  guarded([&] { env_->set_state(state, observation); });
}

void EnvStepper::fail(std::string_view code, std::string fact) const {
  const EnvSpec& spec = rules_->spec;
  const bool evaluation = purpose_ == StreamPurpose::evaluation;
  throw EnvError(
      code, fmt::format("{} {} {} (seed {})", spec.id, evaluation ? "evaluation episode" : "env", index_, seed_),
      episode_length_ == 0 ? std::string("at reset")
                           : fmt::format("at step {}{}", episode_length_, evaluation ? "" : " of its episode"),
      std::move(fact), spec.id);
}

void EnvStepper::fail_observation(Row observation) const {
  const std::string fact = rules_->spec.observation_space.violation(observation.bytes(), "obs");
  const std::string_view code = observation_error_code(fact);
  fail(code, code == "nan" ? fact : fact + "; widen the space or clip");
}

void EnvStepper::fail_exception() const {
  std::string fact = "the simulator threw something that is not a std::exception";
  try {
    throw;
  } catch (const std::exception& error) { fact = fmt::format("the simulator threw: {}", error.what()); } catch (...) {
  }  // no text
  fail("env-exception", std::move(fact));
}

}  // namespace myriad
