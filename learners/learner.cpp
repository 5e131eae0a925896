#include "learners/learner.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <numeric>

#include "rl/check.hpp"
#include "rl/run_layout.hpp"

namespace myriad {
namespace {

constexpr std::array<std::string_view, 4> kShards{"none", "optimizer", "gradients", "parameters"};  // as Shard

}  // namespace

Learner::Learner(const Config& config, const Space& observation_space, const Space& action_space,
                 std::unique_ptr<DeviceSupport> support)
    : seed_(static_cast<uint64_t>(config.seed)),
      lr_(config.training.lr),
      algorithm_(make_algorithm(config)),
      plan_(algorithm_->plan()),
      has_target_(myriad::target_of(plan_).has_value()),
      spec_(module_of(config, observation_space, action_space)),
      shard_(static_cast<Shard>(std::ranges::find(kShards, config.learners.shard) - kShards.begin())),
      parts_(spec_.num_parameters(), config.learners.redundancy) {
  check(static_cast<size_t>(shard_) < kShards.size(), "unknown learners.shard '{}'", config.learners.shard);
  if (const AlgorithmInfo& info = find_algorithm(config.algorithm); info.epsilon) epsilon_ = info.epsilon(config);
  // Before anything of torch runs: it counts its devices once.
  if (support == nullptr && config.learners.device != "cpu") support = open_device(config.learners.device, 0);
  trainer_ = make_trainer(config, *algorithm_, spec_, action_space, std::move(support));
  filter_ = observation_filter(config, spec_);
}

UpdateResult Learner::update(Fragment* batch, std::span<double> shared) {
  check(standing_ == Standing::settled, "an update begins before the last one is settled");
  Share share = begin(batch, shared);
  UpdateResult result;
  if (std::ranges::all_of(share.units, [](int64_t units) { return units == 0; })) {
    result.empty = true;
    return result;
  }
  if (alone()) {
    train(batch, std::move(share), result);
    add_memory(result.metrics);
    commit();
    return result;
  }
  take_snapshot();
  standing_ = Standing::torn;
  train(batch, std::move(share), result);
  if (Parts::Slices copies; parts_.redundant()) parts_.exchange(*group_, live(copies));
  add_memory(result.metrics);
  result_ = result;
  standing_ = Standing::prepared;
  pass_barrier();
  commit();
  return result;
}

/// The first operation of an update: who has how much. Nothing is changed before it.
Share Learner::begin(Fragment* batch, std::span<double> shared) {
  const int64_t environments = batch == nullptr ? 0 : batch->layout().environments();
  const int64_t rows = environments * (batch == nullptr ? 0 : batch->layout().steps());
  const size_t shards = size();
  std::vector<double> values(shared.begin(), shared.end());
  values.resize(shared.size() + shards + 1);
  const auto units = std::span(values).subspan(shared.size(), shards);
  units[rank()] = static_cast<double>(std::holds_alternative<SequencePlan>(plan_) ? environments : rows);
  values.back() = static_cast<double>(rows);
  if (!alone()) group_->all_reduce(std::span<double>(values));
  parts_.confirm();  // everybody is here, and so has joined
  std::copy_n(values.begin(), shared.size(), shared.begin());
  const double all = std::accumulate(units.begin(), units.end(), 0.0);
  Share share;
  share.units.assign(units.begin(), units.end());
  if (all > 0) share.unit_rows = static_cast<int64_t>(values.back() / all);
  return share;
}

void Learner::train(Fragment* fragment, Share share, UpdateResult& result) {
  const int64_t rows = std::accumulate(share.units.begin(), share.units.end(), int64_t{0}) * share.unit_rows;
  if (share.units[rank()] == 0) fragment = nullptr;
  at::Tensor observed;
  if (fragment != nullptr && filter_) observed = observations(*fragment);
  algorithm_->begin_update(static_cast<double>(env_steps_));
  const double lr = lr_.at(static_cast<double>(env_steps_));
  // A stream of this version and rank: whoever takes a shard's place goes on with its numbers.
  Trainer::Result trained =
      trainer_->update({.batch = fragment,
                        .observed = observed,
                        .share = std::move(share),
                        .filter = filter_ ? &*filter_ : nullptr,
                        .lr = lr,
                        .minibatches = RandomStream(seed_, StreamPurpose::minibatch, version_ << 16 | rank()),
                        .augmentation = RandomStream(seed_, StreamPurpose::augmentation, version_ << 16 | rank()),
                        .buffer = RandomStream(seed_, StreamPurpose::circular_buffer, version_)},
                       books_);
  result.grad_updates = trained.grad_updates;
  result.skipped = trained.skipped;
  result.metrics = std::move(trained.metrics);
  result.metrics.merge(trained.of_batch);
  algorithm_->end_update(result.metrics);
  update_filter(observed);
  env_steps_ += rows;
  result.metrics["default_optimizer_learning_rate"] = lr;
  result.metrics["num_trainable_parameters"] = static_cast<double>(spec().num_trainable_parameters());
  result.metrics["num_env_steps_trained_lifetime"] = static_cast<double>(env_steps_);
  result.metrics["num_module_steps_trained_lifetime"] = static_cast<double>(books_.module_steps);
  result.metrics["num_grad_updates"] = static_cast<double>(result.grad_updates);
  if (has_target_) result.metrics["num_target_updates_lifetime"] = static_cast<double>(books_.target_updates);
  result.metrics["num_skipped_updates"] = static_cast<double>(result.skipped);
  result.metrics["num_skipped_updates_lifetime"] = static_cast<double>(trainer_->counters().skipped);
}

}  // namespace myriad
