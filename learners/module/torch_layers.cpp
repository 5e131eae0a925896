#include "learners/module/torch_layers.hpp"

#include <ATen/ATen.h>

#include <utility>

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

/// Rows [n, height * width * channels] as pictures [n, channels, height, width] whose memory has the channels last, and
/// back: views, both.
at::Tensor pictures(const at::Tensor& rows, int height, int width, int channels) {
  return rows.reshape({rows.size(0), height, width, channels}).permute({0, 3, 1, 2});
}
at::Tensor rows(const at::Tensor& pictures) { return pictures.permute({0, 2, 3, 1}).flatten(1); }

/// What a layer computes; residual blocks and streams are run_layers'.
at::Tensor apply(const Layer& layer, const at::Tensor& x, at::ArrayRef<at::Tensor> t) {
  return std::visit(
      Overloaded{
          [&](const Linear&) { return at::linear(x, t[0], t[1]); },
          [&](const Activate& l) { return activate(l.activation, x); },
          [&](const LayerNorm& l) { return at::layer_norm(x, {l.size}, t[0], t[1], 1e-5); },
          [&](const Scale& l) { return x * l.factor; },
          [&](const ChannelsLast& l) {
            return x.reshape({x.size(0), l.channels, l.height * l.width, l.depth}).transpose(1, 2).flatten(1);
          },
          [&](const Conv2d& l) {
            return rows(at::conv2d(pictures(x, l.height, l.width, l.inputs), t[0].permute({0, 3, 1, 2}), t[1], l.stride,
                                   l.padding));
          },
          [&](const MaxPool2d& l) {
            return rows(at::max_pool2d(pictures(x, l.height, l.width, l.channels), l.kernel, l.stride, l.padding));
          },
          [&](const AvgPool2d& l) {
            return rows(at::avg_pool2d(pictures(x, l.height, l.width, l.channels), {l.kernel_height, l.kernel_width},
                                       l.stride, l.padding));
          },
          [&](const Select& l) { return x.narrow(1, l.offset, l.size); }, [&](const ResidualBegin&) { return x; },
          [&](const ResidualEnd&) { return x; }, [&](const Stream&) { return x; }, [&](const Concat&) { return x; }},
      layer);
}

}  // namespace

std::vector<TorchLayer> layers_of(const ModuleSpec& spec) {
  std::vector<TorchLayer> layers;
  size_t tensors = 0, offset = 0;
  const auto add = [&](size_t count, size_t floats, auto function) {
    if (count > 0) layers.push_back({tensors, count, {offset, offset + floats}, std::move(function)});
    tensors += count;
    offset += floats;
  };
  using Tensors = at::ArrayRef<at::Tensor>;
  for_each_layer(
      spec,
      [&](const std::string&, const Layer& layer) {
        add(tensors_of(layer).size(), num_parameters_of(layer),
            [layer](const at::Tensor& x, Tensors t) { return apply(layer, x, t); });
      },
      [&](int n) {
        add(1, static_cast<size_t>(n), [clip = spec.log_std_clip](const at::Tensor& mean, Tensors t) {
          return at::cat({mean, t[0].expand_as(mean).clamp(-clip, clip)}, 1);
        });
      });
  return layers;
}

ModuleOutput run_layers(const ModuleSpec& spec, const std::vector<TorchLayer>& with_parameters, const at::Tensor& obs,
                        const std::function<at::Tensor(const TorchLayer&, const at::Tensor& x)>& call) {
  if (!obs.is_floating_point()) return run_layers(spec, with_parameters, obs.to(at::kFloat), call);  // uint8
  auto next = with_parameters.begin();
  const auto trunk = [&](const std::vector<Layer>& layers, const at::Tensor& row) {
    at::Tensor x = row;
    std::vector<at::Tensor> open;     // residual blocks
    std::vector<at::Tensor> streams;  // what those that are over gave
    for (const Layer& layer : layers) {
      if (std::holds_alternative<Stream>(layer) && &layer != &layers.front()) streams.push_back(std::exchange(x, row));
      if (std::holds_alternative<Concat>(layer)) {
        streams.push_back(x);
        x = at::cat(streams, 1);
      }
      x = has_parameters(layer) ? call(*next++, x) : apply(layer, x, {});
      if (std::holds_alternative<ResidualBegin>(layer)) open.push_back(x);
      if (std::holds_alternative<ResidualEnd>(layer)) {
        x = x + open.back();
        open.pop_back();
      }
    }
    return x;
  };
  const at::Tensor features = trunk(spec.encoder, obs);
  at::Tensor inputs = call(*next++, features).to(at::kFloat);
  if (const DiagGaussian* gaussian = gaussian_of(spec.distribution)) {
    const float clip = spec.log_std_clip;
    inputs =
        gaussian->free_log_std
            ? call(*next++, inputs)
            : at::cat({inputs.narrow(1, 0, gaussian->n), inputs.narrow(1, gaussian->n, gaussian->n).clamp(-clip, clip)},
                      1);
  }
  at::Tensor best = inputs;  // of a Q-network
  if (spec.mask_offset >= 0) {
    const at::Tensor masked = obs.narrow(1, spec.mask_offset, spec.mask_size()).eq(0);
    inputs = inputs.masked_fill(masked, kMaskedLogit);
    // The last mask of an episode may allow nothing, and the value there counts at a time limit.
    best = at::where(masked.all(1, /*keepdim=*/true), best, inputs);
  }
  if (!spec.has_value_head()) return {inputs, std::get<0>(best.max(1))};
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
