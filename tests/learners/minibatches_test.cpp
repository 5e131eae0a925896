#include "learners/minibatches.hpp"

#include <doctest/doctest.h>

#include <algorithm>

#include "rl/check.hpp"

using namespace myriad;

TEST_SUITE_BEGIN("learners/minibatches");

namespace {

/// {begin, count, units of the group, rows of the group} of each.
std::vector<std::vector<int64_t>> all_of(const Minibatches& minibatches) {
  std::vector<std::vector<int64_t>> all;
  for (int64_t i = 0; i < minibatches.count(); ++i) {
    const Minibatch m = minibatches[i];
    all.push_back({m.own.begin, m.own.count, m.units, m.rows});
  }
  return all;
}

}  // namespace

TEST_CASE("piece_of: near-equal pieces by hand") {
  // 7 units in 3: 7/3 = 2, 14/3 = 4.
  for (const auto& [index, begin, count] : {std::tuple{0, 0, 2}, {1, 2, 2}, {2, 4, 3}}) {
    CHECK(piece_of(7, index, 3).begin == begin);
    CHECK(piece_of(7, index, 3).count == count);
  }
  CHECK(piece_of(1, 0, 2).count == 0);
  CHECK(piece_of(1, 1, 2).count == 1);
}

TEST_CASE("Minibatches: of one shard, rows and environments, by hand") {
  using All = std::vector<std::vector<int64_t>>;
  CHECK(all_of({{10}, 1, 4, 0}) == All{{0, 3, 3, 3}, {3, 3, 3, 3}, {6, 4, 4, 4}});
  CHECK(all_of({{10}, 1, 0, 0}) == All{{0, 10, 10, 10}});
  CHECK(all_of({{10}, 1, 1000, 0}) == All{{0, 10, 10, 10}});
  // Environments of 16 rows: 40 rows are two of them, fewer than 16 are one.
  CHECK(all_of({{3}, 16, 40, 0}) == All{{0, 1, 1, 16}, {1, 2, 2, 32}});
  CHECK(all_of({{2}, 16, 5, 0}) == All{{0, 1, 1, 16}, {1, 1, 1, 16}});
}

TEST_CASE("Minibatches: each shard begins at another piece, by hand") {
  using All = std::vector<std::vector<int64_t>>;
  // Pieces of 5: 1, 2, 2. Of 2: 0, 1, 1, from the second on.
  CHECK(all_of({{5, 2}, 10, 30, 0}) == All{{0, 1, 2, 20}, {1, 2, 3, 30}, {3, 2, 2, 20}});
  CHECK(all_of({{5, 2}, 10, 30, 1}) == All{{0, 1, 2, 20}, {1, 1, 3, 30}, {0, 0, 2, 20}});
  // A shard without units has no piece, and counts nothing.
  CHECK(all_of({{4, 0}, 1, 2, 1}) == All{{0, 0, 2, 2}, {0, 0, 2, 2}});
}

TEST_CASE("Minibatches: every unit of every shard comes once, and the shards agree") {
  for (const int64_t size : {0, 1, 3, 7, 100})
    for (const std::vector<int64_t>& units : {std::vector<int64_t>{9}, {5, 0, 2}, {1, 1, 1, 1}, {100, 3}}) {
      std::vector<std::vector<bool>> seen;
      for (const int64_t count : units) seen.emplace_back(count);
      const Minibatches first(units, 2, size, 0);
      for (uint32_t shard = 0; shard < units.size(); ++shard) {
        const Minibatches own(units, 2, size, shard);
        REQUIRE(own.count() == first.count());
        for (int64_t i = 0; i < own.count(); ++i) {
          CHECK(own[i].units == first[i].units);
          CHECK(own[i].rows == 2 * own[i].units);
          if (own[i].units > 0) CHECK(own[i].share_of(own[i].units) == 1.0);
          for (int64_t unit = own[i].own.begin; unit < own[i].own.begin + own[i].own.count; ++unit) {
            CHECK(!seen[shard][static_cast<size_t>(unit)]);
            seen[shard][static_cast<size_t>(unit)] = true;
          }
        }
      }
      for (const std::vector<bool>& of_shard : seen) CHECK(std::ranges::find(of_shard, false) == of_shard.end());
    }
}

TEST_CASE("Minibatches: of nothing there are none, and a shard that is not there is an error") {
  CHECK_THROWS_AS(Minibatches({0, 0}, 1, 0, 0), Error);
  CHECK_THROWS_AS(Minibatches({4}, 1, 0, 1), Error);
}

TEST_SUITE_END();
