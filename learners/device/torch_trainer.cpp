#include "learners/device/torch_trainer.hpp"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>

#include "learners/module/action_distribution.hpp"
#include "learners/module/autocast.hpp"
#include "rl/check.hpp"

namespace myriad {
namespace {

constexpr int64_t kSkipsAllowed = 2;  // in a row, as Optimizer's
constexpr int64_t kFit = ValueFit::kNumbers;

bool has_random_shift(const ModuleSpec& spec) {
  bool has = false;
  for_each_layer(
      spec, [&](const std::string&, const Layer& layer) { has = has || std::holds_alternative<RandomShift>(layer); },
      [](int) {});
  return has;
}

}  // namespace

TorchTrainer::TorchTrainer(const Config& config, const Algorithm& algorithm, const ModuleSpec& spec,
                           const Space& action_space, std::unique_ptr<DeviceSupport> support)
    : Trainer(config, algorithm, spec),
      bfloat16_(config.learners.autocast == "bfloat16"),
      layers_(layers_of(spec)),
      support_(std::move(support)),
      work_(*support_, config.learners.cuda_graph),
      batch_(spec_, action_space, algorithm_, *support_, work_),
      lr_ranges_(lr_ranges(spec, training_.lr_multipliers)),
      shifts_pictures_(has_random_shift(spec)),
      shift_numbers_(0, StreamPurpose::augmentation, 0) {
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
  set_state(initial, optimizer_state(), target_plan_ ? initial : std::vector<float>());
}

void TorchTrainer::load(const Update& update) {
  set_numbers(update);
  shift_numbers_ = update.augmentation;
  const bool filters = update.filter != nullptr && update.filter->active();
  // In a group all batches of this shard are of one layout, and all shards make the same passes.
  if (update.batch != nullptr && !batch_.load(*update.batch, filters ? &filter_ : nullptr) && alone()) empty_buffer();
}

/// What changes from update to update and is not a column.
void TorchTrainer::set_numbers(const Update& update) {
  std::vector<float> numbers{static_cast<float>(update.lr)};
  for (const auto& [name, value] : algorithm_.coefficients()) numbers.push_back(static_cast<float>(value));
  if (update.filter != nullptr && update.filter->active()) {
    numbers.insert(numbers.end(), update.filter->shift().begin(), update.filter->shift().end());
    numbers.insert(numbers.end(), update.filter->scale().begin(), update.filter->scale().end());
  }
  if (update.filter != nullptr) filter_.clip = update.filter->clip();
  support_->upload(std::as_bytes(std::span<const float>(numbers)), numbers_.mutable_data_ptr());
  steps_.begin();
}

void TorchTrainer::make_targets(bool mine) {
  if (!mine || !recordable()) return compute_targets(mine);
  const std::array<at::Tensor, 2> shared{batch_.slab(), flat_};
  work_.run(fmt::format("targets {}", batch_.final_capacity()), shared, [this] { compute_targets(true); });
}

void TorchTrainer::compute_targets(bool mine) {
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

void TorchTrainer::make_target_columns(bool mine) {
  if (!mine) {
    if (parted_) parted_->idle_infer(target_);
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
}

void TorchTrainer::begin_epoch(std::span<const int64_t> order, bool shuffled) {
  order_ = order;
  shuffled_ = shuffled;
  order_is_there_ = false;
}

void TorchTrainer::train_minibatch(const Minibatch& minibatch) {
  if (steps_.full()) read_steps();
  if (!alone()) gradients_->require_alive();
  steps_.wrote(epoch_, minibatch.rows);
  const auto [begin, count] = minibatch.own;
  if (count == 0) {  // all of it is the others'
    compute_gradient(minibatch);
    sum_gradient();
    step();
    return gather_parameters();
  }
  std::vector<at::Tensor> shared{batch_.slab(), flat_, gradient_};
  chosen_ = at::Tensor();
  if (shuffled_ || static_cast<size_t>(count) < order_.size() || accumulation_ > 1) {
    if (!std::exchange(order_is_there_, true)) batch_.set_order(order_);
    shared.push_back(chosen_ = batch_.choose(begin, count));
  }
  if (shifts_pictures_) {
    draw_shifts(count);
    shared.push_back(drawn_shifts_);
  }
  const auto gradient = [this, minibatch] { compute_gradient(minibatch); };
  const std::string shape = fmt::format("{} of {}, {}, {}", count, minibatch.units,
                                        chosen_.defined() ? "chosen" : "all", batch_.final_capacity());
  if (recordable())
    return work_.run(shape, shared, [this, gradient] {
      gradient();
      sum_gradient();
      step();
      gather_parameters();
    });
  if (parted_ || buckets_.size() > 0)
    gradient();
  else
    work_.run(shape, shared, gradient);
  sum_gradient();
  const std::array<at::Tensor, 2> stepped{flat_, gradient_};
  work_.run("step", stepped, [this] { step(); });
  gather_parameters();
}

ModuleOutput TorchTrainer::pass(const std::vector<at::Tensor>& tensors, const at::Tensor& obs) const {
  const Autocast autocast(flat_.device().type(), bfloat16_);
  return run_layers(spec_, layers_, tensors, obs);
}

/// Without autograd, by parameters that lie as flat_ does.
ModuleOutput TorchTrainer::infer(const at::Tensor& home, const at::Tensor& obs) {
  const at::NoGradGuard no_grad;
  if (!parted_) return pass(parameter_views(spec_, home), obs);
  const Autocast autocast(flat_.device().type(), bfloat16_);
  return parted_->infer(home, obs);
}

/// The passes of one loss. In parts every shard makes the same ones, and one without rows knows of one.
struct TorchTrainer::Passes final : Networks {
  Passes(const TorchTrainer& t, TrainingPass::Rows r) : Networks(t.spec_), trainer(t), rows(std::move(r)) {}

  ModuleOutput forward(Parameters with, const at::Tensor& obs) override {
    std::optional<TrainingPass> training;
    if (with == Parameters::online) training.emplace(rows);
    if (!trainer.parted_) return trainer.pass(tensors_of(with), obs);
    if (with != Parameters::online || std::exchange(passed, true)) refuse();
    const Autocast autocast(trainer.flat_.device().type(), trainer.bfloat16_);
    return trainer.parted_->forward(obs);
  }
  std::vector<at::Tensor> outputs(Parameters with, const Names& names, const NetworkInputs& inputs) override {
    if (trainer.parted_) refuse();
    std::optional<TrainingPass> training;
    if (with == Parameters::online) training.emplace(rows);
    const std::vector<at::Tensor> tensors = tensors_of(with);
    const Autocast autocast(trainer.flat_.device().type(), trainer.bfloat16_);
    return run_networks(spec(), trainer.layers_, names, inputs, [&](const TorchLayer& layer, const at::Tensor& x) {
      return layer.function(x, at::ArrayRef<at::Tensor>(tensors).slice(layer.first, layer.count));
    });
  }

  std::vector<at::Tensor> tensors_of(Parameters with) const {
    if (with == Parameters::online) return trainer.views_;
    if (with == Parameters::frozen) return parameter_views(spec(), trainer.flat_);
    if (!trainer.target_.defined())
      fail(Exit::usage, "impossible", "the loss asks for a target network, and the algorithm's plan() has none");
    return parameter_views(spec(), trainer.target_);
  }
  [[noreturn]] static void refuse() {
    fail(Exit::usage, "impossible",
         "learners.shard 'gradients' and 'parameters' train losses of one forward pass, and this one asks for more; "
         "'optimizer' and 'none' can");
  }

  const TorchTrainer& trainer;
  const TrainingPass::Rows rows;
  bool passed = false;
};

/// For all rows of `count` units, part after part of those that are accumulated. Rows of final_obs stay where they are:
/// there are as many as a batch had at most so far, which a resumed learner does not know.
void TorchTrainer::draw_shifts(int64_t count) {
  std::vector<float> numbers;
  for (int64_t i = 0; i < accumulation_; ++i) {
    const int64_t units = piece_of(count, i, accumulation_).count;
    if (units == 0) continue;
    const size_t drawn = numbers.size() + static_cast<size_t>(2 * units * (sequences_ ? batch_.steps() + 1 : 1));
    while (numbers.size() < drawn) numbers.push_back(static_cast<float>(shift_numbers_.uniform()));
    if (sequences_) numbers.resize(drawn + static_cast<size_t>(2 * batch_.final_capacity()), 0.5f);
  }
  const auto rows = static_cast<int64_t>(numbers.size() / 2);
  at::Tensor& place = shifts_[rows];
  if (!place.defined()) place = at::zeros({rows, 2}, flat_.options());
  support_->upload(std::as_bytes(std::span<const float>(numbers)), place.mutable_data_ptr());
  drawn_shifts_ = place;
}

at::Tensor TorchTrainer::next_shifts(int64_t rows) {
  if (!shifts_pictures_) return {};
  return drawn_shifts_.narrow(0, std::exchange(next_shift_, next_shift_ + rows), rows);
}

void TorchTrainer::begin_gradient() {
  gradient_.zero_();
  buckets_.stop();  // of a minibatch that was broken off
  next_shift_ = 0;
}

void TorchTrainer::begin_last_part() {
  if (buckets_.size() == 0) return;
  buckets_.start([this](Range range) {
    gradients_->begin_all_reduce(
        gradient_.narrow(0, static_cast<int64_t>(range.begin), static_cast<int64_t>(range.count())));
  });
}

void TorchTrainer::add_nothing() {
  if (parted_) parted_->idle_pass();
}

void TorchTrainer::add_gradient(const Minibatch& whole, Piece part, int64_t index) {
  Columns minibatch = batch_.minibatch(chosen_.defined() ? chosen_.narrow(0, part.begin, part.count) : chosen_);
  for (const auto& [name, value] : coefficients_) minibatch[name] = value;
  const double share = whole.share_of(part.count);
  Passes passes(*this, {.share = share,
                        .counted = sequences_ ? minibatch.at(kFinalIndex).numel() : 0,
                        .shifts = next_shifts(minibatch.at("obs").size(0))});
  const Loss loss = algorithm_.loss(passes, minibatch);
  const at::Tensor total = loss.total * (loss_is_sum(plan_) ? 1.0 : share);
  std::vector<at::Tensor> parts;
  if (parted_ || in_place_)
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
  if (!sequences_) return;
  gradient_.narrow(0, begin + all.numel() + (rank() * accumulation_ + index) * kFit, kFit).copy_(loss.fit);
}

void TorchTrainer::sum_over_group(const at::Tensor& tensor) const {
  if (!alone()) gradients_->all_reduce(tensor);
}

/// What backward has not summed, or begun to.
void TorchTrainer::sum_gradient() {
  if (parted_) {
    clear_frozen();
    const at::Tensor own = gradient_.narrow(0, 0, num_gradients_);
    tail().slice(0, -1).copy_(at::dot(own, own));
    return sum_over_group(tail());
  }
  if (buckets_.size() == 0) return sum_over_group(gradient_);
  buckets_.rest();
  gradients_->begin_all_reduce(tail());
  gradients_->finish();
}

/// What is frozen has no part in the gradient's norm, and what moves running statistics is none of it.
void TorchTrainer::clear_frozen() {
  for (const Statistic& s : statistics_) {
    s.difference.copy_(s.gradient);
    s.gradient.zero_();
  }
  const Range own = placement_.gradients();
  for (const auto& [range, multiplier] : lr_ranges_)
    if (const Range here = own.overlap(range); multiplier == 0 && here.count() > 0)
      gradient_.narrow(0, static_cast<int64_t>(here.begin - own.begin), static_cast<int64_t>(here.count())).zero_();
}

/// One step of this shard's part with the group's gradient, and a row of steps_.
void TorchTrainer::step() {
  if (!parted_) clear_frozen();
  const Range own = optimizer_->part();
  const auto mine = [&](const at::Tensor& all) {
    const auto begin = static_cast<int64_t>(own.begin), count = static_cast<int64_t>(own.count());
    return all.numel() == count ? all : all.narrow(0, begin, count);
  };
  const at::Tensor gradient = gradient_.narrow(0, 0, num_gradients_), found = tail();
  const at::Tensor norm = parted_ ? found[-1].sqrt() : at::linalg_vector_norm(gradient);
  optimizer_->step(mine(flat_), mine(gradient), lr_, norm);
  for (const Statistic& s : statistics_)
    s.value.sub_(
        at::where(at::logical_and(at::isfinite(norm), at::isfinite(s.difference)), s.difference * s.momentum, 0.0));
  steps_.write(at::cat({parted_ ? found.slice(0, 0, -1) : found, norm.reshape({1})}));
}

/// Where all have all parameters, and step parts of them: the other parts.
void TorchTrainer::gather_parameters() {
  if (placement_.partition.parts > 1 && !placement_.parameters_in_parts) gradients_->all_gather(room_);
}

/// What a group left that was aborted meanwhile is not to be believed.
void TorchTrainer::read_steps() {
  target_numbers_ = steps_.read(*optimizer_, sums_, target_metrics_);
  if (!alone()) gradients_->require_alive();
}

void TorchTrainer::finish(Metrics& of_batch) {
  support_->begin_download(flat_.const_data_ptr(), flat_.nbytes());
  read_steps();
  for (size_t i = 0; i < target_names_.size(); ++i) of_batch[std::string(target_names_[i])] = target_numbers_[i];
  if (!device().is_cpu() || work_.counts().contains("replayed"))  // a CPU records nothing but in tests
    for (const auto& [kind, count] : work_.counts())
      of_batch["num_device_work_" + kind + "_lifetime"] = static_cast<double>(count);
  if (const int64_t row = optimizer_->counters().longest_row; row > kSkipsAllowed) diverged(row);
}

void TorchTrainer::diverged(int64_t in_a_row) const {
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
