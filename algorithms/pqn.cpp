// PQN: Gallici et al. 2024, "Simplifying Deep Temporal Difference Learning" (arXiv 2407.04811): Q-learning on fresh
// batches of many environments. LayerNorm in the network takes the place of replay buffer and target network.
//
//   L = 0.5 mean (Q(s, a) - G)^2
//   G[t] = r[t] + gamma ((1 - lambda) max_a Q(S[t+1], a) + lambda G[t+1])       inside an episode
//   G[t] = r[t] + gamma max_a Q(S[t+1], a) at a time limit and at the fragment's end, r[t] at a terminal state
//
// With V(s) = max_a Q(s, a), the module's value, G = A + V of generalised advantage estimation:
//   A[t] + V[t] = r[t] + gamma V[t+1] + gamma lambda A[t+1] = r[t] + gamma ((1 - lambda) V[t+1] + lambda G[t+1])
//
// As in the paper lambda goes on over random actions (Peng's Q(lambda); Watkins' would cut there). The paper's
// optimizer is RAdam, ours Adam: the same but for the first steps, where RAdam is slower.
#include "rl/algorithm_info.hpp"

namespace myriad {
namespace {

struct PqnConfig final : AlgorithmConfig {
  double lambda_ = 0.65;                              ///< of Q(lambda)
  Schedule epsilon{{{0.0, 1.0}, {250'000.0, 0.05}}};  ///< probability of a uniformly random action

  void settings(SettingVisitor& v) override {
    v.visit({"lambda_", "", "Q(lambda)'s: 0 = one-step targets, 1 = returns to the episode's or the fragment's end",
             0.0, 1.0},
            lambda_);
    v.visit({"epsilon", "", "probability of a uniformly random action, a schedule over env steps", 0.0, 1.0}, epsilon);
  }
  std::unique_ptr<AlgorithmConfig> clone() const override { return std::make_unique<PqnConfig>(*this); }
};

/// The defaults are those of CleanRL's pqn.py for 500,000 env steps, less the decay of lr, which wants the run's
/// length.
const RegisterAlgorithmInfo info{
    {.name = "PQN",
     .summary = "Q-learning without replay buffer and target network (Gallici et al. 2024)",
     .make_config = make_settings<PqnConfig>,
     .set_defaults =
         [](Config& config) {
           config.training.lr = 2.5e-4;
           config.training.train_batch_size = 512;
           config.training.num_epochs = 4;
           config.training.minibatch_size = 128;
           config.training.grad_clip = 10.0;
           config.rl_module.fcnet_hiddens = {120, 84};
           config.rl_module.fcnet_activation = "relu";
           config.rl_module.fcnet_use_layernorm = true;
         },
     .sampling = {"sync", "lag1"},
     .module = q_network,
     .epsilon = [](const Config& config) -> const Schedule& { return own_settings<PqnConfig>(config).epsilon; }}};

}  // namespace
}  // namespace myriad

#ifdef MYRIAD_WITH_TORCH  // the learner's part

#include <ATen/ATen.h>

#include <array>

#include "algorithms/ops/device_targets.hpp"
#include "algorithms/ops/gae.hpp"
#include "algorithms/ops/sample_loss.hpp"

namespace myriad {
namespace {

constexpr std::array<std::string_view, 2> kMetrics{"qf_loss", "qf_mean"};
constexpr std::array<std::string_view, 1> kTargetMetrics{"vf_explained_var"};

class Pqn final : public Algorithm, public SampleLosses {
 public:
  explicit Pqn(const Config& config) : config_(own_settings<PqnConfig>(config)), gamma_(config.training.gamma) {}

  std::vector<std::string> loss_columns() const override { return {"obs", "actions", "value_targets"}; }
  std::span<const std::string_view> loss_metrics() const override { return kMetrics; }

  void begin_update(double env_steps) override { epsilon_ = config_.epsilon.at(env_steps); }
  void end_update(Metrics& metrics) override { metrics["curr_epsilon"] = epsilon_; }

  TargetColumns targets(const TensorBatch& batch, const DeviceSum& sum) const override {
    const GaeOfBatch gae(batch, gamma_, config_.lambda_, sum);
    return {.columns = {{"value_targets", gae.targets}},
            .metrics = gae.explained_variance.view({1}),
            .names = kTargetMetrics};
  }

  Loss loss(Networks& networks, const Columns& minibatch) const override {
    const ModuleOutput output = networks.online(minibatch.at("obs"));
    const at::Tensor actions = minibatch.at("actions").reshape({-1, 1}).to(at::kLong);
    const at::Tensor q = output.action_dist_inputs.gather(1, actions).squeeze(1);  // [n]
    const at::Tensor qf_loss = 0.5 * (q - minibatch.at("value_targets")).square().mean();
    return {.total = qf_loss, .metrics = at::stack({qf_loss, q.mean()}).detach()};
  }

  void sample_targets(TensorBatch& batch, Metrics& metrics, const SumOverGroup& sum) const override;
  HostLoss sample_loss(const ModuleSpec& spec, const ModuleOutput& output, const Columns& minibatch) const override;

 private:
  PqnConfig config_;
  double gamma_, epsilon_ = 0.0;
};

void Pqn::sample_targets(TensorBatch& batch, Metrics& metrics, const SumOverGroup& sum) const {
  const at::Tensor targets = at::empty({batch.steps, batch.environments}, at::kFloat);
  if (batch.environments > 0)
    compute_gae(trajectories_of(batch.columns, span_of<float>(batch.values), span_of<float>(batch.final_values)),
                gamma_, config_.lambda_, room_of(at::empty_like(targets)), room_of(targets));
  metrics["vf_explained_var"] =
      value_fit(span_of<float>(targets), span_of<float>(batch.values), sum).explained_variance();
  batch.columns["value_targets"] = targets;
}

HostLoss Pqn::sample_loss(const ModuleSpec&, const ModuleOutput& output, const Columns& minibatch) const {
  const auto q = span_of<float>(output.action_dist_inputs), targets = span_of<float>(minibatch.at("value_targets"));
  const auto actions = span_of<int32_t>(minibatch.at("actions"));
  const size_t n = targets.size(), width = q.size() / n;
  const at::Tensor d_q = at::zeros({static_cast<int64_t>(n), static_cast<int64_t>(width)}, at::kFloat);
  const std::span<float> d = room_of(d_q);
  double squares = 0.0, sum = 0.0;
  for (size_t i = 0; i < n; ++i) {
    const size_t chosen = i * width + static_cast<size_t>(actions[i]);
    const float error = q[chosen] - targets[i];
    d[chosen] = error / static_cast<float>(n);
    squares += error * error;
    sum += q[chosen];
  }
  const auto mean = [n](double x) { return static_cast<float>(x / static_cast<double>(n)); };
  const std::array metrics{0.5f * mean(squares), mean(sum)};
  return given_loss(metrics[0], d_q, at::zeros({static_cast<int64_t>(n)}, at::kFloat), metrics);
}

const RegisterAlgorithm registered{"PQN", make_as<Pqn>};

}  // namespace
}  // namespace myriad

#endif
