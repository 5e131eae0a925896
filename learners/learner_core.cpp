#include "learners/learner_core.hpp"

#include "rl/check.hpp"

namespace myriad {

LearnerCore::LearnerCore(Options options)
    : options_(std::move(options)),
      queue_(options_.num_slots, options_.fragments_per_batch),
      iteration_(options_.training_iteration),
      env_steps_(options_.num_env_steps_sampled_lifetime),
      until_(options_.training_iteration) {}

void LearnerCore::start(WeightsPtr weights, Time now, std::vector<Output>& outputs) {
  std::vector<WeightsPublisher::Send> sends;
  publisher_.step(WeightsPublisher::Publish{std::move(weights)}, sends);
  last_tick_ = now;
  advance(now, outputs);
}

void LearnerCore::send_driver(Message message, std::vector<Output>& outputs) {
  message.run = options_.run;
  message.epoch = options_.epoch;
  outputs.push_back(ToDriver{std::move(message)});
}

void LearnerCore::send_report(std::vector<Output>& outputs) { send_driver(make_message(report_), outputs); }

void LearnerCore::send_grant(uint32_t slot, std::vector<Output>& outputs) {
  const auto peer = peer_of_slot_.find(slot);
  if (peer == peer_of_slot_.end()) return;  // it will ask
  const FragmentQueue::Credit credit = queue_.credit(slot);
  wire::GrantT grant;
  grant.incarnation = credit.incarnation;
  grant.granted = credit.granted;
  grant.acknowledged = credit.acknowledged;
  grant.weights_version = queue_.weights_version();
  if (phase_ == Phase::saving && checkpoint_sequence_ > done_sequence_) grant.want_state = checkpoint_sequence_;
  Message message = make_message(std::move(grant));
  message.run = options_.run;
  message.epoch = options_.epoch;
  outputs.push_back(ToRunner{peer->second, std::move(message)});
}

std::map<std::string, double> LearnerCore::drops() const {
  std::map<std::string, double> drops;
  for (size_t i = 0; i < queue_.drops().size(); ++i)
    drops["dropped/" + std::string(name_of(static_cast<Drop>(i)))] = static_cast<double>(queue_.drops()[i]);
  for (size_t i = 0; i < malformed_.size(); ++i)
    drops["dropped/" + std::string(name_of(static_cast<Malformed>(i)))] = static_cast<double>(malformed_[i]);
  drops["dropped/foreign_run_or_epoch"] = static_cast<double>(foreign_);
  return drops;
}

void LearnerCore::step(const Input& input, Time now, std::vector<Output>& outputs) {
  if (const auto* from = std::get_if<FromDriver>(&input)) {
    from_driver(from->message, now, outputs);
  } else if (const auto* from = std::get_if<FromRunner>(&input)) {
    from_runner(from->peer, from->message, now, outputs);
  } else if (const auto* updated = std::get_if<Updated>(&input)) {
    check(phase_ == Phase::updating, "an update ended that nobody started");
    ++iteration_;
    std::vector<WeightsPublisher::Send> sends;
    publisher_.step(WeightsPublisher::Publish{updated->weights}, sends);
    for (auto& send : sends) {
      Message message = weights_message(send.weights);
      message.run = options_.run;
      message.epoch = options_.epoch;
      outputs.push_back(ToRunner{send.peer, std::move(message)});
    }
    report_ = {};
    report_.training_iteration = iteration_;
    report_.num_env_steps_sampled_lifetime = env_steps_;
    report_.weights_version = updated->weights->version;
    const auto add = [&](const std::string& key, double value) {
      auto row = std::make_unique<wire::KeyValueT>();
      row->key = key;
      row->value = value;
      report_.metrics.push_back(std::move(row));
    };
    for (const auto& [key, value] : updated->metrics) add(key, value);
    for (const auto& [key, value] : drops()) add(key, value);
    add("sampling_s", sampling_ns_ * 1e-9 / queue_.num_slots());
    add("waiting_s", waiting_ns_ * 1e-9 / queue_.num_slots());
    for (const auto& [place, episodes] : std::exchange(episodes_, {}))
      report_.episodes.insert(report_.episodes.end(), episodes.begin(), episodes.end());
    sampling_ns_ = waiting_ns_ = 0;
    report_pending_ = true;
    phase_ = Phase::waiting;
    send_report(outputs);
    advance(now, outputs);
  } else if (const auto* written = std::get_if<CheckpointWritten>(&input)) {
    done_ = {};
    done_.sequence = written->sequence;
    done_.training_iteration = iteration_;
    done_.num_env_steps_sampled_lifetime = env_steps_;
    done_.error = written->error;
    for (const wire::FileEntryT& file : written->files) done_.files.push_back(std::make_unique<wire::FileEntryT>(file));
    done_sequence_ = written->sequence;
    phase_ = Phase::waiting;
    send_driver(make_message(done_), outputs);
    advance(now, outputs);
  } else if (now >= next_timer()) {
    last_tick_ = now;
    if (report_pending_) send_report(outputs);
    if (phase_ == Phase::sampling || phase_ == Phase::saving)
      for (uint32_t slot = 0; slot < queue_.num_slots(); ++slot)
        if (queue_.is_up(slot)) send_grant(slot, outputs);
    advance(now, outputs);
  }
}

void LearnerCore::from_driver(const Message& message, Time now, std::vector<Output>& outputs) {
  if (message.run != options_.run || message.epoch < options_.epoch) {
    ++foreign_;
    return;
  }
  if (const auto* slot = message.as<wire::SlotStateT>()) {
    if (slot->up)
      apply_queue(FragmentQueue::SlotUp{slot->slot, slot->incarnation}, nullptr, outputs);
    else
      apply_queue(FragmentQueue::SlotDown{slot->slot, slot->incarnation}, nullptr, outputs);
  } else if (const auto* command = message.as<wire::CommandT>()) {
    const uint64_t seen = command->kind == wire::CommandKind::go ? command->until - 1 : command->until;
    if (seen >= iteration_) report_pending_ = false;  // the driver answers the newest report
    switch (command->kind) {
      case wire::CommandKind::go:
        until_ = std::max(until_, command->until);
        break;
      case wire::CommandKind::checkpoint:
        // Only of the iteration the learner stands at: an older one was abandoned and would save other weights.
        if (command->sequence > checkpoint_sequence_ && command->until == iteration_ &&
            (phase_ == Phase::waiting || phase_ == Phase::saving)) {
          checkpoint_sequence_ = command->sequence;
          checkpoint_directory_ = command->directory;
        } else if (command->sequence == done_sequence_) {
          send_driver(make_message(done_), outputs);  // the answer was lost
        }
        break;
      case wire::CommandKind::stop:
        outputs.push_back(Exit{"stopped by the driver"});
        return;
    }
  } else if (const auto* stop = message.as<wire::StopT>()) {
    outputs.push_back(Exit{stop->reason});
    return;
  }
  advance(now, outputs);
}

void LearnerCore::from_runner(const std::string& peer, const Message& message, Time now, std::vector<Output>& outputs) {
  if (message.run != options_.run || message.epoch != options_.epoch) {
    ++foreign_;
    return;
  }
  if (const auto* join = message.as<wire::JoinT>()) {
    const bool matches = join->spec_hash == options_.spec_hash && join->fragment_hash == options_.fragment_hash;
    if (!matches || join->slot >= queue_.num_slots()) {
      refuse(peer,
             join->slot >= queue_.num_slots()
                 ? fmt::format("slot {} is not one of {}", join->slot, queue_.num_slots())
                 : fmt::format("module {:016x} and fragment {:016x} differ from the learner's {:016x} and {:016x}",
                               join->spec_hash, join->fragment_hash, options_.spec_hash, options_.fragment_hash),
             outputs);
      return;
    }
    apply_queue(FragmentQueue::SlotUp{join->slot, join->incarnation}, nullptr, outputs);
    // An older process of the slot, or one that ended while this Join was on its way.
    if (!queue_.is_up(join->slot) || queue_.credit(join->slot).incarnation != join->incarnation) return;
    auto& known = peer_of_slot_[join->slot];
    std::vector<WeightsPublisher::Send> sends;
    if (!known.empty() && known != peer) publisher_.step(WeightsPublisher::PeerGone{known}, sends);
    known = peer;
    publisher_.step(WeightsPublisher::PeerHas{peer, join->weights_version}, sends);
    for (auto& send : sends) {
      Message weights = weights_message(send.weights);
      weights.run = options_.run;
      weights.epoch = options_.epoch;
      outputs.push_back(ToRunner{send.peer, std::move(weights)});
    }
    send_grant(join->slot, outputs);
  } else if (message.as<wire::FragmentHeaderT>() != nullptr) {
    fragment(peer, message, outputs);
    advance(now, outputs);
  } else if (const auto* state = message.as<wire::RunnerStateT>()) {
    const bool wanted = phase_ == Phase::saving && state->checkpoint == checkpoint_sequence_ &&
                        message.payloads.size() == 1 && state->slot < queue_.num_slots() && queue_.is_up(state->slot) &&
                        queue_.credit(state->slot).incarnation == state->incarnation &&
                        queue_.credit(state->slot).granted == state->seq;
    if (wanted) states_.emplace(state->slot, message.payloads[0]);
    advance(now, outputs);
  } else {
    ++malformed_[static_cast<size_t>(Malformed::not_an_envelope)];
  }
}

void LearnerCore::refuse(const std::string& peer, std::string reason, std::vector<Output>& outputs) {
  wire::RefusedT refused;
  refused.reason = std::move(reason);
  Message message = make_message(std::move(refused));
  message.run = options_.run;
  message.epoch = options_.epoch;
  outputs.push_back(ToRunner{peer, std::move(message)});
}

void LearnerCore::fragment(const std::string& peer, const Message& message, std::vector<Output>& outputs) {
  const auto& header = *message.as<wire::FragmentHeaderT>();
  std::string violation;
  if (message.payloads.size() != 1 || header.steps != options_.steps || header.environments != options_.environments)
    violation = fmt::format("{} payloads of {} x {} steps, want 1 of {} x {}", message.payloads.size(), header.steps,
                            header.environments, options_.steps, options_.environments);
  else
    violation = options_.violation(header, message.payloads[0].view);
  const auto before = queue_.drops();
  apply_queue(FragmentQueue::Arrived{id_of(header), header.weights_version, violation.empty()}, &message, outputs);
  // It is never acknowledged and would be sent again for ever: the runner has to start anew.
  const auto dropped = [&](Drop reason) {
    return queue_.drops()[static_cast<size_t>(reason)] > before[static_cast<size_t>(reason)];
  };
  if (dropped(Drop::invalid) || dropped(Drop::wrong_version))
    refuse(peer,
           fmt::format("fragment {} of runner {} is not used: {}", header.key->seq(), header.key->slot(),
                       violation.empty() ? fmt::format("weights {}, the round has {}", header.weights_version,
                                                       queue_.weights_version())
                                         : violation),
           outputs);
}

void LearnerCore::apply_queue(const FragmentQueue::Input& input, const Message* arrived, std::vector<Output>& outputs) {
  std::vector<FragmentQueue::Output> results;
  queue_.step(input, results);
  for (const FragmentQueue::Output& result : results) {
    if (const auto* credit = std::get_if<FragmentQueue::CreditChanged>(&result)) {
      if (&result == &results.back() || !std::holds_alternative<FragmentQueue::CreditChanged>(*(&result + 1)) ||
          std::get<FragmentQueue::CreditChanged>(*(&result + 1)).slot != credit->slot)
        send_grant(credit->slot, outputs);  // once for a run of places to the same slot
    } else if (const auto* accepted = std::get_if<FragmentQueue::Accepted>(&result)) {
      const auto& header = *arrived->as<wire::FragmentHeaderT>();
      env_steps_ += uint64_t{header.steps} * header.environments;
      episodes_[accepted->place] = header.episodes;
      sampling_ns_ += static_cast<double>(header.sampling_ns);
      waiting_ns_ += static_cast<double>(header.waiting_ns);
      outputs.push_back(Assemble{{accepted->place, *arrived}});
      send_grant(accepted->id.slot, outputs);  // the acknowledgement
    } else if (const auto* dropped = std::get_if<FragmentQueue::Dropped>(&result)) {
      if (dropped->reason == Drop::duplicate) send_grant(dropped->id.slot, outputs);  // its acknowledgement was lost
    } else {
      phase_ = Phase::updating;
      outputs.push_back(Update{});
    }
  }
}

bool LearnerCore::states_complete() const {
  for (uint32_t slot = 0; slot < queue_.num_slots(); ++slot)
    if (queue_.is_up(slot) && !states_.contains(slot)) return false;
  return true;
}

void LearnerCore::advance(Time now, std::vector<Output>& outputs) {
  if (phase_ == Phase::waiting && checkpoint_sequence_ > done_sequence_) {
    phase_ = Phase::saving;
    states_.clear();
    states_by_ = now + kStateDeadline;
    for (uint32_t slot = 0; slot < queue_.num_slots(); ++slot)
      if (queue_.is_up(slot)) send_grant(slot, outputs);
  }
  if (phase_ == Phase::saving && !checkpoint_directory_.empty() && (states_complete() || now >= states_by_)) {
    WriteCheckpoint write{checkpoint_sequence_, std::exchange(checkpoint_directory_, ""), {}, iteration_, env_steps_};
    for (auto& [slot, state] : states_) write.runners.push_back({slot, std::move(state)});
    outputs.push_back(std::move(write));
  }
  if (phase_ == Phase::waiting && iteration_ < until_) {
    phase_ = Phase::sampling;
    apply_queue(FragmentQueue::BeginRound{publisher_.newest()->version}, nullptr, outputs);
  }
}

}  // namespace myriad
