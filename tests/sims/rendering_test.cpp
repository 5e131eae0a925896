// Frames of every environment that can be drawn.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cstdio>

#include "rl/check.hpp"
#include "rl/environment.hpp"
#include "rl/wrappers.hpp"

namespace myriad {
namespace {

using Rgb = std::array<int, 3>;
Rgb pixel(const Frame& frame, int x, int y) {
  const uint8_t* at = frame.row(y) + 3 * x;
  return {at[0], at[1], at[2]};
}

/// An environment and what it writes to.
struct Stage {
  explicit Stage(const std::string& id) : spec(EnvRegistry::instance().find(id)), env(make_environment(spec, {})) {
    env->reset(random, row());
  }
  Row row() { return Row(std::as_writable_bytes(std::span(observation)).first(spec.observation_space.row_bytes())); }
  void set(std::vector<double> state) { env->set_state(state, row()); }
  void step() {
    const auto bytes = std::as_writable_bytes(std::span(action)).first(spec.action_space.row_bytes());
    spec.action_space.sample(actions, bytes);
    env->step(ConstRow(bytes), random, row());
  }

  const EnvSpec& spec;
  std::unique_ptr<Environment> env;
  RandomStream random{1, StreamPurpose::environment, 0}, actions{1, StreamPurpose::action, 0};
  std::vector<double> observation = std::vector<double>(spec.observation_space.row_bytes() / 8 + 1);
  std::vector<double> action = std::vector<double>(spec.action_space.row_bytes() / 8 + 1);
};

/// Whether this machine has no OpenGL, which then every case that needs it says.
bool skipped() {
  try {
    Stage("HalfCheetah-v5").env->render(16, 16);
    return false;
  } catch (const Error& error) {
    REQUIRE(error.code() == "no-rendering");
    CHECK(std::string(error.what()).find("apt-get install libegl1 libgl1-mesa-dri") != std::string::npos);
    std::printf("SKIPPED: %s\n", error.what());
    return true;
  }
}

/// Drawn after twenty steps it has the size asked for, shows something, and nothing of it is left in the simulation.
void check_frames(const std::string& id) {
  INFO(id);
  Stage stage(id), undisturbed(id);
  const std::optional<Frame> first = stage.env->render(100, 81);
  REQUIRE(first);
  CHECK(first->width == 100);
  CHECK(first->height == 81);
  REQUIRE(first->rgb.size() == 100 * 81 * 3);
  CHECK(std::ranges::any_of(first->rgb, [&](uint8_t value) { return value != first->rgb[0]; }));
  CHECK(stage.env->render(100, 81)->rgb == first->rgb);
  for (int t = 0; t < 20; ++t) {
    stage.step(), undisturbed.step();
    stage.env->render(64, 48);
  }
  CHECK(stage.env->state() == undisturbed.env->state());
  CHECK(stage.env->render(100, 81)->rgb != first->rgb);
  CHECK(undisturbed.env->render(100, 81)->rgb == stage.env->render(100, 81)->rgb);
  CHECK(stage.env->render_fps() > 0);
}

}  // namespace

TEST_SUITE("sims/rendering") {
  TEST_CASE("CartPole-v1: the cart and the pole are where the state says") {
    // 125 pixels a metre, the middle at x = 300, the track 100 above the bottom: at x = 1.2 m the cart is
    // [425, 475) x [285, 315), the upright pole [445, 455) x [172.5, 297.5), the axle a disc of 5 at (450, 292.5).
    Stage stage("CartPole-v1");
    stage.set({1.2, 0, 0, 0});
    const Frame frame = *stage.env->render(600, 400);
    constexpr Rgb kWhite{255, 255, 255}, kBlack{0, 0, 0}, kPole{202, 152, 101};
    CHECK(pixel(frame, 425, 285) == kBlack);
    CHECK(pixel(frame, 474, 314) == kBlack);
    CHECK(pixel(frame, 424, 285) == kWhite);
    CHECK(pixel(frame, 475, 314) == kWhite);
    CHECK(pixel(frame, 425, 284) == kWhite);
    CHECK(pixel(frame, 474, 315) == kWhite);
    CHECK(pixel(frame, 445, 173) == kPole);
    CHECK(pixel(frame, 454, 284) == kPole);
    CHECK(pixel(frame, 444, 200) == kWhite);
    CHECK(pixel(frame, 455, 200) == kWhite);
    CHECK(pixel(frame, 450, 171) == kWhite);
    CHECK(pixel(frame, 450, 172) == Rgb{229, 204, 178});  // half covered: 255 - 53 / 2, ...
    CHECK(pixel(frame, 450, 292) == Rgb{129, 132, 203});
    CHECK(pixel(frame, 10, 299) == Rgb{128, 128, 128});  // the track, one pixel thick, lies between two rows
    CHECK(pixel(frame, 10, 300) == Rgb{128, 128, 128});

    // A pole that leans to the right: its middle is 57.5 sin(0.2) = 11.4 to the right of the axle.
    stage.set({0, 0, 0.2, 0});
    CHECK(pixel(*stage.env->render(600, 400), 311, 236) == kPole);

    // Twice the size has twice the coordinates; in a frame of another shape the drawing keeps its own, in the middle.
    stage.set({1.2, 0, 0, 0});
    const Frame large = *stage.env->render(1200, 800);
    CHECK(pixel(large, 850, 570) == kBlack);
    CHECK(pixel(large, 849, 570) == kWhite);
    CHECK(pixel(*stage.env->render(600, 500), 425, 335) == kBlack);
  }

  TEST_CASE("Classic control: frames have the size asked for, differ between states and change nothing") {
    for (const char* id : {"CartPole-v1", "Pendulum-v1", "Acrobot-v1", "MountainCar-v0", "MountainCarContinuous-v0"})
      check_frames(id);
  }

  TEST_CASE("Wrappers: a wrapped environment is drawn as it is; a skip shows fewer frames a second") {
    EnvironmentConfig config;
    config.sticky_actions = 0.3, config.frame_skip = 4, config.frame_stack = 3;
    const auto wrapped = make_environment(wrapped_spec(EnvRegistry::instance().find("CartPole-v1"), config), {});
    std::array<float, 3 * 4> row;
    RandomStream random(1, StreamPurpose::environment, 0);
    wrapped->reset(random, Row(std::as_writable_bytes(std::span(row))));
    CHECK(wrapped->render(64, 48)->rgb == Stage("CartPole-v1").env->render(64, 48)->rgb);
    CHECK(wrapped->render_fps() == Stage("CartPole-v1").env->render_fps() / 4);
  }

  TEST_CASE("MinAtar: frames have the size asked for, differ between states and change nothing") {
    for (const char* game : {"Asterix", "Breakout", "Freeway", "Seaquest", "SpaceInvaders"})
      check_frames(fmt::format("MinAtar/{}-v1", game));
  }

  TEST_CASE("Box2D: frames have the size asked for, differ between states and change nothing") {
    for (const char* id :
         {"LunarLander-v3", "LunarLanderContinuous-v3", "BipedalWalker-v3", "BipedalWalkerHardcore-v3", "CarRacing-v3"})
      check_frames(id);
  }

  TEST_CASE(
      "LunarLander-v3: 30 pixels a metre; the lander at the top, the pad between its flags, a flame while it burns") {
    Stage stage("LunarLander-v3");
    const auto frame = [&] { return *stage.env->render(600, 400); };
    constexpr Rgb kSky{0, 0, 0}, kMoon{255, 255, 255}, kFlame{255, 140, 30};
    const Frame first = frame();
    CHECK(pixel(first, 300, 3) == Rgb{128, 102, 230});
    CHECK(pixel(first, 100, 20) == kSky);
    CHECK(pixel(first, 300, 310) == kMoon);  // the pad is 99 pixels above the bottom
    CHECK(pixel(first, 300, 295) == kSky);
    for (const int x : {240, 360}) {
      CHECK(pixel(first, x, 270) == kMoon);  // a pole
      CHECK(pixel(first, x + 5, 255) == Rgb{204, 204, 0});
    }
    const auto burning = [&](int32_t action) {
      const StepResult result =
          stage.env->step(ConstRow(std::as_bytes(std::span(&action, 1))), stage.random, stage.row());
      REQUIRE(!result.terminated);
      const Frame now = frame();
      int count = 0, left = 0;
      for (int y = 0; y < 400; ++y)
        for (int x = 0; x < 600; ++x)
          if (pixel(now, x, y) == kFlame) ++count, left += x < 300;
      return std::pair(count, left);
    };
    for (int t = 0; t < 15; ++t) CHECK(burning(0).first == 0);
    CHECK(burning(2).first > 50);
    CHECK(burning(0).first == 0);
    const auto [right_flame, right_left] = burning(1);  // pushed to the left: its flame is on the right
    const auto [left_flame, left_left] = burning(3);
    CHECK(right_flame > 20);
    CHECK(left_flame > 20);
    CHECK(left_left > right_left);
  }

  TEST_CASE("BipedalWalker-v3: the hull a fifth from the left, the flag at the start, grass below the sky") {
    // The hull starts 140 pixels from the left of the terrain and 168 above the bottom, so the picture begins at 20.
    Stage stage("BipedalWalker-v3");
    const Frame frame = *stage.env->render(600, 400);
    CHECK(pixel(frame, 120, 232) == Rgb{127, 51, 229});
    CHECK(pixel(frame, 40, 310) == Rgb{102, 153, 76});
    CHECK(pixel(frame, 40, 290) == Rgb{215, 215, 255});
    CHECK(pixel(frame, 500, 20) == Rgb{215, 215, 255});
    CHECK(pixel(frame, 22, 280) == Rgb{0, 0, 0});
    CHECK(pixel(frame, 28, 255) == Rgb{230, 51, 0});
  }

  TEST_CASE("FrozenLake-v1: start, holes, goal and where one stands") {
    Stage stage("FrozenLake-v1");
    stage.set({0});
    const Frame start = *stage.env->render(400, 400);
    constexpr Rgb kAgent{200, 40, 40}, kIce{205, 228, 245};
    CHECK(pixel(start, 50, 50) == kAgent);
    CHECK(pixel(start, 10, 10) == Rgb{170, 215, 170});
    CHECK(pixel(start, 150, 50) == kIce);
    CHECK(pixel(start, 150, 150) == Rgb{30, 60, 110});
    CHECK(pixel(start, 350, 350) == Rgb{250, 190, 60});
    CHECK(pixel(start, 100, 150) == Rgb{170, 170, 170});  // a line between squares
    stage.set({14});
    const Frame later = *stage.env->render(400, 400);
    CHECK(pixel(later, 250, 350) == kAgent);
    CHECK(pixel(later, 50, 50) == Rgb{170, 215, 170});
    CHECK(pixel(*Stage("FrozenLake8x8-v1").env->render(800, 800), 350, 250) == Rgb{30, 60, 110});
  }

  TEST_CASE("CliffWalking-v1: the cliff between start and goal") {
    Stage stage("CliffWalking-v1");
    stage.set({36});
    const Frame frame = *stage.env->render(1200, 400);
    CHECK(pixel(frame, 50, 350) == Rgb{200, 40, 40});
    CHECK(pixel(frame, 10, 350) == Rgb{250, 220, 120});
    CHECK(pixel(frame, 150, 350) == Rgb{60, 50, 45});
    CHECK(pixel(frame, 1050, 350) == Rgb{60, 50, 45});
    CHECK(pixel(frame, 1150, 350) == Rgb{250, 220, 120});
    CHECK(pixel(frame, 150, 250) == Rgb{150, 190, 120});
  }

  TEST_CASE("Taxi-v3: places, walls, the passenger at one or in the taxi, the destination ringed") {
    // ((5 row + column) 5 + passenger) 4 + destination: the taxi at (2, 1), the passenger at R or inside, to G.
    Stage stage("Taxi-v3");
    constexpr Rgb kTaxi{250, 190, 30}, kPassenger{200, 40, 40};
    stage.set({221, 0});
    const Frame waiting = *stage.env->render(500, 500);
    CHECK(pixel(waiting, 150, 250) == kTaxi);
    CHECK(pixel(waiting, 50, 50) == kPassenger);
    CHECK(pixel(waiting, 10, 50) == Rgb{235, 120, 120});
    CHECK(pixel(waiting, 450, 8) == Rgb{160, 40, 160});
    CHECK(pixel(waiting, 450, 50) == Rgb{130, 200, 130});
    CHECK(pixel(waiting, 200, 50) == Rgb{0, 0, 0});        // a wall
    CHECK(pixel(waiting, 100, 50) == Rgb{170, 170, 170});  // none
    stage.set({237, 0});
    const Frame riding = *stage.env->render(500, 500);
    CHECK(pixel(riding, 150, 250) == kPassenger);
    CHECK(pixel(riding, 172, 250) == kTaxi);
    CHECK(pixel(riding, 50, 50) == Rgb{235, 120, 120});
  }

  TEST_CASE("Blackjack-v1: the dealer's card and the player's total in digits, a disc for a usable ace") {
    Stage stage("Blackjack-v1");
    constexpr Rgb kTable{30, 110, 60}, kCard{250, 250, 245}, kBlack{0, 0, 0};
    stage.set({7, 17, 2, 0, 8, 2, 1});  // it shows 7; ace and 7: 18
    const Frame frame = *stage.env->render(400, 400);
    CHECK(pixel(frame, 5, 5) == kTable);
    CHECK(pixel(frame, 160, 55) == kBlack);  // the top of a 0, whose middle is free
    CHECK(pixel(frame, 160, 100) == kCard);
    CHECK(pixel(frame, 240, 55) == kBlack);  // the top of a 7, which has no left side
    CHECK(pixel(frame, 215, 75) == kCard);
    CHECK(pixel(frame, 135, 265) == kTable);  // the left side of a 1 is free, its right one lit
    CHECK(pixel(frame, 183, 265) == kCard);
    CHECK(pixel(frame, 240, 290) == kCard);  // the middle of an 8
    CHECK(pixel(frame, 330, 290) == Rgb{240, 190, 60});
    stage.set({7, 17, 2, 0, 18, 2, 0});
    CHECK(pixel(*stage.env->render(400, 400), 330, 290) == kTable);
  }

  TEST_CASE("MuJoCo: frames have the size asked for, differ between states and change nothing") {
    if (skipped()) return;
    for (const char* id : {"HalfCheetah-v5", "Pusher-v5"}) check_frames(id);  // with a camera "track" and without
  }

  TEST_CASE("MuJoCo: the sky is above the ground, and the camera follows") {
    if (skipped()) return;
    Stage stage("HalfCheetah-v5");
    const Frame near = *stage.env->render(200, 150);
    const Rgb sky = pixel(near, 100, 5);
    CHECK(sky[0] == sky[1]);  // its model's sky is grey
    CHECK(sky[1] == sky[2]);
    std::vector<double> far(18);
    far[0] = 12;  // m: twelve squares of the ground, so that it looks the same
    stage.set(far);
    const Frame there = *stage.env->render(200, 150);
    far[0] = 0;
    stage.set(far);
    const Frame here = *stage.env->render(200, 150);
    int differ = 0;
    for (size_t i = 0; i < here.rgb.size(); ++i) differ += std::abs(here.rgb[i] - there.rgb[i]) > 8;
    CHECK(differ < static_cast<int>(here.rgb.size()) / 20);
  }

  TEST_CASE("Environment: one that cannot be drawn says so") { CHECK(!Stage("StepTime-v0").env->render(64, 48)); }
}

}  // namespace myriad
