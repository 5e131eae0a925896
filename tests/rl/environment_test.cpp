#include "rl/environment.hpp"

#include <doctest/doctest.h>

#include "rl/check.hpp"
#include "rl/config.hpp"
#include "rl/env_context.hpp"
#include "rl/wrappers.hpp"
#include "tests/error_of.hpp"

namespace myriad {
namespace {

/// Says what it was told; cannot give or restore a state.
class Echo final : public Environment {
 public:
  explicit Echo(double scale) : scale_(scale) {}
  void reset(RandomStream&, Row observation) override { observation.f32()[0] = 0; }
  StepResult step(ConstRow action, RandomStream&, Row observation) override {
    observation.f32()[0] = action.f32()[0];
    return {.reward = scale_ * action.f32()[0], .terminated = false};
  }

 private:
  double scale_;
};

EnvSpec echo_spec(const std::string& id) {
  return {.id = id,
          .observation_space = Space::box(-1, 1, {1}),
          .action_space = Space::box(-1, 1, {1}),
          .source = "this test",
          .options = {{"scale", 2.0}},
          .make = [](const EnvOptions& options) { return std::make_unique<Echo>(options.at("scale")); },
          .configure = [](EnvSpec& spec) { spec.action_space = Space::box(0, spec.options.at("scale"), {1}); }};
}

const RegisterEnv echo{echo_spec("TestEcho-v0")};

double reward_of(Environment& env, float action) {
  RandomStream random(1, StreamPurpose::environment, 0);
  float observation = 0;
  return env
      .step(ConstRow(std::as_bytes(std::span(&action, 1))), random,
            Row(std::as_writable_bytes(std::span(&observation, 1))))
      .reward;
}

}  // namespace

TEST_SUITE("rl/environment") {
  TEST_CASE("EnvRegistry: a registered environment is found by its id") {
    CHECK(EnvRegistry::instance().find("TestEcho-v0").source == "this test");
    bool listed = false;
    for (const EnvSpec* spec : EnvRegistry::instance().all()) listed |= spec->id == "TestEcho-v0";
    CHECK(listed);
  }

  TEST_CASE("EnvRegistry: an unknown id is an error which names the nearest") {
    CHECK(error_of([] { EnvRegistry::instance().find("TestEko-v0"); }) ==
          "error[unknown-env] there is no environment TestEko-v0; did you mean TestEcho-v0?");
  }

  TEST_CASE("EnvRegistry: a prefix makes a spec of what follows it, once") {
    static int made = 0;
    EnvRegistry& registry = EnvRegistry::instance();
    registry.add(EnvPrefix{.prefix = "echo", .names_file = true, .make_spec = [](const std::string& rest) {
                             ++made;
                             EnvSpec spec = echo_spec("any");
                             spec.source = rest;
                             return spec;
                           }});
    CHECK(registry.find("echo:/a/../b").source == "/b");
    CHECK(registry.find("echo:/a/../b").id == "echo:/a/../b");
    CHECK(made == 1);
    CHECK(registry.absolute("echo:/a/../b") == "echo:/b");
    CHECK(registry.absolute("TestEcho-v0") == "TestEcho-v0");
    CHECK(error_of([&] { registry.find("eco:b"); }) ==
          "error[unknown-env] there is no environment eco:b: no prefix eco:; did you mean echo?");
    CHECK(error_of([&] { registry.add(EnvPrefix{.prefix = "echo", .make_spec = {}}); }) ==
          "error[internal] the prefix echo: is registered twice");
  }

  TEST_CASE("EnvRegistry: an id is registered once") {
    CHECK(error_of([] { EnvRegistry::instance().add(echo_spec("TestEcho-v0")); }) ==
          "error[internal] environment TestEcho-v0 is registered twice");
  }

  TEST_CASE("make_environment: options go over the defaults; an unknown one is an error") {
    const EnvSpec& spec = EnvRegistry::instance().find("TestEcho-v0");
    CHECK(reward_of(*make_environment(spec, {}), 0.5f) == 1.0);
    CHECK(reward_of(*make_environment(spec, {{"scale", 4.0}}), 0.5f) == 2.0);
    CHECK(error_of([&] {
            make_environment(spec, {{"scal", 4.0}});
          }) == "error[unknown-env-option] TestEcho-v0 has no option scal; did you mean scale?");
  }

  TEST_CASE("configured_spec: the spaces follow the options") {
    const EnvSpec& spec = EnvRegistry::instance().find("TestEcho-v0");
    CHECK(configured_spec(spec, {{"scale", 4.0}}).action_space.to_string() == "Box(0.0, 4.0, (1,), float32)");
    CHECK(spec.action_space.to_string() == "Box(-1.0, 1.0, (1,), float32)");
  }

  TEST_CASE("EnvContext: what makes an environment, its spaces or its spec gets it, through wrappers, too") {
    std::vector<int> doors;  // 100 more: of configure
    EnvSpec spec = echo_spec("TestLent-v0");
    spec.make = [&](const EnvOptions&, const EnvContext& context) {
      doors.push_back(context.door);
      return std::make_unique<Echo>(1.0);
    };
    spec.configure = [&](EnvSpec&, const EnvContext& context) { doors.push_back(100 + context.door); };
    EnvContext context;
    context.door = 7;
    (void)make_environment(spec, {});
    (void)make_environment(spec, {}, context);
    (void)configured_spec(spec, {{"scale", 4.0}}, context);
    CHECK(doors == std::vector<int>{-1, 7, 107});
    EnvironmentConfig config;
    config.frame_skip = config.frame_stack = 2, config.sticky_actions = 0.5;
    const EnvSpec wrapped = wrapped_spec(spec, config);
    doors.clear();
    (void)make_environment(wrapped, {}, context);
    (void)configured_spec(wrapped, {{"scale", 4.0}}, context);
    CHECK(doors == std::vector<int>{7, 107});
    EnvRegistry& registry = EnvRegistry::instance();
    registry.add(EnvPrefix{.prefix = "lent", .make_spec = [](const std::string&, const EnvContext& asked) {
                             EnvSpec lent = echo_spec("any");
                             lent.source = fmt::format("{}", asked.door);
                             return lent;
                           }});
    CHECK(registry.find("lent:a", context).source == "7");
    CHECK(registry.find("lent:b").source == "-1");
  }

  TEST_CASE("EnvContext: of a run's config it has the run's sandbox") {
    Config config;
    config.env_runners.sandbox = "strict";
    config.env_runners.sandbox_write = "/tmp";
    CHECK(EnvContext::of(config).sandbox.level == "strict");
    CHECK(EnvContext::of(config).sandbox.writable == "/tmp");
    CHECK(EnvContext{}.sandbox.level == "off");
  }

  TEST_CASE("Environment: one without a state refuses to restore one") {
    float observation = 0;
    Echo env(1.0);
    CHECK_FALSE(env.state().has_value());
    CHECK(error_of([&] { env.set_state(std::vector{1.0}, Row(std::as_writable_bytes(std::span(&observation, 1)))); }) ==
          "error[no-env-state] this environment cannot restore a state (of 1 values)");
  }
}

}  // namespace myriad
