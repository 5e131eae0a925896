// LearnerCore among other shards: an epoch that begins again, and updates without a part in them.
#include "roles/learner_core.hpp"
#include "tests/simulation/learner_harness.hpp"

namespace myriad {

using namespace learner_harness;

namespace {

/// Places and ids of what an input put into the batch.
std::vector<std::pair<uint32_t, FragmentId>> assembled(const Outputs& outputs) {
  std::vector<std::pair<uint32_t, FragmentId>> found;
  for (const auto& output : outputs)
    if (const auto* assemble = std::get_if<LearnerCore::Assemble>(&output))
      found.emplace_back(assemble->fragment.place, id_of(*assemble->fragment.message.as<wire::FragmentHeaderT>()));
  return found;
}
using Assembled = std::vector<std::pair<uint32_t, FragmentId>>;

std::vector<std::pair<uint32_t, uint64_t>> marks(const std::vector<double>& tally) {
  std::vector<std::pair<uint32_t, uint64_t>> found;
  for (const wire::AgentMark& mark : UpdateTally::decode(tally).marks)
    found.emplace_back(mark.agent(), mark.messages());
  return found;
}
using Marks = std::vector<std::pair<uint32_t, uint64_t>>;

/// A core that begins after others had made one update, with the first two messages of agent 0.
LearnerCore::Options again_options(SamplingMode mode) {
  LearnerCore::Options options = options_of(mode);
  options.recollects = true;
  options.at_start = false;
  options.state = {1, 6, {wire::AgentMark(0, 0, 2)}};
  return options;
}
struct Again : Harness {
  ParcelSender agent0{0, 0};  // what it keeps

  explicit Again(SamplingMode mode) : Harness(again_options(mode), /*version=*/1) { agent(0, 0, 2); }
  Outputs joins(uint64_t released) {
    wire::JoinT body;
    body.incarnation = 0;
    body.spec_hash = 1;
    body.fragment_hash = 2;
    body.weights_version = 1;
    body.released = released;
    for (uint32_t slot = 0; slot < 2; ++slot) body.slots.emplace_back(slot, 0, 1, true);  // fragment 0 is released
    return step(LearnerCore::FromAgent{name(0), message(std::move(body))});
  }
  /// Everything the agent kept, in one parcel.
  Outputs sends(const std::vector<Message>& kept) {
    for (const Message& m : kept) agent0.add(m);
    std::vector<Message> parcels;
    agent0.flush(now, parcels);
    agent0.acknowledge(agent0.sent());
    REQUIRE(parcels.size() == 1);
    parcels[0].run = kRun;
    parcels[0].epoch = 1;
    return step(LearnerCore::FromAgent{name(0), parcels[0]});
  }
};

LearnerCore::Options async_of_many() {
  LearnerCore::Options options = async_options();
  options.group_size = 2;
  return options;
}

}  // namespace

TEST_SUITE("roles/learner_core") {
  // --- an epoch that begins again ---

  TEST_CASE(
      "LearnerCore: sync, the batch that was lost is collected again, the same; nothing below the mark is taken") {
    Again h(SamplingMode::sync);
    const Outputs joined = h.joins(2);
    REQUIRE(sent<wire::GrantT>(joined) != nullptr);
    CHECK(sent<wire::GrantT>(joined)->based);
    CHECK(sent<wire::GrantT>(joined)->received == 2);
    CHECK(sent<wire::GrantT>(joined)->released == 2);
    const Outputs round = h.go(2);
    CHECK(sent<wire::GrantT>(round)->weights_version == 1);
    CHECK(sent<wire::GrantT>(round)->slots.at(0).granted() == 2);  // one more than it is known to have
    // Slot 1 came first then: what comes again is in that order, and takes the places it had.
    const Outputs full = h.sends({h.fragment(0, 0, 0), h.fragment(1, 0, 0), h.fragment(1, 1, 1), h.fragment(0, 1, 1)});
    CHECK(assembled(full) == Assembled{{1, {1, 0, 1}}, {0, {0, 0, 1}}});
    REQUIRE(count<LearnerCore::Update>(full) == 1);
    CHECK(find<LearnerCore::Update>(full)->with_batch);
    CHECK(marks(h.tally) == Marks{{0, 4}});
    CHECK(sent<wire::GrantT>(full)->received == 4);
    CHECK(sent<wire::GrantT>(full)->released == 2);
    Books books;
    const Outputs report = h.updated(2);
    books.add(report);
    CHECK(books.ends.size() == 2);
    CHECK(books.ends.contains({1, 0, 1}));
    CHECK(sent<wire::IterationReportT>(report)->training_iteration == 2);
    CHECK(sent<wire::IterationReportT>(report)->num_env_steps_sampled_lifetime == 12);
    CHECK(sent<wire::GrantT>(report)->released == 4);  // now it may forget them
    CHECK(metric(report, "dropped/duplicate") == 0);
    CHECK(metric(report, "num_fragments_missing_since_start") == 0);
  }

  TEST_CASE("LearnerCore: lag1, the round that comes again has the curriculum of the env steps it had") {
    LearnerCore::Options options = again_options(SamplingMode::lag1);
    options.previous_weights = weights(0);
    options.env_steps_per_update = 6;
    options.published = [](uint64_t env_steps, uint32_t level) {
      return std::vector<double>{static_cast<double>(level), static_cast<double>(env_steps)};
    };
    Harness h(options, /*version=*/1);
    h.agent(0, 0, 2);
    wire::JoinT join;
    join.spec_hash = 1, join.fragment_hash = 2, join.weights_version = -1, join.released = 2;
    for (uint32_t slot = 0; slot < 2; ++slot) join.slots.emplace_back(slot, 0, 1, true);
    CHECK(sent<wire::WeightsHeaderT>(h.step(LearnerCore::FromAgent{Harness::name(0), Harness::message(join)})) ==
          nullptr);
    const Outputs outputs = h.go(2);
    REQUIRE(sent<wire::WeightsHeaderT>(outputs) != nullptr);
    CHECK(sent<wire::WeightsHeaderT>(outputs)->version == 0);
    CHECK(sent<wire::WeightsHeaderT>(outputs)->published == std::vector<double>{0, 0});
  }

  TEST_CASE("LearnerCore: sync, fragments that come before the round begins are kept for it") {
    Again h(SamplingMode::sync);
    h.joins(2);
    CHECK(assembled(h.sends({h.fragment(0, 0, 0), h.fragment(1, 0, 0), h.fragment(0, 1, 1)})).empty());
    CHECK(h.core.drops().at("dropped/beyond_credit") == 0);
    CHECK(assembled(h.go(2)) == Assembled{{0, {0, 0, 1}}});
    CHECK(count<LearnerCore::Update>(h.sends({h.fragment(1, 1, 1)})) == 1);
  }

  TEST_CASE("LearnerCore: an agent that begins elsewhere than the group is told where, and heard when it does") {
    Again h(SamplingMode::sync);
    const Outputs early = h.joins(0);
    const auto* grant = sent<wire::GrantT>(early);
    REQUIRE(grant != nullptr);
    CHECK(!grant->based);
    CHECK(grant->released == 2);
    CHECK(grant->received == 2);
    CHECK(grant->slots.empty());
    h.go(2);
    CHECK(h.sends({h.fragment(0, 0, 0), h.fragment(1, 0, 0), h.fragment(0, 1, 1)}).empty());
    CHECK(h.core.drops().at("dropped/unknown_agent") == 1);
    CHECK(sent<wire::GrantT>(h.joins(2))->based);
    h.agent0.restart();
    CHECK(assembled(h.sends({})) == Assembled{{0, {0, 0, 1}}});
  }

  TEST_CASE(
      "LearnerCore: lag1, the round before is collected again, and what was sampled for the next one waits for it") {
    Again h(SamplingMode::lag1);
    const Outputs joined = h.joins(2);
    CHECK(sent<wire::GrantT>(joined)->weights_version == 0);  // the round that was sampled while update 0 ran
    CHECK(sent<wire::GrantT>(joined)->slots.at(0).granted() == 2);
    CHECK(sent<wire::WeightsHeaderT>(joined) == nullptr);
    // Fragments 1 are of that round, fragment 2 is of the round of version 1, which had begun.
    const Outputs resent = h.sends(
        {h.fragment(0, 0, 0), h.fragment(1, 0, 0), h.fragment(0, 1, 0), h.fragment(1, 1, 0), h.fragment(0, 2, 1)});
    CHECK(assembled(resent) == Assembled{{0, {0, 0, 1}}, {1, {1, 0, 1}}});
    CHECK(h.core.drops().at("dropped/beyond_credit") == 0);
    const Outputs next = h.go(2);
    REQUIRE(count<LearnerCore::Update>(next) == 1);
    CHECK(find<LearnerCore::Update>(next)->weights_version == 0);
    CHECK(assembled(next) == Assembled{{0, {0, 0, 2}}});  // now its round begins
    CHECK(sent<wire::GrantT>(next)->weights_version == 1);
    const Outputs report = h.updated(2);
    CHECK(metric(report, "policy_lag_mean") == 1);
    CHECK(count<LearnerCore::Update>(h.go(3)) == 0);
    CHECK(count<LearnerCore::Update>(h.sends({h.fragment(1, 2, 1)})) == 1);
    CHECK(marks(h.tally) == Marks{{0, 6}});
  }

  TEST_CASE("LearnerCore: lag1, the mark stops at what waits, though what came after it was trained on") {
    Again h(SamplingMode::lag1);
    h.joins(2);
    h.sends({h.fragment(0, 0, 0), h.fragment(1, 0, 0), h.fragment(0, 1, 0), h.fragment(1, 1, 0), h.fragment(0, 2, 1),
             h.fragment(1, 2, 1)});
    h.go(2);
    CHECK(marks(h.tally) == Marks{{0, 4}});
    Books books;
    const Outputs report = h.updated(2);
    books.add(report);
    CHECK(books.ends.size() == 2);
    CHECK(sent<wire::GrantT>(report)->released == 4);
    CHECK(sent<wire::GrantT>(report)->received == 6);
  }

  TEST_CASE(
      "LearnerCore: lag1, what waits behind a fragment that has its place now is over, and its place is another's") {
    // Of the round before, slot 1 had died with its place open and slot 0 did both: 0.1 and 0.2, with 1.1 sampled
    // before its death was known. Here both are up: 0.2 comes too early, and 1.1, a later message, has its place.
    Again h(SamplingMode::lag1);
    h.joins(2);
    h.sends({h.fragment(0, 0, 0), h.fragment(1, 0, 0), h.fragment(0, 1, 0), h.fragment(0, 2, 0), h.fragment(1, 1, 0)});
    Books books;
    books.add(h.go(2));
    CHECK(marks(h.tally) == Marks{{0, 5}});
    books.add(h.updated(2));
    CHECK(books.ends.size() == 3);
    CHECK(books.ends.at({0, 0, 2}) == "beyond_credit");
    CHECK(sent<wire::GrantT>(h.tick(LearnerCore::kRetry))->slots.at(0).granted() == 4);  // it goes on with fragment 3
    h.go(3);
    CHECK(assembled(h.sends({h.fragment(0, 3, 1)})) == Assembled{{0, {0, 0, 3}}});
  }

  TEST_CASE("LearnerCore: lag1, the mark covers what has a place, whichever slot's turn came last") {
    // Slot 1 did both places of the next round while slot 0 was down: 1.2 (message 4) and 1.3 (message 5); then slot 0
    // came back with 0.2 (message 6). Here each has a place, and what waits is taken slot by slot: message 6, then 4.
    Again h(SamplingMode::lag1);
    h.joins(2);
    h.sends({h.fragment(0, 0, 0), h.fragment(1, 0, 0), h.fragment(0, 1, 0), h.fragment(1, 1, 0), h.fragment(1, 2, 1),
             h.fragment(1, 3, 1), h.fragment(0, 2, 1)});
    CHECK(assembled(h.go(2)) == Assembled{{0, {0, 0, 2}}, {1, {1, 0, 2}}});
    CHECK(marks(h.tally) == Marks{{0, 4}});
    Books books;
    books.add(h.updated(2));
    books.add(h.go(3));
    CHECK(marks(h.tally) == Marks{{0, 7}});  // 0.2 does not come again
    books.add(h.updated(3));
    CHECK(books.ends.size() == 5);
    CHECK(books.ends.at({1, 0, 3}) == "beyond_credit");
  }

  TEST_CASE("LearnerCore: lag1, a round that is collected again takes what was sampled with newer weights, too") {
    Again h(SamplingMode::lag1);
    h.joins(2);
    const Outputs full = h.sends({h.fragment(0, 0, 0), h.fragment(1, 0, 0), h.fragment(0, 1, 0), h.fragment(1, 1, 1)});
    CHECK(assembled(full).size() == 2);
    CHECK(h.core.drops().at("dropped/wrong_version") == 0);
    h.go(2);
    const Outputs report = h.updated(2);
    CHECK(metric(report, "policy_lag_hist/0") == 1);
    CHECK(metric(report, "policy_lag_hist/1") == 1);
  }

  TEST_CASE("LearnerCore: lag1, an agent that has no weights of the round before gets the ones there are") {
    Again h(SamplingMode::lag1);
    h.agent(0, 0, 2, 1);  // its predecessor died, too
    const Outputs joined = h.join(0, 1);
    REQUIRE(sent<wire::WeightsHeaderT>(joined) != nullptr);
    CHECK(sent<wire::WeightsHeaderT>(joined)->version == 1);
  }

  TEST_CASE("LearnerCore: async, the window goes on from what the agent had been allowed and had used") {
    LearnerCore::Options options = again_options(SamplingMode::async);
    Harness h(options, 1);
    h.agent(0, 0, 2);
    wire::JoinT body;
    body.spec_hash = 1, body.fragment_hash = 2, body.weights_version = 1;
    body.released = 2, body.fragments = 2, body.granted_fragments = 20;
    const Outputs joined = h.step(LearnerCore::FromAgent{h.name(0), h.message(std::move(body))});
    CHECK(sent<wire::GrantT>(joined)->granted_bytes == 200);  // more than 2 used + a window of 8: never back
  }

  // --- tallies ---

  TEST_CASE("LearnerCore: the tally has a mark for each of its agents that is up and known, and no other") {
    LearnerCore::Options options = options_of(SamplingMode::sync);
    options.num_slots = options.fragments_per_batch = 4;
    options.num_agents = 9;
    Harness h(options);
    h.agent(3, 0, 2, 5), h.agent(7, 2, 1), h.agent(8, 3, 1);
    h.join(3, 5), h.join(7);
    h.agent(8, 3, 1, 0, false);
    h.go(1);
    h.parcel(3, {h.slot_state(0, 5 << 16, true), h.slot_state(1, 5 << 16, true)}, 5);
    h.parcel(3, {h.fragment(0, 0, 0, 0, true, 5 << 16), h.fragment(1, 0, 0, 0, true, 5 << 16)}, 5);
    const Outputs grants = h.join(3, 5);
    std::vector<Message> rest;
    for (const auto& slot : sent<wire::GrantT>(grants)->slots)
      for (uint64_t seq = 1; seq < slot.granted(); ++seq)
        rest.push_back(h.fragment(slot.slot(), seq, 0, 0, true, 5 << 16));
    if (!rest.empty()) h.parcel(3, rest, 5);
    CHECK(count<LearnerCore::Update>(h.parcel(7, {h.fragment(2, 0, 0)})) == 1);
    CHECK(h.tally.size() == 2 + 2 * 9);
    const UpdateTally tally = UpdateTally::decode(h.tally);
    CHECK(tally.fragments == 4);
    CHECK(tally.ends_iteration);
    REQUIRE(tally.marks.size() == 2);
    CHECK(tally.marks[0].agent() == 3);
    CHECK(tally.marks[0].incarnation() == 5);
    CHECK(tally.marks[0].messages() == 4 + rest.size());
    CHECK(tally.marks[1].agent() == 7);
    CHECK(tally.marks[1].messages() == 1);
  }

  TEST_CASE_FIXTURE(Sync, "LearnerCore: steps and the iteration's end are what all shards say, not this one") {
    go(1);
    both(0, 0);
    tally[0] += 4;  // another shard's fragments
    const Outputs report = updated(1);
    CHECK(sent<wire::IterationReportT>(report)->num_env_steps_sampled_lifetime == 6 * 3);
    CHECK(metric(report, "num_fragments") == 2);  // of this shard
  }

  // --- updates without a part in them ---

  TEST_CASE("LearnerCore: a shard without a share takes part with nothing, and reports") {
    LearnerCore::Options options = options_of(SamplingMode::sync);
    options.fragments_per_batch = 0;
    options.group_size = 2;
    Harness h(options);
    CHECK(count<LearnerCore::Update>(h.started) == 0);
    const Outputs begins = h.go(1);
    REQUIRE(count<LearnerCore::Update>(begins) == 1);
    CHECK(!find<LearnerCore::Update>(begins)->with_batch);
    CHECK(UpdateTally::decode(h.tally).fragments == 0);
    CHECK(UpdateTally::decode(h.tally).marks.empty());
    h.tally = UpdateTally{5, true, {wire::AgentMark(0, 0, 9)}}.encode(1);  // the others' part
    const Outputs report = h.updated(1);
    REQUIRE(sent<wire::IterationReportT>(report) != nullptr);
    CHECK(sent<wire::IterationReportT>(report)->num_env_steps_sampled_lifetime == 15);
    CHECK(sent<wire::IterationReportT>(report)->weights_version == 1);
    CHECK(metric(report, "num_fragments") == 0);
    CHECK(count<LearnerCore::Update>(report) == 0);  // until go
    CHECK(count<LearnerCore::Update>(h.go(2)) == 1);
  }

  TEST_CASE("LearnerCore: an update that nobody had anything for changes nothing, and the next one waits 50 ms") {
    LearnerCore::Options options = options_of(SamplingMode::sync);
    options.fragments_per_batch = 0;
    options.group_size = 2;
    Harness h(options);
    h.go(1);
    Outputs outputs = h.step(LearnerCore::Updated{nullptr, {}, h.tally});
    CHECK(sent<wire::IterationReportT>(outputs) == nullptr);
    CHECK(h.core.training_iteration() == 0);
    CHECK(count<LearnerCore::Update>(outputs) == 0);
    CHECK(count<LearnerCore::Update>(h.tick(std::chrono::milliseconds(49))) == 0);
    CHECK(count<LearnerCore::Update>(h.tick(std::chrono::milliseconds(1))) == 1);
  }

  TEST_CASE("LearnerCore: async, a shard whose agents are gone keeps nobody waiting; alone it waits for them") {
    Async alone{async_options()};
    alone.agent(0, 0, 2, 0, false), alone.agent(1, 2, 2, 0, false);
    CHECK(count<LearnerCore::Update>(alone.go(1)) == 0);
    Async h(async_of_many());
    CHECK(count<LearnerCore::Update>(h.go(1)) == 0);  // its agents are there: they will send
    h.send(0, 0, 0);
    h.agent(0, 0, 2, 0, false);
    const Outputs down = h.agent(1, 2, 2, 0, false);
    REQUIRE(count<LearnerCore::Update>(down) == 1);
    CHECK(!find<LearnerCore::Update>(down)->with_batch);
    CHECK(UpdateTally::decode(h.tally).fragments == 0);
    CHECK(UpdateTally::decode(h.tally).marks.empty());
    Books books;
    h.tally = UpdateTally{2, false, {}}.encode(1);
    books.add(h.updated(1));
    CHECK(books.ends.empty());  // what has its place keeps it
    h.agent(0, 0, 2, 1);
    h.join(0, 1);
    h.parcel(0, {h.slot_state(0, 1 << 16, true), h.fragment(0, 0, 1, 0, true, 1 << 16)}, 1);
    h.tally = UpdateTally{2, false, {}}.encode(1);
    const Outputs full = h.updated(2);
    REQUIRE(count<LearnerCore::Update>(full) == 1);
    CHECK(find<LearnerCore::Update>(full)->with_batch);
    books.add(h.updated(3));
    CHECK(books.ends.size() == 2);
    CHECK(books.ends.at({0, 0, 0}).empty());
  }

  TEST_CASE("LearnerCore: async, the lag of a fragment grows while the others update without this shard") {
    Async h(async_of_many());
    h.go(1);
    h.send(0, 0, 0);  // has its place when version 0 is trained on
    h.agent(0, 0, 2, 0, false);
    REQUIRE(count<LearnerCore::Update>(h.agent(1, 2, 2, 0, false)) == 1);
    h.agent(1, 2, 2, 1);
    h.join(1, 1);
    h.tally = UpdateTally{2, false, {}}.encode(1);
    CHECK(count<LearnerCore::Update>(h.updated(1)) == 0);  // somebody is there: the next one waits for the batch
    const Outputs full = h.parcel(1, {h.fragment(2, 0, 1, 0, true, 1 << 16)}, 1);
    REQUIRE(count<LearnerCore::Update>(full) == 1);
    const Outputs report = h.updated(2);
    CHECK(metric(report, "policy_lag_max") == 1);
    CHECK(metric(report, "policy_lag_hist/0") == 1);
    CHECK(metric(report, "policy_lag_hist/1") == 1);
  }

  TEST_CASE("LearnerCore: async, what became too old while the others updated gives its place to another") {
    LearnerCore::Options options = async_of_many();
    options.max_policy_lag = 1;
    options.rank = 1;
    Async h(options);
    Books books;
    h.go(1);
    h.send(0, 0, 0);
    h.agent(0, 0, 2, 0, false);
    books.add(h.agent(1, 2, 2, 0, false));
    h.tally = UpdateTally{2, false, {}}.encode(1);
    books.add(h.updated(1));  // and another without this shard begins
    h.agent(1, 2, 2, 1);
    h.join(1, 1);
    h.tally = UpdateTally{2, false, {}}.encode(1);
    books.add(h.updated(2));
    CHECK(h.core.drops().at("dropped/policy_lag") == 0);
    const auto fresh = [&](uint64_t seq) { return h.parcel(1, {h.fragment(2, seq, 2, 0, true, 1 << 16)}, 1); };
    CHECK(count<LearnerCore::Update>(fresh(0)) == 0);  // the batch is full, but with something of version 0
    CHECK(h.core.drops().at("dropped/policy_lag") == 1);
    const Outputs full = fresh(1);
    CHECK(assembled(full) == Assembled{{0, {2, 1 << 16, 1}}});
    REQUIRE(count<LearnerCore::Update>(full) == 1);
    CHECK(find<LearnerCore::Update>(full)->weights_version == 2);
    books.add(h.updated(3));
    CHECK(books.ends.size() == 3);
    CHECK(books.ends.at({0, 0, 0}) == "policy_lag");
  }

  TEST_CASE("LearnerCore: async, only the shard that leads ends iterations") {
    for (const bool leads : {true, false}) {
      LearnerCore::Options options = async_of_many();
      options.rank = leads ? 0 : 1;
      options.min_time_per_iteration = std::chrono::seconds(1);
      Async h(options);
      h.go(1);
      h.now += std::chrono::seconds(2);
      h.send(0, 0, 0), h.send(1, 0, 0);
      CHECK(UpdateTally::decode(h.tally).ends_iteration == leads);
      h.tally[1] = 1.0;  // the one that leads says so
      CHECK(sent<wire::IterationReportT>(h.updated(1)) != nullptr);
    }
  }
}

}  // namespace myriad
