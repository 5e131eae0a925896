#include "sims/box2d/box2d_env.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "rl/check.hpp"

namespace myriad {
namespace {

template <class F>
void for_each_contact(b2Contact* contact, F call) {
  for (b2Fixture* fixture : {contact->GetFixtureA(), contact->GetFixtureB()})
    if (auto* body_contact = static_cast<BodyContact*>(fixture->GetBody()->GetUserData())) call(*body_contact);
}

}  // namespace

void Box2dEnv::reset(RandomStream& random, Row observation) {
  random_ = &random;
  episode_.clear();
  begin();
  begin_draws_ = episode_.size();
  observe(observation);
}

StepResult Box2dEnv::step(ConstRow action, RandomStream& random, Row observation) {
  random_ = &random;
  double values[kMaxActionValues];
  if (num_actions_ > 0)
    values[0] = action.i32()[0];
  else
    std::ranges::copy(action.f32().first(action_size_), values);
  episode_.insert(episode_.end(), values, values + action_size_);
  const StepResult result = advance({values, action_size_});
  observe(observation);
  return result;
}

std::optional<std::vector<double>> Box2dEnv::state() const {
  std::vector<double> state{static_cast<double>(begin_draws_)};
  state.insert(state.end(), episode_.begin(), episode_.end());
  return state;
}

void Box2dEnv::set_state(std::span<const double> state, Row observation) {
  if (state.empty() || !(state[0] >= 0 && state[0] < static_cast<double>(state.size()))) fail_length(state.size());
  begin_draws_ = static_cast<size_t>(state[0]);
  episode_.assign(state.begin() + 1, state.end());
  if ((episode_.size() - begin_draws_) % (action_size_ + num_draws_) != 0) fail_length(state.size());
  random_ = nullptr;
  next_ = 0;
  begin();
  if (next_ != begin_draws_) fail_length(state.size());
  while (next_ < episode_.size()) {
    double action[kMaxActionValues];
    constexpr double kMaxFloat = std::numeric_limits<float>::max();
    for (size_t i = 0; i < action_size_; ++i)
      action[i] = num_actions_ > 0 ? drawn(0, num_actions_ - 1) : drawn(-kMaxFloat, kMaxFloat);
    advance({action, action_size_});
  }
  observe(observation);
}

double Box2dEnv::uniform(double low, double high) {
  if (random_ == nullptr) return drawn(low, high);
  return episode_.emplace_back(random_->uniform(low, high));
}

int Box2dEnv::integer(int low, int high) {
  if (random_ == nullptr) return static_cast<int>(drawn(low, high - 1));
  const int value = low + static_cast<int>(random_->below(static_cast<uint64_t>(high - low)));
  episode_.push_back(value);
  return value;
}

double Box2dEnv::drawn(double low, double high) {
  if (next_ == episode_.size()) fail_length(episode_.size() + 1);
  const double value = episode_[next_++];
  if (!(value >= low && value <= high))
    fail(Exit::usage, "env-state-value", "a state of {} holds {} at {}, want {} to {}", id_, value, next_, low, high);
  return value;
}

void Box2dEnv::fail_length(size_t values) const {
  fail(Exit::usage, "env-state-length",
       "a state of {} has {} values, want their number before the first step, those, and {} a step", id_, values,
       action_size_ + num_draws_);
}

void Box2dEnv::make_world(double gravity) {
  world_ = std::make_unique<b2World>(vec(0, gravity));
  world_->SetContactListener(this);
}

void Box2dEnv::draw(Canvas& canvas, const b2Body& body, double left, Colour colour) {
  for (const b2Fixture* fixture = body.GetFixtureList(); fixture != nullptr; fixture = fixture->GetNext()) {
    if (fixture->GetType() != b2Shape::e_polygon) continue;
    const auto& shape = *static_cast<const b2PolygonShape*>(fixture->GetShape());
    std::vector<Point> corners;
    for (int i = 0; i < shape.GetVertexCount(); ++i) {
      const b2Vec2 at = body.GetWorldPoint(shape.GetVertex(i));
      corners.push_back({static_cast<double>(at.x) - left, at.y});
    }
    canvas.polygon(corners, colour);
  }
}

b2Body* Box2dEnv::make_ground() {
  const b2BodyDef definition;
  return world_->CreateBody(&definition);
}

void Box2dEnv::add_fixture(b2Body* ground, const b2Shape& shape, double friction) {
  b2FixtureDef fixture;
  fixture.shape = &shape;
  fixture.friction = static_cast<float>(friction);
  ground->CreateFixture(&fixture);
}

b2Body* Box2dEnv::make_part(b2Vec2 position, double angle, const b2Shape& shape, double density, double friction,
                            uint16_t category, BodyContact* contact) {
  b2BodyDef definition;
  definition.type = b2_dynamicBody;
  definition.position = position;
  definition.angle = static_cast<float>(angle);
  definition.userData = contact;
  b2FixtureDef fixture;
  fixture.shape = &shape;
  fixture.density = static_cast<float>(density);
  fixture.friction = static_cast<float>(friction);
  fixture.filter.categoryBits = category;
  fixture.filter.maskBits = kGround;
  b2Body* body = world_->CreateBody(&definition);
  body->CreateFixture(&fixture);
  return body;
}

b2RevoluteJoint* Box2dEnv::join(b2RevoluteJointDef definition) {
  definition.referenceAngle = definition.bodyB->GetAngle() - definition.bodyA->GetAngle();
  definition.enableMotor = definition.enableLimit = true;
  return static_cast<b2RevoluteJoint*>(world_->CreateJoint(&definition));
}

b2EdgeShape Box2dEnv::edge(b2Vec2 from, b2Vec2 to) {
  b2EdgeShape shape;
  shape.Set(from, to);
  return shape;
}

b2PolygonShape Box2dEnv::box(double half_width, double half_height) {
  b2PolygonShape shape;
  shape.SetAsBox(static_cast<float>(half_width), static_cast<float>(half_height));
  return shape;
}

b2PolygonShape Box2dEnv::polygon(std::initializer_list<b2Vec2> vertices) {
  b2PolygonShape shape;
  shape.Set(vertices.begin(), static_cast<int32>(vertices.size()));
  return shape;
}

void Box2dEnv::BeginContact(b2Contact* contact) {
  for_each_contact(contact, [](BodyContact& body) { body.touches = true; });
}

void Box2dEnv::EndContact(b2Contact* contact) {
  for_each_contact(contact, [](BodyContact& body) { body.touches &= body.latched; });
}

Space box2d_observation_space(size_t size, std::initializer_list<std::pair<size_t, size_t>> shares) {
  Box box{.low = std::vector<double>(size, -INFINITY),
          .high = std::vector<double>(size, INFINITY),
          .shape = {static_cast<int>(size)}};
  for (const auto& [first, last] : shares)
    for (size_t i = first; i < last; ++i) box.low[i] = 0, box.high[i] = 1;
  return box;
}

}  // namespace myriad
