// MinAtar/Breakout: a paddle bounces a ball at three rows of bricks; +1 a brick, and the end when the ball is missed.
//
// The ball moves along diagonals. Bricks come back when all are gone and the ball is at the bottom. The trail is where
// the ball was.
#include "sims/minatar/minatar.hpp"

namespace myriad {
namespace {

constexpr int kFirstBrickRow = 1, kBrickRows = 3, kBottom = kBoardSide - 1;

class Breakout {
 public:
  static constexpr std::string_view kName = "Breakout";
  enum Channel { kPaddle, kBall, kTrail, kBrick, kChannels };
  static constexpr std::array kMoves{Move::none, Move::left, Move::right};

  void start(RandomStream& random) {
    if (random.below(2) == 1) ball_x_ = last_x_ = kBoardSide - 1, x_dot_ = -1;
  }

  StepResult act(Move move, bool, RandomStream&) {
    if (move == Move::left) paddle_ = std::max(0, paddle_ - 1);
    if (move == Move::right) paddle_ = std::min(kBoardSide - 1, paddle_ + 1);
    StepResult result;
    last_x_ = ball_x_, last_y_ = ball_y_;
    int x = ball_x_ + x_dot_, y = std::min(ball_y_ + y_dot_, kBottom);
    bool in_brick = false;
    if (x < 0 || x >= kBoardSide) x = std::clamp(x, 0, kBoardSide - 1), x_dot_ = -x_dot_;
    if (y < 0) {
      y = 0, y_dot_ = -y_dot_;
    } else if (is_brick(y, x)) {
      in_brick = true;
      if (!struck_) {  // a ball that has just broken a brick goes through the next one
        result.reward = 1;
        bricks_[static_cast<size_t>(y - kFirstBrickRow)] ^= static_cast<BoardRow>(1 << x);
        y = ball_y_, y_dot_ = -y_dot_;
      }
    } else if (y == kBottom) {
      if (std::ranges::all_of(bricks_, [](BoardRow row) { return row == 0; })) bricks_.fill(kFullRow);
      if (ball_x_ == paddle_)
        y = ball_y_, y_dot_ = -y_dot_;
      else if (x == paddle_)
        y = ball_y_, y_dot_ = -y_dot_, x_dot_ = -x_dot_;
      else
        result.terminated = true;
    }
    struck_ = in_brick;
    ball_x_ = x, ball_y_ = y;
    return result;
  }

  void draw(Cells& cells) const {
    cells.set(ball_y_, ball_x_, kBall);
    cells.set(kBottom, paddle_, kPaddle);
    cells.set(last_y_, last_x_, kTrail);
    for (int i = 0; i < kBrickRows; ++i) cells.set_row(kFirstBrickRow + i, bricks_[static_cast<size_t>(i)], kBrick);
  }

  static void fields(auto& game, auto& field) {
    field("paddle", game.paddle_, 0, kBoardSide - 1);
    field("ball_x", game.ball_x_, 0, kBoardSide - 1);
    field("ball_y", game.ball_y_, 0, kBottom);
    field("ball_x_dot", game.x_dot_, -1, 1);
    field("ball_y_dot", game.y_dot_, -1, 1);
    field("last_x", game.last_x_, 0, kBoardSide - 1);
    field("last_y", game.last_y_, 0, kBottom);
    field("struck", game.struck_, 0, 1);
    for (auto& row : game.bricks_) field("brick_row", row, 0, kFullRow);
  }

 private:
  bool is_brick(int y, int x) const {
    const int row = y - kFirstBrickRow;
    return row >= 0 && row < kBrickRows && (bricks_[static_cast<size_t>(row)] >> x & 1) != 0;
  }

  int paddle_ = 4, ball_x_ = 0, ball_y_ = 3, x_dot_ = 1, y_dot_ = 1, last_x_ = 0, last_y_ = 3;
  bool struck_ = false;  // a brick was met in the step before
  std::array<BoardRow, kBrickRows> bricks_{kFullRow, kFullRow, kFullRow};
};

const RegisterMinAtar<Breakout> breakout;

}  // namespace
}  // namespace myriad
