// The books of the simulated world, kept apart from the roles' own, and the rules they must keep.
#include <algorithm>
#include <cstring>

#include "rl/wire/packed.hpp"
#include "tests/simulation/cluster.hpp"

namespace myriad::simulation {

bool World::any_veteran() const {
  return std::ranges::any_of(learners_,
                             [this](uint32_t id) { return processes_[id].alive && processes_[id].learner->veteran; });
}

Process* World::find_runner(uint32_t slot, uint32_t incarnation) {
  if (slot >= of_slot_.size()) return nullptr;
  for (auto it = of_slot_[slot].rbegin(); it != of_slot_[slot].rend(); ++it)
    if (processes_[*it].runner->incarnation == incarnation) return &processes_[*it];
  return nullptr;
}

/// As the driver's words reach the learner: an agent that ended does not come back under its number.
void World::book_agent_state(LearnerNode& learner, const wire::AgentStateT& state) {
  const auto [it, is_new] = learner.heard.try_emplace(state.agent);
  LearnerNode::Heard& heard = it->second;
  if (is_new || state.incarnation > heard.incarnation)
    heard = {state.incarnation, state.num_slots, state.up};
  else if (state.incarnation == heard.incarnation && !state.up)
    heard.up = false;
}

bool World::takes_part(const LearnerNode& learner, const Process& agent) const {
  if (agent.life != life_ || !agent.agent->core) return false;
  const auto it = learner.heard.find(agent.agent->place);
  return it != learner.heard.end() && it->second.up && it->second.incarnation == agent.agent->incarnation;
}

/// Which fragments are in a parcel that is sent for the first time.
void World::book_relayed(Process& agent, const Message& parcel) {
  AgentNode& node = *agent.agent;
  const auto& header = *parcel.as<wire::ParcelT>();
  if (header.first < node.relayed_until) return;
  rule(header.first == node.relayed_until, "I2", "agent {} sends message {} after {}", node.place, header.first,
       node.relayed_until);
  const auto messages = unpack_all(parcel.payloads.at(0), header.count);
  rule(messages.has_value(), "wire", "agent {} sends a parcel that is none", node.place);
  for (size_t i = 0; i < messages->size(); ++i) {
    const Frames& frames = (*messages)[i];
    if (frames.size() != 2 || frames[1].view.size() != sizeof(Truth)) continue;
    Truth truth;
    std::memcpy(&truth, frames[1].view.data(), sizeof truth);
    if (verbose_ && truth.forged == 0)
      note(fmt::format("    agent {}.{}: message {} is fragment {} of p{}", node.place, node.incarnation,
                       header.first + i, truth.seq, truth.process));
    if (truth.forged == 0) node.relayed.push_back({header.first + i, static_cast<uint32_t>(truth.process), truth.seq});
  }
  node.relayed_until = header.first + header.count;
}

void World::book_arrival(LearnerNode& learner, Process& agent, const wire::ParcelT& parcel) {
  if (!takes_part(learner, agent)) return;
  AgentNode& node = *agent.agent;
  auto it =
      std::lower_bound(node.relayed.begin(), node.relayed.end(), parcel.first,
                       [](const AgentNode::Relayed& relayed, uint64_t number) { return relayed.number < number; });
  for (; it != node.relayed.end() && it->number < parcel.first + parcel.count; ++it) {
    Produced& produced = processes_[it->runner].runner->produced[it->seq];
    if (!std::exchange(produced.arrived, true)) ++node.arrived;
  }
}

/// I2: what an agent may forget was trained on in an update that counts, or dropped; what it need not send again
/// arrived.
void World::book_acknowledged(Process& learner, Process& agent, uint64_t received, uint64_t released) {
  AgentNode& node = *agent.agent;
  uint64_t& known = learner.learner->acknowledged[agent.id];
  rule(received >= known, "I2", "agent {} had {} messages acknowledged, now {}", node.place, known, received);
  known = received;
  rule(received <= node.relayed_until, "I2", "agent {} sent {} messages, {} are acknowledged", node.place,
       node.relayed_until, received);
  rule(released <= received, "I2", "agent {} is to forget {} messages, {} are acknowledged", node.place, released,
       received);
  const auto mark = marks_.find({node.place, node.incarnation});
  rule(released <= (mark == marks_.end() ? 0 : mark->second), "I2",
       "agent {} is to forget {} messages, the updates that count are done with {}", node.place, released,
       mark == marks_.end() ? 0 : mark->second);
  for (const AgentNode::Relayed& relayed : node.relayed) {
    if (relayed.number >= received) break;
    const Runner& runner = *processes_[relayed.runner].runner;
    rule(runner.produced[relayed.seq].arrived, "I2", "fragment {} of runner {}.{} is acknowledged and nowhere",
         relayed.seq, runner.slot, runner.incarnation);
  }
  for (; !node.relayed.empty() && node.relayed.front().number < released; node.relayed.pop_front()) {
    const auto& [number, id, seq] = node.relayed.front();
    Runner& runner = *processes_[id].runner;
    Produced& produced = runner.produced[seq];
    // A shard that died may have dropped it, and told nobody but by its mark; one that was paused tells it later.
    if (!produced.done && learner.learner->part.epoch > 1) {
      produced.done = produced.presumed = true;
      ++result_.dropped;
    }
    rule(produced.done, "I2", "fragment {} of runner {}.{} is released and nowhere", seq, runner.slot,
         runner.incarnation);
  }
}

/// I3: what the learner grants. async: window x slots / all slots beyond what it consumed, less what gone agents left.
void World::book_grant(LearnerNode& learner, Process& agent, const wire::GrantT& grant) {
  AgentNode& node = *agent.agent;
  rule(grant.agent == node.place && grant.incarnation == node.incarnation, "I5",
       "agent {}.{} is sent the grant of {}.{}", node.place, node.incarnation, grant.agent, grant.incarnation);
  if (plan_.by_slot()) {
    // Within an epoch grants only grow; a new core begins at the marks, and what was granted before stays.
    for (const wire::SlotGrant& slot : grant.slots) {
      AgentNode::SlotCredit& credit = node.by_slot[slot.slot()];
      if (verbose_) note(fmt::format("    slot {}.{} granted {}", slot.slot(), slot.incarnation(), slot.granted()));
      if (learner.part.epoch < credit.epoch) continue;  // nobody listens
      if (learner.part.epoch > credit.epoch) credit = {credit.incarnation, credit.granted, learner.part.epoch, 0, 0};
      rule(slot.incarnation() >= credit.epoch_incarnation, "I5", "slot {}.{} is granted after {}", slot.slot(),
           slot.incarnation(), credit.epoch_incarnation);
      if (slot.incarnation() > credit.epoch_incarnation) credit.epoch_granted = 0;
      rule(slot.granted() >= credit.epoch_granted, "I3", "slot {} was granted {}, now {}", slot.slot(),
           credit.epoch_granted, slot.granted());
      credit.epoch_incarnation = slot.incarnation();
      credit.epoch_granted = slot.granted();
      if (slot.incarnation() > credit.incarnation) credit.granted = 0;
      if (slot.incarnation() < credit.incarnation) continue;  // its end is on the way again
      credit.incarnation = slot.incarnation();
      credit.granted = std::max(credit.granted, slot.granted());
    }
    return;
  }
  const uint64_t granted = grant.granted_bytes / kFragmentBytes;
  if (granted == 0) return;                          // an acknowledgement
  if (learner.part.epoch < node.granted_in) return;  // nobody listens
  uint64_t all_slots = 0, left = 0, mine = 0;
  for (const auto& [place, heard] : learner.heard) {
    if (!heard.up) continue;
    all_slots += heard.num_slots;
    if (place == node.place) mine = heard.num_slots;
  }
  for (const uint32_t id : agents_)
    if (const AgentNode& gone = *processes_[id].agent; gone.core && !takes_part(learner, processes_[id]))
      left += gone.arrived - (gone.placed_in == learner.part.epoch ? std::min(gone.arrived, gone.placed) : 0);
  if (all_slots == 0 || mine == 0) {  // the grant was on its way when it left
    node.granted = std::max(node.granted, granted);
    return;
  }
  const wire::GroupOrderT& order = learner.part.order;
  const uint64_t window =
      std::max<uint64_t>(1, uint64_t{plan_.learner_queue_size} * order.num_places) + std::min(order.num_slots, 1024u);
  const uint64_t reduced = window - std::min(window, left);
  const uint64_t most = std::max<uint64_t>(1, window * mine / all_slots),
                 least = std::max<uint64_t>(1, reduced * mine / all_slots),
                 placed = node.placed_in == learner.part.epoch ? node.placed : 0;
  // What it has consumed is between what it has placed and what came.
  rule(granted <= std::max(node.granted, node.arrived + most), "I3",
       "agent {} is granted {} after {}: {} came, and a share of {}, {} of {} slots in a window of {}", node.place,
       granted, node.granted, node.arrived, most, mine, all_slots, window);
  if (learner.part.epoch > node.granted_in) node.granted_there = 0;
  node.granted_in = learner.part.epoch;
  rule(granted >= std::max(node.granted_there, placed + least), "I3",
       "agent {} is granted only {} after {}: {} placed and a share of {}", node.place, granted, node.granted_there,
       placed, least);
  node.granted_there = granted;
  node.granted = std::max(node.granted, granted);
}

/// I1: each fragment once.
void World::book_used(const Truth& truth) {
  if (truth.process == kResumed) return;
  Runner& runner = *processes_[truth.process].runner;
  Produced& produced = runner.produced[truth.seq];
  rule(!produced.done, "I1", "fragment {} of runner {}.{} is consumed twice", truth.seq, runner.slot,
       runner.incarnation);
  produced.used = produced.done = true;
  ++result_.consumed;
}

/// I2: what a learner says of a fragment when an update is finished, in its runner's order, and dropped for reasons
/// there are.
void World::book_consumed(const LearnerNode& learner, const LearnerCore::Consumed& consumed) {
  Process* const process = find_runner(consumed.id.slot, consumed.id.incarnation);
  const FragmentId& id = consumed.id;
  rule(process != nullptr && id.seq < process->runner->produced.size(), "I2",
       "fragment {}.{}.{} is consumed and was never produced", id.slot, id.incarnation, id.seq);
  Runner& runner = *process->runner;
  Produced& produced = runner.produced[id.seq];
  rule(produced.arrived, "I5", "fragment {} of runner {}.{} came by an agent that has no part in the run", id.seq,
       id.slot, id.incarnation);
  const bool again = learner.part.epoch > 1;  // others may have said something of what came before
  if (consumed.dropped.empty()) {
    rule(produced.used, "I2", "fragment {} of runner {}.{} is said to be trained on and is in no batch", id.seq,
         id.slot, id.incarnation);
    while (runner.lowest_open < runner.produced.size() && runner.produced[runner.lowest_open].done)
      ++runner.lowest_open;
    rule(again || runner.lowest_open > id.seq, "I2", "fragment {} of runner {}.{} is consumed, and {} is missing",
         id.seq, id.slot, id.incarnation, runner.lowest_open);
    return;
  }
  const bool told_late = std::exchange(produced.presumed, false);
  rule(!produced.done || (!produced.used && (again || told_late)), "I1",
       "fragment {} of runner {}.{} is dropped after it was consumed", id.seq, id.slot, id.incarnation);
  if (!std::exchange(produced.done, true)) ++result_.dropped;
  if (consumed.dropped == "invalid")
    rule(!produced.valid, "I2", "fragment {} of runner {}.{} is dropped as invalid", id.seq, id.slot, id.incarnation);
  else if (consumed.dropped == "policy_lag")
    rule(plan_.max_policy_lag && current_.version + 1 - produced.version > *plan_.max_policy_lag, "I4",
         "a fragment of weights {} at {} is dropped for its lag", produced.version, current_.version);
  else if (again && !deterministic_ && plan_.by_slot())
    return;  // places were given to other slots while some of their fragments were under way
  else
    rule(false,
         consumed.dropped == "wrong_version"   ? "I4"
         : consumed.dropped == "beyond_credit" ? "I3"
                                               : "I2",
         "fragment {} of runner {}.{} is dropped: {}", id.seq, id.slot, id.incarnation, consumed.dropped);
}

/// I3: no permit beyond what the learner granted.
void World::book_permit(Process& agent, Process& process, const wire::PermitT& permit) {
  AgentNode& node = *agent.agent;
  Runner& runner = *process.runner;
  rule(permit.granted >= runner.permitted, "I3", "runner {}.{} was permitted {}, now {}", runner.slot,
       runner.incarnation, runner.permitted, permit.granted);
  if (permit.granted == runner.permitted) return;
  rule(!node.draining, "I3", "a draining agent permits more");
  rule(node.has_weights, "I4", "runner {} is permitted a fragment before there are weights", runner.slot);
  node.permits += permit.granted - runner.permitted;
  node.open += permit.granted - runner.permitted;
  runner.permitted = permit.granted;
  if (plan_.by_slot()) {
    const auto it = node.by_slot.find(runner.slot);
    rule(it != node.by_slot.end() && it->second.incarnation == runner.incarnation &&
             it->second.granted >= permit.granted,
         "I3", "runner {}.{} is permitted {} fragments, the learner granted {}", runner.slot, runner.incarnation,
         permit.granted, it == node.by_slot.end() ? 0 : it->second.granted);
  } else {
    rule(node.permits <= node.granted, "I3", "agent {} permits {} fragments, the learner granted {}", node.place,
         node.permits, node.granted);
    rule(runner.permitted - runner.received <= HostAgent::kAhead, "I3", "runner {} is {} fragments ahead", runner.slot,
         runner.permitted - runner.received);
  }
}

/// What a runner produced and had sent, its agent has; what it was permitted is free again.
void World::book_runner_end(AgentNode& node, Process& process) {
  Runner& runner = *process.runner;
  rule(runner.received == runner.produced.size() || runner.hostile, "I2",
       "runner {}.{} sent {} fragments before it ended, its agent has {}", runner.slot, runner.incarnation,
       runner.produced.size(), runner.received);
  const uint64_t open = runner.permitted - runner.received;
  node.permits -= open;
  node.open -= open;
  if (bugged(Bug::credit_leak_on_runner_death)) node.wrong_granted += open * kFragmentBytes;
  if (runner.up) --node.num_up;
}

/// I10: what an agent keeps, because no update that counts is done with it. Of each window that was used up within one
/// update, once before it and once while it ran, and of the batch it trains on and the one that is filled. Fragments
/// that are invalid use up nothing.
void World::check_kept(const AgentNode& agent) {
  const uint64_t most = 2 * (plan_.window() + plan_.fragments);
  if (agent.relayed.size() <= most) return;
  const auto valid = static_cast<uint64_t>(std::ranges::count_if(agent.relayed, [this](const AgentNode::Relayed& r) {
    return processes_[r.runner].runner->produced[r.seq].valid;
  }));
  rule(valid <= most, "I10", "agent {} keeps {} fragments, the window is {} and a batch {}", agent.place, valid,
       plan_.window(), plan_.fragments);
}

/// I3, async: while a runner waits, all credit is permitted: none was lost with runners that died.
void World::check_credit(Process& agent) {
  const AgentNode& node = *agent.agent;
  const bool ready = node.has_weights && node.installed >= node.required;
  if (plan_.by_slot() || !ready || node.draining) return;
  if (node.open < HostAgent::kAhead * node.num_up)
    rule(node.permits >= node.heard_granted, "I3", "agent {}: runners wait, {} of {} granted fragments are permitted",
         node.place, node.permits, node.heard_granted);
}

/// I2: an agent that leaves in peace loses nothing.
void World::check_drained(Process& agent) {
  const AgentNode& node = *agent.agent;
  if (!any_veteran()) return;
  for (const auto& slot : of_slot_)
    for (const uint32_t id : slot) {
      const Runner& runner = *processes_[id].runner;
      if (runner.agent != agent.id) continue;
      for (uint64_t seq = 0; seq < runner.produced.size(); ++seq) {
        const Produced& produced = runner.produced[seq];
        rule(!produced.received || produced.arrived, "I2", "agent {} has drained, fragment {} of runner {}.{} is lost",
             node.place, seq, runner.slot, runner.incarnation);
      }
    }
}

/// I2 at the end of a life: what agents received was consumed, dropped, or lost with a dead agent or in flight.
void World::close_books(uint64_t life) {
  uint64_t waits = 0;
  const bool learning = any_veteran();
  for (Process& process : processes_) {
    if (!process.runner || process.life != life) continue;
    const Runner& runner = *process.runner;
    for (uint64_t seq = 0; seq < runner.produced.size(); ++seq) {
      const Produced& produced = runner.produced[seq];
      rule(!produced.done || produced.received, "I2", "fragment {} of runner {}.{} is consumed, and no agent had it",
           seq, runner.slot, runner.incarnation);
      if (!produced.received || produced.done) continue;
      ++result_.lost;
      if (produced.arrived) ++waits;
    }
  }
  // What came and is not used waits for the next batch: no more than the window, or what shares shrank to.
  if (learning && !plan_.by_slot())
    rule(waits <= (plan_.window() + 2 * plan_.fragments) * (agents_.size() + learners_.size()), "I10",
         "{} fragments wait, the window is {}", waits, plan_.window());
}

}  // namespace myriad::simulation
