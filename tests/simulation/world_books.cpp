// The books of the simulated world, kept apart from the roles' own, and the rules they must keep.
#include <algorithm>
#include <cstring>

#include "rl/wire/packed.hpp"
#include "tests/simulation/cluster.hpp"

namespace myriad::simulation {

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

/// I2: what is acknowledged is in a batch or dropped (async: or waits here).
void World::book_acknowledged(Process& learner, Process& agent, uint64_t received) {
  AgentNode& node = *agent.agent;
  uint64_t& known = learner.learner->acknowledged[agent.id];
  rule(received >= known, "I2", "agent {} had {} messages acknowledged, now {}", node.place, known, received);
  known = received;
  rule(received <= node.relayed_until, "I2", "agent {} sent {} messages, {} are acknowledged", node.place,
       node.relayed_until, received);
  for (; !node.relayed.empty() && node.relayed.front().number < received; node.relayed.pop_front()) {
    const auto& [number, id, seq] = node.relayed.front();
    const Runner& runner = *processes_[id].runner;
    rule(runner.produced[seq].done || (!plan_.by_slot() && runner.produced[seq].arrived), "I2",
         "fragment {} of runner {}.{} is acknowledged and nowhere", seq, runner.slot, runner.incarnation);
  }
}

/// I3: what the learner grants. async: window x slots / all slots beyond what it consumed, less what gone agents left.
void World::book_grant(LearnerNode& learner, Process& agent, const wire::GrantT& grant) {
  AgentNode& node = *agent.agent;
  rule(grant.agent == node.place && grant.incarnation == node.incarnation, "I5",
       "agent {}.{} is sent the grant of {}.{}", node.place, node.incarnation, grant.agent, grant.incarnation);
  if (plan_.by_slot()) {
    for (const wire::SlotGrant& slot : grant.slots) {
      auto& [incarnation, granted] = node.by_slot[slot.slot()];
      rule(slot.incarnation() >= incarnation, "I5", "slot {}.{} is granted after {}", slot.slot(), slot.incarnation(),
           incarnation);
      if (slot.incarnation() > incarnation) granted = 0;
      incarnation = slot.incarnation();
      rule(slot.granted() >= granted, "I3", "slot {} was granted {}, now {}", slot.slot(), granted, slot.granted());
      granted = slot.granted();
    }
    return;
  }
  const uint64_t granted = grant.granted_bytes / kFragmentBytes;
  if (granted == 0) return;  // an acknowledgement
  uint64_t all_slots = 0, left = 0, mine = 0;
  for (const auto& [place, heard] : learner.heard) {
    if (!heard.up) continue;
    all_slots += heard.num_slots;
    if (place == node.place) mine = heard.num_slots;
  }
  for (const uint32_t id : agents_)
    if (const AgentNode& gone = *processes_[id].agent; gone.core && !takes_part(learner, processes_[id]))
      left += gone.arrived - gone.consumed;
  if (all_slots == 0 || mine == 0) return;  // the grant was on its way when it left
  const uint64_t window = plan_.window(), reduced = window - std::min(window, left);
  const uint64_t most = std::max<uint64_t>(1, window * mine / all_slots),
                 least = std::max<uint64_t>(1, reduced * mine / all_slots);
  rule(granted <= std::max(node.granted, node.consumed + most), "I3",
       "agent {} is granted {} after {}: {} consumed and a share of {}", node.place, granted, node.granted,
       node.consumed, most);
  rule(granted >= std::max(node.granted, node.consumed + least), "I3",
       "agent {} is granted only {} after {}: {} consumed and a share of {}", node.place, granted, node.granted,
       node.consumed, least);
  node.granted = granted;
}

/// I1, I2: each fragment once, in its runner's order, and dropped for reasons there are.
void World::book_consumed(LearnerNode& learner, const LearnerCore::Consumed& consumed) {
  Process* const process = find_runner(consumed.id.slot, consumed.id.incarnation);
  const FragmentId& id = consumed.id;
  rule(process != nullptr && id.seq < process->runner->produced.size(), "I2",
       "fragment {}.{}.{} is consumed and was never produced", id.slot, id.incarnation, id.seq);
  Runner& runner = *process->runner;
  Produced& produced = runner.produced[id.seq];
  rule(!produced.done, "I1", "fragment {} of runner {}.{} is consumed twice", id.seq, id.slot, id.incarnation);
  rule(produced.arrived, "I5", "fragment {} of runner {}.{} came by an agent that has no part in the run", id.seq,
       id.slot, id.incarnation);
  produced.done = true;
  ++processes_[runner.agent].agent->consumed;
  while (runner.lowest_open < runner.produced.size() && runner.produced[runner.lowest_open].done) ++runner.lowest_open;
  if (consumed.dropped.empty()) {
    rule(learner.last_assembled == std::pair<uint64_t, uint64_t>(process->id, id.seq), "I2",
         "fragment {} of runner {}.{} is consumed and in no batch", id.seq, id.slot, id.incarnation);
    rule(runner.lowest_open > id.seq, "I2", "fragment {} of runner {}.{} is consumed, and {} is missing", id.seq,
         id.slot, id.incarnation, runner.lowest_open);
    ++result_.consumed;
    return;
  }
  ++result_.dropped;
  if (consumed.dropped == "invalid")
    rule(!produced.valid, "I2", "fragment {} of runner {}.{} is dropped as invalid", id.seq, id.slot, id.incarnation);
  else if (consumed.dropped == "policy_lag")
    rule(plan_.max_policy_lag && current_.version + 1 - produced.version > *plan_.max_policy_lag, "I4",
         "a fragment of weights {} at {} is dropped for its lag", produced.version, current_.version);
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
    rule(it != node.by_slot.end() && it->second.first == runner.incarnation && it->second.second >= permit.granted,
         "I3", "runner {}.{} is permitted {} fragments, the learner granted {}", runner.slot, runner.incarnation,
         permit.granted, it == node.by_slot.end() ? 0 : it->second.second);
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

/// I3, async: while a runner waits, all credit is permitted: none was lost with runners that died.
void World::check_credit(Process& agent) {
  const AgentNode& node = *agent.agent;
  const bool ready = node.core->weights() != nullptr && node.core->weights()->version >= node.required;
  if (plan_.by_slot() || !ready || node.draining) return;
  if (node.open < HostAgent::kAhead * node.num_up)
    rule(node.permits >= node.heard_granted, "I3", "agent {}: runners wait, {} of {} granted fragments are permitted",
         node.place, node.permits, node.heard_granted);
}

/// I2: an agent that leaves in peace loses nothing.
void World::check_drained(Process& agent) {
  const AgentNode& node = *agent.agent;
  if (learner_ == kNobody || !processes_[learner_].alive) return;
  for (const auto& slot : of_slot_)
    for (const uint32_t id : slot) {
      const Runner& runner = *processes_[id].runner;
      if (runner.agent != agent.id) continue;
      for (uint64_t seq = 0; seq < runner.produced.size(); ++seq) {
        const Produced& produced = runner.produced[seq];
        rule(!produced.received || produced.done || (!plan_.by_slot() && produced.arrived), "I2",
             "agent {} has drained, fragment {} of runner {}.{} is lost", node.place, seq, runner.slot,
             runner.incarnation);
      }
    }
}

/// I2 at the end of a life: what agents received was consumed, dropped, or lost with a dead agent or in flight.
void World::close_books(uint64_t life) {
  uint64_t waits = 0;
  const bool learning = learner_ != kNobody && processes_[learner_].alive;
  for (Process& process : processes_) {
    if (!process.runner || process.life != life) continue;
    const Runner& runner = *process.runner;
    const AgentNode& agent = *processes_[runner.agent].agent;
    for (uint64_t seq = 0; seq < runner.produced.size(); ++seq) {
      const Produced& produced = runner.produced[seq];
      rule(!produced.done || produced.received, "I2", "fragment {} of runner {}.{} is consumed, and no agent had it",
           seq, runner.slot, runner.incarnation);
      if (!produced.received || produced.done) continue;
      ++result_.lost;
      if (produced.arrived) ++waits;
      rule(!learning || !agent.drained || !plan_.by_slot(), "I2",
           "fragment {} of runner {}.{} is lost with an agent that drained", seq, runner.slot, runner.incarnation);
    }
  }
  // What came and is not used waits for the next batch: no more than the window, or what shares shrank to.
  if (learning && !plan_.by_slot())
    rule(waits <= plan_.window() * (agents_.size() + 1), "I10", "{} fragments wait, the window is {}", waits,
         plan_.window());
}

}  // namespace myriad::simulation
