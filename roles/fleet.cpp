#include "roles/fleet.hpp"

#include <algorithm>
#include <csignal>

#include "rl/wire/packed.hpp"

namespace myriad {
namespace {

SlotSupervisor::Options supervision(SlotSupervisor::Options options) {
  options.step_timeout = Fleet::kAgentTimeout;
  return options;
}

std::string words_of(const wire::ProcessErrorT& error) {
  return fmt::format("error[{}] {}", error.code, error.message);
}

Fleet::Over over_with(const wire::ProcessErrorT& error) {
  return {static_cast<Exit>(error.exit), error.message, error.code};
}

}  // namespace

Fleet::Fleet(Options options)
    : options_(std::move(options)),
      supervisor_(supervision(options_.agents), RandomStream(options_.seed, StreamPurpose::simulation, options_.run)),
      places_(options_.agents.num_slots) {}

uint32_t Fleet::first_slot(uint32_t agent) const {
  return static_cast<uint32_t>(uint64_t{agent} * options_.num_slots / places_.size());
}

Time Fleet::next_timer() const {
  Time next = supervisor_.next_timer();
  if (!stopping_)
    for (const Place& place : places_)
      if (place.outside) next = std::min(next, place.heard + kAgentTimeout);
  return next;
}

Fleet::Counts Fleet::counts() const {
  Counts counts;
  for (const Place& place : places_) {
    counts.restarts += place.restarts_before + place.status.restarts;
    if (!place.up) continue;
    counts.weights_version = counts.hosts == 0 ? place.status.weights_version
                                               : std::min(counts.weights_version, place.status.weights_version);
    counts.sampling_version = counts.hosts == 0 ? place.status.oldest_version
                                                : std::min(counts.sampling_version, place.status.oldest_version);
    for (const auto& [field, value] : {std::pair{&counts.weights_latency_p50_ms, place.status.weights_latency_p50_ms},
                                       {&counts.weights_latency_p99_ms, place.status.weights_latency_p99_ms},
                                       {&counts.weights_latency_max_ms, place.status.weights_latency_max_ms}})
      *field = std::max(*field, value);
    ++counts.hosts;
    counts.running += place.status.running;
    counts.quarantined += place.status.quarantined;
    counts.waiting += place.status.waiting;
    counts.fragments += place.status.fragments;
  }
  return counts;
}

void Fleet::start(Time now, Outputs& outputs) {
  if (options_.spawns) supervise(SlotSupervisor::Start{}, now, outputs);
}

void Fleet::tick(Time now, Outputs& outputs) {
  supervise(SlotSupervisor::Tick{}, now, outputs);
  if (stopping_) return;
  for (uint32_t agent = 0; agent < places_.size(); ++agent) {
    const Place& place = places_[agent];
    if (!place.outside || now < place.heard + kAgentTimeout) continue;
    outputs.push_back(
        Event{"agent-lost", fmt::format("host agent {} on {} said nothing for {:.0f} s: its place is free", agent,
                                        place.host, to_seconds(kAgentTimeout))});
    vacate(agent, outputs);
  }
}

bool Fleet::received(const std::string& peer, const std::string& user, const Message& message, Time now,
                     Outputs& outputs) {
  if (const auto* hello = message.as<wire::AgentHelloT>()) {
    this->hello(peer, user, *hello, now, outputs);
    return true;
  }
  if (const auto* status = message.as<wire::AgentStatusT>()) {
    this->status(peer, message.epoch, *status, now, outputs);
    return true;
  }
  const auto known = place_of_.find(peer);
  if (known == place_of_.end()) return false;
  if (const auto* event = message.as<wire::EventT>())
    outputs.push_back(Event{event->kind, event->text});
  else if (const auto* error = message.as<wire::ProcessErrorT>())
    last_words(known->second, *error, outputs);
  else
    return false;
  return true;
}

void Fleet::hello(const std::string& peer, const std::string& user, const wire::AgentHelloT& hello, Time now,
                  Outputs& outputs) {
  const bool outside = hello.agent == kAnyPlace;
  if (hello.protocol != kProtocolVersion) {
    const std::string reason =
        fmt::format("host agent on {} speaks protocol {}, this driver {}: install the same version", hello.host,
                    hello.protocol, kProtocolVersion);
    if (outside) {  // one host with an old program does not end the run
      tell_to_stop(peer, reason, outputs);
      refuse(reason, now, outputs);
    } else {
      outputs.push_back(Over{Exit::usage, reason, "version-skew"});
    }
    return;
  }
  if (stopping_) {
    tell_to_stop(peer, stop_reason_, outputs);
    return;
  }
  if (outside && learners_.empty()) return;  // it asks again
  const auto agent = place_for(peer, hello, now, outputs);
  if (!agent) return;
  waiting_.erase(peer);
  bind(*agent, peer, hello.host, now);
  places_[*agent].user = user;
  if (!outside) supervise(SlotSupervisor::Progress{*agent, hello.incarnation}, now, outputs);
  if (learners_.empty() || places_[*agent].left) return;
  if (const auto source = weights_endpoint(*agent, now)) welcome(*agent, *source, outputs);
}

/// The place an agent holds or, from outside, may take.
std::optional<uint32_t> Fleet::place_for(const std::string& peer, const wire::AgentHelloT& hello, Time now,
                                         Outputs& outputs) {
  if (hello.agent != kAnyPlace) {
    const bool ours = hello.agent < places_.size() && !places_[hello.agent].outside &&
                      supervisor_.running(hello.agent) && supervisor_.incarnation(hello.agent) == hello.incarnation;
    return ours ? std::optional(hello.agent) : std::nullopt;  // a late hello of one that ended
  }
  if (const auto known = place_of_.find(peer); known != place_of_.end()) return known->second;
  for (uint32_t agent = 0; agent < places_.size(); ++agent) {
    const Place& place = places_[agent];
    if (place.outside || (options_.spawns && !supervisor_.quarantined(agent))) continue;
    take_place(agent, place.used ? place.incarnation + 1 : 0, true);
    return agent;
  }
  if (waiting_.size() < kMaxWaiting) waiting_.insert(peer);
  refuse(fmt::format("a host agent on {} waits: all {} places are taken", hello.host, places_.size()), now, outputs);
  return std::nullopt;
}

/// A new agent holds the place.
void Fleet::take_place(uint32_t agent, uint32_t incarnation, bool outside) {
  Place& place = places_[agent];
  if (place.used) place.restarts_before += num_slots(agent);  // its runners are started anew
  place.used = true;
  place.outside = outside;
  place.incarnation = incarnation;
}

void Fleet::bind(uint32_t agent, const std::string& peer, const std::string& host, Time now) {
  Place& place = places_[agent];
  place.heard = now;
  if (place.peer == peer) return;
  place_of_.erase(place.peer);
  place_of_[peer] = agent;
  place.peer = peer;
  place.host = host;
  place.first_hello = now;
}

/// Where an agent takes the weights from: a tree below its learner, for each learner its own: they begin rounds, and
/// publish, each in its own time. nullopt: not known yet, but worth a moment.
std::optional<std::string> Fleet::weights_endpoint(uint32_t agent, Time now) const {
  uint32_t first = agent;  // of the same learner
  while (first > 0 && learners_[first - 1].shard == learners_[agent].shard) --first;
  if (agent - first < options_.weights_fanout) return "";
  const uint32_t source = first + (agent - first - options_.weights_fanout) / options_.weights_fanout;
  const Place& place = places_[source];
  if (place.up && !place.status.weights_endpoint.empty()) return place.status.weights_endpoint;
  const bool comes = place.up || place.outside || supervisor_.running(source);
  if (comes && now < places_[agent].first_hello + kRelayGrace) return std::nullopt;
  return "";
}

/// Only a place's first agent continues the saved environments: a later one would repeat what was trained on.
SharedBytes Fleet::states_of(uint32_t agent, Outputs& outputs) const {
  if (places_[agent].incarnation != 0) return {};
  std::vector<std::byte> packed;
  const uint32_t end = std::min(first_slot(agent + 1), static_cast<uint32_t>(options_.runner_states.size()));
  for (uint32_t slot = first_slot(agent); slot < end; ++slot) {
    const SharedBytes& bytes = options_.runner_states[slot];
    if (bytes.view.empty()) continue;
    if (packed.size() + bytes.view.size() > kMaxStateBytes) {
      outputs.push_back(Event{"resume", fmt::format("the states of runners {} to {} do not fit into a message: their "
                                                    "environments start anew",
                                                    slot, end - 1)});
      break;
    }
    wire::RunnerStateT state;
    state.slot = slot;
    Message message = make_message(std::move(state), {bytes});
    message.run = options_.run;
    message.epoch = epoch_;
    pack(encode(message), packed);
  }
  return SharedBytes::of(std::move(packed));
}

void Fleet::welcome(uint32_t agent, const std::string& weights_endpoint, Outputs& outputs) {
  Place& place = places_[agent];
  if (!place.up && place.outside)
    outputs.push_back(Event{"agent-joined", fmt::format("host agent {} joined from {}", agent, place.host)});
  if (!std::exchange(place.up, true)) {  // until its first status
    place.status.running = num_slots(agent);
    place.status.weights_version = -1;
  }
  place.announced = place.incarnation;
  announce(agent, outputs);  // first: the learner drops messages of an agent it was not told of
  wire::AgentWelcomeT welcome;
  welcome.agent = agent;
  welcome.incarnation = place.incarnation;
  welcome.config = options_.config_toml;
  welcome.first_slot = first_slot(agent);
  welcome.num_slots = num_slots(agent);
  welcome.learner_endpoint = learners_[agent].endpoint;
  welcome.weights_endpoint = weights_endpoint;
  outputs.push_back(ToAgent{place.peer, make_message(std::move(welcome), {states_of(agent, outputs)})});
}

void Fleet::set_learners(uint64_t epoch, std::vector<LearnerOf> by_place, Time now, Outputs& outputs) {
  epoch_ = epoch;
  learners_ = std::move(by_place);
  announce_all(outputs);  // first: a learner drops messages of an agent it was not told of
  for (uint32_t agent = 0; agent < places_.size(); ++agent)
    if (places_[agent].up) move(agent, now, outputs);
}

void Fleet::move(uint32_t agent, Time now, Outputs& outputs) const {
  wire::AgentMoveT move;
  move.agent = agent;
  move.incarnation = places_[agent].incarnation;
  move.learner_endpoint = learners_[agent].endpoint;
  move.weights_endpoint = weights_endpoint(agent, now).value_or("");
  outputs.push_back(ToAgent{places_[agent].peer, make_message(std::move(move))});
}

void Fleet::status(const std::string& peer, uint64_t epoch, const wire::AgentStatusT& status, Time now,
                   Outputs& outputs) {
  if (status.agent >= places_.size() || places_[status.agent].peer != peer ||
      places_[status.agent].incarnation != status.incarnation) {
    // It was given up while it was silent, and another may be in its place.
    if (!status.leaving) tell_to_stop(peer, "the run goes on without this agent: it was silent for too long", outputs);
    return;
  }
  Place& place = places_[status.agent];
  if (!place.up) return;
  place.heard = now;
  place.status = status;
  if (!place.outside)
    supervise(SlotSupervisor::Progress{status.agent, status.incarnation, status.fragments > 0}, now, outputs);
  if (epoch < epoch_ && !stopping_) move(status.agent, now, outputs);
  if (stopping_) {
    tell_to_stop(peer, stop_reason_, outputs);
  } else if (status.leaving) {
    outputs.push_back(
        Event{"agent-left", fmt::format("host agent {} on {} has drained and leaves", status.agent, place.host)});
    place.left = true;
    if (place.outside)
      vacate(status.agent, outputs);
    else
      down(status.agent, outputs);
  } else if (status.quarantined >= num_slots(status.agent)) {
    // The runner's own error is quoted, if that runner is the one that ended last.
    const auto& error = place.runner_error;
    const bool own_words = error && status.last_cause.find(error->message) != std::string::npos;
    end_if_given_up(own_words
                        ? over_with(*error)
                        : Over{Exit::environment,
                               fmt::format("every runner slot is quarantined; the last cause: {}", status.last_cause),
                               "runners-lost"},
                    outputs);
  }
}

/// A process's error before it exits; its exit, or that of its runner, follows.
void Fleet::last_words(uint32_t agent, const wire::ProcessErrorT& error, Outputs& outputs) {
  Place& place = places_[agent];
  if (error.slot == UINT32_MAX && place.outside) {  // the driver cannot see how its process ends
    outputs.push_back(Event{"agent-lost", fmt::format("host agent {} on {}: {}", agent, place.host, words_of(error))});
    vacate(agent, outputs);
  } else if (error.slot == UINT32_MAX) {
    place.error = error;
  } else {
    place.runner_error = error;
    // Restarting cannot mend it: the user has to act, so the run ends with the runner's error.
    if (error.exit == static_cast<int32_t>(Exit::usage) || error.ends_run) outputs.push_back(over_with(error));
  }
}

void Fleet::exited(uint32_t agent, uint32_t incarnation, const std::string& cause, bool drained, Time now,
                   Outputs& outputs) {
  const Place& place = places_[agent];
  if (place.outside || place.incarnation != incarnation) return;
  const std::optional<wire::ProcessErrorT> error = place.error;
  if (error && error->exit == static_cast<int32_t>(Exit::usage)) {
    stop(error->message, 0, now, outputs);  // first, so that nothing is started again
    outputs.push_back(over_with(*error));
  }
  supervise(SlotSupervisor::Exited{agent, incarnation, error ? words_of(*error) : cause, drained || place.left}, now,
            outputs);
  if (!supervisor_.quarantined(agent)) return;
  end_if_given_up(error ? over_with(*error)
                        : Over{Exit::internal, fmt::format("every host agent is given up; the last cause: {}", cause),
                               "agents-lost"},
                  outputs);
}

void Fleet::spawn_failed(uint32_t agent, const std::string& cause, Time now, Outputs& outputs) {
  supervise(SlotSupervisor::Exited{agent, supervisor_.incarnation(agent), cause}, now, outputs);
  if (supervisor_.quarantined(agent))
    end_if_given_up(
        Over{Exit::resource, fmt::format("every host agent is given up; the last cause: {}", cause), "spawn-failed"},
        outputs);
}

std::set<uint32_t> Fleet::given_up() const {
  std::set<uint32_t> places;
  for (uint32_t i = 0; i < places_.size(); ++i) {
    const Place& place = places_[i];
    const bool runners = place.up && place.status.quarantined >= num_slots(i);
    const bool agent = !place.outside && supervisor_.quarantined(i);
    const bool left = !options_.spawns && place.used && !place.outside;
    if (runners || agent || left) places.insert(i);
  }
  return places;
}

/// Ends the run with `over` when no place has, or will have, a runner that may still run.
void Fleet::end_if_given_up(Over over, Outputs& outputs) const {
  for (uint32_t i = 0; i < places_.size(); ++i) {
    const bool runners_given_up = places_[i].up && places_[i].status.quarantined >= num_slots(i);
    const bool agent_given_up = !places_[i].outside && supervisor_.quarantined(i);
    if (!runners_given_up && !agent_given_up) return;
  }
  outputs.push_back(std::move(over));
}

void Fleet::supervise(const SlotSupervisor::Input& input, Time now, Outputs& outputs) {
  std::vector<SlotSupervisor::Output> results;
  supervisor_.step(input, now, results);
  for (const auto& result : results) {
    if (const auto* spawn = std::get_if<SlotSupervisor::Spawn>(&result)) {
      take_place(spawn->slot, spawn->incarnation, false);
      outputs.push_back(SpawnAgent{spawn->slot, spawn->incarnation});
    } else if (const auto* hung = std::get_if<SlotSupervisor::Hung>(&result)) {
      outputs.push_back(Event{"agent-hung", fmt::format("host agent {} said nothing for {:.0f} s: killed", hung->slot,
                                                        to_seconds(hung->silent))});
      outputs.push_back(KillAgent{hung->slot, hung->incarnation, SIGKILL});
    } else if (const auto* down = std::get_if<SlotSupervisor::Down>(&result)) {
      vacate(down->slot, outputs);
      const std::string next = down->restart_in == Time::max() ? ""
                               : down->restart_in == Time::zero()
                                   ? "; restarted"
                                   : fmt::format("; restarts in {:.2f} s", to_seconds(down->restart_in));
      outputs.push_back(Event{"agent-down", fmt::format("host agent {} ended: {}{}", down->slot, down->cause, next)});
    } else {
      const auto& quarantined = std::get<SlotSupervisor::Quarantined>(result);
      outputs.push_back(
          Event{"agent-quarantined", fmt::format("host agent {} is given up: {} failures in a row without a fragment "
                                                 "(fault_tolerance.max_failures_in_a_row), the last: {}",
                                                 quarantined.slot, quarantined.failures, quarantined.cause)});
      // Also one that never sent a hello: the learner waits for its slots until it is told that they are down.
      places_[quarantined.slot].announced = places_[quarantined.slot].incarnation;
      announce(quarantined.slot, outputs);
    }
  }
}

void Fleet::down(uint32_t agent, Outputs& outputs) {
  if (std::exchange(places_[agent].up, false)) announce(agent, outputs);
}

/// Frees the place. Later messages from its agent are ignored.
void Fleet::vacate(uint32_t agent, Outputs& outputs) {
  down(agent, outputs);
  Place& place = places_[agent];
  place_of_.erase(place.peer);
  place.peer.clear();
  place.restarts_before += place.status.restarts;
  place.status = {};
  place.error.reset();
  place.runner_error.reset();
  place.outside = place.left = false;
}

void Fleet::announce(uint32_t agent, Outputs& outputs) const {
  const Place& place = places_[agent];
  if (!place.announced || learners_.empty()) return;
  wire::AgentStateT state;
  state.agent = agent;
  state.incarnation = *place.announced;  // between two agents: of the one that ended
  state.first_slot = first_slot(agent);
  state.num_slots = num_slots(agent);
  state.up = place.up;
  state.user = place.user;
  outputs.push_back(ToLearner{learners_[agent].shard, make_message(std::move(state))});
}

void Fleet::announce_all(Outputs& outputs) const {
  for (uint32_t agent = 0; agent < places_.size(); ++agent) announce(agent, outputs);
}

void Fleet::stop(const std::string& reason, uint64_t next_run, Time now, Outputs& outputs) {
  if (std::exchange(stopping_, true)) return;
  next_run_ = next_run;
  stop_reason_ = reason;
  supervise(SlotSupervisor::StopAll{}, now, outputs);
  for (const std::string& peer : waiting_) tell_to_stop(peer, reason, outputs);
  for (uint32_t agent = 0; agent < places_.size(); ++agent) {
    const Place& place = places_[agent];
    if (place.up)
      tell_to_stop(place.peer, reason, outputs);
    else if (supervisor_.running(agent) && !place.left)  // it has no runners yet, and may not read Stop
      outputs.push_back(KillAgent{agent, place.incarnation, SIGKILL});
  }
}

void Fleet::tell_to_stop(const std::string& peer, const std::string& reason, Outputs& outputs) const {
  wire::StopT stop;
  stop.reason = reason;
  stop.next_run = next_run_;
  outputs.push_back(ToAgent{peer, make_message(std::move(stop))});
}

void Fleet::refuse(const std::string& text, Time now, Outputs& outputs) {
  if (now < next_refusal_) return;
  next_refusal_ = now + kRefusalEvery;
  outputs.push_back(Event{"agent-refused", text});
}

}  // namespace myriad
