// APPO for programs without torch: its settings, and what it wants of the run.
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

const RegisterAlgorithmInfo appo_info{
    {.name = "APPO",
     .summary = "Asynchronous PPO: V-trace, target network, circular buffer (IMPACT, Luo et al. 2020)",
     .make_config = make_settings<AppoConfig>,
     .set_defaults = impala_defaults,
     .sampling = {"async", "lag1", "sync"},
     .columns = {kLogp},
     .module = policy_and_value}};

}  // namespace myriad
