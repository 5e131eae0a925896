#include "env_runners/env_stepper.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <limits>

#include "tests/env_runners/toy_envs.hpp"
#include "tests/error_of.hpp"

using namespace myriad;
using namespace myriad::test;

namespace {

/// Observes {steps of the episode, a number drawn at reset}. The action says what a step does.
class Obedient : public Environment {
 public:
  enum : int32_t { kOn, kTerminate, kTruncate, kNan, kOutside, kThrow, kThrowInt, kBadReward };

  void reset(RandomStream& random, Row observation) override {
    if (fails_at_reset) throw std::runtime_error("no coins");
    t_ = 0;
    mark_ = static_cast<float>(random.uniform());
    write(observation);
  }
  void submit(ConstRow action, RandomStream&) override { submitted = action.i32()[0]; }
  StepResult step(ConstRow action, RandomStream&, Row observation) override {
    const int32_t told = action.i32()[0];
    if (told == kThrow) throw Error(Exit::usage, "bad-arm", "the joint came off");
    if (told == kThrowInt) throw 4;
    ++t_;
    write(observation);
    if (told == kNan) observation.f32()[1] = std::numeric_limits<float>::quiet_NaN();
    if (told == kOutside) observation.f32()[1] = 1.5f;
    return {.reward = told == kBadReward ? -std::numeric_limits<double>::infinity() : 10.0 * t_,
            .terminated = told == kTerminate,
            .truncated = told == kTruncate};
  }
  bool set_options(const EnvOptions& options) override {
    scale = options.at("scale");
    return scale != 13;
  }
  std::optional<std::vector<double>> state() const override { return std::vector<double>{double(t_), double(mark_)}; }
  void set_state(std::span<const double> state, Row observation) override {
    check_state_length("Obedient", state.size(), 2);
    t_ = static_cast<int>(state[0]), mark_ = static_cast<float>(state[1]);
    write(observation);
  }

  bool fails_at_reset = false;
  int32_t submitted = -1;
  double scale = 1;

 private:
  void write(Row observation) const { observation.f32()[0] = static_cast<float>(t_), observation.f32()[1] = mark_; }
  int t_ = 0;
  float mark_ = 0;
};

EnvSpec obedient() {
  return {.id = "Obedient-v0",
          .observation_space = Space(Box{{0, 0}, {100, 1}, {2}}),
          .action_space = Space::discrete(8),
          .source = "a toy",
          .options = {{"scale", 1}},
          .make = [](const EnvOptions&) { return std::make_unique<Obedient>(); }};
}

struct Stage {
  explicit Stage(int64_t limit = 0, StreamPurpose purpose = StreamPurpose::environment, uint64_t index = 41)
      : stepper(std::make_shared<const EnvRules>(obedient(), EnvOptions{}, limit), 9, purpose, index) {
    stepper.reset(row());
  }
  Row row() { return Row(std::as_writable_bytes(std::span(observation))); }
  Obedient& env() { return static_cast<Obedient&>(stepper.env()); }
  StepResult step(int32_t told = Obedient::kOn) {
    const StepResult result = stepper.step(ConstRow(std::as_bytes(std::span(&told, 1))), row());
    stepper.check_step(result, result.reward, row());
    return result;
  }
  /// The error of a second step that is told so.
  std::string error(int32_t told) {
    step();
    return error_of([&] { step(told); });
  }
  EnvStepper stepper;
  std::array<float, 2> observation{};
};

}  // namespace

TEST_SUITE("env_runners/env_stepper") {
  TEST_CASE("EnvStepper: the time limit truncates its step, beside a termination too; 0 is none") {
    Stage three(3), none(0);
    CHECK(!three.step().truncated);
    CHECK(!three.step().truncated);
    const StepResult last = three.step();
    CHECK(last.truncated);
    CHECK(!last.terminated);
    CHECK(three.observation[0] == 3);  // S_T stays; nothing resets by itself
    three.stepper.reset(three.row());
    CHECK(three.observation[0] == 0);
    three.step(), three.step();
    const StepResult both = three.step(Obedient::kTerminate);
    CHECK(both.terminated);
    CHECK(both.truncated);
    for (int t = 0; t < 50; ++t) CHECK(!none.step().truncated);
  }

  TEST_CASE("EnvStepper: a simulator truncates by itself, under the limit and without one") {
    for (const int64_t limit : {0, 5}) {
      Stage stage(limit);
      stage.step();
      const StepResult cut = stage.step(Obedient::kTruncate);
      CHECK(cut.truncated);
      CHECK(!cut.terminated);
    }
  }

  TEST_CASE("EnvStepper: return and length are those of the episode") {
    Stage stage;
    stage.step(), stage.step(), stage.step();
    CHECK(stage.stepper.episode_return() == 10 + 20 + 30);
    CHECK(stage.stepper.episode_length() == 3);
    stage.stepper.reset(stage.row());
    CHECK(stage.stepper.episode_return() == 0);
    CHECK(stage.stepper.episode_length() == 0);
    stage.step();
    CHECK(stage.stepper.episode_return() == 10);
  }

  TEST_CASE("EnvStepper: every error says environment, index, seed, step and fact") {
    const std::string at = "Obedient-v0 env 41 (seed 9) at step 2 of its episode: ",
                      check = "; check: myriad check-env Obedient-v0";
    CHECK(Stage().error(Obedient::kNan) == "error[nan] " + at + "obs[1] = nan" + check);
    CHECK(Stage().error(Obedient::kOutside) ==
          "error[obs-bounds] " + at +
              "obs[1] = 1.5 outside [0, 1]; widen the space, or set environment.out_of_bounds to clip or warn" + check);
    CHECK(Stage().error(Obedient::kBadReward) == "error[nan] " + at + "reward = -inf" + check);
    CHECK(Stage().error(Obedient::kThrow) ==
          "error[env-exception] " + at + "the simulator threw: the joint came off" + check);
    CHECK(Stage().error(Obedient::kThrowInt) ==
          "error[env-exception] " + at + "the simulator threw something that is not a std::exception" + check);
    Stage stage;
    stage.env().fails_at_reset = true;
    CHECK(error_of([&] { stage.stepper.reset(stage.row()); }) ==
          "error[env-exception] Obedient-v0 env 41 (seed 9) at reset: the simulator threw: no coins" + check);
  }

  TEST_CASE("EnvStepper: an evaluation's error names its episode; the fact stands alone, too") {
    Stage stage(0, StreamPurpose::evaluation, 2);
    stage.step();
    stage.stepper.set_index(6);
    stage.stepper.reset(stage.row());
    try {
      stage.step(Obedient::kOutside);
      FAIL("nothing was thrown");
    } catch (const EnvError& error) {
      CHECK(error.line().starts_with("error[obs-bounds] Obedient-v0 evaluation episode 6 (seed 9) at step 1: obs[1]"));
      CHECK(error.where == "at step 1");
      CHECK(error.fact ==
            "obs[1] = 1.5 outside [0, 1]; widen the space, or set environment.out_of_bounds to clip or warn");
      CHECK(error.exit_status() == Exit::environment);
    }
  }

  TEST_CASE("EnvStepper: an episode's numbers are those of the stream of seed, purpose and index") {
    const auto first_of = [](StreamPurpose purpose, uint64_t index) {
      return static_cast<float>(RandomStream(9, purpose, index).uniform());
    };
    Stage stage(0, StreamPurpose::evaluation, 2);
    CHECK(stage.observation[1] == first_of(StreamPurpose::evaluation, 2));
    stage.stepper.reset(stage.row());  // the next number of the same stream
    CHECK(stage.observation[1] != first_of(StreamPurpose::evaluation, 2));
    stage.stepper.set_index(7);
    stage.stepper.reset(stage.row());
    CHECK(stage.observation[1] == first_of(StreamPurpose::evaluation, 7));
    CHECK(Stage().observation[1] == first_of(StreamPurpose::environment, 41));
  }

  TEST_CASE("EnvStepper: resume goes on in an episode, its stream, return and time limit") {
    Stage original(4), copy(4);
    original.step(), original.step();
    copy.stepper.reset(copy.row());  // a past of its own
    copy.step();
    copy.stepper.resume(original.stepper.random(), original.stepper.episode_return(), original.stepper.episode_length(),
                        *original.stepper.env().state(), copy.row());
    CHECK(copy.observation == original.observation);
    CHECK(!copy.step().truncated);
    CHECK(copy.step().truncated);
    CHECK(copy.stepper.episode_return() == 10 + 20 + 30 + 40);
    original.stepper.reset(original.row()), copy.stepper.reset(copy.row());
    CHECK(copy.observation == original.observation);
    CHECK(error_of([&] {
            copy.stepper.resume(original.stepper.random(), 0, 0, std::vector<double>{1.0}, copy.row());
          }).starts_with("error[env-exception] Obedient-v0 env 41 (seed 9) at reset: the simulator threw: a state of"));
  }

  TEST_CASE("EnvStepper: new options reach the environment, or a new one where it cannot take them") {
    Stage stage;
    stage.step();
    stage.stepper.set_options({{"scale", 2}});
    CHECK(stage.env().scale == 2);
    CHECK(stage.stepper.episode_length() == 0);
    stage.stepper.set_options({{"scale", 13}});
    CHECK(stage.env().scale == 1);  // made anew, by a spec that makes all alike
  }

  TEST_CASE("EnvStepper: environments are made in the context of the rules, also anew") {
    std::vector<int> doors;
    EnvSpec spec = obedient();
    spec.make = [&](const EnvOptions&, const EnvContext& context) {
      doors.push_back(context.door);
      return std::make_unique<Obedient>();
    };
    EnvContext context;
    context.door = 5;
    EnvStepper stepper(std::make_shared<const EnvRules>(spec, EnvOptions{}, 0, context), 1, StreamPurpose::environment,
                       0);
    stepper.set_options({{"scale", 2}});
    stepper.set_options({{"scale", 13}});
    CHECK(doors == std::vector<int>{5, 5});
  }

  TEST_CASE("EnvStepper: submit hands on the action") {
    Stage stage;
    const int32_t told = 5;
    stage.stepper.submit(ConstRow(std::as_bytes(std::span(&told, 1))));
    CHECK(stage.env().submitted == 5);
  }

  TEST_CASE("EnvStepper: check_start and check_step want a possible action where the episode goes on") {
    EnvStepper stepper(std::make_shared<const EnvRules>(masked(), EnvOptions{}, 0), 3, StreamPurpose::environment, 0);
    std::vector<std::byte> bytes(masked().observation_space.row_bytes());
    const Row row(bytes);
    stepper.reset(row);
    stepper.check_start(row);
    stepper.check_step({}, 0, row);
    std::ranges::fill(row.leaf(masked().observation_space.leaves()[0]).u8(), uint8_t{0});  // the mask
    const std::string want =
        fmt::format("error[no-action] ToyMasked-v0 env 0 (seed 3) at reset: {}; check: myriad check-env ToyMasked-v0",
                    ActionMask::kNoAction);
    CHECK(error_of([&] { stepper.check_start(row); }) == want);
    CHECK(error_of([&] { stepper.check_step({}, 0, row); }) == want);
    stepper.check_step({.terminated = true}, 0, row);
    stepper.check_step({.truncated = true}, 0, row);
  }

  TEST_CASE("EnvStepper: a reward that is finite, but not as it is used, is an error") {
    Stage stage;
    CHECK(error_of([&] {
            stage.stepper.check_step({.reward = 1e300}, INFINITY, stage.row());
          }).find("reward = 1e+300") != std::string::npos);
  }

  TEST_CASE("EnvRules: a time limit is no negative number") {
    CHECK(error_of([] { EnvRules(obedient(), {}, -1); }) == "error[internal] a time limit of -1 steps");
    CHECK(error_of([] {
            EnvRules(obedient(), {{"scal", 1}}, 1);
          }) == "error[unknown-env-option] Obedient-v0 has no option scal; did you mean scale?");
  }
}
