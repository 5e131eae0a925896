// MinAtar's games: their rules by hand, and whole episodes of the package minatar on the same random stream
// (tests/golden/minatar, written by scripts/align_minatar.py).
#include <doctest/doctest.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>

#include "rl/environment.hpp"
#include "tests/error_of.hpp"

namespace myriad {
namespace {

/// An environment and its row; no action sticks, unless the options say so.
class Play {
 public:
  explicit Play(const std::string& id, EnvOptions options = {})
      : spec_(EnvRegistry::instance().find(id)), observation_(spec_.observation_space.row_bytes()) {
    options.try_emplace("sticky_action_prob", 0.0);
    env_ = make_environment(spec_, options);
    reset(1);
  }

  void reset(uint64_t seed) {
    random_ = RandomStream(seed, StreamPurpose::environment, 0);
    env_->reset(random_, row());
  }
  StepResult step(int32_t action) { return env_->step(ConstRow(std::as_bytes(std::span(&action, 1))), random_, row()); }
  StepResult steps(int n, int32_t action = 0) {
    for (int i = 1; i < n; ++i) step(action);
    return step(action);
  }

  /// Of the `nth` number of that name.
  double get(std::string_view name, size_t nth = 0) const { return env_->state()->at(index_of(name, nth)); }
  /// The state with other numbers in place of those named.
  void set(std::initializer_list<std::pair<std::string_view, double>> values, size_t nth = 0) {
    std::vector<double> state = *env_->state();
    for (const auto& [name, value] : values) state.at(index_of(name, nth)) = value;
    set_state(state);
  }
  void set_state(const std::vector<double>& state) { env_->set_state(state, row()); }

  bool cell(int y, int x, int channel) const {
    const int channels = static_cast<int>(observation_.size()) / 100;
    return observation_.at(static_cast<size_t>((y * 10 + x) * channels + channel)) == 1;
  }
  int count(int channel) const {
    int cells = 0;
    for (int i = 0; i < 100; ++i) cells += cell(i / 10, i % 10, channel);
    return cells;
  }
  const std::vector<uint8_t>& observation() const { return observation_; }
  const EnvSpec& spec() const { return spec_; }
  Environment& env() { return *env_; }
  void swap_env(Play& other) { std::swap(env_, other.env_); }

 private:
  Row row() { return Row(std::as_writable_bytes(std::span(observation_))); }
  size_t index_of(std::string_view name, size_t nth) const {
    for (size_t i = 0; i < spec_.state_names.size(); ++i)
      if (spec_.state_names[i] == name && nth-- == 0) return i;
    FAIL("no number ", std::string(name));
    return 0;
  }

  const EnvSpec& spec_;
  std::unique_ptr<Environment> env_;
  RandomStream random_{1, StreamPurpose::environment, 0};
  std::vector<uint8_t> observation_;
};

// ---- goldens ----

std::vector<size_t> cells_of(std::istream& in) { return {std::istream_iterator<size_t>(in), {}}; }

/// Plays a golden's episodes again; returns the number of steps. Every seventh step goes on in another environment,
/// from the state of the one before.
size_t replay(const std::filesystem::path& file) {
  std::ifstream in(file);
  REQUIRE(in.good());
  std::string id, word;
  EnvOptions options;
  std::unique_ptr<Play> play, other;
  std::vector<uint8_t> want;
  bool ended = false;
  size_t steps = 0, left = 0, episodes = 0;
  for (std::string line; std::getline(in, line);) {
    std::istringstream words(line);
    words >> word;
    if (word == "#") continue;
    if (word == "id") {
      words >> id;
    } else if (word == "channels") {
      int channels = 0;
      words >> channels;
      REQUIRE(EnvRegistry::instance().find(id).observation_space.to_string() ==
              fmt::format("Box(0, 1, (10, 10, {}), uint8)", channels));
    } else if (word == "actions") {
      words >> word;
      REQUIRE(EnvRegistry::instance().find(id).action_space.to_string() == fmt::format("Discrete({})", word));
    } else if (word == "option") {
      words >> word >> options[word];
    } else if (word == "episode") {
      REQUIRE(left == 0);
      words >> word >> left;
      ++episodes;
    } else if (word == "stream") {
      uint64_t seed = 0;
      words >> seed;
      if (!play) {
        options.try_emplace("sticky_action_prob", 0.1);
        play = std::make_unique<Play>(id, options);
        other = std::make_unique<Play>(id, options);
      }
      play->reset(seed);
      ended = false;
    } else if (word == "observation") {
      want.assign(play->observation().size(), 0);
      for (const size_t cell : cells_of(words)) want.at(cell) = 1;
      REQUIRE(play->observation() == want);
    } else {
      REQUIRE(!ended);
      std::string bar;
      double reward = 0;
      words >> bar >> reward >> ended >> bar;
      REQUIRE(bar == "|");
      for (const size_t cell : cells_of(words)) want.at(cell) ^= 1;
      const StepResult got = play->step(std::stoi(word));
      if (play->observation() != want || got.reward != reward || got.terminated != ended)
        FAIL(file.filename().string(), ", episode ", episodes, ", ", left, " steps before its end");
      --left, ++steps;
      if (steps % 7 == 0) {
        other->set_state(*play->env().state());
        REQUIRE(other->observation() == want);
        play->swap_env(*other);
      }
    }
  }
  CHECK(left == 0);
  CHECK(episodes >= 1);
  return steps;
}

}  // namespace

TEST_SUITE("sims/minatar") {
  TEST_CASE("MinAtar: aligned with the package, step by step, with the same random draws") {
    namespace fs = std::filesystem;
    const char* elsewhere = std::getenv("MYRIAD_MINATAR_GOLDENS");  // scripts/align_minatar.py
    const fs::path folder = elsewhere != nullptr ? elsewhere : MYRIAD_SOURCE_ROOT "/tests/golden/minatar";
    size_t files = 0, steps = 0;
    for (const auto& entry : fs::directory_iterator(folder)) steps += replay(entry.path()), ++files;
    CHECK(files >= 10);  // five games, with options and without
    CHECK(steps >= 8000);
    if (elsewhere != nullptr) MESSAGE(steps, " steps of ", files, " files are the same");
  }

  TEST_CASE("MinAtar: v0 has six actions, v1 those that do something") {
    for (const auto& [game, channels, actions] : {std::tuple{"Asterix", 4, 5},
                                                  {"Breakout", 4, 3},
                                                  {"Freeway", 7, 3},
                                                  {"Seaquest", 10, 6},
                                                  {"SpaceInvaders", 6, 4}}) {
      const Play all(fmt::format("MinAtar/{}-v0", game)), some(fmt::format("MinAtar/{}-v1", game));
      for (const Play* play : {&all, &some})
        CHECK(play->spec().observation_space.to_string() == fmt::format("Box(0, 1, (10, 10, {}), uint8)", channels));
      CHECK(all.spec().action_space.to_string() == "Discrete(6)");
      CHECK(some.spec().action_space.to_string() == fmt::format("Discrete({})", actions));
    }
    Play all("MinAtar/SpaceInvaders-v0"), some("MinAtar/SpaceInvaders-v1");
    for (const auto& [in_all, in_some, moved] : {std::tuple{0, 0, 0}, {1, 1, -1}, {3, 2, 1}, {5, 3, 0}}) {
      all.reset(1), some.reset(1);
      all.step(in_all), some.step(in_some);
      CHECK(all.cell(9, 5 + moved, 0));
      CHECK(all.observation() == some.observation());
    }
    CHECK(all.count(4) == 1);  // the last one fired
  }

  TEST_CASE("MinAtar: the action before sticks with the probability that is set") {
    // With 1 it is "none" for ever, with 0 never. With a half it is 1,000 +- 3 sqrt(500) = 67 of 2,000 that are each
    // told another one than the one before.
    Play never("MinAtar/Freeway-v0"), always("MinAtar/Freeway-v0", {{"sticky_action_prob", 1.0}}),
        half("MinAtar/Freeway-v0", {{"sticky_action_prob", 0.5}});
    never.steps(4, 2), always.steps(40, 2);  // it may move after three steps
    CHECK(never.get("y") == 8);
    CHECK(always.get("y") == 9);
    int repeats = 0;
    for (int t = 0; t < 2000; ++t) {
      const int told = 2 + 2 * (half.get("last_action") == 2);  // up after down, down after up
      half.step(told);
      repeats += half.get("last_action") != told;
    }
    CHECK(repeats > 1000 - 67);
    CHECK(repeats < 1000 + 67);
    half.reset(2);
    CHECK(half.get("last_action") == 0);
    CHECK(error_of([] {
            Play("MinAtar/Freeway-v0", {{"sticky_action_prob", 1.5}});
          }) == "error[env-option] sticky_action_prob is 1.5, want 0 to 1");
  }

  TEST_CASE("MinAtar: a state that no game can be in is an error that names the number") {
    Play play("MinAtar/Breakout-v1");
    CHECK(error_of([&] {
            play.set({{"ball_y", 10}});
          }) == "error[env-state-value] a state of MinAtar/Breakout-v1 holds 10 as ball_y, want 0 to 9");
    CHECK(error_of([&] { play.set_state({0}); }).starts_with("error[env-state-length]"));
    Play sea("MinAtar/Seaquest-v1");
    std::vector<double> state = *sea.env().state();
    sea.set_state(state);
    state.at(16) = 1;  // num_fish, and no fish follows
    CHECK(error_of([&] { sea.set_state(state); }).starts_with("error[env-state-length]"));
    state.insert(state.end(), {3, 9, 1, 5, 0});  // where the gauges are
    CHECK(error_of([&] { sea.set_state(state); }) ==
          "error[env-state-value] a state of MinAtar/Seaquest-v1 holds 9 as y, want 0 to 8");
    state.end()[-4] = 8;
    sea.set_state(state);
    CHECK(sea.cell(8, 3, 5));
    CHECK(sea.cell(8, 2, 3));  // the trail of one that goes right
  }

  TEST_CASE("MinAtar/Breakout: the paddle bounces the ball, a brick is +1, a miss is the end") {
    constexpr int kPaddle = 0, kBall = 1, kTrail = 2, kBrick = 3;
    Play play("MinAtar/Breakout-v1");
    CHECK(play.count(kBrick) == 30);
    CHECK(play.cell(9, 4, kPaddle));
    // Down to the right from (row 8, column 3), it would come to (9, 4). Over the paddle it is reflected.
    const auto falling = [&](int paddle) {
      play.set({{"over", 0},
                {"paddle", paddle},
                {"ball_x", 3},
                {"ball_y", 8},
                {"ball_x_dot", 1},
                {"ball_y_dot", 1},
                {"struck", 0}});
      const StepResult result = play.step(0);
      CHECK(result.reward == 0);
      return result.terminated;
    };
    CHECK(!falling(3));
    CHECK(play.cell(8, 4, kBall));
    CHECK(play.cell(8, 3, kTrail));
    play.step(0);
    CHECK(play.cell(7, 5, kBall));
    // A paddle where it is going sends it back.
    CHECK(!falling(4));
    play.step(0);
    CHECK(play.cell(7, 3, kBall));
    CHECK(falling(5));
    CHECK(falling(2));
    CHECK(play.step(0).terminated);  // it is over
    CHECK(play.cell(9, 4, kBall));

    // Up to the right from (4, 5): the brick at (3, 6) goes, and the ball comes down from (4, 6).
    play.set({{"over", 0}, {"ball_x", 5}, {"ball_y", 4}, {"ball_x_dot", 1}, {"ball_y_dot", -1}, {"struck", 0}});
    CHECK(play.step(0).reward == 1);
    CHECK(play.count(kBrick) == 29);
    CHECK(!play.cell(3, 6, kBrick));
    CHECK(play.cell(4, 6, kBall));
    CHECK(play.step(0).reward == 0);
    CHECK(play.cell(5, 7, kBall));
    // One that was struck a step ago lets it pass.
    play.set({{"ball_x", 5}, {"ball_y", 4}, {"ball_x_dot", -1}, {"ball_y_dot", -1}, {"struck", 1}});
    CHECK(play.step(0).reward == 0);
    CHECK(play.count(kBrick) == 29);
    CHECK(play.cell(3, 4, kBall));
    // When all are gone they come back as the ball is at the bottom, also at the end.
    for (size_t row = 0; row < 3; ++row) play.set({{"brick_row", 0}}, row);
    CHECK(play.count(kBrick) == 0);
    CHECK(!falling(3));
    CHECK(play.count(kBrick) == 30);
  }

  TEST_CASE("MinAtar/Asterix: an enemy ends the episode, gold is +1, both grow faster by ramping") {
    constexpr int kPlayer = 0, kEnemy = 1, kTrail = 2, kGold = 3;
    Play play("MinAtar/Asterix-v1");
    CHECK(play.cell(5, 5, kPlayer));
    // In row 5 at column 4, to the right, as it is time to move: it comes to the player. Thing 4 is row 5's.
    const auto met = [&](bool gold, int timer, int action) {
      play.reset(1);
      play.set({{"move_timer", timer}});
      play.set({{"thing_x", 4}, {"thing_right", 1}, {"thing_gold", gold}}, 4);
      CHECK(play.cell(5, 4, gold ? kGold : kEnemy));
      CHECK(play.cell(5, 3, kTrail));
      return play.step(action);
    };
    for (const auto& [timer, action] : {std::pair{0, 0}, {3, 1}}) {  // it comes, or the player goes to the left
      CHECK(met(false, timer, action).terminated);
      const StepResult result = met(true, timer, action);
      CHECK(!result.terminated);
      CHECK(result.reward == 1);
      CHECK(play.count(kGold) == 0);
      CHECK(play.count(kTrail) == 0);
    }
    CHECK(!met(false, 0, 2).terminated);  // up and away
    CHECK(play.cell(5, 5, kEnemy));

    // The timer goes down to -1; in the step after it things come faster, every second time they move faster, too.
    const auto after = [](int timer, int index, double ramping) {
      Play game("MinAtar/Asterix-v1", {{"difficulty_ramping", ramping}});
      game.set({{"ramp_timer", timer}, {"ramp_index", index}});
      game.step(0);
      return std::tuple(game.get("spawn_interval"), game.get("move_interval"), game.get("ramp_timer"));
    };
    CHECK(after(0, 1, 1) == std::tuple(10.0, 5.0, -1.0));
    CHECK(after(-1, 0, 1) == std::tuple(9.0, 5.0, 100.0));
    CHECK(after(-1, 1, 1) == std::tuple(9.0, 4.0, 100.0));
    CHECK(after(-1, 1, 0) == std::tuple(10.0, 5.0, -1.0));
    play.reset(1);
    play.set({{"ramp_timer", -1}, {"ramp_index", 1}, {"spawn_interval", 1}, {"move_interval", 2}});
    play.step(0);
    CHECK(play.get("spawn_interval") == 1);
    CHECK(play.get("move_interval") == 1);
    play.set({{"ramp_timer", -1}});
    play.step(0);
    CHECK(play.get("ramp_timer") == -1);  // there is nothing left to change
  }

  TEST_CASE("MinAtar/Freeway: +1 at the top, back to the bottom when hit, the end after 2,501 steps") {
    constexpr int kChicken = 0, kCar = 1, kSpeed1 = 2;
    Play play("MinAtar/Freeway-v1");
    CHECK(play.cell(9, 4, kChicken));
    play.set({{"y", 1}, {"move_timer", 0}});
    play.set({{"car_x", 0}, {"car_timer", 4}});  // the lane at row 1
    CHECK(play.step(1).reward == 1);
    CHECK(play.cell(9, 4, kChicken));
    CHECK(play.get("move_timer") == 2);  // three steps between moves, this one counted

    // Cars of speed 2 and -1 at row 3: the first waits for its timer, then comes from column 3 to the chicken's.
    play.set({{"y", 3}});
    play.set({{"car_x", 3}, {"car_timer", 1}, {"car_speed", 2}}, 2);
    CHECK(play.cell(3, 2, kSpeed1 + 1));
    CHECK(play.step(0).reward == 0);
    CHECK(play.cell(3, 4, kChicken));
    play.step(0);
    CHECK(play.cell(3, 4, kCar));
    CHECK(play.cell(9, 4, kChicken));
    CHECK(play.get("car_timer", 2) == 2);
    play.set({{"car_x", 0}, {"car_timer", 0}, {"car_speed", -1}}, 2);
    CHECK(play.cell(3, 1, kSpeed1));
    play.step(0);
    CHECK(play.cell(3, 9, kCar));
    CHECK(play.cell(3, 0, kSpeed1));

    play.reset(2);
    CHECK(!play.steps(2500).terminated);
    CHECK(play.step(0).terminated);
  }

  TEST_CASE("MinAtar/Seaquest: oxygen, divers and the surface") {
    constexpr int kBack = 1, kBullet = 2, kFish = 5, kOxygen = 7, kRescued = 8, kDiver = 9;
    Play play("MinAtar/Seaquest-v1");
    CHECK(play.count(kOxygen) == 10);
    CHECK(play.cell(0, 6, kBack));
    play.set({{"y", 4}, {"oxygen", 39}});
    CHECK(play.count(kOxygen) == 1);  // 39 x 10 / 200
    play.set({{"oxygen", 1}});
    CHECK(!play.step(0).terminated);
    CHECK(play.step(0).terminated);  // there was none when the step began

    const auto surfaced = [&](int divers) {
      play.reset(1);
      play.set({{"y", 1}, {"surfaced", 0}, {"divers", divers}, {"oxygen", 125}});
      CHECK(play.count(kRescued) == std::max(divers, 0));
      return play.step(2);
    };
    CHECK(surfaced(0).terminated);
    CHECK(!surfaced(1).terminated);
    CHECK(play.count(kRescued) == 0);
    CHECK(play.count(kOxygen) == 10);
    CHECK(play.get("spawn_interval") == 19);
    const StepResult paid = surfaced(6);
    CHECK(paid.reward == 6);  // 125 x 10 / 200
    CHECK(!paid.terminated);
    CHECK(play.get("divers") == -1);
    CHECK(!surfaced(-1).terminated);
    CHECK(play.get("divers") == -2);
    // Every second time they move faster, too; at 1 and 2 there is nothing left to change.
    for (const auto& [spawn, move, index, faster_spawn, faster_move] :
         {std::tuple{15, 3, 5, 14, 2}, {15, 3, 4, 14, 3}, {15, 2, 5, 14, 2}, {1, 3, 5, 1, 2}, {1, 2, 7, 1, 2}}) {
      play.reset(1);
      play.set({{"y", 1}, {"surfaced", 0}, {"divers", 2}});
      play.set({{"spawn_interval", spawn}, {"move_interval", move}, {"ramp_index", index}});
      play.step(2);
      CHECK(play.get("spawn_interval") == faster_spawn);
      CHECK(play.get("move_interval") == faster_move);
    }

    // A diver at (3, 6) going left, which moves in this step, comes to the submarine at (3, 5); a seventh is not taken.
    for (const int divers : {0, 6}) {
      play.reset(1);
      play.set({{"y", 3}, {"divers", divers}, {"num_swimmers", 0}});
      std::vector<double> state = *play.env().state();
      state.at(18) = 1;  // num_swimmers
      state.insert(state.end(), {6, 3, 0, 0, 0});
      play.set_state(state);
      CHECK(play.cell(3, 6, kDiver));
      play.step(0);
      CHECK(play.get("divers") == std::min(divers + 1, 6));
      CHECK(play.count(kDiver) == (divers == 6));
    }

    // The bullet starts at column 5 and is at 4 after its first step; the fish at 3 is hit in the second one.
    play.reset(1);
    play.set({{"y", 3}});
    std::vector<double> state = *play.env().state();
    state.at(16) = 1;  // num_fish
    state.insert(state.end(), {3, 3, 1, 5, 0});
    play.set_state(state);
    CHECK(play.step(5).reward == 0);
    CHECK(play.cell(3, 4, kBullet));
    CHECK(play.step(5).reward == 1);  // and the cannon is not ready
    CHECK(play.count(kBullet) == 0);
    CHECK(play.count(kFish) == 0);
    // A fish that comes where we are.
    state.end()[-5] = 4, state.end()[-2] = 0;
    play.set_state(state);
    CHECK(play.step(0).terminated);
  }

  TEST_CASE("MinAtar/SpaceInvaders: an alien shot is +1, its bullet is the end, aliens descend at an edge") {
    constexpr int kCannon = 0, kAlien = 1, kLeft = 2, kRight = 3, kShot = 4, kAlienShot = 5;
    Play play("MinAtar/SpaceInvaders-v1");
    CHECK(play.cell(9, 5, kCannon));
    CHECK(play.count(kAlien) == 24);
    CHECK(play.count(kLeft) == 24);
    // Fired in row 9 and moved: row 8 after the first step, row 4 after the fifth, and the alien's row 3 in the sixth.
    CHECK(play.step(3).reward == 0);
    CHECK(play.cell(8, 5, kShot));
    CHECK(play.steps(4).reward == 0);
    CHECK(play.step(0).reward == 1);
    CHECK(play.count(kAlien) == 23);
    CHECK(!play.cell(3, 5, kAlien));
    CHECK(play.count(kShot) == 0);

    // The nearest column is the cannon's own, its lowest alien now in row 2; it shoots when the timer is at 0.
    play.set({{"alien_shot_timer", 0}});
    play.step(0);
    CHECK(play.cell(2, 5, kAlienShot));
    play.set({{"alien_shot_row", 0}}, 2);
    play.set({{"alien_shot_row", 1 << 5}}, 7);
    CHECK(!play.step(0).terminated);
    CHECK(play.step(0).terminated);

    // Columns 2 to 7 go left, and down one row to the right when column 0 is met.
    play.reset(1);
    play.set({{"alien_move_timer", 0}, {"alien_shot_timer", 9}});
    play.step(0);
    CHECK(play.cell(0, 1, kAlien));
    CHECK(play.get("alien_move_timer") == 11);  // the smaller of 24 aliens and 12 steps, and this one is gone
    play.set({{"alien_move_timer", 0}});
    play.step(0);
    CHECK(play.cell(0, 0, kLeft));
    play.set({{"alien_move_timer", 0}});
    play.step(0);
    CHECK(play.count(kLeft) == 0);
    CHECK(play.count(kRight) == 24);
    CHECK(!play.cell(0, 0, kAlien));
    CHECK(play.cell(4, 0, kAlien));

    // At the bottom they cannot descend: the end, where they turn there.
    for (const int column : {3, 0}) {
      play.reset(1);
      play.set({{"alien_row", 1 << column}}, 9);
      play.set({{"alien_row", 0}}, 0);
      for (size_t row = 1; row < 4; ++row) play.set({{"alien_row", 1 << 5}}, row);
      play.set({{"alien_move_timer", 0}});
      CHECK(play.step(0).terminated == (column == 0));
      CHECK(play.cell(column == 0 ? 0 : 9, column == 0 ? 0 : 2, kAlien));  // the row comes back at the top
    }

    // The last alien of a wave: the next one comes at once, and is faster where it ramps.
    for (const double ramping : {1.0, 0.0}) {
      Play game("MinAtar/SpaceInvaders-v1", {{"difficulty_ramping", ramping}});
      for (size_t row = 0; row < 4; ++row) game.set({{"alien_row", row == 3}}, row);
      game.set({{"shot_row", 1}}, 4);
      CHECK(game.step(0).reward == 1);
      CHECK(game.count(kAlien) == 24);
      CHECK(game.get("move_interval") == 12 - ramping);
    }
  }

  TEST_CASE("MinAtar: a frame has the colours of the package's palette") {
    // The numbers are those of seaborn's cubehelix of 4 colours. The paddle at row 9, column 4; at 100 x 100 pixels its
    // middle is (45, 95).
    Play play("MinAtar/Breakout-v1");
    play.set({{"ball_x", 7}, {"ball_y", 5}, {"last_x", 6}, {"last_y", 4}});
    const Frame frame = *play.env().render(100, 100);
    const auto pixel = [&](int x, int y) {
      return std::array{frame.row(y)[3 * x], frame.row(y)[3 * x + 1], frame.row(y)[3 * x + 2]};
    };
    CHECK(pixel(45, 95) == std::array<uint8_t, 3>{22, 61, 78});
    CHECK(pixel(40, 90) == pixel(45, 95));
    CHECK(pixel(49, 99) == pixel(45, 95));
    CHECK(pixel(75, 55) == std::array<uint8_t, 3>{84, 121, 47});
    CHECK(pixel(65, 45) == std::array<uint8_t, 3>{208, 126, 147});
    CHECK(pixel(5, 15) == std::array<uint8_t, 3>{193, 202, 243});
    CHECK(pixel(39, 95) == std::array<uint8_t, 3>{0, 0, 0});
    CHECK(play.env().render_fps() == 20);
  }
}

}  // namespace myriad
