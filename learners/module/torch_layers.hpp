// A ModuleSpec in torch's operators, on any device: what its layers compute, and passes through its networks.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "learners/group/partition.hpp"
#include "rl/module_spec.hpp"

namespace myriad {

/// What a forward pass gives.
struct ModuleOutput {
  at::Tensor action_dist_inputs;  // [n, inputs_size]
  at::Tensor values;              // [n]; undefined for a module without vf that is no Q-network
};

/// What networks read that is no network's output.
struct NetworkInputs {
  at::Tensor obs;           // [n, obs_size]
  at::Tensor actions = {};  // [n, actions_size], for networks that read it
};

/// While it lives, passes of this thread train: BatchNorm normalises with the statistics of their rows, and backward()
/// gives a running statistic, as its gradient, `share` of what it lacks to theirs; RandomShift moves pictures. Without
/// one, BatchNorm has its running statistics, and RandomShift does nothing.
class TrainingPass {
 public:
  struct Rows {
    double share = 1.0;   ///< of the group's minibatch
    int64_t counted = 0;  ///< the leading rows that statistics are made of; 0: all
    /// [rows, 2]  uniform in [0, 1): how far down and right RandomShift cuts a picture out of one whose border is wider
    /// by its pixels. Undefined: it does nothing.
    at::Tensor shifts = {};
  };
  explicit TrainingPass(Rows rows);
  ~TrainingPass();
  TrainingPass(const TrainingPass&) = delete;
  TrainingPass& operator=(const TrainingPass&) = delete;

  static const Rows* current();  ///< of this thread; null: none

 private:
  Rows rows_;
  const Rows* outer_;
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

/// Those of all networks, in the order of the parameters.
std::vector<TorchLayer> layers_of(const ModuleSpec& spec);

using LayerCall = std::function<at::Tensor(const TorchLayer&, const at::Tensor& x)>;

/// The outputs [n, k] of the networks of these names, `call(layer, x)` for each layer with parameters that they need,
/// once for all; of pi: action_dist_inputs. Gives float32 under autocast too. Throws Error("bad-module") for a name of
/// none.
std::vector<at::Tensor> run_networks(const ModuleSpec& spec, const std::vector<TorchLayer>& with_parameters,
                                     const std::vector<std::string>& names, const NetworkInputs& inputs,
                                     const LayerCall& call);

/// A forward pass: pi and, where there is one, vf.
ModuleOutput run_layers(const ModuleSpec& spec, const std::vector<TorchLayer>& with_parameters,
                        const at::Tensor& obs,  // [n, obs_size]
                        const LayerCall& call);

/// With all `tensors`, in the spec's order.
ModuleOutput run_layers(const ModuleSpec& spec, const std::vector<TorchLayer>& layers,
                        const std::vector<at::Tensor>& tensors, const at::Tensor& obs);
ModuleOutput torch_forward(const ModuleSpec& spec, const std::vector<at::Tensor>& tensors, const at::Tensor& obs);
std::vector<at::Tensor> outputs_of(const ModuleSpec& spec, const std::vector<at::Tensor>& tensors,
                                   const std::vector<std::string>& names, const NetworkInputs& inputs);

}  // namespace myriad
