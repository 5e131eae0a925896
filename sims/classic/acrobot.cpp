// Acrobot-v1: swing a two-link pendulum, driven at its middle joint, above a line.
//
// Sutton 1996, "Generalization in Reinforcement Learning: Successful Examples Using Sparse Coarse Coding"; the book's
// equations (Sutton and Barto, Reinforcement Learning) under one Runge-Kutta step of 0.2 s, as in Gymnasium.
#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

#include "rl/environment.hpp"
#include "sims/classic/canvas.hpp"

namespace myriad {
namespace {

constexpr double kPi = std::numbers::pi;
constexpr double kDt = 0.2;                                        // s
constexpr double kMaxVelocity[2] = {4 * kPi, 9 * kPi};             // rad/s
constexpr double kGravity = 9.8;                                   // m/s^2
constexpr double kM1 = 1, kM2 = 1, kL1 = 1, kC1 = 0.5, kC2 = 0.5;  // kg, kg, m, m and m to the centres of mass
constexpr double kI1 = 1, kI2 = 1;                                 // kg m^2

using State = std::array<double, 4>;  // theta1, theta2 [rad], their velocities [rad/s]

State derivative(const State& s, double torque) {
  const double cos2 = std::cos(s[1]), sin2 = std::sin(s[1]);
  const double d1 = kM1 * kC1 * kC1 + kM2 * (kL1 * kL1 + kC2 * kC2 + 2 * kL1 * kC2 * cos2) + kI1 + kI2;
  const double d2 = kM2 * (kC2 * kC2 + kL1 * kC2 * cos2) + kI2;
  const double phi2 = kM2 * kC2 * kGravity * std::cos(s[0] + s[1] - kPi / 2);
  const double phi1 = -kM2 * kL1 * kC2 * (s[3] * s[3]) * sin2 - 2 * kM2 * kL1 * kC2 * s[3] * s[2] * sin2 +
                      (kM1 * kC1 + kM2 * kL1) * kGravity * std::cos(s[0] - kPi / 2) + phi2;
  const double acc2 = (torque + d2 / d1 * phi1 - kM2 * kL1 * kC2 * (s[2] * s[2]) * sin2 - phi2) /
                      (kM2 * kC2 * kC2 + kI2 - d2 * d2 / d1);
  return {s[2], s[3], -(d2 * acc2 + phi1) / d1, acc2};
}

State moved(State s, double time, const State& slope) {
  for (int i = 0; i < 4; ++i) s[i] += time * slope[i];
  return s;
}

double wrapped(double angle) {
  while (angle > kPi) angle -= 2 * kPi;
  while (angle < -kPi) angle += 2 * kPi;
  return angle;
}

class Acrobot final : public Environment {
 public:
  void reset(RandomStream& random, Row observation) override {
    for (double& value : s_) value = static_cast<float>(random.uniform(-0.1, 0.1));
    observe(observation);
  }

  StepResult step(ConstRow action, RandomStream&, Row observation) override {
    const double torque = action.i32()[0] - 1.0;  // N m
    const State k1 = derivative(s_, torque), k2 = derivative(moved(s_, kDt / 2, k1), torque);
    const State k3 = derivative(moved(s_, kDt / 2, k2), torque), k4 = derivative(moved(s_, kDt, k3), torque);
    for (int i = 0; i < 4; ++i) s_[i] += kDt / 6.0 * (k1[i] + 2 * k2[i] + 2 * k3[i] + k4[i]);
    s_[0] = wrapped(s_[0]), s_[1] = wrapped(s_[1]);
    for (int i = 0; i < 2; ++i) s_[2 + i] = std::clamp(s_[2 + i], -kMaxVelocity[i], kMaxVelocity[i]);
    observe(observation);
    const bool terminated = -std::cos(s_[0]) - std::cos(s_[1] + s_[0]) > 1.0;
    return {.reward = terminated ? 0.0 : -1.0, .terminated = terminated};
  }

  std::optional<std::vector<double>> state() const override { return std::vector(s_.begin(), s_.end()); }

  void set_state(std::span<const double> state, Row observation) override {
    check_state_length("Acrobot-v1", state.size(), 4);
    std::copy(state.begin(), state.end(), s_.begin());
    observe(observation);
  }

  std::optional<Frame> render(int width, int height) override {
    constexpr double kScale = 500 / 4.4;  // as Gymnasium's
    Canvas canvas(width, height, 500, 500);
    canvas.line({0, 250 + kScale}, {500, 250 + kScale}, 1, kBlack);  // the goal
    Point joint{250, 250};
    for (const double angle : {s_[0] - kPi / 2, s_[0] + s_[1] - kPi / 2}) {
      canvas.box(0, kL1 * kScale, -0.1 * kScale, 0.1 * kScale, angle, joint, {0, 204, 204});
      canvas.circle(joint, 0.1 * kScale, {204, 204, 0});
      joint = placed({kL1 * kScale, 0}, angle, joint);
    }
    return canvas.take();
  }
  double render_fps() const override { return 1 / kDt; }

 private:
  void observe(Row observation) const {
    const double values[] = {std::cos(s_[0]), std::sin(s_[0]), std::cos(s_[1]), std::sin(s_[1]), s_[2], s_[3]};
    std::transform(std::begin(values), std::end(values), observation.f32().begin(),
                   [](double value) { return static_cast<float>(value); });
  }

  State s_{};
};

const RegisterEnv acrobot{{
    .id = "Acrobot-v1",
    .observation_space = Box{.low = {-1, -1, -1, -1, -kMaxVelocity[0], -kMaxVelocity[1]},
                             .high = {1, 1, 1, 1, kMaxVelocity[0], kMaxVelocity[1]},
                             .shape = {6}},
    .action_space = Space::discrete(3),
    .max_episode_steps = 500,
    .reward_threshold = -100.0,
    .source = "Gymnasium 1.2.2 Acrobot-v1",
    .state_names = {"theta1", "theta2", "theta1_dot", "theta2_dot"},
    .make = [](const EnvOptions&) { return std::make_unique<Acrobot>(); },
}};

}  // namespace
}  // namespace myriad
