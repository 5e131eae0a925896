#include "rl/action_mask.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <utility>

#include "rl/check.hpp"

namespace myriad {
namespace {

template <class T, class F>
void each_of(const std::byte* row, size_t count, F& f) {
  for (size_t i = 0; i < count; ++i) {
    T value;
    std::memcpy(&value, row + i * sizeof value, sizeof value);
    f(value != T{0});
  }
}

int32_t load(std::span<const std::byte> row, size_t i) {
  int32_t value;
  std::memcpy(&value, row.data() + i * sizeof value, sizeof value);
  return value;
}

bool is_mask(const Space& leaf) {
  if (leaf.get_if<MultiBinary>() != nullptr) return true;
  const Box* box = leaf.get_if<Box>();
  return box != nullptr && std::ranges::all_of(box->low, [](double low) { return low >= 0; }) &&
         std::ranges::all_of(box->high, [](double high) { return high <= 1; });
}

}  // namespace

std::vector<int> choices_of(const Space& action) {
  if (const auto* one = action.get_if<Discrete>()) return {one->n};
  if (const auto* multi = action.get_if<MultiDiscrete>()) return multi->nvec;
  return {};
}

Space with_action_mask(const Space& observation, const Space& action) {
  const std::vector<int> choices = choices_of(action);
  if (choices.empty())
    fail(Exit::usage, "unsupported-space", "actions with a mask are Discrete or MultiDiscrete, not {}",
         action.to_string());
  const int n = std::accumulate(choices.begin(), choices.end(), 0);
  return Dict{{{"observation", observation},
               {std::string(ActionMask::kKey), Space::box(0, 1, {n}, observation.leaves()[0].dtype)}}};
}

std::optional<ActionMask> ActionMask::of(const Space& observation, const Space& action) {
  const Dict* dict = observation.get_if<Dict>();
  if (dict == nullptr) return std::nullopt;
  ActionMask mask;
  const Space* masked = nullptr;
  Dict rest;
  int features = 0;
  for (const auto& [name, part] : dict->spaces) {
    if (name == kKey)
      masked = &part, mask.offset_ = features;
    else
      rest.spaces.emplace_back(name, part);
    features += part.flat_size();
  }
  if (masked == nullptr) return std::nullopt;
  mask.groups_ = choices_of(action);
  mask.size_ = std::accumulate(mask.groups_.begin(), mask.groups_.end(), 0);
  if (mask.groups_.empty())
    fail(Exit::usage, "unsupported-space",
         "an action_mask among the observations masks Discrete and MultiDiscrete actions, not {}: give it another name",
         action.to_string());
  size_t elements = 0;
  bool fits = true;
  for (const Leaf& leaf : masked->leaves()) elements += leaf.count, fits = fits && is_mask(*leaf.space);
  if (!fits || elements != static_cast<size_t>(mask.size_))
    fail(Exit::usage, "unsupported-space",
         "the observations' action_mask is {}, want {} numbers within [0, 1], as Box(0, 1, ({},), uint8), for {} "
         "actions",
         masked->to_string(), mask.size_, mask.size_, action.to_string());
  for (const Leaf& leaf : observation.leaves())
    if (leaf.path == kKey || leaf.path.starts_with(std::string(kKey) + "/"))
      mask.parts_.push_back({leaf.dtype, leaf.offset, leaf.count});
  if (const auto* one = action.get_if<Discrete>()) mask.start_ = one->start;
  if (rest.spaces.size() == 1)
    mask.rest_ = rest.spaces[0].second;
  else if (!rest.spaces.empty())
    mask.rest_ = Space(std::move(rest));
  return mask;
}

/// Calls f(whether the choice is allowed) for each choice of each element.
template <class F>
void ActionMask::each(std::span<const std::byte> observation, F f) const {
  for (const Part& part : parts_) {
    const std::byte* row = observation.data() + part.offset;
    switch (part.dtype) {
      case DType::f32:
        each_of<float>(row, part.count, f);
        break;
      case DType::f64:
        each_of<double>(row, part.count, f);
        break;
      case DType::u8:
        each_of<uint8_t>(row, part.count, f);
        break;
      case DType::i32:
        each_of<int32_t>(row, part.count, f);
        break;
      case DType::i64:
        each_of<int64_t>(row, part.count, f);
        break;
    }
  }
}

bool ActionMask::allows_any(std::span<const std::byte> observation) const {
  size_t group = 0;
  int left = groups_[0];
  bool any = false, all = true;
  each(observation, [&](bool allowed) {
    any |= allowed;
    if (--left > 0) return;
    all &= std::exchange(any, false);
    if (++group < groups_.size()) left = groups_[group];
  });
  return all;
}

std::vector<float> ActionMask::values(std::span<const std::byte> observation) const {
  std::vector<float> values;
  each(observation, [&](bool allowed) { values.push_back(allowed ? 1.0f : 0.0f); });
  return values;
}

std::string ActionMask::violation(std::span<const std::byte> observation, std::span<const std::byte> action) const {
  const std::vector<float> mask = values(observation);
  size_t at = 0;
  for (size_t i = 0; i < groups_.size(); at += static_cast<size_t>(groups_[i++])) {
    const int value = load(action, i);
    if (mask[at + static_cast<size_t>(value - start_)] == 0.0f)
      return fmt::format("action[{}] = {} is masked", i, value);
  }
  return "";
}

void ActionMask::sample(RandomStream& random, std::span<const std::byte> observation,
                        std::span<std::byte> action) const {
  sample_allowed(random, groups_, start_, values(observation).data(), action);
}

double sample_allowed(RandomStream& random, std::span<const int> groups, int start, const float* mask,
                      std::span<std::byte> action) {
  double logp = 0.0;
  for (size_t i = 0; i < groups.size(); mask += groups[i++]) {
    const auto count = std::count_if(mask, mask + groups[i], [](float m) { return m != 0.0f; });
    check(count > 0, "an action mask allows none of {} choices", groups[i]);
    auto left = static_cast<int64_t>(random.below(static_cast<uint64_t>(count)));
    int32_t choice = 0;
    while (mask[choice] == 0.0f || left-- > 0) ++choice;
    const int32_t value = start + choice;
    std::memcpy(action.data() + i * sizeof value, &value, sizeof value);
    logp -= std::log(static_cast<double>(count));
  }
  return logp;
}

}  // namespace myriad
