// Tasks of MJCF models from TOML files: against the built-in environments, and what such a file may and may not say.
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <map>

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

  void write(const std::string& file, const std::string& text) {
    fs::create_directories((path_ / file).parent_path());
    std::ofstream(path_ / file) << text;
  }

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
  std::map<std::string, EpisodeNumber> numbers() {
    std::map<std::string, EpisodeNumber> all;
    for (const EpisodeNumber& number : env_->numbers()) all.emplace(number.name, number);
    return all;
  }
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
          "at column 1 of the expression: no value something; known: action, dt, pose, time and the arrays of mjData");
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
    CHECK(error_of([&] { play.step(); }).find("model.xml: the simulation became unstable: ") != std::string::npos);
  }

  /// A tower of two links on a base; its mesh is in a package; a finger follows the second joint.
  constexpr const char* kUrdf = R"(<?xml version="1.0"?>
<robot name="tower">
  <!-- <mujoco><compiler meshdir="nowhere"/></mujoco> -->
  <link name="base"><inertial><mass value="2"/><inertia ixx="1" ixy="0" ixz="0" iyy="1" iyz="0" izz="1"/></inertial>
    <visual><geometry><mesh filename="package://tower/meshes/missing.dae"/></geometry></visual></link>
  <link name="upper"><inertial><mass value="1"/><inertia ixx="1" ixy="0" ixz="0" iyy="1" iyz="0" izz="1"/></inertial>
    <collision><geometry><mesh filename="package://tower/meshes/block.obj"/></geometry></collision></link>
  <link name="lower"><inertial><mass value="1"/><inertia ixx="1" ixy="0" ixz="0" iyy="1" iyz="0" izz="1"/></inertial></link>
  <link name="finger"><inertial><mass value="1"/><inertia ixx="1" ixy="0" ixz="0" iyy="1" iyz="0" izz="1"/></inertial></link>
  <joint name="hip" type="revolute"><parent link="base"/><child link="upper"/><axis xyz="0 0 1"/>
    <limit lower="-1" upper="1" effort="10" velocity="1"/></joint>
  <joint name="knee" type="revolute"><parent link="upper"/><child link="lower"/><axis xyz="0 0 1"/>
    <limit lower="-2" upper="2" effort="5" velocity="1"/></joint>
  <joint name="tip" type="revolute"><parent link="lower"/><child link="finger"/><axis xyz="0 0 1"/>
    <mimic joint="knee" multiplier="-0.5" offset="0.25"/><limit lower="-9" upper="9" effort="5" velocity="1"/></joint>
</robot>)";
  constexpr const char* kBlock = "v 0 0 0\nv 1 0 0\nv 0 1 0\nv 0 0 1\nf 1 3 2\nf 1 2 4\nf 1 4 3\nf 2 3 4\n";
  constexpr const char* kUrdfTask =
      "[observation]\nterms = [\"qpos\", \"ctrl\", \"qfrc_actuator\"]\n[reward]\nr = 0\n[model]\nfile = "
      "\"tower/urdf/tower.urdf\"\n";

  TEST_CASE("URDF: it plays as it is: motors by effort, meshes of packages, joints that mimic others") {
    Folder folder;
    folder.write("tower/urdf/tower.urdf", kUrdf);
    folder.write("tower/meshes/block.obj", kBlock);
    CHECK(folder.refusal(kUrdfTask) ==
          "error[no-actuators] 0.toml:6:8: model.file: the model has no actuator; [action] joints = [\"*\"] gives each "
          "of "
          "its 2 joints (hip, knee) a motor, and kp = 20 and kd = 0.5 beside it make that a servo");
    Play play(folder.task(std::string(kUrdfTask) + "[action]\njoints = [\"*\"]"));
    CHECK(play.spec().action_space.to_string() == "Box([-10.0 -5.0], [10.0 5.0], (2,), float32)");
    play.step({3, -2});
    CHECK(play.observation()[5] == 3);
    CHECK(play.observation()[6] == -2);
    for (int t = 0; t < 1000; ++t) play.step({0, 0.5f});
    const double knee = play.observation()[1], tip = play.observation()[2];
    CHECK(std::abs(knee) > 0.1);
    CHECK(tip == doctest::Approx(0.25 - 0.5 * knee).epsilon(0.05));
  }

  TEST_CASE("URDF: a free root, a floor, MuJoCo's compiler and options by setting") {
    Folder folder;
    folder.write("tower/urdf/tower.urdf", kUrdf);
    folder.write("tower/meshes/block.obj", kBlock);
    Play play(folder.task(
        "[observation]\nterms = [\"qpos:root\", \"geom_xpos:floor\", \"dt\"]\n[reward]\nr = 0\n[model]\nfile = "
        "\"tower/urdf/tower.urdf\"\nbase_height = 5\nfloor = true\noption = { timestep = 0.01 }\ncompiler = { "
        "boundmass = 3 }\n[action]\njoints = [\"hip\"]\nforce = 2"));
    CHECK(play.observation() == std::vector<double>{0, 0, 5, 1, 0, 0, 0, 0, 0, 0, 0.01});
    CHECK(play.spec().action_space.to_string() == "Box(-2.0, 2.0, (1,), float32)");
    play.step({0});
    CHECK(play.observation()[2] < 5);
    Play heavy(
        folder.task("[observation]\nterms = [\"cinert:lower[9]\"]\n[reward]\nr = 0\n[model]\nfile = "
                    "\"tower/urdf/tower.urdf\"\ncompiler = { boundmass = 3 }\n[action]\njoints = [\"*\"]"));
    CHECK(heavy.observation()[0] == 3);
  }

  TEST_CASE(
      "URDF: meshes that are elsewhere are found by setting; what MuJoCo cannot take is told with what to write") {
    Folder folder;
    folder.write("robot.urdf", kUrdf);
    folder.write("shapes/block.obj", kBlock);
    folder.write("far/meshes/block.obj", kBlock);
    const auto task = [](const std::string& model) {
      return "[observation]\nterms = [\"qpos\"]\n[reward]\nr = 0\n[action]\njoints = [\"*\"]\n[model]\nfile = "
             "\"robot.urdf\"\n" +
             model;
    };
    const std::string lost = folder.refusal(task(""));
    CHECK(lost.starts_with("error[mujoco-model] MuJoCo cannot load robot.urdf: "));
    CHECK(lost.ends_with(
        "; no package://tower/meshes/block.obj: [model] packages = { NAME = \"FOLDER\" } says where it lies"));
    CHECK(Play(folder.task(task("meshes = \"shapes\""))).observation().size() == 3);
    CHECK(Play(folder.task(task("packages = { tower = \"far\" }"))).observation().size() == 3);
    folder.write("robot.urdf", "<robot name=\"r\" xmlns:xacro=\"x\"><xacro:include filename=\"y\"/></robot>");
    CHECK(folder.refusal(task("floor = true")) ==
          "error[mujoco-model] robot.urdf is a xacro file: xacro robot.urdf > robot.urdf makes a URDF of it");
    CHECK(
        folder
            .refusal("[observation]\nterms = [1]\n[reward]\nr = 0\n[model]\nfile = \"model.xml\"\ncompiler = { a = 1 }")
            .ends_with("model.xml is MJCF, and has elements of its own for them"));
  }

  TEST_CASE("URDF: meshes of one name in two folders, shapes that are left out, inertia that no body can have") {
    Folder folder;
    std::string urdf = kUrdf;
    urdf.replace(urdf.find("<link name=\"lower\">"), 19,
                 "<link name=\"lower\"><collision><geometry><mesh filename=\"wide/block.obj\"/></geometry></collision>"
                 "<collision><geometry><mesh filename=\"x.dae\"/></geometry></collision>");
    urdf.replace(urdf.find("ixy=\"0\"", urdf.find("link name=\"upper\"")), 7, "ixy=\"9\"");
    folder.write("tower/urdf/tower.urdf", urdf);
    folder.write("tower/meshes/block.obj", kBlock);
    folder.write("tower/urdf/wide/block.obj",
                 "v 0 0 0\nv 8 0 0\nv 0 8 0\nv 0 0 8\nf 1 3 2\nf 1 2 4\nf 1 4 3\nf 2 3 4\n");
    folder.write("tower/urdf/x.dae", "<COLLADA/>");
    const std::string task =
        "[observation]\nterms = [\"geom_xpos[:3] - xpos:upper\", \"geom_xpos[3:6] - xpos:lower\"]\n[reward]\nr = "
        "0\n[action]\njoints = [\"*\"]\n[model]\nfile = \"tower/urdf/tower.urdf\"\n";
    const std::string leave_out = "leave_out = [\"*.dae\"]\n";
    CHECK(folder.refusal(task).ends_with("leave such collision shapes out: [model] leave_out = [\"*.dae\"]"));
    CHECK(folder.refusal(task + leave_out).ends_with("; in the task: [model] mend_inertia = true"));
    Play play(folder.task(task + leave_out + "mend_inertia = true"));
    const double small = play.observation()[0], wide = play.observation()[3];
    CHECK(small == doctest::Approx(0.25).epsilon(0.01));
    CHECK(wide == doctest::Approx(2).epsilon(0.01));
  }

  TEST_CASE("MjcfEnv: plugins that come with MuJoCo are there") {
    Folder folder;
    folder.write("pid.xml",
                 R"(<mujoco><extension><plugin plugin="mujoco.pid"><instance name="p"><config key="kp" value="4"/>
      </instance></plugin></extension><worldbody><body><joint name="j" axis="0 0 1"/><geom size=".1"/></body></worldbody>
      <actuator><plugin joint="j" plugin="mujoco.pid" instance="p" ctrlrange="-1 1" actdim="0"/></actuator></mujoco>)");
    Play play(folder.task("model = \"pid.xml\"\n[observation]\nterms = [\"qfrc_actuator\"]\n[reward]\nr = 0"));
    play.step({0.5f});
    CHECK(play.observation()[0] == 2);
  }

  /// Balls in a pile, with memory for `memory` of contacts and constraints.
  std::string pile(const std::string& memory) {
    std::string xml = "<mujoco><size memory=\"" + memory + "\"/><worldbody><geom type=\"plane\" size=\"5 5 .1\"/>";
    for (int i = 0; i < 8; ++i)
      xml += fmt::format("<body pos=\"0 0 {}\"><freejoint/><geom size=\".1\"/></body>", 0.09 + 0.19 * i);
    return xml +
           "<body pos=\"1 0 .5\"><joint name=\"j\" type=\"slide\"/><geom size=\".1\"/></body></worldbody>"
           "<actuator><motor joint=\"j\" ctrlrange=\"-1 1\"/></actuator></mujoco>";
  }
  constexpr const char* kPileTask = "model = \"pile.xml\"\n[observation]\nterms = [\"qpos:j\"]\n[reward]\nr = 1\n";

  TEST_CASE("MujocoEnv: a fatal error of MuJoCo is an error with its words and the model's name") {
    Folder folder;
    folder.write("pile.xml", pile("48K"));
    const std::string id = folder.task(kPileTask);
    const std::string line = error_of([&] {
      Play play(id);
      for (int t = 0; t < 100; ++t) play.step({0});
    });
    CHECK(line.starts_with("error[mujoco] "));
    CHECK(line.find("pile.xml: MuJoCo: mj_stackAlloc: out of memory") != std::string::npos);
  }

  TEST_CASE("MujocoEnv: contacts and constraints that MuJoCo leaves out are counted") {
    Folder folder;
    folder.write("pile.xml", pile("22K"));
    Play play(folder.task(kPileTask));
    for (int t = 0; t < 10; ++t) play.step({0});
    CHECK(play.numbers().at("mujoco_constraints_lost").last >= 10);
    folder.write("roomy.xml", pile("4M"));
    Play roomy(folder.task("model = \"roomy.xml\"\n[observation]\nterms = [\"qpos:j\"]\n[reward]\nr = 1\n"));
    for (int t = 0; t < 10; ++t) roomy.step({0});
    CHECK(roomy.numbers().size() == 1);
  }

  TEST_CASE("MjcfEnv: an actuator without ctrlrange is named with its joint; [action] range is a way out") {
    Folder folder;
    folder.write("servo.xml",
                 R"(<mujoco><worldbody><body><joint name="j" range="-90 90" limited="true"/><geom size=".1"/>
      </body></worldbody><actuator><position name="servo" joint="j" kp="50"/><motor name="torque" joint="j"/></actuator></mujoco>)");
    const auto task = [](const std::string& action) {
      return "model = \"servo.xml\"\n[observation]\nterms = [\"ctrl\"]\n[reward]\nr = 0\n[action]\n" + action;
    };
    CHECK(
        folder.refusal(task("actuators = [\"*\"]")) ==
        "error[no-ctrlrange] 0.toml:1:9: model: actuator 0 'servo' (a position servo of joint 'j') has no ctrlrange, "
        "which bounds the actions; in the model: inheritrange=\"1\" (the range of its joint); or in the task: [action] "
        "range = [-1.571, 1.571]");
    CHECK(folder.refusal(task("actuators = [\"torque\"]")) ==
          "error[no-ctrlrange] 1.toml:1:9: model: actuator 1 'torque' (a motor of joint 'j') has no ctrlrange, which "
          "bounds the actions; in the model: ctrlrange=\"-1 1\"; or in the task: [action] range = [-1, 1]");
    Play play(folder.task(
        task("range = [-1, 1]\n\"range:servo\" = [-0.5, 0.5]\n\"scale:tor*\" = 3\n\"offset:servo\" = 0.25")));
    CHECK(play.spec().action_space.to_string() == "Box([-0.5 -1.0], [0.5 1.0], (2,), float32)");
    CHECK(play.observation() == std::vector<double>{0.25, 0});
    play.step({0.5f, 1});
    CHECK(play.observation() == std::vector<double>{0.75, 3});
    CHECK(folder.refusal(task("range = [-1, 1]\n\"scale:tork\" = 3")) ==
          "error[unknown-object] 3.toml:8:16: action.scale:tork: the model has no actuator or joint that acts 'tork'; "
          "known: servo, torque");
  }

  TEST_CASE("MjcfEnv: joint targets are counted from the pose, with the gains given") {
    Folder folder;
    const std::string task =
        "model = \"model.xml\"\n[options]\nkp = 8\n[observation]\nterms = [\"qpos:hinge\", \"ctrl\", "
        "\"actuator_force\", "
        "\"pose[0]\"]\n[reward]\nr = 0\n[pose]\nhinge = 0.5\n[action]\njoints = [\"finger-tip\", \"hinge\"]\nkp = "
        "\"kp\"\nkd = 0.25\nscale = 0.1\n\"kp:finger-tip\" = 20\n";
    Play play(folder.task(task));
    CHECK(play.spec().action_space.to_string() == "Box(-1.0, 1.0, (2,), float32)");
    CHECK(play.observation() == std::vector<double>{0.5, 0.5, 0, 0, 0, 0.5});
    play.step({0.5f, 1});
    CHECK(play.observation()[1] == doctest::Approx(0.6));  // the model's order: torque of hinge, push of finger-tip
    CHECK(play.observation()[2] == doctest::Approx(0.05));
    CHECK(play.observation()[3] == doctest::Approx(8 * 0.1));  // gear, once 2, is 1
    CHECK(play.observation()[4] == doctest::Approx(20 * 0.05));
    Play stiff(folder.task(task), 1, {{"kp", 100}});
    stiff.step({0, 1});
    CHECK(stiff.observation()[3] == doctest::Approx(2 * 3));  // what the motor could do: gear x ctrlrange
    CHECK(folder.refusal(task + "\"kd:*toe\" = 1")
              .ends_with(
                  "action.kd:*toe: the model has no joint among [action] joints '*toe'; known: finger-tip, hinge"));
  }

  TEST_CASE("MjcfEnv: rewards may remember: air time") {
    Folder folder;
    Play play(folder.task(
        "model = \"model.xml\"\n[values]\nup = \"action[0] < 0.5\"\nair = { value = \"where(up, before(air) + 1, 0)\", "
        "start = "
        "0 }\npair = { value = \"before(pair) * 2\", start = \"[1, 10]\" }\n[observation]\nterms = [\"air\", "
        "\"pair\"]\n[reward]\nlanding = \"where(up, 0, before(air))\"\n[info]\nlongest = \"air\""));
    CHECK(play.observation() == std::vector<double>{0, 1, 10});
    CHECK(play.step({0, 0}).reward == 0);
    CHECK(play.observation() == std::vector<double>{1, 2, 20});
    play.step({0, 0}), play.step({0, 0});
    CHECK(play.observation() == std::vector<double>{3, 8, 80});
    CHECK(play.step({1, 0}).reward == 3);
    CHECK(play.observation()[0] == 0);
    CHECK(play.step({1, 0}).reward == 0);
    const std::map<std::string, EpisodeNumber> numbers = play.numbers();
    CHECK(numbers.at("reward_landing").mean == 3.0 / 5);
    CHECK(numbers.at("reward_landing").last == 0);
    CHECK(numbers.at("longest").mean == (1 + 2 + 3) / 5.0);
    play.reset();
    CHECK(play.observation() == std::vector<double>{0, 1, 10});
    play.step({0, 0});
    CHECK(play.observation() == std::vector<double>{1, 2, 20});
    CHECK(folder
              .refusal(
                  "model = \"model.xml\"\n[values]\nair = { value = \"air + 1\", start = 0 }\n[observation]\nterms = "
                  "[\"air\"]\n[reward]\nr = 0")
              .find("no value air") != std::string::npos);
  }

  TEST_CASE("MjcfEnv: commands are drawn again in time; the reward is of the one that was seen") {
    Folder folder;
    Play play(
        folder.task("model = \"model.xml\"\n[commands]\nspeed = { uniform = [1, 2], every = 0.03 }\nonce = { normal = "
                    "[5, 0] }\n[observation]\nterms = "
                    "[\"speed\", \"once\"]\n[reward]\nr = \"speed\""));
    std::vector<double> seen;
    for (int t = 0; t < 9; ++t) {
      const double speed = play.observation()[0];
      if (seen.empty() || seen.back() != speed) seen.push_back(speed);
      CHECK((speed >= 1 && speed < 2));
      CHECK(play.step({0, 0}).reward == speed);
    }
    CHECK(seen.size() == 3);
    CHECK(play.observation()[1] == 5);
  }

  TEST_CASE("MjcfEnv: observations and actions may be late, and noisy; robots are pushed") {
    Folder folder;
    Play play(
        folder.task("model = \"model.xml\"\n[observation]\nterms = [\"time\", { value = \"time\", delay = 2 }, { value "
                    "= \"0\", noise = { "
                    "uniform = 0.5 }, scale = 10 }, \"ctrl:torque\", { value = \"time\", delay = [0, 3] "
                    "}]\n[reward]\nr = 0\n[action]\ndelay = 1"));
    double least = 9, most = 0;
    for (int episode = 0; episode < 40; ++episode) {
      for (int t = 1; t < 8; ++t) {
        play.step({static_cast<float>(t) / 10, 0});
        CHECK(play.observation()[1] == doctest::Approx(std::max(0, t - 2) * 0.01));
        CHECK(play.observation()[3] == doctest::Approx((t - 1) / 10.0));
        CHECK((play.observation()[2] > -5 && play.observation()[2] < 5 && play.observation()[2] != 0));
      }
      const double late = std::round((play.observation()[0] - play.observation()[4]) * 100);
      least = std::min(least, late), most = std::max(most, late);
      play.reset();
      CHECK(play.observation()[3] == 0);
    }
    CHECK((least == 0 && most == 3));
    Play pushed(
        folder.task("model = \"model.xml\"\n[observation]\nterms = [\"qvel:flight\"]\n[reward]\nr = 0\n[push]\nevery = "
                    "0.05\n\"qvel:flight[0:2]\" = { uniform = [7, 8] }"));
    for (int t = 0; t < 5; ++t) pushed.step({0, 0});
    CHECK(pushed.observation()[0] == doctest::Approx(0));
    pushed.step({0, 0});
    CHECK((pushed.observation()[0] > 6.9 && pushed.observation()[1] > 6.9));
    CHECK(pushed.observation()[4] == doctest::Approx(0));
  }

  TEST_CASE("MjcfEnv: all that a task remembers is part of its state") {
    Folder folder;
    const std::string id = folder.task(
        "model = \"model.xml\"\n[values]\nair = { value = \"before(air) + action[0]\", start = 1 }\n[commands]\nspeed "
        "= { uniform = [1, "
        "2], every = [0.02, 0.09] }\n[observation]\nterms = [\"speed\", \"air\", { value = \"qvel\", delay = [1, 3], "
        "noise = { normal = "
        "0.1 } }]\n[reward]\nr = \"air\"\n[action]\ndelay = [0, 3]\n[push]\nevery = [0.05, 0.1]\nqvel = { normal = 0.1 "
        "}");
    Play play(id), copy(id, 7);
    play.reset();
    for (int t = 0; t < 10; ++t) play.step();
    copy.set_state(play.state());
    copy.random() = play.random();
    for (int t = 0; t < 60; ++t) {
      REQUIRE(copy.observation() == play.observation());
      const double want = play.step({0.5f, -1.0f}).reward, got = copy.step({0.5f, -1.0f}).reward;
      REQUIRE(got == want);
      if (t == 40) play.reset(), copy.reset();
    }
    CHECK(copy.state() == play.state());
    CHECK(copy.numbers().at("reward_r").mean == play.numbers().at("reward_r").mean);
  }
}

}  // namespace myriad
