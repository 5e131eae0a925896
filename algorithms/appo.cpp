// APPO: Luo et al. 2020, "IMPACT: Importance Weighted Asynchronous Architectures with Clipped Target Networks", in
// RLlib's form: PPO's clipped surrogate on V-trace advantages, against a target policy that is older than pi and newer
// than the behaviour policy mu, over batches that a circular buffer gives more than once.
//
//   L = mean( -min(r A, clip(r, 1 - e, 1 + e) A) + c_vf 1/2 (V - vs)^2 - c_H H + c_KL KL(target || pi) )
//   r = min(mu / target, bound) pi / mu,  (vs, A) = V-trace(target / mu) without gradient, V the current values
//
// Means over the minibatch, as RLlib has it here.
#include "algorithms/appo.hpp"

#include "rl/algorithm_info.hpp"

namespace myriad {

void AppoConfig::settings(SettingVisitor& v) {
  ImpalaConfig::settings(v);
  v.visit({"clip_param", "", "the probability ratio is clipped to 1 +/- this", 0.0}, clip_param);
  v.visit({"is_ratio_clip", "", "bound of the ratio behaviour / target policy", 0.0}, is_ratio_clip);
  v.visit({"use_kl_loss", "", "adds kl_coeff * KL(target || new) to the loss"}, use_kl_loss);
  v.visit({"kl_coeff", "", "initial coefficient of the KL term; adapts towards kl_target", 0.0}, kl_coeff);
  v.visit({"kl_target", "", "kl_coeff x 1.5 when mean KL > 2 x this, x 0.5 when < 0.5 x this", 0.0}, kl_target);
  v.visit(
      {"circular_buffer_num_batches", "batches", "N: the newest batches that are trained on, in random order", 1, 1e4},
      circular_buffer_num_batches);
  v.visit({"circular_buffer_iterations_per_batch", "passes", "K: over each batch at most", 1, 1e4},
          circular_buffer_iterations_per_batch);
  v.visit(
      {"target_network_update_freq", "N x K x train_batch_size env steps", "trained on between target updates", 0.0},
      target_network_update_freq);
  v.visit({"tau", "", "target := tau * policy + (1 - tau) * target", 0.0, 1.0}, tau);
}

namespace {

const RegisterAlgorithmInfo info{
    {.name = "APPO",
     .summary = "Asynchronous PPO: V-trace, target network, circular buffer (IMPACT, Luo et al. 2020)",
     .make_config = make_settings<AppoConfig>,
     .set_defaults = impala_defaults,
     .sampling = {"async", "lag1", "sync"},
     .columns = {kLogp},
     .module = policy_and_value}};

}  // namespace
}  // namespace myriad

#ifdef MYRIAD_WITH_TORCH  // the learner's part

#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "algorithms/ops/device_targets.hpp"
#include "algorithms/ops/kl_coefficient.hpp"
#include "algorithms/ops/sample_loss.hpp"

namespace myriad {
namespace {

constexpr std::array<std::string_view, 6> kMetrics{
    "policy_loss", "vf_loss", "entropy", "mean_kl_loss", "importance_ratio_mean", "importance_ratio_clipped"};

class Appo final : public Algorithm, public SampleLosses {
 public:
  explicit Appo(const Config& config)
      : config_(own_settings<AppoConfig>(config)),
        gamma_(config.training.gamma),
        batch_size_(static_cast<double>(config.training.train_batch_size)),
        kl_(config_.use_kl_loss, config_.kl_coeff, config_.kl_target) {}

  UpdatePlan plan() const override {
    const int64_t n = config_.circular_buffer_num_batches, k = config_.circular_buffer_iterations_per_batch;
    return SequencePlan{
        .buffer = BatchBuffer{n, k},
        .target =
            TargetNetwork{config_.target_network_update_freq * static_cast<double>(n * k) * batch_size_, config_.tau}};
  }
  std::vector<std::string> loss_columns() const override {
    return {"obs", "actions", "logp", "rewards", "terminateds", "truncateds"};
  }

  std::span<const std::string_view> loss_metrics() const override { return kMetrics; }

  void begin_update(double env_steps) override { entropy_coeff_ = config_.entropy_coeff.at(env_steps); }
  void end_update(Metrics& metrics) override {
    kl_.end_update(metrics);
    metrics["curr_entropy_coeff"] = entropy_coeff_;
  }

  HostLoss sample_loss(const ModuleSpec& spec, const ModuleOutput& output, const Columns& minibatch) const override;

  std::map<std::string, double> coefficients() const override {
    return {{"entropy_coeff", entropy_coeff_}, {"kl_coeff", kl_.value()}};
  }
  Loss loss(Networks& networks, const Columns& minibatch) const override;

  std::map<std::string, double> state() const override { return kl_.state(); }
  void set_state(const std::map<std::string, double>& state) override { kl_.set_state(state); }

 private:
  AppoConfig config_;
  double gamma_, batch_size_, entropy_coeff_ = 0.0;
  KlCoefficient kl_;
};

HostLoss Appo::sample_loss(const ModuleSpec& spec, const ModuleOutput& output, const Columns& minibatch) const {
  SampleLoss loss(spec, output, minibatch.at(kTargetInputs), minibatch.at("actions"));
  const size_t n = loss.samples();
  const auto behaviour_logp = span_of<float>(minibatch.at("logp"));
  const auto target_logp = span_of<float>(minibatch.at(kTargetLogp));
  std::vector<float> ratios(n);
  for (size_t i = 0; i < n; ++i) ratios[i] = std::exp(target_logp[i] - behaviour_logp[i]);
  const VtraceTargets targets = vtrace_targets(minibatch, loss.values(), ratios, gamma_, config_.vtrace());
  const auto clip = static_cast<float>(config_.clip_param), bound = static_cast<float>(config_.is_ratio_clip),
             vf = static_cast<float>(config_.vf_loss_coeff), entropy = static_cast<float>(entropy_coeff_),
             kl = static_cast<float>(kl_.value()), scale = 1.0f / static_cast<float>(n);
  std::array<double, 4> sums{};  // of the first metrics
  for (size_t i = 0; i < n; ++i) {
    const float is_ratio = std::min(std::exp(behaviour_logp[i] - target_logp[i]), bound), a = targets.advantages[i];
    const float ratio = is_ratio * std::exp(loss.logp(i) - behaviour_logp[i]);
    const float clipped = std::clamp(ratio, 1.0f - clip, 1.0f + clip), error = loss.values()[i] - targets.values[i];
    sums[0] -= std::min(ratio * a, clipped * a);
    sums[1] += 0.5f * error * error;
    sums[2] += loss.entropy(i);
    sums[3] += loss.kl(i);
    // Where the clipped side is the smaller one nothing flows; NaN passes on to the gradient, as in ppo.cpp.
    const float d_logp = ratio * a > clipped * a ? 0.0f : -ratio * a * scale;
    loss.set(i, d_logp, -entropy * scale, kl * scale, vf * error * scale);
  }
  std::array<float, kMetrics.size()> means{};
  for (size_t m = 0; m < sums.size(); ++m) means[m] = static_cast<float>(sums[m] / static_cast<double>(n));
  means[4] = static_cast<float>(targets.ratio_mean);
  means[5] = static_cast<float>(targets.ratio_clipped);
  HostLoss result = loss.finish(means[0] + vf * means[1] - entropy * means[2] + kl * means[3], means);
  result.fit = targets.fit;
  return result;
}

Loss Appo::loss(Networks& networks, const Columns& minibatch) const {
  const ModuleOutput output = networks.online(minibatch.at("obs"));
  const at::Tensor &behaviour_logp = minibatch.at("logp"), &target_logp = minibatch.at(kTargetLogp);  // [T, N]
  const int64_t samples = behaviour_logp.numel();
  const at::Tensor inputs = output.action_dist_inputs.narrow(0, 0, samples);
  const at::Tensor reference = minibatch.at(kTargetInputs).reshape({samples, -1});
  const at::Tensor logp =
      log_prob(networks.distribution(), inputs, minibatch.at("actions").reshape({samples, -1})).view_as(behaviour_logp);
  const at::Tensor ratios = (target_logp - behaviour_logp).exp();
  const DeviceTargets targets =
      device_vtrace(device_trajectories(minibatch, output.values), ratios, gamma_, config_.vtrace());
  const at::Tensor ratio =
      (behaviour_logp - target_logp).exp().clamp_max(config_.is_ratio_clip) * (logp - behaviour_logp).exp();
  const at::Tensor clipped = ratio.clamp(1.0 - config_.clip_param, 1.0 + config_.clip_param);
  const at::Tensor values = output.values.narrow(0, 0, samples);
  const at::Tensor policy_loss = -at::minimum(ratio * targets.advantages, clipped * targets.advantages).mean(),
                   vf_loss = 0.5 * (values - targets.values.flatten()).square().mean(),
                   mean_entropy = entropy(networks.distribution(), inputs).mean(),
                   kl = kl_divergence(networks.distribution(), reference, inputs).mean();
  return {.total = policy_loss + config_.vf_loss_coeff * vf_loss - minibatch.at("entropy_coeff") * mean_entropy +
                   minibatch.at("kl_coeff") * kl,
          .metrics = at::stack({policy_loss, vf_loss, mean_entropy, kl, ratios.mean(),
                                ratios.gt(config_.vtrace_clip_rho_threshold).to(at::kFloat).mean()})
                         .detach(),
          .fit = device_fit(targets.values.flatten(), values.detach())};
}

const RegisterAlgorithm registered{"APPO", make_as<Appo>};

}  // namespace
}  // namespace myriad

#endif
