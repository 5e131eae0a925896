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

/// What VectorEnv itself reports, so that it is not mistaken for an exception of the simulator.
struct LocatedError : Error {
  using Error::Error;
};

/// `value` within T's finite range, rounded to T as Gymnasium stores bounds.
template <class T>
T finite_bound(double value) {
  constexpr double kLow = static_cast<double>(std::numeric_limits<T>::lowest());
  constexpr double kHigh = static_cast<double>(std::numeric_limits<T>::max());
  if (value <= kLow) return std::numeric_limits<T>::lowest();
  return value >= kHigh ? std::numeric_limits<T>::max() : static_cast<T>(value);
}

const Tensor& tensor_of(const TensorMap& state, const std::string& name, size_t count) {
  const auto found = state.find(name);
  if (found == state.end()) fail(Exit::environment, "corrupt-file", "the runner's state has no tensor {}", name);
  const size_t got = found->second.bytes.size() / size_of(found->second.dtype);
  if (got != count)
    fail(Exit::environment, "corrupt-file", "the runner's state has {} values in {}, want {}", got, name, count);
  return found->second;
}

}  // namespace

// ---- RowCheck ----

RowCheck::RowCheck(const Space& space) {
  const auto add = [this](const Leaf& leaf, DType dtype, auto& low, auto& high, auto low_at, auto high_at) {
    using T = typename std::remove_reference_t<decltype(low)>::value_type;
    const size_t first = low.size();
    bool any = std::is_integral_v<T>;  // every value of the type is inside
    for (size_t i = 0; i < leaf.count; ++i) {
      low.push_back(finite_bound<T>(low_at(i)));
      high.push_back(finite_bound<T>(high_at(i)));
      any = any && low.back() == std::numeric_limits<T>::lowest() && high.back() == std::numeric_limits<T>::max();
    }
    if (!any) ranges_.push_back({dtype, leaf.offset, leaf.count, first});
  };
  for (const Leaf& leaf : space.leaves()) {
    const auto integers = [&](int start, auto n) {
      add(
          leaf, DType::i32, low_i32_, high_i32_, [=](size_t) { return double(start); },
          [=](size_t i) { return double(start) + n(i) - 1; });
    };
    if (const auto* box = leaf.space->get_if<Box>()) {
      const auto low = [box](size_t i) { return bound_at(box->low, i); };
      const auto high = [box](size_t i) { return bound_at(box->high, i); };
      switch (box->dtype) {
        case DType::f32:
          add(leaf, box->dtype, low_f32_, high_f32_, low, high);
          break;
        case DType::f64:
          add(leaf, box->dtype, low_f64_, high_f64_, low, high);
          break;
        case DType::u8:
          add(leaf, box->dtype, low_u8_, high_u8_, low, high);
          break;
        case DType::i32:
          add(leaf, box->dtype, low_i32_, high_i32_, low, high);
          break;
        case DType::i64:
          add(leaf, box->dtype, low_i64_, high_i64_, low, high);
          break;
      }
    } else if (const auto* one = leaf.space->get_if<Discrete>()) {
      integers(one->start, [one](size_t) { return one->n; });
    } else if (const auto* multi = leaf.space->get_if<MultiDiscrete>()) {
      integers(0, [multi](size_t i) { return multi->nvec[i]; });
    } else {
      integers(0, [](size_t) { return 2; });  // MultiBinary
    }
  }
}

template <class T>
bool RowCheck::range_holds(const Range& range, const T* low, const T* high, const std::byte* row) const {
  const T* values = reinterpret_cast<const T*>(row + range.offset);
  low += range.first, high += range.first;
  unsigned outside = 0;  // no branch, so that the loop is vectorised; NaN fails both comparisons
  for (size_t i = 0; i < range.count; ++i) outside |= !(values[i] >= low[i]) | !(values[i] <= high[i]);
  return outside == 0;
}

bool RowCheck::holds(const std::byte* row) const {
  for (const Range& range : ranges_) {
    bool inside = false;
    switch (range.dtype) {
      case DType::f32:
        inside = range_holds(range, low_f32_.data(), high_f32_.data(), row);
        break;
      case DType::f64:
        inside = range_holds(range, low_f64_.data(), high_f64_.data(), row);
        break;
      case DType::u8:
        inside = range_holds(range, low_u8_.data(), high_u8_.data(), row);
        break;
      case DType::i32:
        inside = range_holds(range, low_i32_.data(), high_i32_.data(), row);
        break;
      case DType::i64:
        inside = range_holds(range, low_i64_.data(), high_i64_.data(), row);
        break;
    }
    if (!inside) return false;
  }
  return true;
}

// ---- VectorEnv ----

std::string_view observation_error_code(std::string_view violation) {
  for (const std::string_view value : {"= nan", "= -nan", "= inf", "= -inf"})
    if (violation.find(value) != std::string_view::npos) return "nan";
  return "obs-bounds";
}

VectorEnv::VectorEnv(const EnvSpec& spec, const Options& options)
    : spec_(configured_spec(spec, options.env_config)),
      options_(options),
      all_options_(spec_.options),
      observation_check_(spec_.observation_space),
      mask_(ActionMask::of(spec_.observation_space, spec_.action_space)),
      to_learner_(options.rewards, static_cast<size_t>(options.num_envs)),
      action_bytes_(spec_.action_space.row_bytes()),
      time_limit_(static_cast<uint32_t>(options.max_episode_steps)) {
  check(options.num_envs >= 1, "a VectorEnv of {} environments, want at least 1", options.num_envs);
  check(options.max_episode_steps >= 0 && options.max_episode_steps <= std::numeric_limits<uint32_t>::max(),
        "a time limit of {} steps", options.max_episode_steps);
  slots_.reserve(static_cast<size_t>(options.num_envs));
  for (size_t b = 0; b < static_cast<size_t>(options.num_envs); ++b) {
    RandomStream random(options.seed, StreamPurpose::environment, options.first_env_index + b);
    random.set_position(options.first_draw);
    slots_.push_back({make_environment(spec_, options.env_config), random});
    for (const std::string& option : options.curriculum) slots_.back().options.push_back(spec_.options.at(option));
  }
}

void VectorEnv::fail_step(size_t b, std::string_view code, std::string_view fact) const {
  const uint32_t step = slots_[b].episode_length;
  throw LocatedError(
      Exit::environment, std::string(code),
      fmt::format("{} env {} (seed {}) {}: {}; check: myriad check-env {}", spec_.id, options_.first_env_index + b,
                  options_.seed, step == 0 ? std::string("at reset") : fmt::format("at step {} of its episode", step),
                  fact, spec_.id));
}

void VectorEnv::fail_observation(size_t b, Row observation) const {
  const std::string fact = spec_.observation_space.violation(observation.bytes(), "obs");
  const std::string_view code = observation_error_code(fact);
  fail_step(b, code, code == "nan" ? fact : fact + "; widen the space or clip");
}

/// Throws Error for an S_t that is outside its space, or at which no action is possible.
void VectorEnv::check_start(size_t b, Row observation) const {
  if (!observation_check_.holds(observation.bytes().data())) [[unlikely]]
    fail_observation(b, observation);
  check_mask(b, observation);
}

void VectorEnv::check_mask(size_t b, Row observation) const {
  if (mask_ && !mask_->allows_any(observation.bytes())) [[unlikely]]
    fail_step(b, "no-action", ActionMask::kNoAction);
}

/// Calls f(b) for every environment; what a simulator throws gets its place and reason.
template <class F>
void VectorEnv::for_each_env(F&& f) {
  size_t b = 0;
  try {
    for (; b < slots_.size(); ++b) f(b, slots_[b]);
  } catch (const LocatedError&) { throw; } catch (const std::exception& error) {
    fail_step(b, "env-exception", fmt::format("the simulator threw: {}", error.what()));
  } catch (...) { fail_step(b, "env-exception", "the simulator threw something that is not a std::exception"); }
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
    const double value = low == high ? low : slot.random.uniform(low, high);
    changed |= std::exchange(slot.options[i], value) != value;
  }
  if (changed) apply_options(slot);
}

void VectorEnv::apply_options(Slot& slot) {
  for (size_t i = 0; i < slot.options.size(); ++i) all_options_.at(options_.curriculum[i]) = slot.options[i];
  if (!slot.env->set_options(all_options_)) slot.env = make_environment(spec_, all_options_);
}

void VectorEnv::start_episode(Slot& slot, Row observation) {
  slot.episode_return = 0.0;
  slot.episode_length = 0;
  if (!curriculum_.empty()) draw_options(slot);
  slot.env->reset(slot.random, observation);
}

void VectorEnv::reset(std::byte* obs) {
  for_each_env([&](size_t b, Slot& slot) {
    start_episode(slot, row(obs, b));
    check_start(b, row(obs, b));
  });
}

size_t VectorEnv::step(const std::byte* actions, const Destination& to) {
  size_t final_rows = 0;
  const auto action = [&](size_t b) { return ConstRow({actions + b * action_bytes_, action_bytes_}); };
  if (spec_.submits) for_each_env([&](size_t b, Slot& slot) { slot.env->submit(action(b), slot.random); });
  for_each_env([&](size_t b, Slot& slot) {
    const Row observation = row(to.obs, b);
    std::byte* bytes = observation.bytes().data();
    ++slot.episode_length;
    const StepResult result = slot.env->step(action(b), slot.random, observation);
    if (result.own != nullptr && to.own != nullptr) [[unlikely]]
      to.own->emplace_back(b, result.own);
    const float reward = to_learner_(b, result.reward, result.terminated);
    if (!std::isfinite(reward)) [[unlikely]]
      fail_step(b, "nan", fmt::format("reward = {}", result.reward));
    if (!observation_check_.holds(bytes)) [[unlikely]]
      fail_observation(b, observation);
    slot.episode_return += result.reward;
    const bool truncated = result.truncated || slot.episode_length == time_limit_;
    to.rewards[b] = reward;
    to.terminateds[b] = result.terminated;
    to.truncateds[b] = truncated;  // as Gymnasium's TimeLimit, beside a termination too
    if (!result.terminated && !truncated) return check_mask(b, observation);
    if (!result.abandoned)
      to.episodes->push_back(
          {slot.episode_return, slot.episode_length, static_cast<uint32_t>(options_.first_env_index + b), slot.level});
    if (!result.terminated) std::memcpy(to.final_obs + final_rows++ * row_bytes(), bytes, row_bytes());
    start_episode(slot, observation);
    check_start(b, observation);
  });
  return final_rows;
}

TensorMap VectorEnv::state() const {
  std::vector<double> states, returns;
  std::vector<int64_t> lengths, positions, episode_lengths;
  for (const Slot& slot : slots_) {
    const std::optional<std::vector<double>> state = slot.env->state();
    lengths.push_back(state ? static_cast<int64_t>(state->size()) : -1);
    if (state) states.insert(states.end(), state->begin(), state->end());
    positions.push_back(static_cast<int64_t>(slot.random.position()));
    returns.push_back(slot.episode_return);
    episode_lengths.push_back(slot.episode_length);
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
  for_each_env([&](size_t b, Slot& slot) {
    slot.random.set_position(static_cast<uint64_t>(positions[b]));
    if (k > 0) {
      const std::span<const double> own = std::span<const double>(curriculum).subspan(b * (1 + k), 1 + k);
      if (!(own[0] >= 0 && own[0] <= 0xFFFFFFFF && std::ranges::all_of(own, [](double x) { return std::isfinite(x); })))
        fail(Exit::environment, "corrupt-file", "the runner's state has a curriculum that cannot be");
      slot.level = static_cast<uint32_t>(own[0]);
      slot.options.assign(own.begin() + 1, own.end());
      apply_options(slot);
    }
    if (lengths[b] < 0) {
      start_episode(slot, row(obs, b));
      restarted.push_back(static_cast<int>(b));
    } else {
      slot.env->set_state({next, static_cast<size_t>(lengths[b])}, row(obs, b));
      next += lengths[b];
      slot.episode_return = returns[b];
      slot.episode_length = static_cast<uint32_t>(episode_lengths[b]);
    }
    check_start(b, row(obs, b));
  });
  return restarted;
}

}  // namespace myriad
