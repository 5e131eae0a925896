#include "rl/curriculum.hpp"

#include <doctest/doctest.h>

#include "rl/check.hpp"
#include "tests/error_of.hpp"

namespace myriad {
namespace {

class Nothing final : public Environment {
 public:
  void reset(RandomStream&, Row) override {}
  StepResult step(ConstRow, RandomStream&, Row) override { return {}; }
};

/// `size` decides the observation space.
EnvSpec spec() {
  return {.id = "TestRobot-v0",
          .observation_space = Space::box(-1, 1, {2}),
          .action_space = Space::discrete(2),
          .source = "this test",
          .options = {{"drag", 0.5}, {"gravity", 9.81}, {"mass", 2.0}, {"size", 2}},
          .make = [](const EnvOptions&) { return std::make_unique<Nothing>(); },
          .configure =
              [](EnvSpec& s) { s.observation_space = Space::box(-1, 1, {static_cast<int>(s.options.at("size"))}); }};
}

using Values = std::vector<double>;
using Rows = std::vector<std::pair<std::string, double>>;

}  // namespace

TEST_SUITE("rl/curriculum") {
  TEST_CASE("Curriculum: none sets nothing") {
    const Curriculum none({}, spec());
    CHECK(none.size() == 0);
    CHECK(none.num_levels() == 1);
    CHECK(none.at(1000, 0).empty());
    CHECK(none.rows(1000, 0).empty());
  }

  TEST_CASE("Curriculum: schedules by env steps, ranges, and levels over the environment's own values") {
    CurriculumConfig config;
    config.schedules = {{"gravity", Schedule({{0, 5.0}, {100, 9.0}})}};
    config.levels = {{}, {{"mass", {3, 3}}}, {{"mass", {1, 4}}, {"drag", {0.1, 0.1}}}};
    config.advance_at = 1.0;
    const Curriculum curriculum(config, spec());
    CHECK(curriculum.options() == std::vector<std::string>{"drag", "gravity", "mass"});
    CHECK(curriculum.num_levels() == 3);
    CHECK(curriculum.size() == 7);
    // level, drag, gravity, mass; of gravity 5 + 4 * steps / 100
    CHECK(curriculum.at(0, 0) == Values{0, 0.5, 0.5, 5, 5, 2, 2});
    CHECK(curriculum.at(50, 1) == Values{1, 0.5, 0.5, 7, 7, 3, 3});
    CHECK(curriculum.at(500, 2) == Values{2, 0.1, 0.1, 9, 9, 1, 4});
    CHECK(curriculum.rows(50, 1) ==
          Rows{{"level", 1}, {"drag", 0.5}, {"gravity", 7}, {"mass_low", 3}, {"mass_high", 3}});
    config = {};
    config.randomize = {{"mass", {1, 4}}};
    CHECK(Curriculum(config, spec()).at(0, 0) == Values{0, 1, 4});
    CHECK(Curriculum(config, spec()).rows(0, 0) == Rows{{"mass_low", 1}, {"mass_high", 4}});
  }

  TEST_CASE("Curriculum: an unknown option, and one that changes a space, are refused") {
    const auto refused = [](const CurriculumConfig& config) { return error_of([&] { Curriculum(config, spec()); }); };
    CurriculumConfig config;
    config.randomize = {{"masss", {1, 4}}};
    CHECK(refused(config) == "error[unknown-env-option] TestRobot-v0 has no option masss; did you mean mass?");
    config = {};
    config.schedules = {{"size", Schedule({{0, 2.0}, {100, 3.0}})}};
    CHECK(refused(config) ==
          "error[impossible] curriculum: size = 3 makes the observation space of TestRobot-v0 Box(-1.0, 1.0, (3,), "
          "float32) in place of Box(-1.0, 1.0, (2,), float32); set it in environment.env_config");
    config = {};
    config.levels = {{{"size", {2, 2}}}};
    CHECK(refused(config) == "");
  }
}

}  // namespace myriad
