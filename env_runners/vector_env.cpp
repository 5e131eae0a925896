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
    : rules_(std::make_shared<const EnvRules>(spec, options.env_config, options.max_episode_steps, context)),
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

void VectorEnv::start_episode(Slot& slot, Row observation) {
  if (!curriculum_.empty()) draw_options(slot);
  slot.stepper.reset(observation);
  slot.stepper.check_start(observation);
}

void VectorEnv::reset(std::byte* obs) {
  for (size_t b = 0; b < slots_.size(); ++b) start_episode(slots_[b], row(obs, b));
}

size_t VectorEnv::step(const std::byte* actions, const Destination& to) {
  size_t final_rows = 0;
  const auto action = [&](size_t b) { return ConstRow({actions + b * action_bytes_, action_bytes_}); };
  if (rules_->spec.submits)
    for (size_t b = 0; b < slots_.size(); ++b) slots_[b].stepper.submit(action(b));
  for (size_t b = 0; b < slots_.size(); ++b) {
    EnvStepper& stepper = slots_[b].stepper;
    const Row observation = row(to.obs, b);
    const StepResult result = stepper.step(action(b), observation);
    if (result.own != nullptr && to.own != nullptr) [[unlikely]]
      to.own->emplace_back(b, result.own);
    const float reward = to_learner_(b, result.reward, result.terminated);
    stepper.check_step(result, reward, observation);
    to.rewards[b] = reward;
    to.terminateds[b] = result.terminated;
    to.truncateds[b] = result.truncated;
    if (!result.terminated && !result.truncated) continue;
    if (!result.abandoned)
      to.episodes->push_back({stepper.episode_return(), stepper.episode_length(),
                              static_cast<uint32_t>(options_.first_env_index + b), slots_[b].level});
    if (!result.terminated)
      std::memcpy(to.final_obs + final_rows++ * row_bytes_, observation.bytes().data(), row_bytes_);
    start_episode(slots_[b], observation);
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
