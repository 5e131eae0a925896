// IMPALA: Espeholt et al. 2018, "IMPALA: Scalable Distributed Deep-RL with Importance Weighted Actor-Learner
// Architectures", with RLlib's loss. V-trace corrects for the lag of the behaviour policy mu; its targets come from the
// same forward pass that the gradient goes through.
//
//   L = sum( -log pi(a|s) A + c_vf 1/2 (V - vs)^2 - c_H H ),  (vs, A) = V-trace(pi / mu), both without gradient
//
// Sums over the minibatch, as the paper and RLlib have it: grad_clip 40 is meant for sums over some 500 steps. Metrics
// are means.
#include "algorithms/impala.hpp"

#include "rl/algorithm_info.hpp"

namespace myriad {

void ImpalaConfig::settings(SettingVisitor& v) {
  v.visit({"lambda_", "", "V-trace's lambda: 0 = one-step targets, 1 = as far as the ratios allow", 0.0, 1.0}, lambda_);
  v.visit({"vtrace_clip_rho_threshold", "", "rho-bar: bound of the ratio that weighs a TD error", 0.0},
          vtrace_clip_rho_threshold);
  v.visit({"vtrace_clip_c_threshold", "", "c-bar: bound of the ratio that carries TD errors back", 0.0},
          vtrace_clip_c_threshold);
  v.visit({"vtrace_clip_pg_rho_threshold", "", "bound of the ratio that weighs an advantage", 0.0},
          vtrace_clip_pg_rho_threshold);
  v.visit({"vf_loss_coeff", "", "coefficient of half the squared value error", 0.0}, vf_loss_coeff);
  v.visit({"entropy_coeff", "", "coefficient of the entropy bonus, a schedule over env steps", 0.0}, entropy_coeff);
}

void impala_defaults(Config& config) {
  config.training.lr = 5e-4;
  config.training.train_batch_size = 500;
  config.training.num_epochs = 1;
  config.training.minibatch_size = 0;
  config.training.shuffle_batch_per_epoch = false;
  config.training.grad_clip = 40.0;
  config.env_runners.num_envs_per_env_runner = 1;
  config.env_runners.rollout_fragment_length = 50;
  config.reporting.min_time_s_per_iteration = 0.25;
}

namespace {

const RegisterAlgorithmInfo info{{.name = "IMPALA",
                                  .summary = "Importance weighted actor-learner with V-trace (Espeholt et al. 2018)",
                                  .make_config = make_settings<ImpalaConfig>,
                                  .set_defaults = impala_defaults,
                                  .sampling = {"async", "lag1", "sync"},
                                  .columns = {kLogp, kActionDistInputs},
                                  .module = policy_and_value}};

}  // namespace
}  // namespace myriad

#ifdef MYRIAD_WITH_TORCH  // the learner's part

#include <ATen/ATen.h>

#include <array>
#include <cmath>

#include "algorithms/ops/device_targets.hpp"
#include "algorithms/ops/sample_loss.hpp"

namespace myriad {
namespace {

constexpr std::array<std::string_view, 6> kMetrics{
    "policy_loss", "vf_loss", "entropy", "mean_kl_loss", "importance_ratio_mean", "importance_ratio_clipped"};

class Impala final : public Algorithm, public SampleLosses {
 public:
  explicit Impala(const Config& config) : config_(own_settings<ImpalaConfig>(config)), gamma_(config.training.gamma) {}

  UpdatePlan plan() const override { return SequencePlan{.loss_is_sum = true}; }
  std::vector<std::string> loss_columns() const override {
    return {"obs", "actions", "logp", "action_dist_inputs", "rewards", "terminateds", "truncateds"};
  }

  std::span<const std::string_view> loss_metrics() const override { return kMetrics; }

  void begin_update(double env_steps) override { entropy_coeff_ = config_.entropy_coeff.at(env_steps); }
  void end_update(Metrics& metrics) override { metrics["curr_entropy_coeff"] = entropy_coeff_; }

  HostLoss sample_loss(const ModuleSpec& spec, const ModuleOutput& output, const Columns& minibatch) const override {
    SampleLoss loss(spec, output, minibatch.at("action_dist_inputs"), minibatch.at("actions"));
    const size_t n = loss.samples();
    const auto behaviour_logp = span_of<float>(minibatch.at("logp"));
    std::vector<float> ratios(n);
    for (size_t i = 0; i < n; ++i) ratios[i] = std::exp(loss.logp(i) - behaviour_logp[i]);
    const VtraceTargets targets = vtrace_targets(minibatch, loss.values(), ratios, gamma_, config_.vtrace());
    const auto vf = static_cast<float>(config_.vf_loss_coeff), entropy = static_cast<float>(entropy_coeff_);
    std::array<double, 4> sums{};  // of the first metrics
    for (size_t i = 0; i < n; ++i) {
      const float error = loss.values()[i] - targets.values[i];
      sums[0] -= loss.logp(i) * targets.advantages[i];
      sums[1] += 0.5f * error * error;
      sums[2] += loss.entropy(i);
      sums[3] += loss.kl(i);
      loss.set(i, -targets.advantages[i], -entropy, 0.0f, vf * error);
    }
    std::array<float, kMetrics.size()> means{};
    for (size_t m = 0; m < sums.size(); ++m) means[m] = static_cast<float>(sums[m] / static_cast<double>(n));
    means[4] = static_cast<float>(targets.ratio_mean);
    means[5] = static_cast<float>(targets.ratio_clipped);
    const double total = sums[0] + config_.vf_loss_coeff * sums[1] - entropy_coeff_ * sums[2];
    HostLoss result = loss.finish(static_cast<float>(total), means);
    result.fit = targets.fit;
    return result;
  }

  std::map<std::string, double> coefficients() const override { return {{"entropy_coeff", entropy_coeff_}}; }
  Loss loss(Networks& networks, const Columns& minibatch) const override {
    const ModuleOutput output = networks.online(minibatch.at("obs"));
    const at::Tensor& behaviour_logp = minibatch.at("logp");  // [T, N]
    const int64_t samples = behaviour_logp.numel();
    const at::Tensor inputs = output.action_dist_inputs.narrow(0, 0, samples);
    const at::Tensor reference = minibatch.at("action_dist_inputs").reshape({samples, -1});
    const at::Tensor logp = log_prob(networks.distribution(), inputs, minibatch.at("actions").reshape({samples, -1}));
    const at::Tensor ratios = (logp.detach().view_as(behaviour_logp) - behaviour_logp).exp();
    const DeviceTargets targets =
        device_vtrace(device_trajectories(minibatch, output.values), ratios, gamma_, config_.vtrace());
    const at::Tensor values = output.values.narrow(0, 0, samples);
    const at::Tensor policy_loss = -(logp * targets.advantages.flatten()).mean(),
                     vf_loss = 0.5 * (values - targets.values.flatten()).square().mean(),
                     mean_entropy = entropy(networks.distribution(), inputs).mean();
    const at::Tensor total =
        policy_loss + config_.vf_loss_coeff * vf_loss - minibatch.at("entropy_coeff") * mean_entropy;
    return {.total = total * static_cast<double>(samples),
            .metrics = at::stack({policy_loss, vf_loss, mean_entropy,
                                  kl_divergence(networks.distribution(), reference, inputs).mean(), ratios.mean(),
                                  ratios.gt(config_.vtrace_clip_rho_threshold).to(at::kFloat).mean()})
                           .detach(),
            .fit = device_fit(targets.values.flatten(), values.detach())};
  }

 private:
  ImpalaConfig config_;
  double gamma_, entropy_coeff_ = 0.0;
};

const RegisterAlgorithm registered{"IMPALA", make_as<Impala>};

}  // namespace
}  // namespace myriad

#endif
