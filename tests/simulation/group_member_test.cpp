#include "roles/group_member.hpp"

#include <doctest/doctest.h>

#include "rl/check.hpp"
#include "tests/simulation/outputs.hpp"

namespace myriad {
namespace {

using Outputs = std::vector<GroupMember::Output>;
using wire::LearnerStage;
constexpr uint64_t kRun = 5, kFragmentSteps = 10;

/// The newest status said.
const wire::LearnerStatusT* status(const Outputs& outputs) {
  const wire::LearnerStatusT* last = nullptr;
  for (const auto& output : outputs)
    if (const auto* to = std::get_if<GroupMember::ToDriver>(&output))
      if (const auto* body = to->message.as<wire::LearnerStatusT>()) last = body;
  return last;
}

/// Shard 2, second process, with the weights of version 7 after 3 iterations and 70 env steps.
struct Rig {
  GroupMember member;
  Time now = std::chrono::seconds(10);

  static GroupMember::Options options() {
    GroupMember::Options options;
    options.run = kRun;
    options.shard = 2;
    options.incarnation = 1;
    options.fragment_steps = kFragmentSteps;
    options.version = 7;
    options.state = {3, 70, {wire::AgentMark(0, 0, 9)}};
    return options;
  }
  Rig() : member(options()) {}

  Outputs step(const GroupMember::Input& input) {
    Outputs outputs;
    member.step(input, now, outputs);
    return outputs;
  }
  template <class T>
  Outputs receive(T body, uint64_t epoch, uint64_t run = kRun) {
    Message message = make_message(std::move(body));
    message.run = run;
    message.epoch = epoch;
    return step(GroupMember::FromDriver{std::move(message)});
  }
  Outputs call(uint64_t epoch) { return receive(wire::GroupOrderT{}, epoch); }
  static wire::GroupOrderT order(uint64_t version) {
    wire::GroupOrderT order;
    order.form = true;
    order.version = version;
    order.rank = 1;
    order.size = 3;
    order.state = std::make_unique<wire::GroupStateT>(to_wire(GroupState{40, 400, {wire::AgentMark(1, 2, 3)}}));
    return order;
  }
  Outputs form(uint64_t epoch, uint64_t version) { return receive(order(version), epoch); }
  Outputs ended(GroupMember::Ended ended) {
    ended.parts = {0, 1};
    ended.num_parts = 3;
    return step(ended);
  }
  Outputs ended(std::string broken = "") {
    GroupMember::Ended end;
    end.broken = std::move(broken);
    return ended(std::move(end));
  }
  static UpdateTally tally(uint64_t fragments = 2) { return {fragments, true, {wire::AgentMark(0, 0, 12)}}; }
  /// It is in the group of epoch 1, with version 7.
  void formed() {
    call(1);
    form(1, 7);
    ended();
    REQUIRE(member.stage() == LearnerStage::formed);
  }
  /// An update broke after it was finished here.
  Outputs breaks_prepared() {
    step(GroupMember::Began{});
    GroupMember::Ended end;
    end.tally = tally();
    end.settled = false;
    end.prepared = true;
    end.broken = "learner 1 does not answer";
    return ended(std::move(end));
  }
};

}  // namespace

TEST_SUITE("roles/group_member") {
  TEST_CASE("GroupMember: called, it says who it is and what it has") {
    Rig rig;
    const Outputs outputs = rig.call(4);
    CHECK(count<GroupMember::Leave>(outputs) == 1);
    const auto* said = status(outputs);
    REQUIRE(said != nullptr);
    CHECK(find<GroupMember::ToDriver>(outputs)->message.run == kRun);
    CHECK(find<GroupMember::ToDriver>(outputs)->message.epoch == 4);
    CHECK(said->shard == 2);
    CHECK(said->incarnation == 1);
    CHECK(said->stage == LearnerStage::called);
    CHECK(said->version == 7);
    CHECK(!said->prepared);
    CHECK(said->parts == std::vector<uint32_t>{0});
    CHECK(said->num_parts == 1);
    CHECK(said->busy_s == 0.0f);
    CHECK(said->broken.empty());
    REQUIRE(said->state != nullptr);
    CHECK(said->state->training_iteration == 3);
    CHECK(said->state->num_env_steps_sampled_lifetime == 70);
    CHECK(said->state->marks.at(0).messages() == 9);
  }

  TEST_CASE("GroupMember: called while its update thread is busy, it leaves until that ends, and joins nobody before") {
    Rig rig;
    rig.formed();
    rig.step(GroupMember::Began{});
    const Outputs outputs = rig.call(2);
    CHECK(count<GroupMember::Leave>(outputs) == 1);  // what runs is aborted
    CHECK(status(outputs)->stage == LearnerStage::leaving);
    CHECK(status(outputs)->state == nullptr);  // it may still change
    const Outputs early = rig.form(2, 7);
    CHECK(count<GroupMember::Join>(early) == 0);
    CHECK(status(early)->stage == LearnerStage::leaving);
    GroupMember::Ended end;
    end.tally = Rig::tally();
    end.settled = false;
    end.prepared = true;
    end.broken = "aborted";
    const Outputs called = rig.ended(std::move(end));
    REQUIRE(status(called) != nullptr);
    CHECK(status(called)->stage == LearnerStage::called);
    CHECK(status(called)->broken.empty());  // that was the epoch before
    CHECK(status(called)->prepared);
    CHECK(status(called)->state->training_iteration == 41);
    CHECK(status(called)->parts == std::vector<uint32_t>{0, 1});
    CHECK(status(called)->num_parts == 3);
    CHECK(count<GroupMember::Join>(rig.form(2, 7)) == 1);
  }

  TEST_CASE("GroupMember: an order that comes again is answered, not obeyed again") {
    Rig rig;
    rig.call(1);
    const Outputs called = rig.call(1);
    CHECK(count<GroupMember::Leave>(called) == 0);
    CHECK(status(called)->stage == LearnerStage::called);
    const Outputs joins = rig.form(1, 7);
    REQUIRE(count<GroupMember::Join>(joins) == 1);
    CHECK(status(joins)->stage == LearnerStage::joining);
    const GroupPart& part = find<GroupMember::Join>(joins)->part;
    CHECK(part.epoch == 1);
    CHECK(part.order.rank == 1);
    CHECK(part.state.training_iteration == 40);
    const Outputs repeat = rig.form(1, 7);
    CHECK(count<GroupMember::Join>(repeat) == 0);
    CHECK(status(repeat)->stage == LearnerStage::joining);
    const Outputs begins = rig.ended();
    REQUIRE(count<GroupMember::Begin>(begins) == 1);
    CHECK(find<GroupMember::Begin>(begins)->part.state.marks.at(0).messages() == 3);
    CHECK(status(begins)->stage == LearnerStage::formed);
    const Outputs late = rig.form(1, 7);
    CHECK(late.size() == 1);
    CHECK(status(late)->stage == LearnerStage::formed);
  }

  TEST_CASE("GroupMember: an order may be the first word of its epoch") {
    Rig rig;
    const Outputs outputs = rig.form(3, 7);
    CHECK(count<GroupMember::Leave>(outputs) == 1);
    CHECK(count<GroupMember::Join>(outputs) == 1);
    CHECK(rig.member.epoch() == 3);
  }

  TEST_CASE("GroupMember: older epochs and other runs are not heard") {
    Rig rig;
    rig.call(5);
    CHECK(rig.call(4).empty());
    CHECK(rig.form(4, 7).empty());
    CHECK(rig.receive(Rig::order(7), 5, kRun + 1).empty());
    CHECK(rig.member.epoch() == 5);
    CHECK(rig.member.stage() == LearnerStage::called);
  }

  TEST_CASE("GroupMember: updates that all finish count at once, those of nobody's fragments do not") {
    Rig rig;
    rig.formed();
    rig.step(GroupMember::Began{});
    GroupMember::Ended end;
    end.tally = Rig::tally();
    CHECK(rig.ended(end).empty());  // an update like any other: the next status has time
    CHECK(rig.member.version() == 8);
    rig.step(GroupMember::Began{});
    end.tally = Rig::tally(/*fragments=*/0);
    CHECK(rig.ended(end).empty());
    CHECK(rig.member.version() == 8);
    const Outputs called = rig.call(2);
    CHECK(status(called)->version == 8);
    CHECK(!status(called)->prepared);
    CHECK(status(called)->state->training_iteration == 41);
    CHECK(status(called)->state->num_env_steps_sampled_lifetime == 400 + 2 * kFragmentSteps);
  }

  TEST_CASE("GroupMember: what it had prepared counts when the driver says its version plus one") {
    Rig rig;
    rig.formed();
    CHECK(status(rig.breaks_prepared())->broken == "learner 1 does not answer");
    const Outputs called = rig.call(2);
    CHECK(status(called)->version == 7);
    CHECK(status(called)->prepared);
    CHECK(status(called)->state->training_iteration == 41);  // of what it prepared
    CHECK(status(called)->state->marks.size() == 2);
    rig.form(2, 8);
    CHECK(rig.member.version() == 8);
    const Outputs broken = rig.ended("nobody is there");
    CHECK(status(broken)->version == 8);
    CHECK(!status(broken)->prepared);
    CHECK(status(broken)->state->training_iteration == 41);
  }

  TEST_CASE("GroupMember: what it had prepared is gone when the driver says its version, or one that it lacks") {
    for (const uint64_t version : {uint64_t{7}, uint64_t{9}}) {
      Rig rig;
      rig.formed();
      rig.breaks_prepared();
      rig.call(2);
      CHECK(count<GroupMember::Join>(rig.form(2, version)) == 1);
      CHECK(rig.member.version() == 7);
      const Outputs broken = rig.ended("nobody is there");  // before it got the state from another
      CHECK(status(broken)->version == 7);
      CHECK(!status(broken)->prepared);
      CHECK(status(broken)->state->training_iteration == 40);
      rig.form(3, version);
      rig.ended();
      CHECK(rig.member.version() == version);
    }
  }

  TEST_CASE("GroupMember: what it had prepared waits over epochs that did not form") {
    Rig rig;
    rig.formed();
    rig.breaks_prepared();
    rig.call(2);
    const Outputs third = rig.call(3);
    CHECK(status(third)->prepared);
    CHECK(status(third)->state->training_iteration == 41);
    rig.form(3, 8);
    CHECK(rig.member.version() == 8);
  }

  TEST_CASE("GroupMember: one that could not join says why, and does not try again in that epoch") {
    Rig rig;
    rig.call(1);
    rig.form(1, 7);
    const Outputs outputs = rig.ended("rendezvous: learner 0 is not there after 30 s");
    CHECK(count<GroupMember::Begin>(outputs) == 0);
    CHECK(status(outputs)->stage == LearnerStage::called);
    CHECK(status(outputs)->broken == "rendezvous: learner 0 is not there after 30 s");
    CHECK(count<GroupMember::Join>(rig.form(1, 7)) == 0);
    const Outputs next = rig.call(2);
    CHECK(status(next)->broken.empty());
    CHECK(count<GroupMember::Join>(rig.form(2, 7)) == 1);
  }

  TEST_CASE("GroupMember: an update that broke is told at once, with what is known of it") {
    Rig rig;
    rig.formed();
    rig.step(GroupMember::Began{});
    GroupMember::Ended end;
    end.settled = false;
    end.broken = "connection closed";
    const Outputs outputs = rig.ended(std::move(end));
    REQUIRE(status(outputs) != nullptr);
    CHECK(status(outputs)->stage == LearnerStage::formed);
    CHECK(status(outputs)->broken == "connection closed");
    CHECK(!status(outputs)->prepared);
    CHECK(rig.member.version() == 7);
  }

  TEST_CASE("GroupMember: four times a second it says what its update thread does, and for how long") {
    Rig rig;
    rig.formed();
    rig.step(GroupMember::Began{});
    rig.now += std::chrono::milliseconds(500);
    Outputs outputs = rig.step(GroupMember::Tick{.operations = 12, .inside = true});
    REQUIRE(status(outputs) != nullptr);
    CHECK(status(outputs)->operations == 12);
    CHECK(status(outputs)->inside);
    CHECK(status(outputs)->busy_s == doctest::Approx(0.5));
    CHECK(rig.member.next_timer() == rig.now + GroupMember::kTick);
    CHECK(rig.step(GroupMember::Tick{.operations = 13, .inside = true}).empty());  // not yet
    GroupMember::Ended end;
    end.tally = Rig::tally();
    rig.ended(std::move(end));
    rig.now += GroupMember::kTick;
    outputs = rig.step(GroupMember::Tick{.operations = 13, .inside = false});
    CHECK(status(outputs)->operations == 13);
    CHECK(!status(outputs)->inside);
    CHECK(status(outputs)->busy_s == 0.0f);
    CHECK(status(outputs)->version == 8);
    CHECK_THROWS_AS((rig.step(GroupMember::Began{}), rig.step(GroupMember::Began{})), Error);
  }

  TEST_CASE("GroupMember: what others put into the rendezvous goes on when it is of this epoch") {
    Rig rig;
    rig.call(2);
    const auto found = [] {
      wire::RendezvousT found;
      for (const char* key : {"a", "b"}) {
        found.entries.push_back(std::make_unique<wire::RendezvousEntryT>());
        found.entries.back()->key = key;
        found.entries.back()->value = {7};
      }
      return found;
    };
    const Outputs outputs = rig.receive(found(), 2);
    REQUIRE(count<GroupMember::Put>(outputs) == 2);
    CHECK(find<GroupMember::Put>(outputs)->key == "a");
    CHECK(find<GroupMember::Put>(outputs)->value == std::vector<uint8_t>{7});
    CHECK(rig.receive(found(), 1).empty());
    CHECK(rig.receive(found(), 3).empty());  // its order comes first
  }
}

}  // namespace myriad
