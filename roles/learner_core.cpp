#include "roles/learner_core.hpp"

#include <algorithm>

#include "rl/check.hpp"
#include "roles/round_batch.hpp"
#include "roles/stream_batch.hpp"

namespace myriad {
namespace {

constexpr Time kNothing = std::chrono::milliseconds(50);  // between updates with nothing to train on

std::unique_ptr<NextBatch> make_next_batch(LearnerCore::Options& options) {
  if (options.mode == SamplingMode::async)
    return std::make_unique<StreamBatch>(StreamBatch::Options{.num_slots = options.num_slots,
                                                              .num_places = options.fragments_per_batch,
                                                              .learner_queue_size = options.learner_queue_size,
                                                              .fragment_bytes = options.fragment_bytes,
                                                              .max_policy_lag = options.max_policy_lag});
  const bool lag1 = options.mode == SamplingMode::lag1;
  return std::make_unique<RoundBatch>(RoundBatch::Options{.first_slot = options.first_slot,
                                                          .num_slots = options.num_slots,
                                                          .num_places = options.fragments_per_batch,
                                                          .lag1 = lag1,
                                                          .recollects = options.recollects,
                                                          .behind = lag1 && options.recollects && !options.at_start,
                                                          .restored = std::move(options.restored_batch)});
}

}  // namespace

LearnerCore::Options in_epoch(LearnerCore::Options run, const GroupPart& part, uint64_t start_version) {
  run.epoch = part.epoch;
  run.first_slot = part.order.first_slot;
  run.num_slots = part.order.num_slots;
  run.fragments_per_batch = part.order.num_places;
  run.rank = part.order.rank;
  run.group_size = part.order.size;
  run.state = part.state;
  run.recollects = part.epoch > 1;
  run.at_start = part.order.version == start_version;
  return run;
}

LearnerCore::LearnerCore(Options options)
    : options_(std::move(options)),
      batch_(make_next_batch(options_)),
      state_(options_.state),
      until_(state_.training_iteration),
      knows_level_(!options_.published) {
  check(options_.mode != SamplingMode::async || options_.broadcast_interval > 0, "async weights are never published");
}

void LearnerCore::start(WeightsPtr weights, Time now, std::vector<Output>& outputs) {
  weights_ = std::move(weights);
  last_tick_ = iteration_start_ = now;
  begins_behind_ = batch_->start(weights_->version) < weights_->version;
  publish_first(now, outputs);
  advance(now, outputs);
}

void LearnerCore::step(const Input& input, Time now, std::vector<Output>& outputs) {
  step_input(input, now, outputs);
  if (!outputs.empty() && std::holds_alternative<Exit>(outputs.back())) return;
  advance(now, outputs);
  send_grants(outputs);
}

void LearnerCore::step_input(const Input& input, Time now, std::vector<Output>& outputs) {
  if (const auto* from = std::get_if<FromDriver>(&input))
    from_driver(from->message, now, outputs);
  else if (const auto* from = std::get_if<FromAgent>(&input))
    from_agent(*from, now, outputs);
  else if (const auto* update = std::get_if<Updated>(&input))
    updated(*update, now, outputs);
  else if (const auto* write = std::get_if<CheckpointWritten>(&input))
    written(*write, outputs);
  else if (now >= next_timer())
    tick(now, outputs);
}

void LearnerCore::updated(const Updated& input, Time now, std::vector<Output>& outputs) {
  check(updating_, "an update ended that nobody started");
  updating_ = false;
  batch_->end_update(input.weights == nullptr ? weights_->version : input.weights->version);
  if (input.weights == nullptr) {
    next_empty_update_ = now + kNothing;
    return;
  }
  const UpdateTally tally = UpdateTally::decode(input.tally);
  state_ = after(std::move(state_), tally, uint64_t{options_.steps} * options_.environments);
  for (const wire::AgentMark& mark : tally.marks) {
    const auto it = agents_.find(mark.agent());
    if (it == agents_.end() || it->second.incarnation != mark.incarnation() || !it->second.based) continue;
    it->second.mark = mark.messages();
    it->second.grant_due = true;
  }
  for (Consumed& consumed : std::exchange(in_update_, {})) outputs.push_back(std::move(consumed));
  weights_ = input.weights;
  metrics_.add_update(input.metrics);
  if (options_.broadcast_interval > 0 && ++updates_since_published_ >= options_.broadcast_interval)
    publish(now, outputs);
  if (tally.ends_iteration) finish_iteration(outputs);
}

void LearnerCore::finish_iteration(std::vector<Output>& outputs) {
  report_ = {};
  report_.training_iteration = state_.training_iteration;
  report_.num_env_steps_sampled_lifetime = state_.num_env_steps_sampled_lifetime;
  report_.weights_version = weights_->version;
  auto rows = metrics_.take(options_.num_slots, report_.episodes);
  rows.merge(drops());
  rows["num_parcels_received_since_start"] = static_cast<double>(parcels_);
  rows["num_weights_bytes_sent_since_start"] = static_cast<double>(weights_bytes_);
  rows["num_bytes_received_since_start"] = static_cast<double>(bytes_);
  rows["num_fragments_received_since_start"] = static_cast<double>(batch_->books().num_fragments());
  rows["num_messages_resent_since_start"] = static_cast<double>(resent_);
  rows["num_fragments_missing_since_start"] = static_cast<double>(batch_->books().num_missing());
  rows["num_env_runners_contributed_since_start"] = static_cast<double>(batch_->books().num_slots_seen());
  for (const auto& [key, value] : rows) {
    auto row = std::make_unique<wire::KeyValueT>();
    row->key = key;
    row->value = value;
    report_.metrics.push_back(std::move(row));
  }
  report_pending_ = true;
  send_driver(make_message(report_), outputs);
}

void LearnerCore::written(const CheckpointWritten& input, std::vector<Output>& outputs) {
  done_ = {};
  done_.sequence = done_sequence_ = input.sequence;
  done_.training_iteration = state_.training_iteration;
  done_.num_env_steps_sampled_lifetime = state_.num_env_steps_sampled_lifetime;
  done_.error = input.error;
  for (const CheckpointFile& file : input.files) {
    auto entry = std::make_unique<wire::FileEntryT>();
    entry->name = file.name;
    entry->bytes = file.bytes;
    entry->crc32c = file.crc32c;
    done_.files.push_back(std::move(entry));
  }
  saving_ = Saving::no;
  send_driver(make_message(done_), outputs);
}

void LearnerCore::tick(Time now, std::vector<Output>& outputs) {
  last_tick_ = now;
  if (report_pending_) send_driver(make_message(report_), outputs);
  batch_->repeat_grants();
}

std::map<std::string, double> LearnerCore::drops() const {
  std::map<std::string, double> drops;
  const auto add = [&](std::string_view name, uint64_t count) {
    drops["dropped/" + std::string(name)] = static_cast<double>(count);
  };
  const DropCounts& of_batch = batch_->drops();
  for (size_t i = 0; i < of_batch.size(); ++i) add(name_of(static_cast<Drop>(i)), of_batch[i]);
  for (size_t i = 0; i < malformed_.size(); ++i) add(name_of(static_cast<Malformed>(i)), malformed_[i]);
  add("foreign_run_or_epoch", foreign_);
  add("foreign_slot", foreign_slot_);
  add("unknown_agent", unknown_agent_);
  add("stale_agent", stale_agent_);
  add("impostor", impostor_);
  add("malformed_parcel", malformed_parcel_);
  return drops;
}

// --- the driver ---

void LearnerCore::from_driver(const Message& message, Time now, std::vector<Output>& outputs) {
  if (message.run != options_.run || message.epoch != options_.epoch) {
    ++foreign_;
  } else if (const auto* state = message.as<wire::AgentStateT>()) {
    agent_state(*state);
  } else if (const auto* order = message.as<wire::CommandT>()) {
    command(*order, now, outputs);
  } else if (const auto* stop = message.as<wire::StopT>()) {
    outputs.push_back(Exit{stop->reason});
  }
}

void LearnerCore::command(const wire::CommandT& command, Time now, std::vector<Output>& outputs) {
  const uint64_t seen = command.kind == wire::CommandKind::go ? command.until - 1 : command.until;
  if (seen >= state_.training_iteration) report_pending_ = false;  // the driver answers the newest report
  level_ = std::max(level_, command.level);
  if (!std::exchange(knows_level_, true)) publish_first(now, outputs);
  switch (command.kind) {
    case wire::CommandKind::go:
      if (state_.training_iteration >= until_ && command.until > until_) iteration_start_ = now;
      until_ = std::max(until_, command.until);
      break;
    case wire::CommandKind::checkpoint:
      // Only of the iteration the learner stands at: an older one was abandoned and would save other weights.
      if (command.sequence > checkpoint_sequence_ && command.until == state_.training_iteration &&
          (saving_ != Saving::no || (!updating_ && state_.training_iteration >= until_))) {
        checkpoint_sequence_ = command.sequence;
        checkpoint_directory_ = command.directory;
        saves_at_once_ = command.at_once;
      } else if (command.sequence == done_sequence_) {
        send_driver(make_message(done_), outputs);  // the answer was lost
      }
      break;
    case wire::CommandKind::stop:
      outputs.push_back(Exit{"stopped by the driver"});
  }
}

void LearnerCore::agent_state(const wire::AgentStateT& state) {
  const uint32_t first = state.first_slot - options_.first_slot;
  if (state.first_slot < options_.first_slot || state.num_slots == 0 || state.num_slots > options_.num_slots ||
      first > options_.num_slots - state.num_slots) {
    ++foreign_slot_;
    return;
  }
  const auto it = agents_.find(state.agent);
  if (it != agents_.end() && state.incarnation <= it->second.incarnation) {
    if (state.incarnation == it->second.incarnation && !state.up) agent_down(state.agent, it->second);
    return;  // an incarnation that ended does not come back
  }
  Agent& agent = agents_[state.agent];
  agent_down(state.agent, agent);  // the message that an older incarnation is down may be lost
  agent = {};
  agent.incarnation = state.incarnation;
  agent.first_slot = first;
  agent.num_slots = state.num_slots;
  agent.user = state.user;
  agent.up = true;
  for (const wire::AgentMark& mark : state_.marks)
    if (mark.agent() == state.agent && mark.incarnation() == state.incarnation) agent.mark = mark.messages();
  agent.parcels = ParcelReceiver(agent.mark);
  if (state.up)
    batch_->agent_up(slots_of(state.agent, agent));
  else
    agent_down(state.agent, agent);
}

void LearnerCore::agent_down(uint32_t index, Agent& agent) {
  if (!std::exchange(agent.up, false)) return;
  std::vector<WeightsPublisher::Send> sends;
  if (!agent.peer.empty()) publisher_.step(WeightsPublisher::PeerGone{agent.peer}, sends);
  agent.peer.clear();
  batch_->agent_down(slots_of(index, agent));
}

NextBatch::Agent LearnerCore::slots_of(uint32_t index, const Agent& agent) {
  return {index, agent.incarnation, agent.first_slot, agent.num_slots};
}

// --- agents ---

LearnerCore::Agent* LearnerCore::known(uint32_t index, uint32_t incarnation, const std::string& user) {
  const auto it = agents_.find(index);
  if (it == agents_.end() || incarnation > it->second.incarnation) {
    ++unknown_agent_;  // the driver's AgentState about it is on its way
    return nullptr;
  }
  if (incarnation < it->second.incarnation || !it->second.up) {
    ++stale_agent_;
    return nullptr;
  }
  if (user != it->second.user) {
    ++impostor_;
    return nullptr;
  }
  return &it->second;
}

void LearnerCore::from_agent(const FromAgent& from, Time now, std::vector<Output>& outputs) {
  const Message& message = from.message;
  if (message.run != options_.run || message.epoch != options_.epoch)
    ++foreign_;
  else if (const auto* hello = message.as<wire::JoinT>())
    join(from.peer, from.user, *hello, now, outputs);
  else if (message.as<wire::ParcelT>() != nullptr)
    parcel(message, from.user, now, outputs);
  else
    ++malformed_[static_cast<size_t>(Malformed::not_an_envelope)];
}

void LearnerCore::join(const std::string& peer, const std::string& user, const wire::JoinT& join, Time now,
                       std::vector<Output>& outputs) {
  Agent* agent = known(join.agent, join.incarnation, user);
  if (agent == nullptr) return;
  if (join.spec_hash != options_.spec_hash || join.fragment_hash != options_.fragment_hash)
    return refuse(peer,
                  fmt::format("module {:016x} and fragment {:016x} differ from the learner's {:016x} and {:016x}",
                              join.spec_hash, join.fragment_hash, options_.spec_hash, options_.fragment_hash),
                  outputs);
  if (!agent->based && !begin_with(*agent, join)) {
    wire::GrantT grant;  // tells it how much the group has trained on, so that it forgets as much and joins again
    grant.agent = join.agent;
    grant.incarnation = agent->incarnation;
    grant.received = grant.released = agent->mark;
    return send_agent(peer, make_message(std::move(grant)), outputs);
  }
  std::vector<WeightsPublisher::Send> sends;
  if (!agent->peer.empty() && agent->peer != peer) publisher_.step(WeightsPublisher::PeerGone{agent->peer}, sends);
  agent->peer = peer;
  publisher_.step(WeightsPublisher::PeerHas{peer, join.weights_version, now}, sends);
  send_weights(std::move(sends), outputs);
  agent->grant_due = agent->grant_everything = true;
  // The agent lacks the weights of the round that is collected again, and so does this shard: newer ones do.
  if (publisher_.newest() == nullptr && join.weights_version < static_cast<int64_t>(weights_->version) - 1)
    publish(now, outputs);
}

/// Whether its messages may come: it begins with the first one that the group has not trained on.
bool LearnerCore::begin_with(Agent& agent, const wire::JoinT& join) {
  if (join.based || join.released != agent.mark) return false;
  agent.based = true;
  NextBatch::Standing standing{join.agent, {}, join.granted_fragments, join.fragments};
  for (const wire::SlotBase& base : join.slots) {
    if (const auto slot = own_slot(agent, base.slot()))
      standing.slots.emplace_back(*slot, base.incarnation(), base.seq(), base.up());
    else
      ++foreign_slot_;
  }
  batch_->agent_stands(standing);
  return true;
}

/// A slot of the run as one of this shard; nothing when it is not the agent's.
std::optional<uint32_t> LearnerCore::own_slot(const Agent& agent, uint32_t of_run) const {
  const uint32_t slot = of_run - options_.first_slot;
  if (of_run < options_.first_slot || slot < agent.first_slot || slot - agent.first_slot >= agent.num_slots)
    return std::nullopt;
  return slot;
}

void LearnerCore::parcel(const Message& message, const std::string& user, Time now, std::vector<Output>& outputs) {
  const auto& header = *message.as<wire::ParcelT>();
  Agent* agent = known(header.agent, header.incarnation, user);
  if (agent == nullptr) return;
  if (agent->peer.empty() || !agent->based) {
    ++unknown_agent_;  // its Join comes first, and is checked for what its messages are made of
    return;
  }
  ++parcels_;
  for (const SharedBytes& payload : message.payloads) bytes_ += payload.view.size();
  resent_ +=
      std::min<uint64_t>(header.count, agent->parcels.received() - std::min(agent->parcels.received(), header.first));
  agent->grant_due = true;
  const uint64_t malformed = agent->parcels.malformed();
  const auto messages = agent->parcels.accept(message);
  if (agent->parcels.malformed() > malformed) {
    // Its checksum holds, so the agent made it like this and would send it again for ever.
    ++malformed_parcel_;
    refuse(agent->peer, fmt::format("messages {} to {} are not whole", header.first, header.first + header.count),
           outputs);
  }
  MessageSource source{header.agent, agent->incarnation, agent->parcels.received() - messages.size()};
  for (const Frames& frames : messages) {
    auto decoded = decode(frames);
    if (const auto* why = std::get_if<Malformed>(&decoded))
      count_malformed(*why);
    else
      from_runner(*agent, source, std::move(std::get<Message>(decoded)), now);
    ++source.number;
  }
  assemble(outputs);
}

void LearnerCore::from_runner(const Agent& agent, const MessageSource& source, Message message, Time now) {
  if (message.run != options_.run) {
    ++foreign_;
    return;
  }
  const auto* state = message.as<wire::SlotStateT>();
  const auto* header = message.as<wire::FragmentHeaderT>();
  const auto* saved = message.as<wire::RunnerStateT>();
  if (state == nullptr && header == nullptr && saved == nullptr) {
    ++malformed_[static_cast<size_t>(Malformed::not_an_envelope)];
    return;
  }
  const auto slot = own_slot(agent, state != nullptr    ? state->slot
                                    : header != nullptr ? header->key->slot()
                                                        : saved->slot);
  if (!slot) {
    ++foreign_slot_;
    return;
  }
  const bool valid = header == nullptr || keeps_contract(*header, message);
  batch_->arrived({source, *slot, std::move(message), valid}, now);
}

bool LearnerCore::keeps_contract(const wire::FragmentHeaderT& header, const Message& message) const {
  return message.payloads.size() == 1 && header.steps == options_.steps &&
         header.environments == options_.environments && options_.violation(header, message.payloads[0].view).empty();
}

// --- rounds, updates, checkpoints ---

void LearnerCore::advance(Time now, std::vector<Output>& outputs) {
  batch_->fill(now);
  assemble(outputs);
  advance_saving(now, outputs);
  if (updating_ || saving_ != Saving::no || state_.training_iteration >= until_) return;
  const bool full = batch_->ready(now);
  assemble(outputs);
  // The others do not wait for a shard that has no share, or whose agents are all gone.
  const bool with_nothing = !has_share() || (options_.group_size > 1 && batch_->starved());
  if (full || (with_nothing && now >= next_empty_update_)) start_update(now, outputs);
  if (batch_->begin_round(weights_->version)) publish(now, outputs);
  assemble(outputs);
}

/// What has a place in the batch now goes there.
void LearnerCore::assemble(std::vector<Output>& outputs) {
  for (AcceptedFragment& fragment : batch_->books().take_accepted()) outputs.push_back(Assemble{std::move(fragment)});
}

void LearnerCore::start_update(Time now, std::vector<Output>& outputs) {
  std::vector<wire::AgentMark> received;
  for (const auto& [index, agent] : agents_)
    if (agent.up && agent.based) received.emplace_back(index, agent.incarnation, agent.parcels.received());
  NextBatch::Taken taken = batch_->begin_update(std::move(received), now);
  updating_ = true;
  in_update_ = std::move(taken.fragments);
  UpdateTally tally;
  tally.fragments = taken.facts.size();
  tally.ends_iteration = options_.rank == 0 && now - iteration_start_ >= options_.min_time_per_iteration;
  tally.marks = std::move(taken.marks);
  uint64_t oldest = UINT64_MAX;
  for (FragmentFacts& facts : taken.facts) {
    oldest = std::min(oldest, facts.weights_version);
    // The others may have updated since it was placed.
    facts.policy_lag = weights_->version - facts.weights_version + facts.clients_lag;
    metrics_.add_fragment(std::move(facts));
  }
  outputs.push_back(Update{tally.fragments > 0, oldest, tally.encode(options_.num_agents)});
}

/// Publishes `weights` with the numbers of so many env steps.
void LearnerCore::send_out(const WeightsPtr& weights, uint64_t env_steps, Time now, std::vector<Output>& outputs) {
  WeightsPtr complete = weights;
  if (options_.published) {
    auto with_published = std::make_shared<Weights>(*weights);
    with_published->published = options_.published(env_steps, level_);
    complete = std::move(with_published);
  }
  std::vector<WeightsPublisher::Send> sends;
  publisher_.step(WeightsPublisher::Publish{std::move(complete), now}, sends);
  send_weights(std::move(sends), outputs);
}

void LearnerCore::publish_first(Time now, std::vector<Output>& outputs) {
  if (!begins_behind_) return publish(now, outputs);
  if (options_.previous_weights == nullptr || !knows_level_) return;
  const uint64_t steps = state_.num_env_steps_sampled_lifetime;
  send_out(std::exchange(options_.previous_weights, nullptr), steps - std::min(steps, options_.env_steps_per_update),
           now, outputs);
}

void LearnerCore::publish(Time now, std::vector<Output>& outputs) {
  if (!knows_level_) return;
  updates_since_published_ = 0;
  if (publisher_.newest() != nullptr && publisher_.newest()->version == weights_->version) return;
  send_out(weights_, state_.num_env_steps_sampled_lifetime, now, outputs);
}

void LearnerCore::advance_saving(Time now, std::vector<Output>& outputs) {
  if (saving_ == Saving::no && checkpoint_sequence_ > done_sequence_ && !updating_) saving_ = Saving::wanted;
  if (saving_ != Saving::wanted) return;
  auto snapshot = saves_at_once_ ? NextBatch::Snapshot{} : batch_->snapshot(checkpoint_sequence_, now);
  if (!snapshot) return;
  saving_ = Saving::writing;
  outputs.push_back(WriteCheckpoint{.sequence = checkpoint_sequence_,
                                    .directory = checkpoint_directory_,
                                    .runners = std::move(snapshot->runners),
                                    .training_iteration = state_.training_iteration,
                                    .num_env_steps_sampled_lifetime = state_.num_env_steps_sampled_lifetime,
                                    .with_batch = snapshot->with_batch,
                                    .batch_weights_version = snapshot->weights_version,
                                    .batch_episodes = std::move(snapshot->episodes)});
}

// --- messages out ---

void LearnerCore::send_driver(Message message, std::vector<Output>& outputs) const {
  message.run = options_.run;
  message.epoch = options_.epoch;
  outputs.push_back(ToDriver{std::move(message)});
}

void LearnerCore::send_agent(const std::string& peer, Message message, std::vector<Output>& outputs) const {
  message.run = options_.run;
  message.epoch = options_.epoch;
  outputs.push_back(ToAgent{peer, std::move(message)});
}

void LearnerCore::refuse(const std::string& peer, std::string reason, std::vector<Output>& outputs) const {
  wire::RefusedT refused;
  refused.reason = std::move(reason);
  send_agent(peer, make_message(std::move(refused)), outputs);
}

void LearnerCore::send_weights(std::vector<WeightsPublisher::Send> sends, std::vector<Output>& outputs) {
  for (const auto& send : sends) {
    Message message = weights_message(send.weights);
    for (const SharedBytes& payload : message.payloads) weights_bytes_ += payload.view.size();
    send_agent(send.peer, std::move(message), outputs);
  }
}

void LearnerCore::send_grants(std::vector<Output>& outputs) {
  for (auto& [index, agent] : agents_) {
    const bool everything = std::exchange(agent.grant_everything, false);
    const bool due = std::exchange(agent.grant_due, false) || batch_->grant_due(index);
    if (!due || !agent.up || agent.peer.empty()) continue;  // its Join asks for one
    wire::GrantT grant;
    grant.agent = index;
    grant.incarnation = agent.incarnation;
    grant.received = agent.parcels.received();
    grant.released = agent.mark;
    grant.based = agent.based;
    batch_->write_grant(index, everything, publisher_.newest() == nullptr ? 0 : publisher_.newest()->version, grant);
    send_agent(agent.peer, make_message(std::move(grant)), outputs);
  }
}

}  // namespace myriad
