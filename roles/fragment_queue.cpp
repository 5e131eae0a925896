#include "roles/fragment_queue.hpp"

#include <algorithm>

#include "rl/check.hpp"

namespace myriad {

std::string_view name_of(Drop drop) {
  switch (drop) {
    case Drop::unknown_slot:
      return "unknown_slot";
    case Drop::stale_incarnation:
      return "stale_incarnation";
    case Drop::duplicate:
      return "duplicate";
    case Drop::beyond_credit:
      return "beyond_credit";
    case Drop::wrong_version:
      return "wrong_version";
    case Drop::invalid:
      return "invalid";
    case Drop::policy_lag:
      return "policy_lag";
    case Drop::count:
      break;
  }
  return "?";
}

FragmentQueue::FragmentQueue(uint32_t num_slots, uint32_t fragments_per_batch)
    : places_(fragments_per_batch), num_up_(num_slots), filled_(fragments_per_batch), slots_(num_slots) {
  check(num_slots > 0 && fragments_per_batch > 0, "a queue needs slots and places, got {} and {}", num_slots,
        fragments_per_batch);
}

void FragmentQueue::give(uint32_t place, uint32_t slot, std::vector<Output>& outputs) {
  slots_[slot].place_of.push_back(place);
  slots_[slot].received.push_back(false);
  outputs.push_back(CreditChanged{slot});
}

/// To the slot that owns it, else to the slot with the fewest places; with no slot up it waits for the first one.
void FragmentQueue::hand_out(uint32_t place, std::vector<Output>& outputs) {
  const uint32_t owner = place % num_slots();
  const uint32_t slot = slots_[owner].up ? owner : least_loaded_slot();
  if (slot == num_slots())
    orphans_.push_back(place);
  else
    give(place, slot, outputs);
}

uint32_t FragmentQueue::least_loaded_slot() const {
  uint32_t best = num_slots();
  for (uint32_t i = 0; i < num_slots(); ++i)
    if (slots_[i].up && (best == num_slots() || slots_[i].place_of.size() < slots_[best].place_of.size())) best = i;
  return best;
}

std::optional<Drop> FragmentQueue::why_not(const Arrived& arrived) const {
  if (arrived.id.slot >= num_slots()) return Drop::unknown_slot;
  const Slot& slot = slots_[arrived.id.slot];
  if (!slot.up || arrived.id.incarnation != slot.incarnation) return Drop::stale_incarnation;
  if (arrived.id.seq < slot.first_seq) return Drop::duplicate;
  const uint64_t index = arrived.id.seq - slot.first_seq;
  if (index >= slot.place_of.size()) return Drop::beyond_credit;
  if (slot.received[index]) return Drop::duplicate;
  if (arrived.weights_version < weights_version_ || arrived.weights_version > newest_version_)
    return Drop::wrong_version;
  if (!arrived.valid) return Drop::invalid;
  return std::nullopt;
}

void FragmentQueue::step(const Input& input, std::vector<Output>& outputs) {
  if (const auto* round = std::get_if<BeginRound>(&input))
    begin(*round, outputs);
  else if (const auto* slot = std::get_if<SlotIs>(&input))
    is(*slot, outputs);
  else if (const auto* slots = std::get_if<SlotUp>(&input))
    up(*slots, outputs);
  else if (const auto* slot = std::get_if<SlotDown>(&input))
    down(*slot, outputs);
  else if (const auto* skip = std::get_if<Skip>(&input))
    skipped(skip->slot, outputs);
  else
    arrived(std::get<Arrived>(input), outputs);
}

void FragmentQueue::begin(const BeginRound& round, std::vector<Output>& outputs) {
  check(!round_open(), "a round began while {} places of the last one are open", places_ - filled_);
  weights_version_ = round.weights_version;
  newest_version_ = std::max(round.newest_version, weights_version_);
  filled_ = 0;
  for (Slot& slot : slots_) {
    slot.first_seq += slot.place_of.size();
    slot.place_of.clear();
    slot.received.clear();
  }
  for (uint32_t place = 0; place < places_; ++place) hand_out(place, outputs);
}

void FragmentQueue::is(const SlotIs& input, std::vector<Output>& outputs) {
  if (input.slot >= num_slots()) return;
  Slot& slot = slots_[input.slot];
  if (input.incarnation > slot.incarnation) up({input.slot, input.incarnation}, outputs);
  if (input.incarnation != slot.incarnation || !slot.up) return;
  slot.first_seq = input.next_seq;
  outputs.push_back(CreditChanged{input.slot});
}

void FragmentQueue::skipped(uint32_t slot, std::vector<Output>& outputs) {
  if (slot >= num_slots()) return;
  slots_[slot].place_of.push_back(places_);
  slots_[slot].received.push_back(true);
  outputs.push_back(CreditChanged{slot});
}

void FragmentQueue::up(const SlotUp& input, std::vector<Output>& outputs) {
  for (uint32_t i = input.slot; i < num_slots() && i - input.slot < input.count; ++i) {
    if (input.incarnation <= slots_[i].incarnation) continue;  // it is known, or ended: a process does not come back
    const Slot before = std::exchange(
        slots_[i], Slot{.up = true, .incarnation = input.incarnation, .place_of = {}, .received = {}, .first_seq = 0});
    num_up_ += before.up ? 0 : 1;
    for (size_t k = 0; k < before.place_of.size(); ++k)
      if (!before.received[k]) give(before.place_of[k], i, outputs);
  }
  for (const uint32_t place : std::exchange(orphans_, {})) hand_out(place, outputs);
}

void FragmentQueue::down(const SlotDown& input, std::vector<Output>& outputs) {
  if (input.slot >= num_slots()) return;
  Slot& slot = slots_[input.slot];
  if (input.incarnation < slot.incarnation) return;
  slot.incarnation = input.incarnation;
  if (!slot.up) return;
  slot.up = false;
  --num_up_;
  const auto place_of = std::exchange(slot.place_of, {});
  const auto received = std::exchange(slot.received, {});
  for (size_t i = 0; i < place_of.size(); ++i)
    if (!received[i]) hand_out(place_of[i], outputs);
}

void FragmentQueue::arrived(const Arrived& input, std::vector<Output>& outputs) {
  const auto reason = why_not(input);
  if (reason) {
    ++drops_[static_cast<size_t>(*reason)];
    outputs.push_back(Dropped{input.id, *reason});
    if (*reason != Drop::wrong_version && *reason != Drop::invalid) return;
  }
  Slot& slot = slots_[input.id.slot];
  const uint64_t index = input.id.seq - slot.first_seq;
  slot.received[index] = true;
  const uint32_t place = slot.place_of[index];
  if (reason) {
    give(place, input.id.slot, outputs);  // the runner goes on with the next number
    return;
  }
  outputs.push_back(Accepted{input.id, place});
  if (++filled_ == places_) outputs.push_back(RoundComplete{weights_version_});
}

}  // namespace myriad
