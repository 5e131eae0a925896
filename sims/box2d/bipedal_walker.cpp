// BipedalWalker-v3, BipedalWalkerHardcore-v3: walk on two legs to the end of the terrain; hardcore has stumps, stairs,
// pits.
//
// Gymnasium's BipedalWalker-v3 (Oleg Klimov), step for step, as in the first episode of an environment: later ones
// happen there in a world which remembers the earlier.
#include <algorithm>
#include <array>
#include <cmath>

#include "sims/box2d/box2d_env.hpp"

namespace myriad {
namespace {

constexpr int kTerrainLength = 200, kTerrainGrass = 10, kTerrainStartpad = 20;  // terrain steps
constexpr double kFriction = 2.5;                                               // of the terrain
constexpr float kMotorsTorque = 80;                                             // N m
constexpr float kSpeedHip = 4, kSpeedKnee = 6;                                  // rad/s
constexpr double kInitialRandom = 5;                                            // N
constexpr int kLidarRays = 10, kFirstRay = 14;

struct Lidar final : b2RayCastCallback {
  float32 ReportFixture(b2Fixture* fixture, const b2Vec2&, const b2Vec2&, float32 at) override {
    if ((fixture->GetFilterData().categoryBits & 1) == 0) return -1;  // not the ground: go on
    return fraction = at;
  }
  float fraction = 1;
};

class BipedalWalker final : public Box2dEnv {
 public:
  BipedalWalker(std::string id, bool hardcore) : Box2dEnv(std::move(id), 0, 4, 0), hardcore_(hardcore) {}

  /// Gymnasium's view: the hull stays a fifth of the width from the left.
  std::optional<Frame> render(int width, int height) override {
    constexpr Colour kSky{215, 215, 255}, kGrass{102, 153, 76}, kBlock{230, 230, 230}, kHull{127, 51, 229},
        kFlag{230, 51, 0};
    constexpr Colour kLegs[]{{153, 76, 127}, {178, 101, 152}};
    const double left = static_cast<double>(hull_->GetPosition().x) - kWidth / 5;
    Canvas canvas(width, height, kWidth, kHeight);
    const auto filled = [&](std::vector<Point> corners, Colour colour) {
      for (Point& corner : corners) corner.x -= left;
      canvas.polygon(corners, colour);
    };
    canvas.box(0, kWidth, 0, kHeight, 0, {0, 0}, kSky);
    filled(terrain_, kGrass);
    for (const std::vector<Point>& block : blocks_) filled(block, kBlock);
    const double pole = 3 * kTerrainStep - left, foot = kTerrainHeight, top = kTerrainHeight + 50 / kScale;
    canvas.line({pole, foot}, {pole, top}, 2 / kScale, kBlack);
    const Point cloth[]{{pole, top}, {pole, top - 10 / kScale}, {pole + 25 / kScale, top - 5 / kScale}};
    canvas.polygon(cloth, kFlag);
    for (const size_t leg : {0, 1})
      for (const size_t joint : {2 * leg, 2 * leg + 1}) draw(canvas, *joints_[joint]->GetBodyB(), left, kLegs[leg]);
    draw(canvas, *hull_, left, kHull);
    return canvas.take();
  }

 private:
  static constexpr double kTerrainStep = 14 / kScale, kTerrainHeight = kHeight / 4;  // m
  static constexpr double kLegDown = -8 / kScale, kLegWidth = 8 / kScale, kLegHeight = 34 / kScale;
  static constexpr double kLidarRange = 160 / kScale;
  static constexpr uint16_t kWalker = 0x0020;

  void begin() override {
    make_world(-10);
    prev_shaping_.reset();
    make_terrain();
    hull_contact_ = {.latched = true};
    const double x = kTerrainStep * kTerrainStartpad / 2, y = kTerrainHeight + 2 * kLegHeight;
    hull_ = make_part(vec(x, y), 0,
                      polygon({vec(-30 / kScale, 9 / kScale), vec(6 / kScale, 9 / kScale), vec(34 / kScale, 1 / kScale),
                               vec(34 / kScale, -8 / kScale), vec(-30 / kScale, -8 / kScale)}),
                      5.0, 0.1, kWalker, &hull_contact_);
    hull_->ApplyForceToCenter(vec(uniform(-kInitialRandom, kInitialRandom), 0), true);
    for (const int leg : {0, 1}) {
      const double side = leg == 0 ? -1 : 1;
      const auto l = static_cast<size_t>(leg);
      foot_contacts_[l] = {};
      b2Body* upper = make_part(vec(x, y - kLegHeight / 2 - kLegDown), side * 0.05, box(kLegWidth / 2, kLegHeight / 2),
                                1.0, 0.2, kWalker, nullptr);
      joints_[2 * l] = hang(hull_, upper, vec(0, kLegDown), side, -0.8, 1.1);
      b2Body* lower = make_part(vec(x, y - kLegHeight * 3 / 2 - kLegDown), side * 0.05,
                                box(0.8 * kLegWidth / 2, kLegHeight / 2), 1.0, 0.2, kWalker, &foot_contacts_[l]);
      joints_[2 * l + 1] = hang(upper, lower, vec(0, -kLegHeight / 2), 1, -1.6, -0.1);
    }
    advance(std::array<double, 4>{});
  }

  b2RevoluteJoint* hang(b2Body* above, b2Body* below, b2Vec2 anchor, double speed, double lower, double upper) {
    b2RevoluteJointDef joint;
    joint.bodyA = above, joint.bodyB = below;
    joint.localAnchorA = anchor, joint.localAnchorB = vec(0, kLegHeight / 2);
    joint.maxMotorTorque = kMotorsTorque;
    joint.motorSpeed = static_cast<float>(speed);
    joint.lowerAngle = static_cast<float>(lower), joint.upperAngle = static_cast<float>(upper);
    return join(joint);
  }

  /// Grass, and between it in hardcore what is drawn. A stretch begins `fresh`; `counter` steps of it are left.
  void make_terrain() {
    enum Stretch { kGrass, kStump, kStairs, kPit };
    int stretch = kGrass, counter = kTerrainStartpad, stairs = 0, stair_height = 0;
    constexpr int kStairWidth = 4;
    bool fresh = false;
    blocks_.clear();
    double velocity = 0, y = kTerrainHeight, original_y = 0, ys[kTerrainLength];
    for (int i = 0; i < kTerrainLength; ++i) {
      const double x = i * kTerrainStep;
      if (stretch == kGrass && !fresh) {
        const double below = kTerrainHeight - y;
        velocity = 0.8 * velocity + 0.01 * ((below > 0) - (below < 0));
        if (i > kTerrainStartpad) velocity += uniform(-1, 1) / kScale;
        y += velocity;
      } else if (stretch == kPit && fresh) {
        counter = integer(3, 5);
        for (const double shift : {0.0, kTerrainStep * counter}) {
          const double left = x + shift, right = x + kTerrainStep + shift;
          add_block(left, right, y - 4 * kTerrainStep, y);
        }
        counter += 2;
        original_y = y;
      } else if (stretch == kPit) {
        y = original_y;
        if (counter > 1) y -= 4 * kTerrainStep;
      } else if (stretch == kStump && fresh) {
        counter = integer(1, 3);
        add_block(x, x + counter * kTerrainStep, y, y + counter * kTerrainStep);
      } else if (stretch == kStairs && fresh) {
        stair_height = uniform(0, 1) > 0.5 ? 1 : -1;
        stairs = integer(3, 5);
        original_y = y;
        for (int s = 0; s < stairs; ++s)
          add_block(x + s * kStairWidth * kTerrainStep, x + (1 + s) * kStairWidth * kTerrainStep,
                    y + (-1 + s * stair_height) * kTerrainStep, y + s * stair_height * kTerrainStep);
        counter = stairs * kStairWidth;
      } else if (stretch == kStairs) {
        const double climbed = static_cast<double>(stairs * kStairWidth - counter - stair_height) / kStairWidth;
        y = original_y + climbed * stair_height * kTerrainStep;
      }
      fresh = false;
      ys[i] = y;
      if (--counter == 0) {
        counter = integer(kTerrainGrass / 2, kTerrainGrass);
        stretch = stretch == kGrass && hardcore_ ? integer(kStump, kPit + 1) : kGrass;
        fresh = true;
      }
    }
    terrain_ = {{(kTerrainLength - 1) * kTerrainStep, 0}, {0, 0}};
    for (int i = 0; i < kTerrainLength; ++i) terrain_.push_back({i * kTerrainStep, ys[i]});
    for (int i = 0; i + 1 < kTerrainLength; ++i)
      add_fixture(make_ground(), edge(vec(i * kTerrainStep, ys[i]), vec((i + 1) * kTerrainStep, ys[i + 1])), kFriction);
  }

  void add_block(double left, double right, double bottom, double top) {
    add_fixture(make_ground(), polygon({vec(left, top), vec(right, top), vec(right, bottom), vec(left, bottom)}),
                kFriction);
    blocks_.push_back({{left, top}, {right, top}, {right, bottom}, {left, bottom}});
  }

  StepResult advance(std::span<const double> action) override {
    float efforts[4];
    for (size_t j = 0; j < 4; ++j) {
      const auto wanted = static_cast<float>(action[j]);
      efforts[j] = std::clamp(std::abs(wanted), 0.0f, 1.0f);
      const float speed = j % 2 == 0 ? kSpeedHip : kSpeedKnee;
      joints_[j]->SetMotorSpeed(speed * static_cast<float>((wanted > 0) - (wanted < 0)));
      joints_[j]->SetMaxMotorTorque(kMotorsTorque * efforts[j]);
    }
    simulate();
    look();

    const double x = hull_->GetPosition().x;
    const double shaping = 130 * x / kScale - 5.0 * std::abs(static_cast<double>(hull_->GetAngle()));
    // NumPy goes on in float32 where the first effort is subtracted.
    auto reward = static_cast<float>(prev_shaping_ ? shaping - *prev_shaping_ : 0);
    prev_shaping_ = shaping;
    for (const float effort : efforts) reward -= static_cast<float>(0.00035 * kMotorsTorque) * effort;
    const bool fallen = hull_contact_.touches || x < 0;
    return {.reward = fallen ? -100.0 : static_cast<double>(reward),
            .terminated = fallen || x > (kTerrainLength - kTerrainGrass) * kTerrainStep};
  }

  void look() {
    const b2Vec2 position = hull_->GetPosition(), velocity = hull_->GetLinearVelocity();
    const double x = position.x, y = position.y;
    const auto set = [&](size_t i, double value) { observation_[i] = static_cast<float>(value); };
    set(0, hull_->GetAngle());
    set(1, 2.0 * hull_->GetAngularVelocity() / kFps);
    set(2, 0.3 * velocity.x * kWidth / kFps);
    set(3, 0.3 * velocity.y * kHeight / kFps);
    for (size_t leg = 0; leg < 2; ++leg) {
      const size_t at = 4 + 5 * leg;
      const b2RevoluteJoint &hip = *joints_[2 * leg], &knee = *joints_[2 * leg + 1];
      set(at, hip.GetJointAngle());
      set(at + 1, static_cast<double>(hip.GetJointSpeed()) / kSpeedHip);
      set(at + 2, knee.GetJointAngle() + 1.0);
      set(at + 3, static_cast<double>(knee.GetJointSpeed()) / kSpeedKnee);
      set(at + 4, foot_contacts_[leg].touches);
    }
    for (int i = 0; i < kLidarRays; ++i) {
      Lidar lidar;
      world().RayCast(&lidar, position,
                      vec(x + std::sin(1.5 * i / 10.0) * kLidarRange, y - std::cos(1.5 * i / 10.0) * kLidarRange));
      observation_[static_cast<size_t>(kFirstRay + i)] = lidar.fraction;
    }
  }

  void observe(Row row) override { std::ranges::copy(observation_, row.f32().begin()); }

  bool hardcore_;
  b2Body* hull_ = nullptr;        // the world's, as the joints
  b2RevoluteJoint* joints_[4]{};  // hip, knee, hip, knee
  BodyContact hull_contact_, foot_contacts_[2];
  std::vector<Point> terrain_;              // its outline
  std::vector<std::vector<Point>> blocks_;  // the corners of hardcore's stumps, stairs and pits
  std::optional<double> prev_shaping_;
  std::array<float, kFirstRay + kLidarRays> observation_{};
};

EnvSpec bipedal_walker(const char* id, bool hardcore, int max_episode_steps) {
  return {.id = id,
          .observation_space = box2d_observation_space(24, {{8, 9}, {13, 14}, {14, 24}}),
          .action_space = Space::box(-1, 1, {4}),
          .max_episode_steps = max_episode_steps,
          .reward_threshold = 300.0,
          .source = std::string("Gymnasium 1.2.2 ") + id + ", Box2D of box2d-py 2.3.5",
          .options = {{"hardcore", hardcore}},
          .make = [=](const EnvOptions& o) { return std::make_unique<BipedalWalker>(id, o.at("hardcore") != 0); }};
}

const RegisterEnv normal{bipedal_walker("BipedalWalker-v3", false, 1600)};
const RegisterEnv hardcore{bipedal_walker("BipedalWalkerHardcore-v3", true, 2000)};

}  // namespace
}  // namespace myriad
