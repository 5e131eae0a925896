// TorchModule: a ModuleSpec as a differentiable function of torch tensors, with two executors behind one door.
//
//   parameters()  [P]  one flat tensor; torch's named tensors are views into it
//   gradients()   [P]  one flat tensor; their .grad are views into it; room behind it for a tail
//
// `torch` builds the layers from torch's operators. `native` is one autograd operation around NativeModule: for small
// modules on a CPU most of an update is operator dispatch, and this leaves one. Used by one thread.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <span>
#include <vector>

#include "learners/native_module.hpp"
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

  std::span<float> parameters();
  std::span<float> gradients();
  void zero_gradients();

  /// The gradient and right behind it `tail` more floats, for what is summed over a group together with it.
  std::span<float> gradients_with_tail(size_t tail);

 private:
  void make_gradient(int64_t room);

  ModuleSpec spec_;
  at::Tensor flat_, gradient_;
  std::vector<at::Tensor> views_;         ///< of flat_, in the spec's order
  at::Tensor anchor_;                     ///< makes autograd call the native backward
  std::unique_ptr<NativeModule> native_;  ///< null with the torch executor
};

}  // namespace myriad
