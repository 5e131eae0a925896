// Examples that the tests of several algorithms share.
#pragma once

#include <ATen/ATen.h>
#include <doctest/doctest.h>  // after torch, whose CHECK it replaces

#include <algorithm>
#include <cmath>
#include <deque>
#include <vector>

#include "algorithms/ops/vtrace.hpp"
#include "learners/learner.hpp"
#include "learners/module/action_distribution.hpp"
#include "rl/random.hpp"

namespace myriad {

/// The accelerated form of an algorithm that has one.
inline const SampleLosses& sampled(const Algorithm& algorithm) { return dynamic_cast<const SampleLosses&>(algorithm); }

/// A module whose output is given, for a loss of one pass.
struct GivenOutput final : Networks {
  GivenOutput(const ModuleSpec& spec, ModuleOutput o) : Networks(spec), output(std::move(o)) {}
  ModuleOutput forward(Parameters, const at::Tensor&) override { return output; }
  std::vector<at::Tensor> outputs(Parameters, const Names&, const NetworkInputs&) override { return {}; }
  ModuleOutput output;
};

/// The loss of a minibatch whose observations do not matter.
inline Loss loss_of(const Algorithm& algorithm, const ModuleSpec& spec, const ModuleOutput& output, Columns minibatch) {
  GivenOutput networks(spec, output);
  minibatch["obs"] = at::Tensor();
  return algorithm.loss(networks, minibatch);
}

struct TrajectoriesExample {
  size_t steps, environments;
  std::vector<float> rewards, values, final_values;
  std::vector<uint8_t> terminateds, truncateds;
  Trajectories view() const { return {steps, environments, rewards, terminateds, truncateds, values, final_values}; }
};

/// gamma 0.5 goes well with it: three environments of two steps, time-major. Environment 0: terminal after step 0;
/// 1: time limit after step 0 with V(final) = 8; 2: cut by the fragment's end, as are all after step 1.
inline TrajectoriesExample three_ends() {
  return {.steps = 2,
          .environments = 3,
          .rewards = {1, 1, 1, 2, 2, 2},
          .values = {4, 4, 4, 6, 6, 6, 10, 10, 10},
          .final_values = {8},
          .terminateds = {1, 0, 0, 0, 0, 0},
          .truncateds = {0, 1, 0, 0, 0, 0}};
}

/// Random trajectories with ends of both kinds.
inline TrajectoriesExample random_trajectories(uint64_t seed) {
  TrajectoriesExample e{
      12, 5, std::vector<float>(60), std::vector<float>(65), {}, std::vector<uint8_t>(60), std::vector<uint8_t>(60)};
  RandomStream random(seed, StreamPurpose::simulation, 0);
  for (float& r : e.rewards) r = static_cast<float>(random.normal());
  for (float& v : e.values) v = static_cast<float>(random.normal());
  for (size_t i = 0; i < 60; ++i) {
    e.terminateds[i] = random.below(6) == 0;
    e.truncateds[i] = random.below(6) == 0;  // both at once happen too
    if (e.truncateds[i] && !e.terminateds[i]) e.final_values.push_back(static_cast<float>(random.normal()));
  }
  return e;
}

/// Stored actions of a Composite.
inline at::Tensor composite_actions(const ActionDistribution& distribution, int64_t n) {
  std::vector<at::Tensor> parts;
  for (const ActionPart& part : action_parts(distribution)) {
    const auto* one = std::get_if<Categorical>(&part.distribution);
    parts.push_back(one ? at::randint(one->n, {n, 1}, at::kFloat) : at::randn({n, part.num_elements}).tanh());
  }
  return at::cat(parts, 1);
}

/// A time-major minibatch over random_trajectories(), and outputs of a module near the behaviour policy.
struct SequenceExample {
  static constexpr int64_t kSteps = 12, kEnvironments = 5, kSamples = kSteps * kEnvironments;
  ModuleSpec spec;
  TrajectoriesExample trajectories;
  Columns columns;
  at::Tensor inputs, values;  // [(T+1) * N + F, k], [(T+1) * N + F]

  SequenceExample(const Space& action_space, uint64_t seed, float apart = 0.3f)
      : spec(make_mlp_spec(Space::box(-1, 1, {2}), action_space, ModelConfig())),
        trajectories(random_trajectories(seed)) {
    at::manual_seed(seed);
    const int64_t k = inputs_size(spec.distribution);
    const auto* discrete = action_space.get_if<Discrete>();
    const at::Tensor behaviour = at::randn({kSamples, k}) * 0.3;
    const at::Tensor actions = discrete                 ? at::randint(discrete->n, {kSamples, 1}, at::kInt)
                               : action_space.is_leaf() ? at::randn({kSamples, action_space.flat_size()})
                                                        : composite_actions(spec.distribution, kSamples);
    std::vector<float> all = trajectories.values;
    all.insert(all.end(), trajectories.final_values.begin(), trajectories.final_values.end());
    values = at::tensor(all);
    const auto rows = static_cast<int64_t>(all.size());
    inputs = at::cat({behaviour + at::randn({kSamples, k}) * apart, at::randn({rows - kSamples, k})});
    const auto grid = [](const at::Tensor& x) { return x.reshape({kSteps, kEnvironments, -1}); };
    const auto flags = [&](const std::vector<uint8_t>& x) {
      return at::tensor(x, at::kByte).view({kSteps, kEnvironments});
    };
    columns = {{"actions", grid(actions)},
               {"action_dist_inputs", grid(behaviour)},
               {"logp", log_prob(spec.distribution, behaviour, actions).view({kSteps, kEnvironments})},
               {"rewards", at::tensor(trajectories.rewards).view({kSteps, kEnvironments})},
               {"terminateds", flags(trajectories.terminateds)},
               {"truncateds", flags(trajectories.truncateds)}};
  }

  at::Tensor flat(const char* name) const { return columns.at(name).flatten(0, 1); }
  /// V-trace of `ratios` [T * N] over its values: vs and A, [T * N] each.
  std::pair<at::Tensor, at::Tensor> vtrace(const at::Tensor& ratios, double gamma,
                                           const VtraceSettings& settings) const {
    const at::Tensor targets = at::empty({kSamples}), advantages = at::empty({kSamples});
    const auto span = [](const at::Tensor& t) { return std::span<float>(t.mutable_data_ptr<float>(), kSamples); };
    compute_vtrace(trajectories.view(), span(ratios), gamma, settings, span(targets), span(advantages));
    return {targets, advantages};
  }
};

inline double metric(const Algorithm& algorithm, const HostLoss& loss, std::string_view name) {
  const auto names = algorithm.loss_metrics();
  const auto found = std::find(names.begin(), names.end(), name);
  return found == names.end() ? NAN : loss.metrics[found - names.begin()].item<double>();
}

/// A problem of two steps, played by what the learner's policy was `lag` updates ago: the first action must say whether
/// obs is positive, which only the second step rewards. A policy of Q-values draws one action in ten at random. Returns
/// the mean reward of the last ten batches, at most 1.
inline double reward_after(Learner& learner, int updates, int lag) {
  constexpr int kSteps = 8, kEnvironments = 32;
  constexpr size_t kCount = size_t{kSteps} * kEnvironments;
  auto layout = std::make_shared<FragmentLayout>(kSteps, kEnvironments);
  layout->add("obs", Rows::step_and_bootstrap, DType::f32, {2})
      .add("actions", Rows::step, DType::i32, {1})
      .add("rewards", Rows::step, DType::f32, {})
      .add("terminateds", Rows::step, DType::u8, {})
      .add("truncateds", Rows::step, DType::u8, {})
      .add("logp", Rows::step, DType::f32, {})
      .add("action_dist_inputs", Rows::step, DType::f32, {2})
      .add("final_obs", Rows::final_step, DType::f32, {2});
  RandomStream random(11, StreamPurpose::simulation, 0);
  std::deque<TensorMap> policies;
  double result = 0;
  for (int update = 0; update < updates; ++update) {
    policies.push_back(learner.state().module);
    if (policies.size() > static_cast<size_t>(lag) + 1) policies.pop_front();
    const std::vector<float> policy = flat_parameters(learner.spec(), policies.front(), "test");
    Fragment f(layout);
    const auto values = [&](const char* name) { return f.values<float>(layout->column(name)); };
    const auto obs = values("obs");
    for (size_t i = 0; i < kCount + kEnvironments; ++i) {  // {x, 0} in the first step, {0, 1} in the second
      const bool first = i / kEnvironments % 2 == 0;
      obs[2 * i] = first ? static_cast<float>(random.uniform(-1, 1)) : 0.0f;
      obs[2 * i + 1] = first ? 0.0f : 1.0f;
    }
    const at::Tensor rows = at::tensor(std::vector<float>(obs.begin(), obs.begin() + 2 * kCount)).view({-1, 2});
    const at::Tensor logits =
        torch_forward(learner.spec(), parameter_views(learner.spec(), at::tensor(policy)), rows).action_dist_inputs;
    const bool greedy = std::holds_alternative<EpsilonGreedy>(learner.spec().distribution);
    const at::Tensor log_p =
        greedy ? (0.05 + 0.9 * logits.ge(logits.flip(1)).to(at::kFloat)).log() : at::log_softmax(logits, 1);
    for (size_t i = 0; i < kCount; ++i) {
      const auto row = static_cast<int64_t>(i);
      const int action = std::log(random.uniform()) < log_p[row][1].item<double>() ? 1 : 0;
      f.values<int32_t>(layout->column("actions"))[i] = action;
      values("logp")[i] = log_p[row][action].item<float>();
      for (size_t j = 0; j < 2; ++j)
        values("action_dist_inputs")[2 * i + j] = logits[row][static_cast<int64_t>(j)].item<float>();
      const size_t first = i - kEnvironments;
      if (i / kEnvironments % 2 == 0) continue;
      const bool right = (obs[2 * first] > 0) == (f.values<int32_t>(layout->column("actions"))[first] == 1);
      values("rewards")[i] = right ? 1.0f : 0.0f;
      f.values<uint8_t>(layout->column("terminateds"))[i] = 1;
      if (update >= updates - 10) result += right ? 2.0 / kCount / 10 : 0.0;
    }
    learner.update(&f);
  }
  return result;
}

}  // namespace myriad
