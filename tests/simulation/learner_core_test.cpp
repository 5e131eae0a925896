#include "roles/learner_core.hpp"

#include <fmt/format.h>

#include "roles/round_batch.hpp"
#include "tests/simulation/learner_harness.hpp"

namespace myriad {

using namespace learner_harness;

TEST_SUITE("roles/learner_core") {
  // --- agents ---

  TEST_CASE_FIXTURE(Sync,
                    "LearnerCore: a join is answered with weights and a grant of all slots; credit comes with go") {
    now += WeightsPublisher::kResend;  // what the fixture's join was answered with may be lost
    const Outputs outputs = join(0);
    REQUIRE(sent<wire::WeightsHeaderT>(outputs) != nullptr);
    const auto* grant = sent<wire::GrantT>(outputs);
    REQUIRE(grant != nullptr);
    REQUIRE(grant->slots.size() == 2);
    CHECK(grant->slots[1].granted() == 0);
    const Outputs after = go(1);
    grant = sent<wire::GrantT>(after);
    REQUIRE(grant != nullptr);
    REQUIRE(grant->slots.size() == 2);
    CHECK(grant->slots[0].granted() == 1);
    CHECK(count<LearnerCore::ToAgent>(after) == 1);  // one grant, not one a slot
    CHECK(sent<wire::WeightsHeaderT>(join(0, 0, 0)) == nullptr);
  }

  TEST_CASE("LearnerCore: an agent nobody spoke of is not heard, nor is an older or a gone one") {
    Harness h(options_of(SamplingMode::sync));
    CHECK(h.join(0).empty());
    CHECK(h.core.drops().at("dropped/unknown_agent") == 1);
    h.agent(0, 0, 2, 1);
    CHECK(h.parcel(0, {h.fragment(0, 0, 0)}, 1).empty());  // no Join came
    CHECK(h.core.drops().at("dropped/unknown_agent") == 2);
    CHECK(h.join(0, 0).empty());
    CHECK(h.core.drops().at("dropped/stale_agent") == 1);
    CHECK(!h.join(0, 1).empty());
    h.agent(0, 0, 2, 0, false);  // old news
    CHECK(!h.join(0, 1).empty());
    h.agent(0, 0, 2, 1, false);
    CHECK(h.join(0, 1).empty());
    h.agent(0, 0, 2, 1, true);  // it does not come back under its number
    CHECK(h.join(0, 1).empty());
    h.agent(0, 0, 2, 2);
    CHECK(!h.join(0, 2).empty());
    CHECK(h.parcel(0, {h.fragment(0, 0, 0)}, 1).empty());
    CHECK(h.core.drops().at("dropped/stale_agent") == 4);
  }

  TEST_CASE("LearnerCore: an agent of another module or another fragment layout is refused in words, and not heard") {
    for (const auto& [spec, fragment] : {std::pair<uint64_t, uint64_t>{99, 2}, {1, 99}, {2, 1}}) {
      CAPTURE(spec);
      CAPTURE(fragment);
      Harness h(options_of(SamplingMode::sync));
      h.agent(0, 0, 2);
      h.go(1);
      const Outputs outputs = h.join(0, 0, -1, spec, fragment);
      REQUIRE(sent<wire::RefusedT>(outputs) != nullptr);
      CHECK(sent<wire::RefusedT>(outputs)->reason ==
            fmt::format("module {:016x} and fragment {:016x} differ from the learner's 0000000000000001 and "
                        "0000000000000002",
                        spec, fragment));
      CHECK(sent<wire::GrantT>(outputs) == nullptr);
      CHECK(sent<wire::WeightsHeaderT>(outputs) == nullptr);
      CHECK(count<LearnerCore::Assemble>(h.parcel(0, {h.fragment(0, 0, 0)})) == 0);
      CHECK(h.core.drops().at("dropped/unknown_agent") == 1);
      CHECK(sent<wire::RefusedT>(h.join(0)) == nullptr);  // the right one is heard
    }
  }

  TEST_CASE_FIXTURE(
      Sync, "LearnerCore: messages of another run or epoch are counted and dropped, in parcels those of another run") {
    Message foreign = message(wire::JoinT{});
    foreign.run = 1;
    CHECK(step(LearnerCore::FromAgent{"x", foreign}).empty());
    foreign = message(wire::JoinT{});
    foreign.epoch = 0;
    CHECK(step(LearnerCore::FromAgent{"x", foreign}).empty());
    go(1);
    Message inner = fragment(0, 0, 0);
    inner.run = 1;
    CHECK(count<LearnerCore::Assemble>(parcel(0, {inner})) == 0);
    CHECK(core.drops().at("dropped/foreign_run_or_epoch") == 3);
    inner = fragment(0, 0, 0);
    inner.epoch = 0;  // what an agent keeps was said in the epoch of then: that of the parcel counts
    CHECK(count<LearnerCore::Assemble>(parcel(0, {inner})) == 1);
    CHECK(core.drops().at("dropped/foreign_run_or_epoch") == 3);
    CHECK(step(LearnerCore::FromAgent{name(0), message(wire::StopT{})}).empty());
    CHECK(count<LearnerCore::Assemble>(parcel(0, {message(wire::StopT{})})) == 0);
    CHECK(core.drops().at("dropped/not_an_envelope") == 2);
  }

  TEST_CASE("LearnerCore: an agent speaks for its own slots only") {
    LearnerCore::Options options = options_of(SamplingMode::sync);
    options.num_slots = 4;
    Harness h(options);
    h.agent(0, 0, 2), h.join(0);
    h.go(1);
    h.parcel(0, {h.slot_state(2, 7, true), h.fragment(3, 0, 0), h.state(2, 0, 1), h.fragment(9, 0, 0)});
    CHECK(h.core.drops().at("dropped/foreign_slot") == 4);
    h.agent(1, 3, 2);  // slots 3 and 4 of 0 to 3
    h.agent(1, 5, 1);
    h.agent(1, 0, 0);
    CHECK(h.core.drops().at("dropped/foreign_slot") == 7);
    CHECK(h.join(1).empty());
  }

  TEST_CASE_FIXTURE(Sync, "LearnerCore: a parcel counts once however often it comes, and each time is acknowledged") {
    Books books;
    go(1);
    const Outputs first = parcel(0, {fragment(0, 0, 0)});
    books.add(first);
    CHECK(count<LearnerCore::Assemble>(first) == 1);
    CHECK(sent<wire::GrantT>(first)->received == 1);
    CHECK(sent<wire::GrantT>(first)->slots.empty());  // nothing new
    const Outputs repeat = again();
    books.add(repeat);
    CHECK(count<LearnerCore::Assemble>(repeat) == 0);
    CHECK(sent<wire::GrantT>(repeat)->received == 1);
    last_parcel.body.AsParcel()->first = 5;  // after a gap: not taken
    CHECK(sent<wire::GrantT>(again())->received == 1);
    CHECK(count<LearnerCore::Update>(parcel(0, {fragment(1, 0, 0)})) == 1);
    const Outputs report = updated(1);
    CHECK(metric(report, "num_messages_resent_since_start") == 1);
    CHECK(metric(report, "num_parcels_received_since_start") == 4);
    CHECK(metric(report, "num_fragments_received_since_start") == 2);
    CHECK(metric(report, "dropped/duplicate") == 0);
  }

  TEST_CASE_FIXTURE(Sync, "LearnerCore: a parcel that is no messages is refused, not asked for again for ever") {
    parcel(0, {fragment(0, 0, 0)});
    last_parcel.body.AsParcel()->first = 1;
    last_parcel.body.AsParcel()->count = 2;
    const Outputs outputs = again();
    REQUIRE(sent<wire::RefusedT>(outputs) != nullptr);
    CHECK(sent<wire::RefusedT>(outputs)->reason == "messages 1 to 3 are not whole");
    CHECK(core.drops().at("dropped/malformed_parcel") == 1);
  }

  TEST_CASE("LearnerCore: a dead agent's places go to the others, its successor's runners share what is left") {
    LearnerCore::Options options = options_of(SamplingMode::sync);
    options.num_slots = 4;
    options.fragments_per_batch = 8;
    Harness h(options);
    h.agent(0, 0, 2), h.agent(1, 2, 2);
    h.join(0), h.join(1);
    h.go(1);
    h.parcel(0, {h.fragment(0, 0, 0)});
    const Outputs down = h.agent(0, 0, 2, 0, false);
    CHECK(sent<wire::GrantT>(down, "agent-0") == nullptr);
    const auto* grant = sent<wire::GrantT>(down, "agent-1");
    REQUIRE(grant != nullptr);
    CHECK(grant->slots[0].granted() + grant->slots[1].granted() == 4 + 3);
    h.agent(1, 2, 2, 0, false);  // now there is nobody
    h.agent(0, 0, 2, 1);
    const Outputs outputs = h.join(0, 1);
    grant = sent<wire::GrantT>(outputs);
    REQUIRE(grant != nullptr);
    REQUIRE(grant->slots.size() == 2);
    CHECK(grant->slots[0].incarnation() == 1 << 16);
    CHECK(grant->slots[0].granted() + grant->slots[1].granted() == 7);
    CHECK(grant->slots[0].granted() >= 3);
    CHECK(grant->slots[1].granted() >= 3);
  }

  TEST_CASE("LearnerCore: an agent whose successor is there first is gone; others go on until its runners come") {
    LearnerCore::Options options = options_of(SamplingMode::sync);
    options.num_slots = options.fragments_per_batch = 4;
    Harness h(options);
    h.agent(0, 0, 2), h.agent(1, 2, 2);
    h.join(0), h.join(1);
    h.go(1);
    const Outputs replaced = h.agent(0, 0, 2, 1);
    const auto* grant = sent<wire::GrantT>(replaced, "agent-1");
    REQUIRE(grant != nullptr);
    CHECK(grant->slots.size() == 2);
    const Outputs joined = h.join(0, 1);
    CHECK(sent<wire::GrantT>(joined, "agent-0")->slots.empty());
    const Outputs up = h.parcel(0, {h.slot_state(1, 1 << 16, true)}, 1);
    CHECK(sent<wire::GrantT>(up)->slots.empty());  // from the next round on
    CHECK(sent<wire::GrantT>(h.join(0, 1))->slots.size() == 1);
  }

  TEST_CASE_FIXTURE(Sync, "LearnerCore: a runner that ends and comes again goes on in its new incarnation") {
    Books books;
    go(1);
    const Outputs down = parcel(0, {slot_state(0, 0, false)});
    CHECK(sent<wire::GrantT>(down)->slots.size() == 1);
    CHECK(sent<wire::GrantT>(down)->slots[0].granted() == 2);  // slot 1 has both
    parcel(0, {slot_state(0, 1, true)});
    books.add(parcel(0, {fragment(0, 0, 0)}));
    parcel(0, {fragment(1, 0, 0)});
    CHECK(count<LearnerCore::Update>(parcel(0, {fragment(1, 1, 0)})) == 1);
    CHECK(books.ends.empty());
    books.add(updated(1));
    CHECK(books.ends.size() == 3);
    CHECK(books.ends.at({0, 0, 0}) == "stale_incarnation");
  }

  // --- sync ---

  TEST_CASE_FIXTURE(Sync, "LearnerCore: the last place starts the update; its end is reported, go publishes") {
    go(1);
    CHECK(count<LearnerCore::Update>(parcel(0, {fragment(1, 0, 0)})) == 0);
    const Outputs full = parcel(0, {fragment(0, 0, 0)});
    CHECK(count<LearnerCore::Assemble>(full) == 1);
    REQUIRE(count<LearnerCore::Update>(full) == 1);
    CHECK(find<LearnerCore::Update>(full)->weights_version == 0);
    const Outputs after = updated(1, {{"loss", 0.5}});
    REQUIRE(sent<wire::IterationReportT>(after) != nullptr);
    CHECK(sent<wire::IterationReportT>(after)->training_iteration == 1);
    CHECK(sent<wire::IterationReportT>(after)->num_env_steps_sampled_lifetime == 6);
    CHECK(metric(after, "loss") == 0.5);
    CHECK(metric(after, "policy_lag_max") == 0);
    CHECK(sent<wire::WeightsHeaderT>(after) == nullptr);
    const Outputs round = go(2);
    CHECK(sent<wire::WeightsHeaderT>(round)->version == 1);
    CHECK(sent<wire::GrantT>(round)->weights_version == 1);
    CHECK(sent<wire::GrantT>(round)->slots.at(0).granted() == 2);
  }

  TEST_CASE("LearnerCore: weights carry the curriculum of their env steps and of the level that came with go") {
    LearnerCore::Options options = options_of(SamplingMode::sync);
    options.published = [](uint64_t env_steps, uint32_t level) {
      return std::vector<double>{static_cast<double>(level), static_cast<double>(env_steps)};
    };
    Sync h(options);
    h.now += WeightsPublisher::kResend;
    CHECK(sent<wire::WeightsHeaderT>(h.join(0)) == nullptr);  // of a resumed run nobody has said the level
    h.level = 3;
    const Outputs first = h.go(1);
    REQUIRE(sent<wire::WeightsHeaderT>(first) != nullptr);
    CHECK(sent<wire::WeightsHeaderT>(first)->published == std::vector<double>{3, 0});
    h.both(0, 0);
    h.updated(1);
    h.level = 4;
    const Outputs second = h.go(2);
    REQUIRE(sent<wire::WeightsHeaderT>(second) != nullptr);
    CHECK(sent<wire::WeightsHeaderT>(second)->version == 1);
    CHECK(sent<wire::WeightsHeaderT>(second)->published == std::vector<double>{4, 6});
  }

  TEST_CASE_FIXTURE(Sync, "LearnerCore: episodes are reported in the order of places, not of arrival") {
    go(1);
    parcel(0, {fragment(1, 0, 0, 11.0)});
    parcel(0, {fragment(0, 0, 0, 10.0)});
    const Outputs after = updated(1);
    const auto& episodes = sent<wire::IterationReportT>(after)->episodes;
    REQUIRE(episodes.size() == 2);
    CHECK(episodes[0].episode_return() == 10.0);
    CHECK(episodes[1].episode_return() == 11.0);
  }

  TEST_CASE_FIXTURE(Sync, "LearnerCore: the report is repeated every 250 ms until the driver answers it") {
    first_iteration();
    CHECK(sent<wire::IterationReportT>(tick(LearnerCore::kRetry)) != nullptr);
    go(1);  // the old answer
    CHECK(sent<wire::IterationReportT>(tick(LearnerCore::kRetry)) != nullptr);
    go(2);
    const Outputs outputs = tick(LearnerCore::kRetry);
    CHECK(sent<wire::IterationReportT>(outputs) == nullptr);
    REQUIRE(sent<wire::GrantT>(outputs) != nullptr);  // while a round is open grants are repeated, too
    CHECK(sent<wire::GrantT>(outputs)->slots.size() == 2);
  }

  TEST_CASE_FIXTURE(Sync, "LearnerCore: a fragment that cannot be used is counted, and its place given again") {
    Books books;
    go(1);
    Outputs outputs = parcel(0, {fragment(0, 0, 0, 0, /*valid=*/false)});
    books.add(outputs);
    CHECK(core.drops().at("dropped/invalid") == 1);
    CHECK(sent<wire::RefusedT>(outputs) == nullptr);
    REQUIRE(sent<wire::GrantT>(outputs)->slots.size() == 1);
    CHECK(sent<wire::GrantT>(outputs)->slots[0].granted() == 2);
    outputs = parcel(0, {fragment(0, 1, 9)});  // of no version the round knows
    books.add(outputs);
    CHECK(core.drops().at("dropped/wrong_version") == 1);
    CHECK(sent<wire::GrantT>(outputs)->slots[0].granted() == 3);
    wire::FragmentHeaderT two = *fragment(0, 2, 0).as<wire::FragmentHeaderT>();
    books.add(parcel(0, {message(std::move(two))}));  // without its payload
    CHECK(core.drops().at("dropped/invalid") == 2);
    books.add(parcel(0, {fragment(0, 3, 0), fragment(1, 0, 0)}));
    CHECK(books.ends.empty());  // until the update is finished, an agent that goes on elsewhere sends all of it again
    outputs = updated(1);
    books.add(outputs);
    CHECK(count<LearnerCore::ToDriver>(outputs) == 1);
    CHECK(books.ends.size() == 5);
    CHECK(books.ends.at({0, 0, 0}) == "invalid");
    CHECK(books.ends.at({0, 0, 1}) == "wrong_version");
    CHECK(books.ends.at({0, 0, 2}) == "invalid");
    CHECK(books.ends.at({0, 0, 3}).empty());
  }

  TEST_CASE_FIXTURE(Sync, "LearnerCore: a checkpoint waits for every runner's state, then is written once") {
    first_iteration();
    const Outputs asked = command(wire::CommandKind::checkpoint, 1, 1);
    CHECK(count<LearnerCore::WriteCheckpoint>(asked) == 0);
    CHECK(sent<wire::GrantT>(asked)->want_state == 1);
    CHECK(count<LearnerCore::WriteCheckpoint>(parcel(0, {state(0, 1, 1), state(1, 0, 1), state(1, 1, 7)})) == 0);
    const Outputs complete = parcel(0, {state(1, 1, 1)});
    REQUIRE(count<LearnerCore::WriteCheckpoint>(complete) == 1);
    CHECK(!find<LearnerCore::WriteCheckpoint>(complete)->with_batch);
    CHECK(find<LearnerCore::WriteCheckpoint>(complete)->runners.size() == 2);
    CHECK(count<LearnerCore::WriteCheckpoint>(command(wire::CommandKind::checkpoint, 1, 1)) == 0);
    const Outputs done = step(LearnerCore::CheckpointWritten{1, {{"a", 4, 5}}, ""});
    REQUIRE(sent<wire::CheckpointDoneT>(done) != nullptr);
    CHECK(sent<wire::CheckpointDoneT>(done)->training_iteration == 1);
    CHECK(sent<wire::CheckpointDoneT>(done)->files.at(0)->crc32c == 5);
    CHECK(sent<wire::CheckpointDoneT>(command(wire::CommandKind::checkpoint, 1, 1)) != nullptr);  // the answer was lost
  }

  TEST_CASE_FIXTURE(Sync, "LearnerCore: a state that does not come is waited for no longer than 5 s") {
    first_iteration();
    command(wire::CommandKind::checkpoint, 1, 1);
    CHECK(sent<wire::GrantT>(tick(LearnerCore::kRetry))->want_state == 1);
    CHECK(count<LearnerCore::WriteCheckpoint>(tick(RoundBatch::kStateDeadline)) == 1);
  }

  TEST_CASE_FIXTURE(Sync, "LearnerCore: the last checkpoint of a run that is cut waits for no runner") {
    first_iteration();
    at_once = true;
    const Outputs asked = command(wire::CommandKind::checkpoint, 1, 1);
    REQUIRE(count<LearnerCore::WriteCheckpoint>(asked) == 1);
    CHECK(find<LearnerCore::WriteCheckpoint>(asked)->runners.empty());
    CHECK(!find<LearnerCore::WriteCheckpoint>(asked)->with_batch);
  }

  TEST_CASE_FIXTURE(Sync, "LearnerCore: a checkpoint asked for anew while one is written waits for it") {
    first_iteration();
    command(wire::CommandKind::checkpoint, 1, 1);
    REQUIRE(count<LearnerCore::WriteCheckpoint>(tick(RoundBatch::kStateDeadline)) == 1);
    CHECK(count<LearnerCore::WriteCheckpoint>(command(wire::CommandKind::checkpoint, 1, 2)) == 0);
    const Outputs done = step(LearnerCore::CheckpointWritten{1, {}, "EIO"});
    CHECK(count<LearnerCore::WriteCheckpoint>(done) == 0);
    CHECK(sent<wire::GrantT>(done)->want_state == 2);
    const Outputs second = parcel(0, {state(0, 1, 2), state(1, 1, 2)});
    REQUIRE(count<LearnerCore::WriteCheckpoint>(second) == 1);
    CHECK(find<LearnerCore::WriteCheckpoint>(second)->sequence == 2);
  }

  TEST_CASE_FIXTURE(Sync, "LearnerCore: a checkpoint of an iteration that is past is not written with newer weights") {
    first_iteration();
    go(2);
    both(1, 1);
    updated(2);
    CHECK(count<LearnerCore::WriteCheckpoint>(command(wire::CommandKind::checkpoint, 1, 1)) == 0);
    CHECK(count<LearnerCore::WriteCheckpoint>(tick(RoundBatch::kStateDeadline)) == 0);
  }

  TEST_CASE_FIXTURE(Sync, "LearnerCore: Stop ends it with the driver's reason") {
    wire::StopT stop;
    stop.reason = "done";
    const Outputs outputs = step(LearnerCore::FromDriver{message(std::move(stop))});
    REQUIRE(count<LearnerCore::Exit>(outputs) == 1);
    CHECK(find<LearnerCore::Exit>(outputs)->reason == "done");
    CHECK(count<LearnerCore::Exit>(command(wire::CommandKind::stop, 0)) == 1);
  }

  // --- lag1 ---

  TEST_CASE_FIXTURE(Lag1, "LearnerCore: lag1 samples round k + 1 with version k while update k runs") {
    CHECK(sent<wire::GrantT>(go(1))->weights_version == 0);
    const std::vector<uint64_t> sampled_with{0, 0, 1, 2, 3};
    for (uint64_t k = 0; k < 4; ++k) {
      const Outputs full = both(k, sampled_with[k]);
      // Update 0 begins with its batch, the others wait for go (below).
      REQUIRE(count<LearnerCore::Update>(full) == (k == 0 ? 1 : 0));
      if (k > 0) {
        CHECK(sent<wire::IterationReportT>(updated(k)) != nullptr);
        const Outputs next = go(k + 1);
        REQUIRE(count<LearnerCore::Update>(next) == 1);
        CHECK(find<LearnerCore::Update>(next)->weights_version == sampled_with[k]);
        CHECK(sent<wire::WeightsHeaderT>(next)->version == k);  // published with the round that wants it
        CHECK(sent<wire::GrantT>(next)->weights_version == sampled_with[k + 1]);
        CHECK(sent<wire::GrantT>(next)->slots.at(0).granted() == k + 2);
      }
    }
    const Outputs report = updated(4);
    CHECK(metric(report, "policy_lag_mean") == 1);
    CHECK(metric(report, "policy_lag_max") == 1);
    CHECK(sent<wire::IterationReportT>(report)->num_env_steps_sampled_lifetime == 4 * 6);
    CHECK(sent<wire::IterationReportT>(report)->episodes.at(0).episode_return() == 13.0);  // of batch 3
  }

  TEST_CASE_FIXTURE(Lag1, "LearnerCore: lag1 begins the next update by itself when go came before the batch was full") {
    go(1);
    both(0, 0);
    updated(1);
    CHECK(count<LearnerCore::Update>(go(2)) == 0);
    parcel(0, {fragment(0, 1, 0)});
    const Outputs full = parcel(0, {fragment(1, 1, 0)});
    CHECK(count<LearnerCore::Update>(full) == 1);
    CHECK(sent<wire::GrantT>(full)->weights_version == 1);
  }

  TEST_CASE_FIXTURE(
      Lag1, "LearnerCore: a lag1 checkpoint takes the batch that waits; the run resumed from it goes on alike") {
    first_iteration();
    parcel(0, {fragment(0, 1, 0, 11)});
    const Outputs asked = command(wire::CommandKind::checkpoint, 1, 1);
    CHECK(count<LearnerCore::WriteCheckpoint>(asked) == 0);
    CHECK(sent<wire::GrantT>(asked) == nullptr);  // the round comes to its end first
    CHECK(count<LearnerCore::WriteCheckpoint>(tick(RoundBatch::kStateDeadline)) == 0);
    const Outputs full = parcel(0, {fragment(1, 1, 0, 21)});
    CHECK(count<LearnerCore::Update>(full) == 0);
    CHECK(sent<wire::GrantT>(full)->want_state == 1);
    const Outputs complete = parcel(0, {state(0, 2, 1), state(1, 2, 1)});
    const auto* write = find<LearnerCore::WriteCheckpoint>(complete);
    REQUIRE(write != nullptr);
    CHECK(write->with_batch);
    CHECK(write->batch_weights_version == 0);
    CHECK(write->training_iteration == 1);
    CHECK(write->num_env_steps_sampled_lifetime == 6);
    CHECK(write->runners.size() == 2);
    REQUIRE(write->batch_episodes.size() == 2);
    CHECK(write->batch_episodes[1].episode_return() == 21);

    LearnerCore::Options options = options_of(SamplingMode::lag1);
    options.state = {1, 6, {}};
    options.restored_batch = write->batch_episodes;
    step(LearnerCore::CheckpointWritten{1, {}, ""});
    Sync resumed(options, 1);
    CHECK(count<LearnerCore::Update>(resumed.started) == 0);
    for (Harness* run : {static_cast<Harness*>(this), static_cast<Harness*>(&resumed)}) {
      const Outputs next = run->go(2);
      REQUIRE(count<LearnerCore::Update>(next) == 1);
      CHECK(find<LearnerCore::Update>(next)->weights_version == 0);
      CHECK(sent<wire::GrantT>(next)->weights_version == 1);
      const Outputs report = run->updated(2);
      CHECK(sent<wire::IterationReportT>(report)->training_iteration == 2);
      CHECK(sent<wire::IterationReportT>(report)->num_env_steps_sampled_lifetime == 12);
      REQUIRE(sent<wire::IterationReportT>(report)->episodes.size() == 2);
      CHECK(sent<wire::IterationReportT>(report)->episodes[0].episode_return() == 11);
      CHECK(metric(report, "policy_lag_mean") == 1);
    }
    // Asked again before it went on, the same batch is saved.
    Sync again(options, 1);
    again.command(wire::CommandKind::checkpoint, 1, 1);
    const Outputs second = again.parcel(0, {state(0, 0, 1), state(1, 0, 1)});
    REQUIRE(find<LearnerCore::WriteCheckpoint>(second) != nullptr);
    CHECK(find<LearnerCore::WriteCheckpoint>(second)->with_batch);
    CHECK(find<LearnerCore::WriteCheckpoint>(second)->batch_episodes.size() == 2);
  }

  // --- async ---

  TEST_CASE_FIXTURE(Async, "LearnerCore: async batches are the oldest fragments, and the next fills while one trains") {
    Books books;
    books.add(send(3, 0, 0));
    books.add(send(0, 0, 0));
    CHECK(count<LearnerCore::Update>(send(1, 0, 0)) == 0);  // before go nothing is trained
    const Outputs first = go(1);
    REQUIRE(count<LearnerCore::Update>(first) == 1);
    REQUIRE(count<LearnerCore::Assemble>(first) == 1);  // the third begins the next batch
    CHECK(find<LearnerCore::Assemble>(first)->fragment.place == 0);
    CHECK(id_of(*find<LearnerCore::Assemble>(first)->fragment.message.as<wire::FragmentHeaderT>()).slot == 1);
    const Outputs fourth = send(0, 1, 0);
    CHECK(find<LearnerCore::Assemble>(fourth)->fragment.place == 1);
    CHECK(count<LearnerCore::Assemble>(send(0, 2, 0)) == 0);  // both buffers are taken: it waits
    const Outputs report = updated(1);
    CHECK(metric(report, "num_fragments") == 2);
    CHECK(count<LearnerCore::Update>(report) == 0);  // until go
    const Outputs second = go(2);
    CHECK(count<LearnerCore::Update>(second) == 1);
    CHECK(count<LearnerCore::Assemble>(second) == 1);
    CHECK(metric(updated(2), "policy_lag_mean") == 1);
  }

  TEST_CASE_FIXTURE(Async, "LearnerCore: async takes of each slot what comes next; the rest is dropped by name") {
    Books books;
    const auto drop = [&](const Message& m) {
      const Outputs outputs = parcel(0, {m});
      books.add(outputs);
      return count<LearnerCore::Assemble>(outputs);
    };
    go(1);
    CHECK(drop(fragment(0, 0, 0)) == 1);
    CHECK(drop(fragment(0, 0, 0)) == 0);
    CHECK(core.drops().at("dropped/duplicate") == 1);
    CHECK(drop(fragment(0, 1, 5)) == 0);  // nobody has version 5 yet
    CHECK(drop(fragment(0, 2, 0, 0, false)) == 0);
    CHECK(drop(slot_state(0, 0, false)) == 0);
    CHECK(drop(fragment(0, 3, 0)) == 0);
    CHECK(drop(slot_state(0, 1, true)) == 0);
    CHECK(drop(fragment(0, 4, 0)) == 0);
    CHECK(drop(fragment(0, 0, 0, 0, true, 1)) == 1);
    const auto drops = core.drops();
    CHECK(drops.at("dropped/wrong_version") == 1);
    CHECK(drops.at("dropped/invalid") == 1);
    CHECK(drops.at("dropped/stale_incarnation") == 2);
    CHECK(books.ends.empty());
    const Outputs report = updated(1);
    books.add(report);
    CHECK(books.ends.size() == 6);  // 0.0 in a batch, 1, 2, 3, 4 dropped; 1.0 in a batch
    CHECK(books.ends.at({0, 1, 0}).empty());
    CHECK(metric(report, "num_fragments_missing_since_start") == 0);
  }

  TEST_CASE("LearnerCore: async, what is dropped for its lag while an update runs has its credit back when that ends") {
    // Else its runner would make more of the same as fast as it can, and its agent would keep all of it.
    LearnerCore::Options options = async_options();
    options.max_policy_lag = 0;
    Async h(options);
    const auto granted = [](const Outputs& outputs) { return sent<wire::GrantT>(outputs)->granted_bytes / 10; };
    h.go(1);
    h.send(0, 0, 0);
    REQUIRE(count<LearnerCore::Update>(h.send(1, 0, 0)) == 1);
    CHECK(granted(h.join(0)) == 7);  // 2 used, a share of 10 x 2 / 4 slots
    for (const uint64_t seq : {1, 2, 3}) h.send(0, seq, 0);
    CHECK(h.core.drops().at("dropped/policy_lag") == 3);
    CHECK(granted(h.join(0)) == 7);
    h.updated(1);
    CHECK(granted(h.join(0)) == 10);
  }

  TEST_CASE("LearnerCore: async drops what would be trained too many versions late, when it would be placed") {
    LearnerCore::Options options = async_options();
    options.max_policy_lag = 1;
    Async h(options);
    Books books;
    books.add(h.go(1));
    books.add(h.send(0, 0, 0));
    books.add(h.send(1, 0, 0));  // batch 0, trained at 0
    books.add(h.send(0, 1, 0));  // batch 1, trained at 1: lag 1
    books.add(h.send(0, 2, 0));
    books.add(h.send(0, 3, 0));  // would be in batch 2, trained at 2: lag 2
    books.add(h.updated(1));
    CHECK(h.core.drops().at("dropped/policy_lag") == 0);
    const Outputs second = h.go(2);
    books.add(second);
    CHECK(count<LearnerCore::Update>(second) == 1);
    CHECK(h.core.drops().at("dropped/policy_lag") == 1);
    CHECK(sent<wire::GrantT>(h.join(0))->weights_version == 0);
    books.add(h.updated(2));
    CHECK(sent<wire::GrantT>(h.join(0))->weights_version == 1);  // older ones would be dropped
    CHECK(books.ends.size() == 4);  // the one dropped since is below the mark of the next update
    h.send(0, 4, 2), h.send(1, 1, 2);
    h.go(3);
    books.add(h.updated(3));
    CHECK(books.ends.at({0, 0, 3}) == "policy_lag");
    CHECK(books.ends.size() == 7);
  }

  TEST_CASE_FIXTURE(Async, "LearnerCore: async credit is in bytes, cumulative, and held to") {
    CHECK(sent<wire::GrantT>(join(0))->granted_bytes == 50);  // half of 10 fragments of 10 bytes
    CHECK(sent<wire::GrantT>(join(0))->slots.empty());
    for (uint64_t seq = 0; seq < 2; ++seq) send(0, seq, 0);  // placed at once: the batch takes two
    for (uint64_t seq = 2; seq < 4; ++seq) CHECK(sent<wire::GrantT>(send(0, seq, 0))->granted_bytes == 70);
    for (uint64_t seq = 4; seq < 7; ++seq) send(0, seq, 0);
    CHECK(core.drops().at("dropped/beyond_credit") == 0);
    const Outputs beyond = send(0, 7, 0);
    CHECK(core.drops().at("dropped/beyond_credit") == 1);
    CHECK(count<LearnerCore::Consumed>(beyond) == 0);  // when the update that settles it is finished
    const Outputs first = go(1);                       // two more places
    CHECK(sent<wire::GrantT>(first, "agent-0")->granted_bytes == 100);
    const Outputs down = agent(1, 2, 2, 0, false);
    CHECK(sent<wire::GrantT>(down, "agent-1") == nullptr);
    CHECK(sent<wire::GrantT>(join(0))->granted_bytes == 50 + 100);  // consumed 5, and all of the window
    agent(1, 2, 2, 1);
    CHECK(sent<wire::GrantT>(join(1, 1))->granted_bytes == 50);  // a new agent has sent nothing
  }

  TEST_CASE_FIXTURE(Async, "LearnerCore: async settles what was dropped with the update whose mark passes it") {
    Books books;
    go(1);
    for (uint64_t seq = 0; seq < 4; ++seq) books.add(send(0, seq, 0));  // two are trained on, two have their place
    books.add(send(0, 4, 0));                                           // waits
    books.add(parcel(0, {fragment(0, 5, 0, 0, /*valid=*/false)}));
    CHECK(UpdateTally::decode(tally).marks.at(0).messages() == 2);
    books.add(updated(1));
    CHECK(books.ends.size() == 2);
    books.add(go(2));
    CHECK(UpdateTally::decode(tally).marks.at(0).messages() ==
          4);  // what waits, and the drop after it, would come again
    books.add(updated(2));
    CHECK(books.ends.size() == 4);
    books.add(send(0, 6, 0));
    books.add(go(3));
    CHECK(UpdateTally::decode(tally).marks.at(0).messages() == 7);
    books.add(updated(3));
    CHECK(books.ends.size() == 7);
    CHECK(books.ends.at({0, 0, 5}) == "invalid");
  }

  TEST_CASE_FIXTURE(Async, "LearnerCore: what a dead async agent delivered is used, and its credit returns") {
    Books books;
    for (uint64_t seq = 0; seq < 4; ++seq) books.add(send(2, seq, 0));
    agent(1, 2, 2, 0, false);
    CHECK(sent<wire::GrantT>(join(0))->granted_bytes == 80);  // 10 less the two that wait
    go(1);
    CHECK(sent<wire::GrantT>(join(0))->granted_bytes == 100);
    books.add(updated(1));
    go(2);
    books.add(updated(2));
    CHECK(books.ends.size() == 4);
    CHECK(parcel(1, {fragment(2, 4, 0)}).empty());
    CHECK(core.drops().at("dropped/stale_agent") == 1);
  }

  TEST_CASE("LearnerCore: an async iteration is the updates of its time; it pauses at the report, fragments go on") {
    LearnerCore::Options options = async_options();
    options.min_time_per_iteration = std::chrono::seconds(1);
    options.broadcast_interval = 2;
    Async h(options);
    h.now = std::chrono::seconds(100);
    h.go(1);
    h.send(0, 0, 0, 1), h.send(1, 0, 0, 2);
    h.now += std::chrono::milliseconds(400);
    h.send(0, 1, 0, 3), h.send(1, 1, 0, 4);  // placed at once
    h.send(2, 0, 0, 5);                      // waits for a place
    h.now += std::chrono::milliseconds(600);
    const Outputs first = h.updated(1, {{"loss", 1}, {"learner_update_s", 0.25}});
    CHECK(sent<wire::IterationReportT>(first) == nullptr);
    CHECK(sent<wire::WeightsHeaderT>(first) == nullptr);  // every second update
    REQUIRE(count<LearnerCore::Update>(first) == 1);
    h.now += std::chrono::milliseconds(300);
    const Outputs report = h.updated(2, {{"loss", 2}, {"learner_update_s", 0.5}});
    REQUIRE(sent<wire::IterationReportT>(report) != nullptr);
    CHECK(sent<wire::WeightsHeaderT>(report)->version == 2);
    CHECK(h.core.training_iteration() == 1);
    CHECK(metric(report, "loss") == 1.5);
    CHECK(metric(report, "learner_update_s") == 0.75);
    CHECK(metric(report, "num_updates") == 2);
    CHECK(metric(report, "policy_lag_hist/0") == 2);
    CHECK(metric(report, "policy_lag_hist/1") == 2);
    CHECK(metric(report, "queue_age_max_s") == 0);
    CHECK(sent<wire::IterationReportT>(report)->episodes.size() == 4);
    CHECK(sent<wire::IterationReportT>(report)->num_env_steps_sampled_lifetime == 12);
    CHECK(count<LearnerCore::Assemble>(h.send(3, 0, 2, 6)) == 1);
    CHECK(count<LearnerCore::Update>(h.tick(std::chrono::seconds(9))) == 0);
    CHECK(count<LearnerCore::Update>(h.go(2)) == 1);
    h.now += std::chrono::seconds(1);
    CHECK(sent<wire::IterationReportT>(h.updated(3)) == nullptr);  // when it began there was time left
    h.send(0, 2, 2), h.send(1, 2, 2);
    const Outputs second = h.updated(4);
    CHECK(metric(second, "queue_age_max_s") == doctest::Approx(0.6));
    CHECK(metric(second, "queue_age_mean_s") == doctest::Approx(0.15));
    CHECK(metric(second, "policy_lag_max") == 2);
    CHECK(metric(second, "num_updates") == 2);
  }

  TEST_CASE_FIXTURE(Async, "LearnerCore: an async checkpoint is written at once and has no runners") {
    go(1);
    send(0, 0, 0), send(1, 0, 0);
    CHECK(count<LearnerCore::WriteCheckpoint>(command(wire::CommandKind::checkpoint, 0, 1)) == 0);  // it trains
    updated(1);
    const Outputs outputs = command(wire::CommandKind::checkpoint, 1, 1);
    REQUIRE(count<LearnerCore::WriteCheckpoint>(outputs) == 1);
    CHECK(find<LearnerCore::WriteCheckpoint>(outputs)->runners.empty());
    CHECK(!find<LearnerCore::WriteCheckpoint>(outputs)->with_batch);
    send(0, 1, 0), send(1, 1, 0);
    CHECK(count<LearnerCore::Update>(go(2)) == 0);  // the update thread writes
    CHECK(count<LearnerCore::Update>(step(LearnerCore::CheckpointWritten{1, {}, ""})) == 1);
  }
}

}  // namespace myriad
