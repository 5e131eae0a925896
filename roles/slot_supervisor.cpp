#include "roles/slot_supervisor.hpp"

#include <algorithm>

namespace myriad {

SlotSupervisor::SlotSupervisor(Options options, RandomStream random)
    : options_(options), random_(random), slots_(options.num_slots) {
  for (Slot& slot : slots_) slot.incarnation = options.first_incarnation;
  counts_[static_cast<size_t>(State::idle)] = options.num_slots;
}

void SlotSupervisor::enter(Slot& slot, State state, Time since) {
  --counts_[static_cast<size_t>(slot.state)];
  ++counts_[static_cast<size_t>(state)];
  slot.state = state;
  slot.since = since;
  next_ = std::min(next_, deadline(slot));
}

void SlotSupervisor::spawn(uint32_t index, Time now, std::vector<Output>& outputs) {
  Slot& slot = slots_[index];
  slot.progressed = slot.reported_hung = false;
  enter(slot, State::running, now);
  outputs.push_back(Spawn{index, slot.incarnation});
}

void SlotSupervisor::respawn(uint32_t index, Time now, std::vector<Output>& outputs) {
  ++slots_[index].incarnation;
  ++restarts_;
  spawn(index, now, outputs);
}

Time SlotSupervisor::deadline(const Slot& slot) const {
  if (slot.state == State::backing_off) return slot.since;
  if (slot.state != State::running || slot.reported_hung) return Time::max();
  return slot.since + (slot.progressed ? options_.step_timeout : options_.start_timeout);
}

void SlotSupervisor::step(const Input& input, Time now, std::vector<Output>& outputs) {
  if (std::holds_alternative<Start>(input)) {
    for (uint32_t i = 0; i < slots_.size(); ++i) spawn(i, now, outputs);
  } else if (std::holds_alternative<StopAll>(input)) {
    stopping_ = true;
  } else if (const auto* progress = std::get_if<Progress>(&input)) {
    if (progress->slot >= slots_.size()) return;
    Slot& slot = slots_[progress->slot];
    if (slot.state != State::running || slot.incarnation != progress->incarnation) return;
    if (progress->achieved) slot.failures_in_a_row = 0;
    const bool sooner = !slot.progressed && !progress->starts;
    slot.progressed = !progress->starts;
    slot.since = now;
    if (sooner) next_ = std::min(next_, deadline(slot));  // than that of the start
  } else if (const auto* alive = std::get_if<Alive>(&input)) {
    if (alive->slot >= slots_.size()) return;
    Slot& slot = slots_[alive->slot];
    if (slot.state == State::running && slot.incarnation == alive->incarnation && !slot.progressed) slot.since = now;
  } else if (const auto* exited = std::get_if<Exited>(&input)) {
    ended(*exited, now, outputs);
  } else if (!stopping_ && now >= next_) {
    look_at_all(now, outputs);
  }
}

void SlotSupervisor::ended(const Exited& exited, Time now, std::vector<Output>& outputs) {
  if (exited.slot >= slots_.size()) return;
  Slot& slot = slots_[exited.slot];
  if (slot.state != State::running || slot.incarnation != exited.incarnation) return;
  if (stopping_) {
    enter(slot, State::idle, now);
    return;
  }
  Time delay = Time::zero();
  if (!exited.asked) {
    const uint32_t in_a_row = slot.failures_in_a_row;
    slot.failures_in_a_row += std::min(exited.failures, UINT32_MAX - in_a_row);
    if (slot.failures_in_a_row >= options_.max_failures_in_a_row) {
      enter(slot, State::quarantined, now);
      outputs.push_back(Down{exited.slot, slot.incarnation, exited.cause, Time::max()});
      outputs.push_back(Quarantined{exited.slot, exited.cause, slot.failures_in_a_row});
      return;
    }
    // The first failure restarts at once; then 1, 2, 4 ... back-offs, spread by up to half so that slots do not march
    // in step.
    if (in_a_row > 0)
      delay = std::min(options_.backoff_max, options_.backoff * (int64_t{1} << std::min(in_a_row - 1, 20u)));
    delay += Time(static_cast<int64_t>(static_cast<double>(delay.count()) * 0.5 * random_.uniform()));
  }
  outputs.push_back(Down{exited.slot, slot.incarnation, exited.cause, delay});
  if (delay == Time::zero())
    respawn(exited.slot, now, outputs);
  else
    enter(slot, State::backing_off, now + delay);
}

void SlotSupervisor::look_at_all(Time now, std::vector<Output>& outputs) {
  next_ = Time::max();
  for (uint32_t i = 0; i < slots_.size(); ++i) {
    Slot& slot = slots_[i];
    if (deadline(slot) > now) {
      next_ = std::min(next_, deadline(slot));
    } else if (slot.state == State::backing_off) {
      respawn(i, now, outputs);
    } else {
      slot.reported_hung = true;
      outputs.push_back(Hung{i, slot.incarnation, now - slot.since});
    }
  }
}

}  // namespace myriad
