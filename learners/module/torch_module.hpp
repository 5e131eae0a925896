// TorchModule: a ModuleSpec as a differentiable function of torch tensors, with two executors behind one door.
//
//   parameters()  [P]  one flat tensor; torch's named tensors are views into it
//   gradients()   [P]  one flat tensor; their .grad are views into it; room behind it for a tail
//
// `torch` builds the layers from torch's operators. `native` is one autograd operation around NativeModule: for small
// modules on a CPU most of an update is operator dispatch, and this leaves one. Used by one thread.
//
// Where gradients lie in parts over a group, PartedModule does what `torch` does here.
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <span>
#include <vector>

#include "learners/group/collective.hpp"
#include "learners/group/gradient_buckets.hpp"
#include "learners/module/parted_module.hpp"
#include "learners/native/native_module.hpp"
#include "rl/module_spec.hpp"

namespace myriad {

enum class Executor : uint8_t { torch, native };

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

  /// Moves: parameters() become `values` (all of them, or this shard's part), gradients() zero. Gradients in parts want
  /// the torch executor and a group, which outlives the placement.
  void place(const Placement& placement, std::span<const float> values, Collective* group = nullptr);
  const Placement& placement() const { return placement_; }

  std::span<float> parameters();  ///< all, or this shard's part
  std::span<float> gradients();   ///< all, or this shard's part
  void zero_gradients();

  /// For a shard without rows: takes part in what the others do in a forward and a backward pass, or in values() or
  /// infer().
  void idle_pass();
  void idle_infer(const at::Tensor& parameters);
  void idle_values() { idle_infer(flat_); }

  /// As PartedModule's; nothing where nothing is in parts.
  PartedModule::Peak peak() const { return parted_ ? parted_->peak() : PartedModule::Peak(); }

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
  struct NativeFunction;

  void make_gradient(int64_t room);
  void finished(Range range);

  ModuleSpec spec_;
  std::vector<Parameter> list_;     ///< the spec's, in order
  std::vector<TorchLayer> layers_;  ///< in the order of the forward pass; none with the native executor
  Placement placement_;
  at::Tensor flat_, gradient_;
  std::vector<at::Tensor> views_;         ///< of flat_, in the spec's order; none in parts
  at::Tensor anchor_;                     ///< makes autograd call backward of what has no other input with a gradient
  std::unique_ptr<NativeModule> native_;  ///< null with the torch executor
  std::unique_ptr<DeviceGroup> parted_group_;
  std::unique_ptr<PartedModule> parted_;  ///< null unless gradients are in parts
  Collective* group_ = nullptr;
  GradientBuckets buckets_;  ///< of gradients(), where they are summed during backward
};

}  // namespace myriad
