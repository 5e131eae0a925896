#include "roles/host_agent.hpp"

#include "rl/wire/process_error.hpp"
#include "tests/simulation/agent_harness.hpp"

namespace myriad {

using namespace agent_harness;

TEST_SUITE("roles/host_agent") {
  TEST_CASE("HostAgent: what wants newer weights is permitted when they lie in shared memory, not when they came") {
    Rig rig(true);
    rig.weights(3);
    rig.up(kFirst);
    rig.buffers_are_free = false;  // slow runners read from all of them
    CHECK(count<HostAgent::Install>(rig.weights(4)) == 1);
    CHECK(permits(rig.grant_slot(kFirst, 0, 1, /*version=*/4)).empty());
    rig.step(HostAgent::Installed{4});
    CHECK(permits(rig.flush()) == Permits{{kFirst, 1}});
  }

  TEST_CASE("HostAgent: starts its runners, and says at once and four times a second that it is there") {
    HostAgent agent(Rig::options(true));
    Outputs outputs;
    agent.step(HostAgent::Start{}, Seconds(1), outputs);
    CHECK(count<HostAgent::Spawn>(outputs) == 3);
    CHECK(find<HostAgent::Spawn>(outputs)->slot == kFirst);
    const auto joins = bodies<HostAgent::ToLearner, wire::JoinT>(outputs);
    REQUIRE(joins.size() == 1);
    CHECK(joins[0]->agent == 1);
    CHECK(joins[0]->spec_hash == kSpec);
    CHECK(joins[0]->fragment_hash == kLayout);
    CHECK(joins[0]->weights_version == -1);
    Rig rig(true);
    const Outputs second = rig.wait(Seconds(1));
    CHECK(bodies<HostAgent::ToLearner, wire::JoinT>(second).size() == 4);
    CHECK(bodies<HostAgent::ToDriver, wire::AgentStatusT>(second).size() == 2);
  }

  TEST_CASE("HostAgent: a runner's event goes to the driver; failures it tells of count with its end") {
    Rig rig(true);
    rig.up(kFirst);
    wire::EventT event;
    event.kind = "env-failure";
    event.text = "runner 4: the joint came off";
    const Outputs told = rig.runner(kFirst, 0, std::move(event));
    REQUIRE(bodies<HostAgent::ToDriver, wire::EventT>(told).size() == 1);
    CHECK(bodies<HostAgent::ToDriver, wire::EventT>(told)[0]->text == "runner 4: the joint came off");
    CHECK(count<HostAgent::Kill>(told) == 0);
    wire::ProcessErrorT error;
    error.slot = kFirst;
    error.failures = 3;
    for (uint32_t incarnation = 0; incarnation < 2; ++incarnation) {
      CHECK(!rig.agent.quarantined(kFirst));
      rig.runner(kFirst, incarnation, error);
      rig.step(HostAgent::RunnerExited{kFirst, incarnation, "exit status 3"});
      rig.wait(Seconds(1));
    }
    CHECK(rig.agent.quarantined(kFirst));  // 6 of 5
  }

  TEST_CASE("HostAgent: a fragment ends the row of its runner's failures where an episode ended in it") {
    for (const bool ended : {false, true}) {
      Rig rig(true);
      for (uint32_t incarnation = 0; incarnation < 5; ++incarnation) {
        CHECK(!rig.agent.quarantined(kFirst));
        rig.up(kFirst, incarnation);
        rig.weights(1);
        rig.grant_slot(kFirst, incarnation, 1);
        wire::FragmentHeaderT header;
        header.key = std::make_unique<wire::FragmentKey>(kFirst, incarnation, 0);
        if (ended) header.episodes.emplace_back(1, 1, 0, 0);
        rig.runner(kFirst, incarnation, std::move(header));
        rig.step(HostAgent::RunnerExited{kFirst, incarnation, "SIGSEGV"});
        rig.wait(Seconds(3));
      }
      CHECK(rig.agent.quarantined(kFirst) != ended);
    }
  }

  TEST_CASE("HostAgent: permits by slot wait for the weights they need") {
    Rig rig(true);
    rig.up(kFirst);
    CHECK(permits(rig.grant_slot(kFirst, 0, 2, 5)).empty());
    CHECK(permits(rig.weights(4)).empty());
    const Outputs outputs = rig.weights(5);
    CHECK(permits(outputs) == Permits{{kFirst, 2}});
    // The weights are there to be read before the runner is told to.
    size_t install = 0, permit = 0;
    for (size_t i = 0; i < outputs.size(); ++i) {
      if (std::holds_alternative<HostAgent::Install>(outputs[i])) install = i;
      if (std::holds_alternative<HostAgent::ToRunner>(outputs[i])) permit = i;
    }
    CHECK(install < permit);
    CHECK(permits(rig.grant_slot(kFirst, 0, 2, 5)).empty());  // a repeat
    CHECK(permits(rig.grant_slot(kFirst, 0, 1, 5)).empty());  // an older one
    CHECK(rig.agent.sampling() == std::set<uint32_t>{kFirst});
  }

  TEST_CASE("HostAgent: weights of another module, or of other sizes, are not installed and count as malformed") {
    const auto sent = [](Rig& rig, Weights weights) {
      Message message = weights_message(std::make_shared<const Weights>(std::move(weights)));
      message.run = kRun;
      message.epoch = kEpoch;
      return rig.step(HostAgent::FromLearner{std::move(message)});
    };
    Rig rig(true);
    rig.up(kFirst);
    rig.weights(4);
    const std::vector<Weights> wrong{{5, kSpec + 1, {1, 2}, {}}, {5, 0, {1, 2}, {}},
                                     {5, kSpec, {1}, {}},        {5, kSpec, {1, 2, 3}, {}},
                                     {5, kSpec, {1, 2}, {0.5}},  {5, kSpec, {1, 2}, {}, {0, 1, 1}}};
    for (size_t i = 0; i < wrong.size(); ++i) {
      CAPTURE(i);
      const Outputs outputs = sent(rig, wrong[i]);
      CHECK(count<HostAgent::Install>(outputs) == 0);
      CHECK(bodies<HostAgent::ToLearner, wire::JoinT>(outputs).empty());
      CHECK(rig.agent.malformed() == i + 1);
      CHECK(permits(rig.grant_slot(kFirst, 0, 1, 5)).empty());  // which wants version 5
    }
    const Outputs right = sent(rig, {5, kSpec, {1, 2}, {}});
    CHECK(count<HostAgent::Install>(right) == 1);
    CHECK(find<HostAgent::Install>(right)->weights->version == 5);
    CHECK(permits(rig.flush()) == Permits{{kFirst, 1}});
    CHECK(count<HostAgent::Install>(sent(rig, {4, kSpec, {7, 7}, {}})) == 0);  // older: late, not malformed
    CHECK(rig.agent.malformed() == wrong.size());
  }

  TEST_CASE("HostAgent: what a slot was granted before its runner was there is permitted when it comes") {
    Rig rig(true);
    rig.weights(0);
    CHECK(permits(rig.grant_slot(kFirst, 0, 1)).empty());
    CHECK(permits(rig.up(kFirst)) == Permits{{kFirst, 1}});
  }

  TEST_CASE("HostAgent: the credit of a runner that ended is not the next one's") {
    Rig rig(true);
    rig.weights(0);
    rig.up(kFirst);
    rig.ended(kFirst, 0);  // the first crash restarts at once
    CHECK(rig.agent.incarnation(kFirst) == 1);
    rig.ended(kFirst, 1);  // the second backs off
    CHECK(!rig.agent.running(kFirst));
    rig.grant_slot(kFirst, 1, 3);  // was on its way to the dead one
    rig.wait(Seconds(1));
    REQUIRE(rig.agent.incarnation(kFirst) == 2);
    CHECK(permits(rig.up(kFirst, 2)).empty());
    CHECK(permits(rig.grant_slot(kFirst, 2, 1)) == Permits{{kFirst, 1}});
  }

  TEST_CASE("HostAgent: async credit goes to who has waited longest, two fragments ahead") {
    Rig rig(false);
    rig.weights(0);
    rig.up(kFirst + 2);
    rig.up(kFirst);
    CHECK(permits(rig.grant_bytes(3)) == Permits{{kFirst, 1}, {kFirst + 2, 2}});
    CHECK(permits(rig.grant_bytes(3)).empty());  // cumulative: a repeat grants nothing
    rig.up(kFirst + 1);
    // The second turn of the first runner comes before those of the one that came last.
    CHECK(permits(rig.grant_bytes(5)) == Permits{{kFirst, 2}, {kFirst + 1, 1}});
    CHECK(permits(rig.grant_bytes(6)) == Permits{{kFirst + 1, 2}});
    CHECK(permits(rig.grant_bytes(8)).empty());  // each is two ahead
    const Outputs outputs = rig.fragment(kFirst + 1, 0, 0);
    CHECK(permits(outputs) == Permits{{kFirst + 1, 3}});
    REQUIRE(relayed(outputs).size() == 1);
    CHECK(relayed(outputs)[0].as<wire::FragmentHeaderT>()->key->slot() == kFirst + 1);
  }

  TEST_CASE("HostAgent: a runner's death gives its credit to the others") {
    Rig rig(false);
    rig.weights(0);
    rig.up(kFirst);
    rig.grant_bytes(2);
    rig.up(kFirst + 1);
    rig.fragment(kFirst, 0, 0);  // one came, one was still to come
    CHECK(permits(rig.ended(kFirst, 0)) == Permits{{kFirst + 1, 1}});
  }

  TEST_CASE("HostAgent: credit that a dead runner was not yet permitted goes to the others as well") {
    Rig rig(false);
    rig.weights(4);
    rig.up(kFirst);
    CHECK(permits(rig.grant_bytes(1)) == Permits{{kFirst, 1}});
    wire::GrantT body = rig.grant();
    body.granted_bytes = 200;
    body.weights_version = 5;
    CHECK(permits(rig.learner(std::move(body))).empty());  // its second waits for the weights
    rig.up(kFirst + 1);
    CHECK(permits(rig.ended(kFirst, 0)).empty());
    CHECK(permits(rig.weights(5)) == Permits{{kFirst + 1, 2}});
  }

  TEST_CASE("HostAgent: a runner that says what it may not is killed, and what it said goes nowhere") {
    const auto killed = [](Rig& rig, const Outputs& outputs) {
      const auto* kill = find<HostAgent::Kill>(outputs);
      REQUIRE(kill != nullptr);
      CHECK(kill->slot == kFirst);
      CHECK(kill->signal == SIGKILL);
      CHECK(relayed(outputs).empty());
      CHECK(rig.agent.malformed() == 1);
      return rig.ended(kFirst, 0, "SIGKILL");
    };
    SUBCASE("a fragment nobody permitted") {
      Rig rig(false);
      rig.weights(0);
      rig.up(kFirst);
      const Outputs outputs = rig.fragment(kFirst, 0, 0);
      const Outputs ended = killed(rig, outputs);
      const auto events = bodies<HostAgent::ToDriver, wire::EventT>(ended);
      REQUIRE(!events.empty());
      CHECK(events[0]->text.find("nobody permitted") != std::string::npos);
    }
    SUBCASE("another's fragment") {
      Rig rig(false);
      rig.weights(0);
      rig.up(kFirst);
      rig.up(kFirst + 1);
      rig.grant_bytes(4);
      wire::FragmentHeaderT header;
      header.key = std::make_unique<wire::FragmentKey>(kFirst + 1, 0, 0);
      killed(rig, rig.runner(kFirst, 0, std::move(header), {SharedBytes::of(std::vector<std::byte>(64))}));
    }
    SUBCASE("the same fragment again") {
      Rig rig(false);
      rig.weights(0);
      rig.up(kFirst);
      rig.grant_bytes(2);
      rig.fragment(kFirst, 0, 0);
      killed(rig, rig.fragment(kFirst, 0, 0));
    }
    SUBCASE("no message") {
      Rig rig(false);
      rig.up(kFirst);
      const std::vector<std::byte> junk(32, std::byte{7});
      Outputs outputs = rig.step(HostAgent::FromRunner{kFirst, 0, junk});
      killed(rig, outputs);
    }
  }

  TEST_CASE("HostAgent: the learner hears of a runner's end, also of one that never came up") {
    Rig rig(true);
    rig.up(kFirst);
    for (const uint32_t slot : {kFirst, kFirst + 1}) {
      const auto messages = relayed(rig.ended(slot, 0));
      REQUIRE(messages.size() == 1);
      const auto* state = messages[0].as<wire::SlotStateT>();
      REQUIRE(state != nullptr);
      CHECK(state->slot == slot);
      CHECK(!state->up);
    }
  }

  TEST_CASE("HostAgent: drained, it permits nothing more, sends all it has and leaves when the learner has it") {
    Rig rig(false);
    rig.weights(0);
    rig.up(kFirst);
    rig.grant_bytes(1);
    rig.step(HostAgent::Drain{});
    CHECK(permits(rig.grant_bytes(9)).empty());
    const Outputs last = rig.fragment(kFirst, 0, 0);
    CHECK(relayed(last).size() >= 2);  // the fragment, and that its runners are down
    CHECK(count<HostAgent::Drained>(last) == 0);
    CHECK(count<HostAgent::Drained>(rig.wait(Seconds(1))) == 0);  // sent again, never forgotten
    wire::GrantT grant = rig.grant();
    const Outputs waited = rig.wait(Seconds(1));
    const auto joins = bodies<HostAgent::ToLearner, wire::JoinT>(waited);
    REQUIRE(!joins.empty());
    grant.received = 1;
    CHECK(count<HostAgent::Drained>(rig.learner(wire::GrantT(grant))) == 0);
    const uint64_t sent = bodies<HostAgent::ToLearner, wire::JoinT>(rig.wait(Seconds(1)))[0]->sent;
    grant.received = sent;
    const Outputs outputs = rig.learner(wire::GrantT(grant));
    CHECK(count<HostAgent::Drained>(outputs) == 1);
    const auto status = bodies<HostAgent::ToDriver, wire::AgentStatusT>(outputs);
    REQUIRE(status.size() == 1);
    CHECK(status[0]->leaving);
  }

  TEST_CASE("HostAgent: twenty events a second, the rest is counted") {
    HostAgent::Options options = Rig::options(true);
    options.slots.num_slots = 200;
    HostAgent agent(options);
    Outputs outputs;
    Time now = Seconds(10);
    agent.step(HostAgent::Start{}, now, outputs);
    outputs.clear();
    for (uint32_t slot = 0; slot < 200; ++slot)
      agent.step(HostAgent::RunnerExited{kFirst + slot, 0, "SIGSEGV"}, now, outputs);
    CHECK(bodies<HostAgent::ToDriver, wire::EventT>(outputs).size() == HostAgent::kEventsPerSecond);
    outputs.clear();
    now += Seconds(1);
    agent.step(HostAgent::Tick{}, now, outputs);
    const auto events = bodies<HostAgent::ToDriver, wire::EventT>(outputs);
    REQUIRE(events.size() == 1);
    CHECK(events[0]->text.find("180 more") != std::string::npos);
  }

  TEST_CASE("HostAgent: a runner's last words go to the driver with its slot") {
    Rig rig(true);
    rig.up(kFirst + 1);
    wire::ProcessErrorT error = process_error(Error(Exit::usage, "bad-env", "no such map"));
    error.slot = 0;  // whatever it says
    const auto outputs = rig.runner(kFirst + 1, 0, std::move(error));
    const auto errors = bodies<HostAgent::ToDriver, wire::ProcessErrorT>(outputs);
    REQUIRE(errors.size() == 1);
    CHECK(errors[0]->slot == kFirst + 1);
    CHECK(errors[0]->code == "bad-env");
    const Outputs ended = rig.ended(kFirst + 1, 0, "exit status 2");
    const auto events = bodies<HostAgent::ToDriver, wire::EventT>(ended);
    REQUIRE(!events.empty());
    CHECK(events[0]->text.find("no such map") != std::string::npos);  // rather than how the process ended
  }

  TEST_CASE("HostAgent: messages of another epoch, run or incarnation change nothing") {
    Rig rig(false);
    rig.weights(0);
    rig.up(kFirst);
    wire::GrantT body = rig.grant();
    body.granted_bytes = 500;
    Message message = make_message(wire::GrantT(body));
    message.run = kRun;
    message.epoch = kEpoch - 1;
    rig.step(HostAgent::FromLearner{message});
    CHECK(permits(rig.flush()).empty());
    CHECK(rig.agent.malformed() == 1);
    body.incarnation = 1;
    CHECK(permits(rig.learner(std::move(body))).empty());
  }
}

}  // namespace myriad
