// RoundBatch: the batch of sync and lag1. It is a round of F places, each owned by a slot, sampled with one version
// (roles/fragment_queue); grants say how many fragments each slot may produce in all.
//
// Where earlier cores of this run made a part of a round, agents send it again, in the order of then. Places may have
// moved between slots since: a fragment that comes before its slot has the credit for it is held, with everything that
// follows it from that slot, until the credit is there.
#pragma once

#include <deque>
#include <map>
#include <set>

#include "roles/fragment_queue.hpp"
#include "roles/next_batch.hpp"

namespace myriad {

class RoundBatch final : public NextBatch {
 public:
  struct Options {
    uint32_t first_slot = 0, num_slots = 1;  ///< of this shard
    uint32_t num_places = 1;                 ///< 0: rounds have no places here
    bool lag1 = false;                       ///< a round is sampled while the update with the one before runs
    bool recollects = false;                 ///< agents may send again what earlier cores had not trained on
    bool behind = false;                     ///< lag1: the first round was sampled with the version before the newest
    std::optional<std::vector<wire::Episode>> restored;  ///< lag1: a full batch of a checkpoint, and its episodes
  };
  static constexpr Time kStateDeadline = std::chrono::seconds(5);  ///< for the runners' states

  explicit RoundBatch(Options options);

  uint64_t start(uint64_t version) override;
  void agent_up(const Agent& agent) override;
  void agent_down(const Agent& agent) override;
  void agent_stands(const Standing& standing) override;
  void arrived(RunnerMessage message, Time now) override;
  void fill(Time now) override;
  bool ready(Time) override { return full_; }
  bool starved() const override { return false; }  // its places wait for a slot
  Taken begin_update(std::vector<wire::AgentMark> received, Time now) override;
  void end_update(uint64_t) override { updating_ = false; }
  bool begin_round(uint64_t version) override;
  std::optional<Snapshot> snapshot(uint64_t sequence, Time now) override;
  bool grant_due(uint32_t agent) const override;
  void write_grant(uint32_t agent, bool everything, uint64_t published, wire::GrantT& grant) override;
  void repeat_grants() override;
  const DropCounts& drops() const override { return queue_.drops(); }

 private:
  struct AgentSlots {
    uint32_t first = 0, num = 0;
    uint64_t placed = 0;      // all of its messages that have a place are before this number
    bool everything = false;  // is due
  };
  void take(RunnerMessage message);
  void take_fragment(RunnerMessage fragment);
  void take_state(const RunnerMessage& message);
  void apply(const FragmentQueue::Input& input, RunnerMessage* fragment = nullptr, bool is_new = false);
  bool comes_too_early(const RunnerMessage& message) const;
  uint64_t mark_of(const AgentSlots& agent, uint64_t received);
  bool states_complete() const;

  Options options_;
  FragmentQueue queue_;
  bool full_ = false, updating_ = false;
  std::map<uint32_t, AgentSlots> agents_;
  std::map<uint32_t, std::deque<RunnerMessage>> held_;  // by slot
  std::set<uint32_t> look_at_held_;
  std::set<uint32_t> credit_changed_;  // slots, since their agents' last grants
  uint64_t collecting_ = 0;            // the checkpoint whose states are wanted; 0: none
  std::map<uint32_t, SharedBytes> states_;
  Time states_by_{};
};

}  // namespace myriad
