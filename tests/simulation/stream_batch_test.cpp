#include "roles/stream_batch.hpp"

#include "tests/simulation/batch_harness.hpp"

namespace myriad {

using namespace batch_harness;

namespace {

/// Two places; a window of 2 x 2 + 4 = 8 fragments of 10 bytes, 4 for each of two agents with two slots.
StreamBatch::Options options() {
  return {.num_slots = 4, .num_places = 2, .learner_queue_size = 2, .fragment_bytes = 10, .max_policy_lag = {}};
}

struct Agents {
  StreamBatch batch;
  Sender agent0{batch, {0, 0, 0}}, agent1{batch, {1, 0, 0}};

  explicit Agents(const StreamBatch::Options& with = options(), uint64_t version = 7) : batch(with) {
    CHECK(batch.start(version) == version);
    batch.agent_up({0, 0, 0, 2}), batch.agent_up({1, 0, 2, 2});
    granted(0), granted(1);
  }
  void send(uint32_t slot, uint64_t seq, uint64_t version = 7, Time now = {}) {
    (slot < 2 ? agent0 : agent1).send(slot, fragment(slot, 0, seq, version), now);
  }
  uint64_t granted(uint32_t agent) {
    wire::GrantT grant;
    batch.write_grant(agent, false, published, grant);
    required = grant.weights_version;
    CHECK(grant.slots.empty());
    CHECK(grant.want_state == 0);
    return grant.granted_bytes;
  }
  uint64_t published = 7, required = 0;
  NextBatch::Taken update() { return batch.begin_update({agent0.received(), agent1.received()}, {}); }
};

}  // namespace

TEST_SUITE("roles/stream_batch") {
  TEST_CASE("StreamBatch: the oldest fragments take the places, whatever their slots; the rest waits") {
    Agents s;
    s.send(3, 0), s.send(0, 0), s.send(3, 1);
    CHECK(placed(s.batch).empty());  // until it is filled
    s.batch.fill(seconds(2));
    CHECK(placed(s.batch) == Placed{"0:3.0.0", "1:0.0.0"});
    CHECK(s.batch.ready(seconds(2)));
    const NextBatch::Taken taken = s.update();
    CHECK(marks(taken) == Marks{1, 1});  // 3.0.1, message 1 of agent 1, waits
    CHECK(ends(taken.fragments) == Ends{"3.0.0 trained", "0.0.0 trained"});
    REQUIRE(taken.facts.size() == 2);
    CHECK(taken.facts[0].queue_age == seconds(2));
    CHECK(!s.batch.ready(seconds(3)));  // while the update runs
    CHECK(placed(s.batch) == Placed{"0:3.0.1"});
    CHECK(!s.batch.begin_round(8));
  }

  TEST_CASE("StreamBatch: an agent's credit comes back when its fragment has a place") {
    Agents s;
    CHECK(s.granted(0) == 40);
    s.send(0, 0), s.send(1, 0), s.send(0, 1);
    CHECK(!s.batch.grant_due(0));
    CHECK(s.granted(0) == 40);
    s.batch.fill({});
    CHECK(s.batch.grant_due(0));
    CHECK(!s.batch.grant_due(1));
    CHECK(s.granted(0) == 60);
    CHECK(!s.batch.grant_due(0));
  }

  TEST_CASE("StreamBatch: what cannot be used is dropped by name, and costs no credit") {
    Agents s;
    s.agent0.send(0, fragment(0, 1, 0, 7));  // of a process that nothing is known of
    s.send(0, 0, 8);                         // of the process before it
    s.agent0.send(0, fragment(0, 0, 1, 7), {}, false);
    CHECK(dropped(s.batch, Drop::stale_incarnation) == 1);
    CHECK(dropped(s.batch, Drop::wrong_version) == 0);
    CHECK(dropped(s.batch, Drop::duplicate) == 2);  // incarnation 1 was seen
    CHECK(s.granted(0) == 70);
    s.send(1, 0, 8);  // of weights that are not there yet
    s.agent0.send(1, fragment(1, 0, 1, 7), {}, false);
    CHECK(dropped(s.batch, Drop::wrong_version) == 1);
    CHECK(dropped(s.batch, Drop::invalid) == 1);
    CHECK(s.granted(0) == 90);
    for (uint64_t seq = 0; seq < 5; ++seq) s.send(2, seq);  // 4 were granted
    CHECK(dropped(s.batch, Drop::beyond_credit) == 1);
    s.batch.fill({});
    CHECK(ends(s.update().fragments) ==
          Ends{"0.1.0 stale_incarnation", "1.0.0 wrong_version", "1.0.1 invalid", "2.0.0 trained", "2.0.1 trained"});
  }

  TEST_CASE("StreamBatch: slots are those of the newest processes") {
    Agents s;
    s.agent0.send(0, slot_state(0, 3, true));
    s.agent0.send(0, slot_state(0, 2, false));  // an older one
    s.agent0.send(0, fragment(0, 3, 0, 7));
    s.agent0.send(0, slot_state(0, 3, false));
    s.agent0.send(0, fragment(0, 3, 1, 7));
    s.agent0.send(0, slot_state(0, 3, true));  // it does not come back
    s.agent0.send(0, fragment(0, 3, 2, 7));
    CHECK(dropped(s.batch, Drop::stale_incarnation) == 2);
    s.batch.fill({});
    CHECK(placed(s.batch) == Placed{"0:0.3.0"});
  }

  TEST_CASE("StreamBatch: it is starved when no slot is up, and what an agent delivered is used when it is gone") {
    Agents s;
    s.send(0, 0), s.send(1, 0);
    s.batch.agent_down({0, 0, 0, 2});
    CHECK(!s.batch.starved());
    s.batch.agent_down({1, 0, 2, 2});
    CHECK(s.batch.starved());
    s.batch.fill({});
    CHECK(placed(s.batch) == Placed{"0:0.0.0", "1:1.0.0"});
    CHECK(s.batch.ready({}));
    const NextBatch::Taken taken = s.batch.begin_update({}, {});  // of agents that are up
    CHECK(taken.marks.empty());
    CHECK(taken.fragments.size() == 2);
    s.batch.agent_up({0, 1, 0, 2});
    CHECK(!s.batch.starved());
    CHECK(s.granted(0) == 80);  // all of the window: the other one is gone
  }

  TEST_CASE("StreamBatch: an agent goes on from what it had been granted and had used") {
    Agents s;
    s.batch.agent_stands({0, {wire::SlotBase(0, 0, 5, true), wire::SlotBase(1, 2, 0, false)}, 20, 17});
    CHECK(s.granted(0) == 210);  // 17 + 4
    s.send(0, 4);
    CHECK(dropped(s.batch, Drop::duplicate) == 1);
    s.send(0, 5);
    CHECK(s.batch.books().num_missing() == 0);
    s.agent0.send(1, fragment(1, 2, 0, 7));
    CHECK(dropped(s.batch, Drop::stale_incarnation) == 1);
  }

  // --- policy lag ---

  TEST_CASE("StreamBatch: a fragment is dropped for its lag when it would have its place") {
    StreamBatch::Options with = options();
    with.max_policy_lag = 1;
    Agents s(with);
    s.granted(0);
    CHECK(s.required == 6);
    s.published = 5;  // nothing newer is published
    s.granted(0);
    CHECK(s.required == 5);
    s.send(0, 0, 5), s.send(0, 1, 6), s.send(1, 0, 6);
    s.batch.fill({});
    CHECK(placed(s.batch) == Placed{"0:0.0.1", "1:1.0.0"});
    CHECK(dropped(s.batch, Drop::policy_lag) == 1);
    CHECK(s.granted(0) == 70);
    CHECK(ends(s.update().fragments) == Ends{"0.0.0 policy_lag", "0.0.1 trained", "1.0.0 trained"});
  }

  TEST_CASE("StreamBatch: a fragment is as old as the oldest weights that a client acted with in it") {
    StreamBatch::Options with = options();
    with.max_policy_lag = 2;
    Agents s(with);
    s.published = 5;
    s.granted(0);
    s.agent0.send(0, fragment(0, 0, 0, 6, 2)), s.agent0.send(0, fragment(0, 0, 1, 7, 2)), s.send(1, 0, 6);
    s.batch.fill({});
    CHECK(placed(s.batch) == Placed{"0:0.0.1", "1:1.0.0"});
    CHECK(dropped(s.batch, Drop::policy_lag) == 1);
  }

  TEST_CASE("StreamBatch: the credit of what is too old for the next update comes back when this one ended") {
    StreamBatch::Options with = options();
    with.max_policy_lag = 1;
    Agents s(with);
    s.send(0, 0), s.send(1, 0);
    s.batch.fill({});
    s.update();
    s.send(0, 1, 6);  // the batch that is filled now is trained at version 8
    s.batch.fill({});
    CHECK(dropped(s.batch, Drop::policy_lag) == 1);
    CHECK(s.granted(0) == 60);
    s.batch.end_update(8);
    CHECK(s.batch.grant_due(0));
    CHECK(s.granted(0) == 70);
  }

  TEST_CASE("StreamBatch: what became too old in its place gives it to another when an update would begin") {
    StreamBatch::Options with = options();
    with.max_policy_lag = 1;
    Agents s(with);
    s.send(0, 0, 7);
    s.batch.fill({});
    CHECK(s.batch.begin_update({}, {}).facts.empty());  // the other shards' updates, two of them
    s.batch.end_update(8);
    s.batch.begin_update({}, {});
    s.batch.end_update(9);
    s.send(1, 0, 8);
    s.batch.fill({});
    CHECK(placed(s.batch) == Placed{"0:0.0.0", "1:1.0.0"});
    CHECK(!s.batch.ready({}));  // 0.0.0 is two versions old
    CHECK(dropped(s.batch, Drop::policy_lag) == 1);
    s.send(3, 0, 9);
    s.batch.fill({});
    CHECK(placed(s.batch) == Placed{"0:3.0.0"});
    CHECK(s.batch.ready({}));
    CHECK(ends(s.update().fragments) == Ends{"0.0.0 policy_lag", "1.0.0 trained", "3.0.0 trained"});
  }

  TEST_CASE("StreamBatch: a checkpoint has nothing of it, at once; without places it takes nothing") {
    Agents s;
    s.send(0, 0), s.send(1, 0);
    s.batch.fill({});
    const auto snapshot = s.batch.snapshot(1, {});
    REQUIRE(snapshot);
    CHECK(snapshot->runners.empty());
    CHECK(!snapshot->with_batch);
    StreamBatch::Options with = options();
    with.num_places = 0;
    Agents none(with);
    none.send(0, 0);
    none.batch.fill({});
    CHECK(placed(none.batch).empty());
    CHECK(!none.batch.ready({}));
  }
}

}  // namespace myriad
