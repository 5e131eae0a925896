// DriverCore with several learners.
#include "roles/driver_core.hpp"
#include "tests/simulation/driver_harness.hpp"

namespace myriad {

using namespace driver_harness;

namespace {

/// The newest message with body T to `peer`, with its envelope.
template <class T>
const Message* sent_to(const Outputs& outputs, const std::string& peer) {
  const Message* last = nullptr;
  for (const auto& output : outputs)
    if (const auto* send = std::get_if<DriverCore::Send>(&output); send != nullptr && send->peer == peer)
      if (send->message.as<T>() != nullptr) last = &send->message;
  return last;
}
template <class T>
std::vector<std::string> peers_of(const Outputs& outputs) {
  std::vector<std::string> peers;
  for (const auto& output : outputs)
    if (const auto* send = std::get_if<DriverCore::Send>(&output); send != nullptr && send->message.as<T>() != nullptr)
      peers.push_back(send->peer);
  return peers;
}
using Peers = std::vector<std::string>;

/// Two learners, two agents: agent i sends to learner i.
struct Shards : Run {
  uint32_t incarnations[2] = {0, 0};

  static DriverCore::Options options() {
    DriverCore::Options options = Run::lenient();
    options.learners.num_learners = options.learners.fragments_per_batch = 2;
    options.learners.endpoint = [](uint32_t shard, uint32_t incarnation) {
      return fmt::format("ipc://{}.{}", shard, incarnation);
    };
    return options;
  }
  explicit Shards(DriverCore::Options options = Shards::options()) : Run(std::move(options)) {}

  std::string name(uint32_t shard) const { return fmt::format("learner-{}.{}", shard, incarnations[shard]); }
  template <class T>
  Outputs say(uint32_t shard, T body) {
    return receive(std::move(body), name(shard), core.learners().epoch());
  }
  void arrives(uint32_t shard) {
    for (const bool listens : {false, true}) {
      wire::LearnerHelloT hello;
      hello.shard = shard;
      hello.incarnation = incarnations[shard];
      hello.protocol = kProtocolVersion;
      if (listens) hello.data_endpoint = fmt::format("ipc://{}.{}", shard, incarnations[shard]);
      say(shard, std::move(hello));
    }
  }
  Outputs stands(uint32_t shard, wire::LearnerStage stage) {
    wire::LearnerStatusT status;
    status.shard = shard;
    status.incarnation = incarnations[shard];
    status.stage = stage;
    status.parts = {0};
    status.num_parts = 1;
    return say(shard, std::move(status));
  }
  Outputs forms() {
    for (const uint32_t shard : {0u, 1u}) stands(shard, wire::LearnerStage::called);
    stands(0, wire::LearnerStage::formed);
    return stands(1, wire::LearnerStage::formed);
  }
  void begins() {
    arrives(0), arrives(1);
    forms();
    agent_hello(0), agent_hello(1);
  }
  Outputs dies(uint32_t shard) {
    Outputs outputs = step(DriverCore::LearnerExited{shard, incarnations[shard], "SIGKILL"});
    ++incarnations[shard];
    return outputs;
  }
  Outputs reported(uint64_t iteration) {
    Outputs outputs;
    for (const uint32_t shard : {0u, 1u}) {
      wire::IterationReportT report;
      report.training_iteration = iteration;
      outputs = say(shard, std::move(report));
    }
    return outputs;
  }
  wire::CheckpointDoneT done(uint64_t sequence) const {
    wire::CheckpointDoneT done;
    done.sequence = sequence;
    done.training_iteration = core.training_iteration();
    return done;
  }
  static DriverCore::Options saves_each() {
    DriverCore::Options options = Shards::options();
    options.checkpoint_frequency = 1;
    return options;
  }
};

}  // namespace

TEST_SUITE("driver/driver_core") {
  TEST_CASE("DriverCore: all shards are told to go when the group is formed; each hears of its own agents") {
    Shards run;
    run.arrives(0), run.arrives(1);
    CHECK(run.agent_hello(0).empty());
    const Outputs formed = run.forms();
    CHECK(peers_of<wire::CommandT>(formed) == Peers{"learner-0.0", "learner-1.0"});
    CHECK(sent<wire::CommandT>(formed)->until == 1);
    for (const uint32_t agent : {0u, 1u}) {
      const Outputs outputs = run.agent_hello(agent);
      const Message* welcome = sent_to<wire::AgentWelcomeT>(outputs, Run::peer(agent, 0));
      REQUIRE(welcome != nullptr);
      CHECK(welcome->epoch == 1);
      CHECK(welcome->as<wire::AgentWelcomeT>()->learner_endpoint == fmt::format("ipc://{}.0", agent));
      CHECK(peers_of<wire::AgentStateT>(outputs) == Peers{run.name(agent)});
      CHECK(sent_to<wire::AgentStateT>(outputs, run.name(agent))->epoch == 1);
    }
  }

  TEST_CASE("DriverCore: each learner's agents are a tree of their own for the weights") {
    DriverCore::Options options = Shards::options();
    options.fleet.agents.num_slots = 4;  // agents 0 and 1 are learner 0's, 2 and 3 learner 1's
    options.fleet.weights_fanout = 1;
    Shards run(options);
    run.arrives(0), run.arrives(1);
    run.forms();
    const auto source = [&](uint32_t agent) {
      const Outputs outputs = run.agent_hello(agent);
      const auto* welcome = sent<wire::AgentWelcomeT>(outputs);
      return welcome == nullptr ? "not yet" : welcome->weights_endpoint;
    };
    for (const uint32_t agent : {2u, 0u}) {
      CHECK(source(agent).empty());  // from its learner
      CHECK(source(agent + 1) == "not yet");
      wire::AgentStatusT status = Run::status(agent);
      status.weights_endpoint = fmt::format("ipc://weights-{}", agent);
      run.receive(std::move(status), Run::peer(agent, 0));
      CHECK(source(agent + 1) == fmt::format("ipc://weights-{}", agent));
    }
  }

  TEST_CASE("DriverCore: an iteration is over when all shards have reported it") {
    Shards run;
    run.begins();
    wire::IterationReportT report;
    report.training_iteration = 1;
    CHECK(run.say(0, std::move(report)).empty());
    const Outputs outputs = run.reported(1);
    CHECK(count<DriverCore::Report>(outputs) == 1);
    CHECK(peers_of<wire::CommandT>(outputs) == Peers{"learner-0.0", "learner-1.0"});
  }

  TEST_CASE(
      "DriverCore: when a shard is lost the run goes on; agents are moved when the next epoch begins, not before") {
    Shards run;
    run.begins();
    const Outputs lost = run.dies(1);
    REQUIRE(find<DriverCore::SpawnLearner>(lost) != nullptr);
    CHECK(find<DriverCore::SpawnLearner>(lost)->incarnation == 1);
    CHECK(stop_peers(lost).empty());
    CHECK(sent_to<wire::GroupOrderT>(lost, "learner-0.0")->epoch == 2);
    CHECK(peers_of<wire::AgentMoveT>(lost).empty());
    // What agents and the driver say to each other is of the epoch they know.
    CHECK(peers_of<wire::AgentMoveT>(run.receive(Run::status(0), Run::peer(0, 0), 1)).empty());
    run.arrives(1);
    const Outputs formed = run.forms();
    for (const uint32_t agent : {0u, 1u}) {
      const Message* move = sent_to<wire::AgentMoveT>(formed, Run::peer(agent, 0));
      REQUIRE(move != nullptr);
      CHECK(move->epoch == 2);
      CHECK(move->as<wire::AgentMoveT>()->learner_endpoint == (agent == 0 ? "ipc://0.0" : "ipc://1.1"));
    }
    CHECK(peers_of<wire::AgentStateT>(formed) == Peers{"learner-0.0", "learner-1.1"});
    CHECK(peers_of<wire::CommandT>(formed) == Peers{"learner-0.0", "learner-1.1"});
    // One that still speaks of the old epoch has not heard it.
    CHECK(peers_of<wire::AgentMoveT>(run.receive(Run::status(0), Run::peer(0, 0), 1)) == Peers{Run::peer(0, 0)});
    CHECK(peers_of<wire::AgentMoveT>(run.receive(Run::status(0), Run::peer(0, 0), 2)).empty());
  }

  TEST_CASE("DriverCore: a learner is heard about no epoch that the driver has not begun") {
    Shards run;
    run.begins();
    wire::IterationReportT report;
    report.training_iteration = 1;
    run.say(0, wire::IterationReportT(report));
    CHECK(run.receive(wire::IterationReportT(report), "learner-1.0", 2).empty());
    CHECK(run.core.training_iteration() == 0);
  }

  TEST_CASE("DriverCore: a checkpoint whose group breaks is abandoned and begun anew, of the same iteration") {
    Shards run(Shards::saves_each());
    run.begins();
    CHECK(find<DriverCore::Save>(run.reported(1)) != nullptr);
    const Outputs asked = run.step(DriverCore::Saved{CheckpointWriter::Prepared{"partial-1"}});
    CHECK(peers_of<wire::CommandT>(asked) == Peers{"learner-0.0", "learner-1.0"});
    CHECK(sent<wire::CommandT>(asked)->sequence == 1);
    run.say(0, run.done(1));
    run.dies(1);
    run.arrives(1);
    const Outputs formed = run.forms();
    REQUIRE(find<DriverCore::Save>(formed) != nullptr);
    CHECK(std::holds_alternative<CheckpointWriter::Abandon>(find<DriverCore::Save>(formed)->input));
    CHECK(peers_of<wire::CommandT>(formed).empty());
    const Outputs anew = run.step(DriverCore::Saved{CheckpointWriter::Failed{"abandoned"}});
    CHECK(event(anew, "checkpoint-failed") == nullptr);
    REQUIRE(find<DriverCore::Save>(anew) != nullptr);
    CHECK(std::get<CheckpointWriter::Prepare>(find<DriverCore::Save>(anew)->input).training_iteration == 1);
    CHECK(sent<wire::CommandT>(run.step(DriverCore::Saved{CheckpointWriter::Prepared{"partial-2"}}))->sequence == 2);
    CHECK(run.say(0, run.done(1)).empty());  // of the old one
    run.say(0, run.done(2));
    const Outputs complete = run.say(1, run.done(2));
    REQUIRE(find<DriverCore::Save>(complete) != nullptr);
    CHECK(std::holds_alternative<CheckpointWriter::Commit>(find<DriverCore::Save>(complete)->input));
    const Outputs committed = run.step(DriverCore::Saved{CheckpointWriter::Committed{"checkpoints/1", 1}});
    CHECK(sent<wire::CommandT>(committed)->until == 2);
  }

  TEST_CASE("DriverCore: a shard whose place is given up has no part of the batch") {
    auto options = Shards::options();
    options.fleet.agents.max_failures_in_a_row = 1;
    Shards run(options);
    run.begins();
    const Outputs outputs = run.step(DriverCore::AgentExited{1, 0, "SIGKILL"});
    CHECK(event(outputs, "group-broken")->text ==
          "epoch 1: the agents of learner 1 are given up: the others take its share");
    run.stands(0, wire::LearnerStage::called);
    const Outputs orders = run.stands(1, wire::LearnerStage::called);
    CHECK(sent_to<wire::GroupOrderT>(orders, "learner-0.0")->as<wire::GroupOrderT>()->num_places == 2);
    CHECK(sent_to<wire::GroupOrderT>(orders, "learner-1.0")->as<wire::GroupOrderT>()->num_places == 0);
  }

  TEST_CASE("DriverCore: myriad scale is answered, with the reason where it cannot be") {
    Shards run;
    run.begins();
    const auto scale = [&](uint32_t learners) {
      wire::ScaleRequestT request;
      request.learners = learners;
      return run.receive(std::move(request), "scale-7");
    };
    Outputs outputs = scale(3);
    const Message* reply = sent_to<wire::ScaleReplyT>(outputs, "scale-7");
    REQUIRE(reply != nullptr);
    CHECK(reply->as<wire::ScaleReplyT>()->error);
    CHECK(reply->as<wire::ScaleReplyT>()->text.find("hosts.num_hosts = 3") != std::string::npos);
    outputs = scale(1);
    CHECK(!sent<wire::ScaleReplyT>(outputs)->error);
    CHECK(sent<wire::ScaleReplyT>(outputs)->text == "1 learners, as soon as they are there");
    CHECK(event(outputs, "scale")->text == "from 2 learners to 1");
    run.stands(0, wire::LearnerStage::called);
    const Outputs formed = run.stands(0, wire::LearnerStage::formed);
    CHECK(stop_peers(formed) == Peers{"learner-1.0"});
    // All agents are learner 0's now.
    CHECK(sent_to<wire::AgentMoveT>(formed, Run::peer(1, 0))->as<wire::AgentMoveT>()->learner_endpoint == "ipc://0.0");
    CHECK(peers_of<wire::AgentStateT>(formed) == Peers{"learner-0.0", "learner-0.0"});
    run.step(DriverCore::LearnerExited{1, 0, "exit status 0"});
    CHECK(!run.core.finishing());
    run.dies(0);  // the only one
    CHECK(sent<wire::ScaleReplyT>(scale(2))->text == "the run is ending");
  }

  TEST_CASE("DriverCore: the run is finished when every shard has ended") {
    auto options = Shards::options();
    options.stop.training_iteration = 1;
    Shards run(options);
    run.begins();
    CHECK(find<DriverCore::Save>(run.reported(1)) != nullptr);
    run.step(DriverCore::Saved{CheckpointWriter::Prepared{"d"}});
    run.say(0, run.done(1)), run.say(1, run.done(1));
    const Outputs stop = run.step(DriverCore::Saved{CheckpointWriter::Committed{"checkpoints/1", 1}});
    CHECK(stop_peers(stop) == Peers{"learner-0.0", "learner-1.0", Run::peer(0, 0), Run::peer(1, 0)});
    for (const uint32_t agent : {0u, 1u}) run.step(DriverCore::AgentExited{agent, 0, "exit status 0"});
    CHECK(find<DriverCore::Finished>(run.dies(0)) == nullptr);
    const Outputs last = run.dies(1);
    REQUIRE(find<DriverCore::Finished>(last) != nullptr);
    CHECK(find<DriverCore::Finished>(last)->exit == Exit::ok);
  }
}

}  // namespace myriad
