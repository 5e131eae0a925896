// What every registered environment must keep, whatever it simulates.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <numbers>

#include "env_runners/env_stepper.hpp"
#include "rl/check.hpp"
#include "rl/environment.hpp"
#include "rl/wrappers.hpp"
#include "tests/error_of.hpp"

namespace myriad {
namespace {

constexpr int kSteps = 300;

/// One environment under random actions, without a time limit, reset where its episode ends; its streams are named by
/// `seed`.
class Run {
 public:
  Run(const EnvSpec& spec, uint64_t seed)
      : spec_(spec),
        stepper_(std::make_shared<const EnvRules>(spec, EnvOptions{}, 0), seed, StreamPurpose::environment, 0),
        action_random_(seed, StreamPurpose::action, 0),
        observation_(spec.observation_space.row_bytes() / sizeof(double) + 1),
        action_(spec.action_space.row_bytes() / sizeof(double) + 1) {
    stepper_.reset(Row(observation()));
    stepper_.check_start(Row(observation()));
  }

  std::span<std::byte> observation() { return row(observation_, spec_.observation_space); }
  std::span<std::byte> action() { return row(action_, spec_.action_space); }
  Environment& env() { return stepper_.env(); }

  StepResult step() {
    spec_.action_space.sample(action_random_, action());
    const StepResult result = stepper_.step(ConstRow(action()), Row(observation()));
    stepper_.check_step(result, result.reward, Row(observation()));
    if (result.terminated || result.truncated) stepper_.reset(Row(observation()));
    return result;
  }

  /// Continues where `other` is: its state and its streams.
  void continue_from(const Run& other, const std::vector<double>& state) {
    stepper_.resume(other.stepper_.random(), other.stepper_.episode_return(), other.stepper_.episode_length(), state,
                    Row(observation()));
    action_random_ = other.action_random_;
  }

 private:
  static std::span<std::byte> row(std::vector<double>& storage, const Space& space) {
    return std::as_writable_bytes(std::span(storage)).first(space.row_bytes());
  }

  const EnvSpec& spec_;
  EnvStepper stepper_;
  RandomStream action_random_;
  std::vector<double> observation_, action_;  // doubles for their alignment
};

void check_same_steps(Run& a, Run& b, int steps) {
  for (int t = 0; t < steps; ++t) {
    const StepResult x = a.step(), y = b.step();
    REQUIRE(x.reward == y.reward);
    REQUIRE(x.terminated == y.terminated);
    REQUIRE(std::ranges::equal(a.observation(), b.observation()));
  }
}

template <class F>
void for_each_env(F check_env) {
  for (const EnvSpec* spec : EnvRegistry::instance().all()) {
    INFO(spec->id);
    check_env(*spec);
  }
}

}  // namespace

TEST_SUITE("sims/contract") {
  TEST_CASE("Registry: the environments of the program and of its modules are there") {
    for (const char* id : {"CartPole-v1",
                           "Pendulum-v1",
                           "Acrobot-v1",
                           "MountainCar-v0",
                           "MountainCarContinuous-v0",
                           "Ant-v5",
                           "HalfCheetah-v5",
                           "Hopper-v5",
                           "Humanoid-v5",
                           "HumanoidStandup-v5",
                           "InvertedDoublePendulum-v5",
                           "InvertedPendulum-v5",
                           "Pusher-v5",
                           "Reacher-v5",
                           "Swimmer-v5",
                           "Walker2d-v5",
                           "FrozenLake-v1",
                           "FrozenLake8x8-v1",
                           "CliffWalking-v1",
                           "CliffWalkingSlippery-v1",
                           "Taxi-v3",
                           "Blackjack-v1",
                           "MinAtar/Asterix-v1",
                           "MinAtar/Breakout-v1",
                           "MinAtar/Freeway-v1",
                           "MinAtar/Seaquest-v1",
                           "MinAtar/SpaceInvaders-v1"})
      CHECK(EnvRegistry::instance().find(id).id == id);
    CHECK(error_of([] { EnvRegistry::instance().find("HalfCheeta-v5"); }) ==
          "error[unknown-env] there is no environment HalfCheeta-v5; did you mean HalfCheetah-v5?");
  }

  TEST_CASE("Environment: observations and sampled actions lie in their spaces, rewards are finite") {
    for_each_env([](const EnvSpec& spec) {
      Run run(spec, 1);
      CHECK(spec.observation_space.violation(run.observation(), "observation") == "");
      for (int t = 0; t < kSteps; ++t) {
        REQUIRE(std::isfinite(run.step().reward));
        REQUIRE(spec.observation_space.violation(run.observation(), "observation") == "");
        REQUIRE(spec.action_space.violation(run.action(), "action") == "");
      }
    });
  }

  TEST_CASE("Environment: the same streams give the same episodes, others give others") {
    for_each_env([](const EnvSpec& spec) {
      Run a(spec, 7), b(spec, 7), c(spec, 8);
      CHECK(std::ranges::equal(a.observation(), b.observation()));
      check_same_steps(a, b, kSteps);
      bool differs = false;
      for (int t = 0; t < kSteps && !differs; ++t) {
        b.step(), c.step();
        differs = !std::ranges::equal(b.observation(), c.observation());
      }
      CHECK(differs);
    });
  }

  TEST_CASE("Environment: state and set_state continue bit for bit") {
    for_each_env([](const EnvSpec& spec) {
      Run original(spec, 3), copy(spec, 4);
      for (int t = 0; t < 100; ++t) original.step();
      for (int t = 0; t < 17; ++t) copy.step();  // the copy has a past of its own, to be forgotten
      const auto state = original.env().state();
      REQUIRE(state);  // an environment of this tree without one would be named here
      copy.continue_from(original, *state);
      CHECK(std::ranges::equal(original.observation(), copy.observation()));
      CHECK(copy.env().state() == state);
      check_same_steps(original, copy, kSteps);
    });
  }

  TEST_CASE("Wrappers: around every environment, the same streams give the same steps, also from a state") {
    EnvironmentConfig config;
    config.sticky_actions = 0.3, config.frame_skip = 2, config.frame_stack = 3;
    for_each_env([&](const EnvSpec& bare) {
      const EnvSpec spec = wrapped_spec(bare, config);
      Run original(spec, 3), copy(spec, 4);
      for (int t = 0; t < 60; ++t) original.step(), copy.step();
      CHECK(spec.observation_space.violation(original.observation(), "observation") == "");
      const auto state = original.env().state();
      REQUIRE(state);  // an environment of this tree without one would be named here
      copy.continue_from(original, *state);
      CHECK(std::ranges::equal(original.observation(), copy.observation()));
      CHECK(copy.env().state() == state);
      check_same_steps(original, copy, 60);
    });
  }

  TEST_CASE("Environment: set_state takes as many values as state_names has, and no other length") {
    for_each_env([](const EnvSpec& spec) {
      Run run(spec, 1);
      REQUIRE(run.env().state());
      if (!spec.state_names.empty())
        run.env().set_state(std::vector<double>(spec.state_names.size(), 0.1), Row(run.observation()));
      const std::vector<double> wrong(run.env().state()->size() + 1);
      const std::string error = error_of([&] { run.env().set_state(wrong, Row(run.observation())); });
      CHECK(error.starts_with("error[env-state-length]"));
      CHECK(error.find(fmt::format("has {} values", wrong.size())) != std::string::npos);
    });
  }

  TEST_CASE("Environment: an unknown option is an error which names the nearest") {
    for_each_env([](const EnvSpec& spec) {
      CHECK(error_of([&] {
              make_environment(spec, {{"no_such_option", 1}});
            }).starts_with("error[unknown-env-option]"));
      for (const auto& [name, value] : spec.options) {
        CHECK(error_of([&, name = name] {
                make_environment(spec, {{name + "x", 1}});
              }) ==
              fmt::format("error[unknown-env-option] {} has no option {}x; did you mean {}?", spec.id, name, name));
      }
    });
  }

  TEST_CASE("Options: configured_spec changes the observation space with the observation") {
    struct {
      const char *id, *turned_off;
      int size;
    } const cases[] = {{"HalfCheetah-v5", "exclude_current_positions_from_observation", 18},
                       {"Hopper-v5", "exclude_current_positions_from_observation", 12},
                       {"Walker2d-v5", "exclude_current_positions_from_observation", 18},
                       {"Swimmer-v5", "exclude_current_positions_from_observation", 10},
                       {"Ant-v5", "exclude_current_positions_from_observation", 107},
                       {"Ant-v5", "include_cfrc_ext_in_observation", 27},
                       {"Humanoid-v5", "exclude_current_positions_from_observation", 350},
                       {"Humanoid-v5", "include_cinert_in_observation", 218},
                       {"Humanoid-v5", "include_cvel_in_observation", 270},
                       {"Humanoid-v5", "include_qfrc_actuator_in_observation", 331},
                       {"HumanoidStandup-v5", "include_cfrc_ext_in_observation", 270}};
    for (const auto& [id, turned_off, size] : cases) {
      INFO(id, " without ", turned_off);
      const EnvSpec spec = configured_spec(EnvRegistry::instance().find(id), {{turned_off, 0}});
      REQUIRE(spec.observation_space.flat_size() == size);
      CHECK(configured_spec(spec, {{turned_off, 0}}).observation_space.flat_size() == size);  // again: the same
      CHECK(configured_spec(spec, {{turned_off, 1}}).observation_space.flat_size() ==
            EnvRegistry::instance().find(id).observation_space.flat_size());  // and back
      std::vector<double> row(static_cast<size_t>(size));
      RandomStream random(1, StreamPurpose::environment, 0);
      const auto env = make_environment(spec, spec.options);
      env->reset(random, Row(std::as_writable_bytes(std::span(row))));
      if (spec.options.at("exclude_current_positions_from_observation") == 0)
        CHECK(row[0] == env->state()->at(1));  // after the time comes x
    }
  }

  TEST_CASE("Toy text, Box2D: a state or an option out of range is an error") {
    double row[4];
    const auto state_error = [&](const char* id, std::vector<double> state) {
      const EnvSpec& spec = EnvRegistry::instance().find(id);
      const auto env = make_environment(spec, {});
      const auto bytes = std::as_writable_bytes(std::span(row)).first(spec.observation_space.row_bytes());
      return error_of([&] { env->set_state(state, Row(bytes)); });
    };
    CHECK(state_error("FrozenLake-v1", {16}) ==
          "error[env-state-value] a state of FrozenLake-v1 holds 16, want 0 to 15");
    CHECK(state_error("Taxi-v3", {0, NAN}) == "error[env-state-value] a state of Taxi-v3 holds nan, want 0 to 1");
    CHECK(state_error("Blackjack-v1", {1, 2, 2, 1, 32, 2, 0}).starts_with("error[env-state-value]"));
    CHECK(state_error("LunarLander-v3", {1, -1}) ==
          fmt::format("error[env-state-value] a state of LunarLander-v3 holds -1 at 1, want 0 to {}", 400 / 30.0 / 2));
    CHECK(state_error("LunarLander-v3", {}).starts_with("error[env-state-length]"));
    const auto option_error = [](const char* id, const EnvOptions& options) {
      return error_of([&] { make_environment(EnvRegistry::instance().find(id), options); });
    };
    CHECK(option_error("FrozenLake-v1", {{"success_rate", 1.5}}) ==
          "error[env-option] success_rate is 1.5, want 0 to 1");
    CHECK(option_error("LunarLander-v3", {{"gravity", 1}}) ==
          "error[env-option] gravity is 1, want more than -12 and less than 0");
    CHECK(
        configured_spec(EnvRegistry::instance().find("LunarLander-v3"), {{"continuous", 1}}).action_space.to_string() ==
        EnvRegistry::instance().find("LunarLanderContinuous-v3").action_space.to_string());
  }

  TEST_CASE("Classic control: g is the pendulum's gravity, goal_velocity what the cars need at the goal") {
    RandomStream random(1, StreamPurpose::environment, 0);
    float row[3];
    const auto played = [&](const char* id, const EnvOptions& options, std::vector<double> state, auto action) {
      const EnvSpec& spec = EnvRegistry::instance().find(id);
      const auto env = make_environment(spec, options);
      const auto bytes = std::as_writable_bytes(std::span(row)).first(spec.observation_space.row_bytes());
      env->set_state(state, Row(bytes));
      return env->step(ConstRow(std::as_bytes(std::span(&action, 1))), random, Row(bytes)).terminated;
    };
    // Level and at rest it gains 3 g / 2 x 0.05 s.
    played("Pendulum-v1", {}, {std::numbers::pi / 2, 0.0}, 0.0f);
    CHECK(row[2] == doctest::Approx(0.75));
    played("Pendulum-v1", {{"g", 4}}, {std::numbers::pi / 2, 0.0}, 0.0f);
    CHECK(row[2] == doctest::Approx(0.3));
    // Without force the slope takes 0.0025 cos(3 x) of the speed 0.02: at 0.49 and at 0.44 that is less than 0.001.
    for (const double velocity : {0.0, 0.019, 0.021}) {
      CHECK(played("MountainCar-v0", {{"goal_velocity", velocity}}, {0.49, 0.02}, int32_t{1}) == (velocity < 0.02));
      CHECK(played("MountainCarContinuous-v0", {{"goal_velocity", velocity}}, {0.44, 0.02}, 0.0f) == (velocity < 0.02));
    }
  }

  TEST_CASE("CartPole-v1: Sutton and Barto's reward is 0, and -1 at the fall") {
    const auto env = make_environment(EnvRegistry::instance().find("CartPole-v1"), {{"sutton_barto_reward", 1}});
    float row[4];
    const int32_t right = 1;
    RandomStream random(1, StreamPurpose::environment, 0);
    const auto push = [&] {
      return env->step(ConstRow(std::as_bytes(std::span(&right, 1))), random,
                       Row(std::as_writable_bytes(std::span(row))));
    };
    env->reset(random, Row(std::as_writable_bytes(std::span(row))));
    CHECK(push().reward == 0.0);
    env->set_state(std::vector{2.39, 5.0, 0.0, 0.0}, Row(std::as_writable_bytes(std::span(row))));
    const StepResult fall = push();  // x = 2.39 + 0.02 * 5 = 2.49 > 2.4
    CHECK(fall.terminated);
    CHECK(fall.reward == -1.0);
  }
}

}  // namespace myriad
