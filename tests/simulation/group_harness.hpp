// A LearnerGroup, and what its shards say to it, by hand.
#pragma once

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <csignal>
#include <map>

#include "roles/learner_group.hpp"
#include "tests/simulation/outputs.hpp"

namespace myriad::group_harness {

using Outputs = LearnerGroup::Outputs;
using wire::LearnerStage;
using Seconds = std::chrono::seconds;

inline std::string peer(uint32_t shard, uint32_t incarnation = 0) {
  return fmt::format("learner-{}.{}", shard, incarnation);
}
/// The newest message with body T to `peer`.
template <class T>
const T* sent(const Outputs& outputs, const std::string& peer) {
  const T* last = nullptr;
  for (const auto& output : outputs)
    if (const auto* to = std::get_if<LearnerGroup::ToLearner>(&output); to != nullptr && to->peer == peer)
      if (const T* body = to->message.as<T>()) last = body;
  return last;
}
inline const wire::GroupOrderT* order(const Outputs& outputs, const std::string& peer) {
  return sent<wire::GroupOrderT>(outputs, peer);
}
inline const LearnerGroup::Event* event(const Outputs& outputs, std::string_view kind) {
  for (const auto& output : outputs)
    if (const auto* found = std::get_if<LearnerGroup::Event>(&output); found != nullptr && found->kind == kind)
      return found;
  return nullptr;
}

/// What a shard has. Without sharded state everybody has the one part.
struct Has {
  uint64_t version = 0;
  bool prepared = false;
  std::vector<uint32_t> parts = {0};
  uint32_t num_parts = 1;
};

struct Group {
  LearnerGroup group;
  Time now = Seconds(100);
  std::map<uint32_t, uint32_t> incarnations;  // of the shards' newest processes

  /// Four agents of two slots each, eight fragments a batch.
  static LearnerGroup::Options options(uint32_t num_learners, bool sharded = false) {
    LearnerGroup::Options options;
    options.config_toml = "seed = 1";
    options.endpoint = [](uint32_t shard, uint32_t incarnation) {
      return fmt::format("ipc://{}.{}", shard, incarnation);
    };
    options.checkpoint = "checkpoints/7";
    options.num_learners = num_learners;
    options.num_agents = 4;
    options.num_slots = options.fragments_per_batch = 8;
    options.sharded = sharded;
    return options;
  }
  explicit Group(uint32_t num_learners, bool sharded = false) : Group(options(num_learners, sharded)) {}
  explicit Group(const LearnerGroup::Options& options) : group(options) {
    Outputs outputs;
    group.start(now, outputs);
    note(outputs);
  }

  Outputs note(Outputs outputs) {
    for (const auto& output : outputs)
      if (const auto* spawn = std::get_if<LearnerGroup::SpawnLearner>(&output))
        incarnations[spawn->shard] = spawn->incarnation;
    return outputs;
  }
  std::string name(uint32_t shard) const { return peer(shard, incarnations.at(shard)); }
  template <class T>
  Outputs receive(uint32_t shard, T body, uint64_t epoch) {
    Message message = make_message(std::move(body));
    message.epoch = epoch;
    Outputs outputs;
    group.received(name(shard), "", message, now, outputs);
    return note(std::move(outputs));
  }
  template <class T>
  Outputs receive(uint32_t shard, T body) {
    return receive(shard, std::move(body), group.epoch());
  }
  /// `listens`: it has been welcomed.
  Outputs hello(uint32_t shard, bool listens) {
    wire::LearnerHelloT hello;
    hello.shard = shard;
    hello.incarnation = incarnations.at(shard);
    hello.protocol = kProtocolVersion;
    if (listens) hello.data_endpoint = fmt::format("ipc://{}.{}", shard, hello.incarnation);
    return receive(shard, std::move(hello));
  }
  /// Its process is there and has nothing but its first weights.
  void arrives(uint32_t shard) {
    hello(shard, false);
    hello(shard, true);
  }
  wire::LearnerStatusT status(uint32_t shard, LearnerStage stage, const Has& has = {}) const {
    wire::LearnerStatusT status;
    status.shard = shard;
    status.incarnation = incarnations.at(shard);
    status.stage = stage;
    status.version = has.version;
    status.prepared = has.prepared;
    status.parts = has.parts;
    status.num_parts = has.num_parts;
    if (stage == LearnerStage::called) {
      // Distinct, and as many iterations as updates: which of them was taken shows.
      status.state = std::make_unique<wire::GroupStateT>();
      status.state->training_iteration = has.version + (has.prepared ? 1 : 0);
      status.state->num_env_steps_sampled_lifetime = 100 * status.state->training_iteration;
    }
    return status;
  }
  Outputs called(uint32_t shard, const Has& has = {}) {
    return receive(shard, status(shard, LearnerStage::called, has));
  }
  Outputs formed(uint32_t shard, const Has& has = {}) {
    return receive(shard, status(shard, LearnerStage::formed, has));
  }
  Outputs broken(uint32_t shard, const std::string& why) {
    wire::LearnerStatusT said = status(shard, LearnerStage::formed);
    said.broken = why;
    return receive(shard, std::move(said));
  }
  /// Everybody of `shards` says what it has, then that it takes part. What came of the last word.
  Outputs forms(const std::vector<Has>& shards) {
    for (uint32_t shard = 0; shard < shards.size(); ++shard) called(shard, shards[shard]);
    Outputs outputs;
    for (uint32_t shard = 0; shard < shards.size(); ++shard) outputs = formed(shard, shards[shard]);
    REQUIRE(group.formed());
    return outputs;
  }
  /// The first epoch, at version 0.
  void begins() {
    for (uint32_t shard = 0; shard < group.size(); ++shard) arrives(shard);
    forms(std::vector<Has>(group.size()));
  }
  Outputs dies(uint32_t shard, const std::string& cause = "SIGKILL") {
    Outputs outputs;
    group.exited(shard, incarnations.at(shard), cause, now, outputs);
    return note(std::move(outputs));
  }
  Outputs tick(Time later = LearnerGroup::kRetry) {
    now += later;
    Outputs outputs;
    group.tick(now, outputs);
    return note(std::move(outputs));
  }
  Outputs resize(uint32_t learners) {
    Outputs outputs;
    CHECK(group.resize(learners, now, outputs).empty());
    return note(std::move(outputs));
  }
  Outputs give_up(std::set<uint32_t> places) {
    Outputs outputs;
    group.set_given_up(std::move(places), now, outputs);
    return outputs;
  }
};

}  // namespace myriad::group_harness
