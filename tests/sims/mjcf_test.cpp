// Tasks of MJCF models from TOML files: against the built-in environments, and what such a file may and may not say.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>

#include "rl/check.hpp"
#include "rl/environment.hpp"
#include "tests/error_of.hpp"
#include "tests/temporary_folder.hpp"

namespace myriad {
namespace {

namespace fs = std::filesystem;

constexpr int kSteps = 2000;
// Gymnasium computes the cost of a control in float32, a task's expression in float64.
constexpr double kControlCostTolerance = 2e-7;

/// A pendulum with a motor, a light finger on it, a floor to the side, a free ball, a keyframe and sensors.
constexpr const char* kModel = R"(
<mujoco model="test">
  <option timestep="0.01"/>
  <worldbody>
    <geom name="floor" type="plane" size="5 5 0.1" pos="0 0 -3" friction="0.8 0.01 0.001"/>
    <body name="pole" pos="0 0 1">
      <joint name="hinge" axis="0 1 0" damping="0.2"/>
      <geom name="rod" type="capsule" fromto="0 0 0 0 0 -0.5" size="0.03" mass="1"/>
      <body name="finger" pos="0 0 -0.5">
        <joint name="finger-tip" type="slide" axis="1 0 0" damping="1" stiffness="10"/>
        <geom name="pad" type="sphere" size="0.05" mass="0.25"/>
        <site name="tip" pos="0.05 0 0"/>
      </body>
    </body>
    <body name="ball" pos="2 0 0"><freejoint name="flight"/><geom name="ball" type="sphere" size="0.1" mass="0.5"/></body>
  </worldbody>
  <actuator>
    <motor name="torque" joint="hinge" gear="2" ctrllimited="true" ctrlrange="-3 1"/>
    <motor name="push" joint="finger-tip" gear="5" ctrllimited="true" ctrlrange="-1 1"/>
  </actuator>
  <sensor><gyro name="gyro" site="tip"/><jointpos name="angle" joint="hinge"/></sensor>
  <keyframe><key name="raised" qpos="1.5 0 2 0 0 1 0 0 0"/></keyframe>
</mujoco>)";

constexpr const char* kTask = R"toml(
model = "model.xml"
[observation]
terms = ["qpos:hinge"]
[reward]
still = "-abs(qvel:hinge)"
)toml";

/// A folder with model.xml, for task files.
class Folder {
 public:
  Folder() { std::ofstream(path_ / "model.xml") << kModel; }

  /// The environment id of a new task file.
  std::string task(const std::string& text) {
    const fs::path file = path_ / fmt::format("{}.toml", files_++);
    std::ofstream(file) << text;
    return "mjcf:" + file.string();
  }

  /// What finding it says, without the folder's name.
  std::string refusal(const std::string& text) {
    const std::string id = task(text);
    std::string line = error_of([&] { EnvRegistry::instance().find(id); });
    for (size_t at = line.find(path_.string()); at != std::string::npos; at = line.find(path_.string()))
      line.erase(at, path_.string().size() + 1);
    return line;
  }

 private:
  TemporaryFolder folder_;
  const fs::path& path_ = folder_.path;
  int files_ = 0;
};

/// An environment that is played with actions from a stream named by the seed.
class Play {
 public:
  explicit Play(const std::string& id, uint64_t seed = 1, const EnvOptions& options = {})
      : spec_(configured_spec(EnvRegistry::instance().find(id), options)),
        env_(make_environment(spec_, options)),
        random_(seed, StreamPurpose::environment, 0),
        action_random_(seed, StreamPurpose::action, 0),
        observation_(spec_.observation_space.row_bytes() / sizeof(double)),
        action_(spec_.action_space.row_bytes() / sizeof(float)) {
    reset();
  }

  void reset() { env_->reset(random_, Row(std::as_writable_bytes(std::span(observation_)))); }
  StepResult step(std::vector<float> action) {
    action_ = std::move(action);
    return env_->step(ConstRow(std::as_bytes(std::span(action_))), random_,
                      Row(std::as_writable_bytes(std::span(observation_))));
  }
  StepResult step() {
    spec_.action_space.sample(action_random_, std::as_writable_bytes(std::span(action_)));
    return step(action_);
  }
  void set_state(const std::vector<double>& state) {
    env_->set_state(state, Row(std::as_writable_bytes(std::span(observation_))));
  }
  std::vector<double> state() const { return *env_->state(); }
  const std::vector<double>& observation() const { return observation_; }
  const EnvSpec& spec() const { return spec_; }
  RandomStream& random() { return random_; }

 private:
  EnvSpec spec_;
  std::unique_ptr<Environment> env_;
  RandomStream random_, action_random_;
  std::vector<double> observation_;
  std::vector<float> action_;
};

/// Plays both from one seed, episode after episode.
void compare(const std::string& built_in, const std::string& file, double reward_tolerance) {
  INFO(file);
  Play one(built_in), other(fmt::format("mjcf:{}/configs/tasks/{}", MYRIAD_SOURCE_ROOT, file));
  CHECK(one.spec().observation_space.to_string() == other.spec().observation_space.to_string());
  CHECK(one.spec().action_space.to_string() == other.spec().action_space.to_string());
  CHECK(one.spec().max_episode_steps == other.spec().max_episode_steps);
  CHECK(one.spec().reward_threshold == other.spec().reward_threshold);
  REQUIRE(one.observation() == other.observation());
  int terminated = 0;
  for (int t = 0; t < kSteps; ++t) {
    const StepResult want = one.step(), got = other.step();
    REQUIRE(other.observation() == one.observation());
    REQUIRE(std::abs(got.reward - want.reward) <= reward_tolerance);
    REQUIRE(got.terminated == want.terminated);
    if (!want.terminated && t % 500 != 499) continue;
    terminated += want.terminated;
    one.reset(), other.reset();
    REQUIRE(other.observation() == one.observation());
  }
  CHECK(terminated > (built_in == "HalfCheetah-v5" ? -1 : 10));
}

/// One number: what `expression` is after a reset.
double value_of(Folder& folder, const std::string& expression, const std::string& more = "") {
  return Play(folder.task(fmt::format("model = \"model.xml\"\n[observation]\nterms = [\"{}\"]\n[reward]\nnone = 0\n{}",
                                      expression, more)))
      .observation()
      .at(0);
}

}  // namespace

TEST_SUITE("sims/mjcf") {
  TEST_CASE("MjcfEnv: HalfCheetah-v5 as a file plays the built-in environment's episodes") {
    compare("HalfCheetah-v5", "half-cheetah.toml", kControlCostTolerance);
  }
  TEST_CASE("MjcfEnv: Hopper-v5 as a file plays the built-in environment's episodes") {
    compare("Hopper-v5", "hopper.toml", kControlCostTolerance);
  }
  TEST_CASE("MjcfEnv: InvertedPendulum-v5 as a file plays the built-in environment's episodes") {
    compare("InvertedPendulum-v5", "inverted-pendulum.toml", 0);
  }

  TEST_CASE("Expressions: numbers worked out by hand") {
    Folder folder;
    const std::pair<const char*, double> cases[] = {
        {"1 + 2 * 3 ^ 2 - 4 / 2", 17},
        {"-2 ^ 2", -4},
        {"2 ^ -1", 0.5},
        {"(1 + 2) * .5e1", 15},
        {"1 < 2 < 3", 1},
        {"1 < 2 > 3", 0},
        {"not 1 == 2 and 3 >= 3", 1},
        {"0 or 1 != 1", 0},
        {"norm([3, 4])", 5},
        {"sum(square([1, 2, 3]))", 14},
        {"sum(2 * [1, 2] - [1, 1])", 4},
        {"max([1, 7, 3]) + min([4, 2]) + max(1, 2) + min(1, 2)", 12},
        {"clip(5, -1, 1) + clip(-5, -2, 1)", -1},
        {"all([1, 2]) + 10 * all([1, 0]) + 100 * any([0, 3])", 101},
        {"where(1 > 2, 3, 4)", 4},
        {"[1, 2, 3][1:][0] + [1, 2, 3][-1]", 5},
        {"sum([1, [2, 3], 4][:-1])", 6},
        {"abs(-2) + sqrt(9) + exp(log(2)) + cos(pi) + sin(0) + isfinite(inf)", 6},
        {"tanh(0.5)", std::tanh(0.5)},
        {"atan2(1, -1)", std::atan2(1, -1)},
        {"dt + time + sum(action)", 0.01},
        {"qpos:flight[0] + qpos:flight[3]", 3},  // x, and w of its quaternion
        {"qpos:'finger-tip'", 0},
        {"xpos:pole[2] - xpos:finger[2]", 0.5},
        {"geom_xpos:rod[2]", 0.75},
        {"sum(sensor:gyro) + sensor:angle", 0},
        {"before(xpos:pole[2])", 1},
        {"twice", 4},
        {"k", 2},
    };
    for (const auto& [expression, want] : cases) {
      INFO(expression);
      CHECK(value_of(folder, expression, "[options]\nk = 2\n[values]\ntwice = \"2 * k\"") ==
            doctest::Approx(want).epsilon(1e-14));
    }
  }

  TEST_CASE("Expressions: what is wrong is named, with its column and the nearest name") {
    Folder folder;
    const auto wrong = [&](const std::string& expression) {
      return folder.refusal(std::string(kTask) + fmt::format("[termination]\nwhen = \"{}\"\n", expression));
    };
    const std::string where = "error[bad-expression] 0.toml:8:8: termination.when: ";
    const auto check = [&](const std::string& expression, const std::string& want) {
      INFO(expression);
      std::string got = wrong(expression);
      got = got.substr(got.find("when: ") + 6);
      CHECK(got == want);
    };
    CHECK(wrong("1 +") == where + "at column 4 of the expression: it ends where a value is wanted");
    check("qpos:hing > 1", "at column 1 of the expression: the model has no joint 'hing'; did you mean hinge?");
    check("1 < qpoz", "at column 5 of the expression: no value qpoz; did you mean qpos?");
    check("sqr(2)", "at column 1 of the expression: no function sqr; did you mean sqrt?");
    check("clip(2)", "at column 1 of the expression: clip does not take 1 arguments");
    check("qvel[0:2] < qvel[0:3]", "at column 22 of the expression: vectors of 2 and 3 values do not go together");
    check("qpos < 1", "it has 9 values, want 1: sum(...), norm(...), all(...) or an index makes one");
    check("qpos[9] < 1", "at column 7 of the expression: an index lies outside of 9 values");
    check("(1 < 2", "at column 7 of the expression: want ), got the end");
    check("1 < 2 )", "at column 7 of the expression: ')' is not expected");
    check("time:hinge", "at column 1 of the expression: no value time:hinge; did you mean time?");
    check("something",
          "at column 1 of the expression: no value something; known: action, dt, time and the arrays of mjData");
    check("qM", "at column 1 of the expression: no value qM; did you mean dt?");
    check(std::string(300, '('), "at column 101 of the expression: it is nested too deeply");
    check(std::string(5000, '1'), "at column 1 of the expression: 5000 characters are too many; at most 4096");
  }

  TEST_CASE("TaskFile: a wrong key, type or name is an error with its place") {
    Folder folder;
    const auto refusal = [&](const std::string& more) {
      const std::string line = folder.refusal(std::string(kTask) + more);
      const size_t number = line.find(".toml:");  // files are numbered
      return number == std::string::npos ? line : line.substr(0, line.find(' ') + 1) + line.substr(number + 6);
    };
    CHECK(folder.refusal("modle = \"model.xml\"") ==
          "error[unknown-key] 0.toml:1:1: a task has no modle; did you mean model?");
    CHECK(folder.refusal("model = \"modle.xml\"\n[observation]\nterms = [1]\n[reward]\nr = 1") ==
          "error[no-model] 1.toml:1:9: model: there is no file modle.xml");
    CHECK(folder.refusal("model = \"model.xml\"") ==
          "error[missing-key] 2.toml: a task has observations: [observation], terms = [\"qpos\", \"qvel\"]");
    CHECK(folder.refusal("model = \"model.xml\"\n[observation]\nterms = [\"act\"]\n[reward]\nr = 1") ==
          "error[bad-expression] 3.toml:3:10: observation.terms[0]: all terms together have no value");
    CHECK(refusal("[action]\nscales = 1") == "error[unknown-key] 8:1: [action] has no scales; did you mean scale?");
    CHECK(refusal("[action]\nactuators = [\"torq\"]") ==
          "error[unknown-object] 8:14: action.actuators: the model has no actuator 'torq'; did you mean torque?");
    CHECK(refusal("[action]\nscale = \"time\"") ==
          "error[bad-expression] 8:9: action.scale: it may use numbers and options only");
    CHECK(refusal("[reset]\nkeyframe = \"razed\"") ==
          "error[unknown-object] 8:12: reset.keyframe: the model has no key 'razed'; did you mean raised?");
    CHECK(refusal("[reset]\n\"qpos:hinges\" = { uniform = 1 }") ==
          "error[unknown-object] 8:17: reset.qpos:hinges: the model has no joint 'hinges'; did you mean hinge?");
    CHECK(refusal("[reset]\nqacc = 1") ==
          "error[unknown-key] 8:1: [reset] has no qacc; it takes keyframe, qpos, qvel, \"qpos:JOINT\" and "
          "\"qvel:JOINT\"");
    CHECK(refusal("[options]\ntime = 1") ==
          "error[bad-name] 8:1: [options] has 'time': want a name of letters, digits and _ that is not taken");
    CHECK(refusal("[options]\nk = \"1\"") == "error[wrong-type] 8:5: options.k is \"1\" (string), want a number");
    CHECK(refusal("[randomize]\n\"body_mas:pole\" = { uniform = [1, 2], set = true }") ==
          "error[unknown-field] 8:1: randomize.\"body_mas:pole\": no field body_mas of mjModel that can be randomised; "
          "did you mean body_mass?");
    CHECK(refusal("[randomize]\n\"body_mass:poll\" = { uniform = [1, 2], set = true }") ==
          "error[unknown-object] 8:1: randomize.\"body_mass:poll\": the model has no body 'poll'; did you mean pole?");
    CHECK(refusal("[randomize]\n\"body_mass:pole\" = { uniform = [1, 2] }") ==
          "error[wrong-type] 8:20: randomize.\"body_mass:pole\" is a table, want add = true, scale = true or set = "
          "true in it");
    CHECK(refusal("[randomize]\n\"body_mass:pole\" = { log_uniform = [0, 2], set = true }") ==
          "error[out-of-range] 8:1: randomize.\"body_mass:pole\": got [0, 2], want 0 < low <= high");
  }

  TEST_CASE("MjcfEnv: the action is a Box of ctrlrange / scale, of the actuators named") {
    Folder folder;
    Play all(folder.task(kTask));
    CHECK(all.spec().action_space.to_string() == "Box([-3.0 -1.0], 1.0, (2,), float32)");
    Play one(
        folder.task("model = \"model.xml\"\n[observation]\nterms = [\"ctrl\", \"action\"]\n[reward]\nr = 1\n"
                    "[action]\nactuators = [\"torque\"]\nscale = 2"));
    CHECK(one.spec().action_space.to_string() == "Box(-1.5, 0.5, (1,), float32)");
    one.step({0.25f});
    CHECK(one.observation() == std::vector<double>{0.5, 0, 0.25});
    Play geared(
        folder.task("model = \"model.xml\"\n[options]\ngear = 2\n[observation]\nterms = [\"ctrl\"]\n[reward]\nr = "
                    "1\n[action]\nactuators = [\"torque\"]\nscale = \"gear\""),
        1, {{"gear", 6}});
    CHECK(geared.spec().action_space.to_string() == "Box(-0.5, 0.16666667, (1,), float32)");
    CHECK(geared.spec().state_names.size() == one.spec().state_names.size());
  }

  TEST_CASE("MjcfEnv: reset takes the keyframe, then noise by joint") {
    Folder folder;
    const std::string reset =
        "[reset]\nkeyframe = \"raised\"\nqpos = { uniform = 0.1 }\n\"qpos:flight\" = { uniform = 0 }\nqvel = { normal "
        "= 1 }\n"
        "\"qvel:hinge\" = { uniform = [2, 3] }\n";
    Play play(
        folder.task("model = \"model.xml\"\n[observation]\nterms = [\"qpos\", \"qvel\"]\n[reward]\nr = 1\n" + reset));
    RandomStream random(1, StreamPurpose::environment, 0);
    std::vector<double> want = {1.5 + random.uniform(-0.1, 0.1), random.uniform(-0.1, 0.1), 2, 0, 0, 1, 0, 0, 0};
    for (int i = 0; i < 7; ++i) random.uniform();
    want.push_back(random.uniform(2, 3));
    for (int i = 0; i < 7; ++i) want.push_back(random.normal());
    CHECK(play.observation() == want);
  }

  TEST_CASE("MjcfEnv: before() and the action are part of the state") {
    Folder folder;
    const std::string id = folder.task(
        "model = \"model.xml\"\nframe_skip = 2\n[observation]\nterms = [\"before(qpos:hinge)\", \"qpos:hinge\", "
        "\"action\", \"before(before(time))\", "
        "\"cvel:pole\", \"cfrc_ext:ball\", \"subtree_linvel:pole\"]\n[reward]\nspeed = \"(qpos:hinge - "
        "before(qpos:hinge)) / dt\"\n[reset]\nqpos = { uniform = 1 }");
    Play play(id);
    CHECK(play.observation()[0] == play.observation()[1]);
    for (int t = 0; t < 30; ++t) {
      const double hinge = play.observation()[1];
      const StepResult result = play.step();
      CHECK(play.observation()[0] == hinge);
      CHECK(result.reward == (play.observation()[1] - hinge) / 0.02);
    }
    CHECK(play.observation()[4] == doctest::Approx(28 * 0.02));
    Play copy(id, 9);
    copy.set_state(play.state());
    CHECK(copy.observation() == play.observation());
    for (int t = 0; t < 30; ++t) {
      const double want = play.step({0.1f, 0.2f}).reward, got = copy.step({0.1f, 0.2f}).reward;
      REQUIRE(copy.observation() == play.observation());
      REQUIRE(got == want);
    }
  }

  // Of the pole's subtree: rod 1 kg at 0.75 m, finger at 0.5 m. mass: cinert's last number.
  constexpr const char* kRandomized = R"toml(
model = "model.xml"
[options]
heaviest = 1.5
[observation]
terms = ["cinert:finger[9]", "subtree_com:pole[2]", "qfrc_bias:flight[2]", "qpos:hinge"]
[reward]
none = 0
[reset]
qpos = { uniform = 0.0 }
[randomize]
"body_mass:finger" = { uniform = [0.5, "heaviest"], scale = true, also = ["body_inertia:finger"] }
"opt.gravity[2]" = { normal = [0, 0.5], add = true }
"geom_friction:floor[0]" = { log_uniform = [0.1, 10], set = true }
"dof_damping:*" = { uniform = [0.0, 0.1], add = true }
)toml";

  TEST_CASE("DomainRandomization: draws lie in range, from the model's own values each time") {
    Folder folder;
    const std::string id = folder.task(kRandomized);
    Play play(id), again(id), other(id, 2);
    const size_t num_draws = 3 + 8;  // of 8 degrees of freedom
    double least = 9, most = 0;
    for (int episode = 0; episode < 200; ++episode) {
      CHECK(play.observation() == again.observation());
      CHECK(play.observation() != other.observation());
      const std::vector<double> state = play.state(), drawn(state.end() - num_draws, state.end());
      const double mass = play.observation()[0];
      CHECK(mass == 0.25 * drawn[0]);
      CHECK(play.observation()[1] == doctest::Approx((0.75 + 0.5 * mass) / (1 + mass)).epsilon(1e-12));
      CHECK(play.observation()[2] == doctest::Approx(0.5 * (9.81 - drawn[1])).epsilon(1e-12));
      CHECK((drawn[2] >= 0.1 && drawn[2] <= 10));
      for (size_t i = 3; i < num_draws; ++i) CHECK((drawn[i] >= 0 && drawn[i] < 0.1));
      CHECK(drawn[3] != drawn[4]);
      least = std::min(least, drawn[0]), most = std::max(most, drawn[0]);
      play.step(), again.step();
      play.reset(), again.reset(), other.reset();
    }
    CHECK((least >= 0.5 && least < 0.52 && most < 1.5 && most > 1.48));
    // Neither the shared model nor a wider option's environment feels it.
    CHECK(value_of(folder, "cinert:finger[9]") == 0.25);
    Play heavy(id, 1, {{"heaviest", 100}});
    CHECK(heavy.observation()[0] > 0.25 * 1.5);
  }

  TEST_CASE("DomainRandomization: a saved state goes on bit for bit, the drawn model with it") {
    Folder folder;
    const std::string id = folder.task(kRandomized);
    Play play(id), copy(id, 7);
    for (int t = 0; t < 10; ++t) play.step();
    copy.set_state(play.state());
    copy.random() = play.random();
    CHECK(copy.state() == play.state());
    for (int t = 0; t < 100; ++t) {
      REQUIRE(copy.observation() == play.observation());
      play.step({0.5f, -1.0f}), copy.step({0.5f, -1.0f});
      if (t % 40 == 39) play.reset(), copy.reset();
    }
    CHECK(copy.state() == play.state());
  }

  TEST_CASE("MjcfEnv: S_0 has nothing of the episode before it: no action, no before(), no time, no control") {
    Folder folder;
    const std::string id = folder.task(
        "model = \"model.xml\"\n[observation]\nterms = [\"action\", \"before(action)\", \"before(before(action))\", "
        "\"ctrl\", \"time\", \"qvel\", \"before(qpos)\", \"qpos\"]\n[reward]\nr = \"sum(action) + "
        "sum(before(action))\"\n"
        "[reset]\nkeyframe = \"raised\"");
    Play play(id);
    const std::vector<double> first = play.observation();
    REQUIRE(first.size() == 4 * 2 + 1 + 8 + 2 * 9);
    for (size_t i = 0; i < 17; ++i) CHECK(first[i] == 0);
    for (size_t i = 17; i < 26; ++i) CHECK(first[i] == first[i + 9]);
    CHECK(play.step({0.25f, -0.5f}).reward == -0.25);
    CHECK(play.step({0.5f, 0.25f}).reward == 0.75 - 0.25);
    CHECK(play.observation()[0] == 0.5);
    CHECK(play.observation()[2] == 0.25);
    play.reset();
    CHECK(play.observation() == first);
    CHECK(play.step({0.25f, -0.5f}).reward == -0.25);  // before(action) of the first step is 0 again
  }

  TEST_CASE("MjcfEnv: an unstable simulation is an error") {
    Folder folder;
    Play play(
        folder.task(std::string(kTask) + "[randomize]\n\"opt.gravity[2]\" = { uniform = [-1e13, -1e13], set = true }"));
    CHECK(error_of([&] { play.step(); }).starts_with("error[unstable] the simulation became unstable: "));
  }
}

}  // namespace myriad
