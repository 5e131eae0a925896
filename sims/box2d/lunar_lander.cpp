// LunarLander-v3, LunarLanderContinuous-v3: land between two flags on the moon.
//
// Gymnasium's LunarLander-v3 (Oleg Klimov), step for step. The exhaust's particles are decoration there, which touch
// nothing but the moon: there are none here.
#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

#include "rl/check.hpp"
#include "sims/box2d/box2d_env.hpp"

namespace myriad {
namespace {

constexpr double kMainEnginePower = 13.0, kSideEnginePower = 0.6;
constexpr double kInitialRandom = 1000.0;                                      // N
constexpr double kLegAway = 20, kLegDown = 18, kLegWidth = 2, kLegHeight = 8;  // pixels
constexpr double kLegSpringTorque = 40;                                        // N m
constexpr double kSideEngineHeight = 14, kSideEngineAway = 12;                 // pixels
constexpr double kMainEngineY = 4;                                             // pixels
constexpr int kChunks = 11;
constexpr int kActions = 4;
enum Action { kNothing, kLeftEngine, kMainEngine, kRightEngine };

struct Engines {
  double main = 0, side = 0;  // power, 0 = off
  double direction = 0;       // of the side engine: -1 left, 1 right
};

class LunarLander final : public Box2dEnv {
 public:
  LunarLander(const std::string& id, const EnvOptions& options)
      : Box2dEnv(id, options.at("continuous") != 0 ? 0 : kActions, options.at("continuous") != 0 ? 2 : 1, 2),
        continuous_(options.at("continuous") != 0),
        gravity_(options.at("gravity")),
        enable_wind_(options.at("enable_wind") != 0),
        wind_power_(options.at("wind_power")),
        turbulence_power_(options.at("turbulence_power")) {
    if (!(gravity_ > -12 && gravity_ < 0))
      fail(Exit::usage, "env-option", "gravity is {}, want more than -12 and less than 0", gravity_);
  }

  /// Gymnasium's colours; flames in place of its particles.
  std::optional<Frame> render(int width, int height) override {
    constexpr Colour kMoon{255, 255, 255}, kHull{128, 102, 230}, kFlag{204, 204, 0}, kFlame{255, 140, 30};
    Canvas canvas(width, height, kWidth, kHeight);
    canvas.box(0, kWidth, 0, kHeight, 0, {0, 0}, kBlack);
    canvas.polygon(moon_, kMoon);
    for (const double x : {kWidth / 2 - kWidth / (kChunks - 1), kWidth / 2 + kWidth / (kChunks - 1)}) {
      canvas.line({x, kHelipadY}, {x, kHelipadY + 50 / kScale}, 2 / kScale, kMoon);
      const Point cloth[]{
          {x, kHelipadY + 50 / kScale}, {x, kHelipadY + 40 / kScale}, {x + 25 / kScale, kHelipadY + 45 / kScale}};
      canvas.polygon(cloth, kFlag);
    }
    const auto flame = [&](b2Vec2 a, b2Vec2 b, b2Vec2 tip) {
      std::vector<Point> corners;
      for (const b2Vec2 local : {a, b, tip}) {
        const b2Vec2 at = lander_->GetWorldPoint(local);
        corners.push_back({at.x, at.y});
      }
      canvas.polygon(corners, kFlame);
    };
    if (engines_.main > 0)
      flame(vec(-6 / kScale, -10 / kScale), vec(6 / kScale, -10 / kScale), vec(0, (-10 - 25 * engines_.main) / kScale));
    if (const double d = -engines_.direction / kScale; engines_.side > 0)  // it is pushed the other way
      flame(vec(17 * d, 8 / kScale), vec(17 * d, 16 / kScale), vec((17 + 14 * engines_.side) * d, 12 / kScale));
    for (const b2Body* body : {legs_[0], legs_[1], lander_}) draw(canvas, *body, 0, kHull);
    return canvas.take();
  }

 private:
  void begin() override {
    make_world(gravity_);
    prev_shaping_.reset();
    make_moon();
    lander_contact_ = {.latched = true};
    const b2Vec2 start = vec(kWidth / 2, kHeight);
    lander_ = make_part(start, 0,
                        polygon({vec(-14 / kScale, 17 / kScale), vec(-17 / kScale, 0), vec(-17 / kScale, -10 / kScale),
                                 vec(17 / kScale, -10 / kScale), vec(17 / kScale, 0), vec(14 / kScale, 17 / kScale)}),
                        5.0, 0.1, 0x0010, &lander_contact_);
    const double force_x = uniform(-kInitialRandom, kInitialRandom);
    lander_->ApplyForceToCenter(vec(force_x, uniform(-kInitialRandom, kInitialRandom)), true);
    if (enable_wind_) wind_index_ = integer(-9999, 9999), torque_index_ = integer(-9999, 9999);
    legs_[0] = make_leg(-1, leg_contacts_[0]);
    legs_[1] = make_leg(1, leg_contacts_[1]);
    advance(std::array<double, 2>{});
  }

  void make_moon() {
    double height[kChunks + 1], x[kChunks], y[kChunks];
    for (double& h : height) h = uniform(0, kHeight / 2);
    std::fill(height + kChunks / 2 - 2, height + kChunks / 2 + 3, kHelipadY);
    for (int i = 0; i < kChunks; ++i) {
      x[i] = kWidth / (kChunks - 1) * i;
      y[i] = 0.33 * (height[i > 0 ? i - 1 : kChunks] + height[i] + height[i + 1]);
    }
    moon_ = {{kWidth, 0}, {0, 0}};
    for (int i = 0; i < kChunks; ++i) moon_.push_back({x[i], y[i]});
    b2Body* moon = make_ground();
    add_fixture(moon, edge(vec(0, 0), vec(kWidth, 0)), 0.2);
    for (int i = 0; i + 1 < kChunks; ++i) add_fixture(moon, edge(vec(x[i], y[i]), vec(x[i + 1], y[i + 1])), 0.1);
  }

  /// `side`: -1 or 1.
  b2Body* make_leg(double side, BodyContact& contact) {
    contact = {};
    b2RevoluteJointDef joint;
    joint.bodyA = lander_;
    joint.bodyB = make_part(vec(kWidth / 2 - side * kLegAway / kScale, kHeight), side * 0.05,
                            box(kLegWidth / kScale, kLegHeight / kScale), 1.0, 0.2, 0x0020, &contact);
    joint.localAnchorB = vec(side * kLegAway / kScale, kLegDown / kScale);
    joint.maxMotorTorque = static_cast<float>(kLegSpringTorque);
    joint.motorSpeed = static_cast<float>(0.3 * side);  // low enough not to jump back into the sky
    joint.lowerAngle = static_cast<float>(side < 0 ? 0.9 - 0.5 : -0.9);
    joint.upperAngle = static_cast<float>(side < 0 ? 0.9 : -0.9 + 0.5);
    join(joint);
    return joint.bodyB;
  }

  StepResult advance(std::span<const double> action) override {
    if (enable_wind_ && !leg_contacts_[0].touches && !leg_contacts_[1].touches) blow();
    const Engines engines = engines_ = engines_of(action);
    fire(engines);
    simulate();

    const double x = lander_->GetPosition().x, y = lander_->GetPosition().y;
    const double velocity_x = lander_->GetLinearVelocity().x, velocity_y = lander_->GetLinearVelocity().y;
    const double state[]{(x - kWidth / 2) / (kWidth / 2),
                         (y - (kHelipadY + kLegDown / kScale)) / (kHeight / 2),
                         velocity_x * (kWidth / 2) / kFps,
                         velocity_y * (kHeight / 2) / kFps,
                         lander_->GetAngle(),
                         20.0 * static_cast<double>(lander_->GetAngularVelocity()) / kFps,
                         static_cast<double>(leg_contacts_[0].touches),
                         static_cast<double>(leg_contacts_[1].touches)};
    std::ranges::transform(state, observation_.begin(), [](double value) { return static_cast<float>(value); });

    const double shaping = -100 * std::sqrt(state[0] * state[0] + state[1] * state[1]) -
                           100 * std::sqrt(state[2] * state[2] + state[3] * state[3]) - 100 * std::abs(state[4]) +
                           10 * state[6] + 10 * state[7];
    double reward = prev_shaping_ ? shaping - *prev_shaping_ : 0;
    prev_shaping_ = shaping;
    reward -= engines.main * 0.30;
    reward -= engines.side * 0.03;
    if (!lander_->IsAwake()) return {.reward = 100, .terminated = true};
    if (lander_contact_.touches || std::abs(state[0]) >= 1.0) return {.reward = -100, .terminated = true};
    return {.reward = reward, .terminated = false};
  }

  /// Wind and turbulence: tanh(sin(2 k i) + sin(pi k i)), k = 0.01, which never repeats.
  void blow() {
    const auto gust = [](int index) {
      return std::tanh(std::sin(0.02 * index) + std::sin(std::numbers::pi * 0.01 * index));
    };
    lander_->ApplyForceToCenter(vec(gust(wind_index_++) * wind_power_, 0), true);
    lander_->ApplyTorque(static_cast<float>(gust(torque_index_++) * turbulence_power_), true);
  }

  Engines engines_of(std::span<const double> action) const {
    if (!continuous_) {
      const int chosen = static_cast<int>(action[0]);
      if (chosen == kMainEngine) return {.main = 1};
      return chosen == kNothing ? Engines{}
                                : Engines{.side = 1, .direction = static_cast<double>(chosen - kMainEngine)};
    }
    Engines engines;
    const double main = std::clamp(action[0], -1.0, 1.0), side = std::clamp(action[1], -1.0, 1.0);
    if (main > 0) engines.main = (main + 1) * 0.5;  // from half power on
    if (std::abs(side) > 0.5) engines.side = std::abs(side), engines.direction = side < 0 ? -1 : 1;
    return engines;
  }

  void fire(const Engines& engines) {
    const double angle = lander_->GetAngle(), tip_x = std::sin(angle), tip_y = std::cos(angle);
    const double side_x = -tip_y, side_y = tip_x;
    const double along = uniform(-1, 1) / kScale, across = uniform(-1, 1) / kScale;  // dispersion
    if (engines.main > 0) {
      const double x = tip_x * (kMainEngineY / kScale + 2 * along) + side_x * across;
      const double y = -tip_y * (kMainEngineY / kScale + 2 * along) - side_y * across;
      const b2Vec2 position = lander_->GetPosition();
      lander_->ApplyLinearImpulse(vec(-x * kMainEnginePower * engines.main, -y * kMainEnginePower * engines.main),
                                  vec(static_cast<double>(position.x) + x, static_cast<double>(position.y) + y), true);
    }
    if (engines.side > 0) {
      const double away = 3 * across + engines.direction * kSideEngineAway / kScale;
      const double x = tip_x * along + side_x * away, y = -tip_y * along - side_y * away;
      const b2Vec2 position = lander_->GetPosition();
      // 17 and not kSideEngineHeight: Gymnasium's thrust depends so on the lander's angle.
      lander_->ApplyLinearImpulse(vec(-x * kSideEnginePower * engines.side, -y * kSideEnginePower * engines.side),
                                  vec(static_cast<double>(position.x) + x - tip_x * 17 / kScale,
                                      static_cast<double>(position.y) + y + tip_y * kSideEngineHeight / kScale),
                                  true);
    }
  }

  void observe(Row row) override { std::ranges::copy(observation_, row.f32().begin()); }

  static constexpr double kHelipadY = kHeight / 4;  // m

  bool continuous_;
  double gravity_;  // m/s^2
  bool enable_wind_;
  double wind_power_, turbulence_power_;   // N, N m
  b2Body *lander_ = nullptr, *legs_[2]{};  // the world's
  std::vector<Point> moon_;                // its outline
  Engines engines_;                        // of the last step
  BodyContact lander_contact_, leg_contacts_[2];
  int wind_index_ = 0, torque_index_ = 0;
  std::optional<double> prev_shaping_;
  std::array<float, 8> observation_{};
};

void set_action_space(EnvSpec& spec) {
  spec.action_space = spec.options.at("continuous") != 0 ? Space::box(-1, 1, {2}) : Space::discrete(kActions);
}

EnvSpec lunar_lander(const char* id, bool continuous) {
  EnvSpec spec{
      .id = id,
      .observation_space = box2d_observation_space(8, {{6, 8}}),
      .action_space = Space::discrete(kActions),
      .max_episode_steps = 1000,
      .reward_threshold = 200.0,
      .source = std::string("Gymnasium 1.2.2 ") + id + ", Box2D of box2d-py 2.3.5",
      .options = {{"continuous", continuous},
                  {"gravity", -10.0},
                  {"enable_wind", 0},
                  {"wind_power", 15.0},
                  {"turbulence_power", 1.5}},
      .make = [=](const EnvOptions& options) { return std::make_unique<LunarLander>(id, options); },
      .configure = set_action_space,
  };
  set_action_space(spec);
  return spec;
}

const RegisterEnv discrete{lunar_lander("LunarLander-v3", false)};
const RegisterEnv continuous{lunar_lander("LunarLanderContinuous-v3", true)};

}  // namespace
}  // namespace myriad
