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

std::span<const double> doubles_of(const at::Tensor& host) {
  return {host.const_data_ptr<double>(), static_cast<size_t>(host.numel())};
}

std::vector<float> floats_of(const at::Tensor& tensor) {
  const at::Tensor host = tensor.cpu();
  return {host.const_data_ptr<float>(), host.const_data_ptr<float>() + host.numel()};
}

}  // namespace

DeviceLearner::DeviceLearner(const Config& config, const Algorithm& algorithm, const ModuleSpec& spec,
                             const Space& action_space, std::unique_ptr<DeviceSupport> support)
    : training_(config.training),
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
    gradient_ = at::zeros({size}, options);
    if (plan_.target) target_ = at::zeros({size}, options);
    for (const at::Tensor& part : parameter_views(spec_, flat_))
      views_.push_back(part.detach().set_requires_grad(true));
    optimizer_ = std::make_unique<DeviceOptimizer>(size, training_.adam_epsilon, training_.grad_clip, flat_.device());
    filter_ = at::zeros({2, spec_.obs_size}, options);
    trained_ = at::zeros({1}, options.dtype(at::kDouble));
    for (const auto& [name, value] : algorithm_.device_coefficients()) coefficients_[name] = at::zeros({}, options);
  });
  const std::vector<float> initial = initial_parameters(spec, static_cast<uint64_t>(config.seed));
  set_state(initial, optimizer_state(), plan_.target ? initial : std::vector<float>());
}

DeviceLearner::Result DeviceLearner::update(Fragment& fragment, const MeanStdFilter* filter, double lr,
                                            RandomStream& random, PassCounters& counters) {
  Result result;
  const int64_t module_steps_before = counters.module_steps;
  support_->run([&] {
    load(fragment, filter);
    set_numbers(lr);
    minibatches_ = 0;
    train_batches(fragment.layout(), random, counters, result);
    support_->begin_download(flat_.const_data_ptr(), flat_.nbytes());
    finish(counters, module_steps_before, result);
  });
  return result;
}

/// The batch into the slab, filtered; actions count from 0.
void DeviceLearner::load(Fragment& fragment, const MeanStdFilter* filter) {
  make_tensor_batch(fragment, spec_, action_space_, nullptr);  // throws for what a kernel would stumble over
  prepare(fragment.layout());
  grow_final_rows(static_cast<int64_t>(fragment.final_rows));
  support_->upload(fragment.used(), slab_.mutable_data_ptr());
  if (filter != nullptr && filter->active()) normalise(*filter);
  if (const auto* discrete = action_space_.get_if<Discrete>(); discrete != nullptr && discrete->start != 0)
    batch_.columns.at("actions").sub_(discrete->start);
  refresh_final_index();
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

void DeviceLearner::normalise(const MeanStdFilter& filter) {
  std::vector<float> numbers(filter.shift().begin(), filter.shift().end());
  numbers.insert(numbers.end(), filter.scale().begin(), filter.scale().end());
  support_->upload(std::as_bytes(std::span<const float>(numbers)), filter_.mutable_data_ptr());
  for (const at::Tensor& obs : {batch_.obs, batch_.final_obs.narrow(0, 0, final_capacity_)})
    obs.sub_(filter_[0]).mul_(filter_[1]).clamp_(-filter.clip(), filter.clip());
}

/// What changes from update to update and is not a column.
void DeviceLearner::set_numbers(double lr) {
  optimizer_->set_lr(lr);
  trained_.zero_();
  for (const auto& [name, value] : algorithm_.device_coefficients()) coefficients_.at(name).fill_(value);
}

void DeviceLearner::refresh_final_index() {
  batch_.columns.at(kFinalIndex).copy_(final_index(batch_.columns.at("terminateds"), batch_.columns.at("truncateds")));
}

void DeviceLearner::make_targets() {
  const std::array<at::Tensor, 2> shared{slab_, flat_};
  work_.run(fmt::format("targets {}", final_capacity_), shared, [this] {
    const at::NoGradGuard no_grad;
    const int64_t rows = (batch_.steps + 1) * batch_.environments;
    const Autocast autocast(flat_.device().type(), bfloat16_);
    const at::Tensor values =
        torch_forward(
            spec_, views_,
            at::cat({batch_.obs.reshape({rows, spec_.obs_size}), batch_.final_obs.narrow(0, 0, final_capacity_)}))
            .values;
    batch_.values = values.narrow(0, 0, rows).view({batch_.steps + 1, batch_.environments});
    batch_.final_values = values.narrow(0, rows, final_capacity_);
    const TargetColumns targets = algorithm_.device_targets(batch_);
    for (const auto& [name, column] : targets.columns) {
      at::Tensor& place = batch_.columns[name];
      if (!place.defined()) place = at::zeros_like(column);
      place.copy_(column);
    }
    if (!target_metrics_.defined()) target_metrics_ = at::zeros_like(targets.metrics);
    target_metrics_.copy_(targets.metrics);
    target_names_ = targets.names;
  });
}

void DeviceLearner::train_batches(const FragmentLayout& layout, RandomStream& random, PassCounters& counters,
                                  Result& result) {
  if (!plan_.time_major) make_targets();
  if (!buffer_) return train_pass(random, counters, nullptr);
  const auto used = static_cast<int64_t>(layout.used_bytes(static_cast<size_t>(final_capacity_)));
  const int64_t unused = buffer_->push({{kSlab, slab_.narrow(0, 0, used).clone()}});
  while (buffer_->uses_left() >= plan_.buffer_batches) {  // as Learner::train_sequences
    const std::shared_ptr<Columns> kept = buffer_->take(random);
    const at::Tensor& slab = kept->at(kSlab);
    slab_.narrow(0, 0, slab.size(0)).copy_(slab);
    refresh_final_index();
    train_pass(random, counters, kept.get());
  }
  result.metrics = {{"circular_buffer_uses_dropped", static_cast<double>(unused)},
                    {"circular_buffer_uses_left", static_cast<double>(buffer_->uses_left())}};
}

/// num_epochs over the batch in the slab. `kept`: where its target columns stay for the next use; may be null.
void DeviceLearner::train_pass(RandomStream& random, PassCounters& counters, Columns* kept) {
  if (plan_.target) make_target_columns(kept);
  for (int64_t epoch = 0; epoch < training_.num_epochs; ++epoch)
    if (train_epoch(random, counters)) break;
  if (plan_.target) update_target(counters);
}

/// Minibatches as Learner::train_epoch makes them, from the same random numbers. Returns whether epochs end here.
bool DeviceLearner::train_epoch(RandomStream& random, PassCounters& counters) {
  const int64_t rows = batch_.steps * batch_.environments, unit = plan_.time_major ? batch_.steps : 1,
                units = rows / unit;
  const int64_t size =
      training_.minibatch_size == 0 ? units : std::clamp(training_.minibatch_size / unit, int64_t{1}, units);
  const int64_t minibatches = (units + size - 1) / size;
  if (sums_.defined()) sums_.zero_();
  if (plan_.time_major && minibatches == 1) {
    train_minibatch(at::Tensor(), rows);
  } else {
    std::vector<int64_t> order(static_cast<size_t>(units));
    std::iota(order.begin(), order.end(), int64_t{0});
    if (training_.shuffle_batch_per_epoch) shuffle(std::span<int64_t>(order), random);
    support_->upload(std::as_bytes(std::span<const int64_t>(order)), order_.mutable_data_ptr());
    for (int64_t i = 0; i < minibatches; ++i) {
      const int64_t begin = units * i / minibatches, count = units * (i + 1) / minibatches - begin;
      train_minibatch(order_.narrow(0, begin, count), count * unit);
    }
  }
  minibatches_ += minibatches;
  counters.module_steps += rows;  // finish() takes away what was skipped
  if (!algorithm_.may_stop_epochs()) return false;
  const Metrics metrics = epoch_metrics(doubles_of(sums_.cpu()));
  return metrics.contains("total_loss") && algorithm_.stops_epochs(metrics);
}

/// `units` of the batch, all of it where undefined.
void DeviceLearner::train_minibatch(const at::Tensor& units, int64_t rows) {
  std::vector<at::Tensor> shared{slab_, flat_, gradient_, sums_};
  at::Tensor chosen;
  if (units.defined()) {
    at::Tensor& place = chosen_[units.size(0)];
    if (!place.defined()) place = at::zeros_like(units);
    chosen = place.copy_(units);
    shared.push_back(chosen);
  }
  const std::string shape = fmt::format("{} {} {}", units.defined() ? "minibatch" : "batch", rows, final_capacity_);
  const auto apply = [this, rows] { apply_gradient(static_cast<double>(rows)); };
  if (group_ == nullptr || group_->recordable()) {
    work_.run(shape, shared, [this, chosen, apply] {
      compute_gradient(chosen);
      if (group_ != nullptr) group_->all_reduce_mean(gradient_);
      apply();
    });
  } else {
    work_.run(shape + " gradient", shared, [this, chosen] { compute_gradient(chosen); });
    group_->all_reduce_mean(gradient_);
    work_.run(shape + " step", shared, apply);
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

/// Into gradient_ and loss_.
void DeviceLearner::compute_gradient(const at::Tensor& units) {
  const Columns minibatch = minibatch_of(units);
  ModuleOutput output;
  {
    const Autocast autocast(flat_.device().type(), bfloat16_);
    output = torch_forward(spec_, views_, minibatch.at("obs"));
  }
  const Loss loss = algorithm_.device_loss(spec_, output, minibatch);
  std::vector<at::Tensor> parts = torch::autograd::grad({loss.total}, views_, {}, /*retain_graph=*/false,
                                                        /*create_graph=*/false, /*allow_unused=*/true);
  for (size_t i = 0; i < parts.size(); ++i)
    parts[i] = parts[i].defined() ? parts[i].reshape({-1}) : at::zeros({views_[i].numel()}, gradient_.options());
  at::cat_out(gradient_, parts);
  const at::Tensor numbers = at::cat({loss.total.detach().reshape({1}), loss.metrics});
  if (!loss_.defined()) loss_ = at::zeros_like(numbers);
  loss_.copy_(numbers);
  loss_names_ = loss.names;
}

/// One step with gradient_, and loss_ into the sums where it was taken.
void DeviceLearner::apply_gradient(double rows) {
  optimizer_->step(flat_, gradient_);
  const at::Tensor numbers = at::cat({loss_, optimizer_->gradient_norm().reshape({1}), at::ones({1}, flat_.options())});
  const at::Tensor row = (numbers.to(at::kDouble) * rows).masked_fill(optimizer_->stepped().logical_not(), 0.0);
  if (!sums_.defined()) sums_ = at::zeros_like(row);
  sums_.add_(row);
  trained_.add_(row.narrow(0, row.size(0) - 1, 1));
}

/// What the target policy says of the batch in the slab.
void DeviceLearner::make_target_columns(Columns* kept) {
  at::Tensor &inputs = batch_.columns.at(kTargetInputs), &logp = batch_.columns.at(kTargetLogp);
  if (kept != nullptr && kept->contains(kTargetInputs)) {
    inputs.copy_(kept->at(kTargetInputs));
    logp.copy_(kept->at(kTargetLogp));
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
  if (kept == nullptr) return;
  (*kept)[kTargetInputs] = inputs.clone();
  (*kept)[kTargetLogp] = logp.clone();
}

void DeviceLearner::update_target(PassCounters& counters) {
  if (static_cast<double>(counters.module_steps - counters.target_updated_at) < plan_.target->interval) return;
  counters.target_updated_at = counters.module_steps;
  ++counters.target_updates;
  target_.lerp_(flat_, plan_.target->tau);
  if (!buffer_) return;
  buffer_->erase(kTargetInputs);
  buffer_->erase(kTargetLogp);
}

/// Means over the rows of an epoch, from sums_.
Metrics DeviceLearner::epoch_metrics(std::span<const double> sums) const {
  const double rows = sums.back();
  Metrics metrics{{"num_module_steps_trained", rows}};
  if (rows == 0.0) return metrics;
  metrics["total_loss"] = sums.front() / rows;
  for (size_t i = 0; i < loss_names_.size(); ++i) metrics[std::string(loss_names_[i])] = sums[1 + i] / rows;
  metrics["gradients_default_optimizer_global_norm"] = sums[1 + loss_names_.size()] / rows;
  return metrics;
}

/// Waits for the update and reads what it counted.
void DeviceLearner::finish(PassCounters& counters, int64_t module_steps_before, Result& result) {
  if (minibatches_ == 0) return;  // a circular buffer that fills
  std::vector<at::Tensor> numbers{sums_, trained_, optimizer_->counters().to(at::kDouble)};
  if (target_metrics_.defined()) numbers.push_back(target_metrics_.to(at::kDouble));
  const at::Tensor host = at::cat(numbers).cpu();
  const std::span<const double> all = doubles_of(host);
  const auto sums = static_cast<size_t>(sums_.numel());
  result.metrics.merge(epoch_metrics(all.first(sums)));
  counters.module_steps = module_steps_before + static_cast<int64_t>(all[sums]);
  const auto counter = [&](size_t i) { return static_cast<int64_t>(all[sums + 1 + i]); };
  result.grad_updates = counter(0) - num_steps_;
  result.skipped = counter(1) - num_skipped_;
  keep_counters(counter(0), counter(1));
  for (size_t i = 0; i < target_names_.size(); ++i)
    result.metrics[std::string(target_names_[i])] = all[sums + 1 + 4 + i];
  if (counter(3) > kSkipsAllowed) diverged(counter(3));
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

void DeviceLearner::keep_counters(int64_t steps, int64_t skipped) {
  num_steps_ = steps;
  num_skipped_ = skipped;
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
  const std::vector<int64_t> counters = optimizer.at("steps").i64();
  keep_counters(counters[0], counters[1]);
  if (plan_.buffer_batches > 0) buffer_.emplace(plan_.buffer_batches, plan_.buffer_uses);
}

void DeviceLearner::set_group(DeviceGroup* group) {
  group_ = group;
  work_.forget("group");
}

}  // namespace myriad
