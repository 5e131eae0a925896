// A DriverCore, and what its processes say to it, by hand.
#pragma once

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <csignal>

#include "rl/wire/process_error.hpp"
#include "roles/driver_core.hpp"
#include "tests/simulation/outputs.hpp"

namespace myriad::driver_harness {

using Outputs = std::vector<DriverCore::Output>;
constexpr uint64_t kRun = 3;

template <class T>
const T* sent(const Outputs& outputs) {
  for (const auto& output : outputs)
    if (const auto* send = std::get_if<DriverCore::Send>(&output))
      if (const T* body = send->message.as<T>()) return body;
  return nullptr;
}

inline std::vector<std::string> stop_peers(const Outputs& outputs) {
  std::vector<std::string> peers;
  for (const auto& output : outputs)
    if (const auto* send = std::get_if<DriverCore::Send>(&output); send != nullptr && send->message.as<wire::StopT>())
      peers.push_back(send->peer);
  return peers;
}
/// The newest AgentState for the learner.
inline const wire::AgentStateT* told_learner(const Outputs& outputs) {
  const wire::AgentStateT* last = nullptr;
  for (const auto& output : outputs)
    if (const auto* send = std::get_if<DriverCore::Send>(&output))
      if (const auto* body = send->message.as<wire::AgentStateT>()) last = body;
  return last;
}
inline const DriverCore::Event* event(const Outputs& outputs, std::string_view kind) {
  for (const auto& output : outputs)
    if (const auto* found = std::get_if<DriverCore::Event>(&output); found != nullptr && found->kind == kind)
      return found;
  return nullptr;
}

/// A driver with its processes, by hand: two host agents of two runners each.
struct Run {
  DriverCore core;
  Time now = std::chrono::seconds(1);

  static DriverCore::Options options() {
    DriverCore::Options options;
    options.run = kRun;
    options.config_toml = "seed = 1";
    options.fleet.num_slots = 4;
    options.fleet.agents.num_slots = 2;
    options.fleet.agents.max_failures_in_a_row = 1;
    options.smoothing_episodes = 2;
    options.learners.endpoint = [](uint32_t, uint32_t) { return "ipc://learner"; };
    return options;
  }
  static DriverCore::Options lenient() {
    DriverCore::Options options = Run::options();
    options.fleet.agents.max_failures_in_a_row = 9;
    return options;
  }
  static DriverCore::Options from_outside() {
    DriverCore::Options options = Run::options();
    options.fleet.spawns = false;
    return options;
  }
  explicit Run(DriverCore::Options options) : core(std::move(options)) { step(DriverCore::Start{}); }

  Outputs step(const DriverCore::Input& input) {
    Outputs outputs;
    core.step(input, now, outputs);
    return outputs;
  }
  template <class T>
  Outputs receive(T body, const std::string& peer = "learner-0", uint64_t epoch = 1) {
    Message message = make_message(std::move(body));
    message.run = kRun;
    message.epoch = epoch;
    return step(DriverCore::Received{peer, std::move(message)});
  }
  /// The learner's process is there: `data_endpoint` once it listens.
  Outputs learner_hello(uint32_t protocol = kProtocolVersion, const std::string& data_endpoint = "",
                        uint32_t incarnation = 0) {
    wire::LearnerHelloT hello;
    hello.incarnation = incarnation;
    hello.protocol = protocol;
    hello.data_endpoint = data_endpoint;
    return receive(std::move(hello));
  }
  Outputs learner_status(wire::LearnerStage stage) {
    wire::LearnerStatusT status;
    status.stage = stage;
    status.num_parts = 1;
    status.parts = {0};
    return receive(std::move(status));
  }
  /// A learner that does all it is asked, until it takes part. What came of the last word.
  Outputs learner_forms() {
    learner_hello();
    learner_hello(kProtocolVersion, "ipc://learner");
    learner_status(wire::LearnerStage::called);
    return learner_status(wire::LearnerStage::formed);
  }
  /// The learner follows into `epoch` with this state; what came of its last word.
  Outputs learner_follows(uint64_t epoch, uint64_t iteration, uint64_t env_steps) {
    Outputs outputs;
    for (const auto stage : {wire::LearnerStage::called, wire::LearnerStage::formed}) {
      wire::LearnerStatusT status;
      status.stage = stage;
      status.version = iteration;
      status.num_parts = 1;
      status.parts = {0};
      status.state = std::make_unique<wire::GroupStateT>(to_wire(GroupState{iteration, env_steps, {}}));
      outputs = receive(std::move(status), "learner-0", epoch);
    }
    return outputs;
  }
  /// Time passes, with a tick every 250 ms; what came of it all.
  Outputs wait(Time time) {
    Outputs all;
    for (const Time until = now + time; now < until;) {
      now += DriverCore::kRetry;
      for (auto& output : step(DriverCore::Tick{})) all.push_back(std::move(output));
    }
    return all;
  }
  static std::string peer(uint32_t agent, uint32_t incarnation) {
    return fmt::format("agent-{}.{}", agent, incarnation);
  }
  Outputs agent_hello(uint32_t agent, uint32_t incarnation = 0, uint32_t protocol = kProtocolVersion) {
    return hello_from(peer(agent, incarnation), agent, incarnation, protocol);
  }
  Outputs hello_from(const std::string& peer, uint32_t agent = Fleet::kAnyPlace, uint32_t incarnation = 0,
                     uint32_t protocol = kProtocolVersion) {
    wire::AgentHelloT hello;
    hello.agent = agent;
    hello.incarnation = incarnation;
    hello.protocol = protocol;
    hello.host = "node7";
    return receive(std::move(hello), peer);
  }
  static wire::AgentStatusT status(uint32_t agent, uint32_t incarnation = 0) {
    wire::AgentStatusT status;
    status.agent = agent;
    status.incarnation = incarnation;
    status.running = 2;
    return status;
  }
  Outputs quarantine(uint32_t agent, const std::string& cause) {
    wire::AgentStatusT all = status(agent);
    all.running = 0;
    all.quarantined = 2;
    all.last_cause = cause;
    return receive(std::move(all), peer(agent, 0));
  }
  Outputs error(const std::string& peer, uint32_t slot, Exit exit, const std::string& message) {
    wire::ProcessErrorT error = process_error(Error(exit, "env-contract", message));
    error.slot = slot;
    return receive(std::move(error), peer);
  }
  /// Learner and both agents have said hello.
  void everybody() {
    learner_forms();
    agent_hello(0);
    agent_hello(1);
  }
  /// Every process ended.
  const DriverCore::Finished* finish(Outputs& outputs) {
    step(DriverCore::AgentExited{0, 0, "exit status 0"});
    step(DriverCore::AgentExited{1, 0, "exit status 0"});
    outputs = step(DriverCore::LearnerExited{0, 0, "exit status 0"});
    return find<DriverCore::Finished>(outputs);
  }
  Outputs report(uint64_t iteration, uint64_t env_steps = 0, double episode_return = 0, uint32_t level = 0) {
    return report_episodes(iteration, {{episode_return, 1, 0, level}}, env_steps);
  }
  Outputs report_episodes(uint64_t iteration, std::vector<wire::Episode> episodes, uint64_t env_steps = 0) {
    wire::IterationReportT report;
    report.training_iteration = iteration;
    report.num_env_steps_sampled_lifetime = env_steps;
    report.episodes = std::move(episodes);
    return receive(std::move(report));
  }
  /// The checkpoint asked for: prepared, written by the learner, committed.
  Outputs complete_save(uint64_t sequence, uint64_t epoch = 1) {
    step(DriverCore::Saved{CheckpointWriter::Prepared{"checkpoints/.partial"}});
    wire::CheckpointDoneT done;
    done.sequence = sequence;
    done.training_iteration = core.training_iteration();
    receive(std::move(done), "learner-0", epoch);
    return step(DriverCore::Saved{CheckpointWriter::Committed{"checkpoints/1", core.training_iteration()}});
  }
};

}  // namespace myriad::driver_harness
