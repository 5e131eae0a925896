#include "learners/module/torch_layers.hpp"

#include <ATen/ATen.h>

#include "rl/overloaded.hpp"

namespace myriad {
namespace {

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

}  // namespace

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

ModuleOutput run_layers(const ModuleSpec& spec, const std::vector<TorchLayer>& with_parameters, const at::Tensor& obs,
                        const std::function<at::Tensor(const TorchLayer&, const at::Tensor& x)>& call) {
  if (!obs.is_floating_point()) return run_layers(spec, with_parameters, obs.to(at::kFloat), call);  // uint8
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

ModuleOutput run_layers(const ModuleSpec& spec, const std::vector<TorchLayer>& layers,
                        const std::vector<at::Tensor>& tensors, const at::Tensor& obs) {
  return run_layers(spec, layers, obs, [&](const TorchLayer& layer, const at::Tensor& x) {
    return layer.function(x, at::ArrayRef<at::Tensor>(tensors).slice(layer.first, layer.count));
  });
}

std::vector<at::Tensor> parameter_views(std::span<const Parameter> tensors, const at::Tensor& flat) {
  std::vector<at::Tensor> views;
  for (const Parameter& p : tensors)
    views.push_back(
        flat.narrow(0, static_cast<int64_t>(p.offset - tensors.front().offset), static_cast<int64_t>(p.count))
            .view(std::vector<int64_t>(p.shape.begin(), p.shape.end())));
  return views;
}
std::vector<at::Tensor> parameter_views(const ModuleSpec& spec, const at::Tensor& flat) {
  return parameter_views(spec.parameters(), flat);
}

ModuleOutput torch_forward(const ModuleSpec& spec, const std::vector<at::Tensor>& parameters, const at::Tensor& obs) {
  return run_layers(spec, layers_of(spec), parameters, obs);
}

}  // namespace myriad
