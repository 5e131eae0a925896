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

}  // namespace

Weights Learner::weights() const {
  const Range range{0, spec().num_inference_parameters()};
  Weights weights{.version = version_,
                  .layout_hash = spec().hash(),
                  .values = gathered(trainer_->parameters(), range),
                  .filter = {}};
  if (filter_) weights.filter = filter_->state();
  return weights;
}

LearnerState Learner::state() const {
  LearnerState state = replicated_state();
  if (shard_ == Shard::none) return state;
  state.optimizer = trainer_->optimizer_state();
  if (shard_ != Shard::parameters) return state;
  const Range all = parts_.partition().whole();
  state.module = named_parameters(spec(), gathered(trainer_->parameters(), all));
  if (has_target_)
    state.scalars["target_parameters"] =
        Tensor::of(std::span<const float>(gathered(trainer_->target(), all)), {all.count()});
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

/// All that is the same at every shard: not what may lie in parts.
LearnerState Learner::replicated_state() const {
  LearnerState state;
  if (shard_ != Shard::parameters) {
    state.module = named_parameters(spec(), trainer_->parameters());
    if (has_target_) state.scalars["target_parameters"] = Tensor::of(trainer_->target(), {spec().num_parameters()});
  }
  state.optimizer = shard_ == Shard::none ? trainer_->optimizer_state() : optimizer_state(trainer_->counters());
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
  state.scalars["num_module_steps_trained_lifetime"] = scalar(books_.module_steps);
  if (has_target_) {
    state.scalars["num_target_updates"] = scalar(books_.target_updates);
    state.scalars["target_updated_at"] = scalar(books_.target_updated_at);
  }
  for (const auto& [name, value] : algorithm_->state()) state.scalars[std::string(kCoefficient) + name] = scalar(value);
  return state;
}

void Learner::set_state(const LearnerState& state) {
  check(parts_.whole(), "a state is set before the parts of a group are taken");
  trainer_->set_state(parameters_in(state), state.optimizer, target_in(state));
  set_counters(state);
}

void Learner::set_replicated_state(const LearnerState& state) {
  if (shard_ == Shard::none)
    trainer_->set_state(parameters_in(state), state.optimizer, target_in(state));
  else if (shard_ == Shard::parameters)
    trainer_->set_replicated_state({}, state.optimizer, {});
  else
    trainer_->set_replicated_state(parameters_in(state), state.optimizer, target_in(state));
  set_counters(state);
}

std::vector<float> Learner::parameters_in(const LearnerState& state) const {
  return flat_parameters(spec(), state.module, "the learner's state");
}

/// Empty without a target network.
std::vector<float> Learner::target_in(const LearnerState& state) const {
  if (!has_target_) return {};
  std::vector<float> target = find(state.scalars, "target_parameters").f32();
  if (target.size() != spec().num_parameters())
    fail(Exit::usage, "foreign-checkpoint", "the target network has {} parameters, want {}", target.size(),
         spec().num_parameters());
  return target;
}

void Learner::set_counters(const LearnerState& state) {
  if (has_target_) {
    books_.target_updates = integer(state.scalars, "num_target_updates");
    books_.target_updated_at = integer(state.scalars, "target_updated_at");
  }
  trainer_->empty_buffer();
  if (filter_) filter_->set_state(find(state.connectors, "mean_std_filter").f64());
  version_ = static_cast<uint64_t>(integer(state.scalars, "version"));
  env_steps_ = integer(state.scalars, "num_env_steps_trained_lifetime");
  books_.module_steps = integer(state.scalars, "num_module_steps_trained_lifetime");
  std::map<std::string, double> coefficients;
  for (const auto& [name, tensor] : state.scalars)
    if (name.starts_with(kCoefficient)) coefficients[name.substr(kCoefficient.size())] = tensor.f64().at(0);
  algorithm_->set_state(coefficients);
}

}  // namespace myriad
