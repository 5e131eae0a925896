// MinAtar/Freeway: a chicken crosses eight lanes of cars; +1 at the top, and back to the bottom there or when hit.
//
// The chicken moves every third step at most. A car of speed k moves once in k + 1 steps; the channel of its trail says
// k. At the top all cars get other speeds and directions. An episode has 2,501 steps.
#include <cstdlib>

#include "sims/minatar/minatar.hpp"

namespace myriad {
namespace {

constexpr int kLanes = 8, kChickenX = 4, kStart = kBoardSide - 1;
constexpr int kMoveInterval = 3, kTimeLimit = 2500, kMostSpeed = 5;  // steps

class Freeway {
 public:
  static constexpr std::string_view kName = "Freeway";
  enum Channel { kChicken, kCar, kSpeed1, kChannels = kSpeed1 + kMostSpeed };
  static constexpr std::array kMoves{Move::none, Move::up, Move::down};

  void start(RandomStream& random) { draw_speeds(random); }

  StepResult act(Move move, bool, RandomStream& random) {
    StepResult result;
    if (move_timer_ == 0 && (move == Move::up || move == Move::down)) {
      move_timer_ = kMoveInterval;
      y_ = std::clamp(y_ + (move == Move::up ? -1 : 1), 0, kBoardSide - 1);
    }
    if (y_ == 0) {
      result.reward = 1;
      draw_speeds(random);
      y_ = kStart;
    }
    for (int lane = 0; lane < kLanes; ++lane) {
      Car& car = cars_[static_cast<size_t>(lane)];
      const auto hit = [&] { return car.x == kChickenX && lane + 1 == y_; };
      if (hit()) y_ = kStart;
      if (car.timer > 0) {
        --car.timer;
        continue;
      }
      car.timer = std::abs(car.speed);
      car.x = behind(car.x, -car.speed);
      if (hit()) y_ = kStart;
    }
    move_timer_ -= move_timer_ > 0;
    result.terminated = --time_left_ < 0;
    return result;
  }

  void draw(Cells& cells) const {
    cells.set(y_, kChickenX, kChicken);
    for (int lane = 0; lane < kLanes; ++lane) {
      const Car& car = cars_[static_cast<size_t>(lane)];
      cells.set(lane + 1, car.x, kCar);
      cells.set(lane + 1, behind(car.x, car.speed), kSpeed1 - 1 + std::abs(car.speed));
    }
  }

  static void fields(auto& game, auto& field) {
    field("y", game.y_, 0, kBoardSide - 1);
    field("move_timer", game.move_timer_, 0, kMoveInterval);
    field("time_left", game.time_left_, -1, kTimeLimit);
    for (auto& car : game.cars_) {
      field("car_x", car.x, 0, kBoardSide - 1);
      field("car_timer", car.timer, 0, kMostSpeed);
      field("car_speed", car.speed, -kMostSpeed, kMostSpeed);
    }
  }

 private:
  struct Car {  // car i drives in row i + 1
    int x = 0, timer = 0, speed = 1;
  };

  /// The column a car of that speed comes from; the board has no edges.
  static int behind(int x, int speed) { return (x + (speed > 0 ? kBoardSide - 1 : 1)) % kBoardSide; }

  void draw_speeds(RandomStream& random) {
    for (Car& car : cars_) car.timer = 1 + static_cast<int>(random.below(kMostSpeed));
    for (Car& car : cars_) car.speed = random.uniform() < 0.5 ? -car.timer : car.timer;
  }

  int y_ = kStart, move_timer_ = kMoveInterval, time_left_ = kTimeLimit;
  std::array<Car, kLanes> cars_;
};

const RegisterMinAtar<Freeway> freeway;

}  // namespace
}  // namespace myriad
