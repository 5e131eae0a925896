#include "learners/native/native_trainer.hpp"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>

#include "learners/module/action_distribution.hpp"
#include "rl/check.hpp"

namespace myriad {
namespace {

constexpr size_t kFit = ValueFit::kNumbers;

/// Of a contiguous tensor.
ObsRows rows_of(const at::Tensor& obs) {
  return obs.scalar_type() == at::kByte ? ObsRows(obs.const_data_ptr<uint8_t>()) : obs.const_data_ptr<float>();
}

void assign(AlignedVector& to, std::span<const float> from) { to.assign(from.begin(), from.end()); }

}  // namespace

NativeTrainer::NativeTrainer(const Config& config, const Algorithm& algorithm, const SampleLosses& losses,
                             const ModuleSpec& spec, const Space& action_space, int threads)
    : Trainer(config, algorithm, spec),
      losses_(losses),
      action_space_(action_space),
      list_(spec.parameters()),
      module_(spec, threads),
      optimizer_(spec, training_.adam_epsilon, training_.grad_clip, training_.lr_multipliers) {
  assign(parameters_, initial_parameters(spec, static_cast<uint64_t>(config.seed)));
  if (target_plan_) target_ = parameters_;
  gradient_.resize(parameters_.size());
}

void NativeTrainer::load(const Update& update) {
  lr_ = update.lr;
  target_metrics_.clear();
  columns_.clear();
  const bool mine = update.batch != nullptr;
  batch_ = mine ? make_tensor_batch(*update.batch, spec_, action_space_, update.filter, update.observed)
                : empty_tensor_batch(spec_);
  if (mine && sequences_) columns_ = sequence_columns(batch_, algorithm_.loss_columns());
}

void NativeTrainer::make_targets(bool mine) {
  if (mine) {
    batch_.values = values_of(batch_.obs.view({-1, batch_.obs.size(-1)})).view({batch_.steps + 1, batch_.environments});
    batch_.final_values = values_of(batch_.final_obs);
  }
  SumOverGroup sum;
  if (!alone()) sum = [this](std::span<double> values) { group_->all_reduce(values); };
  losses_.sample_targets(batch_, target_metrics_, sum);
  if (!mine) return;
  for (const std::string& name : algorithm_.loss_columns()) {
    const auto found = batch_.columns.find(name);
    check(found != batch_.columns.end(), "the loss wants the column {}, which neither runners nor its targets gave",
          name);
    columns_[name] = found->second.flatten(0, 1);
  }
}

/// The fragment's buffer is only lent.
void NativeTrainer::keep(Columns& kept) const {
  for (const auto& [name, column] : columns_) kept[name] = column.clone();
}

void NativeTrainer::make_target_columns(bool mine) {
  if (!mine) return;
  const at::Tensor &rewards = columns_.at("rewards"), &actions = columns_.at("actions");
  const at::Tensor inputs = forward(target_, step_obs(columns_)).action_dist_inputs;
  columns_[kTargetLogp] =
      log_prob(spec_.distribution, inputs, actions.reshape({inputs.size(0), -1})).view(rewards.sizes());
  columns_[kTargetInputs] = inputs.view({rewards.size(0), rewards.size(1), -1});
}

void NativeTrainer::begin_epoch(std::span<const int64_t> order, bool shuffled) {
  order_ = order;
  if (sequences_) return;
  shuffled_ = columns_;
  if (!shuffled) return;
  const at::Tensor rows = at::tensor(at::ArrayRef<int64_t>(order.data(), order.size()));
  for (auto& [name, column] : shuffled_) column = column.index_select(0, rows);
}

Columns NativeTrainer::columns_of(Piece piece) const {
  if (sequences_)
    return static_cast<size_t>(piece.count) == order_.size()
               ? columns_
               : sequence_columns_of(
                     columns_, order_.subspan(static_cast<size_t>(piece.begin), static_cast<size_t>(piece.count)));
  Columns columns;
  for (const auto& [name, column] : shuffled_) columns[name] = column.narrow(0, piece.begin, piece.count);
  return columns;
}

void NativeTrainer::train_minibatch(const Minibatch& minibatch) {
  compute_gradient(minibatch);
  const double squares = sum_gradient();
  sums_.enter(epoch_);
  if (step(squares) == Optimizer::Outcome::skipped) return;
  sums_.add(found_.total, found_.metrics, found_.fit, optimizer_.gradient_norm(), minibatch.rows);
}

void NativeTrainer::begin_gradient() {
  std::ranges::fill(gradient(), 0.0f);
  buckets_.stop();  // of a minibatch that was broken off
  found_ = {0.0, std::vector<double>(algorithm_.loss_metrics().size()), {}};
}

void NativeTrainer::begin_last_part() {
  if (buckets_.size() == 0) return;
  buckets_.start([this](Range range) { group_->begin_all_reduce(gradient().subspan(range.begin, range.count())); });
}

void NativeTrainer::add_gradient(const Minibatch& minibatch, Piece part, int64_t /*index*/) {
  const Columns columns = columns_of({minibatch.own.begin + part.begin, part.count});
  const at::Tensor obs = columns.at("obs").contiguous();  // alive until backward
  HostLoss loss = losses_.sample_loss(spec_, forward(parameters_, obs), columns);
  const double share = minibatch.share_of(part.count), scale = loss_is_sum(plan_) ? 1.0 : share;
  if (scale != 1.0)
    for (const at::Tensor& derivatives : {loss.d_inputs, loss.d_values}) derivatives.mul_(scale);
  std::function<void(Range)> finish_range;
  if (buckets_.started()) finish_range = [this](Range range) { finished(range); };
  module_.backward(parameters_.data(), loss.d_inputs.const_data_ptr<float>(), loss.d_values.const_data_ptr<float>(),
                   gradient_.data(), finish_range);
  found_.total += scale * static_cast<double>(loss.total);
  const float* values = loss.metrics.const_data_ptr<float>();
  for (size_t i = 0; i < found_.metrics.size(); ++i) found_.metrics[i] += share * static_cast<double>(values[i]);
  if (loss.fit) found_.fit.merge(*loss.fit);
}

/// The gradient of all parameters in `range` is complete.
void NativeTrainer::finished(Range range) {
  for (size_t i = list_.size(); i-- > 0;)
    if (list_[i].offset >= range.begin && list_[i].offset < range.end) buckets_.done(i);
}

/// [total, metrics..., a fit for each shard in a place of its own]
std::vector<double> NativeTrainer::numbers_of(const Found& found) const {
  std::vector<double> numbers{found.total};
  numbers.insert(numbers.end(), found.metrics.begin(), found.metrics.end());
  const size_t fits = numbers.size();
  numbers.resize(fits + (sequences_ ? kFit * size() : 0), 0.0);
  if (sequences_)
    std::ranges::copy(found.fit.numbers(), numbers.begin() + static_cast<std::ptrdiff_t>(fits + kFit * rank()));
  return numbers;
}

void NativeTrainer::take_numbers(std::span<const double> numbers) {
  const size_t fits = 1 + found_.metrics.size();
  found_.total = numbers[0];
  std::ranges::copy(numbers.subspan(1, found_.metrics.size()), found_.metrics.begin());
  found_.fit = {};
  for (size_t at = fits; at < numbers.size(); at += kFit)
    found_.fit.merge(ValueFit::of(numbers.subspan(at).first<kFit>()));
}

/// Sums the gradient over the group, and with it what was found by the way: in one operation, or, where the gradient
/// was summed during backward, what is left of it. Returns the whole gradient's sum of squares.
double NativeTrainer::sum_gradient() {
  if (!alone()) {
    std::vector<double> numbers = numbers_of(found_);
    if (buckets_.started()) {
      buckets_.rest();
      group_->finish();
      group_->all_reduce(std::span<double>(numbers));
    } else {
      gradient_.resize(parameters_.size() + numbers.size());
      const auto tail = std::span(gradient_).last(numbers.size());
      std::ranges::transform(numbers, tail.begin(), [](double x) { return static_cast<float>(x); });
      group_->all_reduce(std::span<float>(gradient_));
      std::ranges::copy(tail, numbers.begin());
    }
    take_numbers(numbers);
  }
  optimizer_.clear_frozen(gradient(), placement_.gradients());
  return optimizer_.sum_squares(gradient());
}

/// Steps this shard's part; all get the other parts.
Optimizer::Outcome NativeTrainer::step(double squares) {
  const Range own = optimizer_.part();
  const auto mine = [&](std::span<float> all) { return all.subspan(own.begin, own.count()); };
  const auto outcome = optimizer_.step(mine(parameters_), mine(gradient()), lr_, squares);
  if (outcome == Optimizer::Outcome::stepped && placement_.partition.parts > 1)
    group_->all_gather(std::as_writable_bytes(std::span(parameters_)), placement_.partition.chunk() * sizeof(float));
  return outcome;
}

void NativeTrainer::move_target(float tau) {
  std::ranges::transform(parameters_, target_, target_.begin(),
                         [tau](float p, float t) { return tau * p + (1.0f - tau) * t; });
}

void NativeTrainer::finish(Metrics& of_batch) {
  of_batch.merge(target_metrics_);
  batch_ = {};  // views of what was lent
  columns_.clear();
  shuffled_.clear();
}

ModuleOutput NativeTrainer::forward(const AlignedVector& parameters, const at::Tensor& obs) {
  const at::Tensor rows = obs.contiguous();
  const int64_t n = rows.size(0);
  const auto floats = rows.options().dtype(at::kFloat);
  ModuleOutput out{at::empty({n, inputs_size(spec_.distribution)}, floats), at::empty({n}, floats)};
  module_.forward(parameters.data(), rows_of(rows), static_cast<size_t>(n),
                  out.action_dist_inputs.mutable_data_ptr<float>(), out.values.mutable_data_ptr<float>());
  return out;
}

at::Tensor NativeTrainer::values_of(const at::Tensor& obs) {
  const at::Tensor rows = obs.contiguous();
  at::Tensor values = at::empty({rows.size(0)}, at::kFloat);
  module_.values(parameters_.data(), rows_of(rows), static_cast<size_t>(rows.size(0)),
                 values.mutable_data_ptr<float>());
  return values;
}

void NativeTrainer::set_state(std::span<const float> parameters, const TensorMap& optimizer,
                              std::span<const float> target) {
  optimizer_.set_state(optimizer);
  set_replicated_state(parameters, optimizer, target);
}

void NativeTrainer::set_replicated_state(std::span<const float> parameters, const TensorMap& optimizer,
                                         std::span<const float> target) {
  optimizer_.set_counter_state(optimizer);
  if (parameters.empty()) return;
  check(parameters.size() == parameters_.size() && target.size() == target_.size(),
        "{} parameters and {} of a target network, want {} and {}", parameters.size(), target.size(),
        parameters_.size(), target_.size());
  std::ranges::copy(parameters, parameters_.begin());
  std::ranges::copy(target, target_.begin());
}

Parts::Live NativeTrainer::live(bool parameters, Parts::Slices& /*copies*/) {
  check(!parameters, "the native executor has no parameters in parts");
  return {optimizer_.first(), optimizer_.second()};
}

void NativeTrainer::meet(DeviceGroup&) { check(false, "the native executor sums its gradients on the host"); }

void NativeTrainer::place(std::shared_ptr<DeviceGroup> /*gradients*/, Parts::Slices own) {
  if (!own.empty()) {
    Optimizer::Memory memory = optimizer_.counters();
    memory.first = std::move(own[0]);
    memory.second = std::move(own[1]);
    optimizer_.set_part(placement_.own(), std::move(memory));
  }
  buckets_ = alone() ? GradientBuckets() : GradientBuckets(list_, group_->overlap_floats());
  if (alone()) snapshot_ = {};
}

void NativeTrainer::take_snapshot() {
  assign(snapshot_.parameters, parameters_);
  assign(snapshot_.target, target_);
  snapshot_.optimizer = optimizer_.memory();
}

void NativeTrainer::restore_snapshot() {
  std::ranges::copy(snapshot_.parameters, parameters_.begin());
  std::ranges::copy(snapshot_.target, target_.begin());
  optimizer_.set_memory(snapshot_.optimizer);
}

Trainer::Memory NativeTrainer::memory() const {
  const auto bytes = [](const AlignedVector& a, const AlignedVector& b) {
    return (a.size() + b.size()) * sizeof(float);
  };
  const Optimizer::Memory& moments = optimizer_.memory();
  return {.parameters_bytes = bytes(parameters_, target_),
          .gradients_bytes = parameters_.size() * sizeof(float),
          .optimizer_bytes = bytes(moments.first, moments.second),
          .snapshot_bytes = bytes(snapshot_.parameters, snapshot_.target) +
                            bytes(snapshot_.optimizer.first, snapshot_.optimizer.second)};
}

}  // namespace myriad
