// A HostAgent, and what its learner, its driver and its runners say to it, by hand.
#pragma once

#include <doctest/doctest.h>

#include <csignal>

#include "rl/wire/packed.hpp"
#include "roles/host_agent.hpp"
#include "tests/simulation/outputs.hpp"

namespace myriad::agent_harness {

using std::chrono::milliseconds;
using Seconds = std::chrono::seconds;
using Outputs = std::vector<HostAgent::Output>;
constexpr uint64_t kRun = 3, kEpoch = 2, kSpec = 11, kLayout = 12;
constexpr uint32_t kFirst = 4;  // of its slots

/// The messages with body T that go where To says.
template <class To, class T>
std::vector<const T*> bodies(const Outputs& outputs) {
  std::vector<const T*> found;
  for (const auto& output : outputs)
    if (const auto* to = std::get_if<To>(&output))
      if (const T* body = to->message.template as<T>()) found.push_back(body);
  return found;
}

/// An agent of three runners, by hand.
struct Rig {
  HostAgent agent;
  Time now = Seconds(100);
  uint64_t epoch = kEpoch;  // of the learner
  bool buffers_are_free = true;

  static HostAgent::Options options(bool by_slot) {
    HostAgent::Options options;
    options.run = kRun;
    options.epoch = kEpoch;
    options.agent = 1;
    options.incarnation = 0;
    options.first_slot = kFirst;
    options.spec_hash = kSpec;
    options.fragment_hash = kLayout;
    options.num_inference_parameters = 2;
    options.fragment_bytes = 100;
    options.by_slot = by_slot;
    options.slots.num_slots = 3;
    return options;
  }
  explicit Rig(bool by_slot) : agent(options(by_slot)) { step(HostAgent::Start{}); }

  Outputs step(const HostAgent::Input& input) {
    Outputs outputs;
    agent.step(input, now, outputs);
    if (const auto* install = find<HostAgent::Install>(outputs); install != nullptr && buffers_are_free)
      agent.step(HostAgent::Installed{install->weights->version}, now, outputs);
    return outputs;
  }
  Outputs flush() { return step(HostAgent::Flush{}); }
  /// Ticks until `later`, all outputs together.
  Outputs wait(Time later) {
    Outputs all;
    for (const Time end = now + later; now < end;) {
      now += HostAgent::kTick;
      for (auto& output : step(HostAgent::Tick{})) all.push_back(std::move(output));
    }
    return all;
  }
  template <class T>
  Outputs learner(T body, std::vector<SharedBytes> payloads = {}) {
    Message message = make_message(std::move(body), std::move(payloads));
    message.run = kRun;
    message.epoch = epoch;
    step_outputs_ = step(HostAgent::FromLearner{std::move(message)});
    for (auto& output : flush()) step_outputs_.push_back(std::move(output));
    return step_outputs_;
  }
  Outputs weights(uint64_t version) {
    Message message = weights_message(std::make_shared<const Weights>(Weights{version, kSpec, {1, 2}, {}}));
    message.run = kRun;
    message.epoch = epoch;
    Outputs outputs = step(HostAgent::FromLearner{std::move(message)});
    for (auto& output : flush()) outputs.push_back(std::move(output));
    return outputs;
  }
  /// Of a learner that knows what was before.
  wire::GrantT grant() const {
    wire::GrantT grant;
    grant.agent = 1;
    grant.based = true;
    return grant;
  }
  Outputs grant_bytes(uint64_t fragments) {
    wire::GrantT body = grant();
    body.granted_bytes = fragments * 100;
    return learner(std::move(body));
  }
  Outputs grant_slot(uint32_t slot, uint32_t incarnation, uint64_t granted, uint64_t version = 0) {
    wire::GrantT body = grant();
    body.weights_version = version;
    body.slots.emplace_back(slot, incarnation, granted);
    return learner(std::move(body));
  }
  template <class T>
  Outputs runner(uint32_t slot, uint32_t incarnation, T body, std::vector<SharedBytes> payloads = {}) {
    Message message = make_message(std::move(body), std::move(payloads));
    message.run = kRun;
    message.epoch = kEpoch;
    std::vector<std::byte> packed;
    pack(encode(message), packed);
    Outputs outputs = step(HostAgent::FromRunner{slot, incarnation, packed});
    for (auto& output : flush()) outputs.push_back(std::move(output));
    return outputs;
  }
  Outputs up(uint32_t slot, uint32_t incarnation = 0) {
    wire::SlotStateT state;
    state.slot = slot;
    state.incarnation = incarnation;
    state.up = true;
    return runner(slot, incarnation, std::move(state));
  }
  Outputs fragment(uint32_t slot, uint32_t incarnation, uint64_t seq) {
    wire::FragmentHeaderT header;
    header.key = std::make_unique<wire::FragmentKey>(slot, incarnation, seq);
    return runner(slot, incarnation, std::move(header), {SharedBytes::of(std::vector<std::byte>(64))});
  }
  Outputs ended(uint32_t slot, uint32_t incarnation, const char* cause = "SIGSEGV") {
    Outputs outputs = step(HostAgent::RunnerExited{slot, incarnation, cause});
    for (auto& output : flush()) outputs.push_back(std::move(output));
    return outputs;
  }
  /// Its learner is another, or has begun anew. What it says at once.
  Outputs moves() { return step(HostAgent::Moved{++epoch}); }
  Outputs released(uint64_t messages, uint64_t received) {
    wire::GrantT body = grant();
    body.released = messages;
    body.received = received;
    return learner(std::move(body));
  }

 private:
  Outputs step_outputs_;
};

/// What each runner is permitted, in the order it was told.
inline std::vector<std::pair<uint32_t, uint64_t>> permits(const Outputs& outputs) {
  std::vector<std::pair<uint32_t, uint64_t>> found;
  for (const auto& output : outputs)
    if (const auto* to = std::get_if<HostAgent::ToRunner>(&output))
      if (const auto* permit = to->message.as<wire::PermitT>()) found.emplace_back(to->slot, permit->granted);
  return found;
}

/// The messages in the parcels of `outputs`.
inline std::vector<Message> relayed(const Outputs& outputs) {
  std::vector<Message> messages;
  for (const auto& output : outputs)
    if (const auto* to = std::get_if<HostAgent::ToLearner>(&output))
      if (const auto* parcel = to->message.as<wire::ParcelT>()) {
        const auto frames = unpack_all(to->message.payloads.at(0), parcel->count);
        REQUIRE(frames);
        for (const Frames& one : *frames) messages.push_back(std::get<Message>(decode(one)));
      }
  return messages;
}

using Permits = std::vector<std::pair<uint32_t, uint64_t>>;

}  // namespace myriad::agent_harness
