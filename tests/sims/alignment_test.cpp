// Every environment against the simulator it reproduces: tests/golden/gymnasium, written by scripts/align_gymnasium.py.
#include <doctest/doctest.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <fstream>
#include <map>
#include <sstream>

#include "rl/check.hpp"
#include "rl/environment.hpp"

namespace myriad {
namespace {

// The goldens are met exactly where they were made; other processors' libm may differ in the last digit.
constexpr double kClassicTolerance = 1e-6;  // float32 observations, Box2D's too
constexpr double kMujocoTolerance = 1e-9;   // float64 observations
constexpr double kStateTolerance = 1e-6;    // of a state's number, or of 1; MuJoCo's solver has large ones

struct Step {
  std::vector<double> action, observation;
  double reward;
  bool terminated;
};

struct Episode {
  std::string policy;
  std::optional<uint64_t> stream;  // the seed of the random stream it draws from; else it starts from states
  std::vector<double> observation;
  std::vector<Step> steps;
  std::map<size_t, std::vector<double>> states;  // before step t: the first, then one every 20 steps
};

/// P(s', r | s, a), as Gymnasium's toy text has it.
struct Transition {
  int state, action;
  std::vector<std::vector<double>> outcomes;  // probability, S_{t+1}, R_{t+1}, terminated
};

struct Golden {
  std::string observation_space, action_space, reward_threshold;
  int max_episode_steps = 0;
  EnvOptions options;
  std::vector<Episode> episodes;
  std::vector<Transition> transitions;
};

std::vector<double> numbers(std::string_view text) {
  std::vector<double> values;
  for (const char* at = text.data(); at != text.data() + text.size();) {
    if (*at == ' ') {
      ++at;
      continue;
    }
    const auto [next, error] = std::from_chars(at, text.data() + text.size(), values.emplace_back());
    check(error == std::errc(), "a golden has the line {}", text);
    at = next;
  }
  return values;
}

/// "A_t | R_{t+1} terminated | S_{t+1}".
Step read_step(std::string_view line) {
  const size_t first = line.find('|'), second = line.rfind('|');
  check(first != second, "a golden has the line {}", line);
  const std::vector<double> outcome = numbers(line.substr(first + 1, second - first - 1));
  check(outcome.size() == 2, "a golden has the line {}", line);
  return {.action = numbers(line.substr(0, first)),
          .observation = numbers(line.substr(second + 1)),
          .reward = outcome[0],
          .terminated = outcome[1] != 0};
}

/// "S_t A_t | probability S_{t+1} R_{t+1} terminated | ...".
Transition read_transition(const std::string& line) {
  std::istringstream in(line);
  Transition transition;
  in >> transition.state >> transition.action;
  for (std::string outcome; std::getline(in, outcome, '|');)
    if (outcome != " ") transition.outcomes.push_back(numbers(outcome));
  return transition;
}

Golden read_golden(const std::string& name) {
  const std::string file = fmt::format("{}/tests/golden/gymnasium/{}", MYRIAD_SOURCE_ROOT, name);
  std::ifstream in(file);
  check(in.good(), "{} cannot be read", file);
  Golden golden;
  for (std::string line; std::getline(in, line);) {
    const size_t blank = line.find(' ');
    const std::string key = line.substr(0, blank), rest = line.substr(blank + 1);
    if (key == "#") continue;
    if (key == "observation_space")
      golden.observation_space = rest;
    else if (key == "action_space")
      golden.action_space = rest;
    else if (key == "max_episode_steps")
      golden.max_episode_steps = std::stoi(rest);
    else if (key == "reward_threshold")
      golden.reward_threshold = rest;
    else if (key == "option")
      golden.options[rest.substr(0, rest.find(' '))] = numbers(rest.substr(rest.find(' '))).at(0);
    else if (key == "transition")
      golden.transitions.push_back(read_transition(rest));
    else if (key == "episode")
      golden.episodes.push_back({.policy = rest, .stream = {}, .observation = {}, .steps = {}, .states = {}});
    else if (key == "stream")
      golden.episodes.back().stream = std::stoull(rest);
    else if (key == "state")
      golden.episodes.back().states[golden.episodes.back().steps.size()] = numbers(rest);
    else if (key == "observation")
      golden.episodes.back().observation = numbers(rest);
    else
      golden.episodes.back().steps.push_back(read_step(line));
  }
  return golden;
}

std::vector<double> doubles_of(const Space& space, std::span<std::byte> row) {
  if (space.leaves()[0].dtype == DType::f64) return {Row(row).f64().begin(), Row(row).f64().end()};
  if (space.leaves()[0].dtype == DType::i32) {  // toy text
    std::vector<double> values;
    for (const Leaf& leaf : space.leaves()) values.push_back(Row(row).leaf(leaf).i32()[0]);
    return values;
  }
  return {Row(row).f32().begin(), Row(row).f32().end()};
}

void write_action(const Space& space, const std::vector<double>& action, std::span<std::byte> row) {
  if (space.get_if<Discrete>() != nullptr)
    std::ranges::transform(action, Row(row).i32().begin(), [](double v) { return static_cast<int32_t>(v); });
  else
    std::ranges::transform(action, Row(row).f32().begin(), [](double v) { return static_cast<float>(v); });
}

double largest_difference(const std::vector<double>& got, const std::vector<double>& want) {
  check(got.size() == want.size(), "an observation has {} values, want {}", got.size(), want.size());
  double largest = 0;
  // A NaN counts as infinitely far.
  for (size_t i = 0; i < got.size(); ++i)
    largest = std::max(largest, std::isnan(got[i]) ? 1e300 : std::abs(got[i] - want[i]));
  return largest;
}

/// The largest difference in shares of what is wanted, or of 1.
double largest_share(const std::vector<double>& got, const std::vector<double>& want) {
  check(got.size() == want.size(), "a state has {} values, want {}", got.size(), want.size());
  double largest = 0;
  for (size_t i = 0; i < got.size(); ++i)
    largest = std::max(largest, largest_difference({got[i]}, {want[i]}) / std::max(1.0, std::abs(want[i])));
  return largest;
}

/// Every entry of Gymnasium's table: from its state, each of 32 draws leads where the table says.
void replay_table(const std::string& id, const std::string& file_type = ".txt") {
  const Golden golden = read_golden(id + file_type);
  const auto env = make_environment(EnvRegistry::instance().find(id), golden.options);
  REQUIRE(golden.transitions.size() >= 64);
  RandomStream random(1, StreamPurpose::environment, 0);
  for (const auto& [from, action, outcomes] : golden.transitions) {
    INFO("state ", from, ", action ", action);
    for (int i = 0; i < 32; ++i) {
      int32_t row = 0;
      const Row observation(std::as_writable_bytes(std::span(&row, 1)));
      std::vector<double> state = *env->state();  // Taxi's passenger changes no mind here
      state.assign(state.size(), 0.0);
      state[0] = from;
      env->set_state(state, observation);
      RandomStream same = random;
      const double draw = same.uniform();
      double cumulative = 0;
      const auto want = std::ranges::find_if(outcomes, [&](const auto& o) { return (cumulative += o[0]) > draw; });
      const StepResult got = env->step(ConstRow(std::as_bytes(std::span(&action, 1))), random, observation);
      REQUIRE(std::vector<double>{(*want)[0], double(row), got.reward, double(got.terminated)} == *want);
    }
  }
}

/// Replays every golden episode from its states, or its random stream, with its actions.
void replay(const std::string& id, double tolerance, const std::string& file_type = ".txt", bool same_bounds = true) {
  const Golden golden = read_golden(id + file_type);
  const EnvSpec spec = configured_spec(EnvRegistry::instance().find(id), golden.options);
  if (same_bounds) CHECK(spec.observation_space.to_string() == golden.observation_space);
  CHECK(spec.action_space.to_string() == golden.action_space);
  CHECK(spec.max_episode_steps == golden.max_episode_steps);
  CHECK((spec.reward_threshold ? fmt::format("{:#}", *spec.reward_threshold) : "None") == golden.reward_threshold);
  REQUIRE(golden.episodes.size() >= 4);
  const auto env = make_environment(spec, golden.options);
  std::vector<double> aligned_row(spec.observation_space.row_bytes() / sizeof(double) + 1);
  std::vector<double> aligned_action(spec.action_space.row_bytes() / sizeof(double) + 1);
  const auto row = std::as_writable_bytes(std::span(aligned_row)).first(spec.observation_space.row_bytes());
  const auto action = std::as_writable_bytes(std::span(aligned_action)).first(spec.action_space.row_bytes());
  const auto observation_difference_to = [&](std::vector<double> want) {
    // Goldens have a float32's shortest text: read it as the float32 it stands for.
    if (spec.observation_space.leaves()[0].dtype == DType::f32)
      for (double& value : want) value = static_cast<float>(value);
    return largest_difference(doubles_of(spec.observation_space, row), want);
  };
  for (const Episode& episode : golden.episodes) {
    INFO("episode ", episode.policy);
    RandomStream random(episode.stream.value_or(1), StreamPurpose::environment, 0);
    if (episode.stream)
      env->reset(random, Row(row));
    else
      env->set_state(episode.states.at(0), Row(row));
    CHECK(observation_difference_to(episode.observation) <= tolerance);
    size_t states = episode.states.size();
    for (size_t t = 0; t < episode.steps.size(); ++t) {
      INFO("step ", t);
      const Step& want = episode.steps[t];
      if (const auto recorded = episode.states.find(t); t > 0 && recorded != episode.states.end()) {
        CHECK(largest_share(*env->state(), recorded->second) <= kStateTolerance);
        --states;
        env->set_state(recorded->second, Row(row));
      }
      write_action(spec.action_space, want.action, action);
      const StepResult got = env->step(ConstRow(action), random, Row(row));
      REQUIRE(observation_difference_to(want.observation) <= tolerance);
      REQUIRE(std::abs(got.reward - want.reward) <= tolerance);
      REQUIRE(got.terminated == want.terminated);
    }
    CHECK(episode.steps.size() >= 1);
    CHECK(states == (episode.stream ? 0 : 1));  // each was met but the one it began from
  }
}

}  // namespace

TEST_SUITE("sims/alignment") {
  TEST_CASE("CartPole-v1: aligned with Gymnasium, step by step") { replay("CartPole-v1", kClassicTolerance); }
  TEST_CASE("Pendulum-v1: aligned with Gymnasium, step by step") { replay("Pendulum-v1", kClassicTolerance); }
  TEST_CASE("Acrobot-v1: aligned with Gymnasium, step by step") { replay("Acrobot-v1", kClassicTolerance); }
  TEST_CASE("MountainCar-v0: aligned with Gymnasium, step by step") { replay("MountainCar-v0", kClassicTolerance); }
  TEST_CASE("MountainCarContinuous-v0: aligned with Gymnasium, step by step") {
    replay("MountainCarContinuous-v0", kClassicTolerance);
  }
  TEST_CASE("Toy text: aligned with Gymnasium, step by step, with the same random draws") {
    for (const char* id : {"FrozenLake-v1", "FrozenLake8x8-v1", "CliffWalking-v1", "CliffWalkingSlippery-v1", "Taxi-v3",
                           "Blackjack-v1"}) {
      INFO(id);
      replay(id, 0.0);
    }
  }
  TEST_CASE("Toy text: the options are Gymnasium's") {
    for (const char* id : {"FrozenLake-v1", "FrozenLake8x8-v1", "CliffWalking-v1", "Taxi-v3", "Blackjack-v1"}) {
      INFO(id);
      replay(id, 0.0, ".options.txt");
    }
  }
  TEST_CASE("Toy text: every transition is Gymnasium's") {
    for (const char* id :
         {"FrozenLake-v1", "FrozenLake8x8-v1", "CliffWalking-v1", "CliffWalkingSlippery-v1", "Taxi-v3"})
      replay_table(id);
    for (const char* id : {"FrozenLake-v1", "FrozenLake8x8-v1", "CliffWalking-v1", "Taxi-v3"})
      replay_table(id, ".options.txt");
  }
  TEST_CASE("Box2D: aligned with Gymnasium for whole episodes, with the same random draws") {
    // Gymnasium's observations go beyond the bounds it declares: those spaces differ.
    for (const char* id :
         {"LunarLander-v3", "LunarLanderContinuous-v3", "BipedalWalker-v3", "BipedalWalkerHardcore-v3"}) {
      INFO(id);
      replay(id, kClassicTolerance, ".txt", false);
    }
    replay("LunarLander-v3", kClassicTolerance, ".options.txt", false);
  }
  TEST_CASE("HalfCheetah-v5: aligned with Gymnasium, step by step") { replay("HalfCheetah-v5", kMujocoTolerance); }
  TEST_CASE("Hopper-v5: aligned with Gymnasium, step by step") { replay("Hopper-v5", kMujocoTolerance); }
  TEST_CASE("InvertedPendulum-v5: aligned with Gymnasium, step by step") {
    replay("InvertedPendulum-v5", kMujocoTolerance);
  }
  TEST_CASE("InvertedDoublePendulum-v5: aligned with Gymnasium, step by step") {
    replay("InvertedDoublePendulum-v5", kMujocoTolerance);
  }
  TEST_CASE("Reacher-v5: aligned with Gymnasium, step by step") { replay("Reacher-v5", kMujocoTolerance); }
  TEST_CASE("Pusher-v5: aligned with Gymnasium, step by step") { replay("Pusher-v5", kMujocoTolerance); }
  TEST_CASE("Swimmer-v5: aligned with Gymnasium, step by step") { replay("Swimmer-v5", kMujocoTolerance); }
  TEST_CASE("Walker2d-v5: aligned with Gymnasium, step by step") { replay("Walker2d-v5", kMujocoTolerance); }
  TEST_CASE("Ant-v5: aligned with Gymnasium, step by step") { replay("Ant-v5", kMujocoTolerance); }
  TEST_CASE("Humanoid-v5: aligned with Gymnasium, step by step") { replay("Humanoid-v5", kMujocoTolerance); }
  TEST_CASE("HumanoidStandup-v5: aligned with Gymnasium, step by step") {
    replay("HumanoidStandup-v5", kMujocoTolerance);
  }
  TEST_CASE("MuJoCo: options are Gymnasium's, none at its default, step by step") {
    for (const char* id : {"HalfCheetah-v5", "Hopper-v5", "InvertedDoublePendulum-v5", "Reacher-v5", "Pusher-v5",
                           "Swimmer-v5", "Walker2d-v5", "Ant-v5", "Humanoid-v5", "HumanoidStandup-v5"}) {
      INFO(id);
      replay(id, kMujocoTolerance, ".options.txt");
    }
  }
}

}  // namespace myriad
