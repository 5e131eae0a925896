// MinAtar/Seaquest: a submarine shoots fish and submarines (+1 each), picks up divers and surfaces for oxygen.
//
// It ends when an enemy or its bullet hits, without oxygen, and at the surface without a diver. Surfacing costs a
// diver; with six it costs all of them, and pays 1 for each cell of the oxygen gauge. The package then counts -1
// divers, not 0: below 0 nothing ends at the surface, and each surfacing takes one more. So do we. Ramping: each time
// it surfaces enemies come more often, every second time they move faster.
#include "sims/minatar/minatar.hpp"

namespace myriad {
namespace {

constexpr int kMostOxygen = 200, kMostDivers = 6;
constexpr int kSpawnInterval = 20, kDiverSpawnInterval = 30, kMoveInterval = 5, kLeastMoveInterval = 2;  // steps
constexpr int kShotInterval = 5, kEnemyShotInterval = 10, kDiverMoveInterval = 5;                        // steps
constexpr int kDeepest = kBoardSide - 2;  // the gauges are below

/// What moves along a row. Two are the same when their numbers are: the package takes the first such one off its list.
struct Mover {
  int8_t x = 0, y = 0;
  bool right = false;
  int8_t timer = 0;       // enemies, divers: steps to the next move
  int8_t shot_timer = 0;  // submarines
  bool operator==(const Mover&) const = default;

  bool is_at(int other_x, int other_y) const { return x == other_x && y == other_y; }
  bool is_at(const Mover& other) const { return is_at(other.x, other.y); }
  /// False: it has left the board.
  bool advance() {
    x = static_cast<int8_t>(x + (right ? 1 : -1));
    return x >= 0 && x < kBoardSide;
  }
};

/// Movers in their order of arrival. At most one enemy comes a step and crosses the board in 60, each fires once in 11
/// steps, and a bullet is there for 10: from a game's start there are never more than 70.
class Movers {
 public:
  static constexpr int kMost = 72;
  int count = 0;

  Mover* begin() { return movers_.data(); }
  Mover* end() { return begin() + count; }
  const Mover* begin() const { return movers_.data(); }
  const Mover* end() const { return begin() + count; }
  void add(const Mover& mover) {
    if (count < kMost) movers_[static_cast<size_t>(count++)] = mover;
  }
  void erase(Mover* at) {
    std::copy(at + 1, end(), at);
    --count;
  }
  /// The first that is like *at goes; returns where *at is now, nullptr where it was the one.
  Mover* erase_like(Mover* at) {
    Mover* first = std::find(begin(), at, *at);
    erase(first);
    return first == at ? nullptr : at - 1;
  }

 private:
  std::array<Mover, kMost> movers_;
};

class Seaquest {
 public:
  static constexpr std::string_view kName = "Seaquest";
  enum Channel { kFront, kBack, kBullet, kTrail, kEnemyBullet, kFish, kEnemy, kOxygen, kRescued, kDiver, kChannels };
  static constexpr std::array kMoves = kAllMoves;

  void start(RandomStream&) {}

  StepResult act(Move move, bool ramping, RandomStream& random) {
    if (spawn_timer_ == 0) {
      spawn_enemy(random);
      spawn_timer_ = spawn_interval_;
    }
    if (diver_timer_ == 0) {
      spawn_diver(random);
      diver_timer_ = kDiverSpawnInterval;
    }
    steer(move);
    result_ = {};
    move_bullets();
    move_divers();
    move_submarines();
    move_enemy_bullets();
    move_fish();
    spawn_timer_ -= spawn_timer_ > 0;
    diver_timer_ -= diver_timer_ > 0;
    shot_timer_ -= shot_timer_ > 0;
    if (oxygen_ <= 0) result_.terminated = true;
    if (y_ > 0) {
      --oxygen_;
      surfaced_ = false;
    } else if (!surfaced_) {
      if (divers_ == 0)
        result_.terminated = true;
      else
        surface(ramping);
    }
    return result_;
  }

  void draw(Cells& cells) const {
    cells.set(y_, x_, kFront);
    cells.set_if_inside(y_, right_ ? x_ - 1 : x_ + 1, kBack);
    for (int x = 0; x < oxygen_ * 10 / kMostOxygen; ++x) cells.set(kDeepest + 1, x, kOxygen);
    for (int i = 1; i <= divers_; ++i) cells.set(kDeepest + 1, kBoardSide - 1 - i, kRescued);
    for (const Mover& bullet : bullets_) cells.set(bullet.y, bullet.x, kBullet);
    for (const Mover& bullet : enemy_bullets_) cells.set(bullet.y, bullet.x, kEnemyBullet);
    draw(cells, fish_, kFish);
    draw(cells, submarines_, kEnemy);
    draw(cells, swimmers_, kDiver);
  }

  static void fields(auto& game, auto& field) {
    field("x", game.x_, 0, kBoardSide - 1);
    field("y", game.y_, 0, kDeepest);
    field("right", game.right_, 0, 1);
    field("shot_timer", game.shot_timer_, 0, kShotInterval);
    field("oxygen", game.oxygen_, -1, kMostOxygen);
    field("divers", game.divers_, -(1 << 30), kMostDivers);
    field("surfaced", game.surfaced_, 0, 1);
    field("spawn_interval", game.spawn_interval_, 0, kSpawnInterval);
    field("spawn_timer", game.spawn_timer_, 0, kSpawnInterval);
    field("diver_timer", game.diver_timer_, 0, kDiverSpawnInterval);
    field("move_interval", game.move_interval_, 0, kMoveInterval);
    field("ramp_index", game.ramp_index_, 0, kSpawnInterval + kMoveInterval);
    field("num_bullets", game.bullets_.count, 0, Movers::kMost);
    field("num_enemy_bullets", game.enemy_bullets_.count, 0, Movers::kMost);
    field("num_fish", game.fish_.count, 0, Movers::kMost);
    field("num_submarines", game.submarines_.count, 0, Movers::kMost);
    field("num_swimmers", game.swimmers_.count, 0, Movers::kMost);
    for (auto* movers : {&game.bullets_, &game.enemy_bullets_, &game.fish_, &game.submarines_, &game.swimmers_})
      for (auto& mover : *movers) {
        field("x", mover.x, 0, kBoardSide - 1);
        field("y", mover.y, 0, kDeepest);
        field("right", mover.right, 0, 1);
        field("timer", mover.timer, 0, kMoveInterval);
        field("shot_timer", mover.shot_timer, 0, kEnemyShotInterval);
      }
  }

 private:
  void draw(Cells& cells, const Movers& movers, Channel channel) const {
    for (const Mover& mover : movers) {
      cells.set(mover.y, mover.x, channel);
      cells.set_if_inside(mover.y, mover.right ? mover.x - 1 : mover.x + 1, kTrail);
    }
  }

  /// At an edge in one of the eight rows of the sea.
  static Mover newcomer(bool right, RandomStream& random) {
    const auto y = static_cast<int8_t>(1 + random.below(kDeepest));
    return {.x = static_cast<int8_t>(right ? 0 : kBoardSide - 1), .y = y, .right = right};
  }

  /// None where one in its row comes towards it.
  void spawn_enemy(RandomStream& random) {
    const bool right = random.uniform() < 0.5, armed = random.uniform() < 1.0 / 3;
    Mover enemy = newcomer(right, random);
    const auto opposes = [&](const Mover& other) { return other.y == enemy.y && other.right != right; };
    if (std::ranges::any_of(submarines_, opposes) || std::ranges::any_of(fish_, opposes)) return;
    enemy.timer = static_cast<int8_t>(move_interval_);
    if (armed) enemy.shot_timer = kEnemyShotInterval;
    (armed ? submarines_ : fish_).add(enemy);
  }

  void spawn_diver(RandomStream& random) {
    const bool right = random.uniform() < 0.5;
    Mover diver = newcomer(right, random);
    diver.timer = kDiverMoveInterval;
    swimmers_.add(diver);
  }

  void steer(Move move) {
    if (move == Move::fire && shot_timer_ == 0) {
      bullets_.add({.x = static_cast<int8_t>(x_), .y = static_cast<int8_t>(y_), .right = right_});
      shot_timer_ = kShotInterval;
    }
    if (move == Move::left) x_ = std::max(0, x_ - 1), right_ = false;
    if (move == Move::right) x_ = std::min(kBoardSide - 1, x_ + 1), right_ = true;
    if (move == Move::up) y_ = std::max(0, y_ - 1);
    if (move == Move::down) y_ = std::min(kDeepest, y_ + 1);
  }

  /// Calls f for each mover, the newest first; f may take one off the list.
  template <class F>
  static void for_each_backwards(Movers& movers, F f) {
    for (int i = movers.count - 1; i >= 0; --i) f(movers.begin() + i);
  }

  /// Whether one that is where `mover` is was taken off the list.
  static bool take_at(Movers& movers, const Mover& mover) {
    for (Mover& other : movers)
      if (other.is_at(mover)) {
        movers.erase(&other);
        return true;
      }
    return false;
  }

  bool hits_us(const Mover& mover) const { return mover.is_at(x_, y_); }

  void move_bullets() {
    for_each_backwards(bullets_, [&](Mover* bullet) {
      if (!bullet->advance()) {
        bullets_.erase_like(bullet);
      } else if (take_at(fish_, *bullet) || take_at(submarines_, *bullet)) {
        bullets_.erase_like(bullet);
        result_.reward += 1;
      }
    });
  }

  void move_divers() {
    const auto is_rescued = [&](const Mover& diver) { return hits_us(diver) && divers_ < kMostDivers; };
    for_each_backwards(swimmers_, [&](Mover* diver) {
      bool rescued = is_rescued(*diver), inside = true;
      if (!rescued && diver->timer-- == 0) {
        diver->timer = kDiverMoveInterval;
        inside = diver->advance();
        rescued = is_rescued(*diver);
      }
      if (rescued || !inside) swimmers_.erase_like(diver);
      divers_ += rescued;
    });
  }

  /// Moves an enemy when it is time to; returns where it is now, nullptr where it is gone.
  Mover* move_enemy(Movers& enemies, Mover* enemy) {
    if (hits_us(*enemy)) result_.terminated = true;
    if (enemy->timer-- > 0) return enemy;
    enemy->timer = static_cast<int8_t>(move_interval_);
    if (!enemy->advance()) return enemies.erase_like(enemy);
    if (hits_us(*enemy)) {
      result_.terminated = true;
    } else if (take_at(bullets_, *enemy)) {
      result_.reward += 1;
      return enemies.erase_like(enemy);
    }
    return enemy;
  }

  void move_fish() {
    for_each_backwards(fish_, [&](Mover* fish) { move_enemy(fish_, fish); });
  }

  /// One that is hit or leaves the board still fires.
  void move_submarines() {
    for_each_backwards(submarines_, [&](Mover* submarine) {
      Mover fired = *submarine;
      if (submarine->timer == 0) fired.advance();
      submarine = move_enemy(submarines_, submarine);
      const bool fires = fired.shot_timer == 0;
      if (submarine != nullptr)
        submarine->shot_timer = static_cast<int8_t>(fires ? kEnemyShotInterval : submarine->shot_timer - 1);
      if (fires) enemy_bullets_.add({.x = fired.x, .y = fired.y, .right = fired.right});
    });
  }

  void move_enemy_bullets() {
    for_each_backwards(enemy_bullets_, [&](Mover* bullet) {
      if (hits_us(*bullet)) result_.terminated = true;
      if (!bullet->advance())
        enemy_bullets_.erase_like(bullet);
      else if (hits_us(*bullet))
        result_.terminated = true;
    });
  }

  void surface(bool ramping) {
    surfaced_ = true;
    if (divers_ == kMostDivers) {
      divers_ = 0;
      result_.reward += oxygen_ * 10 / kMostOxygen;
    }
    oxygen_ = kMostOxygen;
    --divers_;
    if (!ramping || (spawn_interval_ <= 1 && move_interval_ <= kLeastMoveInterval)) return;
    if (move_interval_ > kLeastMoveInterval && ramp_index_ % 2 != 0) --move_interval_;
    if (spawn_interval_ > 1) --spawn_interval_;
    ++ramp_index_;
  }

  int x_ = 5, y_ = 0;
  bool right_ = false;
  int shot_timer_ = 0, oxygen_ = kMostOxygen, divers_ = 0;
  bool surfaced_ = true;  // and not dived since
  int spawn_interval_ = kSpawnInterval, spawn_timer_ = kSpawnInterval, diver_timer_ = kDiverSpawnInterval;
  int move_interval_ = kMoveInterval, ramp_index_ = 0;
  Movers bullets_, enemy_bullets_, fish_, submarines_, swimmers_;
  StepResult result_;  // of the step that is being made
};

const RegisterMinAtar<Seaquest> seaquest;

}  // namespace
}  // namespace myriad
