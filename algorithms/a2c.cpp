// A2C: Mnih et al. 2016, "Asynchronous Methods for Deep Reinforcement Learning", in its synchronous form.
//
//   L = mean( -log pi(a|s) A + c_vf (V - target)^2 - c_H H ),  A = GAE(gamma, lambda)
#include "rl/algorithm_info.hpp"

namespace myriad {
namespace {

struct A2cConfig final : AlgorithmConfig {
  double lambda_ = 1.0;  ///< GAE's lambda
  double vf_loss_coeff = 0.5;
  Schedule entropy_coeff = 0.01;

  void settings(SettingVisitor& v) override {
    v.visit({"lambda_", "", "GAE's lambda: 0 = one-step TD error, 1 = discounted returns", 0.0, 1.0}, lambda_);
    v.visit({"vf_loss_coeff", "", "coefficient of the value loss", 0.0}, vf_loss_coeff);
    v.visit({"entropy_coeff", "", "coefficient of the entropy bonus, a schedule over env steps", 0.0}, entropy_coeff);
  }
  std::unique_ptr<AlgorithmConfig> clone() const override { return std::make_unique<A2cConfig>(*this); }
};

const RegisterAlgorithmInfo info{{.name = "A2C",
                                  .summary = "Advantage actor-critic, one pass over each batch (Mnih et al. 2016)",
                                  .make_config = make_settings<A2cConfig>,
                                  .set_defaults =
                                      [](Config& config) {
                                        config.training.num_epochs = 1;
                                        config.training.minibatch_size = 0;  // the whole batch
                                        config.training.grad_clip = 0.5;
                                      },
                                  .sampling = {"sync", "lag1"},
                                  .module = policy_and_value}};

}  // namespace
}  // namespace myriad

#ifdef MYRIAD_WITH_TORCH  // the learner's part

#include <ATen/ATen.h>

#include <array>

#include "algorithms/ops/device_targets.hpp"
#include "learners/module/action_distribution.hpp"

namespace myriad {
namespace {

constexpr std::array<std::string_view, 3> kMetrics{"policy_loss", "vf_loss", "entropy"};
constexpr std::array<std::string_view, 1> kTargetMetrics{"vf_explained_var"};

class A2c final : public Algorithm {
 public:
  explicit A2c(const Config& config) : config_(own_settings<A2cConfig>(config)), gamma_(config.training.gamma) {}

  std::vector<std::string> loss_columns() const override { return {"obs", "actions", "advantages", "value_targets"}; }
  std::span<const std::string_view> loss_metrics() const override { return kMetrics; }
  std::map<std::string, double> coefficients() const override { return {{"entropy_coeff", entropy_coeff_}}; }

  void begin_update(double env_steps) override { entropy_coeff_ = config_.entropy_coeff.at(env_steps); }
  void end_update(Metrics& metrics) override { metrics["curr_entropy_coeff"] = entropy_coeff_; }

  TargetColumns targets(const TensorBatch& batch, const DeviceSum& sum) const override {
    const GaeOfBatch gae(batch, gamma_, config_.lambda_, sum);
    return {.columns = {{"advantages", gae.advantages}, {"value_targets", gae.targets}},
            .metrics = gae.explained_variance.view({1}),
            .names = kTargetMetrics};
  }

  Loss loss(Networks& networks, const Columns& minibatch) const override {
    const ModuleOutput output = networks.online(minibatch.at("obs"));
    const at::Tensor logp =
        log_prob(networks.distribution(), output.action_dist_inputs, minibatch.at("actions"));  // [n]
    const at::Tensor policy_loss = -(logp * minibatch.at("advantages")).mean(),
                     vf_loss = (output.values - minibatch.at("value_targets")).square().mean(),
                     mean_entropy = entropy(networks.distribution(), output.action_dist_inputs).mean();
    return {.total = policy_loss + config_.vf_loss_coeff * vf_loss - minibatch.at("entropy_coeff") * mean_entropy,
            .metrics = at::stack({policy_loss, vf_loss, mean_entropy}).detach()};
  }

 private:
  A2cConfig config_;
  double gamma_, entropy_coeff_ = 0.0;
};

const RegisterAlgorithm registered{"A2C", make_as<A2c>};

}  // namespace
}  // namespace myriad

#endif
