// Pendulum-v1: swing a pendulum up and hold it there with a bounded torque.
//
// Gymnasium's Pendulum-v1 (after OpenAI Gym, Brockman et al. 2016). theta = 0 is upright.
#include <algorithm>
#include <cmath>
#include <numbers>

#include "rl/environment.hpp"
#include "sims/classic/canvas.hpp"

namespace myriad {
namespace {

constexpr double kPi = std::numbers::pi;
constexpr double kMaxSpeed = 8.0;   // rad/s
constexpr float kMaxTorque = 2.0f;  // N m
constexpr double kDt = 0.05;        // s
constexpr double kLength = 1.0;     // m; the mass is 1 kg

/// The angle in [-pi, pi), with Python's modulo (the sign of the divisor).
double angle_normalize(double angle) {
  const double remainder = std::fmod(angle + kPi, 2 * kPi);
  return (remainder < 0 ? remainder + 2 * kPi : remainder) - kPi;
}

class Pendulum final : public Environment {
 public:
  explicit Pendulum(double gravity) : gravity_(gravity) {}

  void reset(RandomStream& random, Row observation) override {
    theta_ = random.uniform(-kPi, kPi);
    theta_dot_ = random.uniform(-1.0, 1.0);
    observe(observation);
  }

  StepResult step(ConstRow action, RandomStream&, Row observation) override {
    // NumPy keeps the terms of the float32 torque in float32.
    const float torque = std::clamp(action.f32()[0], -kMaxTorque, kMaxTorque);
    const double angle = angle_normalize(theta_);
    const double cost =
        angle * angle + 0.1 * (theta_dot_ * theta_dot_) + static_cast<double>(0.001f * (torque * torque));
    const double acceleration = 3 * gravity_ / (2 * kLength) * std::sin(theta_) + static_cast<double>(3.0f * torque);
    theta_dot_ = std::clamp(theta_dot_ + acceleration * kDt, -kMaxSpeed, kMaxSpeed);
    theta_ += theta_dot_ * kDt;
    observe(observation);
    return {.reward = -cost, .terminated = false};
  }

  std::optional<std::vector<double>> state() const override { return std::vector{theta_, theta_dot_}; }

  void set_state(std::span<const double> state, Row observation) override {
    check_state_length("Pendulum-v1", state.size(), 2);
    theta_ = state[0], theta_dot_ = state[1];
    observe(observation);
  }

  std::optional<Frame> render(int width, int height) override {
    constexpr double kScale = 500 / 4.4, kHalfWidth = 0.1 * kScale;  // as Gymnasium's
    constexpr Colour kRod{204, 77, 77};
    constexpr Point kAxle{250, 250};
    Canvas canvas(width, height, 500, 500);
    canvas.box(0, kLength * kScale, -kHalfWidth, kHalfWidth, theta_ + kPi / 2, kAxle, kRod);
    canvas.circle(kAxle, kHalfWidth, kRod);
    canvas.circle(placed({kLength * kScale, 0}, theta_ + kPi / 2, kAxle), kHalfWidth, kRod);
    canvas.circle(kAxle, 0.05 * kScale, kBlack);
    return canvas.take();
  }
  double render_fps() const override { return 1 / kDt; }

 private:
  void observe(Row observation) const {
    const auto out = observation.f32();
    out[0] = static_cast<float>(std::cos(theta_)), out[1] = static_cast<float>(std::sin(theta_));
    out[2] = static_cast<float>(theta_dot_);
  }

  double gravity_;                    // m/s^2
  double theta_ = 0, theta_dot_ = 0;  // rad, rad/s
};

const RegisterEnv pendulum{{
    .id = "Pendulum-v1",
    .observation_space = Box{.low = {-1, -1, -kMaxSpeed}, .high = {1, 1, kMaxSpeed}, .shape = {3}},
    .action_space = Space::box(-kMaxTorque, kMaxTorque, {1}),
    .max_episode_steps = 200,
    .source = "Gymnasium 1.2.2 Pendulum-v1",
    .options = {{"g", 10.0}},
    .state_names = {"theta", "theta_dot"},
    .make = [](const EnvOptions& options) { return std::make_unique<Pendulum>(options.at("g")); },
}};

}  // namespace
}  // namespace myriad
