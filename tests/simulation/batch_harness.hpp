// A round or a stream by hand: what its agents pass on, and what is in the batch then.
#pragma once

#include <doctest/doctest.h>
#include <fmt/format.h>

#include <string>
#include <vector>

#include "roles/next_batch.hpp"

namespace myriad::batch_harness {

inline Message slot_state(uint32_t slot, uint32_t incarnation, bool up) {
  wire::SlotStateT body;
  body.slot = slot;
  body.incarnation = incarnation;
  body.up = up;
  return make_message(body);
}
inline Message fragment(uint32_t slot, uint32_t incarnation, uint64_t seq, uint64_t version, uint64_t clients_lag = 0) {
  wire::FragmentHeaderT body;
  body.key = std::make_unique<wire::FragmentKey>(slot, incarnation, seq);
  body.weights_version = version;
  body.clients_lag = clients_lag;
  body.episodes.emplace_back(static_cast<double>(10 * slot + seq), 1, 0, 0);
  return make_message(std::move(body), {SharedBytes::of(std::vector<std::byte>(4))});
}
inline Message runner_state(uint32_t slot, uint64_t seq, uint64_t checkpoint) {
  wire::RunnerStateT body;
  body.slot = slot;
  body.seq = seq;
  body.checkpoint = checkpoint;
  return make_message(body, {SharedBytes::of(std::vector<std::byte>(1 + slot))});
}

/// "place:slot.incarnation.seq" of what was placed since the last call.
inline std::vector<std::string> placed(NextBatch& batch) {
  std::vector<std::string> found;
  for (const AcceptedFragment& accepted : batch.books().take_accepted()) {
    const FragmentId id = id_of(*accepted.message.as<wire::FragmentHeaderT>());
    found.push_back(fmt::format("{}:{}.{}.{}", accepted.place, id.slot, id.incarnation, id.seq));
  }
  return found;
}
using Placed = std::vector<std::string>;

inline std::vector<uint64_t> marks(const NextBatch::Taken& taken) {
  std::vector<uint64_t> found;
  for (const wire::AgentMark& mark : taken.marks) found.push_back(mark.messages());
  return found;
}
using Marks = std::vector<uint64_t>;

/// "slot.incarnation.seq reason", "trained" for none.
inline std::vector<std::string> ends(const std::vector<ConsumedFragment>& fragments) {
  std::vector<std::string> found;
  for (const ConsumedFragment& f : fragments)
    found.push_back(
        fmt::format("{}.{}.{} {}", f.id.slot, f.id.incarnation, f.id.seq, f.dropped.empty() ? "trained" : f.dropped));
  return found;
}
using Ends = std::vector<std::string>;

/// Sends the messages of one agent, numbered as they come.
struct Sender {
  NextBatch& batch;
  MessageSource next{0, 0, 0};

  void send(uint32_t slot, Message message, Time now = {}, bool valid = true) {
    batch.arrived({next, slot, std::move(message), valid}, now);
    ++next.number;
  }
  wire::AgentMark received() const { return {next.agent, next.incarnation, next.number}; }
};

inline uint64_t dropped(const NextBatch& batch, Drop reason) { return batch.drops()[static_cast<size_t>(reason)]; }

}  // namespace myriad::batch_harness
