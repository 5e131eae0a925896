#include "env_runners/env_stepper.hpp"

#include <algorithm>
#include <limits>
#include <utility>

#include "rl/shell_line.hpp"

namespace myriad {

EnvRules::EnvRules(const EnvSpec& given, const EnvOptions& options, int64_t max_episode_steps, EnvContext made_in,
                   OutOfBounds how)
    : spec(configured_spec(given, options, made_in)),
      time_limit(spec.agents > 1 ? 0 : static_cast<uint32_t>(max_episode_steps)),
      observations(spec.observation_space),
      mask(ActionMask::of(spec.observation_space, spec.action_space)),
      context(std::move(made_in)),
      out_of_bounds(how) {
  check(max_episode_steps >= 0 && max_episode_steps <= std::numeric_limits<uint32_t>::max(), "a time limit of {} steps",
        max_episode_steps);
  if (spec.agents > 1) context.world_steps = static_cast<uint32_t>(max_episode_steps);
}

EnvError::EnvError(std::string_view code, const std::string& who, std::string at, std::string what,
                   const std::string& id)
    : Error(Exit::environment, std::string(code),
            fmt::format("{} {}: {}; check: myriad check-env {}", who, at, what, shell_line({id}))),
      where(std::move(at)),
      fact(std::move(what)),
      cause(failure_of(code)) {}

EnvStepper::EnvStepper(std::shared_ptr<const EnvRules> rules, uint64_t seed, StreamPurpose purpose, uint64_t index)
    : rules_(std::move(rules)),
      random_(seed, purpose, index),
      purpose_(purpose),
      seed_(seed),
      index_(index),
      env_(made(rules_->spec.options)) {}

/// One that is told its index in the run.
std::unique_ptr<Environment> EnvStepper::made(const EnvOptions& options) const {
  EnvContext context = rules_->context;
  context.first_env += index_;
  if (context.alive) context.alive();
  const EnvStart start(rules_->context);
  return make_environment(rules_->spec, options, context);
}

void EnvStepper::set_index(uint64_t index) {
  index_ = index;
  random_ = RandomStream(seed_, purpose_, index);
}

void EnvStepper::set_options(const EnvOptions& options) {
  episode_return_ = 0.0;
  episode_length_ = 0;
  guarded([&] {
    if (!env_->set_options(options)) env_ = made(options);
  });
}

void EnvStepper::renew(const EnvOptions& options, std::string_view why) {
  episode_return_ = 0.0;
  episode_length_ = 0;
  guarded([&] {
    if (env_ != nullptr && env_->renew(why)) return;
    env_.reset();  // first: it may hold what only one can have
    env_ = made(options);
  });
}

void EnvStepper::add_numbers(std::vector<NumberStats>& to) {
  std::span<const EpisodeNumber> numbers;
  guarded([&] { numbers = env_->numbers(); });
  for (const EpisodeNumber& number : numbers) {
    if (!std::isfinite(number.mean) || !std::isfinite(number.last)) continue;
    auto found = std::ranges::find(to, number.name, &NumberStats::name);
    if (found == to.end()) {
      if (to.size() == kMaxNumbers) continue;
      found = to.insert(found, NumberStats{.name = std::string(number.name)});
    }
    found->mean_min = found->episodes == 0 ? number.mean : std::min(found->mean_min, number.mean);
    found->mean_max = found->episodes == 0 ? number.mean : std::max(found->mean_max, number.mean);
    found->mean_sum += number.mean;
    found->last_sum += number.last;
    ++found->episodes;
  }
}

void EnvStepper::resume(const RandomStream& random, double episode_return, uint32_t episode_length,
                        std::span<const double> state, Row observation) {
  random_ = random;
  episode_return_ = episode_return;
  episode_length_ = episode_length;
  guarded([&] { env_->set_state(state, observation); });
}

EnvError EnvStepper::error(std::string_view code, std::string fact) const {
  const EnvSpec& spec = rules_->spec;
  const bool evaluation = purpose_ == StreamPurpose::evaluation;
  return EnvError(
      code, fmt::format("{} {} {} (seed {})", spec.id, evaluation ? "evaluation episode" : "env", index_, seed_),
      episode_length_ == 0 ? std::string("at reset")
                           : fmt::format("at step {}{}", episode_length_, evaluation ? "" : " of its episode"),
      std::move(fact), spec.id);
}

/// An observation that does not hold. Throws EnvError unless EnvRules::out_of_bounds takes it.
void EnvStepper::take_outside(Row observation) {
  std::string fact;
  if (rules_->out_of_bounds == OutOfBounds::error || outside_ == 0)
    fact = rules_->spec.observation_space.violation(observation.bytes(), "obs");
  if (rules_->observations.tolerates(observation.bytes().data(), rules_->out_of_bounds)) {
    if (outside_++ == 0)
      first_outside_ =
          error("obs-bounds", fact + (rules_->out_of_bounds == OutOfBounds::clip ? ", clipped" : "")).what();
    return;
  }
  if (fact.empty()) fact = rules_->spec.observation_space.violation(observation.bytes(), "obs");
  if (fact.empty()) fail("nan", "obs has a number that float32 cannot hold");
  const std::string_view code = observation_error_code(fact);
  fail(code, code == "nan" ? fact : fact + "; widen the space, or set environment.out_of_bounds to clip or warn");
}

void EnvStepper::fail_exception() const {
  std::string fact = "the simulator threw something that is not a std::exception";
  EnvFailure cause = EnvFailure::exception;
  bool mendable = true;
  try {
    throw;
  } catch (const std::exception& error) {
    fact = fmt::format("the simulator threw: {}", error.what());
    if (const auto* ours = dynamic_cast<const Error*>(&error)) {
      cause = failure_of(ours->code());
      mendable = ours->exit_status() != Exit::usage;
    }
  } catch (...) {}  // no text
  EnvError error = this->error("env-exception", std::move(fact));
  error.cause = cause;
  error.mendable = mendable;
  throw error;
}

}  // namespace myriad
