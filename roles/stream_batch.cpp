#include "roles/stream_batch.hpp"

#include <algorithm>

#include "roles/slot_supervisor.hpp"

namespace myriad {
namespace {

constexpr uint32_t kMaxSpareFragments = 1024;  // credit beyond the batches that may wait

/// One more fragment for each slot than may wait, so that every runner can sample meanwhile.
uint64_t window_of(const StreamBatch::Options& options) {
  return std::max<uint64_t>(1, uint64_t{options.learner_queue_size} * options.num_places) +
         std::min(options.num_slots, kMaxSpareFragments);
}

}  // namespace

StreamBatch::StreamBatch(const Options& options)
    : NextBatch(options.num_slots, options.num_places),
      num_places_(options.num_places),
      max_policy_lag_(options.max_policy_lag),
      credit_(window_of(options), options.fragment_bytes),
      slots_(options.num_slots),
      slots_up_(options.num_slots) {
  free_all_places();
}

void StreamBatch::free_all_places() {
  free_places_.resize(num_places_);
  for (uint32_t i = 0; i < num_places_; ++i) free_places_[num_places_ - 1 - i] = i;
}

// --- agents ---

void StreamBatch::agent_up(const Agent& agent) {
  const bool is_new = !agents_.contains(agent.index);
  agents_[agent.index] = {.incarnation = agent.incarnation};
  credit_.up(agent.index, agent.incarnation, agent.num_slots);
  if (slots_up_ > 0 && !is_new) return;
  for (uint32_t i = 0; i < agent.num_slots; ++i) slot_up(agent.first_slot + i, first_incarnation(agent.incarnation));
}

/// What it delivered stays in the queue.
void StreamBatch::agent_down(const Agent& agent) {
  agents_[agent.index] = {.incarnation = agent.incarnation};
  credit_.down(agent.index);
  for (uint32_t i = 0; i < agent.num_slots; ++i)
    slot_down(agent.first_slot + i, slots_[agent.first_slot + i].incarnation);
}

void StreamBatch::agent_stands(const Standing& standing) {
  for (const wire::SlotBase& base : standing.slots) {
    books_.begin_slot(base.slot(), base.incarnation(), base.seq());
    if (base.up())
      slot_up(base.slot(), base.incarnation());
    else
      slot_down(base.slot(), base.incarnation());
  }
  credit_.resume(standing.agent, standing.granted, standing.consumed);
}

/// Repeats and older incarnations change nothing: a process that ended does not come back.
void StreamBatch::slot_up(uint32_t slot, uint32_t incarnation) {
  Slot& now = slots_[slot];
  if (incarnation <= now.incarnation) return;
  if (!now.up) ++slots_up_;
  now = {true, incarnation};
}

void StreamBatch::slot_down(uint32_t slot, uint32_t incarnation) {
  Slot& now = slots_[slot];
  if (incarnation < now.incarnation) return;
  now.incarnation = incarnation;
  if (std::exchange(now.up, false)) --slots_up_;
}

// --- what agents pass on ---

void StreamBatch::arrived(RunnerMessage message, Time now) {
  if (const auto* state = message.message.as<wire::SlotStateT>(); state != nullptr && state->up)
    slot_up(message.slot, state->incarnation);
  else if (state != nullptr)
    slot_down(message.slot, state->incarnation);
  else if (message.message.as<wire::FragmentHeaderT>() != nullptr)
    take_fragment(std::move(message), now);
}

std::optional<Drop> StreamBatch::why_not(const RunnerMessage& fragment, const FragmentId& id, bool is_new,
                                         bool within_credit) const {
  const Slot& slot = slots_[fragment.slot];
  if (!slot.up || slot.incarnation != id.incarnation) return Drop::stale_incarnation;
  if (!is_new) return Drop::duplicate;
  if (!within_credit) return Drop::beyond_credit;
  if (fragment.message.as<wire::FragmentHeaderT>()->weights_version > version_) return Drop::wrong_version;
  if (!fragment.valid) return Drop::invalid;
  return std::nullopt;
}

void StreamBatch::take_fragment(RunnerMessage fragment, Time now) {
  const MessageSource source = fragment.source;
  const FragmentId id = id_of(*fragment.message.as<wire::FragmentHeaderT>());
  const bool is_new = books_.arrived({fragment.slot, id.incarnation, id.seq});
  const bool within_credit = credit_.arrived(source.agent, source.incarnation);
  if (const auto reason = why_not(fragment, id, is_new, within_credit)) {
    ++drops_[static_cast<size_t>(*reason)];
    credit_.consumed(source.agent, source.incarnation);
    if (is_new) books_.dropped(source, id, *reason);
    return;
  }
  agents_.at(source.agent).waiting.push_back(source.number);
  waiting_.push_back({std::move(fragment), now});
}

/// Of the batch that is filled now, should a fragment of this version, `clients_lag` behind in a part, be in it.
bool StreamBatch::outdated(uint64_t weights_version, uint64_t clients_lag) const {
  const uint64_t trained_at = version_ + (updating_ ? 1 : 0);
  return max_policy_lag_ && trained_at - weights_version + std::min(clients_lag, weights_version) > *max_policy_lag_;
}

void StreamBatch::fill(Time now) {
  for (; !free_places_.empty() && !waiting_.empty(); waiting_.pop_front()) {
    Waiting& oldest = waiting_.front();
    const MessageSource source = oldest.fragment.source;
    const auto& header = *oldest.fragment.message.as<wire::FragmentHeaderT>();
    const bool too_old = outdated(header.weights_version, header.clients_lag);
    if (AgentQueue* agent = queue_of(source); agent != nullptr && !agent->waiting.empty()) agent->waiting.pop_front();
    if (too_old && updating_)
      owed_.push_back(source);
    else
      give_back(source);
    if (too_old) {
      ++drops_[static_cast<size_t>(Drop::policy_lag)];
      books_.dropped(source, id_of(header), Drop::policy_lag);
      continue;
    }
    books_.placed(free_places_.back(), std::move(oldest.fragment), now - oldest.arrived);
    free_places_.pop_back();
  }
}

/// Null when that incarnation of the agent is gone.
StreamBatch::AgentQueue* StreamBatch::queue_of(const MessageSource& source) {
  const auto it = agents_.find(source.agent);
  return it == agents_.end() || it->second.incarnation != source.incarnation ? nullptr : &it->second;
}

void StreamBatch::give_back(const MessageSource& source) {
  credit_.consumed(source.agent, source.incarnation);
  if (AgentQueue* agent = queue_of(source)) agent->grant_due = true;
}

// --- updates ---

bool StreamBatch::ready(Time now) {
  while (is_full()) {
    drop_outdated();
    if (is_full() || waiting_.empty()) break;
    fill(now);
  }
  return is_full();
}

/// A fragment in its place saw updates that the other shards made without this one: it may be too old now.
void StreamBatch::drop_outdated() {
  for (uint32_t place = 0; place < num_places_; ++place) {
    const FragmentFacts& facts = books_.facts()[place];
    if (!outdated(facts.weights_version, facts.clients_lag)) continue;
    books_.drop_placed(place, Drop::policy_lag);
    ++drops_[static_cast<size_t>(Drop::policy_lag)];
    free_places_.push_back(place);
  }
}

NextBatch::Taken StreamBatch::begin_update(std::vector<wire::AgentMark> received, Time now) {
  updating_ = true;
  if (!is_full()) return {};
  Taken taken;
  for (const wire::AgentMark& agent : received) {
    const std::deque<uint64_t>& waiting = agents_.at(agent.agent()).waiting;
    taken.marks.emplace_back(agent.agent(), agent.incarnation(), waiting.empty() ? agent.messages() : waiting.front());
  }
  taken.fragments = books_.settle(taken.marks);
  taken.facts = books_.take_facts();
  free_all_places();
  fill(now);
  return taken;
}

void StreamBatch::end_update(uint64_t version) {
  updating_ = false;
  version_ = version;
  for (const MessageSource& source : std::exchange(owed_, {})) give_back(source);
}

// --- grants ---

bool StreamBatch::grant_due(uint32_t index) const {
  const auto it = agents_.find(index);
  return it != agents_.end() && it->second.grant_due;
}

void StreamBatch::write_grant(uint32_t index, bool, uint64_t published, wire::GrantT& grant) {
  agents_.at(index).grant_due = false;
  grant.granted_bytes = credit_.granted_bytes(index);
  // Not a version that is not published: agents would wait for it, and nothing would be sampled.
  if (max_policy_lag_) grant.weights_version = std::min(published, version_ - std::min(version_, *max_policy_lag_));
}

}  // namespace myriad
