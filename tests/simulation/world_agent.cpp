// The host agent's shell in the simulated world (apps/agent/main.cpp), and its runners
// (env_runners/env_runner.cpp).
#include <csignal>
#include <cstring>

#include "rl/wire/packed.hpp"
#include "tests/simulation/cluster.hpp"

namespace myriad::simulation {

using std::chrono::milliseconds;

namespace {
constexpr Time kLookEvery = milliseconds(250), kParentDeadline = std::chrono::seconds(5);  // as in the shell
constexpr int64_t kElsewhere = INT64_MAX;
}  // namespace

uint32_t World::spawn_agent(uint32_t place, uint32_t incarnation) {
  Process& process = add_process();
  process.agent = std::make_unique<AgentNode>();
  process.agent->place = place;
  process.agent->incarnation = incarnation;
  process.agent->outside = place == UINT32_MAX;
  if (incarnation > 0) deterministic_ = false;
  agents_.push_back(process.id);
  arm(process, now_ + dice_.time(milliseconds(1), milliseconds(20)));
  const auto fate = [&](double rate, Kind kind) {
    if (!faulty() || rate <= 0) return;
    const Time at = now_ + dice_.after(rate);
    if (at < plan_.faults_end) push(at, kind, process.id);
  };
  fate(plan_.agent_kills_per_s, Kind::kill);
  fate(plan_.agent_drains_per_s, Kind::drain);
  fate(plan_.agent_pauses_per_s, Kind::pause);
  return process.id;
}

void World::agent_hello(Process& process) {
  const AgentNode& node = *process.agent;
  wire::AgentHelloT hello;
  hello.agent = node.place;
  hello.incarnation = node.incarnation;
  hello.protocol = kProtocolVersion;
  hello.host = "host";
  to_driver(process, make_message(std::move(hello)));
}

void World::agent_message(Process& process, uint32_t from, Message&& message) {
  AgentNode& node = *process.agent;
  if (from == kDriver) {
    if (message.run != run_of(process)) return;  // ControlLink
    if (const auto* move = message.as<wire::AgentMoveT>())
      return follow(process, message.epoch, move->agent, move->incarnation, move->learner_endpoint,
                    move->weights_endpoint);
    if (const auto* again = message.as<wire::AgentWelcomeT>(); again != nullptr && process.welcomed)
      return follow(process, message.epoch, again->agent, again->incarnation, again->learner_endpoint,
                    again->weights_endpoint);
    if (message.as<wire::StopT>() != nullptr && node.core) {
      step_agent(process, HostAgent::StopAll{});
      return leave(process, false);
    }
    const auto* welcome = message.as<wire::AgentWelcomeT>();
    if (welcome == nullptr || process.welcomed) return;
    process.welcomed = process.loading = true;
    node.welcome = *welcome;
    node.moved_to = message.epoch;
    node.learner = static_cast<uint32_t>(std::stoul(welcome->learner_endpoint));
    if (!message.payloads.empty()) node.welcome_states = message.payloads[0];
    node.place = welcome->agent;
    node.incarnation = welcome->incarnation;
    held_.insert(node.place);
    if (node.incarnation > 0) deterministic_ = false;
    push(now_ + dice_.time(milliseconds(2), milliseconds(60)), Kind::started, process.id);
    return;
  }
  if (!node.core) return;
  const Process& peer = processes_[from];
  if (peer.agent) {  // another agent: what it feeds, or what feeds it
    if (message.run != run_of(process) || message.epoch != node.core->epoch()) return;
    if (const auto* join = message.as<wire::JoinT>()) {
      std::vector<WeightsPublisher::Send> sends;
      node.publisher.step(WeightsPublisher::PeerHas{std::to_string(from), join->weights_version, now_}, sends);
      serve(process, sends);
      Message here = make_message(wire::GrantT{});
      here.run = run_of(process);
      here.epoch = node.core->epoch();
      send(process.id, from, here);
    } else if (from == node.parent) {
      node.parent_heard = now_;
      if (message.as<wire::WeightsHeaderT>() != nullptr) agent_learner_message(process, std::move(message));
    }
  } else {
    agent_learner_message(process, std::move(message));
  }
  if (process.alive) arm(process, now_ + plan_.loop);
}

/// The learner is another from this epoch on, or has begun anew.
void World::follow(Process& process, uint64_t epoch, uint32_t place, uint32_t incarnation, const std::string& learner,
                   const std::string& parent) {
  AgentNode& node = *process.agent;
  if (place != node.place || incarnation != node.incarnation || epoch <= node.moved_to) return;
  node.moved_to = epoch;
  node.learner = static_cast<uint32_t>(std::stoul(learner));
  node.parent = parent.empty() ? kNobody : static_cast<uint32_t>(std::stoul(parent));
  node.welcome.weights_endpoint = parent;
  if (node.core) step_agent(process, HostAgent::Moved{epoch});
}

void World::agent_learner_message(Process& process, Message&& message) {
  AgentNode& node = *process.agent;
  if (auto* header = message.body.AsWeightsHeader()) {
    if (node.first_weights == nullptr) {
      if (auto weights = weights_from(message))
        node.first_weights = std::make_shared<const Weights>(std::move(*weights));
    } else if (header->version > node.first_weights->version) {
      const Message old = weights_message(node.first_weights);
      if (bugged(Bug::weights_torn)) message.payloads[1] = old.payloads[1];
      if (bugged(Bug::old_weights_under_new_version)) message.payloads = old.payloads;
    }
    if (bugged(Bug::filter_not_resent) && node.incarnation > 0) {
      const std::array<double, kFilter> nothing{};
      const auto bytes = std::as_bytes(std::span(nothing));
      message.payloads[1] = SharedBytes::of({bytes.begin(), bytes.end()});
    }
  } else if (auto* grant = message.body.AsGrant()) {
    if (message.run == run_of(process) && message.epoch == node.core->epoch() && grant->agent == node.place &&
        grant->incarnation == node.incarnation && grant->based) {
      if (bugged(Bug::grant_per_message)) {
        node.wrong_granted += grant->granted_bytes;
        grant->granted_bytes = node.wrong_granted;
      }
      if (bugged(Bug::credit_leak_on_runner_death))
        grant->granted_bytes -= std::min(grant->granted_bytes, node.wrong_granted);
      node.heard_granted = std::max(node.heard_granted, grant->granted_bytes / kFragmentBytes);
      if (bugged(Bug::credit_leak_on_runner_death)) node.heard_granted = std::max(node.heard_granted, node.granted);
      node.required = std::max(node.required, grant->weights_version);
    }
  }
  step_agent(process, HostAgent::FromLearner{std::move(message)});
}

void World::agent_loaded(Process& process) {
  AgentNode& node = *process.agent;
  process.loading = false;
  const wire::AgentWelcomeT& welcome = node.welcome;
  HostAgent::Options options;
  options.run = run_of(process);
  options.epoch = node.moved_to;
  options.agent = welcome.agent;
  options.incarnation = welcome.incarnation;
  options.first_slot = welcome.first_slot;
  options.spec_hash = kSpecHash;
  options.fragment_hash = layout_->hash();
  options.num_inference_parameters = kValues;
  options.filter_size = kFilter;
  options.published_size = kPublished;
  options.fragment_bytes = kFragmentBytes;
  options.by_slot = plan_.by_slot();
  options.slots.num_slots = welcome.num_slots;
  options.slots.first_incarnation = first_incarnation(welcome.incarnation);
  options.slots.max_failures_in_a_row = plan_.max_crashes;
  options.slots.step_timeout = plan_.step_timeout;
  options.slots.start_timeout = 2 * plan_.step_timeout;
  if (bugged(Bug::restart_without_backoff)) {
    options.slots.backoff = options.slots.backoff_max = Time::zero();
    options.slots.max_failures_in_a_row = UINT32_MAX;
  }
  options.seed = seed_;
  node.core = std::make_unique<HostAgent>(options);
  node.parent_heard = now_;
  node.region.assign(weights_layout_.bytes() + 64, std::byte{0});
  std::byte* const region = node.region.data() + (64 - reinterpret_cast<uintptr_t>(node.region.data()) % 64);
  node.writer = std::make_unique<SharedWeightsWriter>(weights_layout_, region);
  node.runners.assign(welcome.num_slots, kNobody);
  node.starts.assign(welcome.num_slots, {});
  if (!welcome.weights_endpoint.empty()) node.parent = static_cast<uint32_t>(std::stoul(welcome.weights_endpoint));
  SharedBytes rest = node.welcome_states;
  while (!rest.view.empty()) {
    const auto size = packed_size(rest.view, rest.view.size());
    rule(size && *size > 0, "wire", "the runner states of the welcome are damaged");
    auto decoded = decode(*unpack({rest.owner, rest.view.first(*size)}));
    const Message& message = std::get<Message>(decoded);
    node.states[message.as<wire::RunnerStateT>()->slot] = message.payloads.at(0);
    rest.view = rest.view.subspan(*size);
  }
  step_agent(process, HostAgent::Start{});
  auto deferred = std::exchange(process.deferred, {});
  if (process.paused) {
    process.deferred = std::move(deferred);
    return;
  }
  for (const Event& later : deferred)
    if (process.alive) dispatch(later);
  if (process.alive) agent_wake(process);
}

/// The end of the shell's loop, after it has read what there is.
void World::agent_wake(Process& process) {
  AgentNode& node = *process.agent;
  if (!node.core) return;
  if (node.term_pending && !node.draining) {
    node.draining = true;
    deterministic_ = false;
    step_agent(process, HostAgent::Drain{});
  }
  if (now_ >= node.next_look) agent_look(process);
  if (process.alive) step_agent(process, HostAgent::Tick{});
  if (process.alive) step_agent(process, HostAgent::Flush{});
  if (!process.alive) return;
  if (bugged(Bug::drained_leaves_early) && node.draining && node.core->sampling().empty()) {
    node.drained = true;
    check_drained(process);
    return leave(process, true);
  }
  check_credit(process);
  check_kept(node);
  rule(node.core->next_timer() > now_, "I10", "agent {} spins", node.place);
  arm(process, std::min(node.core->next_timer(), std::max(node.next_look, now_ + milliseconds(1))));
}

void World::agent_look(Process& process) {
  AgentNode& node = *process.agent;
  node.next_look = now_ + kLookEvery;
  std::vector<HostAgent::Progress> moved;
  for (const uint32_t slot : node.core->sampling()) {
    const Process* runner = runner_of(node, slot);
    if (runner != nullptr && runner->alive && !runner->paused && !runner->hung && runner->runner->sampling)
      moved.push_back({slot, runner->runner->incarnation});
  }
  for (const auto& progress : moved) step_agent(process, progress);
  publish(process);
}

Process* World::runner_of(AgentNode& agent, uint32_t slot) {
  const uint32_t id = agent.runners[slot - agent.welcome.first_slot];
  return id == kNobody ? nullptr : &processes_[id];
}

void World::step_agent(Process& process, const HostAgent::Input& input) {
  std::vector<HostAgent::Output> outputs;
  process.agent->core->step(input, now_, outputs);
  for (HostAgent::Output& output : outputs) {
    if (!process.alive) return;
    apply_agent(process, output);
  }
}

void World::apply_agent(Process& process, HostAgent::Output& output) {
  AgentNode& node = *process.agent;
  if (const auto* spawn = std::get_if<HostAgent::Spawn>(&output)) {
    spawn_runner(process, spawn->slot, spawn->incarnation);
  } else if (const auto* stop = std::get_if<HostAgent::Kill>(&output)) {
    Process* runner = runner_of(node, stop->slot);
    if (runner == nullptr || !runner->alive || runner->runner->incarnation != stop->incarnation) return;
    const bool silent = runner->hung || runner->paused || now_ - runner->resumes_at < plan_.step_timeout;
    rule(silent || runner->runner->hostile || !runner->runner->up, "I9", "runner {}.{} works and is killed", stop->slot,
         stop->incarnation);
    if (!bugged(Bug::hung_runner_not_killed)) kill(*runner, "SIGKILL");
  } else if (const auto* send = std::get_if<HostAgent::ToRunner>(&output)) {
    Process* runner = runner_of(node, send->slot);
    if (runner == nullptr) return;
    if (const auto* permit = send->message.as<wire::PermitT>()) book_permit(process, *runner, *permit);
    if (!runner->alive) return;
    if (bugged(Bug::runner_starved) && node.runners.size() > 1 &&
        send->slot + 1 == node.welcome.first_slot + node.runners.size())
      return;
    Letter letter;
    pack(encode(send->message), letter.packed);
    stream(process, *runner, std::move(letter));
  } else if (auto* send = std::get_if<HostAgent::ToLearner>(&output)) {
    if (auto* join = send->message.body.AsJoin()) {
      if (node.parent != kNobody) {
        this->send(process.id, node.parent, send->message);
        if (now_ - node.parent_heard < kParentDeadline) join->weights_version = kElsewhere;
      }
      if (bugged(Bug::join_not_repeated) && std::exchange(node.joined, true)) return;
      if (bugged(Bug::lost_on_reconnect) && faulty() && dice_.chance(0.05)) {
        wire::GrantT forgotten;
        forgotten.agent = node.place;
        forgotten.incarnation = node.incarnation;
        forgotten.received = join->sent;
        forgotten.based = true;
        Message message = make_message(std::move(forgotten));
        message.run = run_of(process);
        message.epoch = node.core->epoch();
        step_agent(process, HostAgent::FromLearner{std::move(message)});
      }
    } else if (send->message.as<wire::ParcelT>() != nullptr) {
      book_relayed(process, send->message);
    }
    this->send(process.id, node.learner, send->message);
  } else if (auto* send = std::get_if<HostAgent::ToDriver>(&output)) {
    if (auto* status = send->message.body.AsAgentStatus()) status->weights_endpoint = std::to_string(process.id);
    if (const auto* event = send->message.as<wire::EventT>()) {
      note(fmt::format("agent {}: {}: {}", node.place, event->kind, event->text));
      while (!node.events.empty() && now_ - node.events.front() > milliseconds(900)) node.events.pop_front();
      node.events.push_back(now_);
      rule(node.events.size() <= 2 * HostAgent::kEventsPerSecond, "I10", "agent {} tells {} events in a second",
           node.place, node.events.size());
    }
    to_driver(process, std::move(send->message));
  } else if (const auto* install = std::get_if<HostAgent::Install>(&output)) {
    node.pending = install->weights;
    node.pending_since = now_;
    publish(process);
  } else if (const auto* refused = std::get_if<HostAgent::Refused>(&output)) {
    rule(learners_lost_ || node.outside || process.paused || now_ - process.born > seconds(30), "I9",
         "the learner refuses agent {}: {}", node.place, refused->reason);
    kill(process, refused->reason.c_str());
  } else {
    node.drained = true;
    check_drained(process);
    leave(process, true);
  }
}

void World::publish(Process& process) {
  AgentNode& node = *process.agent;
  if (node.pending == nullptr) return;
  if (bugged(Bug::permits_before_weights) && node.has_weights && now_ - node.pending_since < milliseconds(30))
    return step_agent(process, HostAgent::Installed{node.pending->version});
  uint32_t pins = 0;
  for (const uint32_t slot : node.core->sampling())
    if (Process* runner = runner_of(node, slot)) {
      const uint32_t pinned = runner->runner->page.pinned.load(std::memory_order_seq_cst);
      if (pinned >= 1 && pinned <= SharedWeightsLayout::kBuffers) pins |= 1u << (pinned - 1);
    }
  if (bugged(Bug::overwritten_while_pinned)) pins = 0;
  if (node.has_weights && faulty() && dice_.chance(plan_.pinned)) pins = ~0u;
  if (!node.writer->publish(*node.pending, [pins](uint32_t buffer) { return (pins >> buffer & 1) != 0; })) return;
  node.has_weights = true;
  node.installed = node.pending->version;
  step_agent(process, HostAgent::Installed{node.installed});
  std::vector<WeightsPublisher::Send> sends;
  node.publisher.step(WeightsPublisher::Publish{node.pending, now_}, sends);
  node.pending = nullptr;
  serve(process, sends);
}

void World::serve(Process& process, const std::vector<WeightsPublisher::Send>& sends) {
  for (const auto& send : sends) {
    Message message = weights_message(send.weights);
    message.run = run_of(process);
    message.epoch = process.agent->core->epoch();
    this->send(process.id, static_cast<uint32_t>(std::stoul(send.peer)), message);
  }
}

void World::leave(Process& process, bool drained) {
  process.clean = drained;
  kill(process, drained ? "it has drained" : "it was told to stop");
}

void World::from_runner(Process& process, const Letter& letter) {
  AgentNode& node = *process.agent;
  Process& source = processes_[letter.from];
  Runner& runner = *source.runner;
  if (!node.core || runner_of(node, runner.slot) != &source) return;
  const uint64_t before = node.core->fragments();
  FragmentId id{runner.slot, runner.incarnation, 0};
  if (bugged(Bug::connection_not_checked) && runner.hostile) {
    auto decoded = decode(unpack({nullptr, letter.packed}).value_or(Frames{}));
    if (const auto* message = std::get_if<Message>(&decoded))
      if (const auto* header = message->as<wire::FragmentHeaderT>()) {
        id = id_of(*header);
        if (id.slot < node.welcome.first_slot || id.slot - node.welcome.first_slot >= node.runners.size()) return;
      }
  }
  if (letter.hello && !runner.up) {
    runner.up = true;
    ++node.num_up;
  }
  step_agent(process, HostAgent::FromRunner{id.slot, id.incarnation, letter.packed});
  if (!process.alive) return;
  if (node.core->fragments() > before && id.slot == runner.slot) {
    rule(letter.seq == runner.received, "I2", "agent {} takes fragment {} of runner {}.{} after {}", node.place,
         letter.seq, runner.slot, runner.incarnation, runner.received);
    runner.produced[letter.seq].received = true;
    if (runner.produced[letter.seq].content % 3 > 0) node.starts[runner.slot - node.welcome.first_slot] = 0;
    ++runner.received;
    ++node.received;
    --node.open;
    ++result_.received;
  }
  arm(process, now_ + plan_.loop);
}

void World::runner_exited(Process& runner) {
  Process& process = processes_[runner.runner->agent];
  AgentNode& node = *process.agent;
  if (!node.core || runner_of(node, runner.runner->slot) != &runner) return;
  book_runner_end(node, runner);
  node.runners[runner.runner->slot - node.welcome.first_slot] = kNobody;
  step_agent(process, HostAgent::RunnerExited{runner.runner->slot, runner.runner->incarnation, "killed"});
  if (process.alive) arm(process, now_ + plan_.loop);
}

// --- runners ---

void World::spawn_runner(Process& agent, uint32_t slot, uint32_t incarnation) {
  AgentNode& node = *agent.agent;
  const uint32_t starts = ++node.starts[slot - node.welcome.first_slot];
  rule(starts <= plan_.max_crashes, "I10", "slot {} was started {} times without an episode", slot, starts);
  if (incarnation > 0) deterministic_ = false;
  if (faulty() && dice_.chance(plan_.spawn_failure)) {
    deterministic_ = false;
    push(now_ + dice_.time(milliseconds(1), milliseconds(5)), Kind::spawn_failed, agent.id, slot);
    return;
  }
  Process& process = add_process();
  process.runner = std::make_unique<Runner>();
  Runner& runner = *process.runner;
  runner.slot = slot;
  runner.incarnation = incarnation;
  runner.agent = agent.id;
  runner.environment = fresh_environment(slot, incarnation);
  node.runners[slot - node.welcome.first_slot] = process.id;
  of_slot_[slot].push_back(process.id);
  const Time start = now_ + dice_.time(milliseconds(1), milliseconds(20));
  push(start, Kind::started, process.id);
  if (slot == plan_.bad_slot) push(start + milliseconds(30), Kind::kill, process.id);
  const auto fate = [&](double rate, Kind kind) {
    if (!faulty() || rate <= 0) return;
    const Time at = now_ + dice_.after(rate);
    if (at < plan_.faults_end) push(at, kind, process.id);
  };
  fate(plan_.kills_per_s, Kind::kill);
  fate(plan_.pauses_per_s, Kind::pause);
  if (faulty() && dice_.chance(plan_.hang)) push(dice_.time(now_, plan_.faults_end), Kind::hang, process.id);
}

/// The zygote has forked it: the agent welcomes it.
void World::runner_started(Process& process) {
  Runner& runner = *process.runner;
  Process& agent = processes_[runner.agent];
  if (!agent.alive) return;
  wire::RunnerWelcomeT hello;
  hello.slot = runner.slot;
  hello.incarnation = runner.incarnation;
  const auto state = agent.agent->states.extract(runner.slot);
  const bool resumes = !state.empty() && runner.incarnation == 0 && !bugged(Bug::runner_state_not_restored);
  Message message = make_message(std::move(hello), {resumes ? state.mapped() : SharedBytes{}});
  message.run = run_of(process);
  Letter letter;
  pack(encode(message), letter.packed);
  stream(agent, process, std::move(letter));
}

void World::runner_message(Process& process, const Letter& letter) {
  Runner& runner = *process.runner;
  const auto frames = unpack({nullptr, letter.packed});
  auto decoded = frames ? decode(*frames) : std::variant<Message, Malformed>(Malformed::no_frames);
  const auto* message = std::get_if<Message>(&decoded);
  rule(message != nullptr, "wire", "the agent sent runner {} what is no message", runner.slot);
  if (const auto* permit = message->as<wire::PermitT>()) {
    runner.granted = std::max(runner.granted, permit->granted);
    runner.want_state = std::max(runner.want_state, permit->want_state);
  } else if (message->as<wire::RunnerWelcomeT>() != nullptr && !runner.welcomed) {
    runner.welcomed = process.welcomed = true;
    if (message->payloads.size() == 1 && message->payloads[0].view.size() == sizeof runner.environment)
      std::memcpy(&runner.environment, message->payloads[0].view.data(), sizeof runner.environment);
    wire::SlotStateT hello;
    hello.slot = runner.slot;
    hello.incarnation = runner.incarnation;
    hello.up = true;
    runner_says(process, make_message(std::move(hello)), UINT64_MAX, true);
  }
  runner_loop(process);
}

void World::runner_says(Process& process, Message message, uint64_t seq, bool hello) {
  message.run = run_of(process);
  Letter letter;
  pack(encode(message), letter.packed);
  letter.seq = seq;
  letter.hello = hello;
  Process& agent = processes_[process.runner->agent];
  if (agent.alive) stream(process, agent, std::move(letter));
}

void World::runner_loop(Process& process) {
  Runner& runner = *process.runner;
  if (!runner.welcomed || runner.sampling) return;
  AgentNode& agent = *processes_[runner.agent].agent;
  const bool ignores = bugged(Bug::runner_ignores_credit) && agent.has_weights && runner.produced.size() < 64;
  if (runner.produced.size() < runner.granted || ignores) {
    std::byte* const region = agent.region.data() + (64 - reinterpret_cast<uintptr_t>(agent.region.data()) % 64);
    SharedWeightsReader reader(weights_layout_, region, runner.page);
    runner.weights = reader.acquire();
    rule(runner.weights.has_value(), "I4", "runner {}: a permit came before weights", runner.slot);
    const uint64_t version = runner.weights->version;
    rule(!runner.has_version || version >= runner.version, "I4", "runner {} went from weights {} to {}", runner.slot,
         runner.version, version);
    runner.has_version = true;
    runner.version = version;
    runner.sampling = true;
    push(now_ + dice_.time(plan_.sample / 2, 2 * plan_.sample), Kind::sampled, process.id);
  } else if (runner.want_state > runner.state_sent) {
    wire::RunnerStateT header;
    header.slot = runner.slot;
    header.incarnation = runner.incarnation;
    header.seq = runner.produced.size();
    header.checkpoint = runner.state_sent = runner.want_state;
    const auto bytes = bytes_of(runner.environment);
    runner_says(process, make_message(std::move(header), {SharedBytes::of({bytes.begin(), bytes.end()})}));
  }
}

void World::finish_sample(Process& process) {
  Runner& runner = *process.runner;
  runner.sampling = false;
  const uint64_t seq = runner.produced.size();
  rule(seq < runner.permitted, "I3", "runner {}.{} produces fragment {} with credit for {}", runner.slot,
       runner.incarnation, seq, runner.permitted);
  const auto published = published_.find(runner.version);
  rule(published != published_.end(), "I4", "runner {} has weights {} that nobody published", runner.slot,
       runner.version);
  const Weights want = weights_of(runner.version, published->second);
  rule(std::equal(want.values.begin(), want.values.end(), runner.weights->values.begin()) &&
           std::equal(want.filter.begin(), want.filter.end(), runner.weights->filter.begin()),
       "I4", "runner {}: weights {} are not the published ones", runner.slot, runner.version);
  const std::span<const double> curriculum = runner.weights->published;  // see begin_core
  const uint64_t since = runner.version - plan_.start_version,
                 each = uint64_t{plan_.fragments} * kSteps * kEnvironments;
  rule(curriculum[0] == 0 &&
           (!plan_.by_slot() || curriculum[1] == static_cast<double>(plan_.start_steps + since * each)),
       "I4", "runner {}: weights {} have the curriculum of level {} and {} env steps", runner.slot, runner.version,
       curriculum[0], curriculum[1]);
  const uint64_t content = content_of(runner.slot, runner.environment, hash_of(runner.weights->values));
  runner.weights.reset();
  runner.page.pinned.store(0, std::memory_order_release);
  runner.environment = mix(runner.environment);
  const bool invalid = faulty() && dice_.chance(plan_.hostile);
  const bool malicious = faulty() && dice_.chance(plan_.hostile);
  if (!faulty()) runner.produced_lately = true;
  if (invalid || malicious) deterministic_ = false;
  Truth truth{process.id, seq, runner.version, content, invalid ? 0u : 1u, 0, {}};
  FragmentId id{runner.slot, runner.incarnation, seq};
  runner.produced.push_back({content, runner.version, !invalid});
  ++result_.produced;
  send_fragment(process, truth, id);
  if (malicious) {
    ++result_.violations;
    runner.hostile = true;
    truth.forged = 1;
    const uint64_t which = dice_.below(6);
    Process* other = nullptr;
    for (const uint32_t peer : processes_[runner.agent].agent->runners)
      if (peer != kNobody && peer != process.id) other = &processes_[peer];
    id = {runner.slot, runner.incarnation, seq + 500};
    if (which == 0) id.seq = seq;  // again
    if (which == 1) id.slot = plan_.slots + 1;
    if (which == 2 && other != nullptr)  // in another's name, with the number it would have
      id = {other->runner->slot, other->runner->incarnation, other->runner->received};
    if (which == 3) id.incarnation += 1;
    if (which == 4 && seq > 0) id.seq = seq - 1;
    if (which == 5) {
      Letter letter;
      letter.packed.assign(48, std::byte{0x4d});
      stream(process, processes_[runner.agent], std::move(letter));
    } else {
      send_fragment(process, truth, id);
    }
  }
  auto deferred = std::exchange(process.deferred, {});
  for (const Event& later : deferred)
    if (process.alive) dispatch(later);
  if (process.alive) runner_loop(process);
}

void World::send_fragment(Process& process, const Truth& truth, const FragmentId& id) {
  std::memcpy(fragment_->buffer().data(), &truth, sizeof truth);
  fragment_->id = id;
  fragment_->weights_version = truth.version;
  fragment_->episodes.assign(truth.content % 3, EpisodeStats{static_cast<double>(truth.content % 100), 7, id.slot});
  runner_says(process, fragment_message(fragment_, 1000, 0), truth.forged == 0 ? truth.seq : UINT64_MAX);
}

}  // namespace myriad::simulation
