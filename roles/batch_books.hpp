// BatchBooks: what became of each fragment that came to a learner shard, and the facts of those in its batch.
//
// A fragment has one end: a place in a batch, or a drop for a named reason. An end is settled by the update whose mark
// passes the fragment's message (roles/update_tally): the agent may send the message again until then, to a learner
// that takes over. Pure.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "rl/wire/messages.hpp"
#include "roles/fragment_queue.hpp"
#include "roles/iteration_metrics.hpp"

namespace myriad {

/// Where a message came from: the agent's incarnation, and its number among all messages of that incarnation.
struct MessageSource {
  uint32_t agent = 0, incarnation = 0;
  uint64_t number = 0;
};

/// A runner's message that came in a parcel of its agent.
struct RunnerMessage {
  MessageSource source;
  uint32_t slot = 0;  ///< of this shard, from 0
  Message message;    ///< SlotState, FragmentHeader or RunnerState
  bool valid = true;  ///< of a fragment: its columns keep their contract
};

/// A fragment that is in the batch: its payload is to be copied to `place`.
struct AcceptedFragment {
  uint32_t place;
  Message message;
};

/// The end of a fragment.
struct ConsumedFragment {
  FragmentId id;
  std::string dropped;  ///< "": was trained on; else the reason
};

class BatchBooks {
 public:
  BatchBooks(uint32_t num_slots, uint32_t num_places);

  /// The next fragment of `slot` is number `seq` of this incarnation.
  void begin_slot(uint32_t slot, uint32_t incarnation, uint64_t seq);
  /// Counts a fragment; `id.slot` is of this shard. False when one with this number or a later one came before.
  [[nodiscard]] bool arrived(const FragmentId& id);

  /// `fragment` is in the batch; it waited for its place for so long.
  void placed(uint32_t place, RunnerMessage fragment, Time waited);
  void dropped(const MessageSource& source, const FragmentId& id, Drop reason);
  /// The fragment in `place` is dropped after all.
  void drop_placed(uint32_t place, Drop reason);

  /// What was placed since the last call, in order.
  std::vector<AcceptedFragment> take_accepted() { return std::exchange(accepted_, {}); }
  /// By place; the places have none from here on.
  std::vector<FragmentFacts> take_facts();
  const std::vector<FragmentFacts>& facts() const { return facts_; }
  /// The batch is one that a checkpoint held: sampled with this version, with the episodes that ended in it.
  void restore(uint64_t weights_version, std::vector<wire::Episode> episodes);
  /// The ends that an update with these marks settles, each once: all but those of fragments that were dropped when
  /// they arrived and whose number is not below their agent's mark yet. `marks` are in order of agents.
  std::vector<ConsumedFragment> settle(std::span<const wire::AgentMark> marks);

  // since the start
  uint64_t num_fragments() const { return fragments_; }
  uint64_t num_missing() const { return missing_; }  ///< numbers that were passed over
  uint64_t num_slots_seen() const;                   ///< with a fragment, or known from before

 private:
  struct Ended {
    MessageSource source;
    ConsumedFragment consumed;
  };
  struct Next {
    uint32_t incarnation = 0;
    uint64_t seq = 0;
    auto operator<=>(const Next&) const = default;
  };
  std::vector<Next> next_;  // by slot: the least that did not come yet
  std::vector<FragmentFacts> facts_;
  std::vector<AcceptedFragment> accepted_;
  std::vector<Ended> ended_;  // not settled
  uint64_t fragments_ = 0, missing_ = 0;
};

}  // namespace myriad
