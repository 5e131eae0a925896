#include "learners/batch_assembler.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>

namespace myriad {
namespace {

/// Two steps of two environments; a time limit cuts environment 0 after the first step.
struct Fixture {
  std::shared_ptr<FragmentLayout> layout = std::make_shared<FragmentLayout>(2, 2);
  Fixture() {
    layout->add("obs", Rows::step_and_bootstrap, DType::f32, {1});
    layout->add("terminateds", Rows::step, DType::u8, {});
    layout->add("truncateds", Rows::step, DType::u8, {});
    layout->add("final_obs", Rows::final_step, DType::f32, {1});
  }
  void add(BatchAssembler& assembler, uint32_t place, float value, bool cut) const {
    Fragment fragment(layout);
    std::memset(fragment.buffer().data(), 0, fragment.buffer().size());
    float next = value;
    for (float& x : fragment.values<float>(layout->column("obs"))) x = next++;
    if (cut) {
      *fragment.row(layout->column("truncateds"), 0) = std::byte{1};
      fragment.values<float>(layout->column("final_obs"))[0] = -value;
      fragment.final_rows = 1;
    }
    const auto used = fragment.used();
    assembler.add(place, SharedBytes::of({used.begin(), used.end()}), fragment.final_rows);
  }
};

std::vector<std::byte> bytes_of(const Fragment& batch) { return {batch.used().begin(), batch.used().end()}; }

}  // namespace

TEST_SUITE("learners/batch_assembler") {
  TEST_CASE_FIXTURE(Fixture, "BatchAssembler: fragments lie side by side, final_obs in time-major order") {
    BatchAssembler assembler(layout, 2);
    add(assembler, 1, 100, true);
    add(assembler, 0, 10, true);
    Fragment& batch = assembler.take(7);
    CHECK(batch.weights_version == 7);
    const auto obs = batch.values<float>(batch.layout().column("obs"));
    CHECK(std::vector<float>(obs.begin(), obs.end()) ==
          std::vector<float>{10, 11, 100, 101, 12, 13, 102, 103, 14, 15, 104, 105});
    REQUIRE(batch.final_rows == 2);
    CHECK(batch.values<float>(batch.layout().column("final_obs"))[1] == -100);
  }

  TEST_CASE("BatchAssembler: every time limit keeps its own final_obs, in time-major order over all places") {
    // Three steps of two environments; * has a final_obs row, x is terminated and truncated at once and has none.
    //        place 0   place 1        batch
    // t = 0   . *       * .           . * * .     row 0 of place 0, row 0 of place 1
    // t = 1   x .       . *           x . . *                       row 1 of place 1
    // t = 2   * .       t *           * . t *     row 1 of place 0, row 2 of place 1   (t: terminated alone)
    auto layout = std::make_shared<FragmentLayout>(3, 2);
    layout->add("terminateds", Rows::step, DType::u8, {}).add("truncateds", Rows::step, DType::u8, {});
    layout->add("final_obs", Rows::final_step, DType::f32, {2});
    struct Ends {
      std::vector<uint8_t> terminateds, truncateds;
      size_t final_rows;
    };
    const std::vector<Ends> first{{{0, 0, 1, 0, 0, 0}, {0, 1, 1, 0, 1, 0}, 2},
                                  {{0, 0, 0, 0, 1, 0}, {1, 0, 0, 1, 0, 1}, 3}},
        second{{{0, 0, 0, 0, 0, 0}, {0, 0, 0, 0, 0, 1}, 1}, {{1, 0, 0, 0, 0, 0}, {1, 1, 0, 0, 0, 0}, 1}};
    BatchAssembler assembler(layout, 2);
    const auto batch_of = [&](const std::vector<Ends>& places, float value) -> Fragment& {
      for (const uint32_t place : {1u, 0u}) {
        const Ends& ends = places[place];
        Fragment fragment(layout);
        std::ranges::copy(ends.terminateds, fragment.values<uint8_t>(layout->column("terminateds")).begin());
        std::ranges::copy(ends.truncateds, fragment.values<uint8_t>(layout->column("truncateds")).begin());
        for (size_t i = 0; i < 2 * ends.final_rows; ++i)  // place 0: 10 11 | 12 13; place 1: 100 101 | 102 103 | ...
          fragment.values<float>(layout->column("final_obs"))[i] =
              value * (place == 0 ? 10.0f : 100.0f) + static_cast<float>(i);
        fragment.final_rows = ends.final_rows;
        const auto used = fragment.used();
        assembler.add(place, SharedBytes::of({used.begin(), used.end()}), fragment.final_rows);
      }
      return assembler.take(1);
    };
    const auto final_obs = [](Fragment& batch) {
      const auto all = batch.values<float>(batch.layout().column("final_obs"));
      return std::vector<float>(all.begin(), all.begin() + static_cast<std::ptrdiff_t>(2 * batch.final_rows));
    };
    Fragment& batch = batch_of(first, 1);
    CHECK(final_obs(batch) == std::vector<float>{10, 11, 100, 101, 102, 103, 12, 13, 104, 105});
    const auto truncateds = batch.values<uint8_t>(batch.layout().column("truncateds"));
    CHECK(std::vector<uint8_t>(truncateds.begin(), truncateds.end()) ==
          std::vector<uint8_t>{0, 1, 1, 0, 1, 0, 0, 1, 1, 0, 0, 1});
    // The next batch begins at row 0 of each place again: place 1 at t = 0, place 0 at t = 2.
    CHECK(final_obs(batch_of(second, 2)) == std::vector<float>{200, 201, 20, 21});
  }

  TEST_CASE("BatchAssembler: frames lie side by side, time for time, as many as a stack asks for") {
    auto layout = std::make_shared<FragmentLayout>(1, 2, 3);  // 4 rows of 2 environments
    layout->add("frames", Rows::frame, DType::f32, {1}).add("logp", Rows::step, DType::f32, {});
    BatchAssembler assembler(layout, 2);
    CHECK(assembler.batch_layout().frame_stack() == 3);
    for (const uint32_t place : {1u, 0u}) {
      Fragment fragment(layout);
      float next = place == 0 ? 10 : 100;
      for (float& x : fragment.values<float>(layout->column("frames"))) x = next++;
      const auto used = fragment.used();
      assembler.add(place, SharedBytes::of({used.begin(), used.end()}), 0);
    }
    Fragment& batch = assembler.take(1);
    const auto frames = batch.values<float>(batch.layout().column("frames"));
    CHECK(std::vector<float>(frames.begin(), frames.end()) ==
          std::vector<float>{10, 11, 100, 101, 12, 13, 102, 103, 14, 15, 104, 105, 16, 17, 106, 107});
  }

  TEST_CASE_FIXTURE(Fixture, "BatchAssembler: the next batch fills while the last one is trained on") {
    BatchAssembler assembler(layout, 1);
    add(assembler, 0, 10, true);
    Fragment& first = assembler.take(1);
    const auto before = bytes_of(first);
    add(assembler, 0, 50, false);
    CHECK(bytes_of(first) == before);
    Fragment& second = assembler.take(2);
    CHECK(second.final_rows == 0);
    CHECK(&second != &first);
  }

  TEST_CASE_FIXTURE(Fixture, "BatchAssembler: a pending batch that was saved is taken as the one that was not") {
    BatchAssembler assembler(layout, 2), resumed(layout, 2);
    add(assembler, 0, 10, true);
    add(assembler, 1, 100, false);
    Fragment& pending = assembler.pending(3);
    const auto saved = bytes_of(pending);
    Fragment& restored = resumed.set_pending();
    restored.final_rows = pending.final_rows;
    std::memcpy(restored.buffer().data(), saved.data(), saved.size());
    for (BatchAssembler* a : {&assembler, &resumed}) {
      Fragment& batch = a->take(3);
      CHECK(bytes_of(batch) == saved);
      CHECK(batch.final_rows == 1);
      add(*a, 0, 20, false), add(*a, 1, 30, true);  // and it goes on
      CHECK(a->take(4).final_rows == 1);
    }
  }
}

}  // namespace myriad
