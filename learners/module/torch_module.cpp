#include "learners/module/torch_module.hpp"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <functional>

#include "rl/check.hpp"

namespace myriad {
namespace {

std::span<float> span_of(const at::Tensor& tensor) {
  return {tensor.mutable_data_ptr<float>(), static_cast<size_t>(tensor.numel())};
}

int64_t signed_of(size_t n) { return static_cast<int64_t>(n); }

/// Observations may be uint8.
at::Tensor floats_of(const at::Tensor& obs) { return obs.to(at::kFloat).contiguous(); }

}  // namespace

/// The whole module as one operation. Its parameters are no inputs of the graph: backward adds their gradient in place.
struct TorchModule::NativeFunction : torch::autograd::Function<NativeFunction> {
  using Context = torch::autograd::AutogradContext;
  using List = torch::autograd::variable_list;

  static List forward(Context* context, const at::Tensor& /*anchor*/, const at::Tensor& obs, TorchModule* owner) {
    NativeModule& module = *owner->native_;
    const int64_t n = obs.size(0);
    at::Tensor inputs = at::empty({n, inputs_size(module.spec().distribution)}, obs.options());
    at::Tensor values = at::empty({n}, obs.options());
    module.forward(owner->parameters().data(), obs.const_data_ptr<float>(), static_cast<size_t>(n),
                   inputs.mutable_data_ptr<float>(), values.mutable_data_ptr<float>());
    context->saved_data["obs"] = obs;  // alive until backward
    context->saved_data["owner"] = reinterpret_cast<int64_t>(owner);
    return {inputs, values};
  }

  static List backward(Context* context, List d) {
    auto* owner = reinterpret_cast<TorchModule*>(context->saved_data["owner"].toInt());
    const at::Tensor d_inputs = d[0].contiguous(), d_values = d[1].contiguous();
    std::function<void(Range)> finished;
    if (owner->buckets_.started()) finished = [owner](Range range) { owner->finished(range); };
    owner->native_->backward(owner->parameters().data(), d_inputs.const_data_ptr<float>(),
                             d_values.const_data_ptr<float>(), owner->gradients().data(), finished);
    return List(3);
  }
};

TorchModule::TorchModule(const ModuleSpec& spec, std::span<const float> initial, Executor executor, int threads)
    : spec_(spec), list_(spec.parameters()) {
  anchor_ = at::zeros({}, at::kFloat).set_requires_grad(true);
  if (executor == Executor::native)
    native_ = std::make_unique<NativeModule>(spec, threads);
  else
    layers_ = layers_of(spec_);
  place({.partition = {spec.num_parameters(), 1}}, initial);
}

void TorchModule::place(const Placement& placement, std::span<const float> values, Collective* group) {
  const bool in_parts = placement.gradients_in_parts;
  const size_t count = placement.num_parameters();
  check(values.size() == count, "{} values for a module of {} parameters", values.size(), count);
  check(!in_parts || (!native_ && group != nullptr), "a module in parts wants the torch executor and a group");
  parted_.reset();
  const at::Tensor flat = at::empty({signed_of(count)}, at::kFloat);
  std::ranges::copy(values, span_of(flat).begin());
  flat_ = flat;
  placement_ = placement;
  views_.clear();
  if (!native_ && !in_parts)
    for (const at::Tensor& part : parameter_views(spec_, flat_))
      views_.push_back(part.detach().set_requires_grad(true));
  make_gradient(signed_of(placement.num_gradients()));
  if (in_parts) {
    parted_group_ = make_host_group(*group);
    parted_ = std::make_unique<PartedModule>(spec_, placement_, *parted_group_, flat_, gradient_);
  }
  set_group(nullptr);
}

void TorchModule::set_group(Collective* group) {
  group_ = group;
  buckets_ = {};
  if (group == nullptr || placement_.gradients_in_parts) return;
  buckets_ = GradientBuckets(list_, group->overlap_floats());
  if (buckets_.size() == 0) return;
  struct Hook final : torch::autograd::PostAccumulateGradHook {
    Hook(GradientBuckets& b, size_t n) : buckets(b), tensor(n) {}
    void operator()(const torch::autograd::Variable&) override { buckets.done(tensor); }
    GradientBuckets& buckets;
    size_t tensor;
  };
  for (size_t i = 0; i < views_.size(); ++i)
    torch::autograd::impl::set_post_acc_grad_hooks(views_[i], std::make_unique<Hook>(buckets_, i));
}

/// The native executor's gradient of all parameters in `range`.
void TorchModule::finished(Range range) {
  for (size_t i = list_.size(); i-- > 0;)
    if (list_[i].offset >= range.begin && list_[i].offset < range.end) buckets_.done(i);
}

void TorchModule::sum_during_backward() {
  if (buckets_.size() == 0) return;
  buckets_.start([this](Range range) { group_->begin_all_reduce(gradients().subspan(range.begin, range.count())); });
}

bool TorchModule::finish_sums() {
  if (!buckets_.started()) return false;
  buckets_.rest();
  group_->finish();
  return true;
}

void TorchModule::make_gradient(int64_t room) {
  gradient_ = at::zeros({room}, at::kFloat);
  if (views_.empty()) return;
  const std::vector<at::Tensor> gradient_views = parameter_views(spec_, gradient_);
  for (size_t i = 0; i < views_.size(); ++i)
    views_[i].mutable_grad() = gradient_views[i];  // autograd adds in place to a gradient that is there
}

std::span<float> TorchModule::parameters() { return span_of(flat_); }
std::span<float> TorchModule::gradients() { return span_of(gradient_).first(placement_.num_gradients()); }
std::span<float> TorchModule::gradients_with_tail(size_t tail) {
  check(!placement_.gradients_in_parts, "a gradient in parts has no tail");
  const size_t wanted = gradients().size() + tail;
  if (static_cast<size_t>(gradient_.numel()) < wanted) {
    const at::Tensor before = gradient_;
    make_gradient(signed_of(wanted));
    std::ranges::copy(span_of(before).first(gradients().size()), gradients().begin());
  }
  return span_of(gradient_).first(wanted);
}
void TorchModule::zero_gradients() {
  std::ranges::fill(gradients(), 0.0f);
  buckets_.stop();  // of a minibatch that was broken off
}

void TorchModule::idle_pass() {
  if (parted_) parted_->idle_pass();
}

void TorchModule::idle_infer(const at::Tensor& parameters) {
  if (parted_) parted_->idle_infer(parameters);
}

ModuleOutput TorchModule::forward(const at::Tensor& obs) {
  check(obs.dim() == 2 && obs.size(1) == spec_.obs_size, "obs has {} features, want {}", obs.size(-1), spec_.obs_size);
  if (parted_) return parted_->forward(obs);
  if (!native_) return run_layers(spec_, layers_, views_, obs);
  auto outputs = NativeFunction::apply(anchor_, floats_of(obs), this);
  return {outputs[0], outputs[1]};
}

at::Tensor TorchModule::values(const at::Tensor& obs) {
  const at::NoGradGuard no_grad;
  if (parted_) return parted_->infer(flat_, obs).values;
  if (!native_) return run_layers(spec_, layers_, views_, obs).values;
  const at::Tensor rows = floats_of(obs);
  at::Tensor values = at::empty({rows.size(0)}, rows.options());
  native_->values(parameters().data(), rows.const_data_ptr<float>(), static_cast<size_t>(rows.size(0)),
                  values.mutable_data_ptr<float>());
  return values;
}

ModuleOutput TorchModule::infer(const at::Tensor& parameters, const at::Tensor& obs) {
  const at::NoGradGuard no_grad;
  check(parameters.numel() == flat_.numel(), "{} parameters for a module of {}", parameters.numel(), flat_.numel());
  if (parted_) return parted_->infer(parameters, obs);
  if (!native_) return run_layers(spec_, layers_, parameter_views(spec_, parameters), obs);
  const at::Tensor rows = floats_of(obs);
  const int64_t n = rows.size(0);
  ModuleOutput out{at::empty({n, inputs_size(spec_.distribution)}, rows.options()), at::empty({n}, rows.options())};
  native_->forward(parameters.const_data_ptr<float>(), rows.const_data_ptr<float>(), static_cast<size_t>(n),
                   out.action_dist_inputs.mutable_data_ptr<float>(), out.values.mutable_data_ptr<float>());
  return out;
}

}  // namespace myriad
