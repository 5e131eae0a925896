#include "roles/round_batch.hpp"

#include <algorithm>

#include "roles/slot_supervisor.hpp"

namespace myriad {

RoundBatch::RoundBatch(Options options)
    : NextBatch(options.num_slots, options.num_places),
      options_(std::move(options)),
      queue_(options_.num_slots, std::max(1u, options_.num_places)) {}

uint64_t RoundBatch::start(uint64_t version) {
  if (options_.restored && options_.num_places > 0) {
    full_ = true;
    books_.restore(version - 1, *std::exchange(options_.restored, std::nullopt));
  }
  if (!options_.behind || options_.num_places == 0) return version;
  // The newest weights may have been published before, and may not.
  apply(FragmentQueue::BeginRound{version - 1, version});
  return version - 1;
}

// --- agents ---

void RoundBatch::agent_up(const Agent& agent) {
  const bool is_new = !agents_.contains(agent.index);
  agents_[agent.index] = {.first = agent.first_slot, .num = agent.num_slots};
  if (queue_.num_up() > 0 && !is_new) return;
  // No slot is up, or the agent was up all the time. The open places are spread over all of its runners, not given to
  // the first that starts.
  apply(FragmentQueue::SlotUp{agent.first_slot, first_incarnation(agent.incarnation), agent.num_slots});
}

void RoundBatch::agent_down(const Agent& agent) {
  agents_[agent.index] = {.first = agent.first_slot, .num = agent.num_slots};
  for (uint32_t slot = agent.first_slot; slot < agent.first_slot + agent.num_slots; ++slot) {
    held_.erase(slot);
    apply(FragmentQueue::SlotDown{slot, queue_.credit(slot).incarnation});
  }
}

void RoundBatch::agent_stands(const Standing& standing) {
  for (const wire::SlotBase& base : standing.slots) {
    books_.begin_slot(base.slot(), base.incarnation(), base.seq());
    if (base.up())
      apply(FragmentQueue::SlotIs{base.slot(), base.incarnation(), base.seq()});
    else
      apply(FragmentQueue::SlotDown{base.slot(), base.incarnation()});
  }
}

// --- what agents pass on ---

void RoundBatch::arrived(RunnerMessage message, Time) {
  if (held_.contains(message.slot) || (options_.recollects && comes_too_early(message)))
    held_[message.slot].push_back(std::move(message));
  else
    take(std::move(message));
}

/// It was sampled for a later round than the one that is collected again, or for a place that another slot has now.
bool RoundBatch::comes_too_early(const RunnerMessage& message) const {
  const auto* header = message.message.as<wire::FragmentHeaderT>();
  if (header == nullptr) return false;
  const FragmentQueue::Credit credit = queue_.credit(message.slot);
  return queue_.is_up(message.slot) && header->key->incarnation() == credit.incarnation &&
         header->key->seq() >= credit.granted;
}

void RoundBatch::fill(Time) {
  while (!look_at_held_.empty()) {
    const uint32_t slot = look_at_held_.extract(look_at_held_.begin()).value();
    for (auto it = held_.find(slot); it != held_.end(); it = held_.find(slot)) {
      if (comes_too_early(it->second.front())) break;
      RunnerMessage message = std::move(it->second.front());
      it->second.pop_front();
      if (it->second.empty()) held_.erase(it);
      take(std::move(message));
    }
  }
}

void RoundBatch::take(RunnerMessage message) {
  if (const auto* state = message.message.as<wire::SlotStateT>(); state != nullptr && state->up)
    apply(FragmentQueue::SlotUp{message.slot, state->incarnation});
  else if (state != nullptr)
    apply(FragmentQueue::SlotDown{message.slot, state->incarnation});
  else if (message.message.as<wire::FragmentHeaderT>() != nullptr)
    take_fragment(std::move(message));
  else
    take_state(message);
}

void RoundBatch::take_fragment(RunnerMessage fragment) {
  const auto& header = *fragment.message.as<wire::FragmentHeaderT>();
  FragmentId id = id_of(header);
  id.slot = fragment.slot;
  const bool is_new = books_.arrived(id);
  apply(FragmentQueue::Arrived{id, header.weights_version, fragment.valid}, &fragment, is_new);
}

void RoundBatch::take_state(const RunnerMessage& message) {
  const auto& state = *message.message.as<wire::RunnerStateT>();
  const FragmentQueue::Credit credit = queue_.credit(message.slot);
  if (collecting_ > 0 && state.checkpoint == collecting_ && message.message.payloads.size() == 1 &&
      queue_.is_up(message.slot) && credit.incarnation == state.incarnation && credit.granted == state.seq)
    states_.emplace(message.slot, message.message.payloads[0]);
}

/// `fragment`: what arrived, if that is the input; `is_new`: its end is not in the books yet.
void RoundBatch::apply(const FragmentQueue::Input& input, RunnerMessage* fragment, bool is_new) {
  std::vector<FragmentQueue::Output> results;
  queue_.step(input, results);
  for (const FragmentQueue::Output& result : results) {
    if (const auto* credit = std::get_if<FragmentQueue::CreditChanged>(&result)) {
      credit_changed_.insert(credit->slot);
      if (held_.contains(credit->slot)) look_at_held_.insert(credit->slot);
    } else if (const auto* accepted = std::get_if<FragmentQueue::Accepted>(&result)) {
      uint64_t& placed = agents_.at(fragment->source.agent).placed;
      placed = std::max(placed, fragment->source.number + 1);  // what was held is taken slot by slot
      books_.placed(accepted->place, std::move(*fragment), Time{});
    } else if (const auto* dropped = std::get_if<FragmentQueue::Dropped>(&result)) {
      if (is_new)
        books_.dropped(fragment->source, id_of(*fragment->message.as<wire::FragmentHeaderT>()), dropped->reason);
    } else {
      full_ = true;
    }
  }
}

// --- updates ---

/// How many of an agent's messages need not come again once the update that begins is finished.
uint64_t RoundBatch::mark_of(const AgentSlots& agent, uint64_t received) {
  uint64_t mark = received;
  const auto end = held_.lower_bound(agent.first + agent.num);
  for (auto it = held_.lower_bound(agent.first); it != end;) {
    auto& [slot, messages] = *it;
    // Below a mark nothing comes again. So what is held though a later message has a place is given up: a fragment is
    // dropped, and its number skipped.
    for (; !messages.empty() && messages.front().source.number < agent.placed; messages.pop_front()) {
      RunnerMessage& message = messages.front();
      if (const auto* header = message.message.as<wire::FragmentHeaderT>()) {
        apply(FragmentQueue::Skip{slot});
        books_.dropped(message.source, id_of(*header), Drop::beyond_credit);
      } else {
        take(std::move(message));
      }
    }
    if (!messages.empty()) mark = std::min(mark, messages.front().source.number);
    it = messages.empty() ? held_.erase(it) : std::next(it);
  }
  return mark;
}

NextBatch::Taken RoundBatch::begin_update(std::vector<wire::AgentMark> received, Time) {
  updating_ = true;
  if (!std::exchange(full_, false)) return {};
  Taken taken;
  for (const wire::AgentMark& agent : received)
    taken.marks.emplace_back(agent.agent(), agent.incarnation(), mark_of(agents_.at(agent.agent()), agent.messages()));
  taken.fragments = books_.settle(taken.marks);
  taken.facts = books_.take_facts();
  return taken;
}

bool RoundBatch::begin_round(uint64_t version) {
  if (full_ || queue_.round_open() || (updating_ && !options_.lag1)) return false;
  if (options_.num_places == 0) return true;
  apply(FragmentQueue::BeginRound{version});
  fill({});
  return true;
}

// --- checkpoints ---

std::optional<NextBatch::Snapshot> RoundBatch::snapshot(uint64_t sequence, Time now) {
  if (queue_.round_open()) return std::nullopt;
  if (collecting_ != sequence) {
    collecting_ = sequence;
    states_.clear();
    states_by_ = now + kStateDeadline;
    repeat_grants();
  }
  if (now < states_by_ && !states_complete()) return std::nullopt;
  collecting_ = 0;
  Snapshot snapshot;
  for (auto& [slot, state] : std::exchange(states_, {}))
    snapshot.runners.push_back({options_.first_slot + slot, state});
  snapshot.with_batch = full_;
  if (!full_) return snapshot;
  snapshot.weights_version = books_.facts()[0].weights_version;
  for (const FragmentFacts& facts : books_.facts())
    snapshot.episodes.insert(snapshot.episodes.end(), facts.episodes.begin(), facts.episodes.end());
  return snapshot;
}

bool RoundBatch::states_complete() const {
  for (uint32_t slot = 0; slot < queue_.num_slots(); ++slot)
    if (queue_.is_up(slot) && !states_.contains(slot)) return false;
  return true;
}

// --- grants ---

bool RoundBatch::grant_due(uint32_t index) const {
  const auto it = agents_.find(index);
  if (it == agents_.end()) return false;
  const AgentSlots& agent = it->second;
  const auto changed = credit_changed_.lower_bound(agent.first);
  return agent.everything || (changed != credit_changed_.end() && *changed < agent.first + agent.num);
}

void RoundBatch::write_grant(uint32_t index, bool everything, uint64_t, wire::GrantT& grant) {
  AgentSlots& agent = agents_.at(index);
  grant.weights_version = queue_.weights_version();
  grant.want_state = collecting_;
  const auto add = [&](uint32_t slot) {
    const FragmentQueue::Credit credit = queue_.credit(slot);
    if (queue_.is_up(slot)) grant.slots.emplace_back(options_.first_slot + slot, credit.incarnation, credit.granted);
  };
  const auto first = credit_changed_.lower_bound(agent.first);
  const auto last = credit_changed_.lower_bound(agent.first + agent.num);
  if (std::exchange(agent.everything, false) || everything)
    for (uint32_t i = 0; i < agent.num; ++i) add(agent.first + i);
  else
    std::for_each(first, last, add);
  credit_changed_.erase(first, last);
}

void RoundBatch::repeat_grants() {
  if (!queue_.round_open() && collecting_ == 0) return;
  for (auto& [index, agent] : agents_) agent.everything = true;
}

}  // namespace myriad
