// What the driver knows of the algorithms without linking torch: names, papers, settings and their defaults.
#include "algorithms/appo.hpp"
#include "algorithms/impala.hpp"
#include "algorithms/ppo.hpp"
#include "rl/check.hpp"

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

/// RLlib's, but for min_time_s_per_iteration: its 10 s are too coarse for a run of a minute.
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

}  // namespace

void PpoConfig::settings(SettingVisitor& v) {
  v.visit({"lambda_", "", "GAE's lambda: 0 = one-step TD error, 1 = discounted returns", 0.0, 1.0}, lambda_);
  v.visit({"clip_param", "", "the probability ratio is clipped to 1 +/- this", 0.0}, clip_param);
  v.visit({"use_kl_loss", "", "adds kl_coeff * KL(behaviour || new) to the loss"}, use_kl_loss);
  v.visit({"kl_coeff", "", "initial coefficient of the KL term; adapts towards kl_target", 0.0}, kl_coeff);
  v.visit({"kl_target", "", "kl_coeff x 1.5 when mean KL > 2 x this, x 0.5 when < 0.5 x this", 0.0}, kl_target);
  v.visit({"vf_loss_coeff", "", "coefficient of the value loss", 0.0}, vf_loss_coeff);
  v.visit({"vf_clip_param", "", "the squared value error is clamped to this", 0.0}, vf_clip_param);
  v.visit({"entropy_coeff", "", "coefficient of the entropy bonus, a schedule over env steps", 0.0}, entropy_coeff);
  v.visit({"normalize_advantages", "", "standardise advantages over the batch (std floor 1e-4)"}, normalize_advantages);
  v.visit({"target_kl_stop", "", "> 0: an update ends early once an epoch's mean KL exceeds this", 0.0},
          target_kl_stop);
}

const std::vector<AlgorithmInfo>& algorithm_infos() {
  static const std::vector<AlgorithmInfo> infos{
      {.name = "APPO",
       .summary = "Asynchronous PPO: V-trace, target network, circular buffer (IMPACT, Luo et al. 2020)",
       .make_config = [] { return std::make_unique<AppoConfig>(); },
       .set_defaults = impala_defaults,
       .on_policy = false,
       .sampling = {"async", "lag1", "sync"}},
      {.name = "IMPALA",
       .summary = "Importance weighted actor-learner with V-trace (Espeholt et al. 2018)",
       .make_config = [] { return std::make_unique<ImpalaConfig>(); },
       .set_defaults = impala_defaults,
       .on_policy = false,
       .sampling = {"async", "lag1", "sync"}},
      {.name = "PPO",
       .summary = "Proximal Policy Optimization with an adaptive KL penalty (Schulman et al. 2017)",
       .make_config = [] { return std::make_unique<PpoConfig>(); },
       .set_defaults = [](Config&) {},  // RLlib's PPO defaults are those of the structs
       .on_policy = true,
       .sampling = {"sync", "lag1"}},
  };
  return infos;
}

const AlgorithmInfo& find_algorithm(const std::string& name) {
  std::vector<std::string> known;
  for (const AlgorithmInfo& info : algorithm_infos()) {
    if (info.name == name) return info;
    known.push_back(info.name);
  }
  fail(Exit::usage, "unknown-algorithm", "unknown algorithm '{}'{}", name, suggestion(name, known));
}

}  // namespace myriad
