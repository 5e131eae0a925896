#include "env_runners/vector_env.hpp"

#include <doctest/doctest.h>

#include <array>
#include <cmath>
#include <cstring>
#include <limits>

#include "rl/check.hpp"
#include "rl/step_numbers.hpp"
#include "tests/env_runners/toy_envs.hpp"

using namespace myriad;
using namespace myriad::test;

namespace {

/// A VectorEnv of float rows of two with all that step() writes.
struct Bench {
  Bench(const EnvSpec& spec, const VectorEnv::Options& options, const EnvContext& context = {})
      : envs(spec, options, context),
        n(static_cast<size_t>(options.num_envs)),
        obs(2 * n),
        final_obs(2 * n),
        rewards(n),
        terminateds(n),
        truncateds(n),
        actions(n) {}
  void reset() { envs.reset(bytes(obs)); }
  size_t step() {
    before = obs;
    return envs.step(bytes(actions), {.obs = bytes(obs),
                                      .rewards = rewards.data(),
                                      .terminateds = terminateds.data(),
                                      .truncateds = truncateds.data(),
                                      .final_obs = bytes(final_obs),
                                      .episodes = &episodes,
                                      .before = bytes(before)});
  }
  template <class T>
  static std::byte* bytes(std::vector<T>& values) {
    return reinterpret_cast<std::byte*>(values.data());
  }

  VectorEnv envs;
  size_t n;
  std::vector<float> obs, before, final_obs, rewards;
  std::vector<uint8_t> terminateds, truncateds;
  std::vector<int32_t> actions;
  std::vector<EpisodeStats> episodes;
};

/// Ends its episodes itself at step 2, and, when an action says so, knows nothing of the episode it ends. All of a
/// vector hear their actions before the first is stepped: the reward is how many had.
struct Elsewhere : Environment {
  void reset(RandomStream&, Row observation) override { observe(t = 0, observation); }
  void submit(ConstRow, RandomStream&) override { ++*heard; }
  StepResult step(ConstRow action, RandomStream&, Row observation) override {
    observe(++t, observation);
    StepResult result{.reward = double(*heard)};
    result.truncated = t == 2;
    result.abandoned = t == 2 && action.i32()[0] == 1;
    return result;
  }
  static void observe(int t, Row observation) {
    observation.f32()[0] = static_cast<float>(t);
    observation.f32()[1] = 0;
  }
  int t = 0;
  std::shared_ptr<int> heard;
};

/// Does as its action says: 0 goes on, 1 terminates, 2 is cut, 3 both. Observes its number and the steps so far; the
/// reward is 10 x its number + the step.
struct Told : Environment {
  explicit Told(int n) : number(n) {}
  void reset(RandomStream&, Row observation) override { observe(t = 0, observation); }
  StepResult step(ConstRow action, RandomStream&, Row observation) override {
    observe(++t, observation);
    const int32_t told = action.i32()[0];
    return {.reward = 10.0 * number + t, .terminated = (told & 1) != 0, .truncated = (told & 2) != 0};
  }
  void observe(int step, Row observation) const {
    observation.f32()[0] = static_cast<float>(number), observation.f32()[1] = static_cast<float>(step);
  }
  int number, t = 0;
};

/// Does as its action says: 0 goes on, 1 terminates, 2 throws, 3 gives NaN, 4 leaves its space. Observes which one it
/// is of all that were made, and the steps so far; the reward is 1.
struct Fragile : Environment {
  static constexpr int kThrow = 2, kNan = 3, kOutside = 4;
  explicit Fragile(int n) : number(n) {}
  void reset(RandomStream&, Row observation) override { observe(t = 0, observation); }
  StepResult step(ConstRow action, RandomStream&, Row observation) override {
    const int32_t told = action.i32()[0];
    ++t;
    observe(told == kNan ? NAN : told == kOutside ? 1e6 : t, observation);
    if (told == kThrow) throw std::runtime_error("the joint came off");
    return {.reward = 1, .terminated = told == 1};
  }
  std::span<const EpisodeNumber> numbers() override {
    given = {{{"t", t / 2.0, double(t)}, {"none", NAN, NAN}}};
    return given;
  }
  void observe(double step, Row observation) const {
    observation.f32()[0] = static_cast<float>(number), observation.f32()[1] = static_cast<float>(step);
  }
  std::array<EpisodeNumber, 2> given{};
  int number, t = 0;
};

EnvSpec fragile() {
  EnvSpec spec = counter();
  spec.id = "Fragile-v0";
  spec.options.clear();
  spec.observation_space = Space::box(0, 1000, {2});
  spec.action_space = Space::discrete(5);
  spec.make = [made = std::make_shared<int>(0)](const EnvOptions&) { return std::make_unique<Fragile>((*made)++); };
  return spec;
}

/// The error of stepping the faulty environment 41 (the second of two) until it fails.
Error fault(int kind) {
  Bench b(faulty(), {.num_envs = 2, .first_env_index = 40, .seed = 9, .env_config = {{"fault", double(kind)}}});
  try {
    b.reset();
    for (int i = 0; i < 5; ++i) b.step();
  } catch (const Error& error) { return error; }
  return Error(Exit::ok, "none", "nothing was thrown");
}

}  // namespace

TEST_SUITE("env_runners/vector_env") {
  TEST_CASE("VectorEnv: a time limit truncates, keeps S_T and writes the next S_0 in the same step") {
    Bench b(counter(), {.num_envs = 2, .first_env_index = 3, .seed = 1, .max_episode_steps = 3});
    b.reset();
    const float first_mark = b.obs[1];
    b.actions = {0, 1};
    CHECK(b.step() == 0);
    CHECK(b.obs[0] == 1.0f);
    CHECK(b.rewards == std::vector<float>{1.0f, 2.0f});
    CHECK(b.step() == 0);
    CHECK(b.step() == 2);
    CHECK(b.truncateds == std::vector<uint8_t>{1, 1});
    CHECK(b.terminateds == std::vector<uint8_t>{0, 0});
    CHECK(b.final_obs[0] == 3.0f);
    CHECK(b.final_obs[1] == first_mark);
    CHECK(b.obs[0] == 0.0f);
    CHECK(b.obs[1] != first_mark);  // a new draw of the environment's stream
    REQUIRE(b.episodes.size() == 2);
    CHECK(b.episodes[0].episode_return == 1 + 2 + 3);
    CHECK(b.episodes[1].episode_return == 2 + 3 + 4);
    CHECK(b.episodes[1].length == 3);
    CHECK(b.episodes[1].env_index == 4);
  }

  TEST_CASE(
      "VectorEnv: a simulator elsewhere hears all actions first, may end an episode, and may not know its return") {
    const auto heard = std::make_shared<int>(0);
    EnvSpec spec = counter();
    spec.id = "Elsewhere-v0";
    spec.options.clear();
    spec.submits = true;
    spec.make = [heard](const EnvOptions&) {
      auto env = std::make_unique<Elsewhere>();
      env->heard = heard;
      return env;
    };
    Bench b(spec, {.num_envs = 3, .seed = 1});
    b.reset();
    b.actions = {0, 1, 0};
    CHECK(b.step() == 0);
    CHECK(b.rewards == std::vector<float>{3, 3, 3});
    CHECK(b.step() == 3);
    CHECK(b.truncateds == std::vector<uint8_t>{1, 1, 1});
    CHECK(b.final_obs[0] == 2.0f);
    CHECK(b.obs[0] == 0.0f);
    REQUIRE(b.episodes.size() == 2);
    CHECK(b.episodes[1].env_index == 2);
    CHECK(b.episodes[1].episode_return == 3 + 6);
  }

  TEST_CASE("VectorEnv: of several ends in a step each has its own row, return, length and index") {
    auto made = std::make_shared<int>(0);
    EnvSpec spec = counter();
    spec.options.clear();
    spec.action_space = Space::discrete(4);
    spec.make = [made](const EnvOptions&) { return std::make_unique<Told>((*made)++); };
    Bench b(spec, {.num_envs = 6, .first_env_index = 12, .max_episode_steps = 5});
    b.reset();
    b.actions = {0, 0, 2, 0, 0, 0};  // step 1: number 2 is cut
    CHECK(b.step() == 1);
    CHECK(b.final_obs[0] == 2);
    CHECK(b.final_obs[1] == 1);
    b.actions = {0, 2, 0, 1, 3, 2};  // step 2: 1 and 5 are cut, 3 and 4 terminate
    CHECK(b.step() == 2);
    CHECK(b.terminateds == std::vector<uint8_t>{0, 0, 0, 1, 1, 0});
    CHECK(b.truncateds == std::vector<uint8_t>{0, 1, 0, 0, 1, 1});
    CHECK(std::vector(b.final_obs.begin(), b.final_obs.begin() + 4) == std::vector<float>{1, 2, 5, 2});
    CHECK(b.obs == std::vector<float>{0, 2, 1, 0, 2, 1, 3, 0, 4, 0, 5, 0});
    b.actions.assign(6, 0);
    CHECK(b.step() == 0);
    CHECK(b.step() == 0);
    CHECK(b.step() == 1);  // step 5: the time limit of 0 alone
    CHECK(std::vector(b.final_obs.begin(), b.final_obs.begin() + 2) == std::vector<float>{0, 5});
    CHECK(b.step() == 1);  // step 6: of 2, which began anew at 1
    CHECK(std::vector(b.final_obs.begin(), b.final_obs.begin() + 2) == std::vector<float>{2, 5});
    CHECK(b.step() == 4);  // step 7: of the four that began anew at 2
    CHECK(std::vector(b.final_obs.begin(), b.final_obs.begin() + 8) == std::vector<float>{1, 5, 3, 5, 4, 5, 5, 5});
    // An episode of n steps of number k: 10 k n + n (n + 1) / 2.
    struct Want {
      double episode_return;
      uint32_t length, env_index;
    };
    const std::vector<Want> want{{21, 1, 14},  {23, 2, 13}, {63, 2, 15},  {83, 2, 16},  {103, 2, 17}, {15, 5, 12},
                                 {115, 5, 14}, {65, 5, 13}, {165, 5, 15}, {215, 5, 16}, {265, 5, 17}};
    REQUIRE(b.episodes.size() == want.size());
    for (size_t i = 0; i < want.size(); ++i) {
      CAPTURE(i);
      CHECK(b.episodes[i].episode_return == want[i].episode_return);
      CHECK(b.episodes[i].length == want[i].length);
      CHECK(b.episodes[i].env_index == want[i].env_index);
    }
  }

  TEST_CASE("VectorEnv: rewards the learner sees are clipped, returns of episodes are not") {
    Bench b(counter(), {.num_envs = 1, .max_episode_steps = 3, .rewards = {.scale = 0.5, .clip = 1.0}});
    b.reset();
    std::vector<float> seen;
    for (int t = 0; t < 3; ++t) b.step(), seen.push_back(b.rewards[0]);
    CHECK(seen == std::vector<float>{0.5f, 1, 1});
    CHECK(b.episodes[0].episode_return == 1 + 2 + 3);
  }

  TEST_CASE("VectorEnv: options of a curriculum begin with the next episode; episodes know their level") {
    Bench b(counter(), {.num_envs = 1, .env_config = {{"length", 2}}, .curriculum = {"length"}});
    b.envs.set_curriculum(std::vector<double>{0, 3, 3});
    b.reset();
    b.step();
    b.envs.set_curriculum(std::vector<double>{1, 1, 1});  // amid an episode of 3
    for (int t = 0; t < 4; ++t) b.step();
    REQUIRE(b.episodes.size() == 3);
    CHECK(b.episodes[0].length == 3);
    CHECK(b.episodes[0].level == 0);
    CHECK(b.episodes[1].length == 1);
    CHECK(b.episodes[1].level == 1);
    CHECK_THROWS_AS(b.envs.set_curriculum(std::vector<double>{0}), Error);
  }

  TEST_CASE("VectorEnv: a range is drawn from each environment's own stream before its reset") {
    Bench b(counter(), {.num_envs = 2, .first_env_index = 5, .seed = 4, .curriculum = {"length"}});
    b.envs.set_curriculum(std::vector<double>{0, 1, 9});
    b.reset();
    for (size_t e = 0; e < 2; ++e) {
      RandomStream random(4, StreamPurpose::environment, 5 + e);
      (void)random.uniform();                                           // the length
      CHECK(b.obs[2 * e + 1] == static_cast<float>(random.uniform()));  // the mark of Counter's reset
    }
  }

  TEST_CASE("VectorEnv: a state has the options of its running episodes") {
    VectorEnv::Options options{.num_envs = 2, .env_config = {{"length", 7}}, .curriculum = {"length"}};
    Bench first(counter(), options), second(counter(), options), forgets(forgetful(), options);
    first.envs.set_curriculum(std::vector<double>{2, 3, 3});
    first.reset();
    first.step();
    second.envs.set_state(first.envs.state(), Bench::bytes(second.obs));
    second.envs.set_curriculum(std::vector<double>{3, 5, 5});
    for (int t = 0; t < 2; ++t) second.step();
    REQUIRE(second.episodes.size() == 2);  // of length 3, which it was begun with
    CHECK(second.episodes[0].level == 2);
    CHECK(second.episodes[0].length == 3);
    // An episode that has to start anew starts with them, too.
    TensorMap state = first.envs.state();
    const std::vector<int64_t> unknown{-1, -1};
    state["env/state_length"] = Tensor::of(std::span<const int64_t>(unknown), {2});
    state["env/state"] = Tensor::of(std::span<const double>(), {0});
    CHECK(forgets.envs.set_state(state, Bench::bytes(forgets.obs)).size() == 2);
    for (int t = 0; t < 3; ++t) forgets.step();
    CHECK(forgets.episodes.size() == 2);
    const std::vector<double> broken{-1, 3, 0, NAN};
    state["env/curriculum"] = Tensor::of(std::span<const double>(broken), {2, 2});
    CHECK_THROWS_AS(forgets.envs.set_state(state, Bench::bytes(forgets.obs)), Error);
  }

  TEST_CASE("VectorEnv: a termination has no final observation, even at the time limit") {
    Bench b(counter(),
            {.num_envs = 1, .env_config = {{"length", 2}}, .max_episode_steps = 2, .rewards = {.scale = 0.5}});
    b.reset();
    b.step();
    CHECK(b.step() == 0);
    CHECK(b.terminateds[0] == 1);
    CHECK(b.truncateds[0] == 1);
    CHECK(b.rewards[0] == 1.0f);                  // 2 scaled by 0.5
    CHECK(b.episodes.at(0).episode_return == 3);  // the environment's own 1 + 2
    b.step();
    CHECK(b.terminateds[0] == 0);
    CHECK(b.truncateds[0] == 0);
    CHECK(b.obs[0] == 1.0f);
  }

  TEST_CASE("VectorEnv: without a time limit an episode goes on") {
    Bench b(counter(), {.num_envs = 1});
    b.reset();
    for (int i = 0; i < 5000; ++i) b.step();
    CHECK(b.obs[0] == 5000.0f);
    CHECK(b.episodes.empty());
  }

  TEST_CASE("VectorEnv: an environment experiences the same whoever its neighbours are") {
    Bench all(counter(), {.num_envs = 4, .seed = 5, .max_episode_steps = 2}),
        half(counter(), {.num_envs = 2, .first_env_index = 2, .seed = 5, .max_episode_steps = 2});
    all.reset(), half.reset();
    for (int i = 0; i < 7; ++i) {
      CHECK(std::memcmp(all.obs.data() + 4, half.obs.data(), 4 * sizeof(float)) == 0);
      all.step(), half.step();
    }
  }

  TEST_CASE("VectorEnv: errors say environment, index, seed, step and fact") {
    const Error nan = fault(0), bounds = fault(1), thrown = fault(2), reward = fault(3), odd = fault(4),
                reset = fault(5);
    CHECK(nan.code() == "nan");
    CHECK(nan.exit_status() == Exit::environment);
    CHECK(std::string(nan.what()) ==
          "ToyFaulty-v0 env 40 (seed 9) at step 3 of its episode: obs[1] = nan; check: myriad check-env ToyFaulty-v0");
    CHECK(bounds.code() == "obs-bounds");
    CHECK(std::string(bounds.what()).find("obs[1] = 1.5 outside [-1, 1]") != std::string::npos);
    CHECK(thrown.code() == "env-exception");
    CHECK(std::string(thrown.what())
              .find("env 40 (seed 9) at step 3 of its episode: the simulator threw: the joint came off") !=
          std::string::npos);
    CHECK(reward.code() == "nan");
    CHECK(std::string(reward.what()).find("reward = inf") != std::string::npos);
    CHECK(odd.code() == "env-exception");
    CHECK(reset.code() == "obs-bounds");
    CHECK(std::string(reset.what()).find("at reset: obs[1] = 2 outside") != std::string::npos);
  }

  TEST_CASE("VectorEnv: a failure costs its episode and no more: truncated at S_t, counted, made anew") {
    std::vector<std::string> told;
    Bench b(fragile(), {.num_envs = 3, .first_env_index = 5, .restarts = true, .max_failures_in_a_row = 2});
    b.envs.on_event(
        [&](std::string_view kind, const std::string& text) { told.push_back(std::string(kind) + ": " + text); });
    b.reset();
    for (int t = 0; t < 30; ++t) CHECK(b.step() == 0);
    b.actions = {0, Fragile::kThrow, Fragile::kNan};
    CHECK(b.step() == 2);
    CHECK(b.truncateds == std::vector<uint8_t>{0, 1, 1});
    CHECK(b.terminateds == std::vector<uint8_t>{0, 0, 0});
    CHECK(b.rewards == std::vector<float>{1, 0, 0});
    CHECK(std::vector(b.final_obs.begin(), b.final_obs.begin() + 4) == std::vector<float>{1, 30, 2, 30});
    CHECK(b.obs == std::vector<float>{0, 31, 3, 0, 4, 0});  // numbers 3 and 4 are in place of 1 and 2
    CHECK(b.episodes.empty());
    EnvReport report = b.envs.take_report();
    CHECK(report.failures == EnvFailureCounts{1, 1, 0, 0, 0, 0});
    CHECK(b.envs.take_report().failures == EnvFailureCounts{});
    REQUIRE(told.size() == 2);
    CHECK(told[0].starts_with("env-failure: Fragile-v0 env 6 (seed 0) at step 31 of its episode: the simulator threw"));
    // Those that failed go on, and an episode that ends by itself counts as ever, with its numbers.
    b.actions = {1, 0, 0};
    b.step();
    b.actions = {0, 1, 0};
    b.step();
    REQUIRE(b.episodes.size() == 2);
    CHECK(b.episodes[0].episode_return == 32);
    CHECK(b.episodes[1].env_index == 6);
    CHECK(b.episodes[1].length == 2);
    report = b.envs.take_report();
    REQUIRE(report.numbers.size() == 1);
    CHECK(report.numbers[0].name == "t");
    CHECK(report.numbers[0].episodes == 2);
    CHECK(report.numbers[0].mean_sum == 16 + 1);
    CHECK(report.numbers[0].mean_min == 1);
    CHECK(report.numbers[0].mean_max == 16);
    CHECK(report.numbers[0].last_sum == 32 + 2);
  }

  TEST_CASE("VectorEnv: an environment that failed starts, as a new one does, until it has begun an episode") {
    int starting = 0;
    std::vector<int> seen;  // at each make and each reset
    struct Watched : Fragile {
      Watched(const int& s, std::vector<int>& all) : Fragile(0), starting(s), seen(all) { seen.push_back(starting); }
      void reset(RandomStream& random, Row observation) override {
        seen.push_back(starting);
        Fragile::reset(random, observation);
      }
      const int& starting;
      std::vector<int>& seen;
    };
    EnvSpec spec = fragile();
    spec.make = [&](const EnvOptions&) { return std::make_unique<Watched>(starting, seen); };
    EnvContext context;
    context.starts = [&](bool begins) { starting += begins ? 1 : -1; };
    Bench b(spec, {.num_envs = 1, .restarts = true, .max_failures_in_a_row = 2}, context);
    CHECK(seen == std::vector{1});
    b.reset();
    b.actions = {1};
    b.step();
    CHECK(seen == std::vector{1, 0, 0});  // ordinary resets
    b.actions = {Fragile::kThrow};
    b.step();
    CHECK(seen.size() == 5);
    CHECK(seen[3] > 0);
    CHECK(seen[4] > 0);
    CHECK(starting == 0);
  }

  TEST_CASE("VectorEnv: failures in a row of one environment, each soon after the last, are thrown at the limit") {
    Bench b(fragile(), {.num_envs = 2, .restarts = true, .max_failures_in_a_row = 3});
    b.reset();
    const auto failing = [&](int32_t told, int steps) {
      b.actions = {0, 0};
      for (int t = 1; t < steps; ++t) b.step();
      b.actions = {0, told};
      b.step();
    };
    for (int i = 0; i < 10; ++i) failing(Fragile::kThrow, 11);  // each has been of use for a while
    for (int i = 0; i < 10; ++i) {                              // an episode in between
      failing(1, 2);
      failing(Fragile::kThrow, 2);
      failing(Fragile::kThrow, 2);
    }
    failing(1, 2);
    failing(Fragile::kThrow, 2);
    failing(Fragile::kNan, 10);
    try {
      failing(Fragile::kThrow, 1);
      FAIL("nothing was thrown");
    } catch (const EnvError& error) {
      CHECK(error.in_a_row == 3);
      CHECK(error.cause == EnvFailure::exception);
    }
  }

  TEST_CASE("VectorEnv: an environment that cannot begin is tried so often and no more") {
    Bench b(faulty(), {.num_envs = 1, .env_config = {{"fault", 5}}, .restarts = true, .max_failures_in_a_row = 3});
    CHECK_THROWS_AS(b.reset(), EnvError);
    CHECK(b.envs.take_report().failures == EnvFailureCounts{0, 0, 3, 0, 0, 0});
  }

  TEST_CASE("VectorEnv: a config that cannot be is no failure of an environment") {
    EnvSpec spec = fragile();
    spec.make = [](const EnvOptions&) {
      struct Impossible : Fragile {
        Impossible() : Fragile(0) {}
        void reset(RandomStream&, Row) override {
          fail(Exit::usage, "impossible", "four agents in three environments");
        }
      };
      return std::make_unique<Impossible>();
    };
    Bench b(spec, {.num_envs = 1, .restarts = true, .max_failures_in_a_row = 3});
    try {
      b.reset();
      FAIL("nothing was thrown");
    } catch (const EnvError& error) { CHECK(!error.mendable); }
    CHECK(b.envs.take_report().failures == EnvFailureCounts{});
  }

  TEST_CASE("VectorEnv: the agents of a world end with the one that fails; other worlds go on") {
    EnvSpec spec = fragile();
    spec.agents = 2;
    Bench b(spec, {.num_envs = 6, .restarts = true, .max_failures_in_a_row = 2});
    b.reset();
    b.step();
    b.actions = {0, 0, 0, Fragile::kThrow, 0, 0};
    CHECK(b.step() == 2);
    CHECK(b.truncateds == std::vector<uint8_t>{0, 0, 1, 1, 0, 0});
    CHECK(std::vector(b.final_obs.begin(), b.final_obs.begin() + 4) == std::vector<float>{2, 2, 3, 1});
    CHECK(b.rewards == std::vector<float>{1, 1, 1, 0, 1, 1});
    b.actions = {0, 0, 0, 0, Fragile::kThrow, 0};
    CHECK(b.step() == 2);
    CHECK(std::vector(b.final_obs.begin(), b.final_obs.begin() + 4) == std::vector<float>{4, 2, 5, 2});
    CHECK(b.rewards == std::vector<float>{1, 1, 1, 1, 0, 0});
    CHECK(b.obs == std::vector<float>{0, 3, 1, 3, 6, 1, 7, 1, 8, 0, 9, 0});
    CHECK(b.envs.take_report().failures == EnvFailureCounts{2, 0, 0, 0, 0, 0});
  }

  TEST_CASE("VectorEnv: an observation outside its space is a failure, taken as it is, or clipped") {
    for (const OutOfBounds how : {OutOfBounds::error, OutOfBounds::warn, OutOfBounds::clip}) {
      std::vector<std::string> told;
      Bench b(fragile(), {.num_envs = 1, .out_of_bounds = how, .restarts = true, .max_failures_in_a_row = 3});
      b.envs.on_event([&](std::string_view kind, const std::string&) { told.emplace_back(kind); });
      b.reset();
      b.actions = {Fragile::kOutside};
      b.step();
      const bool fails = how == OutOfBounds::error;
      CHECK(b.truncateds[0] == fails);
      CHECK(b.obs[1] == (fails ? 0.0f : how == OutOfBounds::warn ? 1e6f : 1000.0f));
      const EnvReport report = b.envs.take_report();
      CHECK(report.outside == (fails ? 0 : 1));
      CHECK(report.failures == EnvFailureCounts{0, 0, fails ? 1u : 0u, 0, 0, 0});
      CHECK(told == std::vector<std::string>{fails ? "env-failure" : "env-out-of-bounds"});
      b.actions = {Fragile::kNan};  // is no number at all
      b.step();
      CHECK(b.truncateds[0] == 1);
    }
  }

  TEST_CASE("VectorEnv: what went wrong without ending an episode is told of the first, tenth, ... of such episodes") {
    struct Wary : Fragile {
      using Fragile::Fragile;
      std::string_view warning() override { return number == 0 ? "contacts are left out" : ""; }
    };
    EnvSpec spec = fragile();
    spec.make = [made = std::make_shared<int>(0)](const EnvOptions&) { return std::make_unique<Wary>((*made)++); };
    std::vector<std::string> told;
    Bench b(spec, {.num_envs = 2});
    b.envs.on_event(
        [&](std::string_view kind, const std::string& text) { told.push_back(std::string(kind) + ": " + text); });
    b.reset();
    b.step();
    CHECK(told.empty());
    b.actions = {1, 1};
    for (int episode = 0; episode < 10; ++episode) b.step();
    CHECK(told == std::vector<std::string>{"env-warning: contacts are left out",
                                           "env-warning: 10 times, the last: contacts are left out"});
  }

  TEST_CASE("VectorEnv: a mask without an allowed action is an error, but where the episode ends") {
    for (const EnvSpec* env : {&masked(), &masked_pair()}) {
      const ActionMask mask = *ActionMask::of(env->observation_space, env->action_space);
      const size_t row = env->observation_space.row_bytes(), action_row = env->action_space.row_bytes();
      const auto play = [&](int stuck, int steps) {
        VectorEnv envs(*env, {.num_envs = 3, .first_env_index = 4, .seed = 9, .env_config = {{"stuck", stuck}}});
        std::vector<std::byte> obs(3 * row), final_obs(3 * row), actions(3 * action_row);
        std::vector<float> rewards(3);
        std::vector<uint8_t> terminateds(3), truncateds(3);
        std::vector<EpisodeStats> episodes;
        RandomStream random(1, StreamPurpose::action, 0);
        envs.reset(obs.data());
        for (int t = 0; t < steps; ++t) {
          for (size_t b = 0; b < 3; ++b)
            mask.sample(random, {&obs[b * row], row}, {&actions[b * action_row], action_row});
          envs.step(actions.data(), {.obs = obs.data(),
                                     .rewards = rewards.data(),
                                     .terminateds = terminateds.data(),
                                     .truncateds = truncateds.data(),
                                     .final_obs = final_obs.data(),
                                     .episodes = &episodes});
        }
        return episodes.size();
      };
      CHECK(play(0, 200) > 20);  // each ends with a mask of zeros
      std::string said;
      try {
        (void)play(2, 200);
      } catch (const Error& error) { said = error.line(); }
      CHECK(said.starts_with("error[no-action] " + env->id + " env "));
      CHECK(said.find("(seed 9) at step 2 of its episode: obs.action_mask allows no action") != std::string::npos);
    }
  }

  TEST_CASE("VectorEnv: a restored state continues bit for bit") {
    const VectorEnv::Options options{.num_envs = 3, .first_env_index = 6, .seed = 2, .max_episode_steps = 4};
    Bench a(counter(), options), b(counter(), options);
    a.reset();
    for (int i = 0; i < 6; ++i) a.step();
    CHECK(b.envs.set_state(a.envs.state(), b.bytes(b.obs)).empty());
    CHECK(a.obs == b.obs);
    a.episodes.clear();
    for (int i = 0; i < 9; ++i) {
      a.step(), b.step();
      CHECK(a.obs == b.obs);
      CHECK(a.rewards == b.rewards);
      CHECK(a.truncateds == b.truncateds);
    }
    REQUIRE(a.episodes.size() == b.episodes.size());
    for (size_t i = 0; i < a.episodes.size(); ++i) CHECK(a.episodes[i].episode_return == b.episodes[i].episode_return);
  }

  TEST_CASE("VectorEnv: an environment without state() starts anew and is named") {
    Bench a(forgetful(), {.num_envs = 2}), b(forgetful(), {.num_envs = 2});
    a.reset(), a.step();
    CHECK(b.envs.set_state(a.envs.state(), b.bytes(b.obs)) == std::vector<int>{0, 1});
    CHECK(b.obs[0] == 0.0f);
  }

  TEST_CASE("VectorEnv: a state of other environments or with parts missing is refused") {
    Bench a(counter(), {.num_envs = 2, .seed = 1}), b(counter(), {.num_envs = 2, .seed = 2}),
        c(counter(), {.num_envs = 2, .seed = 1});
    a.reset();
    CHECK_THROWS_AS(b.envs.set_state(a.envs.state(), b.bytes(b.obs)), Error);
    TensorMap state = a.envs.state();
    state.erase("env/state");
    CHECK_THROWS_AS(c.envs.set_state(state, c.bytes(c.obs)), Error);
  }

  TEST_CASE("StepNumbers: means and last values of an episode's steps, of those that had one") {
    StepNumbers numbers({"forward", "effort", "is_success"});
    numbers.begin();
    for (const double x : {1.0, 2.0, 6.0}) numbers.add(0, x);
    numbers.add(2, 1);
    const auto episode = numbers.episode();
    REQUIRE(episode.size() == 2);
    CHECK(episode[0].name == "forward");
    CHECK(episode[0].mean == 3);
    CHECK(episode[0].last == 6);
    CHECK(episode[1].name == "is_success");
    numbers.begin();
    CHECK(numbers.episode().empty());
  }

  TEST_CASE("RowCheck: agrees with Space::violation on every kind of leaf") {
    const Space space = Dict{{{"a", Space::box(-1.0, 1.0, {2})},
                              {"b", Space::discrete(3, 2)},
                              {"c", Space::box(0, 200, {3}, DType::u8)},
                              {"d", Space(MultiDiscrete{{2, 4}})},
                              {"e", Space(MultiBinary{2})},
                              {"f", Space::box(-INFINITY, 5, {1}, DType::f64)},
                              {"g", Space::box(-7, 7, {1}, DType::i64)},
                              {"h", Space::box(-INFINITY, INFINITY, {1})},
                              {"i", Space(MultiDiscrete{{2, 4}, {-1, 25}})}}};
    const RowCheck check(space);
    RandomStream random(3, StreamPurpose::environment, 0);
    std::vector<std::byte> row(space.row_bytes());
    int inside = 0, outside = 0;
    for (int i = 0; i < 2000; ++i) {
      space.sample(random, row);
      if (i % 2 == 1) row[random.below(row.size())] ^= std::byte{static_cast<uint8_t>(1 + random.below(255))};
      double f64;
      std::memcpy(&f64, row.data() + space.leaves()[5].offset, sizeof f64);
      const bool fits = std::isfinite(static_cast<float>(f64)) || !std::isfinite(f64);
      const bool holds = space.violation(row, "obs").empty() && fits;
      CHECK(check.holds(row.data()) == holds);
      ++(holds ? inside : outside);
    }
    CHECK(inside > 1000);
    CHECK(outside > 300);
    const Space wide = Space::box(-INFINITY, INFINITY, {1}, DType::f64);
    for (const double value : {3.4e38, -3.4e38, 3.5e38, -1e300, static_cast<double>(INFINITY)})
      CHECK(RowCheck(wide).holds(reinterpret_cast<const std::byte*>(&value)) == (std::abs(value) < 3.45e38));
  }

  TEST_CASE("RowCheck: a float64 is compared as the float32 it becomes; clip and warn take Boxes alone") {
    const Space space = Dict{{{"x", Space::box(-1, 1, {2}, DType::f64)}, {"n", Space::discrete(3)}}};
    const RowCheck check(space);
    struct {
      double x[2];
      int32_t n, padding;
    } row{{1 + 1e-12, -1}, 2, 0};
    auto* const bytes = reinterpret_cast<std::byte*>(&row);
    CHECK(check.holds(bytes));
    CHECK(space.violation({bytes, space.row_bytes()}, "obs") == "");
    row.x[0] = 1.001;
    CHECK(!check.holds(bytes));
    CHECK(!check.tolerates(bytes, OutOfBounds::error));
    CHECK(check.tolerates(bytes, OutOfBounds::warn));
    CHECK(row.x[0] == 1.001);
    CHECK(check.tolerates(bytes, OutOfBounds::clip));
    CHECK(row.x[0] == 1);
    row.n = 3;
    CHECK(!check.tolerates(bytes, OutOfBounds::clip));
    row.n = 0, row.x[1] = 1e300;  // no float32
    CHECK(!check.tolerates(bytes, OutOfBounds::clip));
  }
}
