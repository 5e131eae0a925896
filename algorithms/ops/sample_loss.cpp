#include "algorithms/ops/sample_loss.hpp"

#include <ATen/ATen.h>

#include <algorithm>

#include "algorithms/ops/gae.hpp"

namespace myriad {

Trajectories trajectories_of(const Columns& columns, std::span<const float> values,
                             std::span<const float> final_values) {
  const at::Tensor& rewards = columns.at("rewards");
  return {.steps = static_cast<size_t>(rewards.size(0)),
          .environments = static_cast<size_t>(rewards.size(1)),
          .rewards = span_of<float>(rewards),
          .terminateds = span_of<uint8_t>(columns.at("terminateds")),
          .truncateds = span_of<uint8_t>(columns.at("truncateds")),
          .values = values,
          .final_values = final_values};
}

HostLoss given_loss(float total, at::Tensor d_inputs, at::Tensor d_values, std::span<const float> metrics) {
  const at::Tensor means = at::empty({static_cast<int64_t>(metrics.size())}, at::kFloat);
  std::ranges::copy(metrics, room_of(means).begin());
  return {.total = total, .d_inputs = std::move(d_inputs), .d_values = std::move(d_values), .metrics = means};
}

SampleLoss::SampleLoss(const ModuleSpec& spec, const ModuleOutput& output, const at::Tensor& reference,
                       const at::Tensor& actions) {
  const int64_t rows = output.values.size(0), k = inputs_size(spec.distribution), n = reference.numel() / k;
  check(n <= rows && output.values.is_contiguous(), "{} samples of a module's {} rows", n, rows);
  samples_ = static_cast<size_t>(n);
  width_ = static_cast<size_t>(k);
  distribution_ = distribution_jacobian(spec.distribution, output.action_dist_inputs.narrow(0, 0, n),
                                        reference.reshape({n, k}), actions.reshape({n, -1}));
  terms_ = span_of<float>(distribution_.terms);
  jacobian_ = span_of<float>(distribution_.derivatives);
  values_ = span_of<float>(output.values);
  d_inputs_ = at::empty({rows, k}, at::kFloat);
  d_values_ = at::empty({rows}, at::kFloat);
  d_inputs_room_ = room_of(d_inputs_);
  d_values_room_ = room_of(d_values_);
  std::ranges::fill(d_inputs_room_.subspan(samples_ * width_), 0.0f);
  std::ranges::fill(d_values_room_.subspan(samples_), 0.0f);
}

VtraceTargets vtrace_targets(const Columns& minibatch, std::span<const float> values, std::span<const float> ratios,
                             double gamma, const VtraceSettings& settings) {
  const size_t n = ratios.size(), rows = n + static_cast<size_t>(minibatch.at("rewards").size(1));
  VtraceTargets out{.values = std::vector<float>(n), .advantages = std::vector<float>(n)};
  compute_vtrace(trajectories_of(minibatch, values.first(rows), values.subspan(rows)), ratios, gamma, settings,
                 out.values, out.advantages);
  out.fit = value_fit(out.values, values.first(n));
  for (const float ratio : ratios) {
    out.ratio_mean += ratio / static_cast<double>(n);
    out.ratio_clipped += (ratio > settings.clip_rho ? 1.0 : 0.0) / static_cast<double>(n);
  }
  return out;
}

}  // namespace myriad
