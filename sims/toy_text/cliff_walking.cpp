// CliffWalking-v1, CliffWalkingSlippery-v1: walk from one end of a cliff to the other; a fall leads back to the start.
//
// Sutton and Barto 2018, "Reinforcement Learning: An Introduction", Example 6.6; Gymnasium's CliffWalking.
#include <algorithm>

#include "sims/toy_text/board.hpp"
#include "sims/toy_text/tabular_env.hpp"

namespace myriad {
namespace {

constexpr int kRows = 4, kColumns = 12;
constexpr int kStart = 3 * kColumns, kGoal = kRows * kColumns - 1;  // the cliff lies between them
enum Action { kUp, kRight, kDown, kLeft, kActions };

Outcome move(int state, int action, double probability) {
  const int row = std::clamp(state / kColumns + (action == kDown) - (action == kUp), 0, kRows - 1);
  const int column = std::clamp(state % kColumns + (action == kRight) - (action == kLeft), 0, kColumns - 1);
  const int next = row * kColumns + column;
  if (next > kStart && next < kGoal) return {probability, kStart, -100, false};
  return {probability, next, -1, next == kGoal};
}

/// Slippery: the step meant and the steps to its sides are equally likely.
std::shared_ptr<const TransitionTable> make_table(bool is_slippery) {
  auto table = std::make_shared<TransitionTable>(kRows * kColumns, kActions);
  std::vector<double> initial(kRows * kColumns);
  initial[kStart] = 1;
  table->set_initial(initial);
  for (int state = 0; state < kRows * kColumns; ++state)
    for (int action = 0; action < kActions; ++action) {
      std::vector<Outcome> outcomes;
      for (const int turn : is_slippery ? std::vector{3, 0, 1} : std::vector{0})
        outcomes.push_back(move(state, (action + turn) % kActions, is_slippery ? 1.0 / 3.0 : 1.0));
      table->set(state, action, outcomes);
    }
  return table;
}

class CliffWalking final : public TabularEnv {
 public:
  using TabularEnv::TabularEnv;

  std::optional<Frame> render(int width, int height) override {
    constexpr Colour kGround{150, 190, 120}, kCliff{60, 50, 45}, kEnds{250, 220, 120};
    Board board(width, height, kRows, kColumns);
    for (int state = 0; state < kRows * kColumns; ++state)
      board.square(state / kColumns, state % kColumns,
                   state < kStart                      ? kGround
                   : state == kStart || state == kGoal ? kEnds
                                                       : kCliff);
    board.disc(current() / kColumns, current() % kColumns, 0.3, kAgent);
    return board.take();
  }
  double render_fps() const override { return 4; }
};

EnvSpec cliff_walking(const char* id, bool is_slippery) {
  return {.id = id,
          .observation_space = Space::discrete(kRows * kColumns),
          .action_space = Space::discrete(kActions),
          .source = std::string("Gymnasium 1.2.2 ") + id,
          .options = {{"is_slippery", is_slippery}},
          .state_names = {"square"},
          .make = [=](const EnvOptions& options) {
            static const auto firm = make_table(false), slippery = make_table(true);
            return std::make_unique<CliffWalking>(id, options.at("is_slippery") != 0 ? slippery : firm);
          }};
}

const RegisterEnv firm{cliff_walking("CliffWalking-v1", false)};
const RegisterEnv slippery{cliff_walking("CliffWalkingSlippery-v1", true)};

}  // namespace
}  // namespace myriad
