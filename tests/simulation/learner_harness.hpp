// A LearnerCore, and what its driver and its agents say to it, by hand.
#pragma once

#include <doctest/doctest.h>

#include <map>

#include "roles/learner_core.hpp"
#include "tests/simulation/outputs.hpp"

namespace myriad::learner_harness {

using Outputs = std::vector<LearnerCore::Output>;
constexpr uint64_t kRun = 5;

inline WeightsPtr weights(uint64_t version) { return std::make_shared<const Weights>(Weights{version, 1, {1.0f}, {}}); }

inline LearnerCore::Options options_of(SamplingMode mode) {
  LearnerCore::Options options;
  options.run = kRun;
  options.mode = mode;
  if (mode == SamplingMode::async) options.broadcast_interval = 1;
  options.num_slots = options.fragments_per_batch = 2;
  options.steps = 3;
  options.environments = 1;
  options.fragment_bytes = 10;
  options.spec_hash = 1;
  options.fragment_hash = 2;
  options.violation = [](const wire::FragmentHeaderT& header, std::span<const std::byte>) -> std::string {
    return header.final_rows == 0 ? "" : "column reward has a value that is not finite";
  };
  return options;
}

/// A learner, and what its driver and agents say to it.
struct Harness {
  LearnerCore core;
  Time now{};
  Outputs started;

  explicit Harness(const LearnerCore::Options& options, uint64_t version = 0) : core(options) {
    core.start(weights(version), now, started);
  }

  Outputs step(LearnerCore::Input input) {
    Outputs outputs;
    core.step(input, now, outputs);
    for (const auto& output : outputs)
      if (const auto* update = std::get_if<LearnerCore::Update>(&output)) tally = update->tally;
    acknowledge_weights(outputs);
    return outputs;
  }
  template <class T>
  static Message message(T body, std::vector<SharedBytes> payloads = {}) {
    Message message = make_message(std::move(body), std::move(payloads));
    message.run = kRun;
    message.epoch = 1;
    return message;
  }

  // --- the driver ---
  uint32_t level = 0;    // of its curriculum
  bool at_once = false;  // it has cut the run
  Outputs command(wire::CommandKind kind, uint64_t until, uint64_t sequence = 0) {
    wire::CommandT body;
    body.level = level;
    body.kind = kind;
    body.until = until;
    body.sequence = sequence;
    body.directory = "d";
    body.at_once = at_once;
    return step(LearnerCore::FromDriver{message(std::move(body))});
  }
  Outputs go(uint64_t until) { return command(wire::CommandKind::go, until); }
  Outputs agent(uint32_t index, uint32_t first, uint32_t num, uint32_t incarnation = 0, bool up = true) {
    wire::AgentStateT body;
    body.agent = index;
    body.incarnation = incarnation;
    body.first_slot = first;
    body.num_slots = num;
    body.up = up;
    return step(LearnerCore::FromDriver{message(body)});
  }

  // --- agents ---
  /// As a real agent does, so that the next version may be sent.
  void acknowledge_weights(const Outputs& outputs) {
    for (const auto& output : outputs) {
      const auto* send = std::get_if<LearnerCore::ToAgent>(&output);
      const auto* weights = send == nullptr ? nullptr : send->message.as<wire::WeightsHeaderT>();
      if (weights == nullptr) continue;
      wire::JoinT body;
      body.agent = static_cast<uint32_t>(std::stoul(send->peer.substr(6)));
      body.incarnation = incarnations[body.agent];
      body.spec_hash = 1;
      body.fragment_hash = 2;
      body.weights_version = static_cast<int64_t>(weights->version);
      Outputs answer;
      core.step(LearnerCore::FromAgent{send->peer, message(body)}, now, answer);
    }
  }
  std::map<uint32_t, uint32_t> incarnations;
  static std::string name(uint32_t agent) { return "agent-" + std::to_string(agent); }
  Outputs join(uint32_t agent, uint32_t incarnation = 0, int64_t version = -1, uint64_t spec = 1,
               uint64_t fragment = 2) {
    wire::JoinT body;
    body.agent = agent;
    body.incarnation = incarnation;
    body.spec_hash = spec;
    body.fragment_hash = fragment;
    body.weights_version = version;
    incarnations[agent] = incarnation;
    return step(LearnerCore::FromAgent{name(agent), message(body)});
  }
  /// `inner` in a parcel that follows what the agent sent before.
  Outputs parcel(uint32_t agent, const std::vector<Message>& inner, uint32_t incarnation = 0) {
    auto [sender, is_new] = senders.try_emplace({agent, incarnation}, agent, incarnation);
    for (const Message& m : inner) sender->second.add(m);
    std::vector<Message> parcels;
    sender->second.flush(now, parcels);
    sender->second.acknowledge(sender->second.sent());
    REQUIRE(parcels.size() == 1);
    last_parcel = parcels[0];
    last_parcel.run = kRun;
    last_parcel.epoch = 1;
    last_agent = agent;
    return again();
  }
  Outputs again() { return step(LearnerCore::FromAgent{name(last_agent), last_parcel}); }

  static Message slot_state(uint32_t slot, uint32_t incarnation, bool up) {
    wire::SlotStateT body;
    body.slot = slot;
    body.incarnation = incarnation;
    body.up = up;
    return message(body);
  }
  static Message fragment(uint32_t slot, uint64_t seq, uint64_t version, double episode_return = 0, bool valid = true,
                          uint32_t incarnation = 0) {
    wire::FragmentHeaderT body;
    body.key = std::make_unique<wire::FragmentKey>(slot, incarnation, seq);
    body.weights_version = version;
    body.steps = 3;
    body.environments = 1;
    body.final_rows = valid ? 0 : 1;
    body.episodes.emplace_back(episode_return, 1, slot, 0);
    return message(std::move(body), {SharedBytes::of(std::vector<std::byte>(4))});
  }
  static Message state(uint32_t slot, uint64_t seq, uint64_t checkpoint) {
    wire::RunnerStateT body;
    body.slot = slot;
    body.seq = seq;
    body.checkpoint = checkpoint;
    return message(std::move(body), {SharedBytes::of(std::vector<std::byte>(4))});
  }
  /// All shards have finished what this one was the only one to bring.
  Outputs updated(uint64_t version, std::map<std::string, double> metrics = {}) {
    return step(LearnerCore::Updated{weights(version), std::move(metrics), tally});
  }
  Outputs tick(Time later) {
    now += later;
    return step(LearnerCore::Tick{});
  }

  std::map<std::pair<uint32_t, uint32_t>, ParcelSender> senders;
  std::vector<double> tally;  // of the newest Update
  Message last_parcel;
  uint32_t last_agent = 0;
};

/// The first message with body T among those to the driver or to agents (to `peer`, if named).
template <class T>
const T* sent(const Outputs& outputs, const std::string& peer = "") {
  for (const auto& output : outputs) {
    const T* body = nullptr;
    if (const auto* driver = std::get_if<LearnerCore::ToDriver>(&output); driver != nullptr && peer.empty())
      body = driver->message.as<T>();
    if (const auto* agent = std::get_if<LearnerCore::ToAgent>(&output);
        agent != nullptr && (peer.empty() || agent->peer == peer))
      body = agent->message.as<T>();
    if (body != nullptr) return body;
  }
  return nullptr;
}
inline double metric(const Outputs& outputs, const std::string& name) {
  const auto* report = sent<wire::IterationReportT>(outputs);
  REQUIRE(report != nullptr);
  for (const auto& row : report->metrics)
    if (row->key == name) return row->value;
  FAIL("no metric " << name);
  return 0;
}
/// Reasons by fragment; fails on a fragment that is named twice.
struct Books {
  std::map<FragmentId, std::string> ends;
  void add(const Outputs& outputs) {
    for (const auto& output : outputs)
      if (const auto* consumed = std::get_if<LearnerCore::Consumed>(&output))
        CHECK(ends.emplace(consumed->id, consumed->dropped).second);
  }
};

/// One agent with both slots, joined, in step with its learner.
struct Sync : Harness {
  explicit Sync(SamplingMode mode = SamplingMode::sync) : Sync(options_of(mode)) {}
  explicit Sync(const LearnerCore::Options& options, uint64_t version = 0) : Harness(options, version) {
    agent(0, 0, 2);
    join(0);
  }
  Outputs both(uint64_t seq, uint64_t version) {
    return parcel(0, {fragment(0, seq, version, 10.0 + static_cast<double>(seq)),
                      fragment(1, seq, version, 20.0 + static_cast<double>(seq))});
  }
  Outputs first_iteration() {
    go(1);
    both(0, 0);
    return updated(1);
  }
};
struct Lag1 : Sync {
  Lag1() : Sync(SamplingMode::lag1) {}
};

inline LearnerCore::Options async_options() {
  LearnerCore::Options options = options_of(SamplingMode::async);
  options.num_slots = 4;
  options.learner_queue_size = 3;  // W = 3 x 2 + 4 = 10 fragments
  return options;
}
/// Two agents of two slots each.
struct Async : Harness {
  Async() : Async(async_options()) {}
  explicit Async(const LearnerCore::Options& options) : Harness(options) {
    agent(0, 0, 2), agent(1, 2, 2);
    join(0), join(1);
  }
  Outputs send(uint32_t slot, uint64_t seq, uint64_t version, double episode_return = 0) {
    return parcel(slot / 2, {fragment(slot, seq, version, episode_return)});
  }
};

}  // namespace myriad::learner_harness
