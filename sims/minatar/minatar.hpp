// MinAtar: five Atari games on a board of 10 x 10 cells; what the games have in common. Each game is a file of its own.
//
// Young and Tian 2019, "MinAtar: An Atari-Inspired Testbed for Thorough and Reproducible Reinforcement Learning
// Experiments" (arXiv 1903.03176); the reference is the package minatar 1.0.15. An observation is uint8, 0 or 1, for
// each row (the top one first), column and channel. With some probability the action before is applied again (Machado
// et al. 2018), from an episode's first step on, where it is "none". A game draws in the package's order.
#pragma once

#include <algorithm>
#include <array>
#include <string>
#include <string_view>
#include <vector>

#include "rl/check.hpp"
#include "rl/environment.hpp"

namespace myriad {

inline constexpr int kBoardSide = 10;
inline constexpr int kBoardCells = kBoardSide * kBoardSide;

enum class Move : int8_t { none, left, up, right, down, fire };  // the package's order
inline constexpr std::array kAllMoves{Move::none, Move::left, Move::up, Move::right, Move::down, Move::fire};

/// A row of the board, bit x for column x.
using BoardRow = uint16_t;
inline constexpr BoardRow kFullRow = (1 << kBoardSide) - 1;

/// An observation to be filled; all 0 at first.
class Cells {
 public:
  Cells(std::span<uint8_t> cells, int channels) : cells_(cells.data()), channels_(channels) {
    std::ranges::fill(cells, uint8_t{0});
  }
  void set(int y, int x, int channel) { cells_[(y * kBoardSide + x) * channels_ + channel] = 1; }
  void set_if_inside(int y, int x, int channel) {
    if (x >= 0 && x < kBoardSide) set(y, x, channel);
  }
  void set_row(int y, BoardRow row, int channel) {
    if (row == 0) return;
    uint8_t* cell = cells_ + y * kBoardSide * channels_ + channel;
    for (int x = 0; x < kBoardSide; ++x, cell += channels_) *cell = row >> x & 1;
  }

 private:
  uint8_t* cells_;
  int channels_;
};

/// The board as MinAtar shows it: black, and in each cell the colour of its last channel that is set.
Frame draw_board(std::span<const uint8_t> cells, int channels, int width, int height);

// ---- a game's numbers one by one, each with its name and what it may be: written, read or named ----

struct StateWriter {
  std::vector<double>& state;
  void operator()(std::string_view, auto value, int, int) { state.push_back(static_cast<double>(value)); }
};

class StateReader {
 public:
  StateReader(std::string_view id, std::span<const double> state) : id_(id), state_(state) {}
  template <class T>
  void operator()(std::string_view name, T& value, int low, int high) {
    if (at_ == state_.size()) check_state_length(id_, state_.size(), at_ + 1);
    const double number = state_[at_++];
    if (!(number >= low && number < high + 1.0))
      fail(Exit::usage, "env-state-value", "a state of {} holds {} as {}, want {} to {}", id_, number, name, low, high);
    value = static_cast<T>(number);
  }
  void end() const { check_state_length(id_, state_.size(), at_); }

 private:
  std::string_view id_;
  std::span<const double> state_;
  size_t at_ = 0;
};

struct StateNames {
  std::vector<std::string> names;
  void operator()(std::string_view name, auto, int, int) { names.emplace_back(name); }
};

// ---- the environment ----

/// A Game has kName, kChannels, kMoves (the moves which do something), and
///   void start(RandomStream&)                                   an episode, on a Game as it is made
///   StepResult act(Move, bool ramping, RandomStream&)           a frame
///   void draw(Cells&) const
///   static void fields(auto& game, auto& field)                 its whole state
template <class Game>
class MinAtarEnv final : public Environment {
 public:
  MinAtarEnv(std::string id, std::span<const Move> moves, const EnvOptions& options)
      : id_(std::move(id)),
        moves_(moves),
        sticky_(options.at("sticky_action_prob")),
        ramping_(options.at("difficulty_ramping") != 0) {
    if (!(sticky_ >= 0 && sticky_ <= 1))
      fail(Exit::usage, "env-option", "sticky_action_prob is {}, want 0 to 1", sticky_);
  }

  void reset(RandomStream& random, Row observation) override {
    last_ = Move::none;
    over_ = false;
    game_ = Game();
    game_.start(random);
    observe(observation.u8());
  }

  StepResult step(ConstRow action, RandomStream& random, Row observation) override {
    if (!(random.uniform() < sticky_)) last_ = moves_[static_cast<size_t>(action.i32()[0])];
    StepResult result{.terminated = true};  // a game that is over stays as it is
    if (!over_) result = game_.act(last_, ramping_, random);
    over_ = result.terminated;
    observe(observation.u8());
    return result;
  }

  std::optional<std::vector<double>> state() const override {
    std::vector<double> state;
    StateWriter writer{state};
    fields(*this, writer);
    return state;
  }

  void set_state(std::span<const double> state, Row observation) override {
    MinAtarEnv read = *this;
    StateReader reader(id_, state);
    fields(read, reader);
    reader.end();
    last_ = read.last_, over_ = read.over_, game_ = read.game_;
    observe(observation.u8());
  }

  std::optional<Frame> render(int width, int height) override {
    std::array<uint8_t, kBoardCells * Game::kChannels> cells;
    observe(cells);
    return draw_board(cells, Game::kChannels, width, height);
  }
  double render_fps() const override { return 20; }  // the package's 50 ms a frame

  static void fields(auto& self, auto& field) {
    header(self.last_, self.over_, field);
    Game::fields(self.game_, field);
  }

  static EnvSpec spec(std::string_view version, std::span<const Move> moves) {
    const std::string id = fmt::format("MinAtar/{}-{}", Game::kName, version);
    StateNames state;
    header(Move::none, false, state);
    Game game;
    Game::fields(game, state);
    return {
        .id = id,
        .observation_space = Space::box(0, 1, {kBoardSide, kBoardSide, Game::kChannels}, DType::u8),
        .action_space = Space::discrete(static_cast<int>(moves.size())),
        .source = "minatar 1.0.15 " + id,
        .options = {{"sticky_action_prob", 0.1}, {"difficulty_ramping", 1}},
        .state_names = std::move(state.names),
        .make = [id, moves](const EnvOptions& options) { return std::make_unique<MinAtarEnv>(id, moves, options); },
    };
  }

 private:
  static void header(auto&& last, auto&& over, auto& field) {
    field("last_action", last, 0, 5);
    field("over", over, 0, 1);
  }

  void observe(std::span<uint8_t> observation) const {
    Cells cells(observation.first(kBoardCells * Game::kChannels), Game::kChannels);
    game_.draw(cells);
  }

  std::string id_;
  std::span<const Move> moves_;  // what each action is
  double sticky_;
  bool ramping_;
  Move last_ = Move::none;  // as it was applied
  bool over_ = false;
  Game game_;
};

/// v0 has all six actions, v1 those that do something.
template <class Game>
struct RegisterMinAtar {
  RegisterEnv v0{MinAtarEnv<Game>::spec("v0", kAllMoves)}, v1{MinAtarEnv<Game>::spec("v1", Game::kMoves)};
};

}  // namespace myriad
