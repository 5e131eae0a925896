#include "roles/fragment_queue.hpp"

#include <doctest/doctest.h>

#include <set>

#include "rl/check.hpp"

namespace myriad {
namespace {

using Outputs = std::vector<FragmentQueue::Output>;

Outputs step(FragmentQueue& queue, const FragmentQueue::Input& input) {
  Outputs outputs;
  queue.step(input, outputs);
  return outputs;
}

FragmentQueue::Arrived arrived(uint32_t slot, uint32_t incarnation, uint64_t seq, uint64_t version = 1,
                               bool valid = true) {
  return {{slot, incarnation, seq}, version, valid};
}

/// The place a fragment takes; -1 when it is dropped.
int place_of(FragmentQueue& queue, const FragmentQueue::Arrived& fragment) {
  for (const auto& output : step(queue, fragment))
    if (const auto* accepted = std::get_if<FragmentQueue::Accepted>(&output)) return static_cast<int>(accepted->place);
  return -1;
}

Drop drop_of(FragmentQueue& queue, const FragmentQueue::Arrived& fragment) {
  const Outputs outputs = step(queue, fragment);
  REQUIRE(!outputs.empty());
  REQUIRE(std::holds_alternative<FragmentQueue::Dropped>(outputs[0]));
  return std::get<FragmentQueue::Dropped>(outputs[0]).reason;
}

}  // namespace

TEST_SUITE("roles/fragment_queue") {
  TEST_CASE("FragmentQueue: place p belongs to slot p mod S, in any order of arrival") {
    FragmentQueue queue(2, 5);  // slot 0: places 0 2 4; slot 1: places 1 3
    step(queue, FragmentQueue::BeginRound{1});
    CHECK(queue.credit(0).granted == 3);
    CHECK(queue.credit(1).granted == 2);
    CHECK(place_of(queue, arrived(1, 0, 1)) == 3);
    CHECK(place_of(queue, arrived(0, 0, 2)) == 4);
    CHECK(place_of(queue, arrived(0, 0, 0)) == 0);
    CHECK(place_of(queue, arrived(1, 0, 0)) == 1);
    const Outputs last = step(queue, arrived(0, 0, 1));
    REQUIRE(last.size() == 2);
    CHECK(std::holds_alternative<FragmentQueue::RoundComplete>(last[1]));
    CHECK(!queue.round_open());
  }

  TEST_CASE("FragmentQueue: every reason to drop is counted under its name") {
    FragmentQueue queue(2, 2);
    step(queue, FragmentQueue::BeginRound{7});
    CHECK(drop_of(queue, arrived(2, 0, 0, 7)) == Drop::unknown_slot);
    CHECK(drop_of(queue, arrived(0, 1, 0, 7)) == Drop::stale_incarnation);
    CHECK(drop_of(queue, arrived(0, 0, 1, 7)) == Drop::beyond_credit);
    CHECK(drop_of(queue, arrived(0, 0, 0, 6)) == Drop::wrong_version);
    CHECK(drop_of(queue, arrived(0, 0, 1, 7, false)) == Drop::invalid);
    CHECK(place_of(queue, arrived(0, 0, 2, 7)) == 0);
    CHECK(drop_of(queue, arrived(0, 0, 2, 7)) == Drop::duplicate);
    for (size_t i = 0; i < queue.drops().size(); ++i) CHECK(queue.drops()[i] == (i == size_t{6} ? 0 : 1));
    CHECK(name_of(Drop::policy_lag) == "policy_lag");
  }

  TEST_CASE("FragmentQueue: the place of a fragment that cannot be used is given again, and the round completes") {
    FragmentQueue queue(2, 4);  // slot 0: places 0 2
    step(queue, FragmentQueue::BeginRound{1});
    const Outputs outputs = step(queue, arrived(0, 0, 0, 1, false));
    REQUIRE(outputs.size() == 2);
    CHECK(std::get<FragmentQueue::Dropped>(outputs[0]).reason == Drop::invalid);
    CHECK(std::get<FragmentQueue::CreditChanged>(outputs[1]).slot == 0);
    CHECK(queue.credit(0).granted == 3);
    CHECK(drop_of(queue, arrived(0, 0, 0)) == Drop::duplicate);  // its number is spent
    CHECK(place_of(queue, arrived(0, 0, 1)) == 2);
    CHECK(place_of(queue, arrived(0, 0, 2)) == 0);
    place_of(queue, arrived(1, 0, 0));
    CHECK(queue.round_open());
    place_of(queue, arrived(1, 0, 1));
    CHECK(!queue.round_open());
    step(queue, FragmentQueue::BeginRound{2});
    CHECK(queue.credit(0).granted == 5);
  }

  TEST_CASE("FragmentQueue: what a slot left open after an unusable fragment moves on once") {
    FragmentQueue queue(2, 2);
    step(queue, FragmentQueue::BeginRound{1});
    step(queue, arrived(0, 0, 0, 1, false));
    step(queue, FragmentQueue::SlotDown{0, 0});
    CHECK(queue.credit(1).granted == 2);
  }

  TEST_CASE("FragmentQueue: a dead slot's open places go to the living, what it delivered stays") {
    FragmentQueue queue(2, 4);
    step(queue, FragmentQueue::BeginRound{1});
    CHECK(place_of(queue, arrived(0, 0, 0)) == 0);
    step(queue, FragmentQueue::SlotDown{0, 0});
    CHECK(queue.credit(1).granted == 3);
    CHECK(place_of(queue, arrived(0, 0, 1)) == -1);
    CHECK(place_of(queue, arrived(1, 0, 2)) == 2);
  }

  TEST_CASE("FragmentQueue: with no slot up the places wait for the first that returns") {
    FragmentQueue queue(1, 2);
    step(queue, FragmentQueue::BeginRound{1});
    step(queue, FragmentQueue::SlotDown{0, 0});
    step(queue, FragmentQueue::SlotUp{0, 1});
    CHECK(queue.credit(0).incarnation == 1);
    CHECK(queue.credit(0).granted == 2);
    CHECK(place_of(queue, arrived(0, 1, 0)) == 0);
  }

  TEST_CASE("FragmentQueue: an incarnation that ended does not come back") {
    FragmentQueue queue(2, 2);
    step(queue, FragmentQueue::BeginRound{1});
    step(queue, FragmentQueue::SlotDown{0, 0});
    step(queue, FragmentQueue::SlotUp{0, 0});  // its Join, heard late
    CHECK(!queue.is_up(0));
    CHECK(queue.credit(1).granted == 2);
    step(queue, FragmentQueue::SlotDown{0, 3});  // the ends of 1 and 2 were not heard of
    step(queue, FragmentQueue::SlotUp{0, 3});
    CHECK(!queue.is_up(0));
    step(queue, FragmentQueue::SlotUp{0, 4});
    CHECK(queue.is_up(0));
  }

  TEST_CASE("FragmentQueue: a newer incarnation does what the older one left open; repeats change nothing") {
    FragmentQueue queue(2, 4);
    step(queue, FragmentQueue::BeginRound{1});
    place_of(queue, arrived(0, 0, 1));
    step(queue, FragmentQueue::SlotUp{0, 2});
    CHECK(queue.credit(0).incarnation == 2);
    CHECK(queue.credit(0).granted == 1);
    CHECK(queue.credit(1).granted == 2);
    CHECK(drop_of(queue, arrived(0, 0, 0)) == Drop::stale_incarnation);
    CHECK(step(queue, FragmentQueue::SlotUp{0, 2}).empty());
    CHECK(step(queue, FragmentQueue::SlotUp{0, 1}).empty());
    CHECK(step(queue, FragmentQueue::SlotDown{0, 1}).empty());
    CHECK(place_of(queue, arrived(0, 2, 0)) == 0);
  }

  TEST_CASE("FragmentQueue: slots that return together share what nobody could take") {
    FragmentQueue queue(4, 8);
    step(queue, FragmentQueue::BeginRound{1});
    for (uint32_t slot = 0; slot < 4; ++slot) step(queue, FragmentQueue::SlotDown{slot, 0});
    step(queue, FragmentQueue::SlotUp{1, 1 << 16, 2});  // slots 1 and 2, of 4
    CHECK(queue.credit(1).granted == 4);
    CHECK(queue.credit(2).granted == 4);
    CHECK(!queue.is_up(0));
    CHECK(!queue.is_up(3));
    step(queue, FragmentQueue::SlotUp{3, 1 << 16, 9});  // beyond the last slot: as far as there are some
    CHECK(queue.is_up(3));
  }

  TEST_CASE("FragmentQueue: sequence numbers go on over rounds, late repeats are duplicates") {
    FragmentQueue queue(1, 2);
    step(queue, FragmentQueue::BeginRound{1});
    place_of(queue, arrived(0, 0, 0));
    place_of(queue, arrived(0, 0, 1));
    step(queue, FragmentQueue::BeginRound{2});
    CHECK(queue.credit(0).granted == 4);
    CHECK(drop_of(queue, arrived(0, 0, 1, 1)) == Drop::duplicate);
    CHECK(place_of(queue, arrived(0, 0, 2, 2)) == 0);
  }

  // --- a queue that begins after another ---

  TEST_CASE("FragmentQueue: a slot that ran before goes on with its process and its numbers, inside a round too") {
    FragmentQueue queue(2, 4);
    step(queue, FragmentQueue::SlotIs{0, 3, 7});
    CHECK(queue.credit(0).incarnation == 3);
    CHECK(queue.credit(0).granted == 7);
    step(queue, FragmentQueue::BeginRound{1});
    CHECK(queue.credit(0).granted == 9);
    CHECK(drop_of(queue, arrived(0, 3, 6)) == Drop::duplicate);
    CHECK(place_of(queue, arrived(0, 3, 7)) == 0);
    const Outputs late = step(queue, FragmentQueue::SlotIs{1, 2, 5});
    CHECK(std::get<FragmentQueue::CreditChanged>(late.back()).slot == 1);
    CHECK(queue.credit(1).granted == 7);  // the two places that were its own
    CHECK(place_of(queue, arrived(1, 2, 6)) == 3);
    CHECK(place_of(queue, arrived(1, 2, 5)) == 1);
  }

  TEST_CASE("FragmentQueue: a slot whose process ended does not go on with it") {
    FragmentQueue queue(2, 2);
    step(queue, FragmentQueue::SlotDown{0, 3});
    CHECK(step(queue, FragmentQueue::SlotIs{0, 3, 7}).empty());
    CHECK(step(queue, FragmentQueue::SlotIs{0, 2, 7}).empty());
    CHECK(step(queue, FragmentQueue::SlotIs{9, 2, 7}).empty());  // there is none
    CHECK(!queue.is_up(0));
  }

  TEST_CASE("FragmentQueue: num_up counts the slots whose process runs, or is on its way") {
    FragmentQueue queue(3, 3);
    CHECK(queue.num_up() == 3);
    step(queue, FragmentQueue::SlotDown{0, 0});
    step(queue, FragmentQueue::SlotDown{0, 1});  // no process came in between
    step(queue, FragmentQueue::SlotDown{2, 0});
    CHECK(queue.num_up() == 1);
    step(queue, FragmentQueue::SlotUp{0, 5, 3});  // slot 1: a newer one in its place
    CHECK(queue.num_up() == 3);
    step(queue, FragmentQueue::SlotIs{1, 6, 2});
    CHECK(queue.num_up() == 3);
    step(queue, FragmentQueue::SlotDown{1, 6});
    step(queue, FragmentQueue::SlotIs{1, 7, 2});
    CHECK(queue.num_up() == 3);
  }

  TEST_CASE("FragmentQueue: a number that is skipped is not waited for, and takes no place") {
    FragmentQueue queue(2, 4);  // slot 0: places 0 2
    step(queue, FragmentQueue::BeginRound{1});
    const Outputs outputs = step(queue, FragmentQueue::Skip{0});
    REQUIRE(outputs.size() == 1);
    CHECK(std::get<FragmentQueue::CreditChanged>(outputs[0]).slot == 0);
    CHECK(queue.credit(0).granted == 3);
    CHECK(drop_of(queue, arrived(0, 0, 2)) == Drop::duplicate);
    place_of(queue, arrived(0, 0, 0)), place_of(queue, arrived(0, 0, 1));
    step(queue, FragmentQueue::SlotDown{0, 0});  // what was skipped is nobody's to do
    CHECK(queue.credit(1).granted == 2);
    place_of(queue, arrived(1, 0, 0)), place_of(queue, arrived(1, 0, 1));
    CHECK(!queue.round_open());
  }

  TEST_CASE("FragmentQueue: after a round with a number that was skipped the next one goes on behind it") {
    FragmentQueue queue(1, 1);
    step(queue, FragmentQueue::BeginRound{1});
    place_of(queue, arrived(0, 0, 0));
    step(queue, FragmentQueue::Skip{0});
    step(queue, FragmentQueue::BeginRound{2});
    CHECK(queue.credit(0).granted == 3);
    CHECK(place_of(queue, arrived(0, 0, 2, 2)) == 0);
  }

  TEST_CASE("FragmentQueue: a round that is collected again takes weights from its own to the newest there were") {
    FragmentQueue queue(1, 3);
    step(queue, FragmentQueue::BeginRound{4, 5});
    CHECK(queue.weights_version() == 4);
    CHECK(drop_of(queue, arrived(0, 0, 0, 3)) == Drop::wrong_version);
    CHECK(drop_of(queue, arrived(0, 0, 1, 6)) == Drop::wrong_version);
    CHECK(place_of(queue, arrived(0, 0, 2, 4)) == 2);
    CHECK(place_of(queue, arrived(0, 0, 3, 5)) == 0);
    place_of(queue, arrived(0, 0, 4, 5));
    step(queue, FragmentQueue::BeginRound{5});
    CHECK(drop_of(queue, arrived(0, 0, 5, 6)) == Drop::wrong_version);
    CHECK(place_of(queue, arrived(0, 0, 6, 5)) == 1);
  }

  TEST_CASE("FragmentQueue: a round does not begin inside another, and needs slots and places") {
    FragmentQueue queue(1, 1);
    step(queue, FragmentQueue::BeginRound{1});
    Outputs outputs;
    CHECK_THROWS_AS(queue.step(FragmentQueue::BeginRound{2}, outputs), Error);
    CHECK_THROWS_AS(FragmentQueue(0, 1), Error);
    CHECK_THROWS_AS(FragmentQueue(1, 0), Error);
  }
}

}  // namespace myriad
