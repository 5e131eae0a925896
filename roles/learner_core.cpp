#include "roles/learner_core.hpp"

#include <algorithm>

#include "rl/check.hpp"

namespace myriad {
namespace {

constexpr uint32_t kNoAgent = UINT32_MAX;
constexpr uint32_t kMaxSpareFragments = 1024;             // async: credit beyond the waiting batches
constexpr Time kNothing = std::chrono::milliseconds(50);  // between updates with nothing to train on

uint64_t window_of(const LearnerCore::Options& options) {
  return std::max<uint64_t>(1, uint64_t{options.learner_queue_size} * options.fragments_per_batch) +
         std::min(options.num_slots, kMaxSpareFragments);
}

/// Of a slot's first process under an agent's incarnation; restarts count on from it.
uint32_t first_incarnation(uint32_t agent_incarnation) { return agent_incarnation << 16; }

}  // namespace

LearnerCore::LearnerCore(Options options)
    : options_(std::move(options)),
      queue_(options_.num_slots, std::max(1u, options_.fragments_per_batch)),
      credit_(window_of(options_), options_.fragment_bytes),
      agent_of_slot_(options_.num_slots, kNoAgent),
      batch_(options_.fragments_per_batch),
      state_(options_.state),
      until_(state_.training_iteration),
      knows_level_(!options_.published),
      next_(options_.num_slots) {
  free_all_places();
}

void LearnerCore::start(WeightsPtr weights, Time now, std::vector<Output>& outputs) {
  weights_ = std::move(weights);
  last_tick_ = iteration_start_ = now;
  if (options_.mode == SamplingMode::lag1 && options_.resumes_with_batch) {
    batch_full_ = true;
    for (FragmentFacts& facts : batch_) facts.weights_version = weights_->version - 1;
    batch_[0].episodes = std::move(options_.batch_episodes);  // the report's order is that of the places
  }
  // The newest weights may have been published before, and may not.
  if (begins_behind()) apply_queue(FragmentQueue::BeginRound{weights_->version - 1, weights_->version}, outputs);
  publish_first(now, outputs);
  advance(now, outputs);
}

void LearnerCore::step(const Input& input, Time now, std::vector<Output>& outputs) {
  step_input(input, now, outputs);
  if (!outputs.empty() && std::holds_alternative<Exit>(outputs.back())) return;
  take_held(now, outputs);
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
  for (const Source& source : std::exchange(owed_, {})) give_back(source);
  if (input.weights == nullptr) {
    nobody_has_anything_ = now + kNothing;
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
  if (!by_slot() && ++updates_since_published_ >= options_.broadcast_interval) publish(now, outputs);
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
  rows["num_fragments_received_since_start"] = static_cast<double>(fragments_);
  rows["num_messages_resent_since_start"] = static_cast<double>(resent_);
  rows["num_fragments_missing_since_start"] = static_cast<double>(missing_);
  rows["num_env_runners_contributed_since_start"] = static_cast<double>(std::count_if(
      next_.begin(), next_.end(), [](const auto& next) { return next != decltype(next_)::value_type{}; }));
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
  if (by_slot() && (queue_.round_open() || saving_ == Saving::collecting)) grant_all_slots();
}

std::map<std::string, double> LearnerCore::drops() const {
  std::map<std::string, double> drops;
  const auto add = [&](std::string_view name, uint64_t count) {
    drops["dropped/" + std::string(name)] = static_cast<double>(count);
  };
  for (size_t i = 0; i < drops_.size(); ++i) add(name_of(static_cast<Drop>(i)), drops_[i] + queue_.drops()[i]);
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
    agent_state(*state, outputs);
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
        if (saving_ == Saving::collecting) saving_ = Saving::wanted;
      } else if (command.sequence == done_sequence_) {
        send_driver(make_message(done_), outputs);  // the answer was lost
      }
      break;
    case wire::CommandKind::stop:
      outputs.push_back(Exit{"stopped by the driver"});
  }
}

void LearnerCore::agent_state(const wire::AgentStateT& state, std::vector<Output>& outputs) {
  const uint32_t first = state.first_slot - options_.first_slot;
  if (state.first_slot < options_.first_slot || state.num_slots == 0 || state.num_slots > options_.num_slots ||
      first > options_.num_slots - state.num_slots) {
    ++foreign_slot_;
    return;
  }
  const auto it = agents_.find(state.agent);
  if (it != agents_.end() && state.incarnation <= it->second.incarnation) {
    if (state.incarnation == it->second.incarnation && !state.up) agent_down(state.agent, it->second, outputs);
    return;  // one that ended does not come back under its number
  }
  const bool is_new = it == agents_.end();
  Agent& agent = agents_[state.agent];
  agent_down(state.agent, agent, outputs);  // the end of an older one may not have been heard of
  agent = {};
  agent.incarnation = state.incarnation;
  agent.first_slot = first;
  agent.num_slots = state.num_slots;
  agent.user = state.user;
  agent.up = true;
  for (const wire::AgentMark& mark : state_.marks)
    if (mark.agent() == state.agent && mark.incarnation() == state.incarnation) agent.mark = mark.messages();
  agent.parcels = ParcelReceiver(agent.mark);
  for (uint32_t slot = first; slot < first + state.num_slots; ++slot) agent_of_slot_[slot] = state.agent;
  if (!by_slot()) credit_.up(state.agent, state.incarnation, state.num_slots);
  if (!state.up) return agent_down(state.agent, agent, outputs);
  if (queue_.num_up() > 0 && !is_new) return;
  // Nobody else is there, or it has been there all the time. Its runners are on their way: the open places are spread
  // over all of them, not given to the first that comes.
  apply_queue(FragmentQueue::SlotUp{first, first_incarnation(state.incarnation), state.num_slots}, outputs);
}

void LearnerCore::agent_down(uint32_t index, Agent& agent, std::vector<Output>& outputs) {
  if (!std::exchange(agent.up, false)) return;
  std::vector<WeightsPublisher::Send> sends;
  if (!agent.peer.empty()) publisher_.step(WeightsPublisher::PeerGone{agent.peer}, sends);
  agent.peer.clear();
  agent.waiting.clear();
  credit_.down(index);
  for (uint32_t slot = agent.first_slot; slot < agent.first_slot + agent.num_slots; ++slot) {
    held_.erase(slot);
    apply_queue(FragmentQueue::SlotDown{slot, queue_.credit(slot).incarnation}, outputs);
  }
}

// --- agents ---

LearnerCore::Agent* LearnerCore::known(uint32_t index, uint32_t incarnation, const std::string& user) {
  const auto it = agents_.find(index);
  if (it == agents_.end() || incarnation > it->second.incarnation) {
    ++unknown_agent_;  // the driver's word about it is on its way
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
  if (!agent->based && !begin_with(*agent, join.agent, join, outputs)) {
    wire::GrantT grant;  // it is to forget what the group is done with
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
  agent->grant_due = agent->all_slots = true;
  // Of a round that is collected again nobody has the weights any more: these will do.
  if (publisher_.newest() == nullptr && join.weights_version < static_cast<int64_t>(weights_->version) - 1)
    publish(now, outputs);
}

/// Whether its messages may come: it begins with the first one that the group has not trained on.
bool LearnerCore::begin_with(Agent& agent, uint32_t index, const wire::JoinT& join, std::vector<Output>& outputs) {
  if (join.based || join.released != agent.mark) return false;
  agent.based = true;
  for (const wire::SlotBase& base : join.slots) {
    const uint32_t slot = base.slot() - options_.first_slot;
    if (base.slot() < options_.first_slot || slot < agent.first_slot || slot - agent.first_slot >= agent.num_slots) {
      ++foreign_slot_;
      continue;
    }
    next_[slot] = {base.incarnation(), base.seq()};
    if (base.up())
      apply_queue(FragmentQueue::SlotIs{slot, base.incarnation(), base.seq()}, outputs);
    else
      apply_queue(FragmentQueue::SlotDown{slot, base.incarnation()}, outputs);
  }
  if (!by_slot()) credit_.resume(index, join.granted_fragments, join.fragments);
  return true;
}

void LearnerCore::parcel(const Message& message, const std::string& user, Time now, std::vector<Output>& outputs) {
  const auto& header = *message.as<wire::ParcelT>();
  Agent* agent = known(header.agent, header.incarnation, user);
  if (agent == nullptr) return;
  if (agent->peer.empty() || !agent->based) {
    ++unknown_agent_;  // its Join comes first: what it sends may not be what the learner understands
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
    // Its checksum holds: it was made so, and would be sent again for ever.
    ++malformed_parcel_;
    refuse(agent->peer, fmt::format("messages {} to {} are not whole", header.first, header.first + header.count),
           outputs);
  }
  Source source{header.agent, agent->incarnation, agent->parcels.received() - messages.size()};
  for (const Frames& frames : messages) {
    auto decoded = decode(frames);
    if (const auto* why = std::get_if<Malformed>(&decoded))
      count_malformed(*why);
    else
      from_runner(source, std::get<Message>(decoded), now, outputs);
    ++source.number;
  }
}

void LearnerCore::from_runner(const Source& source, const Message& message, Time now, std::vector<Output>& outputs) {
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
  const Agent& agent = agents_.at(source.agent);
  const uint32_t global = state != nullptr ? state->slot : header != nullptr ? header->key->slot() : saved->slot;
  const uint32_t slot = global - options_.first_slot;
  if (global < options_.first_slot || slot < agent.first_slot || slot - agent.first_slot >= agent.num_slots)
    ++foreign_slot_;
  else if (held_.contains(slot) || (options_.again && comes_too_early(slot, message)))
    held_[slot].emplace_back(source, message);
  else
    take(source, slot, message, now, outputs);
}

/// It was sampled for a later round than the one that is collected again, or for a place that is another slot's now.
bool LearnerCore::comes_too_early(uint32_t slot, const Message& message) const {
  const auto* header = message.as<wire::FragmentHeaderT>();
  if (!by_slot() || header == nullptr) return false;
  const FragmentQueue::Credit credit = queue_.credit(slot);
  return queue_.is_up(slot) && header->key->incarnation() == credit.incarnation && header->key->seq() >= credit.granted;
}

void LearnerCore::take_held(Time now, std::vector<Output>& outputs) {
  while (!look_at_held_.empty()) {
    const uint32_t slot = look_at_held_.extract(look_at_held_.begin()).value();
    for (auto it = held_.find(slot); it != held_.end(); it = held_.find(slot)) {
      if (comes_too_early(slot, it->second.front().second)) break;
      const auto [source, message] = std::move(it->second.front());
      it->second.pop_front();
      if (it->second.empty()) held_.erase(it);
      take(source, slot, message, now, outputs);
    }
  }
}

void LearnerCore::take(const Source& source, uint32_t slot, const Message& message, Time now,
                       std::vector<Output>& outputs) {
  const auto* state = message.as<wire::SlotStateT>();
  if (message.as<wire::FragmentHeaderT>() != nullptr)
    fragment(source, message, now, outputs);
  else if (const auto* saved = message.as<wire::RunnerStateT>())
    runner_state(*saved, message);
  else if (state->up)
    apply_queue(FragmentQueue::SlotUp{slot, state->incarnation}, outputs);
  else
    apply_queue(FragmentQueue::SlotDown{slot, state->incarnation}, outputs);
}

void LearnerCore::runner_state(const wire::RunnerStateT& state, const Message& message) {
  const uint32_t slot = state.slot - options_.first_slot;
  const bool wanted = saving_ == Saving::collecting && state.checkpoint == checkpoint_sequence_ &&
                      message.payloads.size() == 1 && queue_.is_up(slot) &&
                      queue_.credit(slot).incarnation == state.incarnation && queue_.credit(slot).granted == state.seq;
  if (wanted) states_.emplace(state.slot, message.payloads[0]);
}

// --- fragments ---

std::string LearnerCore::violation_of(const wire::FragmentHeaderT& header, const Message& message) const {
  if (message.payloads.size() != 1 || header.steps != options_.steps || header.environments != options_.environments)
    return fmt::format("{} payloads of {} x {} steps, want 1 of {} x {}", message.payloads.size(), header.steps,
                       header.environments, options_.steps, options_.environments);
  return options_.violation(header, message.payloads[0].view);
}

/// Async. `increases`: it comes after everything that came from its slot. The id's slot is the queue's.
std::optional<Drop> LearnerCore::why_not(const FragmentId& id, bool increases, bool within_credit) const {
  if (!queue_.is_up(id.slot) || queue_.credit(id.slot).incarnation != id.incarnation) return Drop::stale_incarnation;
  if (!increases) return Drop::duplicate;
  if (!within_credit) return Drop::beyond_credit;
  return std::nullopt;
}

void LearnerCore::fragment(const Source& source, const Message& message, Time now, std::vector<Output>& outputs) {
  const auto& header = *message.as<wire::FragmentHeaderT>();
  FragmentId id = id_of(header);
  id.slot -= options_.first_slot;
  ++fragments_;
  const std::pair now_seen{id.incarnation, id.seq};
  const bool increases = now_seen >= next_[id.slot];
  if (increases) {
    missing_ += id.seq - (id.incarnation == next_[id.slot].first ? next_[id.slot].second : 0);
    next_[id.slot] = {id.incarnation, id.seq + 1};
  }
  if (by_slot()) {
    const FragmentQueue::Arrived arrived{id, header.weights_version, violation_of(header, message).empty()};
    return apply_queue(arrived, outputs, &message, &source, increases);
  }
  const bool within_credit = credit_.arrived(source.agent, source.incarnation);
  auto reason = why_not(id, increases, within_credit);
  if (!reason && header.weights_version > weights_->version) reason = Drop::wrong_version;
  if (!reason && !violation_of(header, message).empty()) reason = Drop::invalid;
  if (!reason) {
    pending_.push_back({message, source, now});
    agents_.at(source.agent).waiting.push_back(source.number);
    return;
  }
  ++drops_[static_cast<size_t>(*reason)];
  credit_.consumed(source.agent, source.incarnation);
  if (increases) finish(source, id_of(header), name_of(*reason));
}

/// `increases`: what arrived comes after everything that came from its slot.
void LearnerCore::apply_queue(const FragmentQueue::Input& input, std::vector<Output>& outputs, const Message* arrived,
                              const Source* source, bool increases) {
  std::vector<FragmentQueue::Output> results;
  queue_.step(input, results);
  for (const FragmentQueue::Output& result : results) {
    if (const auto* credit = std::get_if<FragmentQueue::CreditChanged>(&result)) {
      if (held_.contains(credit->slot)) look_at_held_.insert(credit->slot);
      const auto it = agents_.find(agent_of_slot_[credit->slot]);
      if (it == agents_.end()) continue;  // it will join
      it->second.grant_due = true;
      it->second.changed_slots.insert(credit->slot);
    } else if (const auto* accepted = std::get_if<FragmentQueue::Accepted>(&result)) {
      uint64_t& placed = agents_.at(source->agent).placed;
      placed = std::max(placed, source->number + 1);  // what was held is taken slot by slot
      place(accepted->place, *arrived, *source, Time{}, outputs);
    } else if (const auto* dropped = std::get_if<FragmentQueue::Dropped>(&result)) {
      if (increases) finish(*source, id_of(*arrived->as<wire::FragmentHeaderT>()), name_of(dropped->reason));
    } else {
      batch_full_ = true;
    }
  }
}

void LearnerCore::finish(const Source& source, const FragmentId& id, std::string_view dropped) {
  finished_.push_back({source, Consumed{id, std::string(dropped)}});
}

void LearnerCore::place(uint32_t place, const Message& message, const Source& source, Time waited,
                        std::vector<Output>& outputs) {
  const auto& header = *message.as<wire::FragmentHeaderT>();
  batch_[place] = {.weights_version = header.weights_version,
                   .queue_age = waited,
                   .sampling_ns = header.sampling_ns,
                   .waiting_ns = header.waiting_ns,
                   .episodes = header.episodes};
  outputs.push_back(Assemble{{place, message}});
  finish(source, id_of(header), "");
}

/// Async: the oldest fragments take the free places of the batch.
void LearnerCore::fill(Time now, std::vector<Output>& outputs) {
  for (; !free_places_.empty() && !pending_.empty(); pending_.pop_front()) {
    const Pending& next = pending_.front();
    const auto& header = *next.message.as<wire::FragmentHeaderT>();
    const bool outdated =
        options_.max_policy_lag && training_version() - header.weights_version > *options_.max_policy_lag;
    leaves_pending(next.source);
    if (outdated && updating_)
      owed_.push_back(next.source);
    else
      give_back(next.source);
    if (outdated) {
      ++drops_[static_cast<size_t>(Drop::policy_lag)];
      finish(next.source, id_of(header), name_of(Drop::policy_lag));
      continue;
    }
    batch_ids_[free_places_.back()] = id_of(header);
    place(free_places_.back(), next.message, next.source, now - next.arrived, outputs);
    free_places_.pop_back();
    batch_full_ = free_places_.empty();
  }
}

void LearnerCore::free_all_places() {
  if (by_slot()) return;
  batch_ids_.resize(options_.fragments_per_batch);
  free_places_.resize(options_.fragments_per_batch);
  for (uint32_t i = 0; i < free_places_.size(); ++i) free_places_[free_places_.size() - 1 - i] = i;
}

/// What has its place, but saw the others update without this shard in the meantime, may be too old now.
void LearnerCore::drop_outdated() {
  if (!options_.max_policy_lag) return;
  for (uint32_t place = 0; place < batch_.size(); ++place) {
    if (training_version() - batch_[place].weights_version <= *options_.max_policy_lag) continue;
    const auto it = std::ranges::find_if(
        finished_, [&](const Finished& f) { return f.consumed.dropped.empty() && f.consumed.id == batch_ids_[place]; });
    it->consumed.dropped = name_of(Drop::policy_lag);
    ++drops_[static_cast<size_t>(Drop::policy_lag)];
    free_places_.push_back(place);
  }
  batch_full_ = free_places_.empty();
}

void LearnerCore::leaves_pending(const Source& source) {
  const auto it = agents_.find(source.agent);
  if (it == agents_.end() || it->second.incarnation != source.incarnation) return;
  if (!it->second.waiting.empty()) it->second.waiting.pop_front();
}

void LearnerCore::give_back(const Source& source) {
  credit_.consumed(source.agent, source.incarnation);
  const auto it = agents_.find(source.agent);
  if (it != agents_.end() && it->second.incarnation == source.incarnation) it->second.grant_due = true;
}

// --- rounds, updates, checkpoints ---

void LearnerCore::advance(Time now, std::vector<Output>& outputs) {
  advance_saving(now, outputs);
  if (!by_slot() && !batch_full_) fill(now, outputs);
  if (updating_ || saving_ != Saving::no || state_.training_iteration >= until_) return;
  // The others do not wait for a shard that has no share, or whose agents are all gone.
  while (!by_slot() && batch_full_) {
    drop_outdated();
    if (batch_full_ || pending_.empty()) break;
    fill(now, outputs);
  }
  const bool starved = !has_share() || (!by_slot() && !options_.alone && queue_.num_up() == 0);
  if (batch_full_ || (starved && now >= nobody_has_anything_)) {
    const bool full = batch_full_;
    start_update(now, outputs);
    if (options_.mode == SamplingMode::lag1) begin_round(now, outputs);
    if (!by_slot() && full) fill(now, outputs);
  } else if (by_slot() && !queue_.round_open()) {
    begin_round(now, outputs);
  }
}

/// How many of an agent's messages need not come again once the update that begins is finished.
uint64_t LearnerCore::mark_of(const Agent& agent, std::vector<Output>& outputs) {
  if (!by_slot()) return agent.waiting.empty() ? agent.parcels.received() : agent.waiting.front();
  uint64_t mark = agent.parcels.received();
  const auto end = held_.lower_bound(agent.first_slot + agent.num_slots);
  for (auto it = held_.lower_bound(agent.first_slot); it != end;) {
    auto& [slot, messages] = *it;
    // What came before something that has its place now would be trained on twice, or be missing: its turn is over.
    for (; !messages.empty() && messages.front().first.number < agent.placed; messages.pop_front()) {
      const auto& [source, message] = messages.front();
      if (const auto* header = message.as<wire::FragmentHeaderT>()) {
        apply_queue(FragmentQueue::Skip{slot}, outputs);
        finish(source, id_of(*header), name_of(Drop::beyond_credit));
      } else {
        take(source, slot, message, Time{}, outputs);
      }
    }
    if (!messages.empty()) mark = std::min(mark, messages.front().first.number);
    it = messages.empty() ? held_.erase(it) : std::next(it);
  }
  return mark;
}

void LearnerCore::start_update(Time now, std::vector<Output>& outputs) {
  UpdateTally tally;
  tally.ends_iteration = by_slot() || (options_.leads && now - iteration_start_ >= options_.min_time_per_iteration);
  uint64_t oldest = UINT64_MAX;
  if (batch_full_) {
    tally.fragments = options_.fragments_per_batch;
    for (auto& [index, agent] : agents_)
      if (agent.up && agent.based) tally.marks.emplace_back(index, agent.incarnation, mark_of(agent, outputs));
    settle_finished(tally.marks);
    for (FragmentFacts& facts : batch_) {
      oldest = std::min(oldest, facts.weights_version);
      facts.policy_lag = weights_->version - facts.weights_version;  // the others may have updated since it was placed
      metrics_.add_fragment(std::exchange(facts, {}));
    }
    free_all_places();
  }
  updating_ = true;
  outputs.push_back(Update{batch_full_, oldest, tally.encode(options_.num_agents)});
  batch_full_ = false;
}

/// What this update settles for good: all but what was dropped on arrival after something that still waits.
void LearnerCore::settle_finished(const std::vector<wire::AgentMark>& marks) {
  const auto open = std::stable_partition(finished_.begin(), finished_.end(), [&](const Finished& finished) {
    const auto mark = std::lower_bound(marks.begin(), marks.end(), finished.source.agent,
                                       [](const wire::AgentMark& m, uint32_t agent) { return m.agent() < agent; });
    return mark == marks.end() || mark->agent() != finished.source.agent ||
           mark->incarnation() != finished.source.incarnation || finished.source.number < mark->messages();
  });
  for (auto it = finished_.begin(); it != open; ++it) in_update_.push_back(std::move(it->consumed));
  finished_.erase(finished_.begin(), open);
}

void LearnerCore::begin_round(Time now, std::vector<Output>& outputs) {
  publish(now, outputs);
  if (!has_share()) return;
  apply_queue(FragmentQueue::BeginRound{weights_->version}, outputs);
  take_held(now, outputs);
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
  if (!begins_behind()) return publish(now, outputs);
  if (options_.previous == nullptr || !knows_level_) return;
  const uint64_t steps = state_.num_env_steps_sampled_lifetime;
  send_out(std::exchange(options_.previous, nullptr), steps - std::min(steps, options_.env_steps_per_update), now,
           outputs);
}

void LearnerCore::publish(Time now, std::vector<Output>& outputs) {
  if (!knows_level_) return;
  updates_since_published_ = 0;
  if (publisher_.newest() != nullptr && publisher_.newest()->version == weights_->version) return;
  send_out(weights_, state_.num_env_steps_sampled_lifetime, now, outputs);
}

bool LearnerCore::states_complete() const {
  for (uint32_t slot = 0; slot < queue_.num_slots(); ++slot)
    if (queue_.is_up(slot) && !states_.contains(options_.first_slot + slot)) return false;
  return true;
}

void LearnerCore::advance_saving(Time now, std::vector<Output>& outputs) {
  if (saving_ == Saving::no && checkpoint_sequence_ > done_sequence_ && !updating_) saving_ = Saving::wanted;
  if (saving_ == Saving::wanted && (!by_slot() || !queue_.round_open())) {
    saving_ = Saving::collecting;
    states_.clear();
    states_by_ = now + kStateDeadline;
    if (by_slot()) grant_all_slots();
  }
  if (saving_ != Saving::collecting || (by_slot() && now < states_by_ && !states_complete())) return;
  saving_ = Saving::writing;
  WriteCheckpoint write{checkpoint_sequence_,
                        checkpoint_directory_,
                        {},
                        state_.training_iteration,
                        state_.num_env_steps_sampled_lifetime,
                        by_slot() && batch_full_,
                        0,
                        {}};
  for (auto& [slot, state] : std::exchange(states_, {})) write.runners.push_back({slot, state});
  if (write.with_batch) {
    write.batch_weights_version = batch_[0].weights_version;
    for (const FragmentFacts& facts : batch_)
      write.batch_episodes.insert(write.batch_episodes.end(), facts.episodes.begin(), facts.episodes.end());
  }
  outputs.push_back(std::move(write));
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

void LearnerCore::grant_all_slots() {
  for (auto& [index, agent] : agents_) agent.grant_due = agent.all_slots = true;
}

/// The oldest version a new fragment may be sampled with. Never one that is not published: nobody could go on.
uint64_t LearnerCore::required_version() const {
  if (by_slot()) return queue_.weights_version();
  if (!options_.max_policy_lag) return 0;
  return std::min(publisher_.newest() == nullptr ? 0 : publisher_.newest()->version,
                  weights_->version - std::min(weights_->version, *options_.max_policy_lag));
}

void LearnerCore::send_grants(std::vector<Output>& outputs) {
  for (auto& [index, agent] : agents_) {
    const bool all = std::exchange(agent.all_slots, false);
    const auto changed = std::exchange(agent.changed_slots, {});
    if (!std::exchange(agent.grant_due, false) || !agent.up || agent.peer.empty()) continue;  // it will ask
    wire::GrantT grant;
    grant.agent = index;
    grant.incarnation = agent.incarnation;
    grant.received = agent.parcels.received();
    grant.released = agent.mark;
    grant.based = agent.based;
    grant.weights_version = required_version();
    if (saving_ == Saving::collecting && by_slot()) grant.want_state = checkpoint_sequence_;
    const auto add = [&](uint32_t slot) {
      const FragmentQueue::Credit credit = queue_.credit(slot);
      if (queue_.is_up(slot)) grant.slots.emplace_back(options_.first_slot + slot, credit.incarnation, credit.granted);
    };
    if (!by_slot())
      grant.granted_bytes = credit_.granted_bytes(index);
    else if (all)
      for (uint32_t i = 0; i < agent.num_slots; ++i) add(agent.first_slot + i);
    else
      for (const uint32_t slot : changed) add(slot);
    send_agent(agent.peer, make_message(std::move(grant)), outputs);
  }
}

}  // namespace myriad
