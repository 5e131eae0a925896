#include "env_runners/runner_core.hpp"

namespace myriad {

void RunnerCore::send(Message message, Time now) {
  message.run = id_.run;
  message.epoch = id_.epoch;
  outputs_.push_back(std::move(message));
  last_sent_ = now;
}

void RunnerCore::send_join(Time now) {
  wire::JoinT join;
  join.slot = id_.slot;
  join.incarnation = id_.incarnation;
  join.spec_hash = id_.spec_hash;
  join.fragment_hash = id_.fragment_hash;
  join.weights_version = weights_ == nullptr ? -1 : static_cast<int64_t>(weights_->version);
  send(make_message(std::move(join)), now);
}

void RunnerCore::received(const Message& message, Time) {
  if (message.run != id_.run || message.epoch != id_.epoch) {
    ++dropped_;
    return;
  }
  if (const auto* grant = message.as<wire::GrantT>(); grant != nullptr && grant->incarnation == id_.incarnation) {
    granted_ = std::max(granted_, grant->granted);
    required_version_ = std::max(required_version_, grant->weights_version);
    want_state_ = std::max(want_state_, grant->want_state);
    if (state_message_ && grant->granted > state_message_->as<wire::RunnerStateT>()->seq)
      state_message_.reset();  // a round began since: the checkpoint has it, or went on without
    while (!unacknowledged_.empty() && unacknowledged_.front().fragment->id.seq < grant->acknowledged) {
      free_.push_back(std::move(unacknowledged_.front().fragment));
      unacknowledged_.pop_front();
    }
  } else if (message.as<wire::WeightsHeaderT>() != nullptr) {
    auto weights = weights_from(message);
    const bool fits = weights && weights->layout_hash == id_.spec_hash &&
                      weights->values.size() == id_.num_inference_parameters &&
                      weights->filter.size() == id_.filter_size;
    if (!fits)
      ++dropped_;
    else if (weights_ == nullptr || weights->version > weights_->version)
      weights_ = std::make_shared<const Weights>(std::move(*weights));
  } else if (const auto* refused = message.as<wire::RefusedT>()) {
    refused_ = refused->reason;
  } else {
    ++dropped_;
  }
}

bool RunnerCore::may_sample() const {
  return weights_ != nullptr && produced_ < granted_ && weights_->version >= required_version_;
}

std::shared_ptr<Fragment> RunnerCore::take_free() {
  for (auto it = free_.begin(); it != free_.end(); ++it)
    if (it->use_count() == 1) {  // a repeated send may still be on its way out of the socket
      auto fragment = std::move(*it);
      free_.erase(it);
      return fragment;
    }
  return nullptr;
}

void RunnerCore::finished(std::shared_ptr<Fragment> fragment, uint64_t sampling_ns, uint64_t waiting_ns, Time now) {
  fragment->id = {id_.slot, id_.incarnation, produced_++};
  fragment->weights_version = weights_->version;
  Message message = fragment_message(fragment, sampling_ns, waiting_ns);
  unacknowledged_.push_back({std::move(fragment), message});
  send(std::move(message), now);
}

void RunnerCore::state_saved(SharedBytes state, Time now) {
  wire::RunnerStateT header;
  header.slot = id_.slot;
  header.incarnation = id_.incarnation;
  header.seq = produced_;
  header.checkpoint = want_state_;
  state_sent_ = want_state_;
  state_message_ = make_message(std::move(header), {std::move(state)});
  send(*state_message_, now);
}

void RunnerCore::tick(Time now) {
  if (now < next_timer()) return;
  if (state_message_ && state_sent_ == want_state_ && want_state_ > 0) send(*state_message_, now);
  for (const Unacknowledged& u : unacknowledged_) send(u.message, now);
  send_join(now);
}

}  // namespace myriad
