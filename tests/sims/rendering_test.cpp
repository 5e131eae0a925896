// Frames of every environment that can be drawn.
#include <doctest/doctest.h>

#include <algorithm>
#include <array>
#include <cstdio>

#include "rl/check.hpp"
#include "rl/environment.hpp"

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

  TEST_CASE("MinAtar: frames have the size asked for, differ between states and change nothing") {
    for (const char* game : {"Asterix", "Breakout", "Freeway", "Seaquest", "SpaceInvaders"})
      check_frames(fmt::format("MinAtar/{}-v1", game));
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
