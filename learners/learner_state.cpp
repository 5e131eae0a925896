// What leaves a Learner and comes back: weights, checkpoints.
#include <ATen/ATen.h>

#include <algorithm>

#include "learners/learner.hpp"
#include "rl/check.hpp"

namespace myriad {
namespace {

constexpr std::string_view kCoefficient = "algorithm.";

Tensor scalar(int64_t value) { return Tensor::of(std::span<const int64_t>(&value, 1), {1}); }
Tensor scalar(double value) { return Tensor::of(std::span<const double>(&value, 1), {1}); }

const Tensor& find(const TensorMap& tensors, const std::string& name) {
  const auto found = tensors.find(name);
  if (found == tensors.end()) fail(Exit::usage, "foreign-checkpoint", "the learner's state has no '{}'", name);
  return found->second;
}
int64_t integer(const TensorMap& tensors, const std::string& name) {
  const std::vector<int64_t> values = find(tensors, name).i64();
  if (values.size() != 1)
    fail(Exit::usage, "foreign-checkpoint", "the learner's '{}' has {} values, want 1", name, values.size());
  return values[0];
}

std::span<float> room_of(const at::Tensor& tensor) {
  return {tensor.mutable_data_ptr<float>(), static_cast<size_t>(tensor.numel())};
}

}  // namespace

Weights Learner::weights() const {
  const Range range{0, spec().num_inference_parameters()};
  Weights weights{
      .version = version_, .layout_hash = spec().hash(), .values = gathered(parameters(), range), .filter = {}};
  if (filter_) weights.filter = filter_->state();
  return weights;
}

LearnerState Learner::state() const {
  LearnerState state = replicated_state();
  if (shard_ == Shard::none) return state;
  state.optimizer = device_ ? device_->optimizer_state() : optimizer_->state();
  if (shard_ != Shard::parameters) return state;
  const Range all = parts_.partition().whole();
  state.module = named_parameters(spec(), gathered(parameters(), all));
  if (plan_.target)
    state.scalars["target_parameters"] = Tensor::of(std::span<const float>(gathered(target(), all)), {all.count()});
  return state;
}

/// As that of PartedModule, of what lies on the host.
std::vector<float> Learner::gathered(std::span<const float> home, Range range) const {
  const auto group = parameters_in_parts() ? make_host_group(*group_) : nullptr;
  const at::Tensor all = myriad::gathered(
      placement(), group.get(),
      at::from_blob(const_cast<float*>(home.data()), {static_cast<int64_t>(home.size())}, at::kFloat), range);
  return {all.const_data_ptr<float>(), all.const_data_ptr<float>() + all.numel()};
}

/// All of it, or this shard's part.
std::vector<float> Learner::target() const {
  if (device_) return device_->target();
  const std::span<const float> values = room_of(target_);
  return {values.begin(), values.end()};
}

/// All that is the same at every shard: not what may lie in parts.
LearnerState Learner::replicated_state() const {
  LearnerState state;
  if (shard_ != Shard::parameters) {
    state.module = named_parameters(spec(), parameters());
    if (plan_.target) state.scalars["target_parameters"] = Tensor::of(target(), {spec().num_parameters()});
  }
  if (shard_ == Shard::none)
    state.optimizer = device_ ? device_->optimizer_state() : optimizer_->state();
  else
    state.optimizer = device_ ? device_->counter_state() : optimizer_->counter_state();
  if (filter_) {
    const std::vector<double> statistics = filter_->state();
    state.connectors["mean_std_filter"] = Tensor::of(std::span<const double>(statistics), {statistics.size()});
  }
  if (epsilon_) {
    const double epsilon = epsilon_->at(static_cast<double>(env_steps_));
    state.connectors["epsilon"] = Tensor::of(std::span(&epsilon, 1), {1});
  }
  state.scalars["version"] = scalar(static_cast<int64_t>(version_));
  state.scalars["num_env_steps_trained_lifetime"] = scalar(env_steps_);
  state.scalars["num_module_steps_trained_lifetime"] = scalar(module_steps_);
  if (plan_.target) {
    state.scalars["num_target_updates"] = scalar(target_updates_);
    state.scalars["target_updated_at"] = scalar(target_updated_at_);
  }
  for (const auto& [name, value] : algorithm_->state()) state.scalars[std::string(kCoefficient) + name] = scalar(value);
  return state;
}

void Learner::set_state(const LearnerState& state) {
  check(parts_.whole(), "a state is set before the parts of a group are taken");
  set_parameters_and_moments(state);
  set_counters(state);
}

void Learner::set_replicated_state(const LearnerState& state) {
  if (shard_ == Shard::none) {
    set_parameters_and_moments(state);
  } else {
    const bool replicated = shard_ != Shard::parameters;
    if (replicated) set_parameters(state);
    if (device_)
      device_->set_replicated_state(replicated ? module_->parameters() : std::span<const float>(), state.optimizer,
                                    replicated && plan_.target ? room_of(target_) : std::span<const float>());
    else
      optimizer_->set_counter_state(state.optimizer);
  }
  set_counters(state);
}

/// All of them.
void Learner::set_parameters_and_moments(const LearnerState& state) {
  set_parameters(state);
  if (device_)
    device_->set_state(module_->parameters(), state.optimizer,
                       plan_.target ? std::span<const float>(room_of(target_)) : std::span<const float>());
  else
    optimizer_->set_state(state.optimizer);
}

void Learner::set_parameters(const LearnerState& state) {
  const std::vector<float> parameters = flat_parameters(spec(), state.module, "the learner's state");
  if (plan_.target) {
    const std::vector<float> target = find(state.scalars, "target_parameters").f32();
    if (target.size() != parameters.size())
      fail(Exit::usage, "foreign-checkpoint", "the target network has {} parameters, want {}", target.size(),
           parameters.size());
    std::ranges::copy(target, room_of(target_).begin());
  }
  std::ranges::copy(parameters, module_->parameters().begin());
}

void Learner::set_counters(const LearnerState& state) {
  if (plan_.target) {
    target_updates_ = integer(state.scalars, "num_target_updates");
    target_updated_at_ = integer(state.scalars, "target_updated_at");
  }
  empty_buffer();
  if (filter_) filter_->set_state(find(state.connectors, "mean_std_filter").f64());
  version_ = static_cast<uint64_t>(integer(state.scalars, "version"));
  env_steps_ = integer(state.scalars, "num_env_steps_trained_lifetime");
  module_steps_ = integer(state.scalars, "num_module_steps_trained_lifetime");
  std::map<std::string, double> coefficients;
  for (const auto& [name, tensor] : state.scalars)
    if (name.starts_with(kCoefficient)) coefficients[name.substr(kCoefficient.size())] = tensor.f64().at(0);
  algorithm_->set_state(coefficients);
}

}  // namespace myriad
