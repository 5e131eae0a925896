#include "env_runners/evaluator.hpp"

#include <doctest/doctest.h>

#include <cmath>
#include <map>

#include "rl/check.hpp"
#include "tests/env_runners/toy_envs.hpp"

using namespace myriad;
using namespace myriad::test;

namespace {

Weights initial_weights(const ModuleSpec& spec, uint64_t seed = 1) {
  return {.layout_hash = spec.hash(), .values = initial_parameters(spec, seed), .filter = {}};
}

}  // namespace

TEST_SUITE("env_runners/evaluator") {
  TEST_CASE("evaluate: runs exactly N episodes, more than there are environments") {
    Config config = config_for(counter(), 2, 8);
    config.environment.env_config = {{"length", 3}};
    const ModuleSpec spec = make_mlp_spec(counter().observation_space, counter().action_space, config.rl_module);
    Weights weights = initial_weights(spec);
    weights.values[spec.num_inference_parameters() - 1] = 50.0f;  // the bias of action 1: it is always the mode
    const EvaluationResult result = evaluate(config, counter(), spec, weights, 37, 5, false);
    REQUIRE(result.episodes.size() == 37);
    for (const auto& episode : result.episodes) {
      CHECK(episode.length == 3);
      CHECK(episode.episode_return == 2 + 3 + 4);
    }
    CHECK(result.return_mean() == 9.0);
    CHECK(result.return_stddev() == 0.0);
    CHECK(result.length_mean() == 3.0);
  }

  TEST_CASE("evaluate: an episode's result depends on its number and the seed alone") {
    Config config = config_for(rooms(), 2, 8);
    const ModuleSpec spec = make_mlp_spec(rooms().observation_space, rooms().action_space, config.rl_module);
    const Weights weights = initial_weights(spec);
    const EvaluationResult many = evaluate(config, rooms(), spec, weights, 40, 3, true),
                           few = evaluate(config, rooms(), spec, weights, 7, 3, true),
                           other = evaluate(config, rooms(), spec, weights, 7, 4, true);
    for (size_t i = 0; i < 7; ++i) {
      CHECK(many.episodes[i].episode_return == few.episodes[i].episode_return);
      CHECK(few.episodes[i].length == 5);
      CHECK(few.episodes[i].episode_return != other.episodes[i].episode_return);
    }
    CHECK(many.episodes[0].episode_return != many.episodes[16].episode_return);
  }

  TEST_CASE("Evaluator: an observer sees every state; one environment gives the episodes in their order") {
    struct Notes : EpisodeObserver {
      struct Episode {
        int64_t steps = 0;
        double sum = 0;
        bool ended = false;
      };
      void began(size_t episode, Environment&, ConstRow observation) override {
        order.push_back(episode);
        CHECK(observation.f32()[0] == 0);
      }
      void stepped(size_t episode, Environment&, const SeenStep& step) override {
        Episode& e = episodes[episode];
        CHECK(!e.ended);
        CHECK(step.t == ++e.steps);
        CHECK(step.observation.f32()[0] == static_cast<float>(step.t));
        CHECK(step.result.reward == static_cast<double>(step.t + step.action.i32()[0]));
        e.sum += step.result.reward;
        e.ended = step.result.terminated || step.result.truncated;
        CHECK(step.result.truncated == (step.t == 4));
      }
      std::vector<size_t> order;
      std::map<size_t, Episode> episodes;
    };
    Config config = config_for(counter(), 2, 8);
    config.environment.env_config = {{"length", 9}};
    config.environment.max_episode_steps = 4;
    const ModuleSpec spec = make_mlp_spec(counter().observation_space, counter().action_space, config.rl_module);
    const auto weights = std::make_shared<const Weights>(initial_weights(spec));
    const auto run = [&](size_t max_envs, EpisodeObserver* observer) {
      Evaluator evaluator(config, counter(), spec, weights,
                          {.episodes = 20, .seed = 3, .explore = true, .max_envs = max_envs, .observer = observer});
      while (!evaluator.step_some(1)) continue;
      return evaluator.result();
    };
    Notes in_turn, side_by_side;
    const EvaluationResult one = run(1, &in_turn), many = run(16, &side_by_side), unseen = run(16, nullptr);
    for (size_t i = 0; i < 20; ++i) {
      CHECK(in_turn.order[i] == i);
      CHECK(one.episodes[i].episode_return == many.episodes[i].episode_return);
      CHECK(many.episodes[i].episode_return == unseen.episodes[i].episode_return);
      for (Notes* notes : {&in_turn, &side_by_side}) {
        CHECK(notes->episodes[i].steps == 4);
        CHECK(notes->episodes[i].ended);
        CHECK(notes->episodes[i].sum == one.episodes[i].episode_return);
      }
    }
  }

  TEST_CASE("evaluate: a failing environment is named with its episode") {
    Config config = config_for(faulty(), 2, 8);
    config.environment.env_config = {{"fault", 2}};
    const ModuleSpec spec = make_mlp_spec(faulty().observation_space, faulty().action_space, config.rl_module);
    try {
      (void)evaluate(config, faulty(), spec, initial_weights(spec), 1, 8, false);
      FAIL("nothing was thrown");
    } catch (const Error& error) {
      CHECK(error.code() == "env-exception");
      CHECK(
          std::string(error.what())
              .find("ToyFaulty-v0 evaluation episode 0 (seed 8) at step 3: the simulator threw: the joint came off") !=
          std::string::npos);
    }
  }
}
