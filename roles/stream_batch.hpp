// StreamBatch: the batch of async. It is the F oldest fragments that arrived and were sampled with weights new enough;
// grants say how many bytes of fragments each agent may send in all (roles/credit_ledger).
#pragma once

#include <deque>
#include <map>

#include "roles/credit_ledger.hpp"
#include "roles/next_batch.hpp"

namespace myriad {

class StreamBatch final : public NextBatch {
 public:
  struct Options {
    uint32_t num_slots = 1, num_places = 1;  ///< of this shard; 0 places: nothing is taken
    uint32_t learner_queue_size = 3;         ///< batches that may wait
    size_t fragment_bytes = 1;               ///< FragmentLayout::capacity_bytes()
    std::optional<uint64_t> max_policy_lag;  ///< versions, of a fragment when its update begins
  };
  explicit StreamBatch(const Options& options);

  uint64_t start(uint64_t version) override { return version_ = version; }
  void agent_up(const Agent& agent) override;
  void agent_down(const Agent& agent) override;
  void agent_stands(const Standing& standing) override;
  void arrived(RunnerMessage message, Time now) override;
  void fill(Time now) override;
  bool ready(Time now) override;
  bool starved() const override { return slots_up_ == 0; }
  Taken begin_update(std::vector<wire::AgentMark> received, Time now) override;
  void end_update(uint64_t version) override;
  bool begin_round(uint64_t) override { return false; }                             // it has none
  std::optional<Snapshot> snapshot(uint64_t, Time) override { return Snapshot{}; }  // what waits is sampled again
  bool grant_due(uint32_t agent) const override;
  void write_grant(uint32_t agent, bool everything, uint64_t published, wire::GrantT& grant) override;
  void repeat_grants() override {}  // an agent asks again by its next parcel or Join
  const DropCounts& drops() const override { return drops_; }

 private:
  struct Slot {
    bool up = true;  // until told otherwise: the first process is on its way
    uint32_t incarnation = 0;
  };
  struct AgentQueue {
    uint32_t incarnation = 0;
    std::deque<uint64_t> waiting = {};  // numbers of its messages in waiting_
    bool grant_due = false;
  };
  struct Waiting {
    RunnerMessage fragment;
    Time arrived;
  };
  void slot_up(uint32_t slot, uint32_t incarnation);
  void slot_down(uint32_t slot, uint32_t incarnation);
  void take_fragment(RunnerMessage fragment, Time now);
  std::optional<Drop> why_not(const RunnerMessage& fragment, const FragmentId& id, bool is_new,
                              bool within_credit) const;
  bool is_full() const { return num_places_ > 0 && free_places_.empty(); }
  bool outdated(uint64_t weights_version, uint64_t clients_lag) const;
  AgentQueue* queue_of(const MessageSource& source);
  void give_back(const MessageSource& source);
  void free_all_places();
  void drop_outdated();

  uint32_t num_places_;
  std::optional<uint64_t> max_policy_lag_;
  CreditLedger credit_;
  std::vector<Slot> slots_;
  uint32_t slots_up_;
  std::map<uint32_t, AgentQueue> agents_;
  std::deque<Waiting> waiting_;        // arrived, without a place
  std::vector<uint32_t> free_places_;  // the next one last
  uint64_t version_ = 0;               // of the newest weights
  bool updating_ = false;
  /// Dropped for their lag while an update runs. Their credit is given back when it ends: until then new fragments
  /// would be as old, and their agents would keep them all.
  std::vector<MessageSource> owed_;
  DropCounts drops_{};
};

}  // namespace myriad
