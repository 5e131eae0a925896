#include "env_runners/evaluator.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
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

/// Episodes of 1 to 9 steps, as drawn at reset; two numbers drawn anew each step. The reward is what the action and the
/// observation it was chosen for make, and the step's number, so that no other action or observation gives the same.
class Lengths : public Environment {
 public:
  void reset(RandomStream& random, Row observation) override {
    length_ = 1 + static_cast<int>(random.below(9)), count_ = 0;
    draw(random, observation);
  }
  StepResult step(ConstRow action, RandomStream& random, Row observation) override {
    const double reward = static_cast<double>(action.f32()[0]) * x_ + static_cast<double>(action.f32()[1]) * ++count_;
    draw(random, observation);
    return {.reward = reward, .terminated = count_ == length_ && length_ % 2 == 0, .truncated = count_ == length_};
  }

 private:
  void draw(RandomStream& random, Row observation) {
    x_ = random.uniform();
    observation.f32()[0] = static_cast<float>(x_), observation.f32()[1] = static_cast<float>(random.uniform());
  }
  int length_ = 0, count_ = 0;
  double x_ = 0;
};

EnvSpec lengths() {
  return {.id = "TestLengths-v0",
          .observation_space = Space::box(0.0, 1.0, {2}),
          .action_space = Space::box(-2.0, 4.0, {2}),
          .source = "this test",
          .make = [](const EnvOptions&) { return std::make_unique<Lengths>(); }};
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

  TEST_CASE("evaluate: a Q-network's policy is greedy, and explores by the epsilon of its weights") {
    Config config = config_for(counter(), 2, 8);
    config.environment.env_config = {{"length", 100}};
    const ModuleSpec spec = make_q_spec(counter().observation_space, Space::discrete(2), config.rl_module);
    Weights weights = initial_weights(spec);
    weights.values[spec.num_parameters() - 1] = 50.0f;  // the bias of action 1: it is always the best
    const double steps = 100 * 101 / 2;                 // what all rewards are but for the actions
    const auto ones = [&](bool explore) {
      return evaluate(config, counter(), spec, weights, 1, 5, explore).return_mean() - steps;
    };
    CHECK(ones(true) == 100);
    weights.published = {1.0};
    CHECK(ones(false) == 100);
    CHECK(ones(true) > 30);
    CHECK(ones(true) < 70);
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

  TEST_CASE("evaluate: an episode that nothing ends is cut, and counted") {
    Config config = config_for(counter(), 2, 8);
    config.environment.env_config = {{"length", 1e9}};
    const ModuleSpec spec = make_mlp_spec(counter().observation_space, counter().action_space, config.rl_module);
    EnvSpec endless = counter();
    endless.max_episode_steps = 0;
    const EvaluationResult result = evaluate(config, endless, spec, initial_weights(spec), 2, 5, false);
    CHECK(result.num_cut == 2);
    CHECK(result.num_ended() == 2);
    CHECK(result.episodes[1].length == Evaluator::kEndlessEpisode);
    config.environment.max_episode_steps = 10;
    CHECK(evaluate(config, endless, spec, initial_weights(spec), 2, 5, false).num_cut == 0);
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

  TEST_CASE("Evaluator: episodes of different lengths are the same, however many are played side by side") {
    const EnvSpec env = lengths();
    Config config = config_for(env, 2, 8);
    config.environment.clip_actions = false;
    const ModuleSpec spec = make_mlp_spec(env.observation_space, env.action_space, config.rl_module);
    const auto weights = std::make_shared<const Weights>(initial_weights(spec));
    for (const bool explore : {true, false}) {
      CAPTURE(explore);
      const auto play = [&](size_t max_envs) {
        Evaluator evaluator(config, env, spec, weights,
                            {.episodes = 50, .seed = 11, .explore = explore, .max_envs = max_envs});
        size_t finished = 0;
        while (!evaluator.step_some(1)) {
          CHECK(evaluator.num_finished() >= finished);
          finished = evaluator.num_finished();
        }
        CHECK(evaluator.num_finished() == 50);
        return evaluator.result();
      };
      // By itself, from its own two streams.
      EvaluationResult want;
      EigenPolicy policy(spec);
      policy.load(weights->values);
      ActionDist dist(spec.distribution, env.action_space);
      const ActionConnector connector(env.action_space, config.environment.normalize_actions, false);
      uint32_t shortest = 99, longest = 0;
      for (uint64_t i = 0; i < 50; ++i) {
        RandomStream random(11, StreamPurpose::evaluation, i);
        std::array<RandomStream, 1> noise{RandomStream(11, StreamPurpose::evaluation, i | uint64_t{1} << 32)};
        Lengths alone;
        std::array<float, 2> obs{}, action{}, env_action{};
        std::array<float, 4> inputs{};
        float logp = 0;
        const auto bytes = [](auto& values) { return std::as_writable_bytes(std::span(values)); };
        alone.reset(random, Row(bytes(obs)));
        EvaluationResult::Episode episode;
        for (bool over = false; !over; ++episode.length) {
          policy.forward(obs.data(), 1, inputs.data());
          if (explore)
            dist.sample(inputs.data(), noise, bytes(action).data(), &logp);
          else
            dist.mode(inputs.data(), 1, bytes(action).data(), &logp);
          connector(bytes(action), bytes(env_action));
          const StepResult result = alone.step(ConstRow(bytes(env_action)), random, Row(bytes(obs)));
          episode.episode_return += result.reward;
          over = result.terminated || result.truncated;
        }
        shortest = std::min(shortest, episode.length), longest = std::max(longest, episode.length);
        want.episodes.push_back(episode);
      }
      REQUIRE(shortest == 1);
      REQUIRE(longest == 9);
      for (const size_t max_envs : {1, 2, 3, 16, 50, 99}) {
        CAPTURE(max_envs);
        const EvaluationResult got = play(max_envs);
        REQUIRE(got.episodes.size() == 50);
        for (size_t i = 0; i < 50; ++i) {
          CAPTURE(i);
          CHECK(got.episodes[i].episode_return == want.episodes[i].episode_return);
          CHECK(got.episodes[i].length == want.episodes[i].length);
        }
      }
    }
  }

  TEST_CASE(
      "Evaluator: the policy sees what its filter makes of an observation, the environment what the config does") {
    struct Steps : EpisodeObserver {
      void began(size_t, Environment&, ConstRow observation) override { keep(observation); }
      void stepped(size_t, Environment&, const SeenStep& step) override {
        policy->forward(filtered.data(), 1, inputs.data());
        for (size_t i = 0; i < 2; ++i) {
          const float unsquashed = 3 * inputs[i] + 1;  // [-1, 1] -> [-2, 4]; the mode is the mean
          CHECK(step.action.f32()[i] == doctest::Approx(std::clamp(unsquashed, -2.0f, 4.0f)).epsilon(1e-6));
          beyond += unsquashed < -2 || unsquashed > 4 ? 1 : 0;
        }
        keep(step.observation);
        ++steps;
      }
      void keep(ConstRow observation) { filter->apply(observation.f32(), filtered); }
      MeanStdFilter* filter;
      EigenPolicy* policy;
      std::array<float, 2> filtered{};
      std::array<float, 4> inputs{};
      int steps = 0, beyond = 0;
    };
    const EnvSpec env = lengths();
    Config config = config_for(env, 2, 8);
    config.environment.observation_filter = "MeanStdFilter";
    config.environment.observation_clip = 0.75;
    const ModuleSpec spec = make_mlp_spec(env.observation_space, env.action_space, config.rl_module);
    Weights weights = initial_weights(spec);
    for (float& value : weights.values) value *= 100.0f;  // the head begins small
    MeanStdFilter filter(2, 0.75);
    filter.update(std::vector<float>{0.4f, 0.2f, 0.6f, 0.9f, 0.5f, 0.5f});
    weights.filter = filter.state();
    EigenPolicy policy(spec);
    policy.load(weights.values);
    Steps seen;
    seen.filter = &filter, seen.policy = &policy;
    Evaluator evaluator(config, env, spec, std::make_shared<const Weights>(weights),
                        {.episodes = 20, .seed = 2, .max_envs = 1, .observer = &seen});
    while (!evaluator.step_some(3)) continue;
    CHECK(seen.steps > 60);
    CHECK(seen.beyond > 10);
  }

  TEST_CASE("Evaluator: the config's time limit comes before the environment's own, which holds where it has none") {
    for (const int64_t limit : {0, 3, 8}) {
      Config config = config_for(rooms(), 2, 8);
      config.environment.max_episode_steps = limit;
      const ModuleSpec spec = make_mlp_spec(rooms().observation_space, rooms().action_space, config.rl_module);
      for (const auto& episode : evaluate(config, rooms(), spec, initial_weights(spec), 5, 1, true).episodes)
        CHECK(episode.length == (limit == 0 ? 5 : limit));
    }
  }

  TEST_CASE("EvaluationResult: mean and standard deviation of a sample by hand") {
    // Returns 1, 2, 6: mean 3, squares 4 + 1 + 9 = 14 over n - 1 = 2; lengths 2, 2, 5: mean 3.
    const EvaluationResult result{{{1, 2}, {2, 2}, {6, 5}}};
    CHECK(result.return_mean() == 3.0);
    CHECK(result.return_stddev() == doctest::Approx(std::sqrt(7.0)));
    CHECK(result.length_mean() == 3.0);
  }

  TEST_CASE("evaluate: no masked action is taken; a mask without an allowed one is an error") {
    for (const EnvSpec* env : {&masked(), &masked_pair(), &masked_bits(), &masked_gamepad()})
      for (const bool explore : {false, true}) {
        Config config = config_for(*env, 2, 8);
        const ModuleSpec spec = make_mlp_spec(env->observation_space, env->action_space, config.rl_module);
        const Weights weights = initial_weights(spec);
        config.environment.env_config = {{"allowed", 2}};
        CHECK(evaluate(config, *env, spec, weights, 50, 3, explore).length_mean() > 5);
        config.environment.env_config = {{"stuck", 3}};
        std::string said;
        try {
          (void)evaluate(config, *env, spec, weights, 50, 3, explore);
        } catch (const Error& error) { said = error.line(); }
        CHECK(said.starts_with("error[no-action] " + env->id + " evaluation episode "));
      }
  }

  TEST_CASE("evaluate: episodes that fail are left out of the means; too many end it") {
    // Its episodes end after 4 steps with a return of 4 and a number; those of an episode's first draw below `p` fail.
    struct Breaks : Environment {
      explicit Breaks(double chance) : p(chance) {}
      void reset(RandomStream& random, Row observation) override {
        breaks = random.uniform() < p;
        t = 0;
        std::ranges::fill(observation.f32(), 0.0f);
      }
      StepResult step(ConstRow, RandomStream&, Row observation) override {
        if (broken) throw std::runtime_error("used after it broke");
        std::ranges::fill(observation.f32(), 0.0f);
        if (++t == 3 && breaks) {
          broken = true;
          throw std::runtime_error("the joint came off");
        }
        return {.reward = 1, .terminated = t == 4};
      }
      std::span<const EpisodeNumber> numbers() override { return one; }
      std::array<EpisodeNumber, 1> one{{{"is_success", 0.5, 1}}};
      double p;
      bool breaks = false, broken = false;
      int t = 0;
    };
    EnvSpec spec = counter();
    spec.id = "Breaks-v0";
    spec.options = {{"p", 0.3}};
    spec.make = [](const EnvOptions& o) { return std::make_unique<Breaks>(o.at("p")); };
    Config config = config_for(counter(), 2, 8);
    const ModuleSpec module = make_mlp_spec(counter().observation_space, counter().action_space, config.rl_module);
    const Weights weights = initial_weights(module);
    const EvaluationResult result = evaluate(config, spec, module, weights, 60, 5, false);
    size_t failed = 0;
    for (uint64_t i = 0; i < 60; ++i) {
      const bool fails = RandomStream(5, StreamPurpose::evaluation, i).uniform() < 0.3;
      CHECK(result.episodes[i].failed == fails);
      CHECK(result.episodes[i].length == (fails ? 3 : 4));
      failed += fails;
    }
    CHECK(failed > 5);
    CHECK(result.num_failed() == failed);
    CHECK(result.return_mean() == 4);
    CHECK(result.return_stddev() == 0);
    CHECK(result.length_mean() == 4);
    REQUIRE(result.numbers.size() == 1);
    CHECK(result.numbers[0].episodes == 60 - failed);
    CHECK(result.numbers[0].last_sum == static_cast<double>(60 - failed));
    config.environment.env_config = {{"p", 0.8}};
    CHECK_THROWS_AS(evaluate(config, spec, module, weights, 60, 5, false), EnvError);
    config.fault_tolerance.max_failed_episodes = 1;
    CHECK(evaluate(config, spec, module, weights, 60, 5, false).num_failed() > 30);
    config.environment.on_failure = "end";
    CHECK_THROWS_AS(evaluate(config, spec, module, weights, 60, 5, false), EnvError);
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
