#include "tests/env_runners/toy_envs.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <stdexcept>

#include "rl/action_mask.hpp"
#include "rl/check.hpp"

namespace myriad::test {
namespace {

class Counter : public Environment {
 public:
  Counter(double length, bool remembers) : length_(length), remembers_(remembers) {}
  void reset(RandomStream& random, Row observation) override {
    count_ = 0;
    mark_ = random.uniform();
    write(observation);
  }
  StepResult step(ConstRow action, RandomStream&, Row observation) override {
    ++count_;
    write(observation);
    return {.reward = count_ + action.i32()[0], .terminated = count_ == length_};
  }
  std::optional<std::vector<double>> state() const override {
    return remembers_ ? std::optional(std::vector{count_, mark_}) : std::nullopt;
  }
  void set_state(std::span<const double> state, Row observation) override {
    check_state_length("Counter", state.size(), 2);
    count_ = state[0], mark_ = state[1];
    write(observation);
  }

 private:
  void write(Row observation) const {
    observation.f32()[0] = static_cast<float>(count_);
    observation.f32()[1] = static_cast<float>(mark_);
  }
  double length_, count_ = 0, mark_ = 0;
  bool remembers_;
};

class Faulty : public Environment {
 public:
  explicit Faulty(int fault) : fault_(fault) {}
  void reset(RandomStream&, Row observation) override {
    count_ = 0;
    observation.f32()[0] = 0.0f;
    observation.f32()[1] = fault_ == 5 ? 2.0f : 0.0f;
  }
  StepResult step(ConstRow, RandomStream&, Row observation) override {
    observation.f32()[0] = observation.f32()[1] = 0.5f;
    if (++count_ < 3) return {};
    if (fault_ == 0) observation.f32()[1] = std::numeric_limits<float>::quiet_NaN();
    if (fault_ == 1) observation.f32()[1] = 1.5f;
    if (fault_ == 2) throw std::runtime_error("the joint came off");
    if (fault_ == 4) throw 4;
    return {.reward = fault_ == 3 ? std::numeric_limits<double>::infinity() : 0.0};
  }

 private:
  int fault_, count_ = 0;
};

class Pixels : public Environment {
 public:
  void reset(RandomStream&, Row observation) override {
    count_ = 0;
    std::ranges::fill(observation.u8(), uint8_t{0});
  }
  StepResult step(ConstRow action, RandomStream&, Row observation) override {
    std::ranges::fill(observation.u8(), static_cast<uint8_t>(++count_));
    return {.reward = static_cast<double>(action.i32()[0]), .terminated = count_ == 4};
  }

 private:
  int count_ = 0;
};

class Rooms : public Environment {
 public:
  void reset(RandomStream& random, Row observation) override {
    x_ = random.uniform(), count_ = 0;
    write(observation);
  }
  StepResult step(ConstRow action, RandomStream& random, Row observation) override {
    x_ = random.uniform(), ++count_;
    write(observation);
    return {.reward = static_cast<double>(action.f32()[0]) + static_cast<double>(action.f32()[1]), .terminated = false};
  }
  std::optional<std::vector<double>> state() const override { return std::vector{x_, count_}; }
  void set_state(std::span<const double> state, Row observation) override {
    check_state_length("Rooms", state.size(), 2);
    x_ = state[0], count_ = state[1];
    write(observation);
  }

 private:
  void write(Row observation) const {
    const Space& space = rooms().observation_space;
    const Row pose = observation.leaf(space.leaves()[0]), room = observation.leaf(space.leaves()[1]);
    pose.f32()[0] = static_cast<float>(x_), pose.f32()[1] = static_cast<float>(-x_);
    room.i32()[0] = static_cast<int32_t>(count_) % 3;
  }
  double x_ = 0, count_ = 0;
};

class Camera : public Environment {
 public:
  void reset(RandomStream& random, Row observation) override {
    count_ = 0;
    draw(random, observation);
  }
  StepResult step(ConstRow, RandomStream& random, Row observation) override {
    ++count_;
    draw(random, observation);
    return {.terminated = random.uniform() < 0.1, .truncated = random.uniform() < 0.1};
  }

 private:
  void draw(RandomStream& random, Row observation) const {
    const Space& space = camera().observation_space;
    const auto leaf = [&](size_t i) { return observation.leaf(space.leaves()[i]); };
    for (float& x : leaf(0).f32()) x = static_cast<float>(random.uniform());
    for (uint8_t& x : leaf(1).u8()) x = static_cast<uint8_t>(random.below(256));
    leaf(2).i32()[0] = count_ % 3;
  }
  int count_ = 0;
};

class Chancy : public Environment {
 public:
  explicit Chancy(double rounding) : rounding_(rounding) {}
  void reset(RandomStream& random, Row observation) override { draw(random, observation); }
  StepResult step(ConstRow, RandomStream& random, Row observation) override {
    draw(random, observation);
    return {.terminated = random.uniform() < 0.3, .truncated = random.uniform() < 0.2};
  }
  std::optional<std::vector<double>> state() const override { return std::vector{x_, y_}; }
  void set_state(std::span<const double> state, Row observation) override {
    check_state_length("Chancy", state.size(), 2);
    x_ = state[0], y_ = state[1];
    write(observation, rounding_);
  }

 private:
  void draw(RandomStream& random, Row observation) {
    x_ = random.uniform(), y_ = random.uniform();
    write(observation, 0);
  }
  void write(Row observation, double off) const {
    observation.f32()[0] = static_cast<float>(x_ + off);
    observation.f32()[1] = static_cast<float>(y_);
  }
  double rounding_, x_ = 0, y_ = 0;
};

class Masked : public Environment {
 public:
  Masked(const Space& action, const Space& observation, const EnvOptions& options)
      : choices_(choices_of(action)),
        observation_(observation),
        allowed_(static_cast<size_t>(options.at("allowed"))),
        stuck_(static_cast<int>(options.at("stuck"))) {}

  void reset(RandomStream& random, Row observation) override {
    count_ = 0;
    draw(random, observation, false);
  }
  StepResult step(ConstRow action, RandomStream& random, Row observation) override {
    double reward = 0;
    size_t at = 0;
    for (const Choice& choice : choices_) {
      int32_t value;
      std::memcpy(&value, action.bytes().data() + choice.offset, sizeof value);
      const size_t option = at + static_cast<size_t>(value - choice.start);
      if (mask_.at(option) == 0) throw std::runtime_error(fmt::format("{} is masked", choice.name));
      reward += static_cast<double>(values_[option]);
      at += static_cast<size_t>(choice.n);
    }
    ++count_;
    const bool over = random.uniform() < 0.1;
    draw(random, observation, over || count_ == stuck_);
    return {.reward = reward, .terminated = over};
  }

 private:
  void draw(RandomStream& random, Row observation, bool none) {
    mask_.clear(), values_.clear();
    for (const auto& [n, start, offset, name] : choices_) {
      std::vector<int> mask(static_cast<size_t>(n), 0);
      std::fill_n(mask.begin(), none ? 0 : std::min(allowed_, mask.size()), 1);
      shuffle(std::span(mask), random);
      mask_.insert(mask_.end(), mask.begin(), mask.end());
      for (int i = 0; i < n; ++i) values_.push_back(static_cast<float>(random.uniform()));
    }
    for (const Leaf& leaf : observation_.leaves()) {
      const Row row = observation.leaf(leaf);
      if (leaf.path == "observation" && leaf.dtype == DType::u8)
        std::ranges::transform(values_, row.u8().begin(), [](float x) { return static_cast<uint8_t>(255.0f * x); });
      else if (leaf.path == "observation")
        std::ranges::copy(values_, row.f32().begin());
      else if (leaf.dtype == DType::u8)
        std::ranges::copy(mask_, row.u8().begin());
      else
        std::ranges::copy(mask_, row.i32().begin());
    }
  }
  std::vector<Choice> choices_;
  const Space observation_;
  size_t allowed_;
  int stuck_, count_ = 0;
  std::vector<int> mask_;
  std::vector<float> values_;
};

class Gamepad : public Environment {
 public:
  void reset(RandomStream& random, Row observation) override { draw(random, observation); }
  StepResult step(ConstRow action, RandomStream& random, Row observation) override {
    const Space& space = gamepad().action_space;
    if (const std::string wrong = space.violation(action.bytes(), "action"); !wrong.empty())
      throw std::runtime_error(wrong);
    const auto leaf = [&](size_t i) { return action.leaf(space.leaves()[i]); };
    const bool right = leaf(0).f32()[0] > 1 && leaf(1).i32()[0] == 1 && leaf(1).i32()[1] == 0 &&
                       leaf(2).f64()[0] < 0.5 && leaf(3).i32()[0] == 1 && leaf(3).i32()[1] == context_ &&
                       leaf(4).i32()[0] == 10 + context_;
    draw(random, observation);
    return {.reward = right ? 1.0 : 0.0};
  }

 private:
  void draw(RandomStream& random, Row observation) {
    context_ = static_cast<int>(random.below(3));
    for (int i = 0; i < 3; ++i) observation.f32()[static_cast<size_t>(i)] = i == context_ ? 1.0f : 0.0f;
  }
  int context_ = 0;
};

EnvSpec masked_spec(std::string id, const Space& observation, const Space& action) {
  return {.id = std::move(id),
          .observation_space = observation,
          .action_space = action,
          .source = "a toy",
          .options = {{"allowed", 1}, {"stuck", 0}},
          .make = [=](const EnvOptions& o) { return std::make_unique<Masked>(action, observation, o); }};
}

EnvSpec counter_spec(std::string id, bool remembers) {
  return {.id = std::move(id),
          .observation_space = Space::box(0.0, INFINITY, {2}),
          .action_space = Space::discrete(2),
          .source = "a toy",
          .options = {{"length", 0}},
          .make = [remembers](const EnvOptions& o) { return std::make_unique<Counter>(o.at("length"), remembers); }};
}

const EnvSpec& registered(EnvSpec spec) {
  const std::string id = spec.id;
  EnvRegistry::instance().add(std::move(spec));
  return EnvRegistry::instance().find(id);
}

}  // namespace

const EnvSpec& counter() {
  static const EnvSpec& spec = registered(counter_spec("ToyCounter-v0", true));
  return spec;
}
const EnvSpec& forgetful() {
  static const EnvSpec& spec = registered(counter_spec("ToyForgetful-v0", false));
  return spec;
}
const EnvSpec& faulty() {
  static const EnvSpec& spec = registered(
      {.id = "ToyFaulty-v0",
       .observation_space = Space::box(-1.0, 1.0, {2}),
       .action_space = Space::discrete(2),
       .source = "a toy",
       .options = {{"fault", 0}},
       .make = [](const EnvOptions& o) { return std::make_unique<Faulty>(static_cast<int>(o.at("fault"))); }});
  return spec;
}
const EnvSpec& pixels() {
  static const EnvSpec& spec = registered({.id = "ToyPixels-v0",
                                           .observation_space = Space::box(0, 255, {2, 2}, DType::u8),
                                           .action_space = Space::discrete(3, 5),
                                           .source = "a toy",
                                           .make = [](const EnvOptions&) { return std::make_unique<Pixels>(); }});
  return spec;
}
const EnvSpec& rooms() {
  static const EnvSpec& spec =
      registered({.id = "ToyRooms-v0",
                  .observation_space = Dict{{{"pose", Space::box(-1.0, 1.0, {2})}, {"room", Space::discrete(3)}}},
                  .action_space = Space::box(-2.0, 4.0, {2}),
                  .max_episode_steps = 5,
                  .source = "a toy",
                  .make = [](const EnvOptions&) { return std::make_unique<Rooms>(); }});
  return spec;
}
const EnvSpec& camera() {
  static const EnvSpec& spec =
      registered({.id = "ToyCamera-v0",
                  .observation_space = Dict{{{"pose", Space::box(0.0, 1.0, {2})},
                                             {"picture", Space::box(0, 255, {8, 8, 1}, DType::u8)},
                                             {"room", Space::discrete(3)}}},
                  .action_space = Space::discrete(2),
                  .source = "a toy",
                  .make = [](const EnvOptions&) { return std::make_unique<Camera>(); }});
  return spec;
}
const EnvSpec& chancy() {
  static const EnvSpec& spec =
      registered({.id = "ToyChancy-v0",
                  .observation_space = Space::box(0.0, 2.0, {2}),
                  .action_space = Space::discrete(2),
                  .source = "a toy",
                  .options = {{"rounding", 0}},
                  .make = [](const EnvOptions& o) { return std::make_unique<Chancy>(o.at("rounding")); }});
  return spec;
}

const EnvSpec& masked() {
  static const EnvSpec& spec = registered(
      masked_spec("ToyMasked-v0",
                  Dict{{{"action_mask", Space::box(0, 1, {4}, DType::u8)}, {"observation", Space::box(0.0, 1.0, {4})}}},
                  Space::discrete(4, 10)));
  return spec;
}
const EnvSpec& masked_bytes() {
  static const EnvSpec& spec = registered(masked_spec(
      "ToyMaskedBytes-v0",
      Dict{{{"observation", Space::box(0, 255, {4}, DType::u8)}, {"action_mask", Space::box(0, 1, {4}, DType::u8)}}},
      Space::discrete(4, 10)));
  return spec;
}
const EnvSpec& masked_pair() {
  static const EnvSpec& spec = registered(masked_spec(
      "ToyMaskedPair-v0", Dict{{{"observation", Space::box(0.0, 1.0, {5})}, {"action_mask", MultiBinary{5}}}},
      MultiDiscrete{{2, 3}}));
  return spec;
}
const EnvSpec& gamepad() {
  static const EnvSpec& spec =
      registered({.id = "ToyGamepad-v0",
                  .observation_space = Space::box(0.0, 1.0, {3}),
                  .action_space = Dict{{{"aim", Space::box(-2.0, 4.0, {2})},
                                        {"keys", MultiBinary{2}},
                                        {"more", Tuple{{Space::box(0.0, 1.0, {1}, DType::f64), MultiDiscrete{{2, 3}}}}},
                                        {"move", Space::discrete(3, 10)}}},
                  .max_episode_steps = 10,
                  .source = "a toy",
                  .make = [](const EnvOptions&) { return std::make_unique<Gamepad>(); }});
  return spec;
}
const EnvSpec& masked_gamepad() {
  static const EnvSpec& spec = registered(masked_spec(
      "ToyMaskedGamepad-v0", Dict{{{"action_mask", MultiBinary{12}}, {"observation", Space::box(0.0, 1.0, {12})}}},
      gamepad().action_space));
  return spec;
}
const EnvSpec& masked_bits() {
  static const EnvSpec& spec = registered(
      masked_spec("ToyMaskedBits-v0",
                  Dict{{{"action_mask", MultiBinary{6}}, {"observation", Space::box(0.0, 1.0, {6})}}}, MultiBinary{3}));
  return spec;
}

Config config_for(const EnvSpec& env, int environments, int steps, int64_t seed) {
  Config config;
  config.seed = seed;
  config.environment.env = env.id;
  config.env_runners.num_env_runners = 1;
  config.env_runners.num_envs_per_env_runner = environments;
  config.env_runners.rollout_fragment_length = steps;
  config.rl_module.fcnet_hiddens = {16, 16};
  return config;
}

}  // namespace myriad::test
