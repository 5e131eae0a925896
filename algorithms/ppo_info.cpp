// PPO for programs without torch: its settings, and what it wants of the run.
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

/// RLlib's defaults of shared settings are those of the structs.
const RegisterAlgorithmInfo ppo_info{
    {.name = "PPO",
     .summary = "Proximal Policy Optimization with an adaptive KL penalty (Schulman et al. 2017)",
     .make_config = make_settings<PpoConfig>,
     .sampling = {"sync", "lag1"},
     .columns = {kLogp, kActionDistInputs},
     .module = policy_and_value}};

}  // namespace myriad
