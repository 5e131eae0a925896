// HostAgent when its learner is another, or has begun anew.
#include "roles/host_agent.hpp"

#include <fmt/format.h>

#include "tests/simulation/agent_harness.hpp"

namespace myriad {

using namespace agent_harness;

namespace {

/// The only Join of `outputs`.
const wire::JoinT& join(const Outputs& outputs) {
  const auto joins = bodies<HostAgent::ToLearner, wire::JoinT>(outputs);
  REQUIRE(joins.size() == 1);
  return *joins[0];
}

/// What a parcel's messages are, in short: u0.1 = slot 0 is up with incarnation 1, f0.1.2 = its fragment 2.
std::vector<std::string> names(const Outputs& outputs) {
  std::vector<std::string> names;
  for (const Message& message : relayed(outputs)) {
    if (const auto* state = message.as<wire::SlotStateT>())
      names.push_back(fmt::format("{}{}.{}", state->up ? 'u' : 'd', state->slot - kFirst, state->incarnation));
    else if (const auto* header = message.as<wire::FragmentHeaderT>())
      names.push_back(
          fmt::format("f{}.{}.{}", header->key->slot() - kFirst, header->key->incarnation(), header->key->seq()));
    else
      names.push_back("other");
  }
  return names;
}
using Names = std::vector<std::string>;

/// Slot 0 of three has sent two fragments: messages u0.0, f0.0.0 and f0.0.1.
struct Sent : Rig {
  Sent() : Rig(true) {
    weights(0);
    up(kFirst);
    grant_slot(kFirst, 0, 2);
    fragment(kFirst, 0, 0);
    fragment(kFirst, 0, 1);
  }
};

}  // namespace

TEST_SUITE("roles/host_agent") {
  TEST_CASE_FIXTURE(Sent, "HostAgent: moved, its Join says where it begins and what was before; the driver hears") {
    released(2, 3);
    const Outputs outputs = moves();
    const wire::JoinT& said = join(outputs);
    CHECK(!said.based);
    CHECK(said.released == 2);
    CHECK(said.sent == 3);
    CHECK(said.fragments == 1);
    REQUIRE(said.slots.size() == 1);  // of the other two nothing was said
    CHECK(said.slots[0].slot() == kFirst);
    CHECK(said.slots[0].incarnation() == 0);
    CHECK(said.slots[0].seq() == 1);
    CHECK(said.slots[0].up());
    CHECK(find<HostAgent::ToLearner>(outputs)->message.epoch == kEpoch + 1);
    REQUIRE(find<HostAgent::ToDriver>(outputs) != nullptr);
    CHECK(find<HostAgent::ToDriver>(outputs)->message.epoch == kEpoch + 1);
    CHECK(agent.epoch() == kEpoch + 1);
    CHECK(step(HostAgent::Moved{kEpoch + 1}).empty());  // told again
    CHECK(step(HostAgent::Moved{kEpoch}).empty());
  }

  TEST_CASE_FIXTURE(Sent, "HostAgent: what was before is said until the learner knows it, and not after") {
    released(2, 3);
    moves();
    CHECK(join(wait(HostAgent::kJoinEvery)).slots.size() == 1);
    wire::GrantT body = grant();
    body.based = false;  // its learner does not begin there
    body.received = body.released = 3;
    const Outputs answer = learner(std::move(body));
    CHECK(join(answer).released == 3);
    CHECK(join(answer).fragments == 2);
    CHECK(join(answer).slots.at(0).seq() == 2);
    wire::GrantT again = grant();
    again.based = false;
    again.received = again.released = 3;
    CHECK(bodies<HostAgent::ToLearner, wire::JoinT>(learner(std::move(again))).empty());  // nothing new: no echo
    released(3, 3);
    const Outputs later = wait(HostAgent::kJoinEvery);
    CHECK(join(later).based);
    CHECK(join(later).slots.empty());
    CHECK(join(later).released == 3);
  }

  TEST_CASE_FIXTURE(Sent, "HostAgent: moved, it sends all that is not released again, at once, then what is new") {
    released(1, 3);  // received is not enough: the learner that had it may be gone
    CHECK(names(flush()).empty());
    moves();
    const Outputs outputs = flush();
    CHECK(names(outputs) == Names{"f0.0.0", "f0.0.1"});
    for (const auto& output : outputs)
      if (const auto* to = std::get_if<HostAgent::ToLearner>(&output)) CHECK(to->message.epoch == kEpoch + 1);
    CHECK(names(up(kFirst + 1)) == Names{"u1.0"});
    released(2, 2);
    moves();
    CHECK(names(flush()) == Names{"f0.0.1", "u1.0"});
    released(4, 4);
    moves();
    CHECK(names(flush()).empty());
  }

  TEST_CASE_FIXTURE(Sent, "HostAgent: moved, the old learner's grants and weights are nobody's") {
    moves();
    epoch = kEpoch;
    CHECK(permits(grant_slot(kFirst, 0, 7)).empty());
    released(3, 3);
    CHECK(count<HostAgent::Install>(weights(5)) == 0);
    CHECK(agent.malformed() == 3);
    epoch = kEpoch + 1;
    CHECK(names(moves()).empty());
    CHECK(names(flush()) == Names{"u0.0", "f0.0.0", "f0.0.1"});  // it had forgotten nothing
    CHECK(permits(grant_slot(kFirst, 0, 7)) == Permits{{kFirst, 7}});
  }

  TEST_CASE("HostAgent: moved, credit comes from a learner that knows where it begins") {
    Rig rig(true);
    rig.weights(3);
    rig.up(kFirst);
    CHECK(permits(rig.grant_slot(kFirst, 0, 1, /*version=*/9)).empty());
    rig.moves();
    wire::GrantT body = rig.grant();
    body.based = false;
    body.slots.emplace_back(kFirst, 0, 5);
    CHECK(permits(rig.learner(std::move(body))).empty());
    // A round of before may come again: the weights of then are enough.
    CHECK(permits(rig.grant_slot(kFirst, 0, 2, /*version=*/3)) == Permits{{kFirst, 2}});
  }

  TEST_CASE("HostAgent: moved, what was granted for weights that never came is not permitted with older ones") {
    Rig rig(true);
    rig.weights(3);
    rig.up(kFirst);
    CHECK(permits(rig.grant_slot(kFirst, 0, 1, /*version=*/3)) == Permits{{kFirst, 1}});
    CHECK(permits(rig.grant_slot(kFirst, 0, 2, /*version=*/4)).empty());
    rig.moves();
    // The round of version 3 comes again; the one after it is granted when it begins.
    CHECK(permits(rig.grant_slot(kFirst, 0, 1, /*version=*/3)).empty());
    CHECK(permits(rig.grant_slot(kFirst, 0, 2, /*version=*/4)).empty());
    CHECK(permits(rig.weights(4)) == Permits{{kFirst, 2}});
  }

  TEST_CASE("HostAgent: what was before the released messages: a runner's start, fragments, end and next start") {
    Rig rig(true);
    rig.weights(0);
    rig.up(kFirst);
    rig.grant_slot(kFirst, 0, 1);
    rig.fragment(kFirst, 0, 0);
    rig.ended(kFirst, 0);  // restarts at once
    rig.up(kFirst, 1);
    rig.grant_slot(kFirst, 1, 1);
    wire::RunnerStateT state;
    state.slot = kFirst;
    state.incarnation = 1;
    rig.runner(kFirst, 1, std::move(state), {SharedBytes::of(std::vector<std::byte>(8))});
    rig.fragment(kFirst, 1, 0);
    rig.ended(kFirst + 1, 0);  // it never came up
    CHECK(join(rig.moves()).slots.empty());
    struct Want {
      uint32_t incarnation;
      uint64_t seq;
      bool up;
      uint64_t fragments;
    };
    const std::vector<Want> wants{{0, 0, true, 0}, {0, 1, true, 1}, {0, 1, false, 1},
                                  {1, 0, true, 1}, {1, 0, true, 1}, {1, 1, true, 2}};
    for (size_t i = 0; i < wants.size(); ++i) {
      rig.released(i + 1, i + 1);
      const Outputs outputs = rig.moves();
      const wire::JoinT& said = join(outputs);
      CAPTURE(i);
      CHECK(said.released == i + 1);
      CHECK(said.fragments == wants[i].fragments);
      REQUIRE(said.slots.size() == 1);
      CHECK(said.slots[0].incarnation() == wants[i].incarnation);
      CHECK(said.slots[0].seq() == wants[i].seq);
      CHECK(said.slots[0].up() == wants[i].up);
    }
    rig.released(7, 7);
    const Outputs outputs = rig.moves();
    REQUIRE(join(outputs).slots.size() == 2);
    CHECK(join(outputs).slots[1].slot() == kFirst + 1);
    CHECK(!join(outputs).slots[1].up());
  }

  TEST_CASE("HostAgent: async, the next learner hears what the last one had allowed and what of it was used") {
    Rig rig(false);
    rig.weights(0);
    rig.up(kFirst);
    rig.grant_bytes(3);
    for (uint64_t seq = 0; seq < 3; ++seq) rig.fragment(kFirst, 0, seq);
    rig.released(3, 4);
    const Outputs outputs = rig.moves();
    CHECK(join(outputs).granted_fragments == 3);
    CHECK(join(outputs).fragments == 2);
    CHECK(permits(rig.grant_bytes(3)).empty());  // what it allows is cumulative over all learners
    CHECK(permits(rig.grant_bytes(4)) == Permits{{kFirst, 4}});
  }

  TEST_CASE_FIXTURE(Sent, "HostAgent: drained is when a learner has everything, not when one had it") {
    step(HostAgent::Drain{});
    CHECK(names(flush()) == Names{"d0.0", "d1.0", "d2.0"});
    CHECK(count<HostAgent::Drained>(released(0, 5)) == 0);  // of six
    moves();
    CHECK(count<HostAgent::Drained>(flush()) == 0);
    wire::GrantT body = grant();
    body.based = false;
    CHECK(count<HostAgent::Drained>(learner(std::move(body))) == 0);
    CHECK(count<HostAgent::Drained>(released(0, 5)) == 0);
    const Outputs last = released(0, 6);  // nobody waits for the update with it
    CHECK(count<HostAgent::Drained>(last) == 1);
  }

  TEST_CASE_FIXTURE(Sent, "HostAgent: moved with everything received but not released, it has not drained yet") {
    released(0, 3);
    moves();
    step(HostAgent::Drain{});
    CHECK(names(flush()) == Names{"u0.0", "f0.0.0", "f0.0.1", "d0.0", "d1.0", "d2.0"});
    CHECK(count<HostAgent::Drained>(released(0, 3)) == 0);
    CHECK(count<HostAgent::Drained>(released(0, 6)) == 1);
  }
}

}  // namespace myriad
