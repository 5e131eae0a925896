#include "roles/round_batch.hpp"

#include "tests/simulation/batch_harness.hpp"

namespace myriad {

using namespace batch_harness;

namespace {

/// Slots 4 and 5 of the run, one agent; the rounds have three places: 0 and 2 are slot 4's, 1 is slot 5's.
RoundBatch::Options options() {
  RoundBatch::Options options;
  options.first_slot = 4;
  options.num_slots = 2;
  options.num_places = 3;
  return options;
}

struct Round {
  RoundBatch batch;
  Sender agent{batch};

  explicit Round(RoundBatch::Options with = options(), uint64_t version = 7) : batch(std::move(with)) {
    first = batch.start(version);
    batch.agent_up({0, 0, 0, 2});
  }
  uint64_t first;  // version of the first batch

  void send(uint32_t slot, uint64_t seq, uint64_t version = 7, bool valid = true) {
    agent.send(slot, fragment(4 + slot, 0, seq, version), {}, valid);
  }
  /// slot:granted of a grant.
  std::vector<std::string> grant(bool everything = false) {
    wire::GrantT grant;
    batch.write_grant(0, everything, 99, grant);
    std::vector<std::string> found;
    for (const wire::SlotGrant& slot : grant.slots) found.push_back(fmt::format("{}:{}", slot.slot(), slot.granted()));
    version = grant.weights_version;
    wanted = grant.want_state;
    return found;
  }
  uint64_t version = 0, wanted = 0;
};
using Grants = std::vector<std::string>;

/// Earlier cores had trained on the first message of each slot.
RoundBatch::Options again(bool behind) {
  RoundBatch::Options with = options();
  with.lag1 = with.recollects = true;
  with.behind = behind;
  return with;
}

}  // namespace

TEST_SUITE("roles/round_batch") {
  TEST_CASE("RoundBatch: a round gives each slot its places, and is full when all have a fragment") {
    Round r;
    CHECK(r.first == 7);
    CHECK(r.grant(true) == Grants{"4:0", "5:0"});
    CHECK(!r.batch.grant_due(0));
    CHECK(r.batch.begin_round(7));
    CHECK(r.batch.grant_due(0));
    CHECK(r.grant() == Grants{"4:2", "5:1"});
    CHECK(r.version == 7);
    CHECK(!r.batch.grant_due(0));
    CHECK(!r.batch.begin_round(7));  // one is open
    r.send(1, 0), r.send(0, 0);
    CHECK(placed(r.batch) == Placed{"1:5.0.0", "0:4.0.0"});
    CHECK(!r.batch.ready({}));
    r.send(0, 1);
    CHECK(placed(r.batch) == Placed{"2:4.0.1"});
    CHECK(r.batch.ready({}));
    CHECK(!r.batch.begin_round(7));  // the batch waits for its update
    const NextBatch::Taken taken = r.batch.begin_update({r.agent.received()}, {});
    CHECK(marks(taken) == Marks{3});
    CHECK(ends(taken.fragments) == Ends{"5.0.0 trained", "4.0.0 trained", "4.0.1 trained"});
    REQUIRE(taken.facts.size() == 3);
    CHECK(taken.facts[1].id == FragmentId{5, 0, 0});
    CHECK(taken.facts[2].episodes.at(0).episode_return() == 41);
    CHECK(!r.batch.ready({}));
    CHECK(r.batch.books().num_fragments() == 3);
  }

  TEST_CASE("RoundBatch: sync begins the next round when the update ended, lag1 when it begins") {
    for (const bool lag1 : {false, true}) {
      CAPTURE(lag1);
      RoundBatch::Options with = options();
      with.lag1 = lag1;
      Round r(with);
      r.batch.begin_round(7);
      r.send(0, 0), r.send(0, 1), r.send(1, 0);
      r.batch.begin_update({r.agent.received()}, {});
      CHECK(r.batch.begin_round(7) == lag1);
      r.batch.end_update(8);
      CHECK(r.batch.begin_round(8) == !lag1);
      r.grant();
      CHECK(r.version == (lag1 ? 7 : 8));
    }
  }

  TEST_CASE("RoundBatch: an update without the batch takes nothing of it") {
    Round r;
    r.batch.begin_round(7);
    r.send(0, 0);
    const NextBatch::Taken taken = r.batch.begin_update({r.agent.received()}, {});
    CHECK(taken.facts.empty());
    CHECK(taken.marks.empty());
    CHECK(taken.fragments.empty());
    r.batch.end_update(7);
    r.send(1, 0), r.send(0, 1);
    CHECK(r.batch.begin_update({r.agent.received()}, {}).facts.size() == 3);
  }

  TEST_CASE("RoundBatch: a shard without places has rounds, and no batch") {
    RoundBatch::Options with = options();
    with.num_places = 0;
    Round r(with);
    CHECK(r.batch.begin_round(7));  // its weights are published
    CHECK(r.grant(true) == Grants{"4:0", "5:0"});
    CHECK(!r.batch.ready({}));
    CHECK(!r.batch.starved());
  }

  TEST_CASE("RoundBatch: what cannot be used is dropped by name, and its place is given again") {
    Round r;
    r.batch.begin_round(7);
    r.grant();
    r.send(0, 0, 6);
    r.send(0, 1, 7, false);
    CHECK(r.grant() == Grants{"4:4"});
    CHECK(dropped(r.batch, Drop::wrong_version) == 1);
    CHECK(dropped(r.batch, Drop::invalid) == 1);
    r.send(0, 1);  // a repeat: it has its end
    CHECK(dropped(r.batch, Drop::duplicate) == 1);
    r.send(0, 2), r.send(0, 3), r.send(1, 0);
    CHECK(ends(r.batch.begin_update({r.agent.received()}, {}).fragments) ==
          Ends{"4.0.0 wrong_version", "4.0.1 invalid", "4.0.2 trained", "4.0.3 trained", "5.0.0 trained"});
  }

  TEST_CASE("RoundBatch: the places of a slot that is down go to another, all of them to an agent that comes alone") {
    Round r;
    r.batch.begin_round(7);
    r.grant();
    r.agent.send(1, slot_state(5, 0, false));
    CHECK(r.grant() == Grants{"4:3"});
    r.agent.send(1, slot_state(5, 1, true));
    CHECK(r.grant(true) == Grants{"4:3", "5:0"});
    r.batch.agent_down({0, 0, 0, 2});
    r.batch.agent_up({0, 1, 0, 2});  // nothing is up: its runners are waited for
    CHECK(r.grant() == Grants{"4:2", "5:1"});
  }

  // --- rounds that are collected again ---

  TEST_CASE("RoundBatch: lag1 begins with the round of the version before, newer fragments do") {
    Round r(again(true));
    CHECK(r.first == 6);
    r.batch.agent_stands({0, {wire::SlotBase(0, 0, 1, true), wire::SlotBase(1, 0, 1, true)}, 0, 0});
    CHECK(r.grant(true) == Grants{"4:3", "5:2"});
    CHECK(r.version == 6);
    r.send(0, 1, 6), r.send(1, 1, 7), r.send(0, 2, 7);
    CHECK(placed(r.batch) == Placed{"0:4.0.1", "1:5.0.1", "2:4.0.2"});
    CHECK(r.batch.books().num_missing() == 0);
    CHECK(Round(again(false)).first == 7);
  }

  TEST_CASE("RoundBatch: what comes too early is held with all that follows it from its slot, until there is credit") {
    Round r(again(false));
    r.send(0, 0), r.send(1, 0);
    r.agent.send(0, slot_state(4, 0, false));  // message 2, after 4.0.0
    CHECK(placed(r.batch).empty());
    CHECK(r.batch.begin_round(7));
    CHECK(placed(r.batch) == Placed{"0:4.0.0", "1:5.0.0"});
    CHECK(r.grant(true) == Grants{"5:2"});  // slot 4 is down now, its second place is slot 5's
    CHECK(dropped(r.batch, Drop::beyond_credit) == 0);
  }

  TEST_CASE("RoundBatch: the mark stops at what is held") {
    Round r(again(false));
    r.batch.begin_round(7);
    r.send(0, 0), r.send(0, 1), r.send(0, 2), r.send(1, 0);
    CHECK(placed(r.batch) == Placed{"0:4.0.0", "2:4.0.1", "1:5.0.0"});
    // 4.0.2, message 2, is held; 5.0.0, message 3, has its place: 4.0.2 is over.
    const NextBatch::Taken taken = r.batch.begin_update({r.agent.received()}, {});
    CHECK(marks(taken) == Marks{4});
    CHECK(ends(taken.fragments).back() == "4.0.2 beyond_credit");
    r.batch.begin_round(7);
    r.grant();
    CHECK(r.grant(true) == Grants{"4:5", "5:2"});  // 4.0.3 and 4.0.4
    r.send(0, 3), r.send(1, 1), r.send(0, 4), r.send(0, 5);
    CHECK(marks(r.batch.begin_update({r.agent.received()}, {})) == Marks{7});  // 4.0.5 is message 7
  }

  // --- checkpoints ---

  TEST_CASE("RoundBatch: a snapshot waits for the round, then for the state of every slot that is up") {
    Round r;
    r.batch.begin_round(7);
    CHECK(!r.batch.snapshot(1, {}));
    r.send(0, 0), r.send(0, 1), r.send(1, 0);
    r.batch.begin_update({r.agent.received()}, {});
    r.batch.end_update(8);
    r.grant();
    CHECK(r.wanted == 0);
    CHECK(!r.batch.snapshot(3, {}));
    CHECK(r.batch.grant_due(0));
    CHECK(r.grant() == Grants{"4:2", "5:1"});
    CHECK(r.wanted == 3);
    r.agent.send(0, runner_state(4, 2, 2));  // of another checkpoint
    r.agent.send(1, runner_state(5, 1, 3));
    CHECK(!r.batch.snapshot(3, {}));
    r.agent.send(0, runner_state(4, 1, 3));  // it has not rested yet
    CHECK(!r.batch.snapshot(3, {}));
    r.agent.send(0, runner_state(4, 2, 3));
    const auto snapshot = r.batch.snapshot(3, {});
    REQUIRE(snapshot);
    REQUIRE(snapshot->runners.size() == 2);
    CHECK(snapshot->runners[0].slot == 4);
    CHECK(snapshot->runners[1].slot == 5);
    CHECK(snapshot->runners[1].state.view.size() == 6);
    CHECK(!snapshot->with_batch);
    r.grant(true);
    CHECK(r.wanted == 0);
  }

  TEST_CASE("RoundBatch: states are waited for so long; another checkpoint begins anew") {
    Round r;
    CHECK(!r.batch.snapshot(1, {}));
    r.agent.send(0, runner_state(4, 0, 1));
    const Time before = RoundBatch::kStateDeadline - std::chrono::milliseconds(1);
    CHECK(!r.batch.snapshot(1, before));
    CHECK(!r.batch.snapshot(2, before));
    CHECK(!r.batch.snapshot(2, RoundBatch::kStateDeadline));
    const auto snapshot = r.batch.snapshot(2, before + RoundBatch::kStateDeadline);
    REQUIRE(snapshot);
    CHECK(snapshot->runners.empty());
  }

  TEST_CASE("RoundBatch: a snapshot has the full batch of lag1, and a run resumed with it begins with that") {
    RoundBatch::Options with = options();
    with.lag1 = true;
    Round r(with);
    r.batch.begin_round(7);
    r.send(1, 0), r.send(0, 0), r.send(0, 1);
    r.batch.agent_down({0, 0, 0, 2});
    const auto snapshot = r.batch.snapshot(1, {});
    REQUIRE(snapshot);
    CHECK(snapshot->with_batch);
    CHECK(snapshot->weights_version == 7);
    REQUIRE(snapshot->episodes.size() == 3);  // in order of places
    CHECK(snapshot->episodes[0].episode_return() == 40);
    CHECK(snapshot->episodes[1].episode_return() == 50);
    CHECK(snapshot->episodes[2].episode_return() == 41);
    with.restored = snapshot->episodes;
    Round resumed(with, 8);
    CHECK(resumed.first == 8);
    CHECK(resumed.batch.ready({}));
    const NextBatch::Taken taken = resumed.batch.begin_update({}, {});
    REQUIRE(taken.facts.size() == 3);
    CHECK(taken.facts[2].weights_version == 7);
    CHECK(taken.facts[0].episodes.size() == 3);
    CHECK(taken.fragments.empty());  // their end was booked when they were sampled
    CHECK(resumed.batch.begin_round(8));
  }

  TEST_CASE("RoundBatch: grants are repeated while a round is open") {
    Round r;
    r.batch.repeat_grants();
    CHECK(!r.batch.grant_due(0));
    r.batch.begin_round(7);
    r.grant();
    r.batch.repeat_grants();
    CHECK(r.batch.grant_due(0));
    CHECK(r.grant() == Grants{"4:2", "5:1"});
    CHECK(!r.batch.grant_due(0));
    CHECK(!r.batch.grant_due(1));  // an agent that was never here
  }
}

}  // namespace myriad
