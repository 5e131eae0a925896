#include "roles/learner_group.hpp"

#include "rl/wire/process_error.hpp"
#include "tests/simulation/group_harness.hpp"

namespace myriad {

using namespace group_harness;

TEST_SUITE("driver/learner_group") {
  // --- forming ---

  TEST_CASE("LearnerGroup: the first epoch: every shard is welcomed, says what it has, and is told its part") {
    LearnerGroup group(Group::options(2));
    Outputs outputs;
    group.start(Seconds(1), outputs);
    CHECK(count<LearnerGroup::SpawnLearner>(outputs) == 2);
    Group run(2);
    const Outputs hello = run.hello(1, false);
    const auto* welcome = sent<wire::LearnerWelcomeT>(hello, peer(1));
    REQUIRE(welcome != nullptr);
    CHECK(welcome->shard == 1);
    CHECK(welcome->config == "seed = 1");
    CHECK(welcome->data_endpoint == "ipc://1.0");
    CHECK(welcome->checkpoint == "checkpoints/7");
    CHECK(run.hello(1, true).empty());
    CHECK(run.group.endpoint(1) == "ipc://1.0");
    CHECK(run.called(1, {7}).empty());  // the other one is not there
    run.arrives(0);
    const Outputs orders = run.called(0, {7});
    for (const uint32_t shard : {0u, 1u}) {
      const auto* order = group_harness::order(orders, peer(shard));
      REQUIRE(order != nullptr);
      CHECK(order->form);
      CHECK(order->rank == shard);
      CHECK(order->size == 2);
      CHECK(order->version == 7);  // of the checkpoint: a start is nobody's unfinished update
      CHECK(order->root == 0);
      CHECK(order->everybody);
      CHECK(order->holders == std::vector<uint32_t>{0});
      CHECK(order->state->training_iteration == 7);
      CHECK(order->first_slot == 4 * shard);
      CHECK(order->num_slots == 4);
      CHECK(order->first_place == 4 * shard);
      CHECK(order->num_places == 4);
    }
    CHECK(!run.group.formed());
    CHECK(run.formed(0, {7}).empty());
    const Outputs last = run.formed(1, {7});
    CHECK(count<LearnerGroup::Formed>(last) == 1);
    CHECK(event(last, "group-formed") == nullptr);  // the start is no event
    CHECK(run.group.formed());
    CHECK(run.group.epoch() == 1);
    CHECK(run.group.state().training_iteration == 7);
    CHECK(run.formed(1, {7}).empty());  // told again
  }

  TEST_CASE("LearnerGroup: orders and welcomes are repeated to whoever has not followed, and to nobody else") {
    Group run(2);
    run.hello(0, false);
    run.arrives(1);
    run.called(1);
    Outputs outputs = run.tick();
    CHECK(sent<wire::LearnerWelcomeT>(outputs, peer(0)) != nullptr);  // lost, perhaps
    CHECK(sent<wire::LearnerWelcomeT>(outputs, peer(1)) == nullptr);
    CHECK(!order(outputs, peer(0))->form);
    CHECK(order(outputs, peer(1)) == nullptr);
    run.hello(0, true);
    run.called(0);
    run.formed(0);
    outputs = run.tick();
    CHECK(order(outputs, peer(0)) == nullptr);
    CHECK(order(outputs, peer(1))->form);
    run.formed(1);
    CHECK(run.tick().empty());
    // One that speaks of an older epoch has not heard of this one.
    CHECK(order(run.receive(0, run.status(0, LearnerStage::formed), 0), peer(0))->form);
  }

  TEST_CASE("LearnerGroup: a shard that died is replaced; the epoch goes on from its peers' state, it has no say") {
    Group run(2);
    run.begins();
    Outputs outputs = run.dies(1);
    CHECK(find<LearnerGroup::SpawnLearner>(outputs)->shard == 1);
    CHECK(find<LearnerGroup::SpawnLearner>(outputs)->incarnation == 1);
    CHECK(event(outputs, "group-broken")->text == "epoch 1: learner 1 ended: SIGKILL");
    CHECK(run.group.epoch() == 2);
    CHECK(!run.group.formed());
    REQUIRE(order(outputs, peer(0)) != nullptr);
    CHECK(!order(outputs, peer(0))->form);
  }

  TEST_CASE("LearnerGroup: what the new process of a shard says of its version decides nothing") {
    Group run(2);
    run.begins();
    run.dies(1);
    run.called(0, {9});
    run.arrives(1);
    const Outputs orders = run.called(1, {50, true});
    for (const uint32_t shard : {0u, 1u}) {
      const auto* order = group_harness::order(orders, run.name(shard));
      REQUIRE(order != nullptr);
      CHECK(order->version == 9);
      CHECK(order->root == 0);
      CHECK(order->holders == std::vector<uint32_t>{0});
      CHECK(!order->everybody);
      CHECK(order->state->training_iteration == 9);
    }
    run.formed(0, {9});
    run.now += std::chrono::milliseconds(1500);
    const Outputs last = run.formed(1, {9});
    CHECK(event(last, "group-formed")->text ==
          "epoch 2: 2 learners go on from weights 9 after 1.50 s, state taken from their peers");
    CHECK(count<LearnerGroup::Formed>(last) == 1);
  }

  TEST_CASE("LearnerGroup: a late word of a process that ended, or in its name, is not heard") {
    Group run(2);
    run.begins();
    run.dies(1);
    run.incarnations[1] = 0;
    CHECK(run.hello(1, true).empty());
    CHECK(run.called(1, {3}).empty());
    run.incarnations[1] = 1;
    run.arrives(1);
    wire::LearnerHelloT hello;
    hello.shard = 1;
    hello.incarnation = 1;
    hello.protocol = kProtocolVersion;
    Outputs outputs;
    CHECK(run.group.received("somebody", "", make_message(std::move(hello)), run.now, outputs));
    CHECK(outputs.empty());
    CHECK(run.group.peer(1) == peer(1, 1));
    CHECK(run.dies(1).size() > 0);
    Outputs again;
    run.group.exited(1, 1, "SIGKILL", run.now, again);  // it is replaced
    CHECK(again.empty());
  }

  // --- the version an epoch begins with ---

  TEST_CASE("LearnerGroup: who finished an update with everybody wins: those who had prepared it count it") {
    Group run(3);
    run.begins();
    run.dies(2);
    run.arrives(2);
    run.called(0, {9, true});
    run.called(2);
    const Outputs orders = run.called(1, {10});
    CHECK(order(orders, peer(0))->version == 10);
    CHECK(order(orders, peer(0))->root == 0);  // it has prepared it
    CHECK(order(orders, peer(0))->state->training_iteration == 10);
  }

  TEST_CASE("LearnerGroup: a version that one survivor lacks altogether is taken from those who have it") {
    Group run(3);
    run.begins();
    run.dies(2);
    run.arrives(2);
    run.called(0, {9});
    run.called(2);
    const Outputs orders = run.called(1, {10});
    CHECK(order(orders, peer(0))->version == 10);
    CHECK(order(orders, peer(0))->root == 1);
    CHECK(order(orders, peer(0))->holders == std::vector<uint32_t>{1});
    CHECK(!order(orders, peer(0))->everybody);
  }

  TEST_CASE("LearnerGroup: an update that all survivors had prepared counts") {
    Group run(3);
    run.begins();
    run.dies(2);
    run.arrives(2);
    run.called(0, {9, true});
    run.called(2, {9});
    const Outputs orders = run.called(1, {9, true});
    CHECK(order(orders, peer(1))->version == 10);
    CHECK(order(orders, peer(1))->state->training_iteration == 10);
  }

  TEST_CASE("LearnerGroup: an update that one survivor had not prepared is taken back") {
    Group run(3);
    run.begins();
    run.dies(2);
    run.arrives(2);
    run.called(0, {9, true});
    run.called(2);
    const Outputs orders = run.called(1, {9});
    CHECK(order(orders, peer(0))->version == 9);
    CHECK(order(orders, peer(0))->root == 0);  // what it had before it prepared is still there
    CHECK(order(orders, peer(0))->state->training_iteration == 9);
  }

  TEST_CASE("LearnerGroup: nobody died: all go on with what they have") {
    Group run(2);
    run.begins();
    const Outputs broken = run.broken(1, "connection reset");
    CHECK(event(broken, "group-broken")->text == "epoch 1: learner 1 cannot go on: connection reset");
    CHECK(count<LearnerGroup::SpawnLearner>(broken) == 0);
    run.called(0, {4});
    const Outputs orders = run.called(1, {4});
    CHECK(order(orders, peer(1))->everybody);
    run.formed(0, {4});
    CHECK(event(run.formed(1, {4}), "group-formed")->text == "epoch 2: 2 learners go on from weights 4 after 0.00 s");
  }

  TEST_CASE("LearnerGroup: one that cannot join begins the next epoch, with all of them") {
    Group run(2);
    run.begins();
    run.broken(0, "x");
    run.called(0, {4}), run.called(1, {4});
    wire::LearnerStatusT said = run.status(0, LearnerStage::called, {4});
    said.broken = "learner 1 is not there";
    const Outputs outputs = run.receive(0, std::move(said));
    CHECK(run.group.epoch() == 3);
    CHECK(!order(outputs, peer(1))->form);
    run.forms({{4}, {4}});
  }

  // --- lost for good ---

  TEST_CASE(
      "LearnerGroup: a shard that dies before the first epoch is started again, unless it says why it cannot run") {
    Group start(2);
    start.arrives(0);
    const Outputs again = start.dies(1);
    CHECK(count<LearnerGroup::Over>(again) == 0);
    CHECK(find<LearnerGroup::SpawnLearner>(again)->incarnation == 1);
    Group hopeless(2);
    hopeless.arrives(1);
    hopeless.receive(1, process_error(Error(Exit::environment, "no-gpu", "no CUDA device")));
    CHECK(find<LearnerGroup::Over>(hopeless.dies(1))->error_code == "no-gpu");
  }

  TEST_CASE("LearnerGroup: the last shard that knew the weights ends the run") {
    Group run(2);
    run.begins();
    CHECK(count<LearnerGroup::Over>(run.dies(1)) == 0);
    const Outputs outputs = run.dies(0);  // the new process of 1 has no state
    REQUIRE(find<LearnerGroup::Over>(outputs) != nullptr);
    CHECK(find<LearnerGroup::Over>(outputs)->error_code == "learner-lost");
    CHECK(find<LearnerGroup::Over>(outputs)->exit == Exit::internal);
    CHECK(count<LearnerGroup::SpawnLearner>(outputs) == 0);
  }

  TEST_CASE("LearnerGroup: updates that fail in all shards end the run, and leave what they have") {
    Group run(2);
    run.begins();
    const Error error(Exit::internal, "diverged", "no gradient is finite");
    for (const uint32_t shard : {0u, 1u}) CHECK(run.receive(shard, process_error(error)).empty());
    CHECK(event(run.broken(1, error.what()), "group-broken") == nullptr);  // the run's last line says it
    CHECK(count<LearnerGroup::Over>(run.called(0)) == 0);
    const Outputs outputs = run.called(1);
    REQUIRE(find<LearnerGroup::Over>(outputs) != nullptr);
    CHECK(find<LearnerGroup::Over>(outputs)->error_code == "diverged");
    CHECK(find<LearnerGroup::Over>(outputs)->learners_live);
    CHECK(count<LearnerGroup::KillLearner>(outputs) == 0);
    Outputs last;
    run.group.cut(run.now, last);
    run.forms({{}, {}});
  }

  TEST_CASE("LearnerGroup: a shard whose update fails alone ends, and its next process has what the others have") {
    Group run(2);
    run.begins();
    run.receive(1, process_error(Error(Exit::internal, "internal", "out of memory")));
    run.broken(1, "out of memory");
    run.called(0, {5});
    const Outputs outputs = run.called(1, {5});
    CHECK(count<LearnerGroup::Over>(outputs) == 0);
    REQUIRE(count<LearnerGroup::KillLearner>(outputs) == 1);
    CHECK(find<LearnerGroup::KillLearner>(outputs)->shard == 1);
    CHECK(count<LearnerGroup::KillLearner>(run.called(1, {5})) == 0);  // once
    CHECK(find<LearnerGroup::SpawnLearner>(run.dies(1))->incarnation == 1);
    run.arrives(1);
    run.forms({{5}, {}});
    // The same update again: of another shard, while this one was told to leave before it could say so.
    run.receive(0, process_error(Error(Exit::internal, "diverged", "")));
    run.broken(0, "no gradient is finite");
    run.called(0, {5});
    const Outputs over = run.called(1, {5});
    REQUIRE(find<LearnerGroup::Over>(over) != nullptr);
    CHECK(find<LearnerGroup::Over>(over)->learners_live);
    CHECK(count<LearnerGroup::KillLearner>(over) == 0);
  }

  TEST_CASE("LearnerGroup: a mistake that restarting cannot mend ends the run in the learner's words") {
    Group run(2);
    run.begins();
    CHECK(run.receive(1, process_error(Error(Exit::usage, "config", "no module mlp9"))).empty());
    const Outputs outputs = run.dies(1, "exit status 2");
    REQUIRE(find<LearnerGroup::Over>(outputs) != nullptr);
    CHECK(find<LearnerGroup::Over>(outputs)->reason == "no module mlp9");
    CHECK(find<LearnerGroup::Over>(outputs)->error_code == "config");
  }

  TEST_CASE("LearnerGroup: more failures in a row than are allowed of each shard end the run, however far apart") {
    auto options = Group::options(2);
    options.max_failures_in_a_row = 1;  // two of two shards
    Group run(options);
    run.begins();
    for (int i = 0; i < 2; ++i) {
      CHECK(count<LearnerGroup::Over>(run.dies(1)) == 0);
      run.now += Seconds(3600);
    }
    CHECK(find<LearnerGroup::Over>(run.dies(1))->error_code == "learner-lost");
  }

  TEST_CASE("LearnerGroup: an iteration ends the row of failures") {
    auto options = Group::options(2);
    options.max_failures_in_a_row = 1;
    Group run(options);
    run.begins();
    for (uint64_t iteration = 1; iteration <= 5; ++iteration) {
      for (int i = 0; i < 2; ++i) {
        CHECK(count<LearnerGroup::Over>(run.dies(1)) == 0);
        run.arrives(1);
      }
      wire::IterationReportT report;
      report.training_iteration = iteration;
      run.receive(0, report), run.receive(1, report);
    }
  }

  TEST_CASE("LearnerGroup: one that cannot be started ends the run at its start, for want of a resource") {
    Group run(2);
    Outputs outputs;
    run.group.spawn_failed(1, 0, "fork: Resource temporarily unavailable", run.now, outputs);
    REQUIRE(find<LearnerGroup::Over>(outputs) != nullptr);
    CHECK(find<LearnerGroup::Over>(outputs)->exit == Exit::resource);
    CHECK(find<LearnerGroup::Over>(outputs)->error_code == "spawn-failed");
  }

  TEST_CASE("LearnerGroup: sharded state: one lost shard's part is with its neighbour, two neighbours' are lost") {
    // Part i is with shards i and i - 1.
    const auto has = [](uint32_t shard) { return Has{5, false, {shard, (shard + 1) % 3}, 3}; };
    Group run(3, /*sharded=*/true);
    run.begins();
    run.dies(1);
    run.arrives(1);
    run.called(0, has(0)), run.called(1);
    const Outputs orders = run.called(2, has(2));
    CHECK(order(orders, peer(0))->holders == std::vector<uint32_t>{0, 0, 2});
    CHECK(!order(orders, peer(0))->everybody);
    for (uint32_t shard = 0; shard < 3; ++shard) run.formed(shard, has(shard));
    REQUIRE(run.group.formed());
    run.dies(1), run.dies(2);
    run.arrives(1), run.arrives(2);
    run.called(0, has(0)), run.called(1);
    const Outputs lost = run.called(2);
    REQUIRE(find<LearnerGroup::Over>(lost) != nullptr);
    CHECK(find<LearnerGroup::Over>(lost)->error_code == "learner-lost");
    CHECK(find<LearnerGroup::Over>(lost)->reason.find("neighbours at the same time") != std::string::npos);
    CHECK(order(lost, peer(0)) == nullptr);
  }

  TEST_CASE("LearnerGroup: a learner of another version of Myriad ends the run with both numbers") {
    Group run(1);
    wire::LearnerHelloT hello;
    hello.protocol = kProtocolVersion + 1;
    const Outputs outputs = run.receive(0, std::move(hello));
    REQUIRE(find<LearnerGroup::Over>(outputs) != nullptr);
    CHECK(find<LearnerGroup::Over>(outputs)->reason ==
          fmt::format("learner speaks protocol {}, this driver {}: install the same version", kProtocolVersion + 1,
                      kProtocolVersion));
  }

  // --- the rendezvous ---

  TEST_CASE("LearnerGroup: what one puts into the rendezvous all are sent; who repeats itself is sent all there is") {
    Group run(2);
    run.begins();
    run.broken(0, "x");
    run.called(0), run.called(1);
    const auto entry = [](const std::string& key, uint8_t value) {
      wire::RendezvousT found;
      found.entries.push_back(std::make_unique<wire::RendezvousEntryT>());
      found.entries[0]->key = key;
      found.entries[0]->value = {value};
      return found;
    };
    CHECK(run.receive(0, entry("a", 1)).empty());
    CHECK(run.group.next_timer() <= run.now);  // it does not wait for the next retry
    Outputs outputs;
    run.group.flush(outputs);
    for (const uint32_t shard : {0u, 1u}) {
      REQUIRE(sent<wire::RendezvousT>(outputs, peer(shard)) != nullptr);
      CHECK(sent<wire::RendezvousT>(outputs, peer(shard))->entries.size() == 1);
    }
    outputs.clear();
    run.group.flush(outputs);
    CHECK(outputs.empty());
    run.receive(1, entry("b", 2));
    const Outputs repeated = run.receive(0, entry("a", 9));  // the first value stays
    const auto* all = sent<wire::RendezvousT>(repeated, peer(0));
    REQUIRE(all != nullptr);
    REQUIRE(all->entries.size() == 2);
    CHECK(all->entries[0]->value == std::vector<uint8_t>{1});
    CHECK(all->entries[1]->key == "b");
    CHECK(sent<wire::RendezvousT>(repeated, peer(1)) == nullptr);
    const uint64_t old = run.group.epoch();
    run.broken(1, "y");
    CHECK(run.receive(0, entry("a", 1), old).empty());  // of an epoch that is over
    CHECK(run.receive(0, entry("a", 1)).empty());       // new in this one
  }
}

}  // namespace myriad
