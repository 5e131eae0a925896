#include "learners/device/device_optimizer.hpp"

#include <ATen/ATen.h>
#include <ATen/core/grad_mode.h>

#include <algorithm>
#include <cmath>

#include "rl/check.hpp"

namespace myriad {

DeviceOptimizer::DeviceOptimizer(std::vector<LrRange> lr_ranges, double epsilon, std::optional<double> grad_clip,
                                 c10::Device device)
    : lr_ranges_(std::move(lr_ranges)),
      total_(lr_ranges_.back().range.end),
      part_{0, total_},
      epsilon_(epsilon),
      grad_clip_(grad_clip) {
  const at::TensorOptions options = at::TensorOptions(at::kFloat).device(device);
  const auto num_parameters = static_cast<int64_t>(total_);
  first_ = at::zeros({num_parameters}, options);
  second_ = at::zeros({num_parameters}, options);
  adam_steps_ = at::zeros({}, options);
  not_finite_ = at::zeros({}, options);
}

void DeviceOptimizer::step(const at::Tensor& parameters, const at::Tensor& gradient, const at::Tensor& lr,
                           const at::Tensor& norm) {
  const at::NoGradGuard no_grad;
  at::ne_out(not_finite_, norm - norm, 0.0);
  // The kernel divides by the scale; 1e-6 as in Optimizer.
  std::optional<at::Tensor> scale;
  if (grad_clip_) scale = ((norm + 1e-6) / *grad_clip_).clamp_min(1.0);
  adam_steps_.add_(1);
  for (const auto& [range, multiplier] : lr_ranges_) {
    const Range here = part_.overlap(range);
    if (here.count() == 0 || multiplier == 0) continue;
    const auto of = [&](const at::Tensor& all) {
      return all.narrow(0, static_cast<int64_t>(here.begin - part_.begin), static_cast<int64_t>(here.count()));
    };
    at::_fused_adam_({of(parameters)}, {of(gradient)}, {of(first_)}, {of(second_)}, {}, {adam_steps_},
                     multiplier == 1 ? lr : lr * multiplier, kBeta1, kBeta2, /*weight_decay=*/0.0, epsilon_,
                     /*amsgrad=*/false, /*maximize=*/false, scale, not_finite_);
  }
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

void DeviceOptimizer::set_counter_state(const TensorMap& state) {
  const OptimizerCounters counters = optimizer_counters(state);
  adam_steps_.fill_(static_cast<double>(counters.steps));
  counters_ = {counters, counters.skipped_in_a_row};
}

TensorMap DeviceOptimizer::state() const {
  const at::Tensor first = first_.cpu(), second = second_.cpu();
  const auto floats = [](const at::Tensor& host) {
    return std::span(host.const_data_ptr<float>(), static_cast<size_t>(host.numel()));
  };
  return optimizer_state(counters_, floats(first), floats(second), part_, total_);
}

void DeviceOptimizer::set_state(const TensorMap& state) {
  const auto [first, second] = optimizer_moments(state, total_);
  set_counter_state(state);
  set_part({0, total_}, first, second);
}

void DeviceOptimizer::set_part(Range part, std::span<const float> first, std::span<const float> second) {
  check(first.size() == part.count() && second.size() == part.count(),
        "moments of {} and {} for a part of {} parameters", first.size(), second.size(), part.count());
  part_ = part;
  const auto take = [](at::Tensor& moments, std::span<const float> values) {
    const auto size = static_cast<int64_t>(values.size());
    if (moments.numel() != size) moments = at::empty({size}, moments.options());
    moments.copy_(at::tensor(at::ArrayRef<float>(values.data(), values.size())));
  };
  take(first_, first);
  take(second_, second);
}

}  // namespace myriad
