// CarRacing-v3: drive a lap of a random track, seen from above.
//
// Gymnasium's CarRacing-v3 (Oleg Klimov), step for step, as in the first episode of an environment. The observation is
// its picture, drawn anew: see surface.hpp and docs/environments.md for how near it comes.
#include <algorithm>
#include <array>
#include <cmath>
#include <numbers>

#include "rl/check.hpp"
#include "sims/box2d/box2d_env.hpp"
#include "sims/box2d/surface.hpp"

namespace myriad {
namespace {

constexpr double kPi = std::numbers::pi;
constexpr int kSide = 96;                                    // pixels, of the observation
constexpr int kSurfaceWidth = 1000, kSurfaceHeight = 800;    // pixels
constexpr double kStartZoom = 0.1 * 6, kZoom = 2.7 * 6;      // pixels a metre
constexpr double kTrackRadius = 900 / 6.0;                   // m; the track is a circle, heavily deformed
constexpr double kPlayfield = 2000 / 6.0;                    // m, from the middle to where the car is lost
constexpr double kDetailStep = 21 / 6.0, kTurnRate = 0.31;   // m, rad: from one tile to the next
constexpr double kTrackWidth = 40 / 6.0, kBorder = 8 / 6.0;  // m; half the road's width, the width of a kerb
constexpr double kGrassSide = kPlayfield / 20;               // m, of a square of grass
constexpr size_t kCheckpoints = 12, kBorderTiles = 4;        // a kerb wants so many tiles that turn alike
constexpr double kSize = 0.02;                               // m, the unit of the car's drawing
constexpr double kEnginePower = 100000000 * kSize * kSize;   // W
constexpr double kWheelInertia = 4000 * kSize * kSize;       // kg m^2
constexpr double kFrictionLimit = 1000000 * kSize * kSize;   // N, on the road
constexpr double kWheelRadius = 27 * kSize, kWheelHalfWidth = 14 * kSize;
constexpr double kStiffness = 205000 * kSize * kSize;  // N a (m/s) of slip: Gymnasium's, against oscillations
constexpr int kActions = 5;
enum Action { kNothing, kRight, kLeft, kGas, kBrake };

constexpr Colour kCurb[]{{255, 255, 255}, {255, 0, 0}};
constexpr Colour kHull{204, 0, 0}, kTyreMark{77, 77, 77};

double sign(double value) { return (value > 0) - (value < 0); }

using Triple = std::array<double, 3>;
Colour colour_of(const Triple& rgb) {
  return {static_cast<uint8_t>(rgb[0]), static_cast<uint8_t>(rgb[1]), static_cast<uint8_t>(rgb[2])};
}

/// A point of the road's middle line.
struct TrackPoint {
  double alpha, beta;  // rad: where it is, seen from the middle, and the direction across the road
  double x, y;
};

/// A piece of the road, or of a kerb, which no body is for.
struct Piece {
  std::array<Point, 4> corners;
  Colour colour;
  bool visited = false;
};

struct Wheel {
  b2Body* body = nullptr;
  b2RevoluteJoint* joint = nullptr;
  double gas = 0, brake = 0, steer = 0;
  double phase = 0, omega = 0;  // rad, rad/s: how it rolls
  int tiles = 0;                // of the road below it
};

class CarRacing final : public Box2dEnv {
 public:
  CarRacing(const std::string& id, const EnvOptions& options)
      : Box2dEnv(id, options.at("continuous") != 0 ? 0 : kActions, options.at("continuous") != 0 ? 3 : 1, 0),
        continuous_(options.at("continuous") != 0),
        domain_randomize_(options.at("domain_randomize") != 0),
        lap_complete_percent_(options.at("lap_complete_percent")) {
    if (!(lap_complete_percent_ >= 0 && lap_complete_percent_ <= 1))
      fail(Exit::usage, "env-option", "lap_complete_percent is {}, want 0 to 1", lap_complete_percent_);
  }

  /// The observation's picture in another size; stretched, as Gymnasium's own videos are.
  std::optional<Frame> render(int width, int height) override {
    Frame frame(width, height);
    draw();
    surface_.smoothscale(width, height, frame.rgb);
    return frame;
  }

 private:
  void begin() override {
    make_world(0);
    reward_ = previous_reward_ = time_ = 0;
    tiles_visited_ = 0;
    lap_finished_ = false;
    road_colour_ = {102, 102, 102}, field_colour_ = {102, 204, 102}, grass_colour_ = {102, 230, 102};
    if (domain_randomize_) {
      for (double& value : road_colour_) value = uniform(0, 210);
      for (double& value : field_colour_) value = uniform(0, 210);
      grass_colour_ = field_colour_;
      grass_colour_[static_cast<size_t>(integer(0, 3))] += 20;
    }
    while (!make_track()) continue;
    make_tiles();
    make_car(track_[0]);
    simulate_car();
  }

  /// Draws checkpoints around the middle and steers from one to the next, five times around: the lap before the last is
  /// the track. False: it does not close.
  bool make_track() {
    struct {
      double alpha, x, y;
    } checkpoints[kCheckpoints];
    for (size_t c = 0; c < kCheckpoints; ++c) {
      const double sector = 2 * kPi * static_cast<double>(c) / kCheckpoints;
      double alpha = sector + uniform(0, 2 * kPi * 1 / kCheckpoints);
      double radius = uniform(kTrackRadius / 3, kTrackRadius);
      if (c == 0) alpha = 0, radius = 1.5 * kTrackRadius;
      if (c == kCheckpoints - 1) alpha = sector, radius = 1.5 * kTrackRadius;
      checkpoints[c] = {alpha, radius * std::cos(alpha), radius * std::sin(alpha)};
    }
    constexpr double kStartAlpha = 2 * kPi * -0.5 / kCheckpoints;

    track_.clear();
    double x = 1.5 * kTrackRadius, y = 0, beta = 0;
    size_t target = 0;
    int laps = 0;
    bool visited_other_side = false;
    for (int points = 0; points < 2500 && laps <= 4; ++points) {
      double alpha = std::atan2(y, x);
      if (visited_other_side && alpha > 0) ++laps, visited_other_side = false;
      if (alpha < 0) visited_other_side = true, alpha += 2 * kPi;
      // The next checkpoint ahead; past the last one the angle begins anew.
      while (alpha > checkpoints[target].alpha) {
        target = (target + 1) % kCheckpoints;
        if (target == 0) alpha -= 2 * kPi;
      }
      const double forward_x = std::cos(beta), forward_y = std::sin(beta);
      const double ahead = 6.0 * (forward_x * (checkpoints[target].x - x) + forward_y * (checkpoints[target].y - y));
      while (beta - alpha > 1.5 * kPi) beta -= 2 * kPi;
      while (beta - alpha < -1.5 * kPi) beta += 2 * kPi;
      const double before = beta;
      if (ahead > 0.3) beta -= std::min(kTurnRate, std::abs(0.001 * ahead));
      if (ahead < -0.3) beta += std::min(kTurnRate, std::abs(0.001 * ahead));
      x += -forward_y * kDetailStep;
      y += forward_x * kDetailStep;
      track_.push_back({alpha, before * 0.5 + beta * 0.5, x, y});
    }

    // From the last but one passage of the start to the last.
    size_t first = 0, last = 0;
    for (size_t i = track_.size() - 1; first == 0; --i) {
      if (i == 0) return false;
      if (track_[i].alpha <= kStartAlpha || track_[i - 1].alpha > kStartAlpha) continue;
      (last == 0 ? last : first) = i;
    }
    track_.erase(track_.begin() + static_cast<ptrdiff_t>(last) - 1, track_.end());
    track_.erase(track_.begin(), track_.begin() + static_cast<ptrdiff_t>(first));
    const TrackPoint &head = track_.front(), &tail = track_.back();
    const double gap_x = std::cos(head.beta) * (head.x - tail.x), gap_y = std::sin(head.beta) * (head.y - tail.y);
    return std::sqrt(gap_x * gap_x + gap_y * gap_y) <= kDetailStep;
  }

  /// The tiles' bodies, and kerbs where the road turns hard.
  void make_tiles() {
    const size_t n = track_.size();
    const auto before = [&](size_t i, size_t by) { return (i + n - by) % n; };
    std::vector<bool> kerb(n);
    for (size_t i = 0; i < n; ++i) {
      bool hard = true;
      double turns = 0;
      for (size_t k = 0; k < kBorderTiles; ++k) {
        const double turn = track_[before(i, k)].beta - track_[before(i, k + 1)].beta;
        hard &= std::abs(turn) > kTurnRate * 0.2;
        turns += sign(turn);
      }
      kerb[i] = hard && std::abs(turns) == kBorderTiles;
    }
    for (size_t i = 0; i < n; ++i)
      for (size_t k = 0; k < kBorderTiles && kerb[i]; ++k) kerb[before(i, k)] = true;

    road_.clear();
    road_.reserve(2 * n);  // the bodies point to their pieces
    for (size_t i = 0; i < n; ++i) {
      const TrackPoint &p = track_[i], &q = track_[before(i, 1)];
      const auto across = [](const TrackPoint& point, double by) {
        return Point{point.x + by * std::cos(point.beta), point.y + by * std::sin(point.beta)};
      };
      Triple shade = road_colour_;
      for (double& value : shade) value += 0.01 * static_cast<double>(i % 3) * 255;
      road_.push_back(
          {{across(p, -kTrackWidth), across(p, kTrackWidth), across(q, kTrackWidth), across(q, -kTrackWidth)},
           colour_of(shade)});
      b2Vec2 vertices[4];
      std::ranges::transform(road_.back().corners, vertices, [](Point at) { return vec(at.x, at.y); });
      b2PolygonShape shape;
      shape.Set(vertices, 4);
      b2BodyDef definition;
      definition.userData = &road_.back();
      b2FixtureDef fixture;
      fixture.shape = &shape;
      fixture.isSensor = true;
      world().CreateBody(&definition)->CreateFixture(&fixture);
      if (!kerb[i]) continue;
      const double side = sign(q.beta - p.beta), inner = side * kTrackWidth, outer = side * (kTrackWidth + kBorder);
      road_.push_back({{across(p, inner), across(p, outer), across(q, outer), across(q, inner)}, kCurb[i % 2]});
    }
  }

  void make_car(const TrackPoint& start) {
    b2BodyDef definition;
    definition.type = b2_dynamicBody;
    definition.position = vec(start.x, start.y);
    definition.angle = static_cast<float>(start.beta);
    hull_ = world().CreateBody(&definition);
    const auto add = [](b2Body* body, std::initializer_list<Point> corners, double density, bool wheel) {
      std::vector<b2Vec2> vertices;
      for (const Point corner : corners) vertices.push_back(vec(corner.x * kSize, corner.y * kSize));
      b2PolygonShape shape;
      shape.Set(vertices.data(), static_cast<int32>(vertices.size()));
      b2FixtureDef fixture;
      fixture.shape = &shape;
      fixture.density = static_cast<float>(density);
      if (wheel) fixture.filter.categoryBits = 0x0020, fixture.filter.maskBits = kGround;
      body->CreateFixture(&fixture);
    };
    add(hull_, {{-60, 130}, {60, 130}, {60, 110}, {-60, 110}}, 1.0, false);
    add(hull_, {{-15, 120}, {15, 120}, {20, 20}, {-20, 20}}, 1.0, false);
    add(hull_, {{25, 20}, {50, -10}, {50, -40}, {20, -90}, {-20, -90}, {-50, -40}, {-50, -10}, {-25, 20}}, 1.0, false);
    add(hull_, {{-50, -120}, {50, -120}, {50, -90}, {-50, -90}}, 1.0, false);
    constexpr Point kPlaces[]{{-55, 80}, {55, 80}, {-55, -82}, {55, -82}};
    for (size_t w = 0; w < 4; ++w) {
      wheels_[w] = {};
      definition.position = vec(start.x + kPlaces[w].x * kSize, start.y + kPlaces[w].y * kSize);
      definition.userData = &wheels_[w];
      wheels_[w].body = world().CreateBody(&definition);
      add(wheels_[w].body, {{-14, 27}, {14, 27}, {14, -27}, {-14, -27}}, 0.1, true);
      b2RevoluteJointDef joint;
      joint.bodyA = hull_, joint.bodyB = wheels_[w].body;
      joint.localAnchorA = vec(kPlaces[w].x * kSize, kPlaces[w].y * kSize);
      joint.maxMotorTorque = static_cast<float>(180 * 900 * kSize * kSize);
      joint.lowerAngle = -0.4f, joint.upperAngle = 0.4f;
      wheels_[w].joint = join(joint);
    }
  }

  StepResult advance(std::span<const double> action) override {
    if (continuous_) {
      control(-action[0], action[1], action[2]);
    } else {
      const int chosen = static_cast<int>(action[0]);
      control(0.6 * ((chosen == kLeft) - (chosen == kRight)), 0.2 * (chosen == kGas), 0.8 * (chosen == kBrake));
    }
    simulate_car();
    reward_ -= 0.1;
    StepResult result{.reward = reward_ - previous_reward_,
                      .terminated = tiles_visited_ == track_.size() || lap_finished_};
    previous_reward_ = reward_;
    const b2Vec2 at = hull_->GetPosition();
    if (std::abs(static_cast<double>(at.x)) > kPlayfield || std::abs(static_cast<double>(at.y)) > kPlayfield)
      result = {.reward = -100, .terminated = true};
    return result;
  }

  /// `steer`: rad, left is positive. The rear wheels have the gas, in [0, 1], which comes a tenth a step at most.
  void control(double steer, double gas, double brake) {
    wheels_[0].steer = wheels_[1].steer = steer;
    for (const size_t w : {2, 3}) wheels_[w].gas += std::min(std::clamp(gas, 0.0, 1.0) - wheels_[w].gas, 0.1);
    for (Wheel& wheel : wheels_) wheel.brake = brake;
  }

  void simulate_car() {
    for (Wheel& wheel : wheels_) roll(wheel);
    simulate();
    time_ += 1 / kFps;
    shown_reward_ = reward_;
  }

  void roll(Wheel& wheel) {
    constexpr double dt = 1.0 / kFps;
    const double turn = wheel.steer - static_cast<double>(wheel.joint->GetJointAngle());
    wheel.joint->SetMotorSpeed(static_cast<float>(sign(turn) * std::min(50.0 * std::abs(turn), 3.0)));
    const double friction_limit = kFrictionLimit * (wheel.tiles > 0 ? 1.0 : 0.6);  // on the road, on the grass

    const b2Vec2 forward = wheel.body->GetWorldVector(vec(0, 1)), side = wheel.body->GetWorldVector(vec(1, 0));
    const b2Vec2 velocity = wheel.body->GetLinearVelocity();
    const auto along = [&](b2Vec2 direction) {
      return static_cast<double>(direction.x) * velocity.x + static_cast<double>(direction.y) * velocity.y;
    };
    // Of the wheel's energy E = inertia omega^2 / 2, dE/dt is the power; 5 rad/s keep it from dividing by zero.
    wheel.omega += dt * kEnginePower * wheel.gas / kWheelInertia / (std::abs(wheel.omega) + 5.0);
    if (wheel.brake >= 0.9)
      wheel.omega = 0;
    else if (wheel.brake > 0)
      wheel.omega += -sign(wheel.omega) * std::min(15 * wheel.brake, std::abs(wheel.omega));
    wheel.phase += wheel.omega * dt;

    double force_along = (-along(forward) + wheel.omega * kWheelRadius) * kStiffness;
    double force_across = -along(side) * kStiffness;
    const double force = std::sqrt(force_along * force_along + force_across * force_across);
    if (force > friction_limit) {
      force_along = force_along / force * friction_limit;
      force_across = force_across / force * friction_limit;
    }
    wheel.omega -= dt * force_along * kWheelRadius / kWheelInertia;
    wheel.body->ApplyForceToCenter(
        vec(force_across * static_cast<double>(side.x) + force_along * static_cast<double>(forward.x),
            force_across * static_cast<double>(side.y) + force_along * static_cast<double>(forward.y)),
        true);
  }

  void BeginContact(b2Contact* contact) override {
    const auto [piece, wheel] = touched(contact);
    if (piece == nullptr || wheel == nullptr) return;
    ++wheel->tiles;
    if (piece->visited) return;
    piece->visited = true;
    reward_ += 1000.0 / static_cast<double>(track_.size());
    ++tiles_visited_;
    if (piece == &road_[0] &&
        static_cast<double>(tiles_visited_) / static_cast<double>(track_.size()) > lap_complete_percent_)
      lap_finished_ = true;
  }

  void EndContact(b2Contact* contact) override {
    const auto [piece, wheel] = touched(contact);
    if (piece != nullptr && wheel != nullptr) --wheel->tiles;
  }

  /// The tile which a contact is with, which loses its shade, and the wheel, if it is one.
  std::pair<Piece*, Wheel*> touched(b2Contact* contact) {
    b2Body *tile = contact->GetFixtureA()->GetBody(), *other = contact->GetFixtureB()->GetBody();
    if (tile->GetType() != b2_staticBody) std::swap(tile, other);
    if (tile->GetType() != b2_staticBody) return {};
    auto* piece = static_cast<Piece*>(tile->GetUserData());
    piece->colour = colour_of(road_colour_);
    return {piece, static_cast<Wheel*>(other->GetUserData())};
  }

  void observe(Row observation) override {
    draw();
    surface_.smoothscale(kSide, kSide, observation.u8());
  }

  /// Gymnasium's picture: the car heads upwards and stands a quarter above the bottom; the first second zooms in.
  void draw() {
    surface_.clear();
    const double turn = -static_cast<double>(hull_->GetAngle());
    const double zoom = kStartZoom * std::max(1 - time_, 0.0) + kZoom * std::min(time_, 1.0);
    const double c = std::cos(turn), s = std::sin(turn);
    const double car_x = hull_->GetPosition().x, car_y = hull_->GetPosition().y;
    const auto fill = [&]<size_t n>(const std::array<Point, n>& corners, Colour colour, size_t count = n) {
      std::array<Pixel, n> pixels;
      for (size_t i = 0; i < count; ++i) {
        const double x = corners[i].x - car_x, y = corners[i].y - car_y;
        // pygame cuts fractions off, then turns the picture upside down.
        pixels[i] = {static_cast<int>(zoom * (c * x - s * y) + kSurfaceWidth / 2.0),
                     kSurfaceHeight - 1 - static_cast<int>(zoom * (s * x + c * y) + kSurfaceHeight / 4.0)};
      }
      surface_.polygon({pixels.data(), count}, colour);
    };
    const auto square = [&](double left, double bottom, double side, Colour colour) {
      fill(
          std::array<Point, 4>{
              {{left, bottom}, {left + side, bottom}, {left + side, bottom + side}, {left, bottom + side}}},
          colour);
    };
    square(-kPlayfield, -kPlayfield, 2 * kPlayfield, colour_of(field_colour_));
    for (int x = -20; x < 20; x += 2)
      for (int y = -20; y < 20; y += 2) square(kGrassSide * x, kGrassSide * y, kGrassSide, colour_of(grass_colour_));
    for (const Piece& piece : road_) fill(piece.corners, piece.colour);
    const auto body = [&](const b2Body& of, Colour colour) {
      for (const b2Fixture* fixture = of.GetFixtureList(); fixture != nullptr; fixture = fixture->GetNext()) {
        const auto& shape = *static_cast<const b2PolygonShape*>(fixture->GetShape());
        std::array<Point, b2_maxPolygonVertices> corners;
        for (int i = 0; i < shape.GetVertexCount(); ++i) {
          const b2Vec2 at = of.GetWorldPoint(shape.GetVertex(i));
          corners[static_cast<size_t>(i)] = {at.x, at.y};
        }
        fill(corners, colour, static_cast<size_t>(shape.GetVertexCount()));
      }
    };
    for (const Wheel& wheel : wheels_) {
      body(*wheel.body, kBlack);
      // A mark on the tyre, 1.2 rad of it, where it is above.
      const double from = wheel.phase, to = wheel.phase + 1.2;
      if (std::sin(from) > 0 && std::sin(to) > 0) continue;
      const double from_y = kWheelRadius * (std::sin(from) > 0 ? sign(std::cos(from)) : std::cos(from));
      const double to_y = kWheelRadius * (std::sin(to) > 0 ? sign(std::cos(to)) : std::cos(to));
      std::array<Point, 4> mark;
      const b2Vec2 local[]{vec(-kWheelHalfWidth, from_y), vec(kWheelHalfWidth, from_y), vec(kWheelHalfWidth, to_y),
                           vec(-kWheelHalfWidth, to_y)};
      std::ranges::transform(local, mark.begin(), [&](b2Vec2 at) {
        const b2Vec2 there = wheel.body->GetWorldPoint(at);
        return Point{there.x, there.y};
      });
      fill(mark, kTyreMark);
    }
    body(*hull_, kHull);
    draw_indicators();
  }

  /// Along the bottom: the return so far, the speed, how the wheels roll, the steering, the turn rate.
  void draw_indicators() {
    constexpr double s = kSurfaceWidth / 40.0, h = kSurfaceHeight / 40.0;
    const auto box = [&](double left, double right, double bottom, double top, Colour colour) {
      const auto at = [](double x, double y) {
        return Pixel{static_cast<int>(x), static_cast<int>(kSurfaceHeight - y)};
      };
      surface_.polygon(std::array{at(left, bottom), at(right, bottom), at(right, top), at(left, top)}, colour);
    };
    box(0, kSurfaceWidth, 0, 5 * h, kBlack);
    const auto upright = [&](double place, double value, double length, Colour colour) {
      if (std::abs(value) > 1e-4) box(place * s, (place + 1) * s, h, h + h * length * value, colour);
    };
    const auto level = [&](double place, double value, double length, Colour colour) {
      if (std::abs(value) > 1e-4) box(place * s, (place + length * value) * s, 2 * h, 4 * h, colour);
    };
    const double vx = hull_->GetLinearVelocity().x, vy = hull_->GetLinearVelocity().y;
    constexpr Colour kWhite{255, 255, 255}, kFront{0, 0, 255}, kRear{51, 0, 255}, kSteer{0, 255, 0}, kGyro{255, 0, 0};
    upright(5, std::sqrt(vx * vx + vy * vy), 0.02, kWhite);
    for (size_t w = 0; w < 4; ++w) upright(static_cast<double>(w) + 7, wheels_[w].omega, 0.01, w < 2 ? kFront : kRear);
    level(20, wheels_[0].joint->GetJointAngle(), -10.0, kSteer);
    level(30, hull_->GetAngularVelocity(), -0.8, kGyro);

    // The digits have the places of Gymnasium's, 3 x 5 dots each, the top left one first.
    constexpr uint16_t kDots[]{0b111101101101111, 0b110010010010010, 0b111001111100111, 0b111001011001111,
                               0b101101111001001, 0b111100111001111, 0b111100111101111, 0b111001010010010,
                               0b111101111101111, 0b111101111001111};
    constexpr double kLeft = 11, kTop = 69, kPitch = 25, kDotWidth = 7, kDotHeight = 6.4;  // pixels
    constexpr uint16_t kMinus = 0b000000111000000;
    double left = kLeft;
    for (const char digit : fmt::format("{:04}", static_cast<int>(shown_reward_))) {
      const uint16_t dots = digit == '-' ? kMinus : kDots[digit - '0'];
      for (int dot = 0; dot < 15; ++dot) {
        const double x = left + dot % 3 * kDotWidth, y = kTop - dot / 3 * kDotHeight;
        if (dots >> (14 - dot) & 1) box(x, x + kDotWidth - 1, y - kDotHeight + 1, y, kWhite);
      }
      left += kPitch;
    }
  }

  bool continuous_, domain_randomize_;
  double lap_complete_percent_;  // a share
  Triple road_colour_, field_colour_, grass_colour_;
  std::vector<TrackPoint> track_;
  std::vector<Piece> road_;      // tiles and kerbs, as they are drawn; the first is the first tile
  b2Body* hull_ = nullptr;       // the world's
  std::array<Wheel, 4> wheels_;  // front left, front right, rear left, rear right
  size_t tiles_visited_ = 0;
  bool lap_finished_ = false;
  double reward_ = 0, previous_reward_ = 0, shown_reward_ = 0;  // sums of the episode
  double time_ = 0;                                             // s
  Surface surface_{kSurfaceWidth, kSurfaceHeight};
};

void set_action_space(EnvSpec& spec) {
  spec.action_space = spec.options.at("continuous") != 0
                          ? Space(Box{.low = {-1, 0, 0}, .high = {1, 1, 1}, .shape = {3}})
                          : Space::discrete(kActions);
}

EnvSpec car_racing() {
  EnvSpec spec{
      .id = "CarRacing-v3",
      .observation_space = Space::box(0, 255, {kSide, kSide, 3}, DType::u8),
      .action_space = Space::discrete(kActions),
      .max_episode_steps = 1000,
      .reward_threshold = 900.0,
      .source = "Gymnasium 1.2.2 CarRacing-v3, Box2D of box2d-py 2.3.5",
      .options = {{"continuous", 1}, {"domain_randomize", 0}, {"lap_complete_percent", 0.95}},
      .make = [](const EnvOptions& options) { return std::make_unique<CarRacing>("CarRacing-v3", options); },
      .configure = set_action_space,
  };
  set_action_space(spec);
  return spec;
}

const RegisterEnv registration{car_racing()};

}  // namespace
}  // namespace myriad
