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

bool is_mask(const Space& leaf) {
  if (leaf.get_if<MultiBinary>() != nullptr) return true;
  const Box* box = leaf.get_if<Box>();
  return box != nullptr && std::ranges::all_of(box->low, [](double low) { return low >= 0; }) &&
         std::ranges::all_of(box->high, [](double high) { return high <= 1; });
}

int num_options(const std::vector<Choice>& choices) {
  return std::accumulate(choices.begin(), choices.end(), 0, [](int sum, const Choice& c) { return sum + c.n; });
}

}  // namespace

std::vector<Choice> choices_of(const Space& action) {
  std::vector<Choice> choices;
  for (const Leaf& leaf : action.leaves()) {
    if (leaf.space->get_if<Box>() != nullptr) continue;
    const auto* one = leaf.space->get_if<Discrete>();
    const auto* multi = leaf.space->get_if<MultiDiscrete>();
    for (size_t i = 0; i < leaf.count; ++i)
      choices.push_back({one     ? one->n
                         : multi ? multi->nvec[i]
                                 : 2,
                         one     ? one->start
                         : multi ? multi->start_at(i)
                                 : 0,
                         leaf.offset + i * sizeof(int32_t),
                         fmt::format("action{}{}[{}]", leaf.path.empty() ? "" : ".", leaf.path, i)});
  }
  return choices;
}

Space with_action_mask(const Space& observation, const Space& action) {
  const int n = num_options(choices_of(action));
  if (n == 0)
    fail(Exit::usage, "unsupported-space", "actions with a mask are Discrete, MultiDiscrete or MultiBinary, not {}",
         action.to_string());
  return Dict{{{"observation", observation},
               {std::string(ActionMask::kKey), Space::box(0, 1, {n}, observation.leaves()[0].dtype)}}};
}

std::optional<ActionMask> ActionMask::of(const Space& observation, const Space& action) {
  const Dict* dict = observation.get_if<Dict>();
  if (dict == nullptr) return std::nullopt;
  ActionMask mask(action);
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
  mask.choices_ = choices_of(action);
  mask.size_ = num_options(mask.choices_);
  mask.all_choices_ = std::ranges::none_of(action.leaves(), [](const Leaf& leaf) { return leaf.space->get_if<Box>(); });
  if (mask.choices_.empty())
    fail(Exit::usage, "unsupported-space",
         "an action_mask among the observations masks Discrete, MultiDiscrete and MultiBinary actions, not {}: give it "
         "another name",
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
  size_t choice = 0;
  int left = choices_[0].n;
  bool any = false, all = true;
  each(observation, [&](bool allowed) {
    any |= allowed;
    if (--left > 0) return;
    all &= std::exchange(any, false);
    if (++choice < choices_.size()) left = choices_[choice].n;
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
  for (const Choice& choice : choices_) {
    int32_t value;
    std::memcpy(&value, action.data() + choice.offset, sizeof value);
    if (mask[at + static_cast<size_t>(value - choice.start)] == 0.0f)
      return fmt::format("{} = {} is masked", choice.name, value);
    at += static_cast<size_t>(choice.n);
  }
  return "";
}

void ActionMask::sample(RandomStream& random, std::span<const std::byte> observation,
                        std::span<std::byte> action) const {
  if (!all_choices_) action_.sample(random, action);
  sample_allowed(random, choices_, values(observation).data(), action);
}

double sample_allowed(RandomStream& random, std::span<const Choice> choices, const float* mask,
                      std::span<std::byte> action) {
  double logp = 0.0;
  for (const Choice& choice : choices) {
    const auto count = std::count_if(mask, mask + choice.n, [](float m) { return m != 0.0f; });
    check(count > 0, "an action mask allows none of {} choices", choice.n);
    auto left = static_cast<int64_t>(random.below(static_cast<uint64_t>(count)));
    int32_t option = 0;
    while (mask[option] == 0.0f || left-- > 0) ++option;
    const int32_t value = choice.start + option;
    std::memcpy(action.data() + choice.offset, &value, sizeof value);
    logp -= std::log(static_cast<double>(count));
    mask += choice.n;
  }
  return logp;
}

}  // namespace myriad
