// MinAtar/SpaceInvaders: a cannon shoots at aliens that shoot back; +1 an alien, and the end when one or its shot hits.
//
// Aliens move together, turn and descend at the edges, and move faster when few are left. The nearest one shoots.
// Ramping: each wave moves faster than the one before.
#include <bit>
#include <functional>
#include <numeric>

#include "sims/minatar/minatar.hpp"

namespace myriad {
namespace {

constexpr int kShotInterval = 5, kAlienShotInterval = 10, kMoveInterval = 12, kLeastMoveInterval = 6;  // steps
constexpr int kBottom = kBoardSide - 1, kWaveRows = 4;
constexpr BoardRow kWaveRow = 0b0011111100;

using Bits = std::array<BoardRow, kBoardSide>;
constexpr Bits kWave{kWaveRow, kWaveRow, kWaveRow, kWaveRow};
static_assert(kWave[kWaveRows - 1] != 0 && kWave[kWaveRows] == 0);

bool is_set(const Bits& bits, int y, int x) { return (bits[static_cast<size_t>(y)] >> x & 1) != 0; }
BoardRow bit(int x) { return static_cast<BoardRow>(1 << x); }

class SpaceInvaders {
 public:
  static constexpr std::string_view kName = "SpaceInvaders";
  enum Channel { kCannon, kAlien, kAlienLeft, kAlienRight, kShot, kAlienShot, kChannels };
  static constexpr std::array kMoves{Move::none, Move::left, Move::right, Move::fire};

  void start(RandomStream&) {}

  StepResult act(Move move, bool ramping, RandomStream&) {
    if (move == Move::fire && shot_timer_ == 0) {
      shots_[kBottom] |= bit(x_);
      shot_timer_ = kShotInterval;
    }
    if (move == Move::left) x_ = std::max(0, x_ - 1);
    if (move == Move::right) x_ = std::min(kBoardSide - 1, x_ + 1);

    std::shift_left(shots_.begin(), shots_.end(), 1);
    shots_[kBottom] = 0;
    std::shift_right(alien_shots_.begin(), alien_shots_.end(), 1);
    alien_shots_[0] = 0;
    StepResult result;
    result.terminated = is_set(alien_shots_, kBottom, x_) || is_set(aliens_, kBottom, x_);
    if (alien_move_timer_ == 0) result.terminated |= move_aliens();
    if (alien_shot_timer_ == 0) {
      alien_shot_timer_ = kAlienShotInterval;
      shoot();
    }
    int left = 0;
    for (size_t y = 0; y < aliens_.size(); ++y) {
      const BoardRow killed = aliens_[y] & shots_[y];
      result.reward += std::popcount(killed);
      aliens_[y] ^= killed, shots_[y] ^= killed;
      left += std::popcount(aliens_[y]);
    }
    shot_timer_ -= shot_timer_ > 0;
    --alien_move_timer_, --alien_shot_timer_;
    if (left == 0) {
      if (ramping && move_interval_ > kLeastMoveInterval) --move_interval_;
      aliens_ = kWave;
    }
    return result;
  }

  void draw(Cells& cells) const {
    for (int y = 0; y < kBoardSide; ++y) {
      const auto row = static_cast<size_t>(y);
      cells.set_row(y, aliens_[row], kAlien);
      cells.set_row(y, aliens_[row], direction_ < 0 ? kAlienLeft : kAlienRight);
      cells.set_row(y, shots_[row], kShot);
      cells.set_row(y, alien_shots_[row], kAlienShot);
    }
    cells.set(kBottom, x_, kCannon);
  }

  static void fields(auto& game, auto& field) {
    field("x", game.x_, 0, kBoardSide - 1);
    field("shot_timer", game.shot_timer_, 0, kShotInterval);
    field("direction", game.direction_, -1, 1);
    field("move_interval", game.move_interval_, 0, kMoveInterval);
    field("alien_move_timer", game.alien_move_timer_, 0, kMoveInterval);
    field("alien_shot_timer", game.alien_shot_timer_, 0, kAlienShotInterval);
    for (auto& row : game.aliens_) field("alien_row", row, 0, kFullRow);
    for (auto& row : game.shots_) field("shot_row", row, 0, kFullRow);
    for (auto& row : game.alien_shots_) field("alien_shot_row", row, 0, kFullRow);
  }

 private:
  BoardRow columns() const { return std::reduce(aliens_.begin(), aliens_.end(), BoardRow{0}, std::bit_or<BoardRow>()); }

  /// Whether that ends the episode. What leaves the board comes back at the other side.
  bool move_aliens() {
    const int count = std::transform_reduce(aliens_.begin(), aliens_.end(), 0, std::plus<>(),
                                            [](BoardRow row) { return std::popcount(row); });
    alien_move_timer_ = std::min(count, move_interval_);
    const BoardRow edge = direction_ < 0 ? bit(0) : bit(kBoardSide - 1);
    bool landed = false;
    if ((columns() & edge) != 0) {
      direction_ = -direction_;
      landed = aliens_[kBottom] != 0;
      std::ranges::rotate(aliens_, aliens_.end() - 1);
    } else {
      for (BoardRow& row : aliens_) row = static_cast<BoardRow>(direction_ < 0 ? row >> 1 : row << 1);
    }
    return landed || is_set(aliens_, kBottom, x_);
  }

  /// From the lowest alien of the column that is nearest to the cannon, of two the left one.
  void shoot() {
    const BoardRow some = columns();
    for (int distance = 0; distance < kBoardSide; ++distance)
      for (const int x : {x_ - distance, x_ + distance}) {
        if (x < 0 || x >= kBoardSide || (some >> x & 1) == 0) continue;
        int y = kBottom;
        while (!is_set(aliens_, y, x)) --y;
        alien_shots_[static_cast<size_t>(y)] |= bit(x);
        return;
      }
  }

  int x_ = 5, shot_timer_ = 0, direction_ = -1;
  int move_interval_ = kMoveInterval, alien_move_timer_ = kMoveInterval, alien_shot_timer_ = kAlienShotInterval;
  Bits aliens_ = kWave, shots_{}, alien_shots_{};
};

const RegisterMinAtar<SpaceInvaders> space_invaders;

}  // namespace
}  // namespace myriad
