// What a TorchTrainer holds on the device: where it lies, how it leaves and comes back.
#include <ATen/ATen.h>

#include "learners/device/torch_trainer.hpp"
#include "rl/check.hpp"

namespace myriad {
namespace {

/// A device's tensor from the host's floats, at once.
void put(const at::Tensor& tensor, std::span<const float> values) {
  check(static_cast<size_t>(tensor.numel()) == values.size(), "{} values for a tensor of {}", values.size(),
        tensor.numel());
  tensor.copy_(at::from_blob(const_cast<float*>(values.data()), {tensor.numel()}, at::kFloat));
}

template <class Floats>
Floats floats_of(const at::Tensor& tensor) {
  const at::Tensor host = tensor.cpu();
  return Floats(host.const_data_ptr<float>(), host.const_data_ptr<float>() + host.numel());
}

}  // namespace

/// For what placement_ and gradients_ say; parameters are zero until they are put.
void TorchTrainer::make_room() {
  const at::TensorOptions options = at::TensorOptions(at::kFloat).device(support_->device());
  const Partition& parts = placement_.partition;
  const auto count = static_cast<int64_t>(placement_.num_parameters());
  const bool gathers = parts.parts > 1 && !placement_.parameters_in_parts;
  room_ = at::zeros({gathers ? static_cast<int64_t>(parts.chunk() * parts.parts) : count}, options);
  flat_ = room_.narrow(0, 0, count);
  if (target_plan_) target_ = at::zeros({count}, options);

  num_gradients_ = static_cast<int64_t>(placement_.num_gradients());
  const size_t metrics = algorithm_.loss_metrics().size();
  const size_t fits = sequences_ ? size() * static_cast<size_t>(accumulation_) : 0;
  const auto found = static_cast<int64_t>(1 + metrics + fits * ValueFit::kNumbers);
  gradient_ = at::zeros({num_gradients_ + found + (placement_.gradients_in_parts ? 1 : 0)}, options);
  steps_.set_width(metrics, fits, options);

  const std::vector<Parameter> list = spec_.parameters();
  const std::vector<double> multipliers = lr_multipliers(spec_, training_.lr_multipliers);
  const Range own = placement_.gradients();
  statistics_.clear();
  for (size_t i = 0; i < list.size(); ++i) {
    const Range here = own.overlap({list[i].offset, list[i].offset + list[i].count});
    if (list[i].momentum == 0.0f || here.count() == 0) continue;
    const auto part = [&](const at::Tensor& all, size_t begin) {
      return all.narrow(0, static_cast<int64_t>(here.begin - begin), static_cast<int64_t>(here.count()));
    };
    const at::Tensor gradient = part(gradient_, own.begin);
    statistics_.push_back({part(flat_, placement_.parameters_in_parts ? own.begin : 0), gradient,
                           at::zeros_like(gradient), multipliers[i] == 0 ? 0.0 : double{list[i].momentum}});
  }

  views_.clear();
  buckets_ = {};
  in_place_ = false;
  parted_.reset();
  if (placement_.gradients_in_parts) {
    parted_ =
        std::make_unique<PartedModule>(spec_, placement_, *gradients_, flat_, gradient_.narrow(0, 0, num_gradients_));
    return;
  }
  for (const at::Tensor& part : parameter_views(spec_, flat_)) views_.push_back(part.detach().set_requires_grad(true));
  // On a CPU copies of the gradient would cost more than an operator for each tensor.
  in_place_ = flat_.is_cpu() && (alone() || gradients_->overlap_floats() == 0);
  if (in_place_) {
    const std::vector<at::Tensor> gradients = parameter_views(spec_, gradient_.narrow(0, 0, num_gradients_));
    for (size_t i = 0; i < views_.size(); ++i) views_[i].mutable_grad() = gradients[i];
  }
  // A sum that goes through the host's memory would wait for a GPU amid backward.
  if (alone() || !(recordable() || flat_.is_cpu())) return;
  buckets_ = GradientBuckets(list, gradients_->overlap_floats());
  if (buckets_.size() == 0) return;
  for (size_t i = 0; i < views_.size(); ++i)
    views_[i].register_hook([this, i, p = list[i]](const at::Tensor& gradient) {
      if (!buckets_.started()) return;
      gradient_.narrow(0, static_cast<int64_t>(p.offset), gradient.numel()).add_(gradient.reshape({-1}));
      buckets_.done(i);
    });
}

void TorchTrainer::place(std::shared_ptr<DeviceGroup> gradients, Parts::Slices own) {
  if (!alone() && !gradients) gradients = make_host_group(*group_);
  std::swap(gradients_, gradients);  // the one before lives until the device has left it
  snapshot_.clear();
  work_.forget("group");
  support_->run([&, this] {
    const at::Tensor parameters = flat_, target = target_;
    make_room();
    const size_t moments = own.size() > 2 ? 1 : 0;
    if (moments == 1) {
      put(flat_, own.front());
      if (target_plan_) put(target_, own.back());
    } else {
      flat_.copy_(parameters);
      if (target_plan_) target_.copy_(target);
    }
    if (!own.empty()) optimizer_->set_part(placement_.own(), own[moments], own[moments + 1]);
    support_->begin_download(flat_.const_data_ptr(), flat_.nbytes());
  });
}

void TorchTrainer::meet(DeviceGroup& group) {
  support_->run([&] {
    const at::Tensor one = at::ones({1}, flat_.options());
    group.all_reduce(one);
    if (one.item<float>() != static_cast<float>(group.size())) throw GroupBroken("the first sum is wrong");
  });
}

Parts::Live TorchTrainer::live(bool parameters, Parts::Slices& copies) {
  copies.clear();
  support_->run([&] {
    if (parameters) copies.push_back(floats_of<AlignedVector>(flat_));
    for (const at::Tensor& moments : {optimizer_->first(), optimizer_->second()})
      copies.push_back(floats_of<AlignedVector>(moments));
    if (parameters && target_plan_) copies.push_back(floats_of<AlignedVector>(target_));
  });
  return {copies.begin(), copies.end()};
}

std::span<const float> TorchTrainer::parameters() {
  const std::span<const std::byte> bytes = support_->downloaded();
  return {reinterpret_cast<const float*>(bytes.data()), bytes.size() / sizeof(float)};
}

TensorMap TorchTrainer::optimizer_state() const {
  TensorMap state;
  support_->run([&] { state = optimizer_->state(); });
  return state;
}

std::vector<float> TorchTrainer::target() {
  std::vector<float> target;
  support_->run([&] {
    if (target_.defined()) target = floats_of<std::vector<float>>(target_);
  });
  return target;
}

void TorchTrainer::set_state(std::span<const float> parameters, const TensorMap& optimizer,
                             std::span<const float> target) {
  support_->run([&] { optimizer_->set_state(optimizer); });
  set_replicated_state(parameters, optimizer, target);
}

void TorchTrainer::set_replicated_state(std::span<const float> parameters, const TensorMap& optimizer,
                                        std::span<const float> target) {
  support_->run([&] {
    optimizer_->set_counter_state(optimizer);
    if (parameters.empty()) return;
    put(flat_, parameters);
    if (target_plan_) put(target_, target);
    support_->begin_download(flat_.const_data_ptr(), flat_.nbytes());
  });
}

Trainer::Memory TorchTrainer::memory() const {
  const PartedModule::Peak peak = parted_ ? parted_->peak() : PartedModule::Peak();
  Memory memory{.parameters_bytes = flat_.nbytes() + (target_.defined() ? target_.nbytes() : 0) + peak.fetched_bytes,
                .gradients_bytes = static_cast<size_t>(num_gradients_) * sizeof(float) + peak.gradient_bytes,
                .optimizer_bytes = optimizer_->first().nbytes() + optimizer_->second().nbytes(),
                .snapshot_bytes = 0};
  for (const at::Tensor& tensor : snapshot_)
    if (tensor.dim() > 0) memory.snapshot_bytes += tensor.nbytes();
  return memory;
}

std::vector<at::Tensor> TorchTrainer::state_tensors() const {
  std::vector<at::Tensor> tensors = optimizer_->tensors();
  tensors.push_back(flat_);
  if (target_.defined()) tensors.push_back(target_);
  return tensors;
}

void TorchTrainer::take_snapshot() {
  support_->run([this] {
    snapshot_.clear();
    for (const at::Tensor& tensor : state_tensors()) snapshot_.push_back(tensor.clone());
  });
  snapshot_counters_ = optimizer_->counters();
}

void TorchTrainer::restore_snapshot() {
  support_->run([this] {
    const std::vector<at::Tensor> tensors = state_tensors();
    check(snapshot_.size() == tensors.size(), "a snapshot of {} tensors, want {}", snapshot_.size(), tensors.size());
    for (size_t i = 0; i < tensors.size(); ++i) tensors[i].copy_(snapshot_[i]);
    optimizer_->set_counters(snapshot_counters_);
    support_->begin_download(flat_.const_data_ptr(), flat_.nbytes());
  });
}

}  // namespace myriad
