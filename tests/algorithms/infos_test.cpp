#include <doctest/doctest.h>

#include "algorithms/ppo.hpp"
#include "learners/algorithm.hpp"
#include "rl/check.hpp"

using namespace myriad;

TEST_SUITE_BEGIN("algorithms/infos");

TEST_CASE("algorithm_infos: every algorithm the driver knows is registered with the learner") {
  for (const AlgorithmInfo& info : algorithm_infos()) {
    CAPTURE(info.name);
    Config config;
    config.algorithm = info.name;
    config.algorithm_config = info.make_config();
    const auto algorithm = make_algorithm(config);
    CHECK((info.sampling.front() == "sync") == info.on_policy);
    CHECK(algorithm->module_spec(Space::box(-1, 1, {3}), Space::discrete(2)).obs_size == 3);
  }
}

TEST_CASE("find_algorithm: an unknown name is an error that names the nearest") {
  CHECK(find_algorithm("PPO").on_policy);
  CHECK_THROWS_AS(find_algorithm("PP0"), Error);
  Config config;
  config.algorithm = "PP0";
  CHECK_THROWS_WITH_AS(make_algorithm(config), "unknown algorithm 'PP0'; did you mean PPO?", Error);
}

TEST_SUITE_END();
