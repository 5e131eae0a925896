#include "learners/device_learner.hpp"

#include <ATen/ATen.h>
#include <ATen/autocast_mode.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <numeric>

#include "learners/action_distribution.hpp"
#include "rl/check.hpp"

namespace myriad {
namespace {

constexpr int64_t kFewFinalRows = 8;
constexpr int64_t kSkipsAllowed = 2;  // in a row, as Optimizer's
constexpr int64_t kSteps = 1024;      // before the host reads what they left
constexpr int64_t kFit = ValueFit::kNumbers;
constexpr const char* kSlab = "slab";

/// Products of matrices in bfloat16 while it lives.
class Autocast {
 public:
  Autocast(c10::DeviceType device, bool on) : device_(device), on_(on) {
    if (!on_) return;
    at::autocast::set_autocast_dtype(device_, at::kBFloat16);
    at::autocast::set_autocast_enabled(device_, true);
  }
  ~Autocast() {
    if (!on_) return;
    at::autocast::set_autocast_enabled(device_, false);
    at::autocast::clear_cache();
  }
  Autocast(const Autocast&) = delete;
  Autocast& operator=(const Autocast&) = delete;

 private:
  c10::DeviceType device_;
  bool on_;
};

/// A column of the slab, [leading..., shape...].
at::Tensor view_of(const at::Tensor& slab, const FragmentLayout& layout, const Column& column,
                   std::vector<int64_t> leading) {
  leading.insert(leading.end(), column.shape.begin(), column.shape.end());
  const auto bytes = static_cast<int64_t>(layout.rows(column) * column.row_bytes);
  return slab.narrow(0, static_cast<int64_t>(column.offset), bytes).view(torch_type(column.dtype)).view(leading);
}

std::vector<float> floats_of(const at::Tensor& tensor) {
  const at::Tensor host = tensor.cpu();
  return {host.const_data_ptr<float>(), host.const_data_ptr<float>() + host.numel()};
}

}  // namespace

DeviceLearner::DeviceLearner(const Config& config, const Algorithm& algorithm, const ModuleSpec& spec,
                             const Space& action_space, std::unique_ptr<DeviceSupport> support)
    : training_(config.training),
      accumulation_(config.learners.gradient_accumulation),
      bfloat16_(config.learners.autocast == "bfloat16"),
      action_space_(action_space),
      spec_(spec),
      algorithm_(algorithm),
      plan_(algorithm.plan()),
      support_(std::move(support)),
      work_(*support_, config.learners.cuda_graph) {
  const auto size = static_cast<int64_t>(spec.num_parameters());
  const at::TensorOptions options = at::TensorOptions(at::kFloat).device(support_->device());
  support_->run([&] {
    flat_ = at::zeros({size}, options);
    if (plan_.target) target_ = at::zeros({size}, options);
    for (const at::Tensor& part : parameter_views(spec_, flat_))
      views_.push_back(part.detach().set_requires_grad(true));
    const std::vector<Parameter> list = spec_.parameters();
    for (size_t i = 0; i < views_.size(); ++i)
      views_[i].register_hook([this, i, p = list[i]](const at::Tensor& gradient) {
        if (!buckets_.started()) return;
        gradient_.narrow(0, static_cast<int64_t>(p.offset), gradient.numel()).add_(gradient.reshape({-1}));
        buckets_.done(i);
      });
    optimizer_ = std::make_unique<DeviceOptimizer>(size, training_.adam_epsilon, training_.grad_clip, flat_.device());
    const auto coefficients = algorithm_.device_coefficients();
    numbers_ = at::zeros({1 + static_cast<int64_t>(coefficients.size()) + 2 * spec_.obs_size}, options);
    int64_t at = 0;
    lr_ = numbers_[at++];
    for (const auto& [name, value] : coefficients) coefficients_[name] = numbers_[at++];
    shift_ = numbers_.narrow(0, at, spec_.obs_size);
    scale_ = numbers_.narrow(0, at + spec_.obs_size, spec_.obs_size);
    sums_.assign(1 + algorithm_.loss_metrics().size() + 3, 0.0);
    next_step_ = at::zeros({1}, options.dtype(at::kLong));
    make_gradient();
  });
  const std::vector<float> initial = initial_parameters(spec, static_cast<uint64_t>(config.seed));
  set_state(initial, optimizer_state(), plan_.target ? initial : std::vector<float>());
}

void DeviceLearner::make_gradient() {
  const int64_t shards = group_ ? group_->size() : 1;
  const int64_t tail = 1 + static_cast<int64_t>(algorithm_.loss_metrics().size()) +
                       (plan_.time_major ? shards * accumulation_ * kFit : 0);
  gradient_ = at::zeros({flat_.numel() + tail}, flat_.options());
  steps_ = at::zeros({kSteps, tail + 1}, flat_.options());
  buckets_ = {};
  if (group_ != nullptr && recordable()) buckets_ = GradientBuckets(spec_.parameters(), group_->overlap_floats());
}

void DeviceLearner::start_buckets() {
  buckets_.start([this](Range range) {
    group_->begin_all_reduce(
        gradient_.narrow(0, static_cast<int64_t>(range.begin), static_cast<int64_t>(range.count())));
  });
}

/// What backward has not begun to sum.
void DeviceLearner::sum_gradient() {
  if (buckets_.size() == 0) return sum_over_group(gradient_);
  if (!buckets_.started()) start_buckets();  // nothing of the minibatch is this shard's
  buckets_.rest();
  group_->begin_all_reduce(gradient_.narrow(0, flat_.numel(), gradient_.numel() - flat_.numel()));
  group_->finish();
}

void DeviceLearner::sum_over_group(const at::Tensor& tensor) const {
  if (group_ != nullptr) group_->all_reduce(tensor);
}

DeviceLearner::Result DeviceLearner::update(Fragment* fragment, Pass& pass) {
  Result result;
  const int64_t module_steps_before = pass.module_steps;
  const DeviceOptimizer::Counters before = optimizer_->counters();
  support_->run([&] {
    set_numbers(pass);
    if (fragment != nullptr) load(*fragment, pass.filter);
    train_batches(fragment, pass, result);
    support_->begin_download(flat_.const_data_ptr(), flat_.nbytes());
    finish(pass, module_steps_before, before, result);
  });
  return result;
}

/// The batch into the slab, filtered; actions count from 0.
void DeviceLearner::load(Fragment& fragment, const MeanStdFilter* filter) {
  make_tensor_batch(fragment, spec_, action_space_, nullptr);  // throws for what a kernel would stumble over
  prepare(fragment.layout());
  grow_final_rows(static_cast<int64_t>(fragment.final_rows));
  support_->upload(fragment.used(), slab_.mutable_data_ptr());
  const bool filters = filter != nullptr && filter->active();
  const std::array<at::Tensor, 2> shared{slab_, numbers_};
  work_.run(fmt::format("load {} {}", final_capacity_, filters), shared, [&, this] {
    if (filters)
      for (const at::Tensor& obs : {batch_.obs, batch_.final_obs.narrow(0, 0, final_capacity_)})
        obs.sub_(shift_).mul_(scale_).clamp_(-filter->clip(), filter->clip());
    if (const auto* discrete = action_space_.get_if<Discrete>(); discrete != nullptr && discrete->start != 0)
      batch_.columns.at("actions").sub_(discrete->start);
    refresh_final_index();
  });
}

void DeviceLearner::prepare(const FragmentLayout& layout) {
  if (layout.hash() == layout_hash_) return;
  layout_hash_ = layout.hash();
  work_.forget("layout");
  chosen_.clear();
  if (buffer_) buffer_.emplace(plan_.buffer_batches, plan_.buffer_uses);
  const at::TensorOptions options = flat_.options();
  slab_ = at::zeros({static_cast<int64_t>(layout.capacity_bytes())}, options.dtype(at::kByte));
  const int64_t steps = layout.steps(), environments = layout.environments(), obs_size = spec_.obs_size;
  batch_ = {};
  batch_.steps = steps;
  batch_.environments = environments;
  for (const Column& column : layout.columns())
    if (column.rows == Rows::step) batch_.columns[column.name] = view_of(slab_, layout, column, {steps, environments});
  batch_.obs =
      view_of(slab_, layout, layout.column("obs"), {steps + 1, environments}).view({steps + 1, environments, obs_size});
  batch_.columns["obs"] = batch_.obs.narrow(0, 0, steps);
  const Column* final_obs = layout.find("final_obs");
  batch_.final_obs = final_obs ? view_of(slab_, layout, *final_obs, {steps * environments}).view({-1, obs_size})
                               : at::zeros({1, obs_size}, options);
  final_capacity_ = std::min(kFewFinalRows, batch_.final_obs.size(0));
  batch_.columns[kFinalIndex] = at::zeros({steps, environments}, options.dtype(at::kLong));
  if (plan_.target) {
    batch_.columns[kTargetInputs] = at::zeros({steps, environments, inputs_size(spec_.distribution)}, options);
    batch_.columns[kTargetLogp] = at::zeros({steps, environments}, options);
  }
  order_ = at::zeros({plan_.time_major ? environments : steps * environments}, options.dtype(at::kLong));
}

/// To the next power of two, so that recordings are made anew only a few times.
void DeviceLearner::grow_final_rows(int64_t rows) {
  if (rows <= final_capacity_) return;
  final_capacity_ =
      std::min(static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(rows))), batch_.final_obs.size(0));
  work_.forget("final_rows");
}

/// What changes from update to update and is not a column.
void DeviceLearner::set_numbers(const Pass& pass) {
  std::vector<float> numbers{static_cast<float>(pass.lr)};
  for (const auto& [name, value] : algorithm_.device_coefficients()) numbers.push_back(static_cast<float>(value));
  if (pass.filter != nullptr && pass.filter->active()) {
    numbers.insert(numbers.end(), pass.filter->shift().begin(), pass.filter->shift().end());
    numbers.insert(numbers.end(), pass.filter->scale().begin(), pass.filter->scale().end());
  }
  support_->upload(std::as_bytes(std::span<const float>(numbers)), numbers_.mutable_data_ptr());
  unread_.clear();  // of an update that was broken off
  next_step_.zero_();
  epoch_ = summed_epoch_ = 0;
  trained_ = 0;
  std::ranges::fill(sums_, 0.0);
}

void DeviceLearner::refresh_final_index() {
  batch_.columns.at(kFinalIndex).copy_(final_index(batch_.columns.at("terminateds"), batch_.columns.at("truncateds")));
}

/// `mine`: this shard has a part of the batch.
void DeviceLearner::make_targets(bool mine) {
  if (!mine || !recordable()) return compute_targets(mine);
  const std::array<at::Tensor, 2> shared{slab_, flat_};
  work_.run(fmt::format("targets {}", final_capacity_), shared, [this] { compute_targets(true); });
}

void DeviceLearner::compute_targets(bool mine) {
  const at::NoGradGuard no_grad;
  TensorBatch nothing;
  nothing.values = at::zeros({0}, flat_.options());
  if (mine) {
    const int64_t rows = (batch_.steps + 1) * batch_.environments;
    const Autocast autocast(flat_.device().type(), bfloat16_);
    const at::Tensor obs =
        at::cat({batch_.obs.reshape({rows, spec_.obs_size}), batch_.final_obs.narrow(0, 0, final_capacity_)});
    const at::Tensor values = torch_forward(spec_, views_, obs).values;
    batch_.values = values.narrow(0, 0, rows).view({batch_.steps + 1, batch_.environments});
    batch_.final_values = values.narrow(0, rows, final_capacity_);
  }
  const TargetColumns targets =
      algorithm_.device_targets(mine ? batch_ : nothing, [this](const at::Tensor& x) { sum_over_group(x); });
  for (const auto& [name, column] : targets.columns) {
    if (!mine) break;
    at::Tensor& place = batch_.columns[name];
    if (!place.defined()) place = at::zeros_like(column);
    place.copy_(column);
  }
  if (!target_metrics_.defined()) target_metrics_ = at::zeros_like(targets.metrics);
  target_metrics_.copy_(targets.metrics);
  target_names_ = targets.names;
}

void DeviceLearner::train_batches(const Fragment* fragment, Pass& pass, Result& result) {
  if (!plan_.time_major) make_targets(fragment != nullptr);
  if (!buffer_) return train_pass(pass.share, pass);
  Share kept = pass.share;
  if (fragment != nullptr) {
    const size_t used = fragment->layout().used_bytes(static_cast<size_t>(final_capacity_));
    kept.columns[kSlab] = slab_.narrow(0, 0, static_cast<int64_t>(used)).clone();
  }
  const int64_t unused = buffer_->push(std::move(kept));
  while (buffer_->uses_left() >= plan_.buffer_batches) {  // as Learner::train_sequences
    const std::shared_ptr<Share> share = buffer_->take(pass.buffer);
    if (const auto slab = share->columns.find(kSlab); slab != share->columns.end()) {
      slab_.narrow(0, 0, slab->second.size(0)).copy_(slab->second);
      const std::array<at::Tensor, 1> shared{slab_};
      work_.run("final index", shared, [this] { refresh_final_index(); });
    }
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
    support_->upload(std::as_bytes(std::span<const int64_t>(order)), order_.mutable_data_ptr());
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
    if (static_cast<int64_t>(unread_.size()) == kSteps) read_steps();
    train_minibatch(piece, whole);
    unread_.push_back({epoch_, piece.total * share.unit_rows});
    pass.module_steps += unread_.back().rows;  // finish() takes away what was skipped
  }
  if (!algorithm_.may_stop_epochs()) return false;
  read_steps();
  const Metrics metrics = epoch_metrics();
  return metrics.contains("total_loss") && algorithm_.stops_epochs(metrics);
}

/// One gradient step of the group.
void DeviceLearner::train_minibatch(Piece piece, bool whole) {
  if (group_ != nullptr) group_->require_alive();
  if (piece.count == 0) {  // of others
    gradient_.zero_();
    sum_gradient();
    return step();
  }
  std::vector<at::Tensor> shared{slab_, flat_, gradient_};
  at::Tensor chosen;  // undefined: all of the batch
  if (!whole || accumulation_ > 1) {
    at::Tensor& place = chosen_[piece.count];
    if (!place.defined()) place = at::zeros({piece.count}, order_.options());
    chosen = place.copy_(order_.narrow(0, piece.begin, piece.count));
    shared.push_back(chosen);
  }
  const std::string shape =
      fmt::format("{} of {}, {}, {}", piece.count, piece.total, chosen.defined() ? "chosen" : "all", final_capacity_);
  if (recordable()) {
    work_.run(shape, shared, [this, chosen, piece] {
      compute_gradient(chosen, piece);
      sum_gradient();
      step();
    });
  } else {
    work_.run(shape, shared, [this, chosen, piece] { compute_gradient(chosen, piece); });
    sum_gradient();
    const std::array<at::Tensor, 2> stepped{flat_, gradient_};
    work_.run("step", stepped, [this] { step(); });
  }
}

/// Rows' columns are [n, ...]; time-major ones [T, n, ...], and "obs" [(T+1) * n + final_capacity_, obs_size].
Columns DeviceLearner::minibatch_of(const at::Tensor& units) const {
  Columns minibatch;
  const auto add = [&](const std::string& name) {
    const auto found = batch_.columns.find(name);
    check(found != batch_.columns.end(), "the loss wants the column {}, which neither runners nor targets gave", name);
    const at::Tensor column = plan_.time_major ? found->second : found->second.flatten(0, 1);
    minibatch[name] = units.defined() ? column.index_select(plan_.time_major ? 1 : 0, units) : column;
  };
  for (const std::string& name : algorithm_.loss_columns())
    if (!plan_.time_major || name != "obs") add(name);
  for (const auto& [name, value] : coefficients_) minibatch[name] = value;
  if (!plan_.time_major) return minibatch;
  add(kFinalIndex);
  if (plan_.target) {
    add(kTargetInputs);
    add(kTargetLogp);
  }
  const at::Tensor obs = units.defined() ? batch_.obs.index_select(1, units) : batch_.obs;
  minibatch["obs"] = at::cat({obs.reshape({-1, spec_.obs_size}), batch_.final_obs.narrow(0, 0, final_capacity_)});
  return minibatch;
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
  }
}

/// Of `units` of the batch, all of it where undefined: `part` of those that are accumulated, and `share` of the group's
/// minibatch.
void DeviceLearner::add_gradient(const at::Tensor& units, int64_t part, double share) {
  const Columns minibatch = minibatch_of(units);
  ModuleOutput output;
  {
    const Autocast autocast(flat_.device().type(), bfloat16_);
    output = torch_forward(spec_, views_, minibatch.at("obs"));
  }
  const DeviceLoss loss = algorithm_.device_loss(spec_, output, minibatch);
  const at::Tensor total = loss.total * (plan_.loss_is_sum ? 1.0 : share);
  std::vector<at::Tensor> parts = torch::autograd::grad({total}, views_, {}, /*retain_graph=*/false,
                                                        /*create_graph=*/false, /*allow_unused=*/true);
  if (buckets_.started()) parts.clear();  // they are added already
  for (size_t i = 0; i < parts.size(); ++i)
    parts[i] = parts[i].defined() ? parts[i].reshape({-1}) : at::zeros({views_[i].numel()}, flat_.options());
  const int64_t begin = parts.empty() ? flat_.numel() : 0;
  parts.push_back(total.detach().reshape({1}));
  parts.push_back(loss.metrics * share);
  const at::Tensor all = at::cat(parts);
  gradient_.narrow(0, begin, all.numel()).add_(all);
  if (!plan_.time_major) return;
  const int64_t shard = group_ ? group_->rank() : 0;
  gradient_.narrow(0, begin + all.numel() + (shard * accumulation_ + part) * kFit, kFit).copy_(loss.fit);
}

/// One step with the group's gradient, and a row of steps_.
void DeviceLearner::step() {
  const int64_t size = flat_.numel();
  optimizer_->step(flat_, gradient_.narrow(0, 0, size), lr_);
  const at::Tensor numbers =
      at::cat({gradient_.narrow(0, size, gradient_.numel() - size), optimizer_->gradient_norm().reshape({1})});
  steps_.index_copy_(0, next_step_, numbers.unsqueeze(0));
  next_step_.add_(1);
}

/// What the target policy says of the batch in the slab.
void DeviceLearner::make_target_columns(Columns& kept) {
  if (!kept.contains(kSlab)) return;  // this shard has nothing of the batch
  at::Tensor &inputs = batch_.columns.at(kTargetInputs), &logp = batch_.columns.at(kTargetLogp);
  if (kept.contains(kTargetInputs)) {
    inputs.copy_(kept.at(kTargetInputs));
    logp.copy_(kept.at(kTargetLogp));
    return;
  }
  const std::array<at::Tensor, 2> shared{slab_, target_};
  work_.run("target policy", shared, [this, inputs, logp] {
    const at::NoGradGuard no_grad;
    const Autocast autocast(flat_.device().type(), bfloat16_);
    const int64_t rows = batch_.steps * batch_.environments;
    const at::Tensor all =
        torch_forward(spec_, parameter_views(spec_, target_), batch_.columns.at("obs").reshape({rows, spec_.obs_size}))
            .action_dist_inputs;
    inputs.copy_(all.view_as(inputs));
    logp.copy_(log_prob(spec_.distribution, all, batch_.columns.at("actions").reshape({rows, -1})).view_as(logp));
  });
  kept[kTargetInputs] = inputs.clone();
  kept[kTargetLogp] = logp.clone();
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

/// Waits for the steps so far, and what the targets found, and adds up what they left.
void DeviceLearner::read_steps() {
  const auto steps = static_cast<int64_t>(unread_.size());
  std::vector<at::Tensor> numbers{steps_.narrow(0, 0, steps).flatten()};
  if (target_metrics_.defined()) numbers.push_back(target_metrics_);
  const std::vector<float> all = floats_of(at::cat(numbers));
  const auto width = static_cast<size_t>(steps_.size(1));
  for (size_t i = 0; i < unread_.size(); ++i) {
    if (unread_[i].epoch != summed_epoch_) std::ranges::fill(sums_, 0.0);
    summed_epoch_ = unread_[i].epoch;
    sum_up(std::span(all).subspan(i * width, width), unread_[i].rows);
  }
  target_numbers_.assign(all.begin() + static_cast<ptrdiff_t>(width * unread_.size()), all.end());
  unread_.clear();
  next_step_.zero_();
}

/// A step's `numbers`: total, metrics, fits, norm.
void DeviceLearner::sum_up(std::span<const float> numbers, int64_t rows) {
  const double norm = numbers.back(), weight = static_cast<double>(rows);
  if (!optimizer_->count(norm)) return;
  trained_ += rows;
  const size_t means = sums_.size() - 3;
  ValueFit fit;
  std::array<double, kFit> part;
  for (size_t at = means; at + 1 < numbers.size(); at += kFit) {
    std::ranges::copy(numbers.subspan(at, kFit), part.begin());
    fit.merge(ValueFit::of(part));
  }
  for (size_t i = 0; i < means; ++i) sums_[i] += weight * numbers[i];
  sums_[means] += weight * fit.explained_variance();
  sums_[means + 1] += weight * norm;
  sums_[means + 2] += weight;
}

/// Means over the rows of an epoch, from sums_.
Metrics DeviceLearner::epoch_metrics() const {
  const double rows = sums_.back();
  Metrics metrics{{"num_module_steps_trained", rows}};
  if (rows == 0.0) return metrics;
  const std::span<const std::string_view> names = algorithm_.loss_metrics();
  metrics["total_loss"] = sums_[0] / rows;
  for (size_t i = 0; i < names.size(); ++i) metrics[std::string(names[i])] = sums_[1 + i] / rows;
  if (plan_.time_major) metrics["vf_explained_var"] = sums_[1 + names.size()] / rows;
  metrics["gradients_default_optimizer_global_norm"] = sums_[2 + names.size()] / rows;
  return metrics;
}

/// Waits for the update and reads what it counted.
void DeviceLearner::finish(Pass& pass, int64_t module_steps_before, const DeviceOptimizer::Counters& before,
                           Result& result) {
  if (epoch_ == 0) return;  // a circular buffer that fills
  read_steps();
  result.metrics = epoch_metrics();
  pass.module_steps = module_steps_before + trained_;
  const DeviceOptimizer::Counters& counters = optimizer_->counters();
  result.grad_updates = counters.steps - before.steps;
  result.skipped = counters.skipped - before.skipped;
  for (size_t i = 0; i < target_names_.size(); ++i) result.of_batch[std::string(target_names_[i])] = target_numbers_[i];
  if (counters.longest_row > kSkipsAllowed) diverged(counters.longest_row);
}

void DeviceLearner::diverged(int64_t in_a_row) const {
  const std::vector<float> gradient = floats_of(gradient_);
  std::string name = "no longer known";
  for (const Parameter& p : spec_.parameters()) {
    const auto part = std::span(gradient).subspan(p.offset, p.count);
    if (std::ranges::all_of(part, [](float g) { return std::isfinite(g); })) continue;
    name = p.name;
    break;
  }
  fail(Exit::internal, "diverged",
       "{} updates in a row had a gradient that is not finite, first in '{}'; lower lr or set grad_clip", in_a_row,
       name);
}

std::span<const float> DeviceLearner::parameters() {
  const std::span<const std::byte> bytes = support_->downloaded();
  return {reinterpret_cast<const float*>(bytes.data()), bytes.size() / sizeof(float)};
}

TensorMap DeviceLearner::optimizer_state() const {
  TensorMap state;
  support_->run([&] { state = optimizer_->state(); });
  return state;
}

std::vector<float> DeviceLearner::target() const {
  std::vector<float> target;
  support_->run([&] {
    if (target_.defined()) target = floats_of(target_);
  });
  return target;
}

void DeviceLearner::set_state(std::span<const float> parameters, const TensorMap& optimizer,
                              std::span<const float> target) {
  check(parameters.size() == spec_.num_parameters() && target.size() == (plan_.target ? parameters.size() : 0),
        "{} parameters and {} of the target for a module of {}", parameters.size(), target.size(),
        spec_.num_parameters());
  support_->run([&] {
    optimizer_->set_state(optimizer);
    support_->upload(std::as_bytes(parameters), flat_.mutable_data_ptr());
    if (plan_.target) support_->upload(std::as_bytes(target), target_.mutable_data_ptr());
    support_->begin_download(flat_.const_data_ptr(), flat_.nbytes());
  });
  if (plan_.buffer_batches > 0) buffer_.emplace(plan_.buffer_batches, plan_.buffer_uses);
}

void DeviceLearner::meet(DeviceGroup& group) {
  support_->run([&] {
    const at::Tensor one = at::ones({1}, flat_.options());
    group.all_reduce(one);
    if (one.item<float>() != static_cast<float>(group.size())) throw GroupBroken("the first sum is wrong");
  });
}

void DeviceLearner::set_group(DeviceGroup* group) {
  group_ = group;
  work_.forget("group");
  support_->run([this] { make_gradient(); });
  if (buffer_) buffer_.emplace(plan_.buffer_batches, plan_.buffer_uses);
}

std::vector<at::Tensor> DeviceLearner::state_tensors() const {
  std::vector<at::Tensor> tensors = optimizer_->tensors();
  tensors.push_back(flat_);
  if (target_.defined()) tensors.push_back(target_);
  return tensors;
}

void DeviceLearner::take_snapshot() {
  support_->run([this] {
    snapshot_.clear();
    for (const at::Tensor& tensor : state_tensors()) snapshot_.push_back(tensor.clone());
  });
  snapshot_counters_ = optimizer_->counters();
}

void DeviceLearner::restore_snapshot() {
  support_->run([this] {
    const std::vector<at::Tensor> tensors = state_tensors();
    check(snapshot_.size() == tensors.size(), "a snapshot of {} tensors, want {}", snapshot_.size(), tensors.size());
    for (size_t i = 0; i < tensors.size(); ++i) tensors[i].copy_(snapshot_[i]);
    optimizer_->set_counters(snapshot_counters_);
    support_->begin_download(flat_.const_data_ptr(), flat_.nbytes());
  });
}

}  // namespace myriad
