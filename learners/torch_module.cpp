#include "learners/torch_module.hpp"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include "rl/check.hpp"

namespace myriad {
namespace {

template <class... F>
struct Overloaded : F... {
  using F::operator()...;
};
template <class... F>
Overloaded(F...) -> Overloaded<F...>;

/// The whole module as one operation. Its parameters are no inputs of the graph: backward adds their gradient in place.
struct NativeFunction : torch::autograd::Function<NativeFunction> {
  using Context = torch::autograd::AutogradContext;
  using List = torch::autograd::variable_list;

  static List forward(Context* context, const at::Tensor& /*anchor*/, const at::Tensor& obs, NativeModule* module,
                      float* parameters, float* gradient) {
    const int64_t n = obs.size(0);
    at::Tensor inputs = at::empty({n, inputs_size(module->spec().distribution)}, obs.options());
    at::Tensor values = at::empty({n}, obs.options());
    module->forward(parameters, obs.const_data_ptr<float>(), static_cast<size_t>(n), inputs.mutable_data_ptr<float>(),
                    values.mutable_data_ptr<float>());
    context->saved_data["obs"] = obs;  // alive until backward
    context->saved_data["module"] = reinterpret_cast<int64_t>(module);
    context->saved_data["parameters"] = reinterpret_cast<int64_t>(parameters);
    context->saved_data["gradient"] = reinterpret_cast<int64_t>(gradient);
    return {inputs, values};
  }

  static List backward(Context* context, List d) {
    const auto pointer = [&](const char* name) { return context->saved_data[name].toInt(); };
    auto* module = reinterpret_cast<NativeModule*>(pointer("module"));
    const at::Tensor d_inputs = d[0].contiguous(), d_values = d[1].contiguous();
    module->backward(reinterpret_cast<const float*>(pointer("parameters")), d_inputs.const_data_ptr<float>(),
                     d_values.const_data_ptr<float>(), reinterpret_cast<float*>(pointer("gradient")));
    return List(5);
  }
};

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

/// `next`: the first of the layers' tensors among `parameters`; after it, the first of the next layers'.
at::Tensor trunk(const std::vector<Layer>& layers, const std::vector<at::Tensor>& parameters, at::Tensor x,
                 size_t& next) {
  for (const Layer& layer : layers)
    x = std::visit(Overloaded{[&](const Linear&) {
                                next += 2;
                                return at::linear(x, parameters[next - 2], parameters[next - 1]);
                              },
                              [&](const Activate& l) { return activate(l.activation, x); },
                              [&](const LayerNorm& l) {
                                next += 2;
                                return at::layer_norm(x, {l.size}, parameters[next - 2], parameters[next - 1], 1e-5);
                              }},
                   layer);
  return x;
}

}  // namespace

std::vector<at::Tensor> parameter_views(const ModuleSpec& spec, const at::Tensor& flat) {
  std::vector<at::Tensor> views;
  for (const Parameter& p : spec.parameters())
    views.push_back(flat.narrow(0, static_cast<int64_t>(p.offset), static_cast<int64_t>(p.count))
                        .view(std::vector<int64_t>(p.shape.begin(), p.shape.end())));
  return views;
}

ModuleOutput torch_forward(const ModuleSpec& spec, const std::vector<at::Tensor>& parameters, const at::Tensor& obs) {
  size_t next = 0;  // the next tensor in the spec's order
  const at::Tensor features = trunk(spec.encoder, parameters, obs, next);
  at::Tensor inputs = at::linear(features, parameters[next], parameters[next + 1]).to(at::kFloat);
  next += 2;
  if (const auto* gaussian = std::get_if<DiagGaussian>(&spec.distribution)) {
    const at::Tensor mean = gaussian->free_log_std ? inputs : inputs.narrow(1, 0, gaussian->n);
    const at::Tensor log_std =
        gaussian->free_log_std ? parameters[next++].expand_as(inputs) : inputs.narrow(1, gaussian->n, gaussian->n);
    inputs = at::cat({mean, log_std.clamp(-spec.log_std_clip, spec.log_std_clip)}, 1);
  }
  const at::Tensor value_features = spec.shares_encoder ? features : trunk(spec.value_encoder, parameters, obs, next);
  return {inputs, at::linear(value_features, parameters[next], parameters[next + 1]).squeeze(1).to(at::kFloat)};
}

TorchModule::TorchModule(const ModuleSpec& spec, std::span<const float> initial, Executor executor, int threads)
    : spec_(spec) {
  check(initial.size() == spec.num_parameters(), "{} values for a module of {} parameters", initial.size(),
        spec.num_parameters());
  flat_ = at::empty({static_cast<int64_t>(initial.size())}, at::kFloat);
  std::copy(initial.begin(), initial.end(), parameters().begin());
  if (executor == Executor::native) {
    native_ = std::make_unique<NativeModule>(spec, threads);
    anchor_ = at::zeros({}, at::kFloat).set_requires_grad(true);
  } else {
    for (const at::Tensor& part : parameter_views(spec, flat_)) views_.push_back(part.detach().set_requires_grad(true));
  }
  make_gradient(flat_.numel());
}

void TorchModule::make_gradient(int64_t room) {
  gradient_ = at::zeros({room}, at::kFloat);
  const std::vector<at::Tensor> gradient_views = parameter_views(spec_, gradient_);
  for (size_t i = 0; i < views_.size(); ++i)
    views_[i].mutable_grad() = gradient_views[i];  // autograd adds in place to a gradient that is there
}

std::span<float> TorchModule::parameters() { return span_of(flat_); }
std::span<float> TorchModule::gradients() { return span_of(gradient_).first(parameters().size()); }
std::span<float> TorchModule::gradients_with_tail(size_t tail) {
  const size_t wanted = parameters().size() + tail;
  if (static_cast<size_t>(gradient_.numel()) < wanted) {
    const at::Tensor before = gradient_;
    make_gradient(static_cast<int64_t>(wanted));
    std::ranges::copy(span_of(before).first(parameters().size()), gradients().begin());
  }
  return span_of(gradient_).first(wanted);
}
void TorchModule::zero_gradients() { std::ranges::fill(gradients(), 0.0f); }

ModuleOutput TorchModule::forward(const at::Tensor& obs) {
  check(obs.dim() == 2 && obs.size(1) == spec_.obs_size, "obs has {} features, want {}", obs.size(-1), spec_.obs_size);
  if (!native_) return torch_forward(spec_, views_, obs);
  auto outputs =
      NativeFunction::apply(anchor_, obs.contiguous(), native_.get(), parameters().data(), gradients().data());
  return {outputs[0], outputs[1]};
}

at::Tensor TorchModule::values(const at::Tensor& obs) {
  const at::NoGradGuard no_grad;
  if (!native_) return torch_forward(spec_, views_, obs).values;
  const at::Tensor rows = obs.contiguous();
  at::Tensor values = at::empty({rows.size(0)}, rows.options());
  native_->values(parameters().data(), rows.const_data_ptr<float>(), static_cast<size_t>(rows.size(0)),
                  values.mutable_data_ptr<float>());
  return values;
}

ModuleOutput TorchModule::infer(const at::Tensor& parameters, const at::Tensor& obs) {
  const at::NoGradGuard no_grad;
  check(parameters.numel() == flat_.numel(), "{} parameters for a module of {}", parameters.numel(), flat_.numel());
  if (!native_) return torch_forward(spec_, parameter_views(spec_, parameters), obs);
  const at::Tensor rows = obs.contiguous();
  const int64_t n = rows.size(0);
  ModuleOutput out{at::empty({n, inputs_size(spec_.distribution)}, rows.options()), at::empty({n}, rows.options())};
  native_->forward(parameters.const_data_ptr<float>(), rows.const_data_ptr<float>(), static_cast<size_t>(n),
                   out.action_dist_inputs.mutable_data_ptr<float>(), out.values.mutable_data_ptr<float>());
  return out;
}

}  // namespace myriad
