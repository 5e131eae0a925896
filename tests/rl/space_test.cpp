#include "rl/space.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "rl/check.hpp"
#include "tests/error_of.hpp"

namespace myriad {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();

template <class T>
std::string violation(const Space& space, const std::vector<T>& row) {
  return space.violation(std::as_bytes(std::span(row)), "obs");
}

Space robot() {
  return Dict{{{"camera", Space::box(0, 255, {3}, DType::u8)},
               {"arm", Dict{{{"joints", Space::box(-1, 1, {2}, DType::f64)}, {"grip", Space::discrete(4)}}}},
               {"tag", Tuple{{Space::box(-kInf, kInf, {1}), MultiBinary{2}}}}}};
}

}  // namespace

TEST_SUITE("rl/space") {
  TEST_CASE("Space: the leaves of Dict and Tuple lie side by side, aligned to their elements") {
    const Space space = robot();
    struct Want {
      const char* path;
      DType dtype;
      size_t count, offset;
    };
    // 3 bytes, padding to 8, 16 bytes, 4, 4, 8 bytes, padding of the row to 8.
    const Want wants[] = {{"camera", DType::u8, 3, 0},
                          {"arm/joints", DType::f64, 2, 8},
                          {"arm/grip", DType::i32, 1, 24},
                          {"tag/0", DType::f32, 1, 28},
                          {"tag/1", DType::i32, 2, 32}};
    REQUIRE(space.leaves().size() == 5);
    for (size_t i = 0; i < 5; ++i) {
      const Leaf& leaf = space.leaves()[i];
      CHECK(leaf.path == wants[i].path);
      CHECK(leaf.dtype == wants[i].dtype);
      CHECK(leaf.count == wants[i].count);
      CHECK(leaf.offset == wants[i].offset);
    }
    CHECK(space.row_bytes() == 40);
    CHECK_FALSE(space.is_leaf());
    CHECK(space.flat_size() == 3 + 2 + 4 + 1 + 2);
  }

  TEST_CASE("Space: a leaf is one leaf without a path") {
    const Space space = Space::box(-1, 1, {2, 3});
    CHECK(space.is_leaf());
    CHECK(space.leaves()[0].shape == std::vector{2, 3});
    CHECK(space.row_bytes() == 24);
    CHECK(Space(Tuple{{space}}).is_leaf() == false);
    CHECK(Space(Dict{}).row_bytes() == 0);
  }

  TEST_CASE("Space: flat_size is one-hot for integers") {
    CHECK(Space::discrete(5).flat_size() == 5);
    CHECK(Space(MultiDiscrete{{3, 4}}).flat_size() == 7);
    CHECK(Space(MultiBinary{6}).flat_size() == 6);
    CHECK(Space::box(0, 255, {84, 84}, DType::u8).flat_size() == 84 * 84);
  }

  TEST_CASE("Space: a leaf's space outlives the Space it came from while a copy lives") {
    auto original = std::make_unique<Space>(Space::discrete(3));
    const Space copy = *original;
    original.reset();
    CHECK(copy.leaves()[0].space->get_if<Discrete>()->n == 3);
  }

  TEST_CASE("violation: one fact with the element's place") {
    const Space box = Box{.low = {-8, -1}, .high = {8, kInf}, .shape = {2}};
    CHECK(violation<float>(box, {8, 1e30f}) == "");
    CHECK(violation<float>(box, {0, std::nanf("")}) == "obs[1] = nan");
    CHECK(violation<float>(box, {0, std::numeric_limits<float>::infinity()}) == "obs[1] = inf");
    CHECK(violation<float>(box, {9, 0}) == "obs[0] = 9 outside [-8, 8]");
    CHECK(violation<float>(box, {0, -2}) == "obs[1] = -2 outside [-1, inf]");
    CHECK(violation<float>(box, {0, 0, 0}) == "obs has 12 bytes, want 8");
    CHECK(violation<int32_t>(Space::discrete(2), {7}) == "obs[0] = 7 outside [0, 2)");
    CHECK(violation<int32_t>(Space::discrete(2, -1), {-1}) == "");
    CHECK(violation<int32_t>(Space::discrete(2, -1), {1}) == "obs[0] = 1 outside [-1, 1)");
    CHECK(violation<int32_t>(MultiDiscrete{{3, 2}}, {2, 2}) == "obs[1] = 2 outside [0, 2)");
    CHECK(violation<int32_t>(MultiDiscrete{{3, 2}, {-1, 25}}, {1, 26}) == "");
    CHECK(violation<int32_t>(MultiDiscrete{{3, 2}, {-1, 25}}, {2, 26}) == "obs[0] = 2 outside [-1, 2)");
    CHECK(violation<int32_t>(MultiDiscrete{{3, 2}, {-1, 25}}, {1, 1}) == "obs[1] = 1 outside [25, 27)");
    const Space wide = Space::box(-kInf, kInf, {2}, DType::f64);
    CHECK(violation<double>(wide, {3.4e38, -3.4e38}) == "");
    CHECK(violation<double>(wide, {0, -1e300}) == "obs[1] = -1e+300 is beyond float32, which a network computes in");
    CHECK(violation<int32_t>(MultiBinary{2}, {0, -1}) == "obs[1] = -1 outside [0, 2)");
    CHECK(violation<uint8_t>(Space::box(0, 10, {2}, DType::u8), {10, 11}) == "obs[1] = 11 outside [0, 10]");
  }

  TEST_CASE("violation: names the leaf of a Dict") {
    const Space space = Dict{{{"a", Space::discrete(2)}, {"b", Tuple{{Space::discrete(3)}}}}};
    CHECK(violation<int32_t>(space, {1, 3}) == "obs.b/0[0] = 3 outside [0, 3)");
  }

  TEST_CASE("violation: bounds are rounded to the element's type") {
    CHECK(violation<float>(Space::box(-1.2, 0.6, {2}), {-1.2f, 0.6f}) == "");  // float(-1.2) < -1.2
  }

  TEST_CASE("sample: lies in the space and reaches its ends") {
    const Space spaces[] = {robot(),
                            Space::discrete(3, -1),
                            MultiDiscrete{{2, 5}},
                            MultiDiscrete{{2, 5}, {-7, 25}, {2, 1}},
                            Space::box(-2, 2, {4}),
                            Box{.low = {-kInf, 1, -kInf}, .high = {kInf, kInf, -1}, .shape = {3}},
                            Space::box(0, 255, {8}, DType::u8),
                            Space::box(-5, 5, {2}, DType::i64),
                            Space::box(-1e308, 1e308, {1}, DType::f64)};
    RandomStream random(1, StreamPurpose::action, 0);
    for (const Space& space : spaces) {
      std::vector<std::byte> row(space.row_bytes());
      for (int i = 0; i < 200; ++i) {
        space.sample(random, row);
        REQUIRE(space.violation(row, space.to_string()) == "");
      }
    }
    int seen[3] = {};
    int32_t value;
    for (int i = 0; i < 300; ++i) {
      Space::discrete(3).sample(random, std::as_writable_bytes(std::span(&value, 1)));
      ++seen[value];
    }
    for (int count : seen) CHECK(count > 60);  // 100 expected, standard deviation 8.2
    // Of a Box of integers each as well, both ends among them; a half-open one begins at its bound.
    int counts[4] = {};
    for (int i = 0; i < 400; ++i) {
      Space::box(-3, 0, {1}, DType::i32).sample(random, std::as_writable_bytes(std::span(&value, 1)));
      ++counts[value + 3];
    }
    for (int count : counts) CHECK(count > 60);  // 100 expected, standard deviation 8.7
    int64_t wide, lowest = 99, highest = -99;
    for (int i = 0; i < 200; ++i) {
      Space::box(5, kInf, {1}, DType::i64).sample(random, std::as_writable_bytes(std::span(&wide, 1)));
      lowest = std::min(lowest, wide);
      Space::box(-kInf, 5, {1}, DType::i64).sample(random, std::as_writable_bytes(std::span(&wide, 1)));
      highest = std::max(highest, wide);
    }
    CHECK(lowest == 5);
    CHECK(highest == 4);  // the floor of what is below it: never quite 5
  }

  TEST_CASE("to_string: Gymnasium's notation") {
    CHECK(Space::box(-1, 1, {6}).to_string() == "Box(-1.0, 1.0, (6,), float32)");
    CHECK(Space::box(-kInf, kInf, {17}, DType::f64).to_string() == "Box(-inf, inf, (17,), float64)");
    CHECK(Space::box(0, 255, {84, 84, 4}, DType::u8).to_string() == "Box(0, 255, (84, 84, 4), uint8)");
    CHECK(Space(Box{.low = {-4.8, -kInf}, .high = {4.8, kInf}, .shape = {2}}).to_string() ==
          "Box([-4.8 -inf], [4.8 inf], (2,), float32)");
    CHECK(Space::discrete(2).to_string() == "Discrete(2)");
    CHECK(Space::discrete(2, 1).to_string() == "Discrete(2, start=1)");
    CHECK(Space(MultiDiscrete{{2, 3}}).to_string() == "MultiDiscrete([2 3])");
    CHECK(Space(MultiDiscrete{{2, 3, 4, 5}, {0, 1, 2, 3}, {2, 2}}).to_string() ==
          "MultiDiscrete([[2 3] [4 5]], start=[[0 1] [2 3]])");
    CHECK(Space(MultiBinary{6, {2, 3}}).to_string() == "MultiBinary((2, 3))");
    CHECK(Space(Dict{{{"a", MultiBinary{2}}, {"b", Tuple{{Space::discrete(3)}}}}}).to_string() ==
          "Dict('a': MultiBinary(2), 'b': Tuple(Discrete(3)))");
  }

  TEST_CASE("Space: what stands for no bound of real numbers is none") {
    for (const double bound : {1e30, 3.4028234663852886e38, 1e300})
      for (const DType dtype : {DType::f32, DType::f64}) {
        const Space space = Box{.low = {-bound, -1}, .high = {1e29, bound}, .shape = {2}, .dtype = dtype};
        const Box& box = *space.get_if<Box>();
        CHECK((box.low[0] == -kInf && box.low[1] == -1 && box.high[0] == 1e29 && box.high[1] == kInf));
      }
    CHECK(Space::box(-1e30, 1e30, {1}, DType::i64).get_if<Box>()->high[0] == 1e30);
  }

  TEST_CASE("Space: more features than memory is taken for are refused") {
    const auto refused = [](Space::Kind kind) { return error_of([&] { (void)Space(std::move(kind)); }); };
    CHECK(refused(Discrete{100'000'000}) ==
          "error[unsupported-space] Discrete(100000000) has 100000000 features (a Discrete has one for each of its "
          "values), at most 67108864; make it numbers of a Box");
    CHECK(refused(MultiDiscrete{std::vector<int>(100, 60'000'000)}).find("has 6000000000 features") !=
          std::string::npos);
    CHECK(refused(Tuple{{Space::discrete(60'000'000), Space::discrete(60'000'000)}}).find("a space of 2 parts") !=
          std::string::npos);
    CHECK(Space::discrete(1 << 26).flat_size() == 1 << 26);
  }

  TEST_CASE("Space: numbers which make no space are refused") {
    CHECK_THROWS_AS(Space(MultiDiscrete{{2, 3}, {1}}), Error);
    CHECK_THROWS_WITH_AS(Space::discrete(0), "Discrete has n = 0, want at least 1", Error);
    CHECK_THROWS_WITH_AS(Space::box(1, -1, {2}), "Box has bounds [1, -1] at element 0, want low <= high", Error);
    CHECK_THROWS_WITH_AS(Space(Box{.low = {0, 0}, .high = {1}, .shape = {3}}), "Box has 2 bounds, want 1 or 3", Error);
    CHECK_THROWS_WITH_AS(Space::box(0, 1, {2, 0}), "a space has a dimension of 0, want at least 1", Error);
  }
}

}  // namespace myriad
