#include "learners/module/torch_layers.hpp"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <utility>

#include "rl/check.hpp"
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

thread_local const TrainingPass::Rows* training_rows = nullptr;

/// y, and on the way back `share` of what running statistics lack to a minibatch's as their gradient: that is the
/// gradient of half the square of the difference, so that a step of gradient descent moves them there.
struct Follow : torch::autograd::Function<Follow> {
  using Context = torch::autograd::AutogradContext;
  using List = torch::autograd::variable_list;

  static at::Tensor forward(Context* context, const at::Tensor& y, const at::Tensor& running_mean,
                            const at::Tensor& running_var, const at::Tensor& mean, const at::Tensor& var,
                            double share) {
    context->saved_data["mean"] = (running_mean - mean) * share;
    context->saved_data["var"] = (running_var - var) * share;
    return y.view_as(y);
  }
  static List backward(Context* context, List d) {
    return {d[0], context->saved_data["mean"].toTensor(), context->saved_data["var"].toTensor(), {}, {}, {}};
  }
};

at::Tensor batch_norm(const BatchNorm& l, const at::Tensor& x, at::ArrayRef<at::Tensor> t) {
  const at::Tensor pixels = x.to(t[0].scalar_type()).reshape({-1, l.channels});  // of bfloat16 under autocast
  const auto normalized = [&](const at::Tensor& mean, const at::Tensor& var) {
    return (pixels - mean) * (var + 1e-5).rsqrt() * t[0] + t[1];
  };
  const TrainingPass::Rows* training = TrainingPass::current();
  if (training == nullptr) return normalized(t[2], t[3]).reshape(x.sizes());
  const int64_t counted = training->counted * (l.size / l.channels);
  const auto [var, mean] = at::var_mean(counted == 0 ? pixels : pixels.narrow(0, 0, counted), at::IntArrayRef{0},
                                        /*unbiased=*/false);
  return Follow::apply(normalized(mean, var).reshape(x.sizes()), t[2], t[3], mean.detach(), var.detach(),
                       training->share);
}

at::Tensor random_shift(const RandomShift& l, const at::Tensor& x) {
  const TrainingPass::Rows* training = TrainingPass::current();
  if (training == nullptr || !training->shifts.defined()) return x;
  check(training->shifts.size(0) == x.size(0), "{} random shifts for {} rows", training->shifts.size(0), x.size(0));
  const int64_t most = 2 * int64_t{l.pixels};
  const at::Tensor corner = (training->shifts * (most + 1)).to(at::kLong).clamp_max(most);  // of 1.0, where rounded up
  const auto from = [&](int64_t axis, int64_t side) {  // [rows, side]  where a pixel of a row or column comes from
    return (at::arange(side, corner.options()) + corner.select(1, axis).unsqueeze(1) - l.pixels).clamp(0, side - 1);
  };
  const at::Tensor pixel = (from(0, l.height).unsqueeze(2) * l.width + from(1, l.width).unsqueeze(1)).flatten(1);
  return x.reshape({x.size(0), -1, l.channels}).gather(1, pixel.unsqueeze(2).expand({-1, -1, l.channels})).flatten(1);
}

/// What a layer computes; residual blocks and streams are run_network's.
at::Tensor apply(const Layer& layer, const at::Tensor& x, at::ArrayRef<at::Tensor> t) {
  return std::visit(
      Overloaded{
          [&](const Linear&) { return at::linear(x, t[0], t[1]); },
          [&](const Activate& l) { return activate(l.activation, x); },
          [&](const LayerNorm& l) { return at::layer_norm(x, {l.size}, t[0], t[1], 1e-5); },
          [&](const BatchNorm& l) { return batch_norm(l, x, t); }, [&](const Scale& l) { return x * l.factor; },
          [&](const ChannelsLast& l) {
            return x.reshape({x.size(0), l.channels, l.height * l.width, l.depth}).transpose(1, 2).flatten(1);
          },
          [&](const RandomShift& l) { return random_shift(l, x); },
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

/// What a network's layers give for rows of what it reads; `next` are those of its layers that have parameters.
at::Tensor run_network(const std::vector<Layer>& layers, const at::Tensor& row,
                       std::vector<TorchLayer>::const_iterator& next, const LayerCall& call) {
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
}

/// What the action head gives, [n, outputs_size], as action_dist_inputs. `log_std` [log_std_size]: the parameter, where
/// there is one.
at::Tensor to_inputs(const std::vector<ActionPart>& parts, float clip, const at::Tensor& head,
                     const at::Tensor& log_std) {
  std::vector<at::Tensor> inputs;
  for (const ActionPart& part : parts) {
    const at::Tensor outputs = head.narrow(1, part.output, part.num_outputs);
    const DiagGaussian* gaussian = gaussian_of(part.distribution);
    if (gaussian == nullptr) {
      inputs.push_back(outputs);
      continue;
    }
    const at::Tensor mean = outputs.narrow(1, 0, gaussian->n);
    const at::Tensor spread = gaussian->free_log_std ? log_std.narrow(0, part.log_std, gaussian->n).expand_as(mean)
                                                     : outputs.narrow(1, gaussian->n, gaussian->n);
    inputs.insert(inputs.end(), {mean, spread.clamp(-clip, clip)});
  }
  return inputs.size() == 1 ? inputs[0] : at::cat(inputs, 1);
}

/// `inputs` with kMaskedLogit for the choices that `masked` [n, mask_size] has.
at::Tensor mask_inputs(const std::vector<ActionPart>& parts, const at::Tensor& inputs, const at::Tensor& masked) {
  std::vector<at::Tensor> all;
  for (const ActionPart& part : parts) {
    const at::Tensor own = inputs.narrow(1, part.input, part.num_inputs);
    all.push_back(
        part.num_choices == 0 ? own : own.masked_fill(masked.narrow(1, part.choice, part.num_choices), kMaskedLogit));
  }
  return all.size() == 1 ? all[0] : at::cat(all, 1);
}

/// One pass through the networks of some names and those that they read.
class Pass {
 public:
  Pass(const ModuleSpec& spec, const std::vector<TorchLayer>& with_parameters, const std::vector<std::string>& names,
       const NetworkInputs& inputs, const LayerCall& call)
      : spec_(spec), obs_(inputs.obs), outputs_(spec.networks.size()) {
    if (!obs_.is_floating_point()) obs_ = obs_.to(at::kFloat);  // uint8
    std::vector<bool> needed(spec.networks.size());
    for (const std::string& name : names) needed[index_of(spec.network(name))] = true;
    for (size_t i = spec.networks.size(); i-- > 0;)
      for (const std::string& input : spec.networks[i].inputs)
        if (const Network* source = spec.find(input); source && needed[i]) needed[index_of(*source)] = true;
    auto next = with_parameters.begin();
    for (size_t i = 0; i < spec.networks.size(); ++i) {
      const Network& network = spec.networks[i];
      const bool is_policy = network.name == kPolicyNetwork;
      if (needed[i]) {
        outputs_[i] = run_network(network.layers, row_of(network, inputs.actions), next, call);
        if (is_policy) outputs_[i] = action_dist_inputs(outputs_[i].to(at::kFloat), next, call);
      } else {
        next += std::ranges::count_if(network.layers, has_parameters) + (is_policy && has_free_log_std() ? 1 : 0);
      }
    }
  }

  const at::Tensor& output(std::string_view name) const { return outputs_[index_of(spec_.network(name))]; }

  /// action_dist_inputs with every one possible where the mask allows none: the last mask of an episode may, and the
  /// value there counts at a time limit.
  const at::Tensor& possible() const { return possible_; }

 private:
  size_t index_of(const Network& network) const { return static_cast<size_t>(&network - spec_.networks.data()); }
  bool has_free_log_std() const { return log_std_size(spec_.distribution) > 0; }

  at::Tensor row_of(const Network& network, const at::Tensor& actions) const {
    std::vector<at::Tensor> rows;
    for (const std::string& input : network.inputs) {
      check(input != kActionsInput || actions.defined(), "{} reads actions, and got none", network.name);
      rows.push_back(input == kObsInput ? obs_ : input == kActionsInput ? actions : output(input));
    }
    return rows.size() == 1 ? rows[0] : at::cat(rows, 1);
  }

  at::Tensor action_dist_inputs(at::Tensor x, std::vector<TorchLayer>::const_iterator& next, const LayerCall& call) {
    const std::vector<ActionPart> parts = action_parts(spec_.distribution);
    x = has_free_log_std() ? call(*next++, x) : to_inputs(parts, spec_.log_std_clip, x, at::Tensor());
    possible_ = x;
    if (spec_.mask_offset < 0) return x;
    const at::Tensor masked = obs_.narrow(1, spec_.mask_offset, spec_.mask_size()).eq(0);
    const at::Tensor allowed = mask_inputs(parts, x, masked);
    possible_ = at::where(masked.all(1, /*keepdim=*/true), x, allowed);
    return allowed;
  }

  const ModuleSpec& spec_;
  at::Tensor obs_;
  std::vector<at::Tensor> outputs_;  ///< by the networks' places
  at::Tensor possible_;
};

LayerCall call_with(const std::vector<at::Tensor>& tensors) {
  return [&](const TorchLayer& layer, const at::Tensor& x) {
    return layer.function(x, at::ArrayRef<at::Tensor>(tensors).slice(layer.first, layer.count));
  };
}

}  // namespace

TrainingPass::TrainingPass(Rows rows) : rows_(std::move(rows)), outer_(std::exchange(training_rows, &rows_)) {}
TrainingPass::~TrainingPass() { training_rows = outer_; }
const TrainingPass::Rows* TrainingPass::current() { return training_rows; }

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
        add(1, static_cast<size_t>(n),
            [clip = spec.log_std_clip, parts = action_parts(spec.distribution)](const at::Tensor& head, Tensors t) {
              return to_inputs(parts, clip, head, t[0]);
            });
      });
  return layers;
}

std::vector<at::Tensor> run_networks(const ModuleSpec& spec, const std::vector<TorchLayer>& with_parameters,
                                     const std::vector<std::string>& names, const NetworkInputs& inputs,
                                     const LayerCall& call) {
  Pass pass(spec, with_parameters, names, inputs, call);
  std::vector<at::Tensor> outputs;
  for (const std::string& name : names) outputs.push_back(pass.output(name).to(at::kFloat));
  return outputs;
}

ModuleOutput run_layers(const ModuleSpec& spec, const std::vector<TorchLayer>& with_parameters, const at::Tensor& obs,
                        const LayerCall& call) {
  const bool has_value = spec.find(kValueNetwork) != nullptr;
  std::vector<std::string> names{std::string(kPolicyNetwork)};
  if (has_value) names.emplace_back(kValueNetwork);
  const Pass pass(spec, with_parameters, names, {obs}, call);
  ModuleOutput output{pass.output(kPolicyNetwork), {}};
  if (has_value) output.values = pass.output(kValueNetwork).squeeze(1).to(at::kFloat);
  if (spec.is_q_network()) output.values = std::get<0>(pass.possible().max(1));
  return output;
}

ModuleOutput run_layers(const ModuleSpec& spec, const std::vector<TorchLayer>& layers,
                        const std::vector<at::Tensor>& tensors, const at::Tensor& obs) {
  return run_layers(spec, layers, obs, call_with(tensors));
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

std::vector<at::Tensor> outputs_of(const ModuleSpec& spec, const std::vector<at::Tensor>& tensors,
                                   const std::vector<std::string>& names, const NetworkInputs& inputs) {
  return run_networks(spec, layers_of(spec), names, inputs, call_with(tensors));
}

}  // namespace myriad
