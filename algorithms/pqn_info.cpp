// PQN for programs without torch: its settings, and what it wants of the run.
#include "algorithms/pqn.hpp"
#include "rl/algorithm_info.hpp"

namespace myriad {

void PqnConfig::settings(SettingVisitor& v) {
  v.visit({"lambda_", "", "Q(lambda)'s: 0 = one-step targets, 1 = returns to the episode's or the fragment's end", 0.0,
           1.0},
          lambda_);
  v.visit({"epsilon", "", "probability of a uniformly random action, a schedule over env steps", 0.0, 1.0}, epsilon);
}

/// The defaults are those of CleanRL's pqn.py for 500,000 env steps, less the decay of lr, which wants the run's
/// length.
const RegisterAlgorithmInfo pqn_info{
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

}  // namespace myriad
