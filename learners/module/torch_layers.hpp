// A ModuleSpec in torch's operators, on any device: what its layers compute, and the pass through all of them.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <span>
#include <vector>

#include "learners/group/partition.hpp"
#include "rl/module_spec.hpp"

namespace myriad {

/// What a forward pass gives.
struct ModuleOutput {
  at::Tensor action_dist_inputs;  // [n, inputs_size]
  at::Tensor values;              // [n]
};

/// Named tensors, in order, as views of a flat one that begins with the first of them.
std::vector<at::Tensor> parameter_views(std::span<const Parameter> tensors, const at::Tensor& flat);
/// All of the spec's, of a flat one [P].
std::vector<at::Tensor> parameter_views(const ModuleSpec& spec, const at::Tensor& flat);

/// A layer with parameters, of any kind: y = function(x, its tensors).
struct TorchLayer {
  size_t first = 0, count = 0;  ///< tensors, in the spec's order
  Range range;                  ///< of the parameters
  std::function<at::Tensor(const at::Tensor& x, at::ArrayRef<at::Tensor> tensors)> function;
};

/// In the order of a forward pass, which is that of the parameters.
std::vector<TorchLayer> layers_of(const ModuleSpec& spec);

/// A forward pass, `call(layer, x)` for each layer with parameters. Gives float32 under autocast too.
ModuleOutput run_layers(const ModuleSpec& spec, const std::vector<TorchLayer>& with_parameters,
                        const at::Tensor& obs,  // [n, obs_size]
                        const std::function<at::Tensor(const TorchLayer&, const at::Tensor& x)>& call);

/// With all `tensors`, in the spec's order.
ModuleOutput run_layers(const ModuleSpec& spec, const std::vector<TorchLayer>& layers,
                        const std::vector<at::Tensor>& tensors, const at::Tensor& obs);
ModuleOutput torch_forward(const ModuleSpec& spec, const std::vector<at::Tensor>& tensors, const at::Tensor& obs);

}  // namespace myriad
