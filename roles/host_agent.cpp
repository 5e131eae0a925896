#include "roles/host_agent.hpp"

#include <csignal>

#include "rl/check.hpp"
#include "rl/wire/packed.hpp"

namespace myriad {

HostAgent::HostAgent(const Options& options)
    : options_(options),
      supervisor_(options.slots, RandomStream(options.seed, StreamPurpose::simulation, options.run + options.agent)),
      parcels_(options.agent, options.incarnation),
      base_(options.slots.num_slots),
      slots_(options.slots.num_slots) {}

Message HostAgent::addressed(Message message) const {
  message.run = options_.run;
  message.epoch = options_.epoch;
  return message;
}

void HostAgent::step(const Input& input, Time now, std::vector<Output>& outputs) {
  if (std::holds_alternative<Start>(input)) {
    last_tick_ = last_grant_ = last_join_ = now;
    send_join(outputs);  // before the first parcel: the learner drops parcels of an agent that has not joined
    apply_supervisor(SlotSupervisor::Start{}, now, outputs);
  } else if (const auto* from = std::get_if<FromLearner>(&input)) {
    from_learner(from->message, now, outputs);
  } else if (const auto* installed = std::get_if<Installed>(&input)) {
    installed_ = installed->version;
  } else if (const auto* move = std::get_if<Moved>(&input)) {
    moved(move->epoch, now, outputs);
  } else if (const auto* from = std::get_if<FromRunner>(&input)) {
    from_runner(*from, now, outputs);
  } else if (const auto* exited = std::get_if<RunnerExited>(&input)) {
    ended(exited->slot, exited->incarnation, exited->cause, now, outputs);
  } else if (const auto* failed = std::get_if<SpawnFailed>(&input)) {
    ended(failed->slot, failed->incarnation, failed->cause, now, outputs);
  } else if (const auto* progress = std::get_if<Progress>(&input)) {
    if (!is_mine(progress->slot)) return;
    const uint32_t index = progress->slot - options_.first_slot;
    if (slots_[index].up)
      apply_supervisor(SlotSupervisor::Progress{index, progress->incarnation, false, progress->env_starts}, now,
                       outputs);
    else
      apply_supervisor(SlotSupervisor::Alive{index, progress->incarnation}, now, outputs);
  } else if (std::holds_alternative<Drain>(input)) {
    if (!draining_) event("drain", fmt::format("agent {} drains: its runners finish", options_.agent), outputs);
    draining_ = true;
  } else if (std::holds_alternative<StopAll>(input)) {
    stopping_ = true;
    apply_supervisor(SlotSupervisor::StopAll{}, now, outputs);
  } else if (std::holds_alternative<Tick>(input)) {
    if (now < next_timer()) return;
    last_tick_ = now;
    if (now - last_second_ >= std::chrono::seconds(1)) {
      last_second_ = now;
      events_left_ = kEventsPerSecond;
      if (events_swallowed_ > 0)
        event(
            "events",
            fmt::format("agent {}: {} more events were left out", options_.agent, std::exchange(events_swallowed_, 0)),
            outputs);
      // A runner that waits for credit makes no steps and is not hung.
      for (uint32_t i = 0; i < slots_.size(); ++i)
        if (slots_[i].up && slots_[i].permitted == slots_[i].received)
          apply_supervisor(SlotSupervisor::Progress{i, supervisor_.incarnation(i)}, now, outputs);
    }
    apply_supervisor(SlotSupervisor::Tick{}, now, outputs);
    if (now - last_status_ >= kStatusEvery || supervisor_.num_restarts() != told_restarts_) send_status(now, outputs);
    if (now - last_grant_ >= kLearnerSilence && !stopping_)
      outputs.push_back(Refused{fmt::format("it has been silent for {:.0f} s", to_seconds(now - last_grant_)), true});
    if (now - last_join_ >= kJoinEvery) {
      last_join_ = now;
      send_join(outputs);
    }
    flush(now, outputs);
  } else {
    flush(now, outputs);
  }
}

void HostAgent::flush(Time now, std::vector<Output>& outputs) {
  if (!options_.by_slot) share_credit();
  send_permits(outputs);
  if (draining_ && sampling_.empty() && !said_down_) {
    said_down_ = true;
    for (uint32_t i = 0; i < slots_.size(); ++i)
      if (supervisor_.running(i)) relay_state(options_.first_slot + i, supervisor_.incarnation(i), false);
  }
  std::vector<Message> parcels;
  parcels_.flush(now, parcels);
  for (Message& parcel : parcels) outputs.push_back(ToLearner{addressed(std::move(parcel))});
  if (said_down_ && !drained_ && parcels_.idle()) {
    drained_ = true;
    send_status(now, outputs);
    outputs.push_back(Drained{});
  }
}

void HostAgent::from_learner(const Message& message, Time now, std::vector<Output>& outputs) {
  if (message.run != options_.run || message.epoch != options_.epoch) {
    ++malformed_;
    return;
  }
  if (const auto* grant = message.as<wire::GrantT>()) {
    this->grant(*grant, now, outputs);
  } else if (message.as<wire::WeightsHeaderT>() != nullptr) {
    auto weights = weights_from(message);
    const bool fits = weights && weights->layout_hash == options_.spec_hash &&
                      weights->values.size() == options_.num_inference_parameters &&
                      weights->filter.size() == options_.filter_size &&
                      weights->published.size() == options_.published_size;
    if (!fits) {
      ++malformed_;
    } else if (weights_ == nullptr || weights->version > weights_->version) {
      weights_ = std::make_shared<const Weights>(std::move(*weights));
      outputs.push_back(Install{weights_});
      send_join(outputs);  // ready for the next
    }
  } else if (const auto* refused = message.as<wire::RefusedT>()) {
    outputs.push_back(Refused{refused->reason});
  } else {
    ++malformed_;
  }
}

void HostAgent::grant(const wire::GrantT& grant, Time now, std::vector<Output>& outputs) {
  if (grant.agent != options_.agent || grant.incarnation != options_.incarnation) return;
  last_grant_ = now;
  const bool begins_later = grant.released > released_;
  if (begins_later) release(grant.released);
  parcels_.acknowledge(grant.received);
  if (!grant.based) {
    if (!based_ && begins_later) send_join(outputs);  // from the message it wants to begin with
    return;
  }
  // A round may be collected again, and need its older weights.
  required_version_ = based_ ? std::max(required_version_, grant.weights_version) : grant.weights_version;
  based_ = true;
  granted_fragments_ = std::max<uint64_t>(granted_fragments_, grant.granted_bytes / options_.fragment_bytes);
  if (grant.want_state > want_state_) {
    want_state_ = grant.want_state;
    for (uint32_t i = 0; i < slots_.size(); ++i) changed_.insert(options_.first_slot + i);
  }
  for (const auto& entry : grant.slots) {
    // Between two processes the incarnation is that of the one that ended: its credit is not the next one's.
    if (!is_mine(entry.slot()) || entry.incarnation() != incarnation(entry.slot()) || !running(entry.slot())) continue;
    Slot& s = slot(entry.slot());
    if (entry.granted() <= s.granted) continue;
    s.granted = entry.granted();
    changed_.insert(entry.slot());
  }
}

/// A learner begins with the messages the group has not trained on; its Join sums up the ones before.
void HostAgent::moved(uint64_t epoch, Time now, std::vector<Output>& outputs) {
  if (epoch <= options_.epoch) return;
  options_.epoch = epoch;
  based_ = false;
  // What is not permitted yet was granted for a round that may come later than the next one, with other weights.
  if (options_.by_slot)
    for (Slot& s : slots_) s.granted = s.permitted;
  last_grant_ = last_join_ = now;
  parcels_.restart();
  send_join(outputs);
  send_status(now, outputs);  // tells the driver that it has moved
}

void HostAgent::release(uint64_t messages) {
  for (; released_ < messages && !relayed_.empty(); ++released_, relayed_.pop_front()) {
    const Relayed& message = relayed_.front();
    Base& base = base_[message.slot - options_.first_slot];
    switch (message.kind) {
      case Relayed::Kind::up:
      case Relayed::Kind::down:
        base = {message.incarnation, message.kind == Relayed::Kind::up ? 0 : base.seq,
                message.kind == Relayed::Kind::up, true};
        break;
      case Relayed::Kind::fragment:
        ++base.seq;
        ++released_fragments_;
        break;
      case Relayed::Kind::other:
        break;
    }
  }
  parcels_.release(released_);
}

void HostAgent::from_runner(const FromRunner& from, Time now, std::vector<Output>& outputs) {
  if (!is_mine(from.slot) || incarnation(from.slot) != from.incarnation || !running(from.slot)) return;
  Slot& s = slot(from.slot);
  const auto frames = unpack({nullptr, from.packed});
  auto decoded = frames ? decode(*frames) : std::variant<Message, Malformed>(Malformed::no_frames);
  const auto* message = std::get_if<Message>(&decoded);
  std::string violation = message == nullptr ? "sent what is no message" : "";
  if (message == nullptr) {
    violation = "sent what is no message";
  } else if (const auto* state = message->as<wire::SlotStateT>()) {
    if (state->slot != from.slot || state->incarnation != from.incarnation || !state->up || s.up) {
      violation = "introduced itself as another";
    } else {
      s.up = true;
      relay_state(from.slot, from.incarnation, true);
      if (!options_.by_slot)
        for (uint32_t i = 0; i < kAhead; ++i) waiting_.push_back({from.slot, from.incarnation});
      changed_.insert(from.slot);  // what it was granted before it could take it
      apply_supervisor(SlotSupervisor::Progress{from.slot - options_.first_slot, from.incarnation}, now, outputs);
    }
  } else if (const auto* fragment = message->as<wire::FragmentHeaderT>()) {
    const FragmentId id = id_of(*fragment);
    if (id != FragmentId{from.slot, from.incarnation, s.received}) {
      violation = fmt::format("sent fragment {}.{}.{}, want {}.{}.{}", id.slot, id.incarnation, id.seq, from.slot,
                              from.incarnation, s.received);
    } else if (s.received >= s.permitted) {
      violation = fmt::format("sent fragment {}, which nobody permitted", id.seq);
    } else {
      ++s.received;
      ++fragments_;
      update_sampling(from.slot);
      parcels_.add(from.packed);
      relayed_.push_back({Relayed::Kind::fragment, from.slot, from.incarnation});
      if (!options_.by_slot) waiting_.push_back({from.slot, from.incarnation});
      apply_supervisor(
          SlotSupervisor::Progress{from.slot - options_.first_slot, from.incarnation, !fragment->episodes.empty()}, now,
          outputs);
    }
  } else if (const auto* state = message->as<wire::RunnerStateT>()) {
    if (state->slot != from.slot || state->incarnation != from.incarnation) {
      violation = "sent another runner's state";
    } else {
      parcels_.add(from.packed);
      relayed_.push_back({Relayed::Kind::other, from.slot, from.incarnation});
    }
  } else if (const auto* told = message->as<wire::EventT>()) {
    event(told->kind, told->text, outputs);
  } else if (const auto* error = message->as<wire::ProcessErrorT>()) {
    s.failures = error->failures;
    s.last_word = fmt::format("error[{}] {}", error->code, error->message);
    wire::ProcessErrorT forwarded = *error;
    forwarded.slot = from.slot;
    outputs.push_back(ToDriver{addressed(make_message(std::move(forwarded)))});
  } else {
    violation = "sent what no runner sends";
  }
  if (violation.empty()) return;
  ++malformed_;
  s.last_word = violation;
  outputs.push_back(Kill{from.slot, from.incarnation, SIGKILL});
}

void HostAgent::ended(uint32_t index, uint32_t incarnation, const std::string& cause, Time now,
                      std::vector<Output>& outputs) {
  if (!is_mine(index) || this->incarnation(index) != incarnation || !running(index)) return;
  Slot& s = slot(index);
  last_cause_ = s.last_word.empty() ? cause : s.last_word;
  if (!said_down_) relay_state(index, incarnation, false);  // also of one that never came up: the learner expects it
  if (!options_.by_slot) used_fragments_ -= s.granted - s.received;  // its credit goes to the others
  const uint32_t failures = std::exchange(s, Slot{}).failures;
  sampling_.erase(index);
  changed_.erase(index);
  apply_supervisor(SlotSupervisor::Exited{index - options_.first_slot, incarnation, last_cause_, false, failures}, now,
                   outputs);
}

void HostAgent::apply_supervisor(const SlotSupervisor::Input& input, Time now, std::vector<Output>& outputs) {
  std::vector<SlotSupervisor::Output> results;
  supervisor_.step(input, now, results);
  for (const auto& result : results) {
    if (const auto* spawn = std::get_if<SlotSupervisor::Spawn>(&result)) {
      if (!draining_) outputs.push_back(Spawn{options_.first_slot + spawn->slot, spawn->incarnation});
    } else if (const auto* hung = std::get_if<SlotSupervisor::Hung>(&result)) {
      const uint32_t index = options_.first_slot + hung->slot;
      event("runner-hung", fmt::format("runner {} made no step for {:.0f} s: killed", index, to_seconds(hung->silent)),
            outputs);
      outputs.push_back(Kill{index, hung->incarnation, SIGKILL});
    } else if (const auto* down = std::get_if<SlotSupervisor::Down>(&result)) {
      const std::string next = down->restart_in == Time::max() ? ""
                               : down->restart_in == Time::zero()
                                   ? "; restarted"
                                   : fmt::format("; restarts in {:.2f} s", to_seconds(down->restart_in));
      event("runner-down", fmt::format("runner {} ended: {}{}", options_.first_slot + down->slot, down->cause, next),
            outputs);
    } else {
      const auto& quarantined = std::get<SlotSupervisor::Quarantined>(result);
      event("runner-quarantined",
            fmt::format("runner {} is given up: {} failures in a row without a finished episode "
                        "(fault_tolerance.max_failures_in_a_row), the last: {}",
                        options_.first_slot + quarantined.slot, quarantined.failures, quarantined.cause),
            outputs);
      send_status(now, outputs);
    }
  }
}

/// Async: the runner that has waited longest comes first; one that died since has no claim.
void HostAgent::share_credit() {
  while (used_fragments_ < granted_fragments_ && !waiting_.empty() && installed_ && !draining_) {
    const Waiting next = waiting_.front();
    waiting_.pop_front();
    if (incarnation(next.slot) != next.incarnation || !slot(next.slot).up) continue;
    ++slot(next.slot).granted;
    ++used_fragments_;
    changed_.insert(next.slot);
  }
}

void HostAgent::send_permits(std::vector<Output>& outputs) {
  const bool ready = installed_ && *installed_ >= required_version_;
  for (auto it = changed_.begin(); it != changed_.end();) {
    Slot& s = slot(*it);
    const bool permits = ready && !draining_ && s.granted > s.permitted;
    if (!s.up || (!permits && want_state_ <= s.told_state)) {
      const bool later = s.up && s.granted > s.permitted;  // the weights are on their way
      it = later ? std::next(it) : changed_.erase(it);
      continue;
    }
    if (permits) s.permitted = s.granted;
    s.told_state = want_state_;
    wire::PermitT permit;
    permit.granted = s.permitted;
    permit.want_state = want_state_;
    outputs.push_back(ToRunner{*it, addressed(make_message(std::move(permit)))});
    update_sampling(*it);
    it = s.granted > s.permitted ? std::next(it) : changed_.erase(it);
  }
}

void HostAgent::update_sampling(uint32_t index) {
  const Slot& s = slot(index);
  if (s.permitted > s.received)
    sampling_.insert(index);
  else
    sampling_.erase(index);
}

void HostAgent::relay_state(uint32_t index, uint32_t incarnation, bool up) {
  wire::SlotStateT state;
  state.slot = index;
  state.incarnation = incarnation;
  state.up = up;
  parcels_.add(addressed(make_message(std::move(state))));
  relayed_.push_back({up ? Relayed::Kind::up : Relayed::Kind::down, index, incarnation});
}

void HostAgent::send_join(std::vector<Output>& outputs) {
  wire::JoinT join;
  join.agent = options_.agent;
  join.incarnation = options_.incarnation;
  join.spec_hash = options_.spec_hash;
  join.fragment_hash = options_.fragment_hash;
  join.weights_version = weights_ == nullptr ? -1 : static_cast<int64_t>(weights_->version);
  join.sent = parcels_.sent();
  join.released = released_;
  join.based = based_;
  if (!based_) {
    join.fragments = released_fragments_;
    join.granted_fragments = granted_fragments_;
    for (uint32_t i = 0; i < base_.size(); ++i)
      if (base_[i].known)
        join.slots.emplace_back(options_.first_slot + i, base_[i].incarnation, base_[i].seq, base_[i].up);
  }
  outputs.push_back(ToLearner{addressed(make_message(std::move(join)))});
}

void HostAgent::send_status(Time now, std::vector<Output>& outputs) {
  last_status_ = now;
  wire::AgentStatusT status;
  status.agent = options_.agent;
  status.incarnation = options_.incarnation;
  status.quarantined = supervisor_.num_quarantined();
  for (const Slot& s : slots_) {
    status.running += s.up;
    status.waiting += s.up && s.permitted == s.received;
  }
  status.restarts = told_restarts_ = supervisor_.num_restarts();
  status.fragments = fragments_;
  status.weights_version = weights_ == nullptr ? -1 : static_cast<int64_t>(weights_->version);
  status.leaving = drained_;
  status.last_cause = last_cause_;
  outputs.push_back(ToDriver{addressed(make_message(std::move(status)))});
}

void HostAgent::event(std::string kind, std::string text, std::vector<Output>& outputs) {
  if (events_left_ == 0) {
    ++events_swallowed_;
    return;
  }
  --events_left_;
  wire::EventT event;
  event.kind = std::move(kind);
  event.text = std::move(text);
  outputs.push_back(ToDriver{addressed(make_message(std::move(event)))});
}

}  // namespace myriad
