// NextBatch: the batch that a learner shard collects. It decides which fragments agents may send, and which of those
// that arrive are in the batch.
//
//   RoundBatch    sync, lag1   F places, each owned by a slot; fragments of one version; slots have credit
//   StreamBatch   async        the F oldest fragments that arrived; agents have credit
//
// LearnerCore decides when an update, a round or a checkpoint begins; it passes on what agents, runners and the driver
// say. One thread, time comes in.
#pragma once

#include <optional>
#include <vector>

#include "rl/wire/messages.hpp"
#include "roles/batch_books.hpp"
#include "roles/checkpoint.hpp"

namespace myriad {

/// A runner's state for a checkpoint.
struct SavedRunner {
  uint32_t slot;  ///< of the run
  SharedBytes state;
};

class NextBatch {
 public:
  NextBatch(uint32_t num_slots, uint32_t num_places) : books_(num_slots, num_places) {}
  virtual ~NextBatch() = default;
  NextBatch(const NextBatch&) = delete;
  NextBatch& operator=(const NextBatch&) = delete;

  /// `version`: of the newest weights. Returns the version that the first batch is sampled with; call it first.
  virtual uint64_t start(uint64_t version) = 0;

  // --- agents; slots are of this shard, from 0 ---
  struct Agent {
    uint32_t index = 0, incarnation = 0;
    uint32_t first_slot = 0, num_slots = 0;
  };
  /// A new incarnation of the agent; its runners are on their way. Call agent_down for an older one before.
  virtual void agent_up(const Agent& agent) = 0;
  virtual void agent_down(const Agent& agent) = 0;
  /// How far an agent that is up had come, by its first Join.
  struct Standing {
    uint32_t agent = 0;
    std::vector<wire::SlotBase> slots;
    uint64_t granted = 0, consumed = 0;  ///< async: fragments
  };
  virtual void agent_stands(const Standing& standing) = 0;

  // --- what agents pass on ---
  /// Of an agent that is up, from one of its slots.
  virtual void arrived(RunnerMessage message, Time now) = 0;
  /// Looks at what arrived and waits: some of it may have a place now.
  virtual void fill(Time now) = 0;

  // --- updates ---
  /// Whether an update can begin with the batch as it is; drops what became too old for it, and fills it up.
  virtual bool ready(Time now) = 0;
  /// Nothing can come to this batch, and the other shards' update need not wait for it.
  virtual bool starved() const = 0;
  struct Taken {
    std::vector<wire::AgentMark> marks;       ///< below which no message need come again after the update
    std::vector<FragmentFacts> facts;         ///< by place; none when the batch was not full
    std::vector<ConsumedFragment> fragments;  ///< whose end the update settles
  };
  /// An update begins, with the batch if it is full; what waits may take the places then. `received`: the messages of
  /// each agent that takes part, in order of agents.
  virtual Taken begin_update(std::vector<wire::AgentMark> received, Time now) = 0;
  /// It ended; the newest weights are of this version now.
  virtual void end_update(uint64_t version) = 0;
  /// Begins the next round where one is due, and fills it with what waits. Whether it did: these weights, of `version`,
  /// are to be published then.
  virtual bool begin_round(uint64_t version) = 0;

  // --- checkpoints ---
  struct Snapshot {
    std::vector<SavedRunner> runners;
    bool with_batch = false;              ///< the full batch belongs to the checkpoint
    uint64_t weights_version = 0;         ///< with_batch: it was sampled with
    std::vector<wire::Episode> episodes;  ///< with_batch: that ended in it, in order of places
  };
  /// What checkpoint `sequence` holds of this shard's runners and batch, once it is there; ask again until then. No
  /// round begins meanwhile.
  virtual std::optional<Snapshot> snapshot(uint64_t sequence, Time now) = 0;

  // --- grants ---
  virtual bool grant_due(uint32_t agent) const = 0;
  /// Adds what the agent may send now; everything: all there is to say, else what changed since its last grant.
  /// `published`: the newest version that agents can have.
  virtual void write_grant(uint32_t agent, bool everything, uint64_t published, wire::GrantT& grant) = 0;
  /// A grant may have been lost: those that something waits for are due again.
  virtual void repeat_grants() = 0;

  virtual const DropCounts& drops() const = 0;
  BatchBooks& books() { return books_; }
  const BatchBooks& books() const { return books_; }

 protected:
  BatchBooks books_;
};

}  // namespace myriad
