#include "algorithms/ops/device_targets.hpp"

#include <ATen/ATen.h>

#include "rl/check.hpp"

namespace myriad {
namespace {

/// (1 - terminated) * (truncated ? V(final_obs) : V(obs[t+1])).
at::Tensor next_values(const DeviceTrajectories& x) {
  const int64_t steps = x.rewards.size(0);
  const at::Tensor at_limit = x.final_values.index_select(0, x.final_index.flatten()).view_as(x.rewards);
  return at::where(x.truncated, at_limit, x.values.narrow(0, 1, steps)).masked_fill(x.terminated, 0.0);
}

at::Tensor inside(const DeviceTrajectories& x) { return at::logical_or(x.terminated, x.truncated).logical_not(); }

}  // namespace

at::Tensor backward_scan(const at::Tensor& d, const at::Tensor& c) {
  check(d.dim() == 2 && d.sizes() == c.sizes(), "a scan over [T, N] got {} and {} numbers", d.numel(), c.numel());
  const int64_t steps = d.size(0);
  at::Tensor x = d, factor = c;  // x[t] is right for `reach` steps ahead; factor[t] carries what lies beyond
  for (int64_t reach = 1; reach < steps; reach *= 2) {
    const int64_t rest = steps - reach;
    const at::Tensor carried = factor.narrow(0, 0, rest);
    x = at::cat({at::addcmul(x.narrow(0, 0, rest), carried, x.narrow(0, reach, rest)), x.narrow(0, rest, reach)});
    factor = at::cat({carried * factor.narrow(0, reach, rest), factor.narrow(0, rest, reach)});
  }
  return x;
}

DeviceTrajectories device_trajectories(const Columns& minibatch, const at::Tensor& values) {
  const at::Tensor& rewards = minibatch.at("rewards");
  const int64_t steps = rewards.size(0), environments = rewards.size(1), rows = (steps + 1) * environments;
  check(values.size(0) > rows, "{} values for {} steps of {} environments and at least one final row", values.size(0),
        steps, environments);
  const at::Tensor all = values.detach();
  return {.rewards = rewards,
          .terminated = minibatch.at("terminateds").to(at::kBool),
          .truncated = minibatch.at("truncateds").to(at::kBool),
          .final_index = minibatch.at(kFinalIndex),
          .values = all.narrow(0, 0, rows).view({steps + 1, environments}),
          .final_values = all.narrow(0, rows, values.size(0) - rows)};
}

DeviceTargets device_gae(const DeviceTrajectories& x, double gamma, double lambda) {
  const at::Tensor values = x.values.narrow(0, 0, x.rewards.size(0));
  const at::Tensor delta = x.rewards + gamma * next_values(x) - values;
  const at::Tensor advantages = backward_scan(delta, inside(x).to(at::kFloat) * (gamma * lambda));
  return {advantages + values, advantages};
}

DeviceTargets device_vtrace(const DeviceTrajectories& x, const at::Tensor& ratios, double gamma,
                            const VtraceSettings& settings) {
  const int64_t steps = x.rewards.size(0);
  const at::Tensor values = x.values.narrow(0, 0, steps), goes_on = inside(x).to(at::kFloat);
  const at::Tensor delta = x.rewards + gamma * next_values(x) - values;
  const at::Tensor corrections =
      backward_scan(ratios.clamp_max(settings.clip_rho) * delta,
                    ratios.clamp_max(settings.clip_c) * goes_on * (gamma * settings.lambda));  // vs - V
  const at::Tensor after =
      at::cat({corrections.narrow(0, 1, steps - 1), at::zeros_like(corrections.narrow(0, 0, 1))}) * goes_on;
  return {values + corrections, ratios.clamp_max(settings.clip_pg_rho) * (delta + gamma * after)};
}

DeviceMoments device_moments(const at::Tensor& rows, const DeviceSum& sum) {
  const at::Tensor sums = at::cat({rows.sum(1), at::full({1}, static_cast<double>(rows.size(1)), rows.options())});
  if (sum) sum(sums);
  const int64_t k = rows.size(0);
  const at::Tensor count = sums[k].clamp_min(1.0), mean = sums.narrow(0, 0, k) / count;
  const at::Tensor m2 = (rows - mean.unsqueeze(1)).square().sum(1);
  if (sum) sum(m2);
  return {count, mean, m2};
}

at::Tensor device_explained_variance(const at::Tensor& targets, const at::Tensor& residuals) {
  return (1.0 - residuals / targets).clamp_min(-1.0).masked_fill(targets.le(0.0), 0.0);
}

at::Tensor device_fit(const at::Tensor& targets, const at::Tensor& values) {
  const DeviceMoments m = device_moments(at::stack({targets, targets - values}), {});
  return at::stack({m.count, m.mean[0], m.m2[0], m.mean[1], m.m2[1]});
}

GaeOfBatch::GaeOfBatch(const TensorBatch& batch, double gamma, double lambda, const DeviceSum& sum) {
  DeviceTargets gae{at::zeros({0}, batch.values.options()), at::zeros({0}, batch.values.options())};  // of nothing
  if (batch.environments > 0)
    gae = device_gae(device_trajectories(batch.columns, at::cat({batch.values.flatten(), batch.final_values})), gamma,
                     lambda);
  const at::Tensor v = batch.values.flatten().narrow(0, 0, gae.values.numel()), flat = gae.values.flatten();
  const DeviceMoments moments = device_moments(at::stack({gae.advantages.flatten(), flat, flat - v}), sum);
  advantages = gae.advantages;
  targets = gae.values;
  mean_advantage = moments.mean[0];
  variance = moments.m2[0] / moments.count;
  explained_variance = device_explained_variance(moments.m2[1], moments.m2[2]);
}

}  // namespace myriad
