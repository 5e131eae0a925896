// A2C for programs without torch: its settings, and what it wants of the run.
#include "algorithms/a2c.hpp"
#include "rl/algorithm_info.hpp"

namespace myriad {

void A2cConfig::settings(SettingVisitor& v) {
  v.visit({"lambda_", "", "GAE's lambda: 0 = one-step TD error, 1 = discounted returns", 0.0, 1.0}, lambda_);
  v.visit({"vf_loss_coeff", "", "coefficient of the value loss", 0.0}, vf_loss_coeff);
  v.visit({"entropy_coeff", "", "coefficient of the entropy bonus, a schedule over env steps", 0.0}, entropy_coeff);
}

const RegisterAlgorithmInfo a2c_info{{.name = "A2C",
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

}  // namespace myriad
