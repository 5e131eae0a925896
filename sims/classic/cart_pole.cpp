// CartPole-v1: keep a pole upright on a cart by pushing the cart left or right.
//
// Barto, Sutton and Anderson 1983, "Neuronlike Adaptive Elements That Can Solve Difficult Learning Control Problems";
// the equations of Florian 2005, "Correct equations for the dynamics of the cart-pole system", as Gymnasium has them.
#include <cmath>
#include <numbers>

#include "rl/environment.hpp"
#include "sims/classic/canvas.hpp"

namespace myriad {
namespace {

constexpr double kGravity = 9.8, kForce = 10.0;                                 // m/s^2, N
constexpr double kPoleMass = 0.1, kTotalMass = 0.1 + 1.0;                       // kg
constexpr double kHalfLength = 0.5, kPoleMassLength = kPoleMass * kHalfLength;  // m (half the pole), kg m
constexpr double kTau = 0.02;                                                   // s between steps (explicit Euler)
constexpr double kXLimit = 2.4, kThetaLimit = 12 * 2 * std::numbers::pi / 360;  // m, rad

class CartPole final : public Environment {
 public:
  /// The usual reward is 1 a step; Sutton and Barto's is 0, and -1 at the fall.
  explicit CartPole(bool sutton_barto) : reward_{sutton_barto ? 0.0 : 1.0, sutton_barto ? -1.0 : 1.0} {}

  void reset(RandomStream& random, Row observation) override {
    for (double* value : {&x_, &x_dot_, &theta_, &theta_dot_}) *value = random.uniform(-0.05, 0.05);
    observe(observation);
  }

  StepResult step(ConstRow action, RandomStream&, Row observation) override {
    const double force = action.i32()[0] == 1 ? kForce : -kForce;
    const double cos_theta = std::cos(theta_), sin_theta = std::sin(theta_);
    const double temp = (force + kPoleMassLength * (theta_dot_ * theta_dot_) * sin_theta) / kTotalMass;
    const double theta_acc = (kGravity * sin_theta - cos_theta * temp) /
                             (kHalfLength * (4.0 / 3.0 - kPoleMass * (cos_theta * cos_theta) / kTotalMass));
    const double x_acc = temp - kPoleMassLength * theta_acc * cos_theta / kTotalMass;
    x_ += kTau * x_dot_;
    x_dot_ += kTau * x_acc;
    theta_ += kTau * theta_dot_;
    theta_dot_ += kTau * theta_acc;
    observe(observation);
    const bool terminated = (std::abs(x_) > kXLimit) | (std::abs(theta_) > kThetaLimit);
    return {.reward = reward_[terminated], .terminated = terminated};
  }

  std::optional<std::vector<double>> state() const override { return std::vector{x_, x_dot_, theta_, theta_dot_}; }

  void set_state(std::span<const double> state, Row observation) override {
    check_state_length("CartPole-v1", state.size(), 4);
    x_ = state[0], x_dot_ = state[1], theta_ = state[2], theta_dot_ = state[3];
    observe(observation);
  }

  std::optional<Frame> render(int width, int height) override {
    Canvas canvas(width, height, 600, 400);  // as Gymnasium's
    constexpr double kScale = 600 / (2 * kXLimit), kTrack = 100, kPole = 10;
    const Point cart{300 + kScale * x_, kTrack}, axle{cart.x, kTrack + 7.5};
    canvas.line({0, kTrack}, {600, kTrack}, 1, kBlack);
    canvas.box(-25, 25, -15, 15, 0, cart, kBlack);
    canvas.box(-kPole / 2, kPole / 2, -kPole / 2, kScale * 2 * kHalfLength - kPole / 2, -theta_, axle, {202, 152, 101});
    canvas.circle(axle, kPole / 2, {129, 132, 203});
    return canvas.take();
  }
  double render_fps() const override { return 50; }

 private:
  void observe(Row observation) const {
    float* out = observation.f32().data();
    out[0] = static_cast<float>(x_), out[1] = static_cast<float>(x_dot_);
    out[2] = static_cast<float>(theta_), out[3] = static_cast<float>(theta_dot_);
  }

  double x_ = 0, x_dot_ = 0, theta_ = 0, theta_dot_ = 0;  // m, m/s, rad, rad/s
  double reward_[2];                                      // [terminated]
};

const RegisterEnv cart_pole{{
    .id = "CartPole-v1",
    .observation_space = Box{.low = {-2 * kXLimit, -INFINITY, -2 * kThetaLimit, -INFINITY},
                             .high = {2 * kXLimit, INFINITY, 2 * kThetaLimit, INFINITY},
                             .shape = {4}},
    .action_space = Space::discrete(2),
    .max_episode_steps = 500,
    .reward_threshold = 475.0,
    .source = "Gymnasium 1.2.2 CartPole-v1",
    .options = {{"sutton_barto_reward", 0}},
    .state_names = {"x", "x_dot", "theta", "theta_dot"},
    .make = [](const EnvOptions& o) { return std::make_unique<CartPole>(o.at("sutton_barto_reward") != 0); },
}};

}  // namespace
}  // namespace myriad
