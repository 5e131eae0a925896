// CreditLedger: how many fragments each agent may send in async mode, so that what waits for the learner is bounded.
//
//   granted(agent) = consumed(agent) + share       in all, for one incarnation of the agent: it never goes back
//   share          = (W - what gone agents left here) x slots(agent) / slots of all agents, at least one fragment
//
// What an agent may still send or has here, granted - consumed, is its share, or what it had before its share shrank.
// When an agent is gone, what it had not sent is the others' at once and what it had sent when that is consumed. Counts
// fragments; the wire has bytes. Pure: no clock, no socket.
#pragma once

#include <cstdint>
#include <map>
#include <utility>

namespace myriad {

class CreditLedger {
 public:
  /// `window`: fragments that may be out in all.
  CreditLedger(uint64_t window, uint64_t fragment_bytes);

  /// A new incarnation of `agent`, with nothing sent; an older one is gone.
  void up(uint32_t agent, uint32_t incarnation, uint32_t num_slots);
  void down(uint32_t agent);
  /// What the agent that is up had been allowed, and had consumed, before this ledger began.
  void resume(uint32_t agent, uint64_t granted, uint64_t consumed);

  /// A fragment came; false when it is more than the agent was granted.
  [[nodiscard]] bool arrived(uint32_t agent, uint32_t incarnation);
  /// One that arrived was placed or dropped.
  void consumed(uint32_t agent, uint32_t incarnation);

  /// What `agent` may send in all, to be told to it; 0 for one that is not up.
  uint64_t granted_bytes(uint32_t agent);

  /// Fragments that may still come or wait here, of agents that are up and of those that are gone.
  uint64_t outstanding() const;

 private:
  struct Account {
    uint32_t num_slots;
    bool up = true;
    uint64_t granted = 0, arrived = 0, consumed = 0;
  };
  using Accounts = std::map<std::pair<uint32_t, uint32_t>, Account>;  // by agent and incarnation
  Accounts::iterator newest(uint32_t agent);

  uint64_t window_, fragment_bytes_;
  Accounts accounts_;       // up, or with fragments that wait
  uint64_t slots_up_ = 0;   // of all agents that are up
  uint64_t left_here_ = 0;  // fragments of gone agents that wait
};

}  // namespace myriad
