#include "env_runners/vector_env.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "rl/check.hpp"
#include "rl/curriculum.hpp"

namespace myriad {
namespace {

const Tensor& tensor_of(const TensorMap& state, const std::string& name, size_t count) {
  const auto found = state.find(name);
  if (found == state.end()) fail(Exit::environment, "corrupt-file", "the runner's state has no tensor {}", name);
  const size_t got = found->second.bytes.size() / size_of(found->second.dtype);
  if (got != count)
    fail(Exit::environment, "corrupt-file", "the runner's state has {} values in {}, want {}", got, name, count);
  return found->second;
}

}  // namespace

VectorEnv::VectorEnv(const EnvSpec& spec, const Options& options, const EnvContext& context)
    : rules_(std::make_shared<const EnvRules>(spec, options.env_config, options.max_episode_steps, context,
                                              options.out_of_bounds)),
      options_(options),
      all_options_(rules_->spec.options),
      to_learner_(options.rewards, static_cast<size_t>(options.num_envs)),
      row_bytes_(rules_->spec.observation_space.row_bytes()),
      action_bytes_(rules_->spec.action_space.row_bytes()) {
  check(options.num_envs >= 1, "a VectorEnv of {} environments, want at least 1", options.num_envs);
  slots_.reserve(static_cast<size_t>(options.num_envs));
  for (size_t b = 0; b < static_cast<size_t>(options.num_envs); ++b) {
    slots_.push_back({EnvStepper(rules_, options.seed, StreamPurpose::environment, options.first_env_index + b)});
    slots_.back().stepper.random().set_position(options.first_draw);
    for (const std::string& option : options.curriculum)
      slots_.back().options.push_back(rules_->spec.options.at(option));
  }
}

void VectorEnv::set_curriculum(std::span<const double> values) {
  const size_t want = Curriculum::size_for(options_.curriculum.size());
  check(values.size() == want, "a curriculum of {} numbers, want {}", values.size(), want);
  curriculum_.assign(values.begin(), values.end());
}

void VectorEnv::draw_options(Slot& slot) {
  slot.level = static_cast<uint32_t>(curriculum_[0]);
  bool changed = false;
  for (size_t i = 0; i < slot.options.size(); ++i) {
    const double low = curriculum_[1 + 2 * i], high = curriculum_[2 + 2 * i];
    const double value = low == high ? low : slot.stepper.random().uniform(low, high);
    changed |= std::exchange(slot.options[i], value) != value;
  }
  if (changed) apply_options(slot);
}

void VectorEnv::apply_options(Slot& slot) {
  for (size_t i = 0; i < slot.options.size(); ++i) all_options_.at(options_.curriculum[i]) = slot.options[i];
  slot.stepper.set_options(all_options_);
}

void VectorEnv::try_start(Slot& slot, Row observation) {
  if (!curriculum_.empty()) draw_options(slot);
  slot.stepper.reset(observation);
  slot.stepper.check_start(observation);
}

void VectorEnv::start_episode(Slot& slot, Row observation) {
  try {
    try_start(slot, observation);
  } catch (const EnvError& error) {
    note_failure(slot, error);
    restart(slot, error.what(), observation);
  }
}

/// Makes an environment that failed anew, until it begins an episode.
void VectorEnv::restart(Slot& slot, std::string why, Row observation) {
  const EnvStart start(rules_->context);
  for (;;) {
    try {
      for (size_t i = 0; i < slot.options.size(); ++i) all_options_.at(options_.curriculum[i]) = slot.options[i];
      slot.stepper.renew(all_options_, why);
      return try_start(slot, observation);
    } catch (const EnvError& error) {
      note_failure(slot, error);
      why = error.what();
    }
  }
}

/// The step of environment b ends its episode at `last`, a row that is known.
void VectorEnv::cut(size_t b, const std::byte* last, const Destination& to, size_t& final_rows) const {
  to.terminateds[b] = 0;
  to.truncateds[b] = 1;
  std::memcpy(to.final_obs + final_rows++ * row_bytes_, last, row_bytes_);
}

/// The step of environment b failed. Where it is an agent, its whole world begins anew.
void VectorEnv::fail_episode(size_t b, const EnvError& error, const Destination& to, size_t& final_rows) {
  note_failure(slots_[b], error);
  const size_t agents = static_cast<size_t>(rules_->spec.agents), first = b - b % agents;
  for (size_t a = first; a < first + agents; ++a) {
    if (a >= b) to.rewards[a] = 0.0f;
    cut(a, (a < b ? to.obs : to.before) + a * row_bytes_, to, final_rows);
  }
  for (size_t a = first; a < first + agents; ++a) restart(slots_[a], error.what(), row(to.obs, a));
}

/// Throws it where nothing would be gained by another try.
void VectorEnv::note_failure(Slot& slot, const EnvError& error) {
  if (!options_.restarts || !error.mendable) throw error;
  const size_t b = static_cast<size_t>(&slot - slots_.data());
  const bool in_step = slot.stepper.episode_length() > 0;
  if (!in_step && b % static_cast<size_t>(rules_->spec.agents) != 0) throw error;  // its world has begun without it
  const bool early = slot.fresh && slot.stepper.episode_length() <= kEarly;
  slot.failures_in_a_row = early ? slot.failures_in_a_row + 1 : 1;
  slot.fresh = true;
  const auto cause = static_cast<size_t>(error.cause);
  ++report_.failures[cause];
  tell_rarely("env-failure", ++failures_[cause], error.what());
  if (slot.failures_in_a_row < options_.max_failures_in_a_row) return;
  EnvError last = error;
  last.in_a_row = slot.failures_in_a_row;
  throw last;
}

void VectorEnv::tell_rarely(std::string_view kind, uint64_t count, const std::string& text) const {
  if (tell_ && is_told(count)) tell_(kind, count == 1 ? text : fmt::format("{} times, the last: {}", count, text));
}

EnvReport VectorEnv::take_report() {
  uint64_t outside = 0;
  const std::string* first = nullptr;
  for (const Slot& slot : slots_) {
    outside += slot.stepper.num_outside();
    if (first == nullptr && slot.stepper.num_outside() > 0) first = &slot.stepper.first_outside();
  }
  report_.outside = outside - outside_;
  if (outside_ == 0 && outside > 0) tell_rarely("env-out-of-bounds", 1, *first);
  outside_ = outside;
  EnvReport report = report_;
  std::erase_if(report.numbers, [](const NumberStats& stats) { return stats.episodes == 0; });
  report_.failures = {};
  for (NumberStats& stats : report_.numbers) stats = {.name = std::move(stats.name)};
  return report;
}

void VectorEnv::reset(std::byte* obs) {
  for (size_t b = 0; b < slots_.size(); ++b) {
    if (rules_->context.alive) rules_->context.alive();  // a first reset may load much
    start_episode(slots_[b], row(obs, b));
  }
}

size_t VectorEnv::step(const std::byte* actions, const Destination& to) {
  size_t final_rows = 0;
  const auto action = [&](size_t b) { return ConstRow({actions + b * action_bytes_, action_bytes_}); };
  if (rules_->spec.submits)
    for (size_t b = 0; b < slots_.size(); ++b) {
      try {
        slots_[b].stepper.submit(action(b));
      } catch (const EnvError&) { slots_[b].not_submitted = std::current_exception(); }
    }
  for (size_t b = 0; b < slots_.size(); ++b) {
    Slot& slot = slots_[b];
    EnvStepper& stepper = slot.stepper;
    const Row observation = row(to.obs, b);
    StepResult result;
    try {
      if (slot.not_submitted) [[unlikely]]
        std::rethrow_exception(std::exchange(slot.not_submitted, nullptr));
      result = stepper.step(action(b), observation);
      to.rewards[b] = to_learner_(b, result.reward, result.terminated);
      stepper.check_step(result, to.rewards[b], observation);
    } catch (const EnvError& error) {
      if (rules_->spec.agents > 1 && (result.terminated || result.truncated)) {  // its world's next episode has begun
        note_failure(slot, error);
        to.rewards[b] = 0.0f;
        cut(b, to.before + b * row_bytes_, to, final_rows);
        start_episode(slot, observation);
      } else {
        fail_episode(b, error, to, final_rows);
        b += static_cast<size_t>(rules_->spec.agents) - 1 - b % static_cast<size_t>(rules_->spec.agents);
      }
      continue;
    }
    if (result.own != nullptr && to.own != nullptr) [[unlikely]]
      to.own->emplace_back(b, result.own);
    to.terminateds[b] = result.terminated;
    to.truncateds[b] = result.truncated;
    if (!result.terminated && !result.truncated) continue;
    slot.fresh = false;
    if (!result.abandoned) {
      to.episodes->push_back({stepper.episode_return(), stepper.episode_length(),
                              static_cast<uint32_t>(options_.first_env_index + b), slot.level});
      try {
        stepper.add_numbers(report_.numbers);
      } catch (const EnvError& error) { tell_rarely("env-numbers", ++bad_numbers_, error.what()); }
      if (const std::string_view warning = stepper.env().warning(); !warning.empty()) [[unlikely]]
        tell_rarely("env-warning", ++warnings_, std::string(warning));
    }
    if (!result.terminated)
      std::memcpy(to.final_obs + final_rows++ * row_bytes_, observation.bytes().data(), row_bytes_);
    start_episode(slot, observation);
  }
  return final_rows;
}

TensorMap VectorEnv::state() const {
  std::vector<double> states, returns;
  std::vector<int64_t> lengths, positions, episode_lengths;
  for (const Slot& slot : slots_) {
    const std::optional<std::vector<double>> state = slot.stepper.env().state();
    lengths.push_back(state ? static_cast<int64_t>(state->size()) : -1);
    if (state) states.insert(states.end(), state->begin(), state->end());
    positions.push_back(static_cast<int64_t>(slot.stepper.random().position()));
    returns.push_back(slot.stepper.episode_return());
    episode_lengths.push_back(slot.stepper.episode_length());
  }
  const std::vector<int64_t> identity{static_cast<int64_t>(options_.seed),
                                      static_cast<int64_t>(options_.first_env_index)};
  const size_t n = slots_.size();
  TensorMap tensors{{"env/identity", Tensor::of(std::span<const int64_t>(identity), {2})},
                    {"env/state", Tensor::of(std::span<const double>(states), {states.size()})},
                    {"env/state_length", Tensor::of(std::span<const int64_t>(lengths), {n})},
                    {"env/random_position", Tensor::of(std::span<const int64_t>(positions), {n})},
                    {"env/episode_return", Tensor::of(std::span<const double>(returns), {n})},
                    {"env/episode_length", Tensor::of(std::span<const int64_t>(episode_lengths), {n})}};
  if (const size_t k = options_.curriculum.size(); k > 0) {
    std::vector<double> curriculum;
    for (const Slot& slot : slots_) {
      curriculum.push_back(slot.level);
      curriculum.insert(curriculum.end(), slot.options.begin(), slot.options.end());
    }
    tensors["env/curriculum"] = Tensor::of(std::span<const double>(curriculum), {n, 1 + k});
  }
  if (to_learner_.has_state())
    tensors["env/reward_filter"] = Tensor::of(std::span<const double>(to_learner_.state()), {n, 4});
  return tensors;
}

std::vector<int> VectorEnv::set_state(const TensorMap& state, std::byte* obs) {
  const size_t n = slots_.size();
  const std::vector<int64_t> identity = tensor_of(state, "env/identity", 2).i64();
  if (static_cast<uint64_t>(identity[0]) != options_.seed ||
      static_cast<uint64_t>(identity[1]) != options_.first_env_index)
    fail(Exit::usage, "foreign-checkpoint", "the runner's state is of seed {}, environments {}..., want seed {}, {}...",
         identity[0], identity[1], options_.seed, options_.first_env_index);
  const std::vector<int64_t> lengths = tensor_of(state, "env/state_length", n).i64();
  const std::vector<int64_t> positions = tensor_of(state, "env/random_position", n).i64();
  const std::vector<int64_t> episode_lengths = tensor_of(state, "env/episode_length", n).i64();
  const std::vector<double> returns = tensor_of(state, "env/episode_return", n).f64();
  size_t total = 0;
  for (const int64_t length : lengths) {
    if (length < -1 || length > int64_t{1} << 32)
      fail(Exit::environment, "corrupt-file", "a state of {} values", length);
    total += static_cast<size_t>(std::max<int64_t>(length, 0));
  }
  const std::vector<double> states = tensor_of(state, "env/state", total).f64();
  if (to_learner_.has_state()) to_learner_.set_state(tensor_of(state, "env/reward_filter", 4 * n).f64());
  const size_t k = options_.curriculum.size();
  std::vector<double> curriculum;  // of the running episodes
  if (k > 0) curriculum = tensor_of(state, "env/curriculum", n * (1 + k)).f64();
  const double* next = states.data();
  std::vector<int> restarted;
  for (size_t b = 0; b < n; ++b) {
    Slot& slot = slots_[b];
    RandomStream random = slot.stepper.random();
    random.set_position(static_cast<uint64_t>(positions[b]));
    if (k > 0) {
      const std::span<const double> own = std::span<const double>(curriculum).subspan(b * (1 + k), 1 + k);
      if (!(own[0] >= 0 && own[0] <= 0xFFFFFFFF && std::ranges::all_of(own, [](double x) { return std::isfinite(x); })))
        fail(Exit::environment, "corrupt-file", "the runner's state has a curriculum that cannot be");
      slot.level = static_cast<uint32_t>(own[0]);
      slot.options.assign(own.begin() + 1, own.end());
      apply_options(slot);
    }
    const Row observation = row(obs, b);
    if (lengths[b] < 0) {
      slot.stepper.random() = random;
      start_episode(slot, observation);
      restarted.push_back(static_cast<int>(b));
    } else {
      slot.stepper.resume(random, returns[b], static_cast<uint32_t>(episode_lengths[b]),
                          {next, static_cast<size_t>(lengths[b])}, observation);
      slot.stepper.check_start(observation);
      next += lengths[b];
    }
  }
  return restarted;
}

}  // namespace myriad
