#include "rl/fragment.hpp"

#include <doctest/doctest.h>

#include <cstring>
#include <limits>

#include "rl/check.hpp"

namespace myriad {
namespace {

// T = 3, B = 2: 8 observations of 5 floats, 6 actions, 6 rewards, ... as CartPole's would be.
std::shared_ptr<FragmentLayout> small_layout() {
  auto layout = std::make_shared<FragmentLayout>(3, 2);
  layout->add("obs", Rows::step_and_bootstrap, DType::f32, {5})
      .add("actions", Rows::step, DType::i32, {1})
      .add("rewards", Rows::step, DType::f64, {})
      .add("terminateds", Rows::step, DType::u8, {})
      .add("truncateds", Rows::step, DType::u8, {})
      .add("state_in", Rows::environment, DType::f32, {4})
      .add("final_obs", Rows::final_step, DType::f32, {5});
  return layout;
}

std::string violation(const Fragment& fragment) {
  return fragment_violation(fragment.layout(), fragment.used(), fragment.final_rows, Space::discrete(2));
}

/// FragmentLayout(3, 2) with one column, to compare hashes.
uint64_t hash_of(int t, int b, std::string name, Rows rows, DType dtype, std::vector<int> shape) {
  return FragmentLayout(t, b).add(std::move(name), rows, dtype, std::move(shape)).hash();
}

}  // namespace

TEST_SUITE("rl/fragment") {
  TEST_CASE("FragmentLayout: offsets by hand, each on 64 bytes") {
    const auto layout = small_layout();
    // obs 8 x 20 = 160 -> 192; actions 6 x 4 = 24 -> 256; rewards 6 x 8 = 48 -> 320; terminateds 6 -> 384;
    // truncateds 6 -> 448; state_in 2 x 16 = 32 -> 512; final_obs up to 6 x 20 = 120 -> ends at 632.
    const std::vector<size_t> want = {0, 192, 256, 320, 384, 448, 512};
    REQUIRE(layout->columns().size() == want.size());
    for (size_t i = 0; i < want.size(); ++i) {
      CHECK(layout->columns()[i].offset == want[i]);
      CHECK(layout->columns()[i].offset % 64 == 0);
    }
    CHECK(layout->capacity_bytes() == 632);
    CHECK(layout->steps() == 3);
    CHECK(layout->environments() == 2);
  }

  TEST_CASE("FragmentLayout: rows and row sizes follow from what a column is for") {
    const auto layout = small_layout();
    CHECK(layout->rows(layout->column("obs")) == 8);
    CHECK(layout->rows(layout->column("rewards")) == 6);
    CHECK(layout->rows(layout->column("state_in")) == 2);
    CHECK(layout->rows(layout->column("final_obs")) == 6);
    CHECK(layout->column("obs").row_bytes == 20);
    CHECK(layout->column("rewards").row_bytes == 8);
    CHECK(layout->find("logp") == nullptr);
    CHECK_THROWS_WITH_AS(layout->column("logp"), "a fragment of this run has no column logp", Error);
  }

  TEST_CASE("FragmentLayout: frames have a row more for each frame of a stack, all before them stays where it was") {
    FragmentLayout layout(3, 2, 4);
    layout.add("frames", Rows::frame, DType::f32, {5}).add("rewards", Rows::step, DType::f32, {});
    CHECK(layout.frame_stack() == 4);
    CHECK(layout.rows(layout.column("frames")) == 14);  // (3 + 4) x 2
    CHECK(layout.column("frames").row_bytes == 20);
    CHECK(layout.column("rewards").offset == 320);  // 14 x 20 = 280
    CHECK(layout.capacity_bytes() == 344);
    CHECK(FragmentLayout(3, 2).frame_stack() == 1);
    CHECK_THROWS_AS(FragmentLayout(3, 2, 0), Error);
  }

  TEST_CASE("FragmentLayout: only the used rows of final_obs count") {
    const auto layout = small_layout();
    CHECK(layout->used_bytes(0) == 512);
    CHECK(layout->used_bytes(1) == 532);
    CHECK(layout->used_bytes(6) == layout->capacity_bytes());
    FragmentLayout without(3, 2);
    without.add("rewards", Rows::step, DType::f32, {});
    CHECK(without.used_bytes(0) == 24);
  }

  TEST_CASE("FragmentLayout: nothing comes after final_obs") {
    CHECK_THROWS_AS(small_layout()->add("late", Rows::step, DType::f32, {}), Error);
  }

  TEST_CASE("FragmentLayout: the hash tells every difference") {
    const uint64_t base = hash_of(3, 2, "obs", Rows::step, DType::f32, {2, 3});
    CHECK(base == hash_of(3, 2, "obs", Rows::step, DType::f32, {2, 3}));
    CHECK(base != hash_of(2, 3, "obs", Rows::step, DType::f32, {2, 3}));
    CHECK(base != hash_of(3, 2, "obs2", Rows::step, DType::f32, {2, 3}));
    CHECK(base != hash_of(3, 2, "obs", Rows::environment, DType::f32, {2, 3}));
    CHECK(base != hash_of(3, 2, "obs", Rows::step, DType::i32, {2, 3}));
    CHECK(base != hash_of(3, 2, "obs", Rows::step, DType::f32, {3, 2}));
    CHECK(base != hash_of(3, 2, "obs", Rows::step, DType::f32, {6}));
    CHECK(base != FragmentLayout(3, 2).hash());
    const auto of_frames = [](int k) {
      return FragmentLayout(3, 2, k).add("frames", Rows::frame, DType::f32, {2}).hash();
    };
    CHECK(of_frames(2) != of_frames(3));
    CHECK(of_frames(1) != hash_of(3, 2, "frames", Rows::step_and_bootstrap, DType::f32, {2}));
    CHECK(FragmentLayout(3, 2, 1).hash() == FragmentLayout(3, 2).hash());
  }

  TEST_CASE("Fragment: aligned, zeroed, rows in time-major order") {
    Fragment fragment(small_layout());
    CHECK(reinterpret_cast<uintptr_t>(fragment.buffer().data()) % 64 == 0);
    CHECK(fragment.buffer().size() == 632);
    CHECK(fragment.used().size() == 512);
    for (const std::byte b : fragment.used()) CHECK(b == std::byte{0});
    const Column& rewards = fragment.layout().column("rewards");
    const size_t t = 2, b = 1;
    const double reward = 1.5;
    std::memcpy(fragment.row(rewards, t * 2 + b), &reward, sizeof reward);
    CHECK(fragment.values<double>(rewards).size() == 6);
    CHECK(fragment.values<double>(rewards)[5] == 1.5);
    CHECK(fragment.values<float>(fragment.layout().column("obs")).size() == 40);
  }

  TEST_CASE("Fragment: the used part grows with final_rows") {
    Fragment fragment(small_layout());
    fragment.final_rows = 2;
    CHECK(fragment.used().size() == 552);
  }

  TEST_CASE("fragment_violation: a zeroed fragment, and one with a time limit and its S_T, can be used") {
    Fragment fragment(small_layout());
    CHECK(violation(fragment) == "");
    fragment.values<uint8_t>(fragment.layout().column("truncateds"))[3] = 1;
    fragment.final_rows = 1;
    std::memset(fragment.row(fragment.layout().column("final_obs"), 0), 0, 20);
    CHECK(violation(fragment) == "");
    // Terminated and cut at once: the terminal state needs no value, so no final_obs.
    fragment.values<uint8_t>(fragment.layout().column("terminateds"))[3] = 1;
    fragment.final_rows = 0;
    CHECK(violation(fragment) == "");
  }

  TEST_CASE("fragment_violation: length") {
    Fragment fragment(small_layout());
    const auto layout = small_layout();
    CHECK(fragment_violation(*layout, fragment.used().first(511), 0, Space::discrete(2)) ==
          "buffer has 511 bytes, want 512");
    CHECK(fragment_violation(*layout, fragment.used(), 1, Space::discrete(2)) == "buffer has 512 bytes, want 532");
    CHECK(fragment_violation(*layout, fragment.used(), 7, Space::discrete(2)) == "final_rows 7 is more than T x B");
    CHECK(fragment_violation(*layout, fragment.used(), std::numeric_limits<size_t>::max(), Space::discrete(2)) ==
          fmt::format("final_rows {} is more than T x B", std::numeric_limits<size_t>::max()));
  }

  TEST_CASE("fragment_violation: every float is finite") {
    for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                            -std::numeric_limits<float>::infinity()}) {
      Fragment fragment(small_layout());
      fragment.values<float>(fragment.layout().column("obs"))[39] = bad;
      CHECK(violation(fragment) == "column obs has a value that is not finite");
    }
    Fragment fragment(small_layout());
    fragment.values<double>(fragment.layout().column("rewards"))[0] = std::numeric_limits<double>::quiet_NaN();
    CHECK(violation(fragment) == "column rewards has a value that is not finite");
    fragment.values<double>(fragment.layout().column("rewards"))[0] = std::numeric_limits<double>::max();
    CHECK(violation(fragment) == "");
  }

  TEST_CASE("fragment_violation: frames up to the last row") {
    auto layout = std::make_shared<FragmentLayout>(3, 2, 4);
    layout->add("frames", Rows::frame, DType::f32, {5});
    Fragment fragment(layout);
    CHECK(violation(fragment) == "");
    CHECK(fragment_violation(*layout, fragment.used().first(279), 0, Space::discrete(2)) ==
          "buffer has 279 bytes, want 280");
    fragment.values<float>(layout->column("frames"))[69] = std::numeric_limits<float>::infinity();
    CHECK(violation(fragment) == "column frames has a value that is not finite");
  }

  TEST_CASE("fragment_violation: only the used rows of final_obs are read") {
    Fragment fragment(small_layout());
    fragment.values<uint8_t>(fragment.layout().column("truncateds"))[0] = 1;
    fragment.final_rows = 1;
    const std::span<float> final_obs = fragment.values<float>(fragment.layout().column("final_obs"));
    for (float& x : final_obs) x = std::numeric_limits<float>::quiet_NaN();
    CHECK(violation(fragment) == "column final_obs has a value that is not finite");
    for (float& x : final_obs.first(5)) x = 0.0f;
    CHECK(violation(fragment) == "");
  }

  TEST_CASE("fragment_violation: actions lie in the action space") {
    Fragment fragment(small_layout());
    fragment.values<int32_t>(fragment.layout().column("actions"))[4] = 2;
    CHECK(violation(fragment) == "action[0] = 2 outside [0, 2)");
    fragment.values<int32_t>(fragment.layout().column("actions"))[4] = -1;
    CHECK(violation(fragment) == "action[0] = -1 outside [0, 2)");
    // Of a Tuple: float32, a real number and a choice.
    const Space pair = Tuple{{Space::box(-1, 1, {1}), Space::discrete(3)}};
    auto layout = std::make_shared<FragmentLayout>(1, 2);
    layout->add("actions", Rows::step, DType::f32, {2});
    Fragment floats(layout);
    const auto actions = floats.values<float>(layout->column("actions"));
    std::ranges::copy(std::vector<float>{9, 2, -9, 0}, actions.begin());
    CHECK(fragment_violation(*layout, floats.used(), 0, pair) == "");
    actions[3] = 3;
    CHECK(fragment_violation(*layout, floats.used(), 0, pair) == "action.1[0] = 3 outside [0, 3)");
  }

  TEST_CASE("fragment_violation: flags are 0 or 1 and final_rows is what they say") {
    Fragment fragment(small_layout());
    fragment.values<uint8_t>(fragment.layout().column("terminateds"))[1] = 2;
    CHECK(violation(fragment) == "flag 1 is 2 / 0, want 0 or 1");
    fragment.values<uint8_t>(fragment.layout().column("terminateds"))[1] = 1;
    CHECK(violation(fragment) == "");
    fragment.values<uint8_t>(fragment.layout().column("truncateds"))[2] = 1;
    CHECK(violation(fragment) == "final_rows 0, but 1 steps were cut by the time limit");
    fragment.values<uint8_t>(fragment.layout().column("truncateds"))[2] = 255;
    CHECK(violation(fragment) == "flag 2 is 0 / 255, want 0 or 1");
  }
}

}  // namespace myriad
