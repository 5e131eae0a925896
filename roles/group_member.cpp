#include "roles/group_member.hpp"

#include "rl/check.hpp"

namespace myriad {

using wire::LearnerStage;

void GroupMember::step(const Input& input, Time now, std::vector<Output>& outputs) {
  if (const auto* from = std::get_if<FromDriver>(&input)) {
    const Message& message = from->message;
    if (message.run != options_.run || message.epoch < epoch_) return;
    if (const auto* order = message.as<wire::GroupOrderT>()) {
      this->order(message.epoch, *order, now, outputs);
    } else if (const auto* found = message.as<wire::RendezvousT>(); found != nullptr && message.epoch == epoch_) {
      for (const auto& entry : found->entries) outputs.push_back(Put{entry->key, entry->value});
    }
  } else if (std::holds_alternative<Began>(input)) {
    check(!busy_, "the update thread has two jobs");
    busy_ = true;
    busy_since_ = now;
  } else if (const auto* end = std::get_if<Ended>(&input)) {
    ended(*end, now, outputs);
  } else if (now >= next_timer()) {
    const auto& tick = std::get<Tick>(input);
    operations_ = tick.operations;
    inside_ = tick.inside;
    last_tick_ = now;
    say(now, outputs);
  }
}

void GroupMember::order(uint64_t epoch, const wire::GroupOrderT& order, Time now, std::vector<Output>& outputs) {
  if (epoch > epoch_) {
    epoch_ = epoch;
    stage_ = busy_ ? LearnerStage::leaving : LearnerStage::called;
    broken_.clear();
    outputs.push_back(Leave{});
  }
  if (order.form && stage_ == LearnerStage::called && broken_.empty()) {
    if (prepared_ && order.version == version_ + 1) {
      state_ = std::exchange(prepared_state_, {});
      ++version_;
    }
    prepared_ = false;
    stage_ = LearnerStage::joining;
    part_ = {epoch_, order, from_wire(order.state.get())};
    outputs.push_back(Join{part_});
    busy_ = true;
    busy_since_ = now;
  }
  say(now, outputs);
}

void GroupMember::ended(const Ended& ended, Time now, std::vector<Output>& outputs) {
  busy_ = false;
  if (ended.tally && ended.settled && ended.tally->fragments > 0) {
    ++version_;
    state_ = after(std::move(state_), *ended.tally, options_.fragment_steps);
  } else if (ended.tally && ended.prepared) {
    prepared_ = true;
    prepared_state_ = after(state_, *ended.tally, options_.fragment_steps);
  }
  parts_ = ended.parts;
  num_parts_ = ended.num_parts;
  parts_before_ = ended.parts_before;
  num_parts_before_ = ended.num_parts_before;
  if (stage_ == LearnerStage::leaving) {
    stage_ = LearnerStage::called;
  } else if (stage_ == LearnerStage::joining && ended.broken.empty()) {
    stage_ = LearnerStage::formed;
    version_ = part_.order.version;
    state_ = part_.state;
    outputs.push_back(Begin{part_});
  } else if (!ended.broken.empty()) {
    broken_ = ended.broken;
    if (stage_ == LearnerStage::joining) stage_ = LearnerStage::called;
  } else {
    return;  // an update like any other
  }
  say(now, outputs);
}

void GroupMember::say(Time now, std::vector<Output>& outputs) {
  wire::LearnerStatusT status;
  status.shard = options_.shard;
  status.incarnation = options_.incarnation;
  status.stage = stage_;
  status.version = version_;
  status.prepared = prepared_;
  if (stage_ == LearnerStage::called)
    status.state = std::make_unique<wire::GroupStateT>(to_wire(prepared_ ? prepared_state_ : state_));
  status.parts = parts_;
  status.num_parts = num_parts_;
  status.parts_before = parts_before_;
  status.num_parts_before = num_parts_before_;
  status.operations = operations_;
  status.inside = inside_;
  status.busy_s = busy_ ? static_cast<float>(to_seconds(now - busy_since_)) : 0.0f;
  status.broken = broken_;
  Message message = make_message(std::move(status));
  message.run = options_.run;
  message.epoch = epoch_;
  outputs.push_back(ToDriver{std::move(message)});
}

}  // namespace myriad
