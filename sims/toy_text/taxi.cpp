// Taxi-v3: fetch a passenger at one of four places and bring them to another.
//
// Dietterich 2000, "Hierarchical Reinforcement Learning with the MAXQ Value Function Decomposition"; Gymnasium's
// Taxi-v3. In the rain the taxi goes astray in two steps of ten; a fickle passenger may want to go elsewhere once they
// are moving.
#include <algorithm>
#include <array>
#include <string_view>

#include "sims/toy_text/board.hpp"
#include "sims/toy_text/tabular_env.hpp"

namespace myriad {
namespace {

constexpr int kSide = 5, kInTaxi = 4, kDestinations = 4;
constexpr int kStates = kSide * kSide * (kInTaxi + 1) * kDestinations;
enum Action { kSouth, kNorth, kEast, kWest, kPickUp, kDropOff, kActions };
constexpr double kFickle = 0.3;  // of the passengers

// ':' lets the taxi through, '|' does not.
constexpr std::array<std::string_view, 5> kMap{"|R: | : :G|", "| : | : : |", "| : : : : |", "| | : | : |",
                                               "|Y| : |B: |"};

struct Square {
  int row, column;
  bool operator==(const Square&) const = default;
};
constexpr std::array<Square, 4> kPlaces{{{0, 0}, {0, 4}, {4, 0}, {4, 3}}};  // R, G, Y, B

struct TaxiState {
  Square taxi;
  int passenger;  // a place, or kInTaxi
  int destination;

  static TaxiState decode(int state) {
    return {{state / 100, state / 20 % kSide}, state / kDestinations % (kInTaxi + 1), state % kDestinations};
  }
  int encode() const {
    return ((taxi.row * kSide + taxi.column) * (kInTaxi + 1) + passenger) * kDestinations + destination;
  }
  TaxiState at(Square square) const { return {square, passenger, destination}; }
};

bool open_at(int row, int character) { return kMap[static_cast<size_t>(row)][static_cast<size_t>(character)] == ':'; }

/// Where a move ends, walls aside.
Square moved(Square from, int action) {
  return {std::clamp(from.row + (action == kSouth) - (action == kNorth), 0, kSide - 1),
          std::clamp(from.column + (action == kEast) - (action == kWest), 0, kSide - 1)};
}

bool is_open(Square from, int action) {
  if (action == kEast) return open_at(from.row, 2 * from.column + 2);
  if (action == kWest) return open_at(from.row, 2 * from.column);
  return true;
}

/// Gymnasium's drift to a side: it looks for a wall at the square where the taxi would arrive, right of it for the
/// first side and left of it for the second, whatever the direction.
Square drifted(Square from, int action, int character_offset) {
  const Square to = moved(from, action);
  return open_at(to.row, 2 * to.column + character_offset) ? to : from;
}

Outcome pick_up_or_drop_off(TaxiState state, int action) {
  const auto place = std::ranges::find(kPlaces, state.taxi);
  const bool riding = state.passenger == kInTaxi, at_place = place != kPlaces.end();
  const int here = static_cast<int>(place - kPlaces.begin());  // 4: no place
  if (action == kPickUp) {
    if (riding || here != state.passenger) return {1.0, state.encode(), -10, false};
    state.passenger = kInTaxi;
    return {1.0, state.encode(), -1, false};
  }
  if (!riding || !at_place) return {1.0, state.encode(), -10, false};
  state.passenger = here;
  const bool arrived = here == state.destination;
  return {1.0, state.encode(), arrived ? 20.0 : -1.0, arrived};
}

std::vector<Outcome> outcomes(const TaxiState& state, int action, bool is_rainy) {
  if (action >= kPickUp) return {pick_up_or_drop_off(state, action)};
  const Square from = state.taxi, ahead = is_open(from, action) ? moved(from, action) : from;
  if (!is_rainy) return {{1.0, state.at(ahead).encode(), -1, false}};
  Square left = from, right = from;
  if (is_open(from, action)) {
    const bool vertical = action == kSouth || action == kNorth;
    left = drifted(from, vertical ? kWest : kSouth, 2);
    right = drifted(from, vertical ? kEast : kNorth, 0);
  }
  return {{0.8, state.at(ahead).encode(), -1, false},
          {0.1, state.at(left).encode(), -1, false},
          {0.1, state.at(right).encode(), -1, false}};
}

std::shared_ptr<const TransitionTable> make_table(bool is_rainy) {
  auto table = std::make_shared<TransitionTable>(kStates, kActions);
  std::vector<double> initial;
  for (int s = 0; s < kStates; ++s) {
    const TaxiState state = TaxiState::decode(s);
    initial.push_back(state.passenger != kInTaxi && state.passenger != state.destination);
    for (int action = 0; action < kActions; ++action) table->set(s, action, outcomes(state, action, is_rainy));
  }
  table->set_initial(initial);
  return table;
}

class Taxi final : public TabularEnv {
 public:
  Taxi(std::shared_ptr<const TransitionTable> table, bool fickle_passenger)
      : TabularEnv("Taxi-v3", std::move(table)), fickle_passenger_(fickle_passenger) {}

  void reset(RandomStream& random, Row observation) override {
    TabularEnv::reset(random, observation);
    changes_mind_ = fickle_passenger_ && random.uniform() < kFickle;
  }

  StepResult step(ConstRow action, RandomStream& random, Row observation) override {
    const TaxiState before = TaxiState::decode(current());
    const StepResult result = TabularEnv::step(action, random, observation);
    if (changes_mind_ && before.passenger == kInTaxi) {
      TaxiState now = TaxiState::decode(current());
      if (now.taxi == before.taxi) return result;
      changes_mind_ = false;
      const int other = static_cast<int>(random.below(kDestinations - 1));
      now.destination = other + (other >= before.destination);
      move_to(now.encode(), observation);
    }
    return result;
  }

  std::optional<std::vector<double>> state() const override {
    return std::vector{static_cast<double>(current()), static_cast<double>(changes_mind_)};
  }

  void set_state(std::span<const double> state, Row observation) override {
    check_state_length(id(), state.size(), 2);
    const int square = checked(state[0], kStates);
    changes_mind_ = checked(state[1], 2) != 0;
    move_to(square, observation);
  }

  /// The four places in their colours, the destination ringed; the passenger waits at one, or rides.
  std::optional<Frame> render(int width, int height) override {
    constexpr Colour kPlaceColours[]{{235, 120, 120}, {130, 200, 130}, {240, 230, 120}, {130, 150, 235}};
    constexpr Colour kTaxi{250, 190, 30}, kRing{160, 40, 160};
    const TaxiState state = TaxiState::decode(current());
    Board board(width, height, kSide, kSide);
    for (size_t i = 0; i < kPlaces.size(); ++i) {
      const auto [row, column] = kPlaces[i];
      board.square(row, column, kPlaceColours[i]);
      if (static_cast<int>(i) != state.destination) continue;
      board.disc(row, column, 0.45, kRing);
      board.disc(row, column, 0.38, kPlaceColours[i]);
    }
    for (int row = 0; row < kSide; ++row)
      for (int column = 0; column <= kSide; ++column)
        if (!open_at(row, 2 * column)) board.wall(row, column, kBlack);
    board.disc(state.taxi.row, state.taxi.column, 0.3, kTaxi);
    const Square passenger = state.passenger == kInTaxi ? state.taxi : kPlaces[static_cast<size_t>(state.passenger)];
    board.disc(passenger.row, passenger.column, 0.15, kAgent);
    return board.take();
  }
  double render_fps() const override { return 4; }

 private:
  bool fickle_passenger_, changes_mind_ = false;
};

const RegisterEnv taxi{{
    .id = "Taxi-v3",
    .observation_space = Space::discrete(kStates),
    .action_space = Space::discrete(kActions),
    .max_episode_steps = 200,
    .reward_threshold = 8.0,
    .source = "Gymnasium 1.2.2 Taxi-v3",
    .options = {{"is_rainy", 0}, {"fickle_passenger", 0}},
    .state_names = {"state", "changes_mind"},
    .make =
        [](const EnvOptions& options) {
          static const auto dry = make_table(false), rainy = make_table(true);
          return std::make_unique<Taxi>(options.at("is_rainy") != 0 ? rainy : dry, options.at("fickle_passenger") != 0);
        },
}};

}  // namespace
}  // namespace myriad
