#include "learners/native/optimizer_state.hpp"

#include "rl/check.hpp"

namespace myriad {
namespace {

constexpr std::array kMoments{"exp_avg", "exp_avg_sq"};

Tensor integers(std::initializer_list<int64_t> values) {
  return Tensor::of(std::span<const int64_t>(values.begin(), values.size()), {values.size()});
}

const Tensor& find(const TensorMap& state, const char* name) {
  const auto found = state.find(name);
  if (found == state.end()) fail(Exit::usage, "foreign-checkpoint", "the optimizer's state has no '{}'", name);
  return found->second;
}

}  // namespace

TensorMap optimizer_state(const OptimizerCounters& counters) {
  return {{"steps", integers({counters.steps, counters.skipped, counters.skipped_in_a_row})}};
}

TensorMap optimizer_state(const OptimizerCounters& counters, std::span<const float> first,
                          std::span<const float> second, Range part, size_t total) {
  TensorMap state = optimizer_state(counters);
  state[kMoments[0]] = Tensor::of(first, {first.size()});
  state[kMoments[1]] = Tensor::of(second, {second.size()});
  if (part.count() == total) return state;
  state["offset"] = integers({static_cast<int64_t>(part.begin)});
  state["total"] = integers({static_cast<int64_t>(total)});
  return state;
}

OptimizerCounters optimizer_counters(const TensorMap& state) {
  const std::vector<int64_t> steps = find(state, "steps").i64();
  if (steps.size() != 3)
    fail(Exit::usage, "foreign-checkpoint", "the optimizer's 'steps' has {} values, want 3", steps.size());
  return {steps[0], steps[1], steps[2]};
}

std::array<std::vector<float>, 2> optimizer_moments(const TensorMap& state, size_t total) {
  std::array<std::vector<float>, 2> moments;
  for (size_t i = 0; i < moments.size(); ++i) moments[i] = find(state, kMoments[i]).f32();
  if (moments[0].size() != total || moments[1].size() != total)
    fail(Exit::usage, "foreign-checkpoint", "the optimizer's state is of {} parameters, want {}", moments[0].size(),
         total);
  return moments;
}

}  // namespace myriad
