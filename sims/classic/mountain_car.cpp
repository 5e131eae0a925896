// MountainCar-v0: an underpowered car swings between two hills until it reaches the flag on the right one.
//
// Moore 1990, "Efficient Memory-based Learning for Robot Control"; Gymnasium's MountainCar-v0.
#include <algorithm>
#include <cmath>

#include "rl/environment.hpp"
#include "sims/classic/mountain_view.hpp"

namespace myriad {
namespace {

constexpr double kMinPosition = -1.2, kMaxPosition = 0.6, kGoalPosition = 0.5;
constexpr double kMaxSpeed = 0.07;   // positions a step
constexpr double kForce = 0.001;     // speed an action adds a step
constexpr double kGravity = 0.0025;  // the steepest slope's speed a step

class MountainCar final : public Environment {
 public:
  explicit MountainCar(double goal_velocity) : goal_velocity_(goal_velocity) {}

  void reset(RandomStream& random, Row observation) override {
    position_ = random.uniform(-0.6, -0.4);
    velocity_ = 0;
    observe(observation);
  }

  StepResult step(ConstRow action, RandomStream&, Row observation) override {
    velocity_ += (action.i32()[0] - 1) * kForce + std::cos(3 * position_) * -kGravity;
    velocity_ = std::clamp(velocity_, -kMaxSpeed, kMaxSpeed);
    position_ = std::clamp(position_ + velocity_, kMinPosition, kMaxPosition);
    if (position_ == kMinPosition && velocity_ < 0) velocity_ = 0;
    observe(observation);
    return {.reward = -1.0, .terminated = position_ >= kGoalPosition && velocity_ >= goal_velocity_};
  }

  std::optional<std::vector<double>> state() const override { return std::vector{position_, velocity_}; }

  void set_state(std::span<const double> state, Row observation) override {
    check_state_length("MountainCar-v0", state.size(), 2);
    position_ = state[0], velocity_ = state[1];
    observe(observation);
  }

  std::optional<Frame> render(int width, int height) override {
    return draw_mountain(width, height, position_, kGoalPosition);
  }

 private:
  void observe(Row observation) const {
    const auto out = observation.f32();
    out[0] = static_cast<float>(position_), out[1] = static_cast<float>(velocity_);
  }

  double goal_velocity_;
  double position_ = 0, velocity_ = 0;
};

const RegisterEnv mountain_car{{
    .id = "MountainCar-v0",
    .observation_space = Box{.low = {kMinPosition, -kMaxSpeed}, .high = {kMaxPosition, kMaxSpeed}, .shape = {2}},
    .action_space = Space::discrete(3),
    .max_episode_steps = 200,
    .reward_threshold = -110.0,
    .source = "Gymnasium 1.2.2 MountainCar-v0",
    .options = {{"goal_velocity", 0.0}},
    .state_names = {"position", "velocity"},
    .make = [](const EnvOptions& options) { return std::make_unique<MountainCar>(options.at("goal_velocity")); },
}};

}  // namespace
}  // namespace myriad
