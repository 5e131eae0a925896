// Box2dEnv: the episode of a Box2D task, and its state.
//
// A Box2D world cannot be written down: contacts, warm starting and the tree of its broad phase are not for the
// outside. But it is deterministic. So the state is the episode so far, all that was drawn and every action, and
// set_state plays it again: bit for bit, at the speed of stepping. Each episode has a new world and does not depend on
// the one before.
#pragma once

#include <Box2D/Box2D.h>

#include <memory>
#include <string>
#include <vector>

#include "rl/environment.hpp"
#include "sims/classic/canvas.hpp"

namespace myriad {

/// Whether a body touches another; the user data of the bodies for which it matters.
struct BodyContact {
  bool touches = false;
  bool latched = false;  ///< once true, `touches` stays
};

class Box2dEnv : public Environment, private b2ContactListener {
 public:
  void reset(RandomStream& random, Row observation) final;
  StepResult step(ConstRow action, RandomStream& random, Row observation) final;
  std::optional<std::vector<double>> state() const final;
  /// After an Error only reset or set_state may follow.
  void set_state(std::span<const double> state, Row observation) final;
  double render_fps() const final { return kFps; }

  /// Its bodies, the newest first; a new world with each episode.
  const b2World& world() const { return *world_; }

 protected:
  static constexpr double kFps = 50, kScale = 30;                         // steps a second, pixels a metre
  static constexpr double kWidth = 600 / kScale, kHeight = 400 / kScale;  // m, of the viewport
  static constexpr uint16_t kGround = 0x0001;                             // collision category
  static constexpr size_t kMaxActionValues = 4;

  /// A Discrete action of `num_actions`, or (0) a Box of `action_size`; `num_draws` numbers are drawn in each step.
  Box2dEnv(std::string id, int num_actions, size_t action_size, size_t num_draws)
      : id_(std::move(id)), num_actions_(num_actions), action_size_(action_size), num_draws_(num_draws) {}

  /// Makes the world of a new episode and plays it up to S_0.
  virtual void begin() = 0;
  virtual StepResult advance(std::span<const double> action) = 0;
  virtual void observe(Row observation) = 0;

  /// What is drawn, or what was drawn where the state is played again; integers of [low, high).
  double uniform(double low, double high);
  int integer(int low, int high);

  b2World& world() { return *world_; }
  void make_world(double gravity);
  void simulate() { world_->Step(static_cast<float>(1 / kFps), 6 * 30, 2 * 30); }

  b2Body* make_ground();
  static void add_fixture(b2Body* ground, const b2Shape& shape, double friction);
  /// A body of one fixture which collides with the ground alone.
  b2Body* make_part(b2Vec2 position, double angle, const b2Shape& shape, double density, double friction,
                    uint16_t category, BodyContact* contact);

  /// With motor and limits; the angle counts from where the bodies are, as pybox2d has it.
  b2RevoluteJoint* join(b2RevoluteJointDef definition);

  /// Fills the polygons of a body; x = `left` [m] is the left edge of the picture.
  static void draw(Canvas& canvas, const b2Body& body, double left, Colour colour);

  static b2Vec2 vec(double x, double y) { return {static_cast<float>(x), static_cast<float>(y)}; }
  static b2EdgeShape edge(b2Vec2 from, b2Vec2 to);
  static b2PolygonShape box(double half_width, double half_height);
  static b2PolygonShape polygon(std::initializer_list<b2Vec2> vertices);

 private:
  void BeginContact(b2Contact* contact) override;
  void EndContact(b2Contact* contact) override;
  double drawn(double low, double high);
  [[noreturn]] void fail_length(size_t values) const;

  std::string id_;
  int num_actions_;
  size_t action_size_, num_draws_;
  std::unique_ptr<b2World> world_;
  RandomStream* random_ = nullptr;  // the step's; null while an episode is played again
  std::vector<double> episode_;     // what begin() drew; then for each step its action and what it drew
  size_t begin_draws_ = 0;
  size_t next_ = 0;  // of episode_, while it is played again
};

/// Gymnasium declares bounds which its simulation does not keep: only the elements in [first, last) stay in [0, 1].
Space box2d_observation_space(size_t size, std::initializer_list<std::pair<size_t, size_t>> shares);

}  // namespace myriad
