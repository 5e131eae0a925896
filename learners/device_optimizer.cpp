#include "learners/device_optimizer.hpp"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>

#include "rl/check.hpp"

namespace myriad {

DeviceOptimizer::DeviceOptimizer(int64_t num_parameters, double epsilon, std::optional<double> grad_clip,
                                 c10::Device device)
    : epsilon_(epsilon), grad_clip_(grad_clip) {
  const at::TensorOptions options = at::TensorOptions(at::kFloat).device(device);
  first_ = at::zeros({num_parameters}, options);
  second_ = at::zeros({num_parameters}, options);
  adam_steps_ = at::zeros({}, options);
  norm_ = at::zeros({}, options);
  not_finite_ = at::zeros({}, options);
}

void DeviceOptimizer::step(const at::Tensor& parameters, const at::Tensor& gradient, const at::Tensor& lr) {
  const at::NoGradGuard no_grad;
  at::linalg_vector_norm_out(norm_, gradient);
  at::ne_out(not_finite_, norm_ - norm_, 0.0);
  // The kernel divides by the scale; 1e-6 as in Optimizer.
  std::optional<at::Tensor> scale;
  if (grad_clip_) scale = ((norm_ + 1e-6) / *grad_clip_).clamp_min(1.0);
  adam_steps_.add_(1);
  at::_fused_adam_({parameters}, {gradient}, {first_}, {second_}, {}, {adam_steps_}, lr, kBeta1, kBeta2,
                   /*weight_decay=*/0.0, epsilon_, /*amsgrad=*/false, /*maximize=*/false, scale, not_finite_);
  adam_steps_.sub_(not_finite_);  // the kernel does nothing where found_inf is 1
}

bool DeviceOptimizer::count(double gradient_norm) {
  if (std::isfinite(gradient_norm)) {
    ++counters_.steps;
    counters_.skipped_in_a_row = 0;
    return true;
  }
  ++counters_.skipped;
  counters_.longest_row = std::max(counters_.longest_row, ++counters_.skipped_in_a_row);
  return false;
}

TensorMap DeviceOptimizer::state() const {
  const auto floats = [](const at::Tensor& tensor) {
    const at::Tensor host = tensor.cpu();
    const auto size = static_cast<size_t>(host.numel());
    return Tensor::of(std::span<const float>(host.const_data_ptr<float>(), size), {size});
  };
  const std::vector<int64_t> counters{counters_.steps, counters_.skipped, counters_.skipped_in_a_row};
  TensorMap state;
  state["exp_avg"] = floats(first_);
  state["exp_avg_sq"] = floats(second_);
  state["steps"] = Tensor::of(counters, {3});
  return state;
}

void DeviceOptimizer::set_state(const TensorMap& state) {
  for (const char* name : {"exp_avg", "exp_avg_sq", "steps"})
    if (!state.contains(name)) fail(Exit::usage, "foreign-checkpoint", "the optimizer's state has no '{}'", name);
  const std::vector<float> first = state.at("exp_avg").f32(), second = state.at("exp_avg_sq").f32();
  const std::vector<int64_t> counters = state.at("steps").i64();
  const auto size = static_cast<size_t>(first_.numel());
  if (first.size() != size || second.size() != size || counters.size() != 3)
    fail(Exit::usage, "foreign-checkpoint", "the optimizer's state is of {} parameters, want {}", first.size(), size);
  first_.copy_(at::tensor(first));
  second_.copy_(at::tensor(second));
  adam_steps_.fill_(static_cast<double>(counters[0]));
  counters_ = {counters[0], counters[1], counters[2], counters[2]};
}

}  // namespace myriad
