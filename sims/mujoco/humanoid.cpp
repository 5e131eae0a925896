// Humanoid-v5: a two-legged robot with arms walks forward without falling.
//
// Tassa, Erez and Todorov 2012, "Synthesis and Stabilization of Complex Behaviors through Online Trajectory
// Optimization"; Gymnasium's Humanoid-v5, step for step.
#include "sims/mujoco/humanoid_env.hpp"

namespace myriad {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();

class Humanoid final : public HumanoidEnv {
 public:
  explicit Humanoid(const EnvOptions& options)
      : HumanoidEnv("humanoid.xml", options, "contact_cost"),
        forward_reward_weight_(options.at("forward_reward_weight")),
        healthy_reward_(options.at("healthy_reward")),
        terminate_when_unhealthy_(options.at("terminate_when_unhealthy") != 0),
        healthy_z_range_(options, "healthy_z_range") {}

  StepResult step(ConstRow action, RandomStream&, Row observation) override {
    const double x_before = mass_centre_x();
    simulate(action.f32());
    const double x_velocity = (mass_centre_x() - x_before) / dt();  // m/s
    observe(observation);
    const bool is_healthy = healthy_z_range_.contains(qpos()[2]);
    const double rewards = forward_reward_weight_ * x_velocity + is_healthy * healthy_reward_;
    return {.reward = rewards - (control_cost() + impact_cost()),
            .terminated = !is_healthy && terminate_when_unhealthy_};
  }

 private:
  double mass_centre_x() const {  // m
    double moment = 0, mass = 0;
    for (int body = 0; body < model().nbody; ++body) {
      moment += model().body_mass[body] * data().xipos[3 * body];
      mass += model().body_mass[body];
    }
    return moment / mass;
  }

  double forward_reward_weight_, healthy_reward_;
  bool terminate_when_unhealthy_;
  OptionRange healthy_z_range_;  // m
};

const RegisterEnv humanoid{[] {
  EnvSpec spec = humanoid_spec();
  spec.id = "Humanoid-v5";
  spec.source = "Gymnasium 1.2.2 Humanoid-v5, MuJoCo 3.17.0";
  spec.options.insert({{"forward_reward_weight", 1.25},
                       {"contact_cost_weight", 5e-7},
                       {"contact_cost_range_low", -kInf},
                       {"contact_cost_range_high", 10.0},
                       {"healthy_reward", 5.0},
                       {"terminate_when_unhealthy", 1},
                       {"healthy_z_range_low", 1.0},
                       {"healthy_z_range_high", 2.0}});
  spec.make = [](const EnvOptions& options) { return std::make_unique<Humanoid>(options); };
  return spec;
}()};

}  // namespace
}  // namespace myriad
