#include "rl/wrappers.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <vector>

#include "rl/check.hpp"
#include "tests/error_of.hpp"

namespace myriad {
namespace {

/// Observes {steps so far, last action}; the reward is the step's number. Draws one number a reset, none a step. Keeps
/// what it was told by submit.
struct Log {
  std::vector<int32_t> submitted, stepped;
};
Log told;

class Steps final : public Environment {
 public:
  explicit Steps(double length) : length_(length) {}
  void reset(RandomStream& random, Row observation) override {
    (void)random.next_u64();
    count_ = 0, action_ = -1;
    write(observation);
  }
  void submit(ConstRow action, RandomStream&) override { told.submitted.push_back(action.i32()[0]); }
  StepResult step(ConstRow action, RandomStream&, Row observation) override {
    told.stepped.push_back(action.i32()[0]);
    ++count_, action_ = action.i32()[0];
    write(observation);
    return {.reward = count_, .terminated = count_ == length_};
  }
  std::string_view warning() override { return count_ > 2 ? "more than 2" : ""; }
  std::optional<std::vector<double>> state() const override { return std::vector{count_, action_}; }
  void set_state(std::span<const double> state, Row observation) override {
    check_state_length("TestSteps-v0", state.size(), 2);
    count_ = state[0], action_ = state[1];
    write(observation);
  }

 private:
  void write(Row observation) const {
    observation.f32()[0] = static_cast<float>(count_), observation.f32()[1] = static_cast<float>(action_);
  }
  double length_, count_ = 0, action_ = -1;
};

EnvSpec steps_spec() {
  return {.id = "TestSteps-v0",
          .observation_space = Box{.low = {0, -1}, .high = {100, 2}, .shape = {2}},
          .action_space = Space::discrete(3),
          .max_episode_steps = 7,
          .source = "this test",
          .options = {{"length", 0}},
          .state_names = {"count", "action"},
          .submits = true,
          .make = [](const EnvOptions& options) { return std::make_unique<Steps>(options.at("length")); }};
}

/// A count and a flag: a Dict, whose rows have a hole.
class Mixed final : public Environment {
 public:
  void reset(RandomStream&, Row observation) override { write(observation, 0); }
  StepResult step(ConstRow, RandomStream&, Row observation) override {
    write(observation, ++count_);
    return {};
  }

 private:
  static void write(Row observation, int count) {
    observation.leaf(space().leaves()[0]).u8()[0] = static_cast<uint8_t>(count);
    observation.leaf(space().leaves()[1]).i32()[0] = count % 3;
  }
  int count_ = 0;

 public:
  static const Space& space() {
    static const Space space(Dict{{{"count", Space::box(0, 9, {1}, DType::u8)}, {"phase", Space::discrete(3)}}});
    return space;
  }
};

/// An environment of `spec` with a row of its own.
struct Played {
  explicit Played(const EnvSpec& s, uint64_t seed = 1)
      : spec(s),
        env(make_environment(spec, {})),
        random(seed, StreamPurpose::environment, 0),
        words(spec.observation_space.row_bytes() / 8 + 1) {}
  std::span<std::byte> row() {
    return std::as_writable_bytes(std::span(words)).first(spec.observation_space.row_bytes());
  }
  std::vector<float> seen() {
    const auto values = Row(row()).f32();
    return {values.begin(), values.end()};
  }
  void reset() { env->reset(random, Row(row())); }
  StepResult step(int32_t action) {
    if (spec.submits) env->submit(ConstRow(std::as_bytes(std::span(&action, 1))), random);
    return env->step(ConstRow(std::as_bytes(std::span(&action, 1))), random, Row(row()));
  }

  EnvSpec spec;
  std::unique_ptr<Environment> env;
  RandomStream random;
  std::vector<double> words;
};

using Floats = std::vector<float>;

}  // namespace

TEST_SUITE("rl/wrappers") {
  TEST_CASE("wrapped_spec: without wrappers nothing is around the environment") {
    const EnvSpec spec = wrapped_spec(steps_spec(), {});
    CHECK(dynamic_cast<Steps*>(make_environment(spec, {}).get()) != nullptr);
    CHECK(spec.observation_space.to_string() == steps_spec().observation_space.to_string());
    CHECK(spec.max_episode_steps == 7);
  }

  TEST_CASE("frame_skip: an action is applied k times and its rewards summed; an end stops it") {
    EnvironmentConfig config;
    config.frame_skip = 3;
    EnvSpec spec = steps_spec();
    spec.options["length"] = 5;
    Played played(wrapped_spec(spec, config));
    played.reset();
    told = {};
    StepResult result = played.step(2);
    CHECK(result.reward == 1 + 2 + 3);
    CHECK(played.env->warning() == "more than 2");
    CHECK(!result.terminated);
    CHECK(played.seen() == Floats{3, 2});
    result = played.step(1);
    CHECK(result.reward == 4 + 5);
    CHECK(result.terminated);
    CHECK(told.stepped == std::vector<int32_t>{2, 2, 2, 1, 1});
    CHECK(told.submitted == told.stepped);  // a simulator that hears actions early hears each of them
  }

  TEST_CASE("frame_skip: the registered time limit counts env steps, max_episode_steps the agent's") {
    EnvironmentConfig config;
    config.frame_skip = 3;
    Played own(wrapped_spec(steps_spec(), config));
    CHECK(own.spec.max_episode_steps == 3);  // 7 env steps
    own.reset();
    CHECK(!own.step(0).truncated);
    CHECK(!own.step(0).truncated);
    const StepResult last = own.step(0);
    CHECK(last.truncated);
    CHECK(!last.terminated);
    CHECK(last.reward == 7);  // the seventh step alone
    own.reset();
    CHECK(!own.step(0).truncated);

    config.max_episode_steps = 5;
    Played agents(wrapped_spec(steps_spec(), config));
    CHECK(agents.spec.max_episode_steps == 5);  // VectorEnv counts them
    agents.reset();
    for (int t = 0; t < 5; ++t) CHECK(!agents.step(0).truncated);
    CHECK(agents.seen()[0] == 15);
  }

  TEST_CASE("frame_stack: the last k observations, the oldest first; a reset fills the stack") {
    EnvironmentConfig config;
    config.frame_stack = 3;
    Played played(wrapped_spec(steps_spec(), config));
    CHECK(played.spec.observation_space.to_string() ==
          "Box([0.0 -1.0 0.0 -1.0 0.0 -1.0], [100.0 2.0 100.0 2.0 100.0 2.0], (3, 2), float32)");
    played.reset();
    CHECK(played.seen() == Floats{0, -1, 0, -1, 0, -1});
    played.step(2);
    CHECK(played.seen() == Floats{0, -1, 0, -1, 1, 2});
    played.step(1);
    played.step(0);
    CHECK(played.seen() == Floats{1, 2, 2, 1, 3, 0});
    played.reset();
    CHECK(played.seen() == Floats{0, -1, 0, -1, 0, -1});
  }

  TEST_CASE("frame_stack: of a space that is no Box, a Tuple, leaf by leaf") {
    EnvironmentConfig config;
    config.frame_stack = 2;
    Played played(wrapped_spec({.id = "TestMixed-v0",
                                .observation_space = Mixed::space(),
                                .action_space = Space::discrete(2),
                                .source = "this test",
                                .make = [](const EnvOptions&) { return std::make_unique<Mixed>(); }},
                               config));
    CHECK(played.spec.observation_space.flat_size() == 2 * (1 + 3));
    played.reset();
    played.step(0);
    played.step(0);
    const std::span<const Leaf> leaves = played.spec.observation_space.leaves();
    REQUIRE(leaves.size() == 4);
    CHECK(Row(played.row()).leaf(leaves[0]).u8()[0] == 1);
    CHECK(Row(played.row()).leaf(leaves[1]).i32()[0] == 1);
    CHECK(Row(played.row()).leaf(leaves[2]).u8()[0] == 2);
    CHECK(Row(played.row()).leaf(leaves[3]).i32()[0] == 2);
    CHECK(played.env->state() == std::nullopt);  // the environment cannot give its own
  }

  TEST_CASE("sticky_actions: an action comes again where the environment's stream says so, never an episode's first") {
    EnvironmentConfig config;
    config.sticky_actions = 0.4;
    Played played(wrapped_spec(steps_spec(), config), 5);
    RandomStream random(5, StreamPurpose::environment, 0);
    for (int episode = 0; episode < 3; ++episode) {
      told = {};
      played.reset();
      (void)random.next_u64();  // the environment's own draw
      std::vector<int32_t> want;
      bool sticks = false;
      for (int32_t t = 0; t < 41; ++t) {  // each episode begins with action 0 and ends with action 1
        played.step(t % 3);
        want.push_back(sticks ? want.back() : t % 3);
        sticks = random.uniform() < 0.4;
      }
      CHECK(told.stepped == want);
      CHECK(told.submitted == want);
    }
    config.sticky_actions = 1.0;
    Played stuck(wrapped_spec(steps_spec(), config));
    stuck.reset();
    for (int32_t action : {2, 1, 0}) stuck.step(action);
    CHECK(stuck.seen() == Floats{3, 2});
    told = {};
    stuck.reset();  // what stuck was of the episode before
    stuck.step(1);
    CHECK(stuck.seen() == Floats{1, 1});
    CHECK(told.submitted == std::vector<int32_t>{1});
  }

  TEST_CASE("Wrappers: an episode has nothing of the one before it, whatever that had come to") {
    // A skip of 2 over a limit of 7 env steps; after 0 to 6 agent steps, among them ends, the next episode is that of
    // an environment that has had none.
    EnvironmentConfig config;
    config.sticky_actions = 1.0, config.frame_skip = 2, config.frame_stack = 3;
    const EnvSpec spec = wrapped_spec(steps_spec(), config);
    for (int before = 0; before <= 6; ++before) {
      CAPTURE(before);
      Played used(spec), fresh(spec);
      used.reset();
      for (int t = 0; t < before; ++t) used.step(2);
      used.reset(), fresh.reset();
      CHECK(used.seen() == fresh.seen());
      for (int t = 1; t <= 4; ++t) {
        const StepResult a = used.step(1), b = fresh.step(1);
        CHECK(a.reward == b.reward);
        CHECK(a.truncated == (t == 4));  // the limit's 7 steps: 2 + 2 + 2 + 1
        CHECK(b.truncated == (t == 4));
        CHECK(used.seen() == fresh.seen());
      }
    }
  }

  TEST_CASE("sticky_actions: within a frame skip every env step draws, as in the Arcade Learning Environment") {
    EnvironmentConfig config;
    config.sticky_actions = 0.5;
    config.frame_skip = 2;
    Played played(wrapped_spec(steps_spec(), config), 5);
    told = {};
    played.reset();
    for (int32_t t = 0; t < 3; ++t) played.step(t);
    CHECK(played.random.position() == 1 + 6);
    CHECK(told.submitted == told.stepped);
  }

  TEST_CASE("Wrappers: state and set_state continue bit for bit, submit included") {
    EnvironmentConfig config;
    config.sticky_actions = 0.5, config.frame_skip = 2, config.frame_stack = 4;
    const EnvSpec spec = wrapped_spec(steps_spec(), config);
    for (int before = 0; before < 4; ++before) {
      Played first(spec), second(spec, 99);
      first.reset();
      for (int32_t t = 0; t < before; ++t) first.step(t % 3);
      const auto state = first.env->state();
      REQUIRE(state);
      CHECK(state->size() == spec.state_names.size());
      const Floats seen = first.seen();
      second.random = first.random;
      second.env->set_state(*state, Row(second.row()));
      CHECK(second.seen() == seen);
      for (int32_t t = 0; t < 3; ++t) {
        told = {};
        const StepResult a = first.step((t + 1) % 3);
        const Log first_told = told;
        told = {};
        const StepResult b = second.step((t + 1) % 3);
        CHECK(a.reward == b.reward);
        CHECK(a.truncated == b.truncated);
        CHECK(told.submitted == first_told.submitted);
        CHECK(first.seen() == second.seen());
      }
    }
  }

  TEST_CASE("Wrappers: options go through to an environment that can change them") {
    class Changeable final : public Environment {
     public:
      void reset(RandomStream&, Row observation) override { observation.f32()[0] = scale_; }
      StepResult step(ConstRow, RandomStream&, Row) override { return {}; }
      bool set_options(const EnvOptions& options) override {
        scale_ = static_cast<float>(options.at("scale"));
        return true;
      }

     private:
      float scale_ = 1;
    };
    EnvironmentConfig config;
    config.sticky_actions = 0.5, config.frame_skip = 2, config.frame_stack = 2;
    Played played(wrapped_spec({.id = "TestChangeable-v0",
                                .observation_space = Space::box(0, 9, {1}),
                                .action_space = Space::discrete(2),
                                .source = "this test",
                                .options = {{"scale", 1}},
                                .make = [](const EnvOptions&) { return std::make_unique<Changeable>(); }},
                               config));
    CHECK(played.env->set_options({{"scale", 3}}));
    played.reset();
    CHECK(played.seen() == Floats{3, 3});
    CHECK_FALSE(Played(wrapped_spec(steps_spec(), config)).env->set_options({}));
  }

  TEST_CASE("Wrappers: a state that cannot be is refused") {
    EnvironmentConfig config;
    config.sticky_actions = 0.5, config.frame_skip = 2, config.frame_stack = 2;
    Played played(wrapped_spec(steps_spec(), config));
    played.reset();
    const std::vector<double> good = *played.env->state();  // count, action | sticks, applied | steps | one frame of 8
    REQUIRE(good.size() == 2 + 2 + 1 + 2);
    const auto code_of = [&](std::vector<double> state) -> std::string {
      try {
        played.env->set_state(state, Row(played.row()));
      } catch (const Error& error) { return error.code(); }
      return "";
    };
    CHECK(code_of(good) == "");
    CHECK(code_of({1.0}) == "env-state-length");
    CHECK(code_of({good.begin() + 1, good.end()}) == "env-state-length");
    for (const double wrong : {-1.0, 0.5, 0x1p48, double(NAN), double(INFINITY)}) {
      std::vector<double> state = good;
      state.back() = wrong;
      CHECK(code_of(state) == "env-state");
    }
    std::vector<double> state = good;
    state[2] = 1, state[3] = 7;  // sticks to an action that is none
    CHECK(code_of(state) == "env-state");
    state = good, state[4] = -1;
    CHECK(code_of(state) == "env-state");
  }

  TEST_CASE("Wrappers: a Box of whole numbers is a choice for each element, from its lowest number on") {
    struct Told : Environment {
      void reset(RandomStream&, Row) override {}
      StepResult step(ConstRow action, RandomStream&, Row) override {
        told.assign(action.bytes().begin(), action.bytes().end());
        return {};
      }
      std::vector<std::byte>& told;
      explicit Told(std::vector<std::byte>& to) : told(to) {}
    };
    std::vector<std::byte> told_bytes;
    for (const DType dtype : {DType::u8, DType::i32, DType::i64}) {
      const EnvSpec spec{
          .id = "TestIntegers-v0",
          .observation_space = Space::box(0, 1, {2}),
          .action_space =
              Box{.low = {3, dtype == DType::u8 ? 0.0 : -5.0}, .high = {4, 2}, .shape = {2}, .dtype = dtype},
          .source = "this test",
          .make = [&](const EnvOptions&) { return std::make_unique<Told>(told_bytes); }};
      EnvironmentConfig config;
      for (const bool sticky : {false, true}) {
        config.sticky_actions = sticky ? 0.5 : 0.0;
        const EnvSpec wrapped = wrapped_spec(spec, config);
        CHECK(wrapped.action_space.to_string() ==
              (dtype == DType::u8 ? "MultiDiscrete([2 3])" : "MultiDiscrete([2 8])"));
        const auto env = make_environment(wrapped, {});
        std::vector<float> observation(2);
        const Row row(std::as_writable_bytes(std::span(observation)));
        RandomStream random(1, StreamPurpose::environment, 0);
        env->reset(random, row);
        const std::vector<int32_t> choices{1, 2};
        env->step(ConstRow(std::as_bytes(std::span(choices))), random, row);
        const int second = dtype == DType::u8 ? 2 : -3;
        REQUIRE(told_bytes.size() == 2 * size_of(dtype));
        if (dtype == DType::u8)
          CHECK((std::to_integer<int>(told_bytes[0]) == 4 && std::to_integer<int>(told_bytes[1]) == 2));
        if (dtype == DType::i32) CHECK(std::ranges::equal(ConstRow(told_bytes).i32(), std::vector<int32_t>{4, second}));
        if (dtype == DType::i64) {
          int64_t numbers[2];
          std::memcpy(numbers, told_bytes.data(), sizeof numbers);
          CHECK((numbers[0] == 4 && numbers[1] == second));
        }
      }
    }
    // As a part of a Dict: the other parts pass as they are.
    const Space pad = Dict{{{"move", Space::discrete(2, 5)},
                            {"more", Tuple{{Space::box(-1, 2, {2}, DType::i64), Space::box(-1, 1, {1})}}}}};
    EnvSpec spec = steps_spec();
    spec.action_space = pad;
    spec.make = [&](const EnvOptions&) { return std::make_unique<Told>(told_bytes); };
    const EnvSpec wrapped = wrapped_spec(spec, {});
    CHECK(wrapped.action_space.to_string() ==
          "Dict('move': Discrete(2, start=5), 'more': Tuple(MultiDiscrete([4 4]), Box(-1.0, 1.0, (1,), float32)))");
    struct {
      int32_t move = 6, choices[2] = {0, 3};
      float level = 0.25f;
    } action;
    RandomStream random(1, StreamPurpose::environment, 0);
    make_environment(wrapped, {})->step(ConstRow(std::as_bytes(std::span(&action, 1))), random, Row({}));
    struct {
      int32_t move, gap;
      int64_t numbers[2];
      float level;
      int32_t end;
    } given;
    REQUIRE(told_bytes.size() == sizeof given);
    std::memcpy(&given, told_bytes.data(), sizeof given);
    CHECK((given.move == 6 && given.numbers[0] == -1 && given.numbers[1] == 2 && given.level == 0.25f));
    EnvSpec wide = steps_spec();
    wide.action_space = Space::box(0, 1e6, {1}, DType::i32);
    CHECK(error_of([&] { (void)wrapped_spec(wide, {}); }).find("1000001 choices for element 0, want at most 65536") !=
          std::string::npos);
    wide.action_space = Dict{{{"move", Space::discrete(2)}, {"more", Tuple{{wide.action_space}}}}};
    CHECK(error_of([&] {
            (void)wrapped_spec(wide, {});
          }).starts_with("error[unsupported-space] '0' of 'more' of the actions of " + wide.id + " are Box("));
    wide.action_space = Space::box(0, INFINITY, {1}, DType::i32);
    CHECK(wrapped_spec(wide, {}).action_space.get_if<Box>() != nullptr);
    CHECK(!wrapped_spec(wide, {}).given_actions);
  }

  TEST_CASE("Wrappers: a MultiDiscrete that does not start at 0 is chosen from its least values on, both ways") {
    struct Own : Environment {  // does what it is told, and says so
      void reset(RandomStream&, Row) override {}
      StepResult step(ConstRow action, RandomStream&, Row) override {
        told.assign(action.bytes().begin(), action.bytes().end());
        own = {told, {}, 7};
        return {.own = &own};
      }
      std::vector<std::byte> told;
      OwnAction own;
    };
    EnvSpec spec = steps_spec();
    spec.action_space = Dict{{{"level", Space::box(-1, 1, {1})},
                              {"move", MultiDiscrete{{2, 11}, {0, 25}, {1, 2}}},
                              {"whole", Space::box(-3, 4, {1}, DType::i64)}}};
    Own* made = nullptr;
    spec.make = [&](const EnvOptions&) {
      auto env = std::make_unique<Own>();
      made = env.get();
      return env;
    };
    const EnvSpec wrapped = wrapped_spec(spec, {});
    CHECK(wrapped.action_space.to_string() ==
          "Dict('level': Box(-1.0, 1.0, (1,), float32), 'move': MultiDiscrete([[2 11]]), 'whole': MultiDiscrete([8]))");
    REQUIRE(wrapped.given_actions);
    CHECK(wrapped.given_actions->to_string() == spec.action_space.to_string());
    struct {
      float level = 0.5f;
      int32_t move[2] = {1, 10}, whole = 5;
    } action;
    const auto bytes = std::as_bytes(std::span(&action, 1));
    RandomStream random(1, StreamPurpose::environment, 0);
    const auto env = make_environment(wrapped, {});
    const StepResult result = env->step(ConstRow(bytes), random, Row({}));
    CHECK(spec.action_space.violation(made->told, "action") == "");
    CHECK(std::ranges::equal(ConstRow(made->told).leaf(spec.action_space.leaves()[1]).i32(), std::array{1, 35}));
    REQUIRE(result.own != nullptr);
    CHECK(std::ranges::equal(result.own->action, bytes));  // what it did, as the agent chooses
    CHECK(result.own->version == 7);
  }

  TEST_CASE("Wrappers: those that act or show more than one step are refused with an action mask") {
    EnvSpec spec = steps_spec();
    spec.action_space = Space::discrete(3);
    spec.observation_space = Dict{{{"action_mask", MultiBinary{3}}, {"observation", Space::box(0, 1, {2})}}};
    CHECK(wrapped_spec(spec, {}).observation_space.flat_size() == 5);
    const auto refusal = [&](auto change) {
      EnvironmentConfig config;
      change(config);
      return error_of([&] { (void)wrapped_spec(spec, config); });
    };
    CHECK(refusal([](EnvironmentConfig& c) { c.frame_skip = 2; }) ==
          "error[impossible] environment.frame_skip is 2, but " + spec.id +
              " has an action_mask, and an action may be masked before it is repeated; want 1");
    CHECK(refusal([](EnvironmentConfig& c) { c.sticky_actions = 0.25; }).find("sticky_actions is 0.25") !=
          std::string::npos);
    CHECK(refusal([](EnvironmentConfig& c) { c.frame_stack = 4; }).find("frame_stack is 4") != std::string::npos);
  }

  TEST_CASE("Wrappers: an option that changes the space changes the stack's") {
    EnvSpec spec = steps_spec();
    spec.options["wide"] = 0;
    spec.configure = [](EnvSpec& s) { s.observation_space = Space::box(0, 1, {s.options.at("wide") != 0 ? 4 : 2}); };
    EnvironmentConfig config;
    config.frame_stack = 2;
    const EnvSpec wrapped = wrapped_spec(spec, config);
    CHECK(configured_spec(wrapped, {{"wide", 1}}).observation_space.to_string() == "Box(0.0, 1.0, (2, 4), float32)");
    CHECK(configured_spec(wrapped, {{"length", 3}}).observation_space.to_string() == "Box(0.0, 1.0, (2, 2), float32)");
  }
}

}  // namespace myriad
