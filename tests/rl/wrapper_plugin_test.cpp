#include "rl/wrapper_plugin.hpp"

#include <doctest/doctest.h>

#include <array>
#include <filesystem>

#include "tests/error_of.hpp"

namespace myriad {
namespace {

/// Observes {steps, the last action}; the reward is the action, plus 100 where the action was submitted before.
class Echoing : public Environment {
 public:
  void reset(RandomStream&, Row observation) override { write(t_ = 0, last_ = 0, observation); }
  void submit(ConstRow action, RandomStream&) override { submitted_ = action.i32()[0]; }
  StepResult step(ConstRow action, RandomStream&, Row observation) override {
    write(++t_, last_ = action.i32()[0], observation);
    return {.reward = last_ + (submitted_ == last_ ? 100.0 : 0.0)};
  }
  std::string_view warning() override { return last_ == 8 ? "8 is much" : ""; }
  std::optional<std::vector<double>> state() const override { return std::vector<double>{double(t_), double(last_)}; }
  void set_state(std::span<const double> state, Row observation) override {
    check_state_length("Echoing", state.size(), 2);
    write(t_ = static_cast<int>(state[0]), last_ = static_cast<int>(state[1]), observation);
  }

 private:
  static void write(int t, int last, Row observation) {
    observation.f32()[0] = static_cast<float>(t), observation.f32()[1] = static_cast<float>(last);
  }
  int t_ = 0, last_ = 0, submitted_ = -1;
};

EnvSpec echoing() {
  return {.id = "TestEchoing-v0",
          .observation_space = Space::box(-100, 100, {2}),
          .action_space = Space::discrete(9),
          .source = "a toy",
          .options = {{"speed", 1}},
          .make = [](const EnvOptions&) { return std::make_unique<Echoing>(); }};
}

/// Sees {sum of all t so far} alone; acts 3 for 0 and 5 for 1; the reward is halved, and an episode ends at S_3.
class Summing final : public EnvWrapper {
 public:
  Summing(std::unique_ptr<Environment> env, const EnvSpec& inside, const EnvOptions& options)
      : EnvWrapper(std::move(env), inside), factor(options.at("factor")) {}
  static EnvOptions options() { return {{"factor", 0.5}}; }
  static void describe(EnvSpec& env) {
    env.observation_space = Space::box(0, 1e6, {1});
    env.action_space = Space::discrete(2);
    env.max_episode_steps = static_cast<int>(10 * env.options.at("factor"));
  }
  double factor;

 private:
  void begin(ConstRow) override { before_ = sum_ = 0; }
  void see(ConstRow inside, Row seen) override {
    sum_ = before_ + static_cast<double>(inside.f32()[0]);
    seen.f32()[0] = static_cast<float>(sum_);
  }
  void act(ConstRow chosen, Row inside) const override { inside.i32()[0] = chosen.i32()[0] == 0 ? 3 : 5; }
  void adjust(StepResult& result, ConstRow action, ConstRow inside) override {
    CHECK((action.i32()[0] == 3 || action.i32()[0] == 5));
    result.reward *= factor;
    result.terminated = inside.f32()[0] == 3;
    before_ = sum_;
  }
  void save(std::vector<double>& state) const override { state.push_back(before_); }
  void load(std::span<const double> state) override { before_ = state[0]; }

  double before_ = 0, sum_ = 0;
};

/// Only asks to see another space.
class Unwritten final : public EnvWrapper {
 public:
  using EnvWrapper::EnvWrapper;
  static void describe(EnvSpec& env) { env.observation_space = Space::box(0, 1, {7}); }
};

struct Played {
  explicit Played(const NamedWrapper& named, size_t floats = 1)
      : env(named.wrap(std::make_unique<Echoing>(), echoing(), {{"speed", 1}, {"factor", 0.5}})), seen(floats) {}
  Row row() { return Row(std::as_writable_bytes(std::span(seen))); }
  StepResult step(int32_t action, bool submits = false) {
    const ConstRow chosen(std::as_bytes(std::span(&action, 1)));
    if (submits) env->submit(chosen, random);
    return env->step(chosen, random, row());
  }
  std::unique_ptr<Environment> env;
  RandomStream random{1, StreamPurpose::environment, 0};
  std::vector<float> seen;
};

}  // namespace

TEST_SUITE("rl/wrapper_plugin") {
  TEST_CASE("EnvWrapper: hooks change what is seen, done and rewarded") {
    Played played(wrapper<Summing>("sum"));
    played.env->reset(played.random, played.row());
    CHECK(played.seen[0] == 0);
    CHECK(played.step(0).reward == 1.5);  // acts 3
    CHECK(played.seen[0] == 1);
    CHECK(played.step(1).reward == 2.5);  // acts 5
    CHECK(played.seen[0] == 1 + 2);
    CHECK(played.step(0).terminated);
    CHECK(played.seen[0] == 1 + 2 + 3);
    played.env->reset(played.random, played.row());
    CHECK(played.seen[0] == 0);
    CHECK(played.step(1, true).reward == 0.5 * (5 + 100));  // the environment heard of the action that it was to do
  }

  TEST_CASE("EnvWrapper: a state has the environment's and what the hooks remember") {
    Played original(wrapper<Summing>("sum")), copy(wrapper<Summing>("sum"));
    original.env->reset(original.random, original.row());
    copy.env->reset(copy.random, copy.row());
    original.step(0), original.step(0);
    const auto state = original.env->state();
    REQUIRE(state);
    CHECK(*state == std::vector<double>{2, 3, 1});
    copy.env->set_state(*state, copy.row());
    CHECK(copy.seen == original.seen);
    CHECK(copy.env->state() == state);
    CHECK(copy.step(1).terminated);
    original.step(1);
    CHECK(copy.seen == original.seen);
    CHECK(error_of([&] { copy.env->set_state({}, copy.row()); }) ==
          "error[env-state-length] a state has 0 values, and its wrapper's part alone is 1");
  }

  TEST_CASE("EnvWrapper: without hooks everything is as it was; another space wants its hook") {
    Played plain(wrapper<EnvWrapper>("plain"), 2), broken(wrapper<Unwritten>("broken"), 7);
    plain.env->reset(plain.random, plain.row());
    CHECK(plain.step(4).reward == 4);
    CHECK(plain.seen == std::vector<float>{1, 4});
    CHECK(*plain.env->state() == std::vector<double>{1, 4});
    CHECK(plain.env->warning() == "");
    plain.step(8);
    CHECK(plain.env->warning() == "8 is much");
    CHECK_THROWS_WITH_AS(broken.env->reset(broken.random, broken.row()),
                         "describe() changes the observation space: override see()", std::logic_error);
  }

  TEST_CASE("wrapper: takes options, spaces and constructor of a class as it has them") {
    const NamedWrapper summing = wrapper<Summing>("sum"), plain = wrapper<EnvWrapper>("plain");
    CHECK(std::string(summing.name) == "sum");
    CHECK(summing.options() == EnvOptions{{"factor", 0.5}});
    CHECK(plain.options().empty());
    EnvSpec spec = echoing();
    plain.describe(spec);
    CHECK(spec.observation_space.flat_size() == 2);
    spec.options["factor"] = 2;
    summing.describe(spec);
    CHECK(spec.observation_space.flat_size() == 1);
    CHECK(spec.action_space.to_string() == "Discrete(2)");
    CHECK(spec.max_episode_steps == 20);
    const auto env = summing.wrap(std::make_unique<Echoing>(), echoing(), {{"factor", 3}});
    CHECK(dynamic_cast<Summing&>(*env).factor == 3);
  }

  TEST_CASE("known_options: the environment's, with the given values where it has them") {
    CHECK(known_options(echoing(), {{"speed", 4}, {"factor", 2}}) == EnvOptions{{"speed", 4}});
    CHECK(known_options(echoing(), {}) == EnvOptions{{"speed", 1}});
  }

  TEST_CASE("plugin_parts: a name comes after the last colon, a path has slashes") {
    using Parts = std::pair<std::string, std::string>;
    const std::string here = std::filesystem::current_path().string();
    CHECK(plugin_parts("plugin:/a/b.so") == Parts{"/a/b.so", ""});
    CHECK(plugin_parts("plugin:/a/b.so:crop") == Parts{"/a/b.so", "crop"});
    CHECK(plugin_parts("plugin:./b.so") == Parts{here + "/b.so", ""});
    CHECK(plugin_parts("plugin:/a:c/b.so") == Parts{"/a:c/b.so", ""});
    CHECK(plugin_parts("frame_stack") == Parts{"", ""});
  }

  TEST_CASE("wrapped_by: what is no plugin is refused") {
    CHECK(error_of([] { wrapped_by(echoing(), "crop", {}, {}); }) ==
          "error[out-of-range] environment.wrappers has 'crop'; want plugin:PATH or plugin:PATH:NAME");
    CHECK(error_of([] { wrapped_by(echoing(), "plugin:/nowhere/mine.so", {}, {}); }) ==
          "error[no-plugin] there is no file /nowhere/mine.so");
  }
}

}  // namespace myriad
