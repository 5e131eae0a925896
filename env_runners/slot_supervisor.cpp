#include "env_runners/slot_supervisor.hpp"

#include <algorithm>

namespace myriad {

SlotSupervisor::SlotSupervisor(Options options, RandomStream random)
    : options_(options), random_(random), slots_(options.num_slots) {}

void SlotSupervisor::spawn(uint32_t index, Time now, std::vector<Output>& outputs) {
  Slot& slot = slots_[index];
  slot.state = State::running;
  slot.since = now;
  slot.progressed = slot.reported_hung = false;
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

Time SlotSupervisor::next_timer() const {
  Time next = Time::max();
  if (!stopping_)
    for (const Slot& slot : slots_) next = std::min(next, deadline(slot));
  return next;
}

uint32_t SlotSupervisor::num_running() const {
  return static_cast<uint32_t>(
      std::count_if(slots_.begin(), slots_.end(), [](const Slot& s) { return s.state == State::running; }));
}
uint32_t SlotSupervisor::num_quarantined() const {
  return static_cast<uint32_t>(
      std::count_if(slots_.begin(), slots_.end(), [](const Slot& s) { return s.state == State::quarantined; }));
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
    if (slot.progressed && now - slot.since > Time::zero()) slot.crashes_in_a_row = 0;
    slot.progressed = true;
    slot.since = now;
  } else if (const auto* exited = std::get_if<Exited>(&input)) {
    if (exited->slot >= slots_.size()) return;
    Slot& slot = slots_[exited->slot];
    if (slot.state != State::running || slot.incarnation != exited->incarnation) return;
    if (stopping_) {
      slot.state = State::idle;
      return;
    }
    std::erase_if(slot.crashes, [&](Time t) { return now - t > std::chrono::minutes(1); });
    slot.crashes.push_back(now);
    const uint32_t in_a_row = slot.crashes_in_a_row++;
    if (slot.crashes.size() >= options_.max_crashes_per_minute) {
      slot.state = State::quarantined;
      outputs.push_back(Down{exited->slot, slot.incarnation, exited->cause, Time::max()});
      outputs.push_back(Quarantined{exited->slot, exited->cause});
      return;
    }
    // The first crash restarts at once; then 1, 2, 4 ... back-offs, spread by up to half so that slots do not march in
    // step.
    Time delay = in_a_row == 0
                     ? Time::zero()
                     : std::min(options_.backoff_max, options_.backoff * (int64_t{1} << std::min(in_a_row - 1, 20u)));
    delay += Time(static_cast<int64_t>(static_cast<double>(delay.count()) * 0.5 * random_.uniform()));
    outputs.push_back(Down{exited->slot, slot.incarnation, exited->cause, delay});
    slot.state = State::backing_off;
    slot.since = now + delay;
    if (delay == Time::zero()) respawn(exited->slot, now, outputs);
  } else if (!stopping_) {
    for (uint32_t i = 0; i < slots_.size(); ++i) {
      if (deadline(slots_[i]) > now) continue;
      if (slots_[i].state == State::backing_off) {
        respawn(i, now, outputs);
      } else {
        slots_[i].reported_hung = true;
        outputs.push_back(Hung{i, slots_[i].incarnation, now - slots_[i].since});
      }
    }
  }
}

}  // namespace myriad
