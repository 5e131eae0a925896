// Passes of a module in either executor, and their gradients tensor by tensor.
#pragma once

#include <ATen/ATen.h>
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "learners/module/torch_layers.hpp"
#include "learners/native/native_module.hpp"
#include "rl/module_spec.hpp"

namespace myriad {

enum class Executor : uint8_t { torch, native };

struct ModulePass {
  at::Tensor inputs, values;    // [n, inputs_size], [n]
  std::vector<float> gradient;  // [P]
};

/// Forward, and backward from the derivatives by both outputs.
inline ModulePass pass_of(const ModuleSpec& spec, std::vector<float> parameters, Executor executor,
                          const at::Tensor& obs, const at::Tensor& d_inputs, const at::Tensor& d_values,
                          int threads = 1) {
  ModulePass pass{at::empty_like(d_inputs), at::empty_like(d_values), std::vector<float>(parameters.size())};
  if (executor == Executor::native) {
    NativeModule module(spec, threads);
    const ObsRows rows =
        obs.scalar_type() == at::kByte ? ObsRows(obs.const_data_ptr<uint8_t>()) : obs.const_data_ptr<float>();
    module.forward(parameters.data(), rows, static_cast<size_t>(obs.size(0)), pass.inputs.mutable_data_ptr<float>(),
                   pass.values.mutable_data_ptr<float>());
    module.backward(parameters.data(), d_inputs.const_data_ptr<float>(), d_values.const_data_ptr<float>(),
                    pass.gradient.data());
    return pass;
  }
  std::vector<at::Tensor> views;
  for (const at::Tensor& view :
       parameter_views(spec, at::from_blob(parameters.data(), {static_cast<int64_t>(parameters.size())}, at::kFloat)))
    views.push_back(view.detach().set_requires_grad(true));
  const ModuleOutput out = torch_forward(spec, views, obs);
  ((out.action_dist_inputs * d_inputs).sum() + (out.values * d_values).sum()).backward();
  pass.inputs = out.action_dist_inputs.detach();
  pass.values = out.values.detach();
  size_t at = 0;
  for (size_t i = 0; i < views.size(); at += static_cast<size_t>(views[i++].numel()))
    if (views[i].grad().defined())
      std::copy_n(views[i].grad().contiguous().const_data_ptr<float>(), views[i].numel(), &pass.gradient[at]);
  return pass;
}

/// Within 1e-5 of each other, and no tensor's is zero.
inline void check_same_gradient(const ModuleSpec& spec, const std::vector<float>& want, const std::vector<float>& got) {
  for (const Parameter& p : spec.parameters()) {
    float worst = 0, size = 0;
    for (size_t i = p.offset; i < p.offset + p.count; ++i) {
      worst = std::max(worst, std::abs(want[i] - got[i]));
      size = std::max(size, std::abs(want[i]));
    }
    CHECK_MESSAGE(worst <= 1e-5f, p.name);
    CHECK_MESSAGE(size > 0, p.name);
  }
}

}  // namespace myriad
