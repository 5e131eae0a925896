// MinAtar/Asterix: treasure and enemies cross the board in eight rows; +1 a treasure, and the end at an enemy.
//
// The trail is behind what moves. Ramping: every 102 steps they come faster, every 204 they move faster.
#include "sims/minatar/minatar.hpp"

namespace myriad {
namespace {

constexpr int kSlots = 8, kRampInterval = 100, kSpawnInterval = 10, kMoveInterval = 5;  // steps, but the first

class Asterix {
 public:
  static constexpr std::string_view kName = "Asterix";
  enum Channel { kPlayer, kEnemy, kTrail, kGold, kChannels };
  static constexpr std::array kMoves{Move::none, Move::left, Move::up, Move::right, Move::down};

  void start(RandomStream&) {}

  StepResult act(Move move, bool ramping, RandomStream& random) {
    if (spawn_timer_ == 0) {
      spawn(random);
      spawn_timer_ = spawn_interval_;
    }
    if (move == Move::left) x_ = std::max(0, x_ - 1);
    if (move == Move::right) x_ = std::min(kBoardSide - 1, x_ + 1);
    if (move == Move::up) y_ = std::max(1, y_ - 1);
    if (move == Move::down) y_ = std::min(kSlots, y_ + 1);

    StepResult result;
    meet(result);
    if (move_timer_ == 0) {
      move_timer_ = move_interval_;
      for (Thing& thing : things_) {
        if (thing.x == kNowhere) continue;
        thing.x += thing.right ? 1 : -1;
        if (thing.x == kBoardSide) thing.x = kNowhere;  // as it is left of the board
      }
      meet(result);
    }
    --spawn_timer_, --move_timer_;
    if (ramping && (spawn_interval_ > 1 || move_interval_ > 1)) ramp();
    return result;
  }

  void draw(Cells& cells) const {
    cells.set(y_, x_, kPlayer);
    for (int slot = 0; slot < kSlots; ++slot) {
      const Thing& thing = things_[static_cast<size_t>(slot)];
      if (thing.x == kNowhere) continue;
      cells.set(slot + 1, thing.x, thing.gold ? kGold : kEnemy);
      cells.set_if_inside(slot + 1, thing.right ? thing.x - 1 : thing.x + 1, kTrail);
    }
  }

  static void fields(auto& game, auto& field) {
    field("x", game.x_, 0, kBoardSide - 1);
    field("y", game.y_, 0, kSlots);
    field("spawn_interval", game.spawn_interval_, 0, kSpawnInterval);
    field("spawn_timer", game.spawn_timer_, 0, kSpawnInterval);
    field("move_interval", game.move_interval_, 0, kMoveInterval);
    field("move_timer", game.move_timer_, 0, kMoveInterval);
    field("ramp_timer", game.ramp_timer_, -1, kRampInterval);
    field("ramp_index", game.ramp_index_, 0, kSpawnInterval);
    for (auto& thing : game.things_) {
      field("thing_x", thing.x, kNowhere, kBoardSide - 1);
      field("thing_right", thing.right, 0, 1);
      field("thing_gold", thing.gold, 0, 1);
    }
  }

 private:
  static constexpr int kNowhere = -1;
  struct Thing {  // slot i moves in row i + 1
    int x = kNowhere;
    bool right = false, gold = false;
  };

  void spawn(RandomStream& random) {
    const bool right = random.uniform() < 0.5, gold = random.uniform() < 1.0 / 3;
    const auto free = std::ranges::count(things_, kNowhere, &Thing::x);
    if (free == 0) return;
    auto nth = static_cast<int64_t>(random.below(static_cast<uint64_t>(free)));
    const auto slot = std::ranges::find_if(things_, [&](const Thing& t) { return t.x == kNowhere && nth-- == 0; });
    *slot = {right ? 0 : kBoardSide - 1, right, gold};
  }

  /// What happens where the player is.
  void meet(StepResult& result) {
    if (y_ == 0) return;
    Thing& thing = things_[static_cast<size_t>(y_ - 1)];
    if (thing.x != x_) return;
    if (!thing.gold)
      result.terminated = true;
    else
      thing.x = kNowhere, result.reward += 1;
  }

  void ramp() {
    if (ramp_timer_ >= 0) {
      --ramp_timer_;
      return;
    }
    if (move_interval_ > 1 && ramp_index_ % 2 != 0) --move_interval_;
    if (spawn_interval_ > 1) --spawn_interval_;
    ++ramp_index_;
    ramp_timer_ = kRampInterval;
  }

  int x_ = 5, y_ = 5;
  int spawn_interval_ = kSpawnInterval, spawn_timer_ = kSpawnInterval;
  int move_interval_ = kMoveInterval, move_timer_ = kMoveInterval;
  int ramp_timer_ = kRampInterval, ramp_index_ = 0;
  std::array<Thing, kSlots> things_;
};

const RegisterMinAtar<Asterix> asterix;

}  // namespace
}  // namespace myriad
