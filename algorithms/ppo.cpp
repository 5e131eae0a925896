// PPO: Schulman et al. 2017, "Proximal Policy Optimization Algorithms", with RLlib's loss: clipped surrogate, clamped
// squared value error, entropy bonus and an adaptive penalty on KL(behaviour || new).
//
//   L = mean( -min(r A, clip(r, 1 - e, 1 + e) A) + c_vf min((V - target)^2, vf_clip) - c_H H + c_KL KL )
//   r = pi(a|s) / mu(a|s),  A = GAE(gamma, lambda), standardised over the batch
#include "algorithms/ppo.hpp"

#include "rl/algorithm_info.hpp"

namespace myriad {

void PpoConfig::settings(SettingVisitor& v) {
  v.visit({"lambda_", "", "GAE's lambda: 0 = one-step TD error, 1 = discounted returns", 0.0, 1.0}, lambda_);
  v.visit({"clip_param", "", "the probability ratio is clipped to 1 +/- this", 0.0}, clip_param);
  v.visit({"use_kl_loss", "", "adds kl_coeff * KL(behaviour || new) to the loss"}, use_kl_loss);
  v.visit({"kl_coeff", "", "initial coefficient of the KL term; adapts towards kl_target", 0.0}, kl_coeff);
  v.visit({"kl_target", "", "kl_coeff x 1.5 when mean KL > 2 x this, x 0.5 when < 0.5 x this", 0.0}, kl_target);
  v.visit({"vf_loss_coeff", "", "coefficient of the value loss", 0.0}, vf_loss_coeff);
  v.visit({"vf_clip_param", "",
           "the squared value error is clamped to this, where its gradient ends; inf: never (RLlib: 10)", 0.0},
          vf_clip_param);
  v.visit({"entropy_coeff", "", "coefficient of the entropy bonus, a schedule over env steps", 0.0}, entropy_coeff);
  v.visit({"normalize_advantages", "", "standardise advantages over the batch (std floor 1e-4)"}, normalize_advantages);
  v.visit({"target_kl_stop", "", "> 0: an update ends early once an epoch's mean KL exceeds this", 0.0},
          target_kl_stop);
}

namespace {

/// RLlib's defaults of shared settings are those of the structs.
const RegisterAlgorithmInfo info{
    {.name = "PPO",
     .summary = "Proximal Policy Optimization with an adaptive KL penalty (Schulman et al. 2017)",
     .make_config = make_settings<PpoConfig>,
     .sampling = {"sync", "lag1"},
     .columns = {kLogp, kActionDistInputs},
     .module = policy_and_value}};

}  // namespace
}  // namespace myriad

#ifdef MYRIAD_WITH_TORCH  // the learner's part

#include <ATen/ATen.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "algorithms/ops/device_targets.hpp"
#include "algorithms/ops/gae.hpp"
#include "algorithms/ops/kl_coefficient.hpp"
#include "algorithms/ops/sample_loss.hpp"

namespace myriad {
namespace {

constexpr std::array<std::string_view, 5> kMetrics{"policy_loss", "vf_loss", "vf_loss_unclipped", "entropy",
                                                   "mean_kl_loss"};
constexpr std::array<std::string_view, 1> kTargetMetrics{"vf_explained_var"};

class Ppo final : public Algorithm, public SampleLosses {
 public:
  explicit Ppo(const Config& config)
      : config_(own_settings<PpoConfig>(config)),
        gamma_(config.training.gamma),
        kl_(config_.use_kl_loss, config_.kl_coeff, config_.kl_target) {
    check(config_.vf_clip_param >= 0 && config_.clip_param >= 0,
          "clip_param {} and vf_clip_param {} must not be negative", config_.clip_param, config_.vf_clip_param);
  }

  std::vector<std::string> loss_columns() const override {
    return {"obs", "actions", "logp", "action_dist_inputs", "advantages", "value_targets"};
  }

  void begin_update(double env_steps) override { entropy_coeff_ = config_.entropy_coeff.at(env_steps); }

  std::span<const std::string_view> loss_metrics() const override { return kMetrics; }

  void sample_targets(TensorBatch& batch, Metrics& metrics, const SumOverGroup& sum) const override {
    const at::Tensor advantages = at::empty({batch.steps, batch.environments}, at::kFloat);
    const at::Tensor targets = at::empty_like(advantages);
    if (batch.environments > 0)
      compute_gae(trajectories_of(batch.columns, span_of<float>(batch.values), span_of<float>(batch.final_values)),
                  gamma_, config_.lambda_, room_of(advantages), room_of(targets));
    const auto a = span_of<float>(advantages), t = span_of<float>(targets), v = span_of<float>(batch.values);
    const auto [advantage, target, residual] = moments_of<3>(
        a.size(),
        [&](size_t i) {
          return std::array{double{a[i]}, double{t[i]}, double{t[i]} - double{v[i]}};
        },
        sum);
    metrics["vf_explained_var"] = ValueFit{target, residual}.explained_variance();
    if (config_.normalize_advantages) standardise(room_of(advantages), advantage);
    batch.columns["advantages"] = advantages;
    batch.columns["value_targets"] = targets;
  }

  HostLoss sample_loss(const ModuleSpec& spec, const ModuleOutput& output, const Columns& minibatch) const override;

  std::map<std::string, double> coefficients() const override {
    return {{"entropy_coeff", entropy_coeff_}, {"kl_coeff", kl_.value()}};
  }
  TargetColumns targets(const TensorBatch& batch, const DeviceSum& sum) const override;
  Loss loss(Networks& networks, const Columns& minibatch) const override;
  bool may_stop_epochs() const override { return config_.target_kl_stop > 0; }

  bool stops_epochs(const Metrics& epoch) const override {
    return config_.target_kl_stop > 0 && epoch.at("mean_kl_loss") > config_.target_kl_stop;
  }

  void end_update(Metrics& metrics) override {
    kl_.end_update(metrics);
    metrics["curr_entropy_coeff"] = entropy_coeff_;
  }

  std::map<std::string, double> state() const override { return kl_.state(); }
  void set_state(const std::map<std::string, double>& state) override { kl_.set_state(state); }

 private:
  PpoConfig config_;
  double gamma_, entropy_coeff_ = 0.0;
  KlCoefficient kl_;
};

HostLoss Ppo::sample_loss(const ModuleSpec& spec, const ModuleOutput& output, const Columns& minibatch) const {
  SampleLoss loss(spec, output, minibatch.at("action_dist_inputs"), minibatch.at("actions"));
  const auto column = [&](const char* name) { return span_of<float>(minibatch.at(name)); };
  const auto old_logp = column("logp"), advantages = column("advantages"), targets = column("value_targets");
  const auto clip = static_cast<float>(config_.clip_param), vf_clip = static_cast<float>(config_.vf_clip_param),
             vf = static_cast<float>(config_.vf_loss_coeff), entropy = static_cast<float>(entropy_coeff_),
             kl = static_cast<float>(kl_.value()), scale = 1.0f / static_cast<float>(loss.samples());
  std::array<double, 5> sums{};  // of kMetrics
  for (size_t i = 0; i < loss.samples(); ++i) {
    const float ratio = std::exp(loss.logp(i) - old_logp[i]), a = advantages[i], error = loss.values()[i] - targets[i];
    const float clipped = std::clamp(ratio, 1.0f - clip, 1.0f + clip);
    const float squared = error * error;
    sums[0] -= std::min(ratio * a, clipped * a);
    sums[1] += std::min(squared, vf_clip);
    sums[2] += squared;
    sums[3] += loss.entropy(i);
    sums[4] += loss.kl(i);
    // d ratio / d logp = ratio; where the clipped side is the smaller one, or an error is clamped, nothing flows. The
    // comparisons are written so that NaN passes on to the gradient, where the optimizer counts it.
    const float d_logp = ratio * a > clipped * a ? 0.0f : -ratio * a * scale;
    loss.set(i, d_logp, -entropy * scale, kl * scale, squared > vf_clip ? 0.0f : 2.0f * vf * error * scale);
  }
  std::array<float, 5> mean;
  for (size_t m = 0; m < sums.size(); ++m) mean[m] = static_cast<float>(sums[m] / static_cast<double>(loss.samples()));
  return loss.finish(mean[0] + vf * mean[1] - entropy * mean[3] + kl * mean[4], mean);
}

TargetColumns Ppo::targets(const TensorBatch& batch, const DeviceSum& sum) const {
  GaeOfBatch gae(batch, gamma_, config_.lambda_, sum);
  if (config_.normalize_advantages)
    gae.advantages = (gae.advantages - gae.mean_advantage) / gae.variance.sqrt().clamp_min(1e-4);
  return {.columns = {{"advantages", gae.advantages}, {"value_targets", gae.targets}},
          .metrics = gae.explained_variance.view({1}),
          .names = kTargetMetrics};
}

Loss Ppo::loss(Networks& networks, const Columns& minibatch) const {
  const ModuleOutput output = networks.online(minibatch.at("obs"));
  const at::Tensor &inputs = output.action_dist_inputs, &advantages = minibatch.at("advantages");
  const at::Tensor ratio =
      (log_prob(networks.distribution(), inputs, minibatch.at("actions")) - minibatch.at("logp")).exp();
  const at::Tensor clipped = ratio.clamp(1.0 - config_.clip_param, 1.0 + config_.clip_param);
  const at::Tensor squared = (output.values - minibatch.at("value_targets")).square();
  const at::Tensor policy_loss = -at::minimum(ratio * advantages, clipped * advantages).mean(),
                   vf_loss = squared.clamp_max(config_.vf_clip_param).mean(),
                   mean_entropy = entropy(networks.distribution(), inputs).mean(),
                   kl = kl_divergence(networks.distribution(), minibatch.at("action_dist_inputs"), inputs).mean();
  return {.total = policy_loss + config_.vf_loss_coeff * vf_loss - minibatch.at("entropy_coeff") * mean_entropy +
                   minibatch.at("kl_coeff") * kl,
          .metrics = at::stack({policy_loss, vf_loss, squared.mean(), mean_entropy, kl}).detach(),
          .fit = {}};
}

const RegisterAlgorithm registered{"PPO", make_as<Ppo>};

}  // namespace
}  // namespace myriad

#endif
