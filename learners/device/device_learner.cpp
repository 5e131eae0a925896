#include "learners/device/device_learner.hpp"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <numeric>

#include "learners/module/action_distribution.hpp"
#include "learners/module/autocast.hpp"
#include "rl/check.hpp"

namespace myriad {
namespace {

constexpr int64_t kSkipsAllowed = 2;  // in a row, as Optimizer's
constexpr int64_t kFit = ValueFit::kNumbers;

}  // namespace

DeviceLearner::DeviceLearner(const Config& config, const Algorithm& algorithm, const ModuleSpec& spec,
                             const Space& action_space, std::unique_ptr<DeviceSupport> support)
    : training_(config.training),
      accumulation_(config.learners.gradient_accumulation),
      bfloat16_(config.learners.autocast == "bfloat16"),
      spec_(spec),
      algorithm_(algorithm),
      plan_(algorithm.plan()),
      support_(std::move(support)),
      work_(*support_, config.learners.cuda_graph),
      batch_(spec_, action_space, algorithm_, *support_, work_),
      steps_(algorithm.loss_metrics(), plan_.time_major),
      lr_ranges_(lr_ranges(spec, training_.lr_multipliers)),
      placement_{.partition = {spec.num_parameters(), 1}} {
  const at::TensorOptions options = at::TensorOptions(at::kFloat).device(support_->device());
  support_->run([&] {
    optimizer_ =
        std::make_unique<DeviceOptimizer>(lr_ranges_, training_.adam_epsilon, training_.grad_clip, options.device());
    const auto coefficients = algorithm_.coefficients();
    numbers_ = at::zeros({1 + static_cast<int64_t>(coefficients.size()) + 2 * spec_.obs_size}, options);
    int64_t at = 0;
    lr_ = numbers_[at++];
    for (const auto& [name, value] : coefficients) coefficients_[name] = numbers_[at++];
    filter_ = {numbers_.narrow(0, at, spec_.obs_size), numbers_.narrow(0, at + spec_.obs_size, spec_.obs_size)};
    make_room();
  });
  const std::vector<float> initial = initial_parameters(spec, static_cast<uint64_t>(config.seed));
  set_state(initial, optimizer_state(), plan_.target ? initial : std::vector<float>());
}

void DeviceLearner::start_buckets() {
  buckets_.start([this](Range range) {
    group_->begin_all_reduce(
        gradient_.narrow(0, static_cast<int64_t>(range.begin), static_cast<int64_t>(range.count())));
  });
}

DeviceLearner::Result DeviceLearner::update(Fragment* fragment, Pass& pass) {
  Result result;
  const int64_t module_steps_before = pass.module_steps;
  const DeviceOptimizer::Counters before = optimizer_->counters();
  support_->run([&] {
    set_numbers(pass);
    const bool filters = pass.filter != nullptr && pass.filter->active();
    // In a group all batches of this shard are of one layout, and all shards make the same passes.
    if (fragment != nullptr && !batch_.load(*fragment, filters ? &filter_ : nullptr) && alone()) empty_buffer();
    train_batches(fragment, pass, result);
    support_->begin_download(flat_.const_data_ptr(), flat_.nbytes());
    finish(pass, module_steps_before, before, result);
  });
  return result;
}

/// What changes from update to update and is not a column.
void DeviceLearner::set_numbers(const Pass& pass) {
  std::vector<float> numbers{static_cast<float>(pass.lr)};
  for (const auto& [name, value] : algorithm_.coefficients()) numbers.push_back(static_cast<float>(value));
  if (pass.filter != nullptr && pass.filter->active()) {
    numbers.insert(numbers.end(), pass.filter->shift().begin(), pass.filter->shift().end());
    numbers.insert(numbers.end(), pass.filter->scale().begin(), pass.filter->scale().end());
  }
  if (pass.filter != nullptr) filter_.clip = pass.filter->clip();
  support_->upload(std::as_bytes(std::span<const float>(numbers)), numbers_.mutable_data_ptr());
  steps_.begin();
  epoch_ = 0;
}

/// `mine`: this shard has a part of the batch.
void DeviceLearner::make_targets(bool mine) {
  if (!mine || !recordable()) return compute_targets(mine);
  const std::array<at::Tensor, 2> shared{batch_.slab(), flat_};
  work_.run(fmt::format("targets {}", batch_.final_capacity()), shared, [this] { compute_targets(true); });
}

void DeviceLearner::compute_targets(bool mine) {
  const at::NoGradGuard no_grad;
  TensorBatch batch;
  if (mine) {
    batch = batch_.with_values(infer(flat_, batch_.all_obs()).values);
  } else {
    batch.values = at::zeros({0}, flat_.options());
    if (parted_) parted_->idle_infer(flat_);
  }
  const TargetColumns targets = algorithm_.targets(batch, [this](const at::Tensor& x) { sum_over_group(x); });
  if (mine)
    for (const auto& [name, column] : targets.columns) batch_.set_column(name, column);
  if (targets.names.empty()) return;
  if (!target_metrics_.defined()) target_metrics_ = at::zeros_like(targets.metrics);
  target_metrics_.copy_(targets.metrics);
  target_names_ = targets.names;
}

void DeviceLearner::train_batches(const Fragment* fragment, Pass& pass, Result& result) {
  if (!plan_.time_major) make_targets(fragment != nullptr);
  if (!buffer_) return train_pass(pass.share, pass);
  Share kept = pass.share;
  if (fragment != nullptr) batch_.keep(kept.columns);
  const int64_t unused = buffer_->push(std::move(kept));
  while (buffer_->uses_left() >= plan_.buffer_batches) {  // as Learner::train_sequences
    const std::shared_ptr<Share> share = buffer_->take(pass.buffer);
    batch_.bring_back(share->columns);
    train_pass(*share, pass);
  }
  result.of_batch = {{"circular_buffer_uses_dropped", static_cast<double>(unused)},
                     {"circular_buffer_uses_left", static_cast<double>(buffer_->uses_left())}};
}

/// num_epochs over the batch in the slab; share.columns keep what the target policy says of it for the next use.
void DeviceLearner::train_pass(Share& share, Pass& pass) {
  if (plan_.target) make_target_columns(share.columns);
  for (int64_t epoch = 0; epoch < training_.num_epochs; ++epoch)
    if (train_epoch(share, pass)) break;
  if (plan_.target) update_target(pass);
}

/// Minibatches as Learner::train_epoch makes them, from the same random numbers. Returns whether epochs end here.
bool DeviceLearner::train_epoch(const Share& share, Pass& pass) {
  const auto rank = static_cast<size_t>(group_ ? group_->rank() : 0);
  const int64_t units = std::accumulate(share.units.begin(), share.units.end(), int64_t{0}), own = share.units[rank];
  const int64_t size =
      training_.minibatch_size == 0 ? units : std::clamp(training_.minibatch_size / share.unit_rows, int64_t{1}, units);
  const int64_t minibatches = (units + size - 1) / size;
  const bool whole = plan_.time_major && minibatches == 1;
  if (own > 0 && !(whole && accumulation_ == 1)) {
    std::vector<int64_t> order(static_cast<size_t>(own));
    std::iota(order.begin(), order.end(), int64_t{0});
    if (training_.shuffle_batch_per_epoch && !whole) shuffle(std::span<int64_t>(order), *pass.minibatches);
    batch_.set_order(order);
  }
  const auto begin_of = [&](size_t shard, int64_t minibatch, int64_t next) {
    return share.units[shard] * ((minibatch + static_cast<int64_t>(shard)) % minibatches + next) / minibatches;
  };
  ++epoch_;
  for (int64_t i = 0; i < minibatches; ++i) {
    Piece piece{begin_of(rank, i, 0), begin_of(rank, i, 1) - begin_of(rank, i, 0)};
    for (size_t shard = 0; shard < share.units.size(); ++shard)
      piece.total += begin_of(shard, i, 1) - begin_of(shard, i, 0);
    if (piece.total == 0) continue;
    if (steps_.full()) read_steps();
    train_minibatch(piece, whole);
    steps_.wrote(epoch_, piece.total * share.unit_rows);
    pass.module_steps += piece.total * share.unit_rows;  // finish() takes away what was skipped
  }
  if (!algorithm_.may_stop_epochs()) return false;
  read_steps();
  const Metrics metrics = steps_.epoch_metrics();
  return metrics.contains("total_loss") && algorithm_.stops_epochs(metrics);
}

/// One gradient step of the group.
void DeviceLearner::train_minibatch(Piece piece, bool whole) {
  if (group_ != nullptr) group_->require_alive();
  if (piece.count == 0) {  // of others
    compute_gradient({}, piece);
    sum_gradient();
    step();
    return gather_parameters();
  }
  std::vector<at::Tensor> shared{batch_.slab(), flat_, gradient_};
  at::Tensor chosen;  // undefined: all of the batch
  if (!whole || accumulation_ > 1) shared.push_back(chosen = batch_.choose(piece.begin, piece.count));
  const auto gradient = [this, chosen, piece] { compute_gradient(chosen, piece); };
  const std::string shape = fmt::format("{} of {}, {}, {}", piece.count, piece.total,
                                        chosen.defined() ? "chosen" : "all", batch_.final_capacity());
  if (recordable())
    return work_.run(shape, shared, [this, gradient] {
      gradient();
      sum_gradient();
      step();
      gather_parameters();
    });
  if (parted_)
    gradient();
  else
    work_.run(shape, shared, gradient);
  sum_gradient();
  const std::array<at::Tensor, 2> stepped{flat_, gradient_};
  work_.run("step", stepped, [this] { step(); });
  gather_parameters();
}

ModuleOutput DeviceLearner::forward(const at::Tensor& obs) {
  const Autocast autocast(flat_.device().type(), bfloat16_);
  return parted_ ? parted_->forward(obs) : torch_forward(spec_, views_, obs);
}

/// Without autograd, by parameters that lie as flat_ does.
ModuleOutput DeviceLearner::infer(const at::Tensor& home, const at::Tensor& obs) {
  const at::NoGradGuard no_grad;
  const Autocast autocast(flat_.device().type(), bfloat16_);
  return parted_ ? parted_->infer(home, obs) : torch_forward(spec_, parameter_views(spec_, home), obs);
}

/// Into gradient_: this shard's piece of the minibatch, in as many parts as gradient_accumulation says.
void DeviceLearner::compute_gradient(const at::Tensor& units, Piece piece) {
  gradient_.zero_();
  buckets_.stop();  // of a minibatch that was broken off
  for (int64_t i = 0; i < accumulation_; ++i) {
    if (i + 1 == accumulation_ && buckets_.size() > 0) start_buckets();
    const int64_t begin = piece.count * i / accumulation_, count = piece.count * (i + 1) / accumulation_ - begin;
    if (count > 0)
      add_gradient(units.defined() ? units.narrow(0, begin, count) : units, i,
                   static_cast<double>(count) / static_cast<double>(piece.total));
    else if (parted_)
      parted_->idle_pass();
  }
}

/// Of `units` of the batch, all of it where undefined: `part` of those that are accumulated, and `share` of the group's
/// minibatch.
void DeviceLearner::add_gradient(const at::Tensor& units, int64_t part, double share) {
  Columns minibatch = batch_.minibatch(units);
  for (const auto& [name, value] : coefficients_) minibatch[name] = value;
  const Loss loss = algorithm_.loss(spec_, forward(minibatch.at("obs")), minibatch);
  const at::Tensor total = loss.total * (plan_.loss_is_sum ? 1.0 : share);
  std::vector<at::Tensor> parts;
  if (parted_)
    total.backward();
  else
    parts = torch::autograd::grad({total}, views_, {}, /*retain_graph=*/false, /*create_graph=*/false,
                                  /*allow_unused=*/true);
  if (buckets_.started()) parts.clear();  // they are added already
  for (size_t i = 0; i < parts.size(); ++i)
    parts[i] = parts[i].defined() ? parts[i].reshape({-1}) : at::zeros({views_[i].numel()}, flat_.options());
  const int64_t begin = parts.empty() ? num_gradients_ : 0;
  parts.push_back(total.detach().reshape({1}));
  parts.push_back(loss.metrics * share);
  const at::Tensor all = at::cat(parts);
  gradient_.narrow(0, begin, all.numel()).add_(all);
  if (!plan_.time_major) return;
  const int64_t shard = group_ ? group_->rank() : 0;
  gradient_.narrow(0, begin + all.numel() + (shard * accumulation_ + part) * kFit, kFit).copy_(loss.fit);
}

void DeviceLearner::sum_over_group(const at::Tensor& tensor) const {
  if (group_ != nullptr) group_->all_reduce(tensor);
}

/// What backward has not summed, or begun to.
void DeviceLearner::sum_gradient() {
  if (parted_) {
    clear_frozen();
    const at::Tensor own = gradient_.narrow(0, 0, num_gradients_);
    tail().slice(0, -1).copy_(at::dot(own, own));
    return sum_over_group(tail());
  }
  if (buckets_.size() == 0) return sum_over_group(gradient_);
  if (!buckets_.started()) start_buckets();  // nothing of the minibatch is this shard's
  buckets_.rest();
  group_->begin_all_reduce(tail());
  group_->finish();
}

/// What is frozen has no part in the gradient's norm.
void DeviceLearner::clear_frozen() {
  const Range own = placement_.gradients();
  for (const auto& [range, multiplier] : lr_ranges_)
    if (const Range here = own.overlap(range); multiplier == 0 && here.count() > 0)
      gradient_.narrow(0, static_cast<int64_t>(here.begin - own.begin), static_cast<int64_t>(here.count())).zero_();
}

/// One step of this shard's part with the group's gradient, and a row of steps_.
void DeviceLearner::step() {
  if (!parted_) clear_frozen();
  const Range own = optimizer_->part();
  const auto mine = [&](const at::Tensor& all) {
    const auto begin = static_cast<int64_t>(own.begin), count = static_cast<int64_t>(own.count());
    return all.numel() == count ? all : all.narrow(0, begin, count);
  };
  const at::Tensor gradient = gradient_.narrow(0, 0, num_gradients_), found = tail();
  const at::Tensor norm = parted_ ? found[-1].sqrt() : at::linalg_vector_norm(gradient);
  optimizer_->step(mine(flat_), mine(gradient), lr_, norm);
  steps_.write(at::cat({parted_ ? found.slice(0, 0, -1) : found, norm.reshape({1})}));
}

/// Where all have all parameters, and step parts of them: the other parts.
void DeviceLearner::gather_parameters() {
  if (placement_.partition.parts > 1 && !placement_.parameters_in_parts) group_->all_gather(room_);
}

/// What the target policy says of the batch; kept with it until the target changes.
void DeviceLearner::make_target_columns(Columns& kept) {
  const auto found = kept.find(kTargetInputs);
  if (!DeviceBatch::has_copy(kept)) {  // this shard has nothing of the batch
    if (found == kept.end() && parted_) parted_->idle_infer(target_);
    kept[kTargetInputs] = at::Tensor();
    return;
  }
  if (found != kept.end()) {
    batch_.set_column(kTargetInputs, found->second);
    batch_.set_column(kTargetLogp, kept.at(kTargetLogp));
    return;
  }
  const auto target_policy = [this] {
    const at::Tensor inputs = infer(target_, batch_.obs()).action_dist_inputs;
    const at::Tensor actions = batch_.column("actions").reshape({inputs.size(0), -1});
    batch_.set_column(kTargetInputs, inputs.view_as(batch_.column(kTargetInputs)));
    batch_.set_column(kTargetLogp, log_prob(spec_.distribution, inputs, actions).view_as(batch_.column(kTargetLogp)));
  };
  const std::array<at::Tensor, 2> shared{batch_.slab(), target_};
  if (placement_.parameters_in_parts && !recordable())
    target_policy();
  else
    work_.run("target policy", shared, target_policy);
  kept[kTargetInputs] = batch_.column(kTargetInputs).clone();
  kept[kTargetLogp] = batch_.column(kTargetLogp).clone();
}

void DeviceLearner::update_target(Pass& pass) {
  if (static_cast<double>(pass.module_steps - pass.target_updated_at) < plan_.target->interval) return;
  pass.target_updated_at = pass.module_steps;
  ++pass.target_updates;
  target_.lerp_(flat_, plan_.target->tau);
  if (!buffer_) return;
  buffer_->erase(kTargetInputs);
  buffer_->erase(kTargetLogp);
}

/// Waits for the device. What a group left that was aborted meanwhile is not to be believed.
void DeviceLearner::read_steps() {
  target_numbers_ = steps_.read(*optimizer_, target_metrics_);
  if (group_ != nullptr) group_->require_alive();
}

/// Waits for the update and reads what it counted.
void DeviceLearner::finish(Pass& pass, int64_t module_steps_before, const DeviceOptimizer::Counters& before,
                           Result& result) {
  if (epoch_ == 0) return;  // a circular buffer that fills
  read_steps();
  result.metrics = steps_.epoch_metrics();
  pass.module_steps = module_steps_before + steps_.trained();
  const DeviceOptimizer::Counters& counters = optimizer_->counters();
  result.grad_updates = counters.steps - before.steps;
  result.skipped = counters.skipped - before.skipped;
  for (size_t i = 0; i < target_names_.size(); ++i) result.of_batch[std::string(target_names_[i])] = target_numbers_[i];
  if (counters.longest_row > kSkipsAllowed) diverged(counters.longest_row);
}

void DeviceLearner::diverged(int64_t in_a_row) const {
  const at::Tensor host = gradient_.narrow(0, 0, num_gradients_).cpu();
  const std::span<const float> gradient(host.const_data_ptr<float>(), static_cast<size_t>(num_gradients_));
  const Range all = parted_ ? placement_.own() : placement_.partition.whole();
  std::string name = parted_ ? "another shard's part" : "no longer known";
  for (const Parameter& p : spec_.parameters()) {
    const Range here = all.overlap({p.offset, p.offset + p.count});
    if (here.count() == 0) continue;
    const auto part = gradient.subspan(here.begin - all.begin, here.count());
    if (std::ranges::all_of(part, [](float g) { return std::isfinite(g); })) continue;
    name = p.name;
    break;
  }
  fail(Exit::internal, "diverged",
       "{} updates in a row had a gradient that is not finite, first in '{}'; lower lr or set grad_clip", in_a_row,
       name);
}

}  // namespace myriad
