#include "env_runners/rollout_worker.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <new>
#include <utility>

#include "rl/action_mask.hpp"
#include "rl/check.hpp"
#include "rl/wrappers.hpp"
#include "tests/env_runners/toy_envs.hpp"
#include "tests/rl/frame_stacks.hpp"

namespace {
std::size_t g_allocations = 0;  // this test program has one thread
}

// Counted, so that a test can tell that a step allocates nothing. Not inlined: g++ 12 would inline only some of them,
// and warn of a pair that does not match.
[[gnu::noinline]] void* operator new(std::size_t size) {
  ++g_allocations;
  if (void* memory = std::malloc(size == 0 ? 1 : size)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  ++g_allocations;
  return std::malloc(size == 0 ? 1 : size);
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

using namespace myriad;
using namespace myriad::test;

namespace {

/// A worker with its fragment and weights.
struct Rig {
  Rig(const Config& config, const EnvSpec& env, uint64_t first_env_index = 0, uint32_t incarnation = 0)
      : spec(config.algorithm == "PQN" ? make_q_spec(env.observation_space, env.action_space, config.rl_module)
                                       : make_mlp_spec(env.observation_space, env.action_space, config.rl_module)),
        layout(std::make_shared<const FragmentLayout>(fragment_layout(config, env, spec))),
        fragment(layout),
        weights{.version = 3, .layout_hash = spec.hash(), .values = initial_parameters(spec, 1), .filter = {}},
        worker(config, env, spec, first_env_index, incarnation) {
    // The head's small gain would make every policy near uniform.
    for (float& value : weights.values) value *= 2.0f;
  }
  void sample() { worker.sample(fragment, weights); }
  template <class T>
  std::span<T> column(const char* name) {
    return fragment.values<T>(layout->column(name));
  }
  /// All bytes of environment `b` at step `t` of a column.
  std::span<const std::byte> cell(const char* name, size_t t, size_t b) {
    const Column& c = layout->column(name);
    return {fragment.row(c, t * static_cast<size_t>(layout->environments()) + b), c.row_bytes};
  }

  ModuleSpec spec;
  std::shared_ptr<const FragmentLayout> layout;
  Fragment fragment;
  Weights weights;
  RolloutWorker worker;
};

constexpr const char* kStepColumns[]{"obs",        "actions", "rewards",           "terminateds",
                                     "truncateds", "logp",    "action_dist_inputs"};

bool same(std::span<const std::byte> a, std::span<const std::byte> b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size()) == 0;
}

/// It wants nothing of the runners but what all fragments have.
const RegisterAlgorithmInfo bare{{.name = "Bare",
                                  .summary = "a toy",
                                  .make_config = [] { return find_algorithm("PPO").make_config(); },
                                  .module = policy_and_value}};

/// An environment stepped by hand, from the draws that a worker's has.
class ByHand {
 public:
  ByHand(const Config& config, const EnvSpec& spec, uint64_t index)
      : limit_(config.environment.max_episode_steps > 0 ? config.environment.max_episode_steps
                                                        : spec.max_episode_steps),
        random_(static_cast<uint64_t>(config.seed), StreamPurpose::environment, index),
        env_(make_environment(spec, config.environment.env_config)),
        flatten_(spec.observation_space),
        features_(static_cast<size_t>(spec.observation_space.flat_size())),
        connector_(spec.action_space, config.environment.normalize_actions, config.environment.clip_actions),
        row_(spec.observation_space.row_bytes()),
        action_(spec.action_space.row_bytes()) {
    env_->reset(random_, Row(row_));
  }
  std::vector<float> features() const {
    std::vector<float> features(features_);
    flatten_(row_, features);
    return features;
  }
  /// The step's flags; an ended episode leaves its last features in `final_features`.
  std::pair<bool, bool> step(std::span<const std::byte> action) {
    connector_(action, action_);
    const StepResult result = env_->step(ConstRow(action_), random_, Row(row_));
    const bool truncated = result.truncated || ++steps_ == limit_;
    if (result.terminated || truncated) {
      final_features = features();
      env_->reset(random_, Row(row_));
      steps_ = 0;
    }
    return {result.terminated, truncated};
  }
  std::vector<float> final_features;

 private:
  int64_t limit_, steps_ = 0;
  RandomStream random_;
  std::unique_ptr<Environment> env_;
  ObservationFlattener flatten_;
  size_t features_;
  ActionConnector connector_;
  std::vector<std::byte> row_, action_;
};

bool same_fragment(const Rig& a, const Rig& b) {
  return a.fragment.final_rows == b.fragment.final_rows && same(a.fragment.used(), b.fragment.used());
}

}  // namespace

TEST_SUITE("env_runners/rollout_worker") {
  TEST_CASE("RolloutWorker: obs[t+1] is the next episode's S_0, final_obs lists time limits in order of (t, b)") {
    Config config = config_for(counter(), 2, 7);
    config.environment.max_episode_steps = 3;
    config.environment.reward_scale = 0.1;
    Rig rig(config, counter());
    rig.sample();
    const auto obs = rig.column<float>("obs");  // [8, 2, 2]
    const auto truncateds = rig.column<uint8_t>("truncateds");
    const float counts[]{0, 1, 2, 0, 1, 2, 0, 1};  // of obs[t], for both environments
    for (size_t t = 0; t < 8; ++t)
      for (size_t b = 0; b < 2; ++b) CHECK(obs[(t * 2 + b) * 2] == counts[t]);
    for (size_t t = 0; t < 7; ++t) CHECK(truncateds[t * 2] == (t == 2 || t == 5));
    REQUIRE(rig.fragment.final_rows == 4);
    const auto final_obs = rig.column<float>("final_obs");
    for (size_t i = 0; i < 4; ++i) CHECK(final_obs[i * 2] == 3.0f);
    CHECK(final_obs[1] == obs[1]);                    // t = 2, b = 0: the mark of its first episode
    CHECK(final_obs[3] == obs[3]);                    // t = 2, b = 1
    CHECK(final_obs[5] == obs[(3 * 2 + 0) * 2 + 1]);  // t = 5, b = 0: of its second
    CHECK(rig.fragment.weights_version == 3);
    CHECK(fragment_violation(*rig.layout, rig.fragment.used(), rig.fragment.final_rows, counter().action_space) == "");

    const auto actions = rig.column<int32_t>("actions");
    const auto rewards = rig.column<float>("rewards");
    double episode_return = 0;
    for (size_t t = 0; t < 3; ++t) {
      const double reward = static_cast<double>(t) + 1 + actions[t * 2];
      CHECK(rewards[t * 2] == doctest::Approx(0.1 * reward));
      episode_return += reward;
    }
    REQUIRE(rig.fragment.episodes.size() == 4);
    CHECK(rig.fragment.episodes[0].episode_return == episode_return);
    CHECK(rig.fragment.episodes[0].length == 3);
    CHECK(rig.fragment.episodes[1].env_index == 1);
  }

  TEST_CASE("RolloutWorker: the cut between fragments loses nothing") {
    Config config = config_for(counter(), 3, 8), halved = config_for(counter(), 3, 4);
    config.environment.max_episode_steps = halved.environment.max_episode_steps = 5;
    Rig whole(config, counter()), half(halved, counter());
    whole.sample();
    for (size_t part = 0; part < 2; ++part) {
      half.sample();
      for (const char* name : kStepColumns)
        for (size_t t = 0; t < 4; ++t)
          for (size_t b = 0; b < 3; ++b) CHECK(same(half.cell(name, t, b), whole.cell(name, part * 4 + t, b)));
    }
    CHECK(half.worker.num_env_steps() == 24);
  }

  TEST_CASE("RolloutWorker: the same environments give the same bits in 1, 2 or 4 workers") {
    for (const EnvSpec* env : {&counter(), &rooms()}) {
      Config config = config_for(*env, 8, 12);
      config.environment.max_episode_steps = 5;
      Rig whole(config, *env);
      whole.sample();
      for (const size_t workers : {size_t{2}, size_t{4}}) {
        const size_t each = 8 / workers;
        config.env_runners.num_envs_per_env_runner = static_cast<int64_t>(each);
        for (size_t w = 0; w < workers; ++w) {
          Rig part(config, *env, w * each);
          part.sample();
          for (const char* name : kStepColumns)
            for (size_t t = 0; t < 12; ++t)
              for (size_t b = 0; b < each; ++b) CHECK(same(part.cell(name, t, b), whole.cell(name, t, w * each + b)));
        }
      }
    }
  }

  TEST_CASE("RolloutWorker: a fragment's epsilon is that of its weights, behind the curriculum's numbers") {
    Config config = config_for(counter(), 2, 50);
    config.algorithm = "PQN";
    config.curriculum.randomize = {{"length", {5, 5}}};
    Rig rig(config, counter());
    CHECK_THROWS_WITH_AS(rig.sample(), "the weights of an epsilon-greedy policy have no epsilon", Error);
    rig.weights.published = {0, 5, 5};
    CHECK_THROWS_AS(rig.sample(), Error);
    EigenPolicy policy(rig.spec);
    policy.load(rig.weights.values);
    const auto exploring = [&](Rig& sampled) {
      sampled.sample();
      int count = 0;
      for (size_t i = 0; i < 100; ++i) {
        std::array<float, 2> q{};
        policy.forward(sampled.column<float>("obs").data() + 2 * i, 1, q.data());
        count += sampled.column<int32_t>("actions")[i] != (q[1] > q[0] ? 1 : 0);
      }
      return count;
    };
    rig.weights.published = {0, 5, 5, 0.0};
    CHECK(exploring(rig) == 0);
    CHECK(rig.fragment.episodes.at(0).length == 5);
    rig.weights.published.back() = 1.0;
    const int count = exploring(rig);
    CHECK(count > 30);  // half of 100
    CHECK(count < 70);
    config.env_runners.explore = false;
    Rig greedy(config, counter());
    greedy.weights.published = {0, 5, 5, 1.0};
    CHECK(exploring(greedy) == 0);
  }

  TEST_CASE(
      "RolloutWorker: epsilon's draws are the environment's own, in any number of workers and after a restored state") {
    Config config = config_for(counter(), 4, 20);
    config.algorithm = "PQN";
    Rig whole(config, counter());
    config.env_runners.num_envs_per_env_runner = 2;
    std::array parts{Rig(config, counter(), 0), Rig(config, counter(), 2)};
    Rig restored(config, counter(), 2);
    for (const double epsilon : {0.5, 0.25, 0.75}) {
      whole.weights.published = restored.weights.published = {epsilon};
      if (epsilon < 0.5) CHECK(restored.worker.set_state(parts[1].worker.state()) == "");
      whole.sample();
      for (size_t w = 0; w < 2; ++w) {
        parts[w].weights.published = {epsilon};
        parts[w].sample();
        for (size_t t = 0; t < 20; ++t)
          for (size_t b = 0; b < 2; ++b)
            CHECK(same(parts[w].cell("actions", t, b), whole.cell("actions", t, 2 * w + b)));
      }
      if (epsilon == 0.5) continue;
      restored.sample();
      CHECK(same_fragment(restored, parts[1]));
    }
  }

  TEST_CASE("RolloutWorker: a fragment filled in pieces is the same") {
    const Config config = config_for(counter(), 2, 9);
    Rig a(config, counter()), b(config, counter());
    a.sample();
    b.worker.begin(b.fragment, b.weights);
    CHECK_THROWS_AS(b.worker.begin(b.fragment, b.weights), Error);
    CHECK_THROWS_AS((void)b.worker.state(), Error);
    CHECK(!b.worker.step_some(4));
    CHECK(!b.worker.step_some(4));
    CHECK(b.worker.step_some(4));
    CHECK(same_fragment(a, b));
    CHECK_THROWS_AS(b.worker.step_some(1), Error);
  }

  TEST_CASE("RolloutWorker: after a restored state the next fragment is the same bits") {
    for (const EnvSpec* env : {&counter(), &rooms()}) {
      Config config = config_for(*env, 3, 7);
      config.environment.max_episode_steps = 5;
      config.environment.observation_filter = "MeanStdFilter";
      Rig a(config, *env), b(config, *env);
      MeanStdFilter filter(a.spec.obs_size);
      for (int i = 0; i < 9; ++i)
        filter.update(std::vector<float>(static_cast<size_t>(a.spec.obs_size), 0.3f * static_cast<float>(i)));
      a.weights.filter = b.weights.filter = filter.state();
      a.sample();
      a.sample();
      CHECK(b.worker.set_state(a.worker.state()) == "");
      for (int i = 0; i < 3; ++i) {
        a.sample(), b.sample();
        CHECK(same_fragment(a, b));
        REQUIRE(a.fragment.episodes.size() == b.fragment.episodes.size());
        for (size_t e = 0; e < a.fragment.episodes.size(); ++e)
          CHECK(a.fragment.episodes[e].episode_return == b.fragment.episodes[e].episode_return);
      }
    }
  }

  TEST_CASE("RolloutWorker: a state before the first fragment is no state; a foreign or mangled one is refused") {
    const Config config = config_for(counter(), 2, 4);
    Rig fresh(config, counter()), other(config, counter(), 2), wide(config_for(counter(), 3, 4), counter());
    Rig never(config, counter());
    CHECK(fresh.worker.set_state(never.worker.state()) == "");
    fresh.sample(), never.sample();
    CHECK(same_fragment(fresh, never));
    const std::vector<std::byte> state = fresh.worker.state();
    CHECK_THROWS_AS(other.worker.set_state(state), Error);
    CHECK_THROWS_AS(wide.worker.set_state(state), Error);
    CHECK_THROWS_AS(never.worker.set_state(std::span(state).first(state.size() - 3)), Error);
  }

  TEST_CASE("RolloutWorker: an environment without state() restarts with a note") {
    const Config config = config_for(forgetful(), 2, 4);
    Rig a(config, forgetful()), b(config, forgetful());
    a.sample();
    CHECK(b.worker.set_state(a.worker.state()) == "ToyForgetful-v0 cannot give its state: 2 of 2 episodes start anew");
    b.sample();
    CHECK(b.column<float>("obs")[0] == 0.0f);
  }

  TEST_CASE("RolloutWorker: fragments carry uint8 observations as they are, actions respect Discrete::start") {
    Rig rig(config_for(pixels(), 2, 6), pixels());
    rig.sample();
    CHECK(rig.layout->column("obs").row_bytes == 4);
    CHECK(rig.layout->column("final_obs").dtype == DType::u8);
    const auto obs = rig.column<uint8_t>("obs");  // [7, 2, 4]
    for (size_t t = 0; t < 7; ++t) CHECK(obs[t * 8] == t % 4);
    // What the policy saw of S_2: 2, 2, 2, 2.
    EigenPolicy policy(rig.spec);
    policy.load(rig.weights.values);
    const std::vector<float> seen(4, 2.0f);
    std::vector<float> inputs(3);
    policy.forward(seen.data(), 1, inputs.data());
    const auto said = rig.column<float>("action_dist_inputs").subspan(2 * 2 * 3, 3);
    CHECK(inputs == std::vector<float>(said.begin(), said.end()));
    for (const int32_t action : rig.column<int32_t>("actions")) CHECK((action >= 5 && action < 8));
    CHECK(rig.column<uint8_t>("terminateds")[3 * 2] == 1);
    CHECK(rig.fragment.final_rows == 0);
  }

  TEST_CASE("RolloutWorker: uint8 observations that are filtered travel as features; a state is the same either way") {
    Config config = config_for(pixels(), 2, 5);
    Rig bytes(config, pixels());
    bytes.sample();
    Rig again(config, pixels());
    CHECK(again.worker.set_state(bytes.worker.state()) == bytes.worker.set_state(bytes.worker.state()));
    bytes.sample();
    again.sample();
    for (const char* name : kStepColumns)
      CHECK(same(std::as_bytes(bytes.column<std::byte>(name)), std::as_bytes(again.column<std::byte>(name))));
    config.environment.observation_filter = "MeanStdFilter";
    Rig filtered(config, pixels());
    CHECK(filtered.layout->column("obs").dtype == DType::f32);
    filtered.weights.filter = MeanStdFilter(4).state();
    filtered.sample();
    for (size_t t = 0; t < 6; ++t) CHECK(filtered.column<float>("obs")[t * 8] == static_cast<float>(t % 4));
  }

  TEST_CASE(
      "RolloutWorker: Dict observations are flattened, also in final_obs; Box actions are unsquashed and clipped") {
    Rig rig(config_for(rooms(), 1, 6), rooms());
    rig.sample();
    const auto obs = rig.column<float>("obs");  // [7, 1, 5]: pose, one-hot room
    CHECK(obs[1] == -obs[0]);
    CHECK(obs[2] == 1.0f);
    CHECK(obs[5 + 3] == 1.0f);
    REQUIRE(rig.fragment.final_rows == 1);
    const auto final_obs = rig.column<float>("final_obs");
    CHECK(final_obs[2 + 5 % 3] == 1.0f);
    CHECK(final_obs[2] == 0.0f);
    const auto actions = rig.column<float>("actions");
    const auto rewards = rig.column<float>("rewards");
    for (size_t t = 0; t < 6; ++t) {  // [-1, 1] -> [-2, 4]: 3 a + 1
      const float x = std::clamp(3 * actions[2 * t] + 1, -2.0f, 4.0f),
                  y = std::clamp(3 * actions[2 * t + 1] + 1, -2.0f, 4.0f);
      CHECK(rewards[t] == doctest::Approx(x + y));
    }
  }

  TEST_CASE("RolloutWorker: logp and action_dist_inputs are the behaviour policy's on filtered features") {
    Config config = config_for(counter(), 2, 5);
    config.environment.observation_filter = "MeanStdFilter";
    Rig rig(config, counter());
    MeanStdFilter filter(2);
    filter.update(std::vector<float>{0, 0, 4, 1, 2, 0.5f});
    rig.weights.filter = filter.state();
    rig.sample();
    EigenPolicy policy(rig.spec);
    policy.load(rig.weights.values);
    const ActionDist dist(rig.spec.distribution, counter().action_space);
    for (size_t i = 0; i < 10; ++i) {
      float filtered[2], inputs[2];
      filter.apply(rig.column<float>("obs").subspan(i * 2, 2), filtered);
      policy.forward(filtered, 1, inputs);
      CHECK(inputs[0] == rig.column<float>("action_dist_inputs")[2 * i]);
      CHECK(inputs[1] == rig.column<float>("action_dist_inputs")[2 * i + 1]);
      CHECK(dist.logp(inputs, reinterpret_cast<const std::byte*>(&rig.column<int32_t>("actions")[i])) ==
            rig.column<float>("logp")[i]);
    }
  }

  TEST_CASE("RolloutWorker: what an environment did itself is what is learned from, as far as it can be") {
    // Action 1 always; what it was drawn from: nothing, what it says, or what cannot be.
    struct Itself final : Environment {
      void reset(RandomStream&, Row observation) override { std::ranges::fill(observation.f32(), 0.5f); }
      StepResult step(ConstRow, RandomStream&, Row observation) override {
        std::ranges::fill(observation.f32(), 0.5f);
        const int way = count++ % 3;
        inputs = {0.25f, way == 2 ? INFINITY : 1.5f};
        own = {std::as_bytes(std::span(&action, 1)), std::span<const float>(inputs).first(way == 0 ? 0 : 2)};
        if (count == 3 || count == 5) own.version = 3 - static_cast<uint64_t>(count == 3 ? 2 : 1);
        return {.reward = 1.0, .own = &own};
      }
      int count = 0;
      int32_t action = 1;
      std::array<float, 2> inputs;
      OwnAction own;
    };
    EnvSpec spec = counter();
    spec.options.clear();
    spec.make = [](const EnvOptions&) { return std::make_unique<Itself>(); };
    Rig itself(config_for(counter(), 1, 6), spec);
    itself.sample();
    CHECK(itself.worker.clients_lag() == 2);
    const auto inputs = itself.column<float>("action_dist_inputs"), logp = itself.column<float>("logp");
    for (size_t t = 0; t < 6; ++t) {
      CAPTURE(t);
      CHECK(itself.column<int32_t>("actions")[t] == 1);
      if (t % 3 == 1) CHECK((inputs[2 * t] == 0.25f && inputs[2 * t + 1] == 1.5f));
      if (t % 3 != 1) CHECK(inputs[2 * t + 1] == inputs[1]);  // the policy's own: the observation is always the same
      CHECK(logp[t] == doctest::Approx(-std::log1p(std::exp(inputs[2 * t] - inputs[2 * t + 1]))));
    }
    // Q-learning learns of any action, also where epsilon is 0.
    Config config = config_for(counter(), 1, 6);
    config.algorithm = "PQN";
    Rig q(config, spec);
    q.weights.published = {0.0};
    q.weights.values[q.spec.num_parameters() - 1] = -100.0f;  // the bias of action 1
    q.sample();
    for (size_t t = 0; t < 6; ++t) CHECK(q.column<int32_t>("actions")[t] == 1);
  }

  TEST_CASE("RolloutWorker: a Dict of actions is stored flat and arrives as its row; an environment's own, too") {
    const Space& space = gamepad().action_space;
    std::vector<std::vector<std::byte>> given;
    OwnAction own;
    std::vector<std::byte> own_row(space.row_bytes());
    struct Told final : Environment {
      std::vector<std::vector<std::byte>>& given;
      const OwnAction* own;
      Told(std::vector<std::vector<std::byte>>& to, const OwnAction* did) : given(to), own(did) {}
      void reset(RandomStream&, Row observation) override { std::ranges::fill(observation.f32(), 0.0f); }
      StepResult step(ConstRow action, RandomStream&, Row observation) override {
        std::ranges::fill(observation.f32(), 0.0f);
        given.emplace_back(action.bytes().begin(), action.bytes().end());
        return {.own = given.size() > 5 ? own : nullptr};
      }
    };
    EnvSpec spec = gamepad();
    spec.make = [&](const EnvOptions&) { return std::make_unique<Told>(given, &own); };
    Rig rig(config_for(gamepad(), 1, 6), spec);
    // aim 0.5 and -1, keys 1 0, more 0.25 and 1 2, move 12: as they are drawn.
    const std::vector<float> drawn{0.5f, -1.0f, 1, 0, 0.25f, 1, 2, 2};
    ActionConnector(space, false, false)(std::as_bytes(std::span(drawn)), own_row);
    own.action = own_row;
    rig.sample();
    const auto actions = rig.column<float>("actions"), logp = rig.column<float>("logp"),
               inputs = rig.column<float>("action_dist_inputs");
    REQUIRE(actions.size() == 6 * 8);
    ActionConnector connector(space, true, true);
    const ActionDist dist(rig.spec.distribution, space);
    for (size_t t = 0; t < 6; ++t) {
      const auto action = actions.subspan(8 * t, 8);
      if (t < 5) {
        std::vector<std::byte> row(space.row_bytes());
        connector(std::as_bytes(action), row);
        CHECK(row == given[t]);
        CHECK(space.violation(given[t], "action") == "");
      } else {
        CHECK(std::ranges::equal(action, drawn));
      }
      CHECK(logp[t] ==
            dist.logp(inputs.data() + t * inputs.size() / 6, reinterpret_cast<const std::byte*>(action.data())));
    }
    CHECK(fragment_violation(*rig.layout, rig.fragment.used(), rig.fragment.final_rows, space) == "");
  }

  TEST_CASE("RolloutWorker: explore = false takes the mode, random_actions ignores the policy") {
    Config config = config_for(counter(), 2, 50);
    config.env_runners.explore = false;
    Rig greedy(config, counter());
    greedy.sample();
    const auto inputs = greedy.column<float>("action_dist_inputs");
    for (size_t i = 0; i < 100; ++i)
      CHECK(greedy.column<int32_t>("actions")[i] == (inputs[2 * i + 1] > inputs[2 * i] ? 1 : 0));
    config.env_runners.random_actions = true;
    Rig uniform(config, counter());
    uniform.weights.values[uniform.spec.num_inference_parameters() - 1] = 100.0f;
    uniform.sample();
    int ones = 0;
    for (size_t i = 0; i < 100; ++i) {
      ones += uniform.column<int32_t>("actions")[i];
      CHECK(uniform.column<float>("logp")[i] == doctest::Approx(std::log(0.5)));
      CHECK(uniform.column<float>("action_dist_inputs")[2 * i] == 0.0f);
    }
    CHECK(ones > 30);
    CHECK(ones < 70);
  }

  TEST_CASE("RolloutWorker: a restarted runner draws no number again, neither its environments nor its actions") {
    // Each step draws an observation and, the policy's outputs being zero, an action that is noise alone: floats, so
    // that two are equal only where one number was drawn twice.
    Config config = config_for(rooms(), 2, 40);
    std::vector<float> drawn;
    for (const uint32_t incarnation : {0u, 1u, 2u, 65536u, 65537u}) {
      Rig rig(config, rooms(), 4, incarnation);
      std::ranges::fill(rig.weights.values, 0.0f);
      rig.sample();
      RandomStream random(7, StreamPurpose::environment, 4);
      random.set_position(uint64_t{incarnation} << 40);
      CHECK(rig.column<float>("obs")[0] == static_cast<float>(random.uniform()));
      for (size_t row = 0; row < 80; ++row) drawn.push_back(rig.column<float>("obs")[row * 5]);
      const auto actions = rig.column<float>("actions");
      drawn.insert(drawn.end(), actions.begin(), actions.end());
    }
    REQUIRE(drawn.size() == 5 * (80 + 160));
    std::ranges::sort(drawn);
    CHECK(std::ranges::adjacent_find(drawn) == drawn.end());
  }

  TEST_CASE("RolloutWorker: rewards are filtered, scaled and clipped as the config says, with the training's gamma") {
    const auto filter = [](Config& c) { c.environment.reward_filter = "discounted_return_std"; };
    const auto scale = [](Config& c) { c.environment.reward_scale = 0.25; };
    const auto clip = [](Config& c) { c.environment.reward_clip = 0.75; };
    const auto sign = [](Config& c) { c.environment.reward_sign = true; };
    using Settings = std::vector<std::function<void(Config&)>>;
    for (const Settings& settings : {Settings{}, {filter}, {scale}, {clip}, {sign}, {filter, scale, clip}})
      for (const double gamma : {0.5, 0.9}) {
        Config config = config_for(counter(), 2, 30);
        config.environment.env_config = {{"length", 4}};
        config.training.gamma = gamma;
        for (const auto& set : settings) set(config);
        const EnvironmentConfig& e = config.environment;
        Rig rig(config, counter());
        rig.sample();
        RewardConnector to_learner({.filter = e.reward_filter != "NoFilter",
                                    .gamma = gamma,
                                    .scale = e.reward_scale,
                                    .clip = e.reward_clip,
                                    .sign = e.reward_sign},
                                   2);
        std::vector<double> returns;
        std::array<double, 2> running{};
        for (size_t row = 0; row < 60; ++row) {  // the counter's reward: its count after the step, plus the action
          const double reward =
              1 + static_cast<double>(rig.column<float>("obs")[2 * row]) + rig.column<int32_t>("actions")[row];
          const bool over = rig.column<uint8_t>("terminateds")[row] != 0;
          CHECK(rig.column<float>("rewards")[row] == to_learner(row % 2, reward, over));
          running[row % 2] += reward;
          if (over) returns.push_back(std::exchange(running[row % 2], 0.0));
        }
        REQUIRE(returns.size() == 14);
        REQUIRE(rig.fragment.episodes.size() == 14);
        for (size_t i = 0; i < 14; ++i) {  // the environment's own, whatever the learner sees
          CHECK(rig.fragment.episodes[i].episode_return == returns[i]);
          CHECK(rig.fragment.episodes[i].length == 4);
          CHECK(rig.fragment.episodes[i].env_index == i % 2);
        }
      }
  }

  TEST_CASE("RolloutWorker: actions are unsquashed and clipped only where the config says") {
    // The Box is [-2, 4]: unsquashed 3 a + 1. The reward is the sum of what the environment got.
    bool beyond = false;
    for (const bool normalize : {false, true})
      for (const bool clip : {false, true}) {
        Config config = config_for(rooms(), 2, 50);
        config.environment.normalize_actions = normalize;
        config.environment.clip_actions = clip;
        Rig rig(config, rooms());
        rig.sample();
        for (size_t row = 0; row < 100; ++row) {
          float sum = 0;
          for (size_t i = 0; i < 2; ++i) {
            const float action = rig.column<float>("actions")[2 * row + i];
            const float got = normalize ? 3 * action + 1 : action;
            beyond = beyond || got < -2 || got > 4;
            sum += clip ? std::clamp(got, -2.0f, 4.0f) : got;
          }
          CHECK(rig.column<float>("rewards")[row] == doctest::Approx(sum));
        }
      }
    CHECK(beyond);
  }

  TEST_CASE(
      "RolloutWorker: the config's time limit comes before the environment's own, which holds where it has none") {
    for (const int64_t limit : {0, 3, 8}) {
      Config config = config_for(rooms(), 1, 24);
      config.environment.max_episode_steps = limit;
      Rig rig(config, rooms());
      rig.sample();
      const size_t want = limit == 0 ? 5 : static_cast<size_t>(limit);
      for (size_t t = 0; t < 24; ++t) CHECK(rig.column<uint8_t>("truncateds")[t] == ((t + 1) % want == 0));
      CHECK(rig.fragment.final_rows == 24 / want);
    }
  }

  TEST_CASE("RolloutWorker: the policy's observations are clipped as the config says, the fragment's are not") {
    Config config = config_for(counter(), 1, 8);
    config.environment.observation_filter = "MeanStdFilter";
    config.environment.observation_clip = 0.5;
    Rig rig(config, counter());
    MeanStdFilter filter(2, 0.5), wide(2);
    filter.update(std::vector<float>{0, 0, 1, 1});  // mean 0.5: a count of 2 is 2.1 standard deviations off
    rig.weights.filter = filter.state();
    wide.set_state(filter.state());
    rig.sample();
    EigenPolicy policy(rig.spec);
    policy.load(rig.weights.values);
    bool clipped = false;
    for (size_t t = 0; t < 8; ++t) {
      float inside[2], outside[2], inputs[2];
      const auto obs = rig.column<float>("obs").subspan(2 * t, 2);
      CHECK(obs[0] == static_cast<float>(t));
      filter.apply(obs, inside), wide.apply(obs, outside);
      clipped = clipped || inside[0] != outside[0];
      policy.forward(inside, 1, inputs);
      CHECK(inputs[0] == rig.column<float>("action_dist_inputs")[2 * t]);
    }
    CHECK(clipped);
  }

  TEST_CASE("RolloutWorker: a policy that is not finite is an error, not an action") {
    for (const char* algorithm : {"PPO", "PQN"}) {
      CAPTURE(algorithm);
      Config config = config_for(counter(), 2, 4);
      config.algorithm = algorithm;
      Rig rig(config, counter());
      rig.weights.values[0] = std::nanf("");
      if (config.algorithm == "PQN") rig.weights.published = {0.5};
      try {
        rig.sample();
        FAIL("nothing was thrown");
      } catch (const Error& error) {
        CHECK(error.code() == "nan");
        CHECK(std::string(error.what()).find("weights version 3") != std::string::npos);
      }
    }
  }

  TEST_CASE("RolloutWorker: columns that the algorithm does not want are left out, and change nothing of the others") {
    for (const bool uniform : {false, true}) {
      CAPTURE(uniform);
      Config config = load_config("", "test", {"env_runners.num_envs_per_env_runner=2"});
      config.env_runners.random_actions = uniform;
      const EnvSpec& env = EnvRegistry::instance().find("CartPole-v1");
      Rig ppo(config, env);
      config.algorithm = "Bare";
      Rig bare_rig(config, env);
      CHECK(bare_rig.layout->find("logp") == nullptr);
      CHECK(bare_rig.layout->find("action_dist_inputs") == nullptr);
      CHECK(bare_rig.layout->hash() != ppo.layout->hash());
      for (int fragments = 0; fragments < 2; ++fragments) {
        ppo.sample();
        bare_rig.sample();
        for (const char* name : {"obs", "actions", "rewards", "terminateds", "truncateds"}) {
          CAPTURE(name);
          CHECK(same(std::as_bytes(ppo.column<std::byte>(name)), std::as_bytes(bare_rig.column<std::byte>(name))));
        }
      }
    }
  }

  TEST_CASE("RolloutWorker: a frame stack goes over the cut between fragments, and final_obs has its own") {
    Config config = config_for(counter(), 1, 4);
    config.environment.frame_stack = 2;
    config.environment.max_episode_steps = 6;
    Rig rig(config, wrapped_spec(counter(), config.environment));
    using Pair = std::pair<float, float>;
    const auto counts = [](std::span<const float> stacks, size_t row) {  // of the two frames; a frame is {count, mark}
      return Pair{stacks[row * 4], stacks[row * 4 + 2]};
    };
    const auto frame_counts = [&] {
      std::vector<float> column;
      for (size_t row = 0; row < 6; ++row) column.push_back(rig.column<float>("frames")[row * 2]);
      return column;
    };
    CHECK(rig.layout->find("obs") == nullptr);
    rig.sample();
    CHECK(frame_counts() == std::vector<float>{0, 0, 1, 2, 3, 4});
    std::vector<float> stacks = stacks_of(rig.fragment);
    for (size_t t = 0; t <= 4; ++t) CHECK(counts(stacks, t) == Pair{std::max(0.0f, float(t) - 1), float(t)});
    rig.sample();  // t = 4, 5 | 0, 1, 2
    CHECK(frame_counts() == std::vector<float>{3, 4, 5, 0, 1, 2});
    stacks = stacks_of(rig.fragment);
    CHECK(counts(stacks, 0) == Pair{3, 4});
    CHECK(counts(stacks, 1) == Pair{4, 5});
    CHECK(counts(stacks, 2) == Pair{0, 0});  // S_0 twice, and nothing of the episode before
    CHECK(stacks[2 * 4 + 1] == stacks[2 * 4 + 3]);
    CHECK(counts(stacks, 4) == Pair{1, 2});
    REQUIRE(rig.fragment.final_rows == 1);
    CHECK(counts(rig.column<float>("final_obs"), 0) == Pair{5, 6});
    CHECK(rig.column<float>("final_obs")[1] == stacks[1]);               // the mark of its own episode
    CHECK_THROWS_AS(fragment_layout(config, rooms(), rig.spec), Error);  // not in a FrameStack
  }

  TEST_CASE("RolloutWorker: the stacks of its frames are those of environments stepped by hand, and of its policy") {
    for (const EnvSpec* env : {&chancy(), &counter(), &rooms(), &pixels()})
      for (const int k : {2, 3, 6})
        for (const int steps : {1, 4, 7})
          for (const int64_t seed : {7, 8}) {
            CAPTURE(env->id);
            CAPTURE(k);
            CAPTURE(steps);
            CAPTURE(seed);
            Config config = config_for(*env, 3, steps, seed);
            config.environment.frame_stack = k;
            config.environment.frame_skip = k == 3 ? 2 : 1;
            config.environment.max_episode_steps = env == &counter() ? 3 : 0;
            config.environment.observation_filter = "MeanStdFilter";
            const EnvSpec spec = wrapped_spec(*env, config.environment);
            Rig rig(config, spec);
            const auto size = static_cast<size_t>(rig.spec.obs_size);
            MeanStdFilter filter(rig.spec.obs_size);
            for (const float x : {0.0f, 0.5f, 2.0f}) filter.update(std::vector<float>(size, x));
            rig.weights.filter = filter.state();
            EigenPolicy policy(rig.spec);
            policy.load(rig.weights.values);
            std::vector<ByHand> by_hand;
            for (uint64_t b = 0; b < 3; ++b) by_hand.emplace_back(config, spec, b);
            size_t ends = 0;
            for (int fragment = 0; fragment < 5; ++fragment) {
              rig.sample();
              CHECK(fragment_violation(*rig.layout, rig.fragment.used(), rig.fragment.final_rows, env->action_space) ==
                    "");
              const std::vector<float> stacks = stacks_of(rig.fragment);
              const auto floats = [&](std::span<const float> rows, size_t row) {
                return std::vector(rows.begin() + static_cast<std::ptrdiff_t>(row * size),
                                   rows.begin() + static_cast<std::ptrdiff_t>((row + 1) * size));
              };
              size_t final_rows = 0, row = 0;
              for (size_t t = 0; t < static_cast<size_t>(steps); ++t)
                for (size_t b = 0; b < 3; ++b, ++row) {
                  CHECK(floats(stacks, row) == by_hand[b].features());
                  const Column& inputs = rig.layout->column("action_dist_inputs");
                  std::vector<float> filtered(size), want(inputs.row_bytes / sizeof(float));
                  filter.apply(floats(stacks, row), filtered);
                  policy.forward(filtered.data(), 1, want.data());
                  CHECK(same(rig.cell("action_dist_inputs", t, b), std::as_bytes(std::span(want))));
                  const auto [terminated, truncated] = by_hand[b].step(rig.cell("actions", t, b));
                  CHECK(rig.column<uint8_t>("terminateds")[row] == terminated);
                  CHECK(rig.column<uint8_t>("truncateds")[row] == truncated);
                  ends += terminated || truncated ? 1 : 0;
                  if (truncated && !terminated)
                    CHECK(floats(rig.column<float>("final_obs"), final_rows++) == by_hand[b].final_features);
                }
              CHECK(rig.fragment.final_rows == final_rows);
              for (size_t b = 0; b < 3; ++b, ++row) CHECK(floats(stacks, row) == by_hand[b].features());
            }
            CHECK(ends > 0);
          }
  }

  TEST_CASE("RolloutWorker: frames go on from a state as they were, whatever an environment makes of its own") {
    Config config = config_for(chancy(), 4, 5);
    config.environment.env_config["rounding"] = 0.25;
    for (const int k : {1, 2, 4}) {
      CAPTURE(k);
      config.environment.frame_stack = k;
      const EnvSpec spec = wrapped_spec(chancy(), config.environment);
      Rig a(config, spec), b(config, spec);
      a.sample();
      for (int i = 0; i < 6; ++i) {
        CHECK(b.worker.set_state(a.worker.state()) == "");
        a.sample(), b.sample();
        CHECK(same_fragment(a, b));
      }
    }
  }

  TEST_CASE("RolloutWorker: with every wrapper on, state continues bit for bit and workers may share environments") {
    for (const EnvSpec* env : {&counter(), &rooms()}) {
      Config config = config_for(*env, 4, 12);
      config.environment.max_episode_steps = 5;
      config.environment.frame_skip = 2, config.environment.frame_stack = 3, config.environment.sticky_actions = 0.3;
      config.environment.reward_filter = "discounted_return_std", config.environment.reward_clip = 2.0;
      const EnvSpec spec = wrapped_spec(*env, config.environment);
      Rig whole(config, spec), again(config, spec);
      whole.sample();
      config.env_runners.num_envs_per_env_runner = 2;
      for (size_t w = 0; w < 2; ++w) {
        Rig part(config, spec, w * 2);
        part.sample();
        for (const Column& column : part.layout->columns())
          for (size_t t = 0; column.rows != Rows::final_step && t < part.layout->rows(column) / 2; ++t)
            for (size_t b = 0; b < 2; ++b)
              CHECK(same(part.cell(column.name.c_str(), t, b), whole.cell(column.name.c_str(), t, w * 2 + b)));
      }
      CHECK(again.worker.set_state(whole.worker.state()) == "");
      for (int i = 0; i < 3; ++i) {
        whole.sample();
        again.sample();
        CHECK(same_fragment(whole, again));
      }
    }
  }

  TEST_CASE("RolloutWorker: a state without reward statistics is not one of a run that filters rewards") {
    Config config = config_for(counter(), 1, 4);
    Rig plain(config, counter());
    plain.sample();
    config.environment.reward_filter = "discounted_return_std";
    Rig filters(config, counter());
    CHECK_THROWS_AS(filters.worker.set_state(plain.worker.state()), Error);
  }

  TEST_CASE("RolloutWorker: no masked action is taken, sampled, as the mode or at random; its logit is kMaskedLogit") {
    for (const EnvSpec* env : {&masked(), &masked_pair(), &masked_bits(), &masked_gamepad()})
      for (const int mode : {0, 1, 2})
        for (const int allowed : {1, 2}) {
          CAPTURE(env->id);
          CAPTURE(mode);
          CAPTURE(allowed);
          Config config = config_for(*env, 4, 100);
          config.environment.env_config = {{"allowed", allowed}};
          config.environment.observation_filter = "MeanStdFilter";
          config.env_runners.explore = mode != 1;
          config.env_runners.random_actions = mode == 2;
          Rig rig(config, *env);
          MeanStdFilter filter(rig.spec.obs_size);  // that would make ones and zeros of the masks something else
          std::vector<float> rows(2 * static_cast<size_t>(rig.spec.obs_size), 1.0f);
          rows[0] = rows[static_cast<size_t>(rig.spec.obs_size) - 1] = 0.5f;
          filter.update(rows);
          rig.weights.filter = filter.state();
          for (int i = 0; i < 3; ++i) rig.sample();  // the environment throws at a masked action
          const auto obs = rig.column<float>("obs"), inputs = rig.column<float>("action_dist_inputs"),
                     logp = rig.column<float>("logp");
          const auto size = static_cast<size_t>(rig.spec.obs_size), k = inputs.size() / logp.size();
          const size_t choices = choices_of(env->action_space).size();
          for (size_t i = 0; i < logp.size(); ++i) {
            for (const ActionPart& part : action_parts(rig.spec.distribution))
              for (size_t j = 0; j < static_cast<size_t>(part.num_choices) && mode != 2; ++j) {
                const float mask = obs[i * size + static_cast<size_t>(rig.spec.mask_offset + part.choice) + j];
                CHECK((mask == 0.0f || mask == 1.0f));
                CHECK((inputs[i * k + static_cast<size_t>(part.input) + j] == kMaskedLogit) == (mask == 0.0f));
              }
            if (env == &masked_gamepad()) continue;  // its Boxes have a density
            if (allowed == 1) CHECK(logp[i] == 0.0f);
            if (mode == 2 && allowed == 2)
              CHECK(logp[i] == doctest::Approx(static_cast<double>(choices) * std::log(0.5)));
          }
          CHECK(fragment_violation(*rig.layout, rig.fragment.used(), rig.fragment.final_rows, env->action_space) == "");
        }
  }

  TEST_CASE("RolloutWorker: bytes with a mask of bytes stay bytes, and the mask holds") {
    for (const int mode : {0, 1, 2}) {
      Config config = config_for(masked_bytes(), 4, 100);
      config.environment.env_config = {{"allowed", 2}};
      config.env_runners.explore = mode != 1;
      config.env_runners.random_actions = mode == 2;
      Rig rig(config, masked_bytes());
      CHECK(rig.layout->column("obs").row_bytes == 8);
      for (int i = 0; i < 3; ++i) rig.sample();  // the environment throws at a masked action
      const auto obs = rig.column<uint8_t>("obs");
      const auto inputs = rig.column<float>("action_dist_inputs");
      for (size_t i = 0; i < inputs.size() && mode != 2; ++i)
        CHECK((inputs[i] == kMaskedLogit) == (obs[i / 4 * 8 + 4 + i % 4] == 0));
    }
  }

  TEST_CASE("RolloutWorker: sampling allocates nothing once the first fragment is full") {
    for (const EnvSpec* env : {&counter(), &rooms(), &pixels(), &gamepad(), &camera()})
      for (const auto& [random_actions, frame_stack] : {std::pair{false, 1}, {false, 3}, {true, 2}}) {
        Config config = config_for(*env, 5, 40);
        config.environment.frame_skip = random_actions ? 2 : 1;
        config.environment.frame_stack = frame_stack;
        config.environment.sticky_actions = random_actions ? 0.5 : 0.0;
        const EnvSpec spec = wrapped_spec(*env, config.environment);
        config.environment.max_episode_steps = 3;
        config.environment.observation_filter = "MeanStdFilter";
        config.env_runners.random_actions = random_actions;
        Rig rig(config, spec);
        rig.weights.filter = MeanStdFilter(rig.spec.obs_size).state();
        rig.sample();
        const std::size_t before = g_allocations;
        rig.sample();
        CHECK(g_allocations - before == 0);
      }
  }
}
