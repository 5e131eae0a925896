// PartedModule: a ModuleSpec whose gradient, and perhaps parameters, lie in parts over the shards of a group, on any
// device (Rajbhandari et al. 2020, "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models").
//
// A pass goes layer by layer, each an autograd operation of its own:
//
//   forward:   [layer's parameters <- their shards]  y = layer(x)                                 they are freed
//   backward:  [the same]  y = layer(x) once more, its gradient -> summed at its shards           it is freed
//
// In brackets where parameters lie in parts, too. Every shard runs the same passes in the same order; one without rows
// runs idle ones. Throws GroupBroken as its group does. Owned by TorchTrainer; used by one thread, and
// within a backward pass by autograd's thread of the device meanwhile.
#pragma once

#include "learners/group/device_group.hpp"
#include "learners/module/torch_layers.hpp"

namespace myriad {

/// What of a module lies in parts over the shards, and which part is this shard's.
struct Placement {
  Partition partition;
  uint32_t part = 0;
  bool gradients_in_parts = false, parameters_in_parts = false;  ///< the second only with the first

  Range own() const { return partition.range(part); }
  size_t num_parameters() const { return parameters_in_parts ? own().count() : partition.total; }
  Range gradients() const { return gradients_in_parts ? own() : partition.whole(); }
  size_t num_gradients() const { return gradients().count(); }
};

/// Values of `range` of a vector that lies as a module's parameters do, of which `home` is what this shard has: a view
/// where that is everything; else collective.
at::Tensor gathered(const Placement& placement, DeviceGroup* group, const at::Tensor& home, Range range);

class PartedModule {
 public:
  /// `group`, with a shard for each part, outlives it. `parameters` [P], or this shard's part of them, and `gradient`,
  /// this shard's part, stay where they are.
  PartedModule(const ModuleSpec& spec, const Placement& placement, DeviceGroup& group, const at::Tensor& parameters,
               const at::Tensor& gradient);

  /// Records autograd; backward() of what follows adds into the gradient.
  ModuleOutput forward(const at::Tensor& obs);  // [n, obs_size]

  /// With parameters that lie as its own do, and without autograd.
  ModuleOutput infer(const at::Tensor& parameters, const at::Tensor& obs);  // [n, obs_size]

  /// For a shard without rows: takes part in what the others do in a forward and a backward pass, or in infer().
  void idle_pass();
  void idle_infer(const at::Tensor& parameters);

  /// So far: bytes of the largest layer's fetched parameters, and of its gradient.
  struct Peak {
    size_t fetched_bytes = 0, gradient_bytes = 0;
  };
  const Peak& peak() const { return peak_; }

 private:
  struct LayerFunction;

  ModuleOutput run(const at::Tensor& home, const at::Tensor& obs);
  at::Tensor idle_rows() const;
  std::vector<at::Tensor> tensors_of(const TorchLayer& layer, const at::Tensor& home);
  void give(const Parameter& tensor, at::Tensor gradient);

  ModuleSpec spec_;
  std::vector<Parameter> list_;  ///< the spec's, in order
  std::vector<TorchLayer> layers_;
  Placement placement_;
  DeviceGroup& group_;
  at::Tensor parameters_, gradient_;
  at::Tensor anchor_;  ///< makes autograd call backward of what has no other input with a gradient
  Peak peak_;
};

}  // namespace myriad
