// HumanoidStandup-v5: the humanoid lies on its back and gets its torso up.
//
// Tassa, Erez and Todorov 2012, "Synthesis and Stabilization of Complex Behaviors through Online Trajectory
// Optimization"; Gymnasium's HumanoidStandup-v5, step for step. Gymnasium's uph_cost_weight does nothing there, so
// that it is no option here.
#include "sims/mujoco/humanoid_env.hpp"

namespace myriad {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();

class HumanoidStandup final : public HumanoidEnv {
 public:
  explicit HumanoidStandup(const EnvOptions& options) : HumanoidEnv("humanoidstandup.xml", options, "impact_cost") {}

  StepResult step(ConstRow action, RandomStream&, Row observation) override {
    simulate(action.f32());
    observe(observation);
    const double height = qpos()[2] / model().opt.timestep;  // a speed's unit: as if it stood up in one mj_step
    return {.reward = height - control_cost() - impact_cost() + 1, .terminated = false};
  }
};

const RegisterEnv humanoid_standup{[] {
  EnvSpec spec = humanoid_spec();
  spec.id = "HumanoidStandup-v5";
  spec.source = "Gymnasium 1.2.2 HumanoidStandup-v5, MuJoCo 3.17.0";
  spec.options.insert(
      {{"impact_cost_weight", 0.5e-6}, {"impact_cost_range_low", -kInf}, {"impact_cost_range_high", 10.0}});
  spec.make = [](const EnvOptions& options) { return std::make_unique<HumanoidStandup>(options); };
  return spec;
}()};

}  // namespace
}  // namespace myriad
