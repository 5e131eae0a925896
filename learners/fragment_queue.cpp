#include "learners/fragment_queue.hpp"

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
    case Drop::count:
      break;
  }
  return "?";
}

FragmentQueue::FragmentQueue(uint32_t num_slots, uint32_t fragments_per_batch)
    : places_(fragments_per_batch), filled_(fragments_per_batch), slots_(num_slots) {
  check(num_slots > 0 && fragments_per_batch > 0, "a queue needs slots and places, got {} and {}", num_slots,
        fragments_per_batch);
}

FragmentQueue::Credit FragmentQueue::credit(uint32_t slot) const {
  const Slot& s = slots_[slot];
  const auto hole = std::find(s.received.begin(), s.received.end(), false);
  return {s.incarnation, s.first_seq + s.place_of.size(),
          s.first_seq + static_cast<uint64_t>(hole - s.received.begin())};
}

void FragmentQueue::give(uint32_t place, uint32_t slot, std::vector<Output>& outputs) {
  slots_[slot].place_of.push_back(place);
  slots_[slot].received.push_back(false);
  outputs.push_back(CreditChanged{slot});
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
  if (arrived.weights_version != weights_version_) return Drop::wrong_version;
  if (!arrived.valid) return Drop::invalid;
  return std::nullopt;
}

void FragmentQueue::step(const Input& input, std::vector<Output>& outputs) {
  if (const auto* begin = std::get_if<BeginRound>(&input)) {
    check(!round_open(), "a round began while {} places of the last one are open", places_ - filled_);
    weights_version_ = begin->weights_version;
    filled_ = 0;
    for (Slot& slot : slots_) {
      slot.first_seq += slot.place_of.size();
      slot.place_of.clear();
      slot.received.clear();
    }
    for (uint32_t place = 0; place < places_; ++place) {
      const uint32_t owner = place % num_slots();
      const uint32_t slot = slots_[owner].up ? owner : least_loaded_slot();
      if (slot == num_slots())
        orphans_.push_back(place);
      else
        give(place, slot, outputs);
    }
  } else if (const auto* up = std::get_if<SlotUp>(&input)) {
    if (up->slot >= num_slots()) return;
    Slot& slot = slots_[up->slot];
    if (up->incarnation <= slot.incarnation) return;  // it is known, or ended: a process does not come back
    if (slot.up) step(SlotDown{up->slot, slot.incarnation}, outputs);  // its end was not heard of
    slot = Slot{.up = true, .incarnation = up->incarnation, .place_of = {}, .received = {}, .first_seq = 0};
    for (const uint32_t place : std::exchange(orphans_, {})) give(place, up->slot, outputs);
  } else if (const auto* down = std::get_if<SlotDown>(&input)) {
    if (down->slot >= num_slots()) return;
    Slot& slot = slots_[down->slot];
    if (down->incarnation < slot.incarnation) return;
    slot.incarnation = down->incarnation;
    if (!slot.up) return;
    slot.up = false;
    const auto place_of = std::exchange(slot.place_of, {});
    const auto received = std::exchange(slot.received, {});
    for (size_t i = 0; i < place_of.size(); ++i) {
      if (received[i]) continue;
      const uint32_t heir = least_loaded_slot();
      if (heir == num_slots())
        orphans_.push_back(place_of[i]);
      else
        give(place_of[i], heir, outputs);
    }
  } else {
    const Arrived& arrived = std::get<Arrived>(input);
    if (const auto reason = why_not(arrived)) {
      ++drops_[static_cast<size_t>(*reason)];
      outputs.push_back(Dropped{arrived.id, *reason});
      return;
    }
    Slot& slot = slots_[arrived.id.slot];
    const uint64_t index = arrived.id.seq - slot.first_seq;
    slot.received[index] = true;
    outputs.push_back(Accepted{arrived.id, slot.place_of[index]});
    if (++filled_ == places_) outputs.push_back(RoundComplete{weights_version_});
  }
}

}  // namespace myriad
