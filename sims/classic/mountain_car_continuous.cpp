// MountainCarContinuous-v0: the mountain car with a force in [-1, 1] and a cost of effort.
//
// Moore 1990, "Efficient Memory-based Learning for Robot Control"; Gymnasium's MountainCarContinuous-v0.
#include <algorithm>
#include <cmath>

#include "rl/environment.hpp"
#include "sims/classic/mountain_view.hpp"

namespace myriad {
namespace {

constexpr double kMinPosition = -1.2, kMaxPosition = 0.6, kGoalPosition = 0.45;
constexpr double kMaxSpeed = 0.07;   // positions a step
constexpr double kPower = 0.0015;    // speed the full force adds a step
constexpr double kGravity = 0.0025;  // the steepest slope's speed a step

class MountainCarContinuous final : public Environment {
 public:
  explicit MountainCarContinuous(double goal_velocity) : goal_velocity_(goal_velocity) {}

  void reset(RandomStream& random, Row observation) override {
    position_ = random.uniform(-0.6, -0.4);
    velocity_ = 0;
    observe(observation);
  }

  StepResult step(ConstRow action, RandomStream&, Row observation) override {
    // Gymnasium's state is float64 after reset and float32 after a step, and its arithmetic follows: so does ours.
    const bool single = position_ == static_cast<float>(position_) && velocity_ == static_cast<float>(velocity_);
    const bool terminated = single ? advance<float>(action.f32()[0]) : advance<double>(action.f32()[0]);
    observe(observation);
    const double effort = action.f32()[0];
    return {.reward = (terminated ? 100.0 : 0.0) - effort * effort * 0.1, .terminated = terminated};
  }

  std::optional<std::vector<double>> state() const override { return std::vector{position_, velocity_}; }

  void set_state(std::span<const double> state, Row observation) override {
    check_state_length("MountainCarContinuous-v0", state.size(), 2);
    position_ = state[0], velocity_ = state[1];
    observe(observation);
  }

  std::optional<Frame> render(int width, int height) override {
    return draw_mountain(width, height, position_, kGoalPosition);
  }

 private:
  template <class Real>
  bool advance(float action) {
    const float push = std::clamp(action, -1.0f, 1.0f) * static_cast<float>(kPower);
    Real position = static_cast<Real>(position_), velocity = static_cast<Real>(velocity_);
    velocity += push - static_cast<float>(kGravity * std::cos(static_cast<double>(3 * position)));
    velocity = std::clamp(velocity, static_cast<Real>(-kMaxSpeed), static_cast<Real>(kMaxSpeed));
    position = std::clamp(position + velocity, static_cast<Real>(kMinPosition), static_cast<Real>(kMaxPosition));
    if (position == static_cast<Real>(kMinPosition) && velocity < 0) velocity = 0;
    position_ = static_cast<float>(position), velocity_ = static_cast<float>(velocity);
    return position >= static_cast<Real>(kGoalPosition) && velocity >= static_cast<Real>(goal_velocity_);
  }

  void observe(Row observation) const {
    const auto out = observation.f32();
    out[0] = static_cast<float>(position_), out[1] = static_cast<float>(velocity_);
  }

  double goal_velocity_;
  double position_ = 0, velocity_ = 0;
};

const RegisterEnv mountain_car_continuous{{
    .id = "MountainCarContinuous-v0",
    .observation_space = Box{.low = {kMinPosition, -kMaxSpeed}, .high = {kMaxPosition, kMaxSpeed}, .shape = {2}},
    .action_space = Space::box(-1, 1, {1}),
    .max_episode_steps = 999,
    .reward_threshold = 90.0,
    .source = "Gymnasium 1.2.2 MountainCarContinuous-v0",
    .options = {{"goal_velocity", 0.0}},
    .state_names = {"position", "velocity"},
    .make =
        [](const EnvOptions& options) { return std::make_unique<MountainCarContinuous>(options.at("goal_velocity")); },
}};

}  // namespace
}  // namespace myriad
