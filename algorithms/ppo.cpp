// PPO: Schulman et al. 2017, "Proximal Policy Optimization Algorithms", with RLlib's loss: clipped surrogate, clamped
// squared value error, entropy bonus and an adaptive penalty on KL(behaviour || new).
//
//   L = mean( -min(r A, clip(r, 1 - e, 1 + e) A) + c_vf min((V - target)^2, vf_clip) - c_H H + c_KL KL )
//   r = pi(a|s) / mu(a|s),  A = GAE(gamma, lambda), standardised over the batch
#include "algorithms/ppo.hpp"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "algorithms/ops/gae.hpp"
#include "learners/action_distribution.hpp"
#include "learners/algorithm.hpp"
#include "rl/check.hpp"

namespace myriad {
namespace {

template <class T>
std::span<const T> span_of(const at::Tensor& tensor) {
  return {tensor.const_data_ptr<T>(), static_cast<size_t>(tensor.numel())};
}
std::span<float> room_of(const at::Tensor& tensor) {
  return {tensor.mutable_data_ptr<float>(), static_cast<size_t>(tensor.numel())};
}

class Ppo final : public Algorithm {
 public:
  explicit Ppo(const Config& config) : model_(config.rl_module), gamma_(config.training.gamma) {
    if (const auto* own = dynamic_cast<const PpoConfig*>(config.algorithm_config.get())) config_ = *own;
    check(config_.vf_clip_param >= 0 && config_.clip_param >= 0,
          "clip_param {} and vf_clip_param {} must not be negative", config_.clip_param, config_.vf_clip_param);
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
    metrics["vf_explained_var"] = explained_variance(
        span_of<float>(targets), span_of<float>(batch.values).first(static_cast<size_t>(targets.numel())));
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

constexpr std::array<std::string_view, 5> kMetrics{"policy_loss", "vf_loss", "vf_loss_unclipped", "entropy",
                                                   "mean_kl_loss"};

/// The loss and its derivatives in one pass over the samples, as one autograd operation: at a minibatch of 64 the same
/// in torch's operators costs several times the network itself. tests/algorithms/ppo_test.cpp holds it against that
/// form.
struct PpoLoss : torch::autograd::Function<PpoLoss> {
  using Context = torch::autograd::AutogradContext;
  using List = torch::autograd::variable_list;
  struct Coefficients {
    float clip, vf, vf_clip, entropy, kl;
  };

  static List forward(Context* context, const at::Tensor& inputs, const at::Tensor& values,
                      const ActionDistribution* distribution, const Columns* minibatch, const Coefficients* c) {
    const int64_t n = values.size(0), k = inputs.size(1);
    const auto column = [&](const char* name) { return span_of<float>(minibatch->at(name)); };
    const auto old_logp = column("logp"), advantages = column("advantages"), targets = column("value_targets"),
               v = span_of<float>(values);
    const DistributionJacobian j =
        distribution_jacobian(*distribution, inputs, minibatch->at("action_dist_inputs"), minibatch->at("actions"));
    const auto terms = span_of<float>(j.terms),
               d_terms = span_of<float>(j.derivatives);  // [3, n] logp, H, KL; [3, n, k]
    const at::Tensor d_inputs = at::empty_like(inputs), d_values = at::empty_like(values);
    const auto d_in = room_of(d_inputs), d_v = room_of(d_values);
    const float scale = 1.0f / static_cast<float>(n);
    std::array<double, 5> sums{};  // of kMetrics
    for (size_t i = 0, count = static_cast<size_t>(n), width = static_cast<size_t>(k); i < count; ++i) {
      const float ratio = std::exp(terms[i] - old_logp[i]), a = advantages[i], error = v[i] - targets[i];
      const float clipped = std::clamp(ratio, 1.0f - c->clip, 1.0f + c->clip);
      const float squared = error * error;
      sums[0] -= std::min(ratio * a, clipped * a);
      sums[1] += std::min(squared, c->vf_clip);
      sums[2] += squared;
      sums[3] += terms[count + i];
      sums[4] += terms[2 * count + i];
      // d ratio / d logp = ratio; where the clipped side is the smaller one, or an error is clamped, nothing flows. The
      // comparisons are written so that NaN passes on to the gradient, where the optimizer counts it.
      const float d_logp = ratio * a > clipped * a ? 0.0f : -ratio * a * scale;
      const float d_entropy = -c->entropy * scale, d_kl = c->kl * scale;
      for (size_t x = i * width; x < (i + 1) * width; ++x)
        d_in[x] = d_logp * d_terms[x] + d_entropy * d_terms[count * width + x] + d_kl * d_terms[2 * count * width + x];
      d_v[i] = squared > c->vf_clip ? 0.0f : 2.0f * c->vf * error * scale;
    }
    const at::Tensor total = at::empty({}, values.options()), metrics = at::empty({5}, values.options());
    for (size_t m = 0; m < sums.size(); ++m) room_of(metrics)[m] = static_cast<float>(sums[m] / static_cast<double>(n));
    const auto mean = room_of(metrics);
    room_of(total)[0] = mean[0] + c->vf * mean[1] - c->entropy * mean[3] + c->kl * mean[4];
    context->saved_data["d_inputs"] = d_inputs;
    context->saved_data["d_values"] = d_values;
    context->mark_non_differentiable({metrics});
    return {total, metrics};
  }

  static List backward(Context* context, List d) {
    return {d[0] * context->saved_data["d_inputs"].toTensor(),
            d[0] * context->saved_data["d_values"].toTensor(),
            {},
            {},
            {}};
  }
};

Loss Ppo::loss(const ModuleSpec& spec, const ModuleOutput& output, const Columns& minibatch) const {
  const PpoLoss::Coefficients coefficients{.clip = static_cast<float>(config_.clip_param),
                                           .vf = static_cast<float>(config_.vf_loss_coeff),
                                           .vf_clip = static_cast<float>(config_.vf_clip_param),
                                           .entropy = static_cast<float>(entropy_coeff_),
                                           .kl = config_.use_kl_loss ? static_cast<float>(kl_coeff_) : 0.0f};
  const auto outputs = PpoLoss::apply(output.action_dist_inputs, output.values.contiguous(), &spec.distribution,
                                      &minibatch, &coefficients);
  return {outputs[0], outputs[1], kMetrics};
}

const RegisterAlgorithm registered{
    "PPO", [](const Config& config) -> std::unique_ptr<Algorithm> { return std::make_unique<Ppo>(config); }};

}  // namespace
}  // namespace myriad
