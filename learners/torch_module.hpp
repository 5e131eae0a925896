// TorchModule: a ModuleSpec as a differentiable function of torch tensors, with two executors behind one door.
//
//   parameters()  [P]  one flat tensor; torch's named tensors are views into it
//   gradients()   [P]  one flat tensor; their .grad are views into it; room behind it for a tail
//
// `torch` builds the layers from torch's operators. `native` is one autograd operation around NativeModule: for small
// modules on a CPU most of an update is operator dispatch, and this leaves one. Used by one thread.
//
// Placed in parts (Rajbhandari et al. 2020, "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models"), a
// pass goes layer by layer, each an autograd operation of its own:
//
//   forward:   [layer's parameters <- their shards]  y = layer(x)                                 they are freed
//   backward:  [the same]  y = layer(x) once more, its gradient -> summed at its shards           it is freed
//
// In brackets where parameters lie in parts, too. Every shard runs the same passes in the same order; one without rows
// runs idle ones.
#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "learners/collective.hpp"
#include "learners/gradient_buckets.hpp"
#include "learners/native_module.hpp"
#include "learners/partition.hpp"
#include "rl/module_spec.hpp"

namespace myriad {

enum class Executor : uint8_t { torch, native };

/// What a forward pass gives.
struct ModuleOutput {
  at::Tensor action_dist_inputs;  // [n, inputs_size]
  at::Tensor values;              // [n]
};

/// The spec's named tensors as views of a flat one [P], in order.
std::vector<at::Tensor> parameter_views(const ModuleSpec& spec, const at::Tensor& flat);

/// The spec in torch's operators, on whatever device `parameters` (in the spec's order) and `obs` are. Gives float32
/// under autocast too.
ModuleOutput torch_forward(const ModuleSpec& spec, const std::vector<at::Tensor>& parameters,
                           const at::Tensor& obs);  // [n, obs_size]

/// A layer with parameters, of any kind: y = function(x, its tensors).
struct TorchLayer {
  size_t first = 0, count = 0;  ///< tensors, in the spec's order
  Range range;                  ///< of the parameters
  std::function<at::Tensor(const at::Tensor& x, at::ArrayRef<at::Tensor> tensors)> function;
};

/// Where the gradient of a module lies, and its parameters.
struct Placement {
  Collective* group = nullptr;  ///< outlives the placement
  Partition partition;
  uint32_t part = 0;  ///< this shard's
  bool gradients_in_parts = false,
       parameters_in_parts = false;  ///< the second only with the first; torch executor only

  Range own() const { return partition.range(part); }
};

class TorchModule {
 public:
  TorchModule(const ModuleSpec& spec, std::span<const float> initial, Executor executor, int threads);

  const ModuleSpec& spec() const { return spec_; }
  Executor executor() const { return native_ ? Executor::native : Executor::torch; }

  /// Records autograd; backward() of what follows adds into gradients(). One backward for each forward.
  ModuleOutput forward(const at::Tensor& obs);  // [n, obs_size]
  at::Tensor values(const at::Tensor& obs);     // [n, obs_size] -> [n], without autograd

  /// With other parameters [P] and without autograd. Not between a forward() and its backward().
  ModuleOutput infer(const at::Tensor& parameters, const at::Tensor& obs);  // [n, obs_size]

  /// Moves: parameters() become `values` (all of them, or this shard's part), gradients() zero.
  void place(const Placement& placement, std::span<const float> values);
  const Placement& placement() const { return placement_; }

  std::span<float> parameters();  ///< all, or this shard's part
  std::span<float> gradients();   ///< all, or this shard's part
  void zero_gradients();

  /// For a shard without rows: takes part in what the others do in a forward and a backward pass, or in values() or
  /// infer().
  void idle_pass();
  void idle_infer(const at::Tensor& parameters);
  void idle_values() { idle_infer(flat_); }

  /// All values of `range` of a vector that lies as the parameters do. Collective where that is in parts.
  at::Tensor fetch(const at::Tensor& home, Range range) const;
  const at::Tensor& flat() const { return flat_; }

  /// Since the last call: bytes of the largest layer's fetched parameters, and of its gradient.
  struct Peak {
    size_t fetched_bytes = 0, gradient_bytes = 0;
  };
  Peak take_peak() { return std::exchange(peak_, {}); }

  /// The gradient and right behind it `tail` more floats, for what is summed over a group together with it.
  std::span<float> gradients_with_tail(size_t tail);

  /// Whose shards sum their gradients; null: alone. After place(), which forgets it. Outlives its use here.
  void set_group(Collective* group);
  /// Where the module is large and its group has a use for it: what the next backward() finishes is summed over the
  /// group meanwhile, stretch by stretch. Every shard says so, also one without rows.
  void sum_during_backward();
  /// Waits for those sums, of all of the gradient. False where there are none.
  bool finish_sums();

 private:
  struct LayerFunction;
  struct NativeFunction;

  ModuleOutput run_by_layer(const at::Tensor& home, const at::Tensor& obs);
  at::Tensor idle_rows() const;
  std::vector<at::Tensor> tensors_of(const TorchLayer& layer, const at::Tensor& home);
  void give(const Parameter& tensor, at::Tensor gradient);
  void make_gradient(int64_t room);
  void finished(Range range);

  ModuleSpec spec_;
  std::vector<Parameter> list_;     ///< the spec's, in order
  std::vector<TorchLayer> layers_;  ///< in the order of the forward pass; none with the native executor
  Placement placement_;
  at::Tensor flat_, gradient_;
  std::vector<at::Tensor> views_;         ///< of flat_, in the spec's order; none by layer
  at::Tensor anchor_;                     ///< makes autograd call backward of what has no other input with a gradient
  std::unique_ptr<NativeModule> native_;  ///< null with the torch executor
  mutable Peak peak_;
  Collective* group_ = nullptr;
  GradientBuckets buckets_;  ///< of gradients(), where they are summed during backward
};

}  // namespace myriad
