// PPO: Schulman et al. 2017, "Proximal Policy Optimization Algorithms", with RLlib's loss: clipped surrogate, clamped
// squared value error, entropy bonus and an adaptive penalty on KL(behaviour || new).
//
//   L = mean( -min(r A, clip(r, 1 - e, 1 + e) A) + c_vf min((V - target)^2, vf_clip) - c_H H + c_KL KL )
//   r = pi(a|s) / mu(a|s),  A = GAE(gamma, lambda), standardised over the batch
#include "algorithms/ppo.hpp"

#include <ATen/ATen.h>

#include <cmath>

#include "algorithms/ops/gae.hpp"
#include "learners/action_distribution.hpp"
#include "learners/algorithm.hpp"
#include "rl/check.hpp"

namespace myriad {
namespace {

template <class T> std::span<const T> span_of(const at::Tensor& tensor) {
  return {tensor.const_data_ptr<T>(), static_cast<size_t>(tensor.numel())};
}
std::span<float> room_of(const at::Tensor& tensor) { return {tensor.mutable_data_ptr<float>(), static_cast<size_t>(tensor.numel())}; }

class Ppo final : public Algorithm {
 public:
  explicit Ppo(const Config& config) : model_(config.rl_module), gamma_(config.training.gamma) {
    if (const auto* own = dynamic_cast<const PpoConfig*>(config.algorithm_config.get())) config_ = *own;
    check(config_.vf_clip_param >= 0 && config_.clip_param >= 0, "clip_param {} and vf_clip_param {} must not be negative",
          config_.clip_param, config_.vf_clip_param);
    kl_coeff_ = config_.kl_coeff;
  }

  ModuleSpec module_spec(const Space& observation_space, const Space& action_space) const override {
    return make_mlp_spec(observation_space, action_space, model_);
  }

  std::vector<std::string> fragment_columns() const override { return {"logp", "action_dist_inputs"}; }
  std::vector<std::string> loss_columns() const override {
    return {"obs", "actions", "logp", "action_dist_inputs", "advantages", "value_targets"};
  }

  void begin_update(double env_steps) override { entropy_coeff_ = config_.entropy_coeff.at(env_steps); }

  void add_targets(TensorBatch& batch, Metrics& metrics) const override {
    const at::Tensor advantages = at::empty({batch.steps, batch.environments}, at::kFloat);
    const at::Tensor targets = at::empty_like(advantages);
    compute_gae({.steps = static_cast<size_t>(batch.steps),
                 .environments = static_cast<size_t>(batch.environments),
                 .rewards = span_of<float>(batch.columns.at("rewards")),
                 .terminateds = span_of<uint8_t>(batch.columns.at("terminateds")),
                 .truncateds = span_of<uint8_t>(batch.columns.at("truncateds")),
                 .values = span_of<float>(batch.values),
                 .final_values = span_of<float>(batch.final_values)},
                gamma_, config_.lambda_, room_of(advantages), room_of(targets));
    metrics["vf_explained_var"] =
        explained_variance(span_of<float>(targets), span_of<float>(batch.values).first(static_cast<size_t>(targets.numel())));
    if (config_.normalize_advantages) standardise(room_of(advantages));
    batch.columns["advantages"] = advantages;
    batch.columns["value_targets"] = targets;
  }

  Loss loss(const ModuleSpec& spec, const ModuleOutput& output, const Columns& minibatch) const override;

  bool stops_epochs(const Metrics& epoch) const override {
    return config_.target_kl_stop > 0 && epoch.at("mean_kl_loss") > config_.target_kl_stop;
  }

  void end_update(Metrics& metrics) override {
    const auto kl = metrics.find("mean_kl_loss");
    if (config_.use_kl_loss && kl != metrics.end() && std::isfinite(kl->second)) {
      if (kl->second > 2.0 * config_.kl_target) kl_coeff_ *= 1.5;
      if (kl->second < 0.5 * config_.kl_target) kl_coeff_ *= 0.5;
    }
    metrics["curr_kl_coeff"] = config_.use_kl_loss ? kl_coeff_ : 0.0;
    metrics["curr_entropy_coeff"] = entropy_coeff_;
  }

  std::map<std::string, double> state() const override { return {{"kl_coeff", kl_coeff_}}; }
  void set_state(const std::map<std::string, double>& state) override {
    const auto found = state.find("kl_coeff");
    if (found == state.end()) fail(Exit::usage, "foreign-checkpoint", "the algorithm's state has no kl_coeff");
    kl_coeff_ = found->second;
  }

 private:
  PpoConfig config_;
  ModelConfig model_;
  double gamma_, kl_coeff_ = 0.0, entropy_coeff_ = 0.0;
};

Loss Ppo::loss(const ModuleSpec& spec, const ModuleOutput& output, const Columns& minibatch) const {
  const at::Tensor& advantages = minibatch.at("advantages");
  const DistributionTerms terms =
      distribution_terms(spec.distribution, output.action_dist_inputs, minibatch.at("action_dist_inputs"), minibatch.at("actions"));
  const at::Tensor ratio = (terms.logp - minibatch.at("logp")).exp();
  const at::Tensor surrogate =
      at::minimum(ratio * advantages, ratio.clamp(1.0 - config_.clip_param, 1.0 + config_.clip_param) * advantages).mean();
  const at::Tensor squared_error = (output.values - minibatch.at("value_targets")).square();
  const at::Tensor vf_loss = squared_error.clamp_max(config_.vf_clip_param).mean();
  const at::Tensor entropy = terms.entropy.mean(), kl = terms.kl.mean();
  at::Tensor total = config_.vf_loss_coeff * vf_loss - surrogate;
  if (entropy_coeff_ != 0.0) total = total - entropy_coeff_ * entropy;
  if (config_.use_kl_loss) total = total + kl_coeff_ * kl;
  return {total, {{"policy_loss", -surrogate.detach()}, {"vf_loss", vf_loss.detach()}, {"vf_loss_unclipped", squared_error.detach().mean()},
                  {"entropy", entropy.detach()}, {"mean_kl_loss", kl.detach()}}};
}

const RegisterAlgorithm registered{"PPO", [](const Config& config) -> std::unique_ptr<Algorithm> { return std::make_unique<Ppo>(config); }};

}  // namespace
}  // namespace myriad
