// The learner's shell in the simulated world: its update is a hash of the batch.
#include <algorithm>
#include <cerrno>
#include <cstring>

#include "rl/wire/packed.hpp"
#include "tests/simulation/cluster.hpp"

namespace myriad::simulation {

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
  LearnerFile file{plan_.start_iteration, plan_.start_steps, plan_.start_version, mix(seed_, 4)};
  std::vector<WaitingFragment> batch;
  if (!welcome.checkpoint.empty()) {
    const Saved saved = load(welcome.checkpoint);
    file = saved.learner;
    batch = saved.batch;
  }
  if (bugged(Bug::counters_reset_on_resume) && !welcome.checkpoint.empty()) file.env_steps = 0;
  LearnerCore::Options options;
  options.run = kRun;
  options.epoch = process.life;
  options.mode = plan_.mode;
  options.num_slots = plan_.slots;
  options.fragments_per_batch = plan_.fragments;
  options.steps = kSteps;
  options.environments = kEnvironments;
  options.fragment_bytes = kFragmentBytes;
  options.spec_hash = kSpecHash;
  options.fragment_hash = layout_->hash();
  options.learner_queue_size = plan_.learner_queue_size;
  options.broadcast_interval = plan_.broadcast_interval;
  options.max_policy_lag = plan_.max_policy_lag;
  if (bugged(Bug::lag_off_by_one) && options.max_policy_lag) ++*options.max_policy_lag;
  options.min_time_per_iteration = plan_.min_time_per_iteration;
  options.training_iteration = file.iteration;
  options.num_env_steps_sampled_lifetime = file.env_steps;
  options.violation = [](const wire::FragmentHeaderT&, std::span<const std::byte> bytes) -> std::string {
    Truth truth;
    if (bytes.size() != sizeof truth) return "size";
    std::memcpy(&truth, bytes.data(), sizeof truth);
    return truth.valid == 1 ? "" : "column reward has a value that is not finite";
  };
  node.batch.assign(plan_.fragments, std::nullopt);
  if (!batch.empty() && !bugged(Bug::lag1_batch_not_restored)) {
    options.resumes_with_batch = true;
    for (size_t place = 0; place < batch.size(); ++place) {
      const WaitingFragment& fragment = batch[place];
      node.batch[place] = Truth{kResumed, 0, fragment.version, fragment.content, 1, 0, {}};
      for (uint64_t i = 0; i < fragment.content % 3; ++i)
        options.batch_episodes.emplace_back(static_cast<double>(fragment.content % 100), 7, 0);
    }
  }
  node.core = std::make_unique<LearnerCore>(std::move(options));
  node.previous_hash = file.hash;
  if (!states_.contains(file.iteration)) {
    State& state = states_[file.iteration];
    state.env_steps = file.env_steps;
    state.version = file.version;
    state.hash = file.hash;
    for (uint32_t slot = 0; slot < plan_.slots; ++slot) state.environments.push_back(fresh_environment(slot, 0));
  }
  current_ = states_.at(file.iteration);
  published_[file.version] = file.hash;
  std::vector<LearnerCore::Output> outputs;
  node.core->start(std::make_shared<const Weights>(weights_of(file.version, file.hash)), now_, outputs);
  for (LearnerCore::Output& output : outputs) apply_learner(process, output);
  if (process.alive) arm(process, node.core->next_timer());
}

void World::learner_message(Process& process, uint32_t from, Message&& message) {
  LearnerNode& node = *process.learner;
  if (from == kDriver) {
    if (message.run != kRun || message.epoch != process.life) return;  // ControlLink
    if (!process.welcomed) {
      if (const auto* welcome = message.as<wire::LearnerWelcomeT>()) start_learner(process, *welcome);
      return;
    }
    if (const auto* state = message.as<wire::AgentStateT>()) {
      book_agent_state(node, *state);
      if (bugged(Bug::credit_leak_on_agent_death) && !state->up) return;
    }
    return step_learner(process, LearnerCore::FromDriver{std::move(message)});
  }
  if (!node.core) return;
  Process& agent = processes_[from];
  if (const auto* parcel = message.as<wire::ParcelT>()) {
    const wire::ParcelT as_sent{*parcel};
    const bool ours = message.epoch == process.life;
    if (plant_in_parcel(process, agent, message)) return;
    if (ours) book_arrival(node, agent, as_sent);
  }
  step_learner(process, LearnerCore::FromAgent{std::to_string(from), std::move(message), ""});
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
      inner.epoch = process.life;
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
  const bool ours = message.epoch == process.life && agent.life == process.life;
  if (bugged(Bug::stale_epoch_accepted) && agent.life != process.life) {
    message.epoch = process.life;
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
    book_acknowledged(process, agent, grant.received);
    Message early = make_message(std::move(grant));
    early.run = kRun;
    early.epoch = process.life;
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
    if (!process.alive) return;
    apply_learner(process, output);
  }
}

void World::apply_learner(Process& process, LearnerCore::Output& output) {
  LearnerNode& node = *process.learner;
  if (auto* driver = std::get_if<LearnerCore::ToDriver>(&output)) {
    if (const auto* report = driver->message.as<wire::IterationReportT>()) {
      if (report->training_iteration > iteration_) {
        rule(report->training_iteration == iteration_ + 1, "I8", "iteration {} follows {}", report->training_iteration,
             iteration_);
        states_[++iteration_] = current_;
      }
      if (bugged(Bug::report_not_repeated) && report->training_iteration == node.reported) return;
      node.reported = report->training_iteration;
    }
    send(process.id, kDriver, driver->message);
  } else if (auto* to = std::get_if<LearnerCore::ToAgent>(&output)) {
    Process& agent = processes_[static_cast<uint32_t>(std::stoul(to->peer))];
    if (const auto* grant = to->message.as<wire::GrantT>()) {
      book_acknowledged(process, agent, grant->received);
      book_grant(node, agent, *grant);
    } else if (const auto* weights = to->message.as<wire::WeightsHeaderT>()) {
      rule(published_.contains(weights->version), "I4", "weights {} are published, nobody made them", weights->version);
    }
    send(process.id, agent.id, to->message);
  } else if (auto* fragment = std::get_if<LearnerCore::Assemble>(&output)) {
    assemble(process, fragment->fragment);
  } else if (const auto* consumed = std::get_if<LearnerCore::Consumed>(&output)) {
    book_consumed(node, *consumed);
  } else if (const auto* update = std::get_if<LearnerCore::Update>(&output)) {
    begin_update(process, update->weights_version);
  } else if (auto* write = std::get_if<LearnerCore::WriteCheckpoint>(&output)) {
    rule(!node.writing, "I7", "a second checkpoint is written while one is under way");
    rule(node.training.empty(), "I7", "a checkpoint is written during an update");
    if (write->with_batch) {
      uint64_t waiting = 0;
      for (const auto& truth : node.batch) {
        rule(truth.has_value(), "I7", "the batch that goes into the checkpoint is not complete");
        waiting = mix(waiting, truth->content);
      }
      states_.at(iteration_).waiting = waiting;
    }
    node.writing = std::move(*write);
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
  rule(!produced.done, "I1", "fragment {} of runner {}.{} is consumed twice", truth.seq, runner.slot,
       runner.incarnation);
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
  rule(!node.batch[place], "I3", "place {} is filled twice", place);
  node.batch[place] = truth;
  node.last_assembled = {truth.process, truth.seq};
}

/// I4, and the batch itself: what the undisturbed run would train on.
void World::begin_update(Process& process, uint64_t weights_version) {
  LearnerNode& node = *process.learner;
  rule(node.training.empty(), "I3", "an update begins during another");
  uint64_t oldest = UINT64_MAX;
  for (uint32_t place = 0; place < plan_.fragments; ++place) {
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
    rule(truth.version == want, "I4", "a fragment of weights {} is in the batch of iteration {}, want {}",
         truth.version, iteration_ + 1, want);
  }
  rule(oldest == weights_version, "I4", "the batch is said to be of weights {}, want {}", weights_version, oldest);
  node.training = std::exchange(node.batch, std::vector<std::optional<Truth>>(plan_.fragments));
  push(now_ + dice_.time(plan_.update / 2, 2 * plan_.update), Kind::updated, process.id);
}

void World::updated(Process& process) {
  LearnerNode& node = *process.learner;
  const bool lags = plan_.mode == SamplingMode::lag1 && iteration_ > plan_.start_iteration;
  const uint64_t sampled_with = plan_.by_slot() && lags ? states_.at(iteration_ - 1).hash : current_.hash;
  uint64_t batch = 0, want = 0;
  const bool compare = deterministic_ && plan_.by_slot();
  for (uint32_t place = 0; place < plan_.fragments; ++place) {
    const Truth& truth = *node.training[place];
    batch = mix(batch, truth.content);
    current_.episodes += truth.content % 3;
    if (compare) {
      uint64_t& environment = current_.environments[place % plan_.slots];
      want = mix(want, content_of(place % plan_.slots, environment, sampled_with));
      environment = mix(environment);
    }
  }
  node.training.clear();
  rule(!compare || batch == want, "determinism", "the batch of iteration {} is not the one of the undisturbed run",
       iteration_ + 1);
  if (compare) {
    result_.batches.resize(iteration_ - plan_.start_iteration);
    result_.batches.push_back(batch);
  } else {
    current_.environments.clear();
  }
  current_.env_steps += uint64_t{plan_.fragments} * kSteps * kEnvironments;
  ++current_.version;
  node.previous_hash = current_.hash;
  current_.hash = mix(current_.hash, batch);
  current_.waiting = 0;
  published_[current_.version] = current_.hash;
  last_update_ = now_;
  ++result_.updates;
  const auto weights = std::make_shared<const Weights>(weights_of(current_.version, current_.hash));
  if (bugged(Bug::lag1_publishes_early) && plan_.mode == SamplingMode::lag1)
    for (const uint32_t id : agents_) {
      Message early = weights_message(weights);
      early.run = kRun;
      early.epoch = process.life;
      send(process.id, id, early);
    }
  step_learner(process, LearnerCore::Updated{weights, {{"loss", 0.5}}});
  if (!process.alive) return;
  rule(node.core->training_iteration() == iteration_, "I8", "the learner is at iteration {}, want {}",
       node.core->training_iteration(), iteration_);
}

void World::written(Process& process) {
  LearnerNode& node = *process.learner;
  const LearnerCore::WriteCheckpoint request = *std::exchange(node.writing, std::nullopt);
  LearnerCore::CheckpointWritten written{request.sequence, {}, ""};
  const auto add = [&](const std::string& name, std::span<const std::byte> bytes) {
    written.files.push_back(write_checkpoint_file(files_, request.directory, name, bytes));
  };
  try {
    const LearnerFile file{request.training_iteration, request.num_env_steps_sampled_lifetime, current_.version,
                           bugged(Bug::other_iterations_weights) ? node.previous_hash : current_.hash};
    add("learner_group/state.bin", bytes_of(file));
    if (request.with_batch && !bugged(Bug::lag1_batch_not_saved)) {
      std::vector<WaitingFragment> batch;
      for (const auto& truth : node.batch) batch.push_back({truth->content, truth->version});
      add("learner_group/batch.bin", std::as_bytes(std::span(batch)));
    }
    for (const SavedRunner& runner : request.runners)
      add(fmt::format("env_runners/slot-{:04}", runner.slot), runner.state.view);
  } catch (const FileError& error) { written.error = fmt::format("{}: {}", error.path, std::strerror(error.error)); }
  step_learner(process, written);
}

}  // namespace myriad::simulation
