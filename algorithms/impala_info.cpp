// IMPALA for programs without torch: its settings, and what it wants of the run.
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

const RegisterAlgorithmInfo impala_info{
    {.name = "IMPALA",
     .summary = "Importance weighted actor-learner with V-trace (Espeholt et al. 2018)",
     .make_config = make_settings<ImpalaConfig>,
     .set_defaults = impala_defaults,
     .sampling = {"async", "lag1", "sync"},
     .columns = {kLogp, kActionDistInputs},
     .module = policy_and_value}};

}  // namespace myriad
