#include "roles/learner_shares.hpp"

#include <doctest/doctest.h>

#include <numeric>

#include "rl/random.hpp"
#include "tests/simulation/group_harness.hpp"

using namespace myriad;
using namespace myriad::group_harness;
using Shares = std::vector<uint32_t>;

TEST_SUITE("apps/learner_shares") {
  TEST_CASE("LearnerShares: one for each that has slots, the rest by slots, none lost") {
    const LearnerShares shares;
    CHECK(shares.divide(8, {4, 4}) == Shares{4, 4});
    CHECK(shares.divide(5, {8, 4}) == Shares{3, 2});  // 1 + 3 x 8 / 12
    CHECK(shares.divide(8, {4, 0, 4}) == Shares{4, 0, 4});
    CHECK(shares.divide(7, {1, 1, 1}) == Shares{2, 2, 3});
    CHECK(shares.divide(3, {1, 1000, 1}) == Shares{1, 1, 1});
  }

  TEST_CASE("LearnerShares: at the end of a window the rest goes by speed, if that saves a tenth of the time") {
    const auto after = [](double slow_busy_s, double fast_busy_s, Time window, uint32_t fragments, double wait_s = 1) {
      LearnerShares shares;
      shares.begin(shares.divide(fragments, {4, 4}), Time(0));
      shares.add(0, 100, slow_busy_s, 0);
      shares.add(1, 100, fast_busy_s, wait_s);
      return shares.improve(window) ? shares.divide(fragments, {4, 4}) : Shares{};
    };
    using std::chrono::seconds;
    // 800 fragments each, at 100 and 300 a second: 16 are best cut 4 : 12, and 8 s become 4.
    CHECK(after(8, 8.0 / 3, seconds(10), 16) == Shares{4, 12});
    CHECK(after(8, 8.0 / 3, seconds(9), 16) == Shares{});   // the window is not over
    CHECK(after(8, 8.0 / 3, seconds(60), 16) == Shares{});  // 4 s of 60: the learners are not what takes the time
    CHECK(after(8, 7.5, seconds(10), 16) == Shares{});      // nearly as fast
    CHECK(after(8, 8.0 / 3, seconds(10), 2) == Shares{});   // one each is the least
    CHECK(after(8, 0, seconds(10), 16) == Shares{});        // one said nothing
    CHECK(after(8, 8.0 / 3, seconds(10), 3) == Shares{});   // 1 : 2 already
  }

  TEST_CASE("LearnerShares: speeds outlive a group of the same size, and not another") {
    LearnerShares shares;
    shares.begin({8, 8}, Time(0));
    shares.add(0, 100, 8, 0);
    shares.add(1, 100, 2, 0);
    REQUIRE(shares.improve(std::chrono::seconds(10)));
    const Shares faster = shares.divide(16, {4, 4});
    CHECK(faster == Shares{3, 13});
    shares.begin(faster, Time(0));
    CHECK(shares.divide(16, {4, 4}) == faster);
    CHECK(shares.divide(16, {4, 0}) == Shares{16, 0});      // fed or not comes first
    CHECK_FALSE(shares.improve(std::chrono::seconds(10)));  // a window without a word
    shares.begin({6, 5, 5}, Time(0));
    CHECK(shares.divide(16, {4, 4, 4}) == Shares{5, 5, 6});
  }

  TEST_CASE("LearnerShares: none is lost, whatever the speeds") {
    RandomStream random(1, StreamPurpose::simulation, 0);
    for (int i = 0; i < 20'000; ++i) {
      LearnerShares shares;
      const auto shards = static_cast<uint32_t>(2 + random.below(6)),
                 fragments = static_cast<uint32_t>(shards + random.below(60));
      const std::vector<uint64_t> slots(shards, 4);
      shares.begin(shares.divide(fragments, slots), Time(0));
      for (uint32_t shard = 0; shard < shards; ++shard) shares.add(shard, 100, random.uniform(0.1, 9.9), 0);
      shares.improve(LearnerShares::kWindow);
      const Shares given = shares.divide(fragments, slots);
      REQUIRE(std::accumulate(given.begin(), given.end(), 0u) == fragments);
      REQUIRE(*std::ranges::min_element(given) >= 1);
    }
  }

  TEST_CASE("LearnerShares: a shard that then waits for its runners gets its old share back, for good") {
    LearnerShares shares;
    const auto window = [&](double wait_s) {
      shares.add(0, 100, 8, 0);
      shares.add(1, 100, 2, wait_s);
    };
    shares.begin({8, 8}, Time(0));
    window(4);
    CHECK_FALSE(shares.improve(LearnerShares::kWindow));  // it waits already
    window(0);
    REQUIRE(shares.improve(2 * LearnerShares::kWindow));
    shares.begin(shares.divide(16, {4, 4}), Time(0));
    window(4);
    REQUIRE(shares.improve(LearnerShares::kWindow));
    CHECK(shares.divide(16, {4, 4}) == Shares{8, 8});
    shares.begin({8, 8}, Time(0));
    window(0);
    CHECK_FALSE(shares.improve(LearnerShares::kWindow));
  }

  TEST_CASE("LearnerGroup: where nobody waits for slots, a slow shard gets less of the next epoch's batches") {
    for (const bool by_speed : {false, true}) {
      CAPTURE(by_speed);
      LearnerGroup::Options options = Group::options(2);
      options.fragments_per_batch = 16;
      options.shares_by_speed = by_speed;
      Group group(options);
      for (const uint32_t shard : {0u, 1u}) group.arrives(shard);
      for (const uint32_t shard : {0u, 1u}) group.called(shard);
      for (const uint32_t shard : {0u, 1u}) group.formed(shard);
      for (const uint32_t shard : {0u, 1u}) {
        wire::IterationReportT report;
        report.training_iteration = 1;
        for (const auto& [key, value] : {std::pair<const char*, double>{"num_updates", 100},
                                         {"learner_update_s", 9},
                                         {"learner_collective_s", shard == 0 ? 1 : 7}}) {
          auto row = std::make_unique<wire::KeyValueT>();
          row->key = key;
          row->value = value;
          report.metrics.push_back(std::move(row));
        }
        group.receive(shard, std::move(report));
      }
      group.now += LearnerShares::kWindow;
      for (const uint32_t shard : {0u, 1u}) group.formed(shard);  // they are there
      Outputs outputs;
      group.group.tick(group.now, outputs);
      CHECK((event(outputs, "shares") != nullptr) == by_speed);
      CHECK(event(outputs, "group-broken") == nullptr);
      if (!by_speed) continue;
      CHECK(group.group.epoch() == 2);
      for (const uint32_t shard : {0u, 1u}) outputs = group.called(shard);
      CHECK(order(outputs, group.name(0))->num_places == 3);
      CHECK(order(outputs, group.name(1))->first_place == 3);
      CHECK(order(outputs, group.name(1))->num_places == 13);
    }
  }
}
