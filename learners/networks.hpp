// Networks: what a loss asks of the module: forward passes with the parameters that are trained, with the same but
// without their gradient, or with the target network's. Made by TorchTrainer for each loss; one thread.
//
//   q      = networks.online({"qf"}, {obs, actions})[0]              a gradient to parameters and inputs
//   q_next = networks.target({"qf"}, {next_obs, next_actions})[0]    no gradient to parameters
//   q_pi   = networks.frozen({"qf"}, {obs, pi_actions})[0]           a gradient to pi_actions alone: an actor's loss
//
// online() is a TrainingPass: BatchNorm and RandomShift train in it, and do not in the others.
#pragma once

#include <string>
#include <vector>

#include "learners/module/torch_layers.hpp"

namespace myriad {

class Networks {
 public:
  explicit Networks(const ModuleSpec& spec) : spec_(spec) {}  ///< which outlives it
  virtual ~Networks() = default;

  const ModuleSpec& spec() const { return spec_; }
  const ActionDistribution& distribution() const { return spec_.distribution; }

  // Each as often as a loss likes, over [n, obs_size]; or, by names, the outputs [n, k] of some of the module's
  // networks. target() throws Error("impossible") where the algorithm's plan() has no target network. Where the module
  // lies in parts over the learners (learners.shard gradients or parameters), so does all but one online(obs).

  ModuleOutput online(const at::Tensor& obs) { return forward(Parameters::online, obs); }
  ModuleOutput frozen(const at::Tensor& obs) { return forward(Parameters::frozen, obs); }
  ModuleOutput target(const at::Tensor& obs) { return forward(Parameters::target, obs); }

  using Names = std::vector<std::string>;
  std::vector<at::Tensor> online(const Names& names, const NetworkInputs& inputs) {
    return outputs(Parameters::online, names, inputs);
  }
  std::vector<at::Tensor> frozen(const Names& names, const NetworkInputs& inputs) {
    return outputs(Parameters::frozen, names, inputs);
  }
  std::vector<at::Tensor> target(const Names& names, const NetworkInputs& inputs) {
    return outputs(Parameters::target, names, inputs);
  }

 protected:
  enum class Parameters : uint8_t { online, frozen, target };
  virtual ModuleOutput forward(Parameters with, const at::Tensor& obs) = 0;
  virtual std::vector<at::Tensor> outputs(Parameters with, const Names& names, const NetworkInputs& inputs) = 0;

 private:
  const ModuleSpec& spec_;
};

}  // namespace myriad
