#include "learners/torch_module.hpp"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <functional>

#include "rl/check.hpp"

namespace myriad {
namespace {

template <class... F>
struct Overloaded : F... {
  using F::operator()...;
};
template <class... F>
Overloaded(F...) -> Overloaded<F...>;

at::Tensor activate(Activation activation, const at::Tensor& x) {
  switch (activation) {
    case Activation::linear:
      return x;
    case Activation::tanh:
      return at::tanh(x);
    case Activation::relu:
      return at::relu(x);
    case Activation::silu:
      return at::silu(x);
    case Activation::gelu:
      return at::gelu(x);
    case Activation::elu:
      return at::elu(x);
  }
  return x;
}

std::span<float> span_of(const at::Tensor& tensor) {
  return {tensor.mutable_data_ptr<float>(), static_cast<size_t>(tensor.numel())};
}

int64_t signed_of(size_t n) { return static_cast<int64_t>(n); }

std::vector<int64_t> shape_of(const Parameter& p) { return {p.shape.begin(), p.shape.end()}; }

/// In the order of run(), which is the order of the parameters.
std::vector<TorchLayer> layers_of(const ModuleSpec& spec) {
  const std::vector<Parameter> list = spec.parameters();
  std::vector<TorchLayer> layers;
  const auto add = [&](size_t count, auto function) {
    const size_t first = layers.empty() ? 0 : layers.back().first + layers.back().count;
    const Parameter& last = list.at(first + count - 1);
    layers.push_back({first, count, {list[first].offset, last.offset + last.count}, std::move(function)});
  };
  using Tensors = at::ArrayRef<at::Tensor>;
  const auto linear = [&] { add(2, [](const at::Tensor& x, Tensors t) { return at::linear(x, t[0], t[1]); }); };
  const auto trunk = [&](const std::vector<Layer>& part) {
    for (const Layer& layer : part)
      std::visit(Overloaded{[&](const Linear&) { linear(); }, [](const Activate&) {},
                            [&](const LayerNorm& l) {
                              add(2, [size = l.size](const at::Tensor& x, Tensors t) {
                                return at::layer_norm(x, {size}, t[0], t[1], 1e-5);
                              });
                            }},
                 layer);
  };
  trunk(spec.encoder);
  linear();
  if (const auto* gaussian = std::get_if<DiagGaussian>(&spec.distribution); gaussian && gaussian->free_log_std)
    add(1, [clip = spec.log_std_clip](const at::Tensor& mean, Tensors t) {
      return at::cat({mean, t[0].expand_as(mean).clamp(-clip, clip)}, 1);
    });
  if (!spec.shares_encoder) trunk(spec.value_encoder);
  linear();
  return layers;
}

/// `call(layer, x)` for each layer with parameters. Autocast ends before what it gives.
template <class Call>
ModuleOutput run(const ModuleSpec& spec, const std::vector<TorchLayer>& with_parameters, const at::Tensor& obs,
                 Call call) {
  auto next = with_parameters.begin();
  const auto trunk = [&](const std::vector<Layer>& layers, at::Tensor x) {
    for (const Layer& layer : layers)
      x = std::visit(Overloaded{[&](const Activate& l) { return activate(l.activation, x); },
                                [&](const auto&) { return call(*next++, x); }},
                     layer);
    return x;
  };
  const at::Tensor features = trunk(spec.encoder, obs);
  at::Tensor inputs = call(*next++, features).to(at::kFloat);
  if (const auto* gaussian = std::get_if<DiagGaussian>(&spec.distribution)) {
    const float clip = spec.log_std_clip;
    inputs =
        gaussian->free_log_std
            ? call(*next++, inputs)
            : at::cat({inputs.narrow(1, 0, gaussian->n), inputs.narrow(1, gaussian->n, gaussian->n).clamp(-clip, clip)},
                      1);
  }
  const at::Tensor value_features = spec.shares_encoder ? features : trunk(spec.value_encoder, obs);
  return {inputs, call(*next++, value_features).squeeze(1).to(at::kFloat)};
}

ModuleOutput run_whole(const ModuleSpec& spec, const std::vector<TorchLayer>& layers,
                       const std::vector<at::Tensor>& tensors, const at::Tensor& obs) {
  return run(spec, layers, obs, [&](const TorchLayer& layer, const at::Tensor& x) {
    return layer.function(x, at::ArrayRef<at::Tensor>(tensors).slice(layer.first, layer.count));
  });
}

}  // namespace

std::vector<at::Tensor> parameter_views(const ModuleSpec& spec, const at::Tensor& flat) {
  std::vector<at::Tensor> views;
  for (const Parameter& p : spec.parameters())
    views.push_back(flat.narrow(0, signed_of(p.offset), signed_of(p.count)).view(shape_of(p)));
  return views;
}

ModuleOutput torch_forward(const ModuleSpec& spec, const std::vector<at::Tensor>& parameters, const at::Tensor& obs) {
  return run_whole(spec, layers_of(spec), parameters, obs);
}

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

/// One layer as one operation, with parameters that are there only while it runs.
struct TorchModule::LayerFunction : torch::autograd::Function<LayerFunction> {
  using Context = torch::autograd::AutogradContext;
  using List = torch::autograd::variable_list;

  static at::Tensor forward(Context* context, const at::Tensor& /*anchor*/, const at::Tensor& x, TorchModule* module,
                            const TorchLayer* layer, const at::Tensor* home) {
    context->save_for_backward({x});
    context->saved_data["module"] = reinterpret_cast<int64_t>(module);
    context->saved_data["layer"] = reinterpret_cast<int64_t>(layer);
    context->saved_data["x"] = x.requires_grad();
    return layer->function(x, module->tensors_of(*layer, *home));
  }

  static List backward(Context* context, List d) {
    auto* module = reinterpret_cast<TorchModule*>(context->saved_data["module"].toInt());
    const auto* layer = reinterpret_cast<const TorchLayer*>(context->saved_data["layer"].toInt());
    const at::AutoGradMode record(true);
    const bool needs_x = context->saved_data["x"].toBool();
    const at::Tensor x = context->get_saved_variables()[0].detach().set_requires_grad(needs_x);
    List inputs;
    for (const at::Tensor& tensor : module->tensors_of(*layer, module->flat_))
      inputs.push_back(tensor.detach().set_requires_grad(true));
    const at::Tensor y = layer->function(x, inputs);
    if (needs_x) inputs.push_back(x);
    List gradients = torch::autograd::grad({y}, inputs, {d[0]});
    size_t bytes = 0;
    for (size_t i = 0; i < layer->count; ++i) bytes += gradients[i].nbytes();
    module->peak_.gradient_bytes = std::max(module->peak_.gradient_bytes, bytes);
    for (size_t i = 0; i < layer->count; ++i)
      module->give(module->list_[layer->first + i], std::exchange(gradients[i], at::Tensor()));
    return {{}, needs_x ? gradients.back() : at::Tensor(), {}, {}, {}};
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

void TorchModule::place(const Placement& placement, std::span<const float> values) {
  const bool in_parts = placement.gradients_in_parts;
  const size_t count = placement.parameters_in_parts ? placement.own().count() : spec_.num_parameters();
  check(values.size() == count, "{} values for a module of {} parameters", values.size(), count);
  check(!in_parts || !native_, "the native executor has no layers to place in parts");
  const at::Tensor flat = at::empty({signed_of(count)}, at::kFloat);
  std::ranges::copy(values, span_of(flat).begin());
  flat_ = flat;
  placement_ = placement;
  views_.clear();
  if (!native_ && !in_parts)
    for (const at::Tensor& part : parameter_views(spec_, flat_))
      views_.push_back(part.detach().set_requires_grad(true));
  make_gradient(in_parts ? signed_of(placement.own().count()) : flat_.numel());
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
std::span<float> TorchModule::gradients() {
  return span_of(gradient_).first(placement_.gradients_in_parts ? placement_.own().count() : spec_.num_parameters());
}
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

at::Tensor TorchModule::fetch(const at::Tensor& home, Range range) const {
  const Placement& p = placement_;
  if (!p.parameters_in_parts) return home.narrow(0, signed_of(range.begin), signed_of(range.count()));
  const at::Tensor out = at::empty({signed_of(range.count())}, at::kFloat);
  for (uint32_t part = 0; part < p.partition.parts; ++part) {
    const Range here = p.partition.range(part).overlap(range);
    if (here.count() == 0) continue;
    const auto to = span_of(out).subspan(here.begin - range.begin, here.count());
    if (part == p.part) std::ranges::copy(span_of(home).subspan(here.begin - p.own().begin, here.count()), to.begin());
    p.group->broadcast(std::as_writable_bytes(to), part);
  }
  return out;
}

std::vector<at::Tensor> TorchModule::tensors_of(const TorchLayer& layer, const at::Tensor& home) {
  const at::Tensor flat = fetch(home, layer.range);
  if (placement_.parameters_in_parts) peak_.fetched_bytes = std::max(peak_.fetched_bytes, flat.nbytes());
  std::vector<at::Tensor> tensors;
  for (size_t i = layer.first; i < layer.first + layer.count; ++i) {
    const Parameter& p = list_[i];
    tensors.push_back(flat.narrow(0, signed_of(p.offset - layer.range.begin), signed_of(p.count)).view(shape_of(p)));
  }
  return tensors;
}

/// Sums a tensor's gradient at the shards it belongs to.
void TorchModule::give(const Parameter& tensor, at::Tensor gradient) {
  gradient = gradient.contiguous();
  const Range range{tensor.offset, tensor.offset + tensor.count}, own = placement_.own();
  for (uint32_t part = 0; part < placement_.partition.parts; ++part) {
    const Range here = placement_.partition.range(part).overlap(range);
    if (here.count() == 0) continue;
    const auto values = span_of(gradient).subspan(here.begin - range.begin, here.count());
    placement_.group->reduce(values, part);
    if (part != placement_.part) continue;
    const auto to = gradients().subspan(here.begin - own.begin, here.count());
    std::ranges::transform(values, to, to.begin(), std::plus<>());
  }
}

ModuleOutput TorchModule::run_by_layer(const at::Tensor& home, const at::Tensor& obs) {
  return run(spec_, layers_, obs, [&](const TorchLayer& layer, const at::Tensor& x) {
    return LayerFunction::apply(anchor_, x, this, &layer, &home);
  });
}

at::Tensor TorchModule::idle_rows() const { return at::zeros({1, spec_.obs_size}, at::kFloat); }

void TorchModule::idle_pass() {
  if (!placement_.gradients_in_parts) return;
  const ModuleOutput out = forward(idle_rows());
  ((out.action_dist_inputs.sum() + out.values.sum()) * 0.0).backward();
}

void TorchModule::idle_infer(const at::Tensor& parameters) {
  if (!placement_.parameters_in_parts) return;
  const at::NoGradGuard no_grad;
  run_by_layer(parameters, idle_rows());
}

ModuleOutput TorchModule::forward(const at::Tensor& obs) {
  check(obs.dim() == 2 && obs.size(1) == spec_.obs_size, "obs has {} features, want {}", obs.size(-1), spec_.obs_size);
  if (placement_.gradients_in_parts) return run_by_layer(flat_, obs);
  if (!native_) return run_whole(spec_, layers_, views_, obs);
  auto outputs = NativeFunction::apply(anchor_, obs.contiguous(), this);
  return {outputs[0], outputs[1]};
}

at::Tensor TorchModule::values(const at::Tensor& obs) {
  const at::NoGradGuard no_grad;
  if (placement_.gradients_in_parts) return run_by_layer(flat_, obs).values;
  if (!native_) return run_whole(spec_, layers_, views_, obs).values;
  const at::Tensor rows = obs.contiguous();
  at::Tensor values = at::empty({rows.size(0)}, rows.options());
  native_->values(parameters().data(), rows.const_data_ptr<float>(), static_cast<size_t>(rows.size(0)),
                  values.mutable_data_ptr<float>());
  return values;
}

ModuleOutput TorchModule::infer(const at::Tensor& parameters, const at::Tensor& obs) {
  const at::NoGradGuard no_grad;
  check(parameters.numel() == flat_.numel(), "{} parameters for a module of {}", parameters.numel(), flat_.numel());
  if (placement_.parameters_in_parts) return run_by_layer(parameters, obs);
  if (!native_) return run_whole(spec_, layers_, parameter_views(spec_, parameters), obs);
  const at::Tensor rows = obs.contiguous();
  const int64_t n = rows.size(0);
  ModuleOutput out{at::empty({n, inputs_size(spec_.distribution)}, rows.options()), at::empty({n}, rows.options())};
  native_->forward(parameters.const_data_ptr<float>(), rows.const_data_ptr<float>(), static_cast<size_t>(n),
                   out.action_dist_inputs.mutable_data_ptr<float>(), out.values.mutable_data_ptr<float>());
  return out;
}

}  // namespace myriad
