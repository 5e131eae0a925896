#include "rl/connector.hpp"

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <tuple>

#include "rl/check.hpp"
#include "rl/environment.hpp"
#include "rl/random.hpp"

namespace myriad {
namespace {

template <class T>
std::span<const std::byte> bytes_of(const std::vector<T>& values) {
  return std::as_bytes(std::span(values));
}

template <class T>
void put(std::vector<std::byte>& row, const Leaf& leaf, size_t i, T value) {
  std::memcpy(row.data() + leaf.offset + i * sizeof(T), &value, sizeof(T));
}

std::vector<float> flattened(const Space& space, std::span<const std::byte> row) {
  std::vector<float> features(static_cast<size_t>(space.flat_size()), -7.0f);
  ObservationFlattener{space}(row, features);
  return features;
}

std::vector<float> normal_rows(size_t count, uint64_t index) {
  RandomStream random(5, StreamPurpose::environment, index);
  std::vector<float> rows(count);
  for (float& x : rows) x = static_cast<float>(100.0 + 3.0 * random.normal());
  return rows;
}

template <class T>
std::vector<T> acted(const ActionConnector& connector, const std::vector<T>& action) {
  std::vector<T> out(action.size());
  connector(bytes_of(action), std::as_writable_bytes(std::span(out)));
  return out;
}

}  // namespace

TEST_SUITE("rl/connector") {
  TEST_CASE("ObservationFlattener: float32 Boxes are copied, other Boxes converted") {
    const Space box = Space::box(-10, 10, {3});
    CHECK(ObservationFlattener(box).is_identity());
    CHECK(flattened(box, bytes_of(std::vector<float>{1, -2, 3})) == std::vector<float>{1, -2, 3});
    const Space image = Space::box(0, 255, {2, 2}, DType::u8);
    CHECK_FALSE(ObservationFlattener(image).is_identity());
    CHECK(flattened(image, bytes_of(std::vector<uint8_t>{0, 1, 128, 255})) == std::vector<float>{0, 1, 128, 255});
    const Space wide = Space::box(-1, 1, {2}, DType::f64);
    CHECK(flattened(wide, bytes_of(std::vector<double>{0.5, -0.25})) == std::vector<float>{0.5f, -0.25f});
  }

  TEST_CASE("ObservationFlattener: Discrete and MultiDiscrete become one-hot, MultiBinary stays") {
    CHECK(flattened(Space::discrete(4), bytes_of(std::vector<int32_t>{2})) == std::vector<float>{0, 0, 1, 0});
    CHECK(flattened(Space::discrete(3, -1), bytes_of(std::vector<int32_t>{-1})) == std::vector<float>{1, 0, 0});
    CHECK(flattened(Space(MultiDiscrete{{2, 3}}), bytes_of(std::vector<int32_t>{1, 2})) ==
          std::vector<float>{0, 1, 0, 0, 1});
    CHECK(flattened(Space(MultiBinary{3}), bytes_of(std::vector<int32_t>{1, 0, 1})) == std::vector<float>{1, 0, 1});
    // A value outside the space names no element.
    CHECK(flattened(Space::discrete(2), bytes_of(std::vector<int32_t>{9})) == std::vector<float>{0, 0});
  }

  TEST_CASE("ObservationFlattener: the leaves of a Dict lie side by side, padding left out") {
    const Space space(Dict{{{"flag", Space::box(0, 255, {1}, DType::u8)},
                            {"goal", Space::discrete(3)},
                            {"position", Space(Tuple{{Space::box(-1, 1, {2}, DType::f64), Space::box(-1, 1, {1})}})}}});
    std::vector<std::byte> row(space.row_bytes(), std::byte{0xEE});
    put(row, space.leaves()[0], 0, uint8_t{7});
    put(row, space.leaves()[1], 0, int32_t{1});
    put(row, space.leaves()[2], 0, 0.5);
    put(row, space.leaves()[2], 1, -0.5);
    put(row, space.leaves()[3], 0, 0.25f);
    CHECK(flattened(space, row) == std::vector<float>{7, 0, 1, 0, 0.5f, -0.5f, 0.25f});
    CHECK_FALSE(ObservationFlattener(space).is_identity());
  }

  TEST_CASE("ObservationFlattener: a row or an output of another size is refused") {
    const ObservationFlattener flatten(Space::box(-1, 1, {2}));
    std::vector<float> features(2), row(3);
    CHECK_THROWS_AS(flatten(bytes_of(row), features), Error);
    CHECK_THROWS_AS(flatten(bytes_of(features), row), Error);
  }

  TEST_CASE("MeanStdFilter: mean and standard deviation by hand") {
    // Feature 0: 1, 2, 3, 6: mean 3, squares 4 + 1 + 0 + 9 = 14, std sqrt(14 / 3). Feature 1 never moves.
    MeanStdFilter filter(2);
    filter.update(std::vector<float>{1, 5, 2, 5, 3, 5, 6, 5});
    CHECK(filter.count() == 4);
    CHECK(filter.state() == std::vector<double>{4, 3, 5, 14, 0});
    std::vector<float> out(4);
    filter.apply(std::vector<float>{6, 5, 3, 5.0005f}, out);
    CHECK(out[0] == doctest::Approx(3.0 / std::sqrt(14.0 / 3.0)));
    CHECK(out[1] == 0.0f);
    CHECK(out[2] == 0.0f);
    CHECK(out[3] == doctest::Approx(5.0).epsilon(1e-3));  // 0.0005 / 1e-4
  }

  TEST_CASE("MeanStdFilter: clips, and works in place") {
    MeanStdFilter filter(1, 2.0);
    filter.update(std::vector<float>{-1, 1});  // mean 0, std sqrt(2)
    std::vector<float> rows{100, -100, 1};
    filter.apply(rows, rows);
    CHECK(rows[0] == 2.0f);
    CHECK(rows[1] == -2.0f);
    CHECK(rows[2] == doctest::Approx(1.0 / std::sqrt(2.0)));
  }

  TEST_CASE("MeanStdFilter: the identity until two rows were seen") {
    MeanStdFilter filter(1);
    std::vector<float> out(1);
    filter.apply(std::vector<float>{50}, out);
    CHECK(out[0] == 50.0f);
    filter.update(std::vector<float>{7});
    filter.apply(std::vector<float>{50}, out);
    CHECK(out[0] == 50.0f);
    filter.update({});
    CHECK(filter.count() == 1);
  }

  TEST_CASE("MeanStdFilter: plain features are clipped alone") {
    MeanStdFilter filter(4, 2.0, 1, 2);
    filter.update(std::vector<float>{0, 1, 5, 0, 4, 1, 5, 2});  // mean 2 and 1, deviation 2 sqrt 2 and sqrt 2
    std::vector<float> row{4, 1, 5, 2};
    filter.apply(row, row);
    CHECK(row[0] == doctest::Approx(1 / std::sqrt(2.0)));
    CHECK(row[1] == 1.0f);
    CHECK(row[2] == 2.0f);
    CHECK(row[3] == doctest::Approx(1 / std::sqrt(2.0)));
    MeanStdFilter again(4, 2.0, 1, 2);
    again.set_state(filter.state());
    CHECK(std::ranges::equal(again.shift(), filter.shift()));
    CHECK(again.scale()[2] == 1.0f);
    CHECK_THROWS_AS(MeanStdFilter(4, 2.0, 3, 2), Error);
  }

  TEST_CASE("MeanStdFilter: any grouping of the same rows gives the same statistics") {
    constexpr int kSize = 3;
    const std::vector<float> rows = normal_rows(kSize * 1000, 0);
    MeanStdFilter whole(kSize);
    whole.update(rows);
    RandomStream random(9, StreamPurpose::minibatch, 0);
    for (int grouping = 0; grouping < 20; ++grouping) {
      // Cut into pieces of random length, each its own filter, then merge random neighbours until one is left.
      std::vector<MeanStdFilter> parts;
      for (size_t row = 0; row < 1000;) {
        const size_t n = std::min<size_t>(1 + random.below(200), 1000 - row);
        parts.emplace_back(kSize).update(std::span(rows).subspan(row * kSize, n * kSize));
        row += n;
      }
      while (parts.size() > 1) {
        const size_t i = random.below(parts.size() - 1);
        parts[i].merge(parts[i + 1]);
        parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(i) + 1);
      }
      const std::vector<double> want = whole.state(), got = parts[0].state();
      for (size_t i = 0; i < want.size(); ++i)
        CHECK(std::abs(got[i] - want[i]) <= 1e-12 * std::max(1.0, std::abs(want[i])));
    }
  }

  TEST_CASE("MeanStdFilter: merging an empty filter, or into one, changes nothing") {
    MeanStdFilter filled(2), empty(2);
    filled.update(normal_rows(20, 1));
    const std::vector<double> state = filled.state();
    filled.merge(empty);
    CHECK(filled.state() == state);
    empty.merge(filled);
    for (size_t i = 0; i < state.size(); ++i) CHECK(empty.state()[i] == doctest::Approx(state[i]).epsilon(1e-14));
    MeanStdFilter other(3);
    CHECK_THROWS_AS(other.merge(filled), Error);
  }

  TEST_CASE("MeanStdFilter: the state goes round exactly") {
    MeanStdFilter filter(4), again(4);
    filter.update(normal_rows(400, 2));
    again.set_state(filter.state());
    CHECK(again.state() == filter.state());
    const std::vector<float> rows = normal_rows(40, 3);
    std::vector<float> a(40), b(40);
    filter.apply(rows, a);
    again.apply(rows, b);
    CHECK(a == b);
    CHECK_THROWS_AS(again.set_state(std::vector<double>(8)), Error);
  }

  TEST_CASE("ActionConnector: unsquash maps [-1, 1] to [low, high], then clips") {
    // [-2, 4]: half width 3, middle 1. [0, 1]: half width 0.5, middle 0.5.
    const Space space(Box{.low = {-2, 0}, .high = {4, 1}, .shape = {2}});
    CHECK(acted<float>(ActionConnector(space, true, true), {-1, 1}) == std::vector<float>{-2, 1});
    CHECK(acted<float>(ActionConnector(space, true, true), {0.5f, 0}) == std::vector<float>{2.5f, 0.5f});
    CHECK(acted<float>(ActionConnector(space, true, true), {3, -3}) == std::vector<float>{4, 0});
    CHECK(acted<float>(ActionConnector(space, true, false), {3, -3}) == std::vector<float>{10, -1});
    CHECK(acted<float>(ActionConnector(space, false, true), {3, -3}) == std::vector<float>{3, 0});
    CHECK(acted<float>(ActionConnector(space, false, false), {30, -3}) == std::vector<float>{30, -3});
  }

  TEST_CASE("ActionConnector: an open side has nothing to map to; float64 actions are converted too") {
    const double infinity = std::numeric_limits<double>::infinity();
    const Space open(Box{.low = {0}, .high = {infinity}, .shape = {1}});
    CHECK(acted<float>(ActionConnector(open, true, true), {5}) == std::vector<float>{5});
    CHECK(acted<float>(ActionConnector(open, true, true), {-5}) == std::vector<float>{0});
    const Space wide = Space::box(-2, 4, {1}, DType::f64);
    CHECK(acted<double>(ActionConnector(wide, true, true), {0.5}) == std::vector<double>{2.5});
  }

  TEST_CASE("ActionConnector: integers pass as they are") {
    CHECK(acted<int32_t>(ActionConnector(Space::discrete(5), true, true), {4}) == std::vector<int32_t>{4});
    CHECK(acted<int32_t>(ActionConnector(Space(MultiDiscrete{{2, 9}}), true, true), {1, 8}) ==
          std::vector<int32_t>{1, 8});
    CHECK_THROWS_AS(acted<int32_t>(ActionConnector(Space::discrete(5), true, true), {4, 4}), Error);
  }

  TEST_CASE("ActionConnector: a Dict's numbers lie side by side in float32, choices from 0") {
    // A row: f32 aim 0, 4 | i32 keys 8, 12 | f64 level 16 | i32 move 24.
    const Space space = Dict{{{"aim", Space::box(-2, 4, {2})},
                              {"keys", MultiBinary{2}},
                              {"more", Tuple{{Space::box(0, 1, {1}, DType::f64), Space::discrete(3, 10)}}}}};
    const StoredAction stored = stored_action(space);
    CHECK((stored.dtype == DType::f32 && stored.shape == std::vector{6} && stored.bytes == 24));
    const auto acted_row = [&](const ActionConnector& connector, const std::vector<float>& action) {
      std::vector<std::byte> row(space.row_bytes());
      connector(bytes_of(action), row);
      return std::tuple(ConstRow(row).f32()[0], ConstRow(row).f32()[1], ConstRow(row).i32()[2], ConstRow(row).i32()[3],
                        ConstRow(row).f64()[2], ConstRow(row).i32()[6]);
    };
    // [-2, 4]: half width 3, middle 1; [0, 1]: half width 0.5, middle 0.5; the choice 2 is 10 + 2.
    const std::vector<float> action{0.5f, 3.0f, 1, 0, 0.5f, 2};
    CHECK(acted_row(ActionConnector(space, true, true), action) == std::tuple(2.5f, 4.0f, 1, 0, 0.75, 12));
    CHECK(acted_row(ActionConnector(space, true, false), action) == std::tuple(2.5f, 10.0f, 1, 0, 0.75, 12));
    CHECK(acted_row(ActionConnector(space, false, false), action) == std::tuple(0.5f, 3.0f, 1, 0, 0.5, 12));
    // The other way round, as it was drawn.
    std::vector<std::byte> row(space.row_bytes());
    ActionConnector(space, false, false)(bytes_of(action), row);
    std::vector<float> again(6);
    ActionConnector(space, true, true).store(row, std::as_writable_bytes(std::span(again)));
    CHECK(again == action);
    CHECK_THROWS_AS(ActionConnector(space, true, true)(bytes_of(std::vector<float>(5)), row), Error);
    CHECK_THROWS_AS(ActionConnector(Tuple{{Space::box(0, INFINITY, {1}, DType::i32)}}, true, true), Error);
    // One leaf is stored as its row.
    CHECK(stored_action(Space::box(-1, 1, {2, 3})).shape == std::vector{2, 3});
    CHECK(stored_action(Space::discrete(3, 10)).dtype == DType::i32);
  }

  TEST_CASE("stored_action_violation: choices are whole and known, real numbers any") {
    const Space space =
        Dict{{{"aim", Space::box(-1, 1, {1})}, {"keys", MultiBinary{2}}, {"move", Space::discrete(3, 10)}}};
    const auto violation = [&](std::vector<float> action) { return stored_action_violation(space, bytes_of(action)); };
    CHECK(violation({7, 1, 0, 2}) == "");
    CHECK(violation({0, 1, 0, 3}) == "action.move[0] = 3 outside [0, 3)");
    CHECK(violation({0, 1, 2, 0}) == "action.keys[1] = 2 outside [0, 2)");
    CHECK(violation({0, 0.5f, 0, 0}) == "action.keys[0] = 0.5 outside [0, 2)");
    CHECK(violation({0, 0, -1, 0}) == "action.keys[1] = -1 outside [0, 2)");
    CHECK(violation({0, 0, NAN, 0}) == "action.keys[1] = nan outside [0, 2)");
    CHECK(violation({0, 0, 0}) == "action has 12 bytes, want 16");
    CHECK(stored_action_violation(Space::discrete(3, 10), bytes_of(std::vector<int32_t>{10})) == "");
    CHECK(stored_action_violation(Space::discrete(3, 10), bytes_of(std::vector<int32_t>{9})) ==
          "action[0] = 9 outside [10, 13)");
    CHECK(stored_action_violation(Space::box(-1, 1, {1}), bytes_of(std::vector<float>{9})) == "");
  }

  TEST_CASE("RewardConnector: scales, then clips or takes the sign; what is not finite stays so") {
    RewardConnector plain({.scale = 0.5}, 1), clipped({.scale = 0.5, .clip = 1.0}, 1), sign({.sign = true}, 1);
    const auto of = [](RewardConnector& c, std::initializer_list<double> rewards) {
      std::vector<float> seen;
      for (const double reward : rewards) seen.push_back(c(0, reward, false));
      return seen;
    };
    CHECK(of(plain, {3, -8, 1}) == std::vector<float>{1.5f, -4, 0.5f});
    CHECK(of(clipped, {3, -8, 1}) == std::vector<float>{1, -1, 0.5f});
    CHECK(of(sign, {3, -8, 1e-300, 0, -0.0}) == std::vector<float>{1, -1, 1, 0, 0});
    for (RewardConnector* connector : {&clipped, &sign})
      for (const double reward : {double(NAN), double(INFINITY)}) CHECK(!std::isfinite((*connector)(0, reward, false)));
    CHECK(!plain.has_state());
  }

  TEST_CASE("RewardConnector: the filter by hand, each environment by itself") {
    // gamma 0.5, statistics begin with count c = 1e-4, mean 0, variance 1. Rewards 2, 2, then 4 at a termination:
    // returns 2, 0.5 * 2 + 2 = 3, and 4 (Gymnasium drops what was before a termination), then 1 + 0.5 * 4 = 3.
    RewardConnector connector({.filter = true, .gamma = 0.5, .scale = 10}, 2);
    double count = 1e-4, mean = 0, m2 = 1e-4;
    const auto want = [&](double g, double reward) {
      const double delta = g - mean;
      m2 += delta * delta * count / (count + 1), mean += delta / (count + 1), count += 1;
      return doctest::Approx(10 * reward / std::sqrt(m2 / count + 1e-8)).epsilon(1e-6);
    };
    CHECK(connector(0, 2, false) == want(2, 2));
    CHECK(connector(1, -7, false) == doctest::Approx(-70 / std::sqrt(1e-4 * (1 + 49 / 1.0001) / 1.0001 + 1e-8)));
    CHECK(connector(0, 2, false) == want(3, 2));
    CHECK(connector(0, 4, true) == want(4, 4));
    CHECK(connector(0, 1, false) == want(3, 1));
  }

  TEST_CASE("RewardConnector: the filter's state goes round exactly; one that cannot be is refused") {
    RewardConnector first({.filter = true}, 2), second({.filter = true}, 2);
    for (int i = 0; i < 5; ++i) (void)first(i % 2, 1.0 + i, i == 3);
    second.set_state(first.state());
    CHECK(second.state() == first.state());
    CHECK(second(1, 3.25, false) == first(1, 3.25, false));
    CHECK_THROWS_AS(second.set_state(std::vector<double>(7)), Error);
    std::vector<double> state = first.state();
    for (const auto& [i, wrong] : {std::pair<size_t, double>{0, 0.0}, {2, -1.0}, {5, NAN}}) {
      std::vector<double> broken = state;
      broken[i] = wrong;
      CHECK_THROWS_AS(second.set_state(broken), Error);
    }
  }
}

}  // namespace myriad
