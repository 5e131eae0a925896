// The learner's shell in the simulated world: its update is a hash of the batch.
#include <algorithm>
#include <cerrno>
#include <cstring>

#include "rl/wire/packed.hpp"
#include "rl/wire/process_error.hpp"
#include "tests/simulation/cluster.hpp"

namespace myriad::simulation {

using std::chrono::microseconds;
using std::chrono::milliseconds;

Weights weights_of(uint64_t version, uint64_t hash) {
  Weights weights{version, kSpecHash, {}, {static_cast<double>(hash >> 32), static_cast<double>(version & 0xffffffff)}};
  for (size_t i = 0; i < kValues; ++i) weights.values.push_back(static_cast<float>(hash >> (16 * i) & 0xffff));
  return weights;
}

uint64_t hash_of(std::span<const float> values) {
  uint64_t hash = 0;
  for (size_t i = 0; i < kValues; ++i) hash |= static_cast<uint64_t>(values[i]) << (16 * i);
  return hash;
}

void World::start_learner(Process& process, const wire::LearnerWelcomeT& welcome) {
  process.welcomed = true;
  LearnerNode& node = *process.learner;
  node.checkpoint = welcome.checkpoint;
  LearnerFile file{plan_.start_iteration, plan_.start_steps, plan_.start_version, mix(seed_, 4)};
  if (!welcome.checkpoint.empty()) file = load(welcome.checkpoint).learner;
  if (bugged(Bug::counters_reset_on_resume) && !welcome.checkpoint.empty()) file.env_steps = 0;
  node.start_version = node.version = file.version;
  node.hash = node.previous_hash = file.hash;
  if (!states_.contains(file.iteration)) {
    State& state = states_[file.iteration];
    state.env_steps = file.env_steps;
    state.version = file.version;
    state.hash = file.hash;
    for (uint32_t slot = 0; slot < plan_.slots; ++slot) state.environments.push_back(fresh_environment(slot, 0));
  }
  if (group_.epoch == 0) current_ = states_.at(file.iteration);
  published_.try_emplace(file.version, file.hash);
  GroupMember::Options options;
  options.run = run_of(process);
  options.shard = node.shard;
  options.incarnation = node.incarnation;
  options.fragment_steps = kSteps * kEnvironments;
  options.version = file.version;
  options.state = {file.iteration, file.env_steps, {}};
  node.member = std::make_unique<GroupMember>(std::move(options));
  learner_hello(process);
  arm(process, node.member->next_timer());
}

void World::learner_hello(Process& process) {
  wire::LearnerHelloT hello;
  hello.shard = process.learner->shard;
  hello.incarnation = process.learner->incarnation;
  hello.protocol = kProtocolVersion;
  if (process.welcomed) hello.data_endpoint = std::to_string(process.id);
  to_driver(process, make_message(std::move(hello)));
}

void World::learner_message(Process& process, uint32_t from, Message&& message) {
  LearnerNode& node = *process.learner;
  if (from == kDriver) {
    if (message.run != run_of(process)) return;  // ControlLink
    if (const auto* welcome = message.as<wire::LearnerWelcomeT>())
      return process.welcomed ? learner_hello(process) : start_learner(process, *welcome);
    if (!process.welcomed) return;
    if (message.as<wire::StopT>() != nullptr) {
      const bool in_group = std::ranges::find(group_.processes, process.id) != group_.processes.end();
      const bool ends = driver_ == nullptr || driver_->finishing(), lost = learners_lost_;
      kill(process, "it was told to stop");
      if (ends) learners_lost_ = lost;
      rule(ends || !in_group || any_veteran(), "I6", "learner {} was told to go, and nobody else has weights {}",
           node.shard, node.version);
      return;
    }
    if (message.as<wire::GroupOrderT>() != nullptr || message.as<wire::RendezvousT>() != nullptr)
      return step_member(process, GroupMember::FromDriver{std::move(message)});
    if (!node.core) return;
    if (auto* command = message.body.AsCommand(); command != nullptr && bugged(Bug::last_save_waits_for_data))
      command->at_once = false;
    if (const auto* state = message.as<wire::AgentStateT>(); state != nullptr && message.epoch == node.part.epoch) {
      book_agent_state(node, *state);
      if (bugged(Bug::credit_leak_on_agent_death) && !state->up) return;
    }
    return step_learner(process, LearnerCore::FromDriver{std::move(message)});
  }
  if (!node.core) return;
  Process& agent = processes_[from];
  if (const auto* parcel = message.as<wire::ParcelT>()) {
    const wire::ParcelT as_sent{*parcel};
    const bool ours = message.run == run_of(process) && message.epoch == node.part.epoch;
    if (plant_in_parcel(process, agent, message)) return;
    if (ours) book_arrival(node, agent, as_sent);
  }
  step_learner(process, LearnerCore::FromAgent{std::to_string(from), std::move(message), ""});
}

// --- the group ---

void World::step_member(Process& process, const GroupMember::Input& input) {
  LearnerNode& node = *process.learner;
  std::vector<GroupMember::Output> outputs;
  node.member->step(input, now_, outputs);
  for (GroupMember::Output& output : outputs) {
    if (!process.alive) return;
    if (const auto* send = std::get_if<GroupMember::ToDriver>(&output)) {
      this->send(process.id, kDriver, send->message);
    } else if (std::holds_alternative<GroupMember::Leave>(output)) {
      leave_epoch(process);
    } else if (auto* join = std::get_if<GroupMember::Join>(&output)) {
      node.part = std::move(join->part);
      node.found.clear();
      node.found.insert(std::to_string(node.shard));
      give_job(process);
      settle(node);
      say_found(process);
      meet(process);
    } else if (const auto* begin = std::get_if<GroupMember::Begin>(&output)) {
      begin_core(process, begin->part);
    } else if (const auto* put = std::get_if<GroupMember::Put>(&output)) {
      if (node.member->stage() != wire::LearnerStage::joining || !node.found.insert(put->key).second) continue;
      meet(process);
    }
  }
}

/// The shard's entry of the rendezvous.
void World::say_found(Process& process) {
  wire::RendezvousT found;
  found.entries.push_back(std::make_unique<wire::RendezvousEntryT>());
  found.entries[0]->key = std::to_string(process.learner->shard);
  Message message = make_message(std::move(found));
  message.run = run_of(process);
  message.epoch = process.learner->member->epoch();
  send(process.id, kDriver, message);
}

void World::meet(Process& process) {
  const LearnerNode& node = *process.learner;
  if (node.found.size() == node.part.order.size)
    push(now_ + dice_.time(milliseconds(1), milliseconds(10)), Kind::joins, process.id, node.job);
}

void World::give_job(Process& process) {
  rule(!process.learner->busy, "group", "learner {} has two jobs", process.learner->shard);
  process.learner->busy = true;
  ++process.learner->job;
}

void World::leave_epoch(Process& process) {
  LearnerNode& node = *process.learner;
  if (bugged(Bug::old_epoch_lives)) return;
  node.core.reset();
  // Its part of a sum is taken back, unless the sum is made.
  if (group_.epoch == node.part.epoch && node.part.order.rank < group_.size &&
      group_.processes[node.part.order.rank] == process.id && group_.tallies[node.part.order.rank])
    group_.broken = true;
  if (!node.busy || node.writing) return;
  ++node.job;  // what it waits for does not come
  push(now_ + dice_.log_time(microseconds(100), milliseconds(5)), Kind::aborted, process.id, node.job);
}

void World::aborted(Process& process) {
  LearnerNode& node = *process.learner;
  node.busy = false;
  node.training.clear();
  GroupMember::Ended ended;
  ended.settled = false;
  ended.prepared = node.standing == Standing::prepared;
  if (ended.prepared) ended.tally = node.tally;
  ended.parts = {0};
  ended.broken = "aborted";
  step_member(process, ended);
}

/// The first thing a job to join does.
void World::settle(LearnerNode& node) {
  const wire::GroupOrderT& order = node.part.order;
  const bool torn_counts = bugged(Bug::torn_counts) && node.standing == Standing::torn;
  if (torn_counts) node.prepared_hash = mix(node.hash, node.batch_hash);
  if (torn_counts ||
      (node.standing == Standing::prepared && order.version == node.version + 1 && !bugged(Bug::prepared_taken_back))) {
    ++node.version;
    node.previous_hash = std::exchange(node.hash, node.prepared_hash);
  }
  node.standing = Standing::settled;
}

void World::joins(Process& process) {
  LearnerNode& node = *process.learner;
  const wire::GroupOrderT& order = node.part.order;
  if (node.part.epoch < group_.epoch) return;  // it was asleep, and nobody comes
  if (group_.epoch != node.part.epoch) {
    group_ = {.epoch = node.part.epoch,
              .size = order.size,
              .processes = std::vector<uint32_t>(order.size, kNobody),
              .tallies = std::vector<std::optional<std::vector<double>>>(order.size),
              .batches = std::vector<std::vector<Truth>>(order.size),
              .prepared = std::vector<bool>(order.size)};
  }
  group_.processes.at(order.rank) = process.id;
  if (verbose_)
    note(fmt::format("learner {}.{} joins epoch {} with weights {} {:x}", node.shard, node.incarnation, group_.epoch,
                     node.version, node.hash));
  if (std::ranges::find(group_.processes, kNobody) != group_.processes.end()) return;
  const bool all_here = std::ranges::all_of(group_.processes, [this](uint32_t id) {
    return processes_[id].alive && processes_[id].learner->member->epoch() == group_.epoch;
  });
  if (!all_here) return;  // the others are told that the epoch is over
  const LearnerNode& root = *processes_[group_.processes.at(order.root)].learner;
  group_.version = root.version;
  group_.hash = root.hash;
  group_.previous_hash = root.previous_hash;
  rule(root.version == order.version, "I6", "epoch {} begins with weights {}, its root has {}", group_.epoch,
       order.version, root.version);
  if (root.version > current_.version) advance(root.version, root.hash);
  if (driver_cut_ && order.state->training_iteration == iteration_ + 1) states_[++iteration_] = current_;
  rule(root.version == current_.version && root.hash == current_.hash, "I6",
       "epoch {} begins with weights {}, the newest that count are {}", group_.epoch, root.version, current_.version);
  for (const uint32_t id : group_.processes) {
    const LearnerNode& shard = *processes_[id].learner;
    rule(!order.everybody || (shard.version == root.version && shard.hash == root.hash), "I6",
         "learner {} has weights {} and is given nothing", shard.shard, shard.version);
    push(now_ + dice_.log_time(microseconds(100), milliseconds(20)), Kind::joined, id, shard.job);
  }
}

void World::joined(Process& process) {
  LearnerNode& node = *process.learner;
  if (!bugged(Bug::newcomer_keeps_its_own) || node.version >= group_.version) node.hash = group_.hash;
  node.version = group_.version;
  node.previous_hash = group_.previous_hash;
  node.veteran = true;
  node.busy = false;
  GroupMember::Ended ended;
  ended.parts = {0};
  step_member(process, ended);
}

LearnerCore::Options World::run_options(const Process& process) const {
  LearnerCore::Options options;
  options.run = run_of(process);
  options.mode = plan_.mode;
  options.num_agents = plan_.agents;
  options.steps = kSteps;
  options.environments = kEnvironments;
  options.fragment_bytes = kFragmentBytes;
  options.spec_hash = kSpecHash;
  options.fragment_hash = layout_->hash();
  options.env_steps_per_update = uint64_t{plan_.fragments} * kSteps * kEnvironments;
  if (!plan_.by_slot()) {
    options.learner_queue_size = plan_.learner_queue_size;
    options.broadcast_interval = plan_.broadcast_interval;
    options.max_policy_lag = plan_.max_policy_lag;
    if (bugged(Bug::lag_off_by_one) && options.max_policy_lag) ++*options.max_policy_lag;
    options.min_time_per_iteration = plan_.min_time_per_iteration;
  }
  options.published = [](uint64_t env_steps, uint32_t level) {
    return std::vector<double>{static_cast<double>(level), static_cast<double>(env_steps)};
  };
  options.violation = [](const wire::FragmentHeaderT&, std::span<const std::byte> bytes) -> std::string {
    Truth truth;
    if (bytes.size() != sizeof truth) return "size";
    std::memcpy(&truth, bytes.data(), sizeof truth);
    return truth.valid == 1 ? "" : "column reward has a value that is not finite";
  };
  return options;
}

void World::begin_core(Process& process, const GroupPart& part) {
  LearnerNode& node = *process.learner;
  node.heard.clear();
  node.acknowledged.clear();
  LearnerCore::Options options = in_epoch(run_options(process), part, node.start_version);
  if (bugged(Bug::marks_forgotten)) options.state.marks.clear();
  if (node.version > node.start_version)
    options.previous_weights = std::make_shared<const Weights>(weights_of(node.version - 1, node.previous_hash));
  node.batch.assign(part.order.num_places, std::nullopt);
  if (plan_.mode == SamplingMode::lag1 && options.at_start && !node.checkpoint.empty() &&
      !bugged(Bug::lag1_batch_not_restored)) {
    const Saved saved = load(node.checkpoint);
    for (uint32_t i = 0; i < part.order.num_places; ++i) {
      const auto it = saved.batch.find(part.order.first_place + i);
      if (it == saved.batch.end()) continue;
      const WaitingFragment& fragment = it->second;
      node.batch[i] = Truth{kResumed, 0, fragment.version, fragment.content, 1, 0, {}};
      if (!options.restored_batch) options.restored_batch.emplace();
      for (uint64_t e = 0; e < fragment.content % 3; ++e)
        options.restored_batch->emplace_back(static_cast<double>(fragment.content % 100), 7, 0, 0);
    }
  }
  node.core = std::make_unique<LearnerCore>(std::move(options));
  std::vector<LearnerCore::Output> outputs;
  node.core->start(std::make_shared<const Weights>(weights_of(node.version, node.hash)), now_, outputs);
  for (LearnerCore::Output& output : outputs) apply_learner(process, output);
  if (process.alive && node.core) arm(process, node.core->next_timer());
}

/// The planted bugs that change a parcel on its way into the learner. True when it is lost.
bool World::plant_in_parcel(Process& process, Process& agent, Message& message) {
  LearnerNode& node = *process.learner;
  wire::ParcelT& header = *message.body.AsParcel();
  const uint64_t expected = node.acknowledged[agent.id];
  const auto rewrite = [&](uint32_t place, bool all) {  // every fragment becomes the next one of its slot
    const auto messages = unpack_all(message.payloads[0], header.count);
    if (!messages) return;
    std::map<uint32_t, uint64_t> next;
    std::vector<std::byte> packed;
    for (const Frames& frames : *messages) {
      auto decoded = decode(frames);
      Message& inner = std::get<Message>(decoded);
      inner.run = run_of(process);
      if (auto* fragment = inner.body.AsFragmentHeader()) {
        const uint32_t slot = fragment->key->slot();
        const auto& runners = of_slot_[slot];
        if (!runners.empty()) {
          const Runner& runner = *processes_[runners.back()].runner;
          if (!next.contains(slot)) {
            uint64_t arrived = 0;
            while (arrived < runner.produced.size() && runner.produced[arrived].arrived) ++arrived;
            next[slot] = arrived;
          }
          fragment->key = std::make_unique<wire::FragmentKey>(slot, runner.incarnation, next[slot]++);
          if (all) fragment->weights_version = current_.version;
        }
      }
      pack(encode(inner), packed);
    }
    message.payloads[0] = SharedBytes::of(std::move(packed));
    header.agent = place;
    header.first = expected;
  };
  const bool ours = message.epoch == node.part.epoch && agent.life == process.life;
  if (bugged(Bug::stale_epoch_accepted) && agent.life != process.life) {
    message.run = run_of(process);
    message.epoch = node.part.epoch;
    for (const uint32_t id : agents_)
      if (takes_part(node, processes_[id]) && processes_[id].agent->place == header.agent) {
        header.incarnation = processes_[id].agent->incarnation;
        header.first = node.acknowledged[id];
        const uint64_t first = header.first;
        rewrite(header.agent, false);
        header.first = first;
      }
  }
  if (!ours) return false;
  if (bugged(Bug::ack_before_take) && header.first == expected && dice_.chance(0.05) && takes_part(node, agent)) {
    wire::GrantT grant;
    grant.agent = header.agent;
    grant.incarnation = header.incarnation;
    grant.received = header.first + header.count;
    grant.based = true;
    book_acknowledged(process, agent, grant.received, 0);
    Message early = make_message(std::move(grant));
    early.run = run_of(process);
    early.epoch = node.part.epoch;
    send(process.id, agent.id, early);
    return true;
  }
  if (bugged(Bug::gap_taken) && header.first > expected) header.first = expected;
  if (bugged(Bug::resent_consumed) && header.first + header.count <= expected) rewrite(header.agent, false);
  if (bugged(Bug::stale_agent_accepted) && !takes_part(node, agent)) {
    for (const uint32_t id : agents_) {
      const AgentNode& living = *processes_[id].agent;
      if (!takes_part(node, processes_[id]) || living.place != header.agent) continue;
      header.incarnation = living.incarnation;
      rewrite(header.agent, true);
      header.first = node.acknowledged[id];
    }
  }
  return false;
}

void World::step_learner(Process& process, const LearnerCore::Input& input) {
  std::vector<LearnerCore::Output> outputs;
  process.learner->core->step(input, now_, outputs);
  for (LearnerCore::Output& output : outputs) {
    if (!process.alive || !process.learner->core) return;
    apply_learner(process, output);
  }
}

void World::apply_learner(Process& process, LearnerCore::Output& output) {
  LearnerNode& node = *process.learner;
  if (auto* driver = std::get_if<LearnerCore::ToDriver>(&output)) {
    if (const auto* report = driver->message.as<wire::IterationReportT>()) {
      rule(report->training_iteration == iteration_ || report->training_iteration + 1 == iteration_ ||
               node.part.epoch < group_.epoch,
           "I8", "learner {} reports iteration {}, the group is at {}", node.shard, report->training_iteration,
           iteration_);
      if (bugged(Bug::report_not_repeated) && report->training_iteration == node.reported) return;
      node.reported = report->training_iteration;
    }
    send(process.id, kDriver, driver->message);
  } else if (auto* to = std::get_if<LearnerCore::ToAgent>(&output)) {
    Process& agent = processes_[static_cast<uint32_t>(std::stoul(to->peer))];
    if (auto* grant = to->message.body.AsGrant()) {
      if (bugged(Bug::released_too_early)) grant->released = grant->received;
      book_acknowledged(process, agent, grant->received, grant->released);
      book_grant(node, agent, *grant);
    } else if (const auto* weights = to->message.as<wire::WeightsHeaderT>()) {
      rule(published_.contains(weights->version), "I4", "weights {} are published, nobody made them", weights->version);
    }
    send(process.id, agent.id, to->message);
  } else if (auto* fragment = std::get_if<LearnerCore::Assemble>(&output)) {
    assemble(process, fragment->fragment);
  } else if (const auto* consumed = std::get_if<LearnerCore::Consumed>(&output)) {
    book_consumed(node, *consumed);
  } else if (auto* update = std::get_if<LearnerCore::Update>(&output)) {
    enter_update(process, *update);
  } else if (auto* write = std::get_if<LearnerCore::WriteCheckpoint>(&output)) {
    rule(!node.writing, "I7", "a second checkpoint is written while one is under way");
    rule(node.training.empty(), "I7", "a checkpoint is written during an update");
    if (write->with_batch && node.part.epoch == group_.epoch)  // an older attempt has a directory of its own
      for (uint32_t i = 0; i < node.batch.size(); ++i) {
        rule(node.batch[i].has_value(), "I7", "the batch that goes into the checkpoint is not complete");
        states_.at(iteration_).waiting[node.part.order.first_place + i] = node.batch[i]->content;
      }
    node.writing = std::move(*write);
    give_job(process);
    step_member(process, GroupMember::Began{});
    push(now_ + dice_.time(milliseconds(1), milliseconds(50)), Kind::written, process.id);
  } else {
    kill(process, std::get<LearnerCore::Exit>(output).reason.c_str());
  }
}

void World::assemble(Process& process, const AcceptedFragment& fragment) {
  LearnerNode& node = *process.learner;
  Truth truth;
  std::memcpy(&truth, fragment.message.payloads[0].view.data(), sizeof truth);
  rule(truth.process < processes_.size() && processes_[truth.process].runner, "I2",
       "a fragment of no runner is in a batch");
  Process& source = processes_[truth.process];
  const Runner& runner = *source.runner;
  rule(source.life == process.life, "I5", "a fragment of life {} is in a batch of life {}", source.life, process.life);
  rule(truth.forged == 0, "I5", "a forged fragment of runner {}.{} is in a batch", runner.slot, runner.incarnation);
  rule(truth.seq < runner.produced.size(), "I2", "fragment {} of runner {}.{} was never produced", truth.seq,
       runner.slot, runner.incarnation);
  const Produced& produced = runner.produced[truth.seq];
  const bool counts = node.part.epoch == group_.epoch;  // else nobody trains on it
  rule(!produced.done || !counts, "I1", "fragment {} of runner {}.{} was consumed, and is in a batch", truth.seq,
       runner.slot, runner.incarnation);
  rule(produced.arrived, "I5", "fragment {} of runner {}.{} came by an agent that has no part in the run", truth.seq,
       runner.slot, runner.incarnation);
  const FragmentId id = id_of(*fragment.message.as<wire::FragmentHeaderT>());
  rule(id == FragmentId{runner.slot, runner.incarnation, truth.seq}, "I5",
       "fragment {} of runner {}.{} is consumed as {}.{}.{}", truth.seq, runner.slot, runner.incarnation, id.slot,
       id.incarnation, id.seq);
  rule(produced.content == truth.content && produced.version == truth.version, "I2",
       "fragment {} of runner {}.{} changed on its way", truth.seq, runner.slot, runner.incarnation);
  rule(produced.valid, "I2", "an invalid fragment is in a batch");
  size_t place = fragment.place;
  rule(place < node.batch.size(), "I3", "place {} of {}", place, node.batch.size());
  if (bugged(Bug::batch_in_arrival_order))
    place = static_cast<size_t>(std::find(node.batch.begin(), node.batch.end(), std::nullopt) - node.batch.begin());
  const bool outdated = node.batch[place] && plan_.max_policy_lag && plan_.mode == SamplingMode::async &&
                        node.version - node.batch[place]->version > *plan_.max_policy_lag;
  rule(!node.batch[place] || outdated, "I3", "place {} is filled twice", place);
  node.batch[place] = truth;
  AgentNode& agent = *processes_[runner.agent].agent;
  if (node.part.epoch > agent.placed_in) agent.placed = 0;
  agent.placed_in = std::max(agent.placed_in, node.part.epoch);
  if (node.part.epoch == agent.placed_in) ++agent.placed;
  if (verbose_)
    note(fmt::format("    learner {}: fragment {} of runner {}.{} in place {}", node.shard, truth.seq, runner.slot,
                     runner.incarnation, place));
}

// --- updates ---

/// I4, and the batch itself: what the undisturbed run would train on.
void World::check_batch(Process& process, uint64_t weights_version) {
  const LearnerNode& node = *process.learner;
  uint64_t oldest = UINT64_MAX;
  bool resumed = false;
  for (size_t place = 0; place < node.batch.size(); ++place) {
    rule(node.batch[place].has_value(), "I3", "place {} is open at the update", place);
    const Truth& truth = *node.batch[place];
    oldest = std::min(oldest, truth.version);
    if (plan_.mode == SamplingMode::async) {
      rule(truth.version <= current_.version &&
               (!plan_.max_policy_lag || current_.version - truth.version <= *plan_.max_policy_lag),
           "I4", "a fragment of weights {} is trained at {}", truth.version, current_.version);
      continue;
    }
    const bool lags = plan_.mode == SamplingMode::lag1 && iteration_ > plan_.start_iteration;
    const uint64_t want = lags ? states_.at(iteration_ - 1).version : current_.version;
    // Where a place is given again after an agent died, with newer weights published, these will do.
    const bool again = node.part.epoch > 1 || truth.process == kResumed || driver_cut_;  // it was saved without a batch
    const bool newer = lags && again && !deterministic_ && truth.version == current_.version;
    resumed |= truth.process == kResumed;
    rule(truth.version == want || newer, "I4", "a fragment of weights {} is in the batch of iteration {}, want {}",
         truth.version, iteration_ + 1, want);
  }
  rule(oldest == weights_version || (resumed && !deterministic_), "I4",
       "the batch is said to be of weights {}, want {}", weights_version, oldest);
}

void World::enter_update(Process& process, LearnerCore::Update& update) {
  LearnerNode& node = *process.learner;
  const uint32_t rank = node.part.order.rank;
  const bool leaves = std::ranges::find(group_.processes, process.id) == group_.processes.end();
  rule(group_.epoch == node.part.epoch || (leaves && node.part.epoch < group_.epoch), "I5",
       "learner {} begins an update of epoch {} in epoch {}", node.shard, node.part.epoch, group_.epoch);
  if (group_.epoch != node.part.epoch) {  // it is not asked any more, and nobody comes
    node.training = std::exchange(node.batch, std::vector<std::optional<Truth>>(node.batch.size()));
    give_job(process);
    return step_member(process, GroupMember::Began{});
  }
  rule(node.training.empty() && !group_.tallies.at(rank), "I3", "an update begins during another");
  if (update.with_batch) {
    check_batch(process, update.weights_version);
    node.training = std::exchange(node.batch, std::vector<std::optional<Truth>>(node.batch.size()));
  }
  group_.batches[rank].clear();
  for (const auto& truth : node.training) group_.batches[rank].push_back(*truth);
  group_.tallies[rank] = std::move(update.tally);
  note(fmt::format("learner {} begins update {}", node.shard, node.version + 1));
  give_job(process);
  step_member(process, GroupMember::Began{});
  if (!group_.broken && std::ranges::all_of(group_.tallies, [](const auto& tally) { return tally.has_value(); }))
    all_entered();
}

void World::all_entered() {
  std::vector<double> sums(group_.tallies[0]->size());
  for (auto& tally : group_.tallies) {
    for (size_t i = 0; i < sums.size(); ++i) sums[i] += (*tally)[i];
    tally.reset();
  }
  const UpdateTally tally = UpdateTally::decode(sums);
  open_ = {};
  open_.version = current_.version;
  open_.tally = tally;
  for (uint32_t rank = 0; rank < group_.size; ++rank) {
    const wire::GroupOrderT& order = processes_[group_.processes[rank]].learner->part.order;
    open_.slots.emplace_back(order.first_slot, order.num_slots);
    open_.places.push_back(group_.batches[rank].size());
    for (const Truth& truth : group_.batches[rank]) {
      open_.batch.push_back(truth);
      open_.batch_hash = mix(open_.batch_hash, truth.content);
    }
  }
  group_.prepared.assign(group_.size, false);
  for (const uint32_t id : group_.processes) {
    LearnerNode& node = *processes_[id].learner;
    node.tally = tally;
    node.batch_hash = open_.batch_hash;
    if (tally.fragments == 0) {
      push(now_ + milliseconds(1), Kind::committed, id, node.job);
      continue;
    }
    node.standing = Standing::torn;
    push(now_ + dice_.time(plan_.update / 2, 2 * plan_.update), Kind::prepared, id, node.job);
  }
}

/// It stays, with what it has.
void World::update_fails(Process& process) {
  LearnerNode& node = *process.learner;
  note(fmt::format("learner {} fails to make {}", node.shard, node.version + 1));
  node.busy = false;
  node.training.clear();
  Message message = make_message(process_error(Error(Exit::internal, "diverged", "no gradient is finite")));
  message.run = run_of(process);
  message.epoch = node.part.epoch;
  send(process.id, kDriver, message);
  GroupMember::Ended ended;
  ended.settled = false;
  ended.parts = {0};
  ended.broken = "no gradient is finite";
  step_member(process, ended);
}

void World::prepared(Process& process) {
  LearnerNode& node = *process.learner;
  if (node.version + 1 == plan_.failing_update || dice_.chance(plan_.lone_failure)) return update_fails(process);
  note(fmt::format("learner {} has prepared {}", node.shard, node.version + 1));
  node.standing = Standing::prepared;
  node.prepared_hash = mix(node.hash, node.batch_hash);
  if (node.part.epoch != group_.epoch) return;  // it was asleep: the barrier is another group's now
  group_.prepared.at(node.part.order.rank) = true;
  if (std::ranges::find(group_.prepared, false) != group_.prepared.end() && !bugged(Bug::committed_alone)) return;
  for (const uint32_t id : group_.processes)
    if (const LearnerNode& other = *processes_[id].learner;
        other.standing == Standing::prepared && other.member->epoch() == group_.epoch)
      push(now_ + dice_.log_time(microseconds(50), milliseconds(20)), Kind::committed, id, processes_[id].learner->job);
}

void World::committed(Process& process) {
  LearnerNode& node = *process.learner;
  node.busy = false;
  node.training.clear();
  GroupMember::Ended ended;
  ended.parts = {0};
  const double busy_s = node.shard % 2 == 0 ? 1 : 3;  // the one is slower than the other
  LearnerCore::Updated updated{nullptr, {{"loss", 0.5}, {"learner_update_s", busy_s}}, node.tally.encode(plan_.agents)};
  if (node.tally.fragments > 0) {
    ended.tally = node.tally;
    node.standing = Standing::settled;
    ++node.version;
    node.previous_hash = std::exchange(node.hash, node.prepared_hash);
    note(fmt::format("learner {} has committed {}", node.shard, node.version));
    advance(node.version, node.hash);
    updated.weights = std::make_shared<const Weights>(weights_of(node.version, node.hash));
    if (bugged(Bug::lag1_publishes_early) && plan_.mode == SamplingMode::lag1)
      for (const uint32_t id : agents_) {
        Message early = weights_message(updated.weights);
        const uint64_t since = node.version - plan_.start_version;
        const uint64_t each = uint64_t{plan_.fragments} * kSteps * kEnvironments;
        early.body.AsWeightsHeader()->published = {0, static_cast<double>(plan_.start_steps + since * each)};
        early.run = run_of(process);
        early.epoch = node.part.epoch;
        send(process.id, id, early);
      }
  }
  step_member(process, ended);
  if (process.alive && node.core) step_learner(process, updated);
}

/// An update counts: somebody knows that all have finished it, or the driver said that it does.
void World::advance(uint64_t version, uint64_t hash) {
  if (version <= current_.version) {  // others said so before
    rule(hash == published_.at(version), "I6", "two learners have different weights {}", version);
    return;
  }
  rule(version == current_.version + 1 && open_.version == current_.version &&
           hash == mix(current_.hash, open_.batch_hash),
       "I6", "weights {} follow {}", version, current_.version);
  for (const wire::AgentMark& mark : open_.tally.marks) {
    marks_[{mark.agent(), mark.incarnation()}] = mark.messages();
    if (verbose_)
      note(fmt::format("    agent {}.{} has the mark {}", mark.agent(), mark.incarnation(), mark.messages()));
  }
  const bool lags = plan_.mode == SamplingMode::lag1 && iteration_ > plan_.start_iteration;
  const uint64_t sampled_with = plan_.by_slot() && lags ? states_.at(iteration_ - 1).hash : current_.hash;
  uint64_t want = 0;
  const bool compare = deterministic_ && plan_.by_slot();
  size_t next = 0;
  for (size_t rank = 0; rank < open_.places.size(); ++rank)
    for (size_t place = 0; place < open_.places[rank]; ++place) {
      const Truth& truth = open_.batch[next++];
      book_used(truth);
      current_.episodes += truth.content % 3;
      if (!compare) continue;
      const uint32_t slot = open_.slots[rank].first + static_cast<uint32_t>(place % open_.slots[rank].second);
      uint64_t& environment = current_.environments[slot];
      want = mix(want, content_of(slot, environment, sampled_with));
      environment = mix(environment);
    }
  rule(!compare || open_.batch_hash == want, "determinism",
       "the batch of iteration {} is not the one of the undisturbed run", iteration_ + 1);
  if (compare) {
    result_.batches.resize(iteration_ - plan_.start_iteration);
    result_.batches.push_back(open_.batch_hash);
  } else {
    current_.environments.clear();
  }
  current_.env_steps += uint64_t{open_.batch.size()} * kSteps * kEnvironments;
  current_.version = version;
  current_.hash = hash;
  current_.waiting.clear();
  published_[version] = hash;
  last_update_ = now_;
  ++result_.updates;
  if (open_.tally.ends_iteration) states_[++iteration_] = current_;
}

void World::written(Process& process) {
  LearnerNode& node = *process.learner;
  const LearnerCore::WriteCheckpoint request = *std::exchange(node.writing, std::nullopt);
  LearnerCore::CheckpointWritten written{request.sequence, {}, ""};
  const auto add = [&](const std::string& name, std::span<const std::byte> bytes) {
    written.files.push_back(write_checkpoint_file(files_, request.directory, name, bytes));
  };
  try {
    const LearnerFile file{request.training_iteration, request.num_env_steps_sampled_lifetime, node.version,
                           bugged(Bug::other_iterations_weights) ? node.previous_hash : node.hash};
    if (node.part.order.rank == 0) add("learner_group/state.bin", bytes_of(file));
    if (request.with_batch && !bugged(Bug::lag1_batch_not_saved)) {
      std::vector<WaitingFragment> batch;
      for (const auto& truth : node.batch) batch.push_back({truth ? truth->content : 0, truth ? truth->version : 0});
      add(fmt::format("learner_group/batch-{:06}", node.part.order.first_place), std::as_bytes(std::span(batch)));
    }
    for (const SavedRunner& runner : request.runners)
      add(fmt::format("env_runners/slot-{:04}", runner.slot), runner.state.view);
  } catch (const FileError& error) { written.error = fmt::format("{}: {}", error.path, std::strerror(error.error)); }
  node.busy = false;
  GroupMember::Ended ended;
  ended.parts = {0};
  step_member(process, ended);
  if (process.alive && node.core) step_learner(process, written);
}

}  // namespace myriad::simulation
