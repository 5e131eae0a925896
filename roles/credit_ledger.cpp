#include "roles/credit_ledger.hpp"

#include <algorithm>

#include "rl/check.hpp"

namespace myriad {

CreditLedger::CreditLedger(uint64_t window, uint64_t fragment_bytes)
    : window_(window), fragment_bytes_(fragment_bytes) {
  check(window > 0 && fragment_bytes > 0, "a window of {} fragments of {} bytes", window, fragment_bytes);
}

/// The agent's account that is up, or the end.
CreditLedger::Accounts::iterator CreditLedger::newest(uint32_t agent) {
  auto it = accounts_.upper_bound({agent, UINT32_MAX});
  if (it == accounts_.begin() || (--it)->first.first != agent || !it->second.up) return accounts_.end();
  return it;
}

void CreditLedger::up(uint32_t agent, uint32_t incarnation, uint32_t num_slots) {
  down(agent);
  check(num_slots > 0, "agent {} has no slots", agent);
  const bool is_new = accounts_.emplace(std::pair(agent, incarnation), Account{num_slots}).second;
  check(is_new, "agent {} incarnation {} came twice", agent, incarnation);
  slots_up_ += num_slots;
}

void CreditLedger::down(uint32_t agent) {
  const auto it = newest(agent);
  if (it == accounts_.end()) return;
  Account& account = it->second;
  account.up = false;
  slots_up_ -= account.num_slots;
  left_here_ += account.arrived - account.consumed;
  if (account.arrived == account.consumed) accounts_.erase(it);
}

void CreditLedger::resume(uint32_t agent, uint64_t granted, uint64_t consumed) {
  const auto it = newest(agent);
  if (it == accounts_.end()) return;
  it->second.granted = granted;
  it->second.arrived = it->second.consumed = consumed;
}

bool CreditLedger::arrived(uint32_t agent, uint32_t incarnation) {
  Account& account = accounts_.at({agent, incarnation});
  return ++account.arrived <= account.granted;
}

void CreditLedger::consumed(uint32_t agent, uint32_t incarnation) {
  const auto it = accounts_.find({agent, incarnation});
  check(it != accounts_.end() && it->second.consumed < it->second.arrived,
        "a fragment of agent {}.{} was consumed that never arrived", agent, incarnation);
  Account& account = it->second;
  ++account.consumed;
  if (account.up) return;
  --left_here_;
  if (account.arrived == account.consumed) accounts_.erase(it);
}

uint64_t CreditLedger::granted_bytes(uint32_t agent) {
  const auto it = newest(agent);
  if (it == accounts_.end()) return 0;
  Account& account = it->second;
  const uint64_t window = window_ - std::min(window_, left_here_);
  const uint64_t share = std::max<uint64_t>(1, window * account.num_slots / slots_up_);
  account.granted = std::max(account.granted, account.consumed + share);
  return account.granted * fragment_bytes_;
}

uint64_t CreditLedger::outstanding() const {
  uint64_t out = left_here_;
  for (const auto& [key, account] : accounts_)
    if (account.up) out += std::max(account.granted, account.arrived) - account.consumed;
  return out;
}

}  // namespace myriad
