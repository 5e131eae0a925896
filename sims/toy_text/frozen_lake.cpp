// FrozenLake-v1, FrozenLake8x8-v1: cross a frozen lake from the start to the goal without falling into a hole.
//
// Gymnasium's FrozenLake (after OpenAI Gym, Brockman et al. 2016). On slippery ice a step goes where it is meant to
// with probability success_rate, else to one of the sides.
#include <array>
#include <string_view>

#include "rl/check.hpp"
#include "sims/toy_text/board.hpp"
#include "sims/toy_text/tabular_env.hpp"

namespace myriad {
namespace {

enum Action { kLeft, kDown, kRight, kUp, kActions };

constexpr std::array<std::string_view, 4> kMap4x4{"SFFF", "FHFH", "FFFH", "HFFG"};
constexpr std::array<std::string_view, 8> kMap8x8{"SFFFFFFF", "FFFFFFFF", "FFFHFFFF", "FFFFFHFF",
                                                  "FFFHFFFF", "FHHFFFHF", "FHFFHFHF", "FFFHFFFG"};
using Map = std::span<const std::string_view>;

/// The outcome of going one square from (row, column); the edge of the lake holds.
Outcome move(Map map, int row, int column, int action, double probability, const EnvOptions& options) {
  const int last = static_cast<int>(map.size()) - 1;
  if (action == kLeft) column = std::max(column - 1, 0);
  if (action == kDown) row = std::min(row + 1, last);
  if (action == kRight) column = std::min(column + 1, last);
  if (action == kUp) row = std::max(row - 1, 0);
  const char square = map[static_cast<size_t>(row)][static_cast<size_t>(column)];
  const char* schedule = square == 'G'   ? "reward_schedule_goal"
                         : square == 'H' ? "reward_schedule_hole"
                                         : "reward_schedule_frozen";
  return {probability, row * (last + 1) + column, options.at(schedule), square == 'G' || square == 'H'};
}

std::shared_ptr<const TransitionTable> make_table(Map map, const EnvOptions& options) {
  const double success_rate = options.at("success_rate"), fail_rate = (1 - success_rate) / 2;
  if (!(success_rate >= 0 && success_rate <= 1))
    fail(Exit::usage, "env-option", "success_rate is {}, want 0 to 1", success_rate);
  const int side = static_cast<int>(map.size());
  auto table = std::make_shared<TransitionTable>(side * side, kActions);
  std::vector<double> initial;
  for (int state = 0; state < side * side; ++state) {
    const int row = state / side, column = state % side;
    const char square = map[static_cast<size_t>(row)][static_cast<size_t>(column)];
    initial.push_back(square == 'S');
    for (int action = 0; action < kActions; ++action) {
      const auto going = [&](int turn, double probability) {
        return move(map, row, column, (action + turn) % kActions, probability, options);
      };
      if (square == 'G' || square == 'H')
        table->set(state, action, {{1.0, state, 0.0, true}});
      else if (options.at("is_slippery") != 0)
        table->set(state, action, {going(3, fail_rate), going(0, success_rate), going(1, fail_rate)});
      else
        table->set(state, action, {going(0, 1.0)});
    }
  }
  table->set_initial(initial);
  return table;
}

class FrozenLake final : public TabularEnv {
 public:
  FrozenLake(std::string id, Map map, const EnvOptions& options)
      : TabularEnv(std::move(id), make_table(map, options)), map_(map) {}

  std::optional<Frame> render(int width, int height) override {
    constexpr Colour kIce{205, 228, 245}, kHole{30, 60, 110}, kStart{170, 215, 170}, kGoal{250, 190, 60};
    const int side = static_cast<int>(map_.size());
    Board board(width, height, side, side);
    for (int row = 0; row < side; ++row)
      for (int column = 0; column < side; ++column) {
        const char square = map_[static_cast<size_t>(row)][static_cast<size_t>(column)];
        board.square(row, column, square == 'S' ? kStart : square == 'G' ? kGoal : kIce);
        if (square == 'H') board.disc(row, column, 0.4, kHole);
      }
    board.disc(current() / side, current() % side, 0.25, kAgent);
    return board.take();
  }
  double render_fps() const override { return 4; }

 private:
  Map map_;
};

EnvSpec frozen_lake(const char* id, Map map, int max_episode_steps, double reward_threshold) {
  return {.id = id,
          .observation_space = Space::discrete(static_cast<int>(map.size() * map.size())),
          .action_space = Space::discrete(kActions),
          .max_episode_steps = max_episode_steps,
          .reward_threshold = reward_threshold,
          .source = std::string("Gymnasium 1.2.2 ") + id,
          .options = {{"is_slippery", 1},
                      {"success_rate", 1.0 / 3.0},
                      {"reward_schedule_goal", 1},
                      {"reward_schedule_hole", 0},
                      {"reward_schedule_frozen", 0}},
          .state_names = {"square"},
          .make = [=](const EnvOptions& o) { return std::make_unique<FrozenLake>(id, map, o); }};
}

const RegisterEnv small{frozen_lake("FrozenLake-v1", kMap4x4, 100, 0.7)};
const RegisterEnv large{frozen_lake("FrozenLake8x8-v1", kMap8x8, 200, 0.85)};

}  // namespace
}  // namespace myriad
