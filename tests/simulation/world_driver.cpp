// The driver's shell in the simulated world, and its disk.
#include <algorithm>
#include <cmath>
#include <csignal>
#include <cstring>

#include "tests/simulation/cluster.hpp"

namespace myriad::simulation {

using std::chrono::milliseconds;

void World::start_life() {
  ++life_;
  result_.lives = life_;
  restarting_ = false;
  const auto valid = valid_checkpoints(files_, kRoot);
  check_newest_checkpoint();
  saved_ = {};
  saved_.driver = {.iteration = plan_.start_iteration, .env_steps = plan_.start_steps, .episodes = 0};
  if (!valid.empty()) saved_ = load(valid.back());
  if (!saved_.complete) deterministic_ = false;
  iteration_ = reported_ = saved_.driver.iteration;
  published_.clear();
  agents_.clear();
  given_up_.clear();
  held_.clear();
  of_slot_.assign(plan_.slots, {});
  agent_starts_.assign(plan_.agents, 0);
  driver_armed_ = Time::max();
  learners_.clear();
  group_ = {};
  open_ = {};
  marks_.clear();

  DriverCore::Options options;
  options.run = kRun + life_;
  options.next_run = kRun + life_ + 1;
  options.previous_run = life_ > 1 ? kRun + life_ - 1 : 0;
  options.config_toml = "seed = 1";
  options.resume_directory = saved_.directory;
  options.training_iteration = saved_.driver.iteration;
  options.num_env_steps_sampled_lifetime = saved_.driver.env_steps;
  options.num_episodes_lifetime = saved_.driver.episodes;
  options.stop.training_iteration = static_cast<int64_t>(plan_.stop_iteration);
  options.stop.num_env_steps_sampled_lifetime = static_cast<int64_t>(plan_.stop_steps);
  options.checkpoint_frequency = plan_.checkpoint_frequency;
  options.smoothing_episodes = 4;
  options.evaluations = {.interval = plan_.evaluation_interval,
                         .at_end = plan_.evaluation_at_end,
                         .parallel = plan_.evaluation_parallel,
                         .timeout = std::chrono::seconds(1),
                         .scores_training = plan_.scores_training};
  if (saved_.driver.has_best != 0)
    options.evaluations.best =
        Evaluations::Best{saved_.driver.best_iteration, saved_.driver.best_score, plan_.scores_training};
  evaluating_.reset();
  options.fleet.num_slots = plan_.slots;
  options.fleet.spawns = !plan_.outsiders;
  options.fleet.weights_fanout = plan_.weights_fanout;
  options.fleet.runner_states = saved_.states;
  options.fleet.agents.num_slots = plan_.agents;
  options.fleet.agents.max_failures_in_a_row = plan_.max_crashes;
  options.learners.num_learners = plan_.learners;
  options.learners.fragments_per_batch = plan_.fragments;
  options.learners.max_failures_in_a_row = 1000;
  options.learners.shares_by_speed = !plan_.by_slot();
  options.learners.endpoint = [](uint32_t, uint32_t) { return "learner"; };
  options.seed = seed_;
  driver_ = std::make_unique<DriverCore>(std::move(options));
  writer_ = std::make_unique<CheckpointWriter>(files_, kRoot, plan_.num_to_keep);
  note(fmt::format("life {} starts at iteration {}", life_, iteration_));
  check_kept();
  step_driver(DriverCore::Start{});
  if (plan_.outsiders)
    for (uint32_t i = 0; i < plan_.agents; ++i)
      push(now_ + dice_.log_time(milliseconds(1), milliseconds(500)), Kind::newcomer, static_cast<uint32_t>(life_));
}

void World::step_driver(const DriverCore::Input& input) {
  if (finished_) return;
  std::vector<DriverCore::Output> outputs;
  driver_->step(input, now_, outputs);
  for (DriverCore::Output& output : outputs) apply_driver(output);
  if (const LearnerGroup& group = driver_->learners(); group.formed() && !driver_->finishing()) {
    bool any = false;
    for (const uint32_t id : learners_) {
      processes_[id].learner->known = processes_[id].learner->shard < group.size();
      any |= processes_[id].learner->known && processes_[id].alive;
    }
    learners_lost_ |= !any;  // those that are not in it have the state no more
  }
  const Time next = std::max(driver_->next_timer(), now_);
  if (finished_ || next == Time::max() || next >= driver_armed_) return;
  driver_armed_ = next;
  push(next, Kind::timer, kDriver, static_cast<uint32_t>(life_));
}

void World::apply_driver(DriverCore::Output& output) {
  if (const auto* learner = std::get_if<DriverCore::SpawnLearner>(&output)) {
    Process& process = add_process();
    process.learner = std::make_unique<LearnerNode>();
    process.learner->shard = learner->shard;
    process.learner->incarnation = learner->incarnation;
    learners_.push_back(process.id);
    arm(process, now_ + dice_.time(milliseconds(1), milliseconds(20)));
    const auto fate = [&](double rate, Kind kind) {
      if (!faulty() || rate <= 0) return;
      const Time at = now_ + dice_.after(rate);
      if (at < plan_.faults_end) push(at, kind, process.id);
    };
    fate(plan_.learner_kills_per_s, Kind::kill);
    fate(plan_.learner_pauses_per_s, Kind::pause);
    fate(plan_.learner_pauses_per_s / 8, Kind::hang);
  } else if (const auto* stop = std::get_if<DriverCore::KillLearner>(&output)) {
    for (const uint32_t id : std::vector(learners_))
      if (const LearnerNode& node = *processes_[id].learner;
          node.shard == stop->shard && node.incarnation == stop->incarnation && !bugged(Bug::hung_learner_not_killed))
        kill(processes_[id], "SIGKILL");
  } else if (const auto* agent = std::get_if<DriverCore::SpawnAgent>(&output)) {
    const uint32_t starts = ++agent_starts_[agent->agent];
    // One that drained is started again and is no failure.
    rule(starts <= plan_.max_crashes + result_.drains, "I10", "agent {} was started {} times without a fragment",
         agent->agent, starts);
    if (faulty() && dice_.chance(plan_.spawn_failure)) {
      deterministic_ = false;
      return step_driver(DriverCore::SpawnFailed{agent->agent, 0, 0, "no more processes"});
    }
    spawn_agent(agent->agent, agent->incarnation);
  } else if (const auto* stop = std::get_if<DriverCore::KillAgent>(&output)) {
    for (const uint32_t id : agents_) {
      Process& process = processes_[id];
      if (!process.alive || process.agent->place != stop->agent || process.agent->incarnation != stop->incarnation ||
          process.agent->outside)
        continue;
      kill(process, "SIGKILL");
      break;
    }
  } else if (std::holds_alternative<DriverCore::KillAll>(output)) {
    for (const uint32_t id : std::vector(learners_)) kill(processes_[id], "SIGKILL");
    for (const uint32_t id : std::vector(agents_))
      if (processes_[id].alive && !processes_[id].agent->outside) kill(processes_[id], "SIGKILL");
  } else if (const auto* message = std::get_if<DriverCore::Send>(&output)) {
    const auto to = static_cast<uint32_t>(std::stoul(message->peer));
    if (const auto* order = message->message.as<wire::GroupOrderT>(); order != nullptr && driver_->cutting())
      driver_cut_ = true;
    if (to != kOperator) send(kDriver, to, message->message);
  } else if (auto* request = std::get_if<DriverCore::Save>(&output)) {
    save(request->input);
  } else if (const auto* report = std::get_if<DriverCore::Report>(&output)) {
    const uint64_t iteration = report->report.training_iteration;
    rule(iteration == reported_ + 1, "I8", "iteration {} reported after {}", iteration, reported_);
    reported_ = iteration;
    const State& state = states_.at(iteration);
    rule(driver_->env_steps() == state.env_steps, "I8", "iteration {} has {} env steps, want {}", iteration,
         driver_->env_steps(), state.env_steps);
    // What a shard that died had to report died with it.
    const uint64_t episodes = driver_->episodes_lifetime();
    const bool may_be_lost = episodes_lost_ || driver_->learners().epoch() > 1;
    episodes_lost_ |= episodes < state.episodes;
    rule(episodes == state.episodes || (may_be_lost && episodes < state.episodes), "I8",
         "iteration {} has {} episodes, want {}", iteration, episodes, state.episodes);
    rule(report->report.weights_version == state.version, "I4", "iteration {} reported with weights {}, want {}",
         iteration, report->report.weights_version, state.version);
  } else if (const auto* event = std::get_if<DriverCore::Event>(&output)) {
    note(fmt::format("{}: {}", event->kind, event->text));
    if (event->kind == "agent-lost" || event->kind == "agent-down") deterministic_ = false;
    if (event->kind == "group-formed") ++result_.epochs;
    if (event->kind == "shares") ++result_.shares;
    unsigned place = 0;
    if (event->kind == "agent-quarantined" && std::sscanf(event->text.c_str(), "host agent %u", &place) == 1)
      given_up_.insert(place);
  } else if (const auto* evaluate = std::get_if<DriverCore::Evaluate>(&output)) {
    begin_evaluation(*evaluate);
  } else if (std::holds_alternative<DriverCore::KillEvaluation>(output)) {
    rule(evaluating_.has_value(), "I11", "an evaluation is killed, and none runs");
    evaluating_.reset();
  } else if (const auto* best = std::get_if<DriverCore::NewBest>(&output)) {
    rule(checkpoint_violation(files_, best->directory).empty(), "I11", "the best is {}, which is no checkpoint",
         best->directory);
  } else {
    finished_ = std::get<DriverCore::Finished>(output);
    rule(!evaluating_ || finished_->exit != Exit::ok, "I11", "the run is over, and iteration {} is still evaluated",
         evaluating_ ? evaluating_->training_iteration : 0);
    note(fmt::format("finished: {} [{}]", finished_->reason, finished_->error_code));
  }
}

void World::save(CheckpointWriter::Input& input) {
  if (auto* commit = std::get_if<CheckpointWriter::Commit>(&input)) {
    if (bugged(Bug::best_pruned)) commit->keep.clear();
    DriverFile file{driver_->training_iteration(), driver_->env_steps(), driver_->episodes_lifetime()};
    if (const auto& best = driver_->evaluations().best())
      file.has_best = 1, file.best_iteration = best->training_iteration, file.best_score = best->score;
    commit->extra["driver.bin"] = std::string(reinterpret_cast<const char*>(&file), sizeof file);
  }
  const auto result = writer_->step(input, now_);
  if (const auto* committed = std::get_if<CheckpointWriter::Committed>(&result)) {
    ++result_.checkpoints;
    if (bugged(Bug::newest_pruned) && committed->training_iteration % 2 == 1) files_.remove(committed->directory);
    rule(!committed_ || committed->training_iteration >= *committed_, "I7", "checkpoint {} committed after {}",
         committed->training_iteration, committed_.value_or(0));
    committed_ = committed->training_iteration;
    check_newest_checkpoint();
    const auto valid = valid_checkpoints(files_, kRoot);
    const size_t most = plan_.num_to_keep + driver_->evaluations().kept().size();
    rule(valid.size() <= most, "I7", "{} checkpoints kept, want {}", valid.size(), most);
    check_kept();
  }
  step_driver(DriverCore::Saved{result});
}

void World::begin_evaluation(const DriverCore::Evaluate& evaluate) {
  rule(!evaluating_, "I11", "iteration {} is evaluated beside another one", evaluate.training_iteration);
  rule(load(evaluate.directory).driver.iteration == evaluate.training_iteration, "I11",
       "{} is evaluated as iteration {}", evaluate.directory, evaluate.training_iteration);
  evaluating_ = evaluate;
  push(now_ + evaluation_.time(milliseconds(1), plan_.evaluation), Kind::evaluated, static_cast<uint32_t>(life_),
       ++evaluations_);
}

void World::evaluated(uint32_t number) {
  if (number != evaluations_ || !evaluating_) return;  // it was killed
  const DriverCore::Evaluate ended = *std::exchange(evaluating_, std::nullopt);
  rule(checkpoint_violation(files_, ended.directory).empty(), "I7", "{} is gone before its evaluation ended",
       ended.directory);
  const bool fails = evaluation_.chance(plan_.evaluation_failure);
  note(fmt::format("iteration {} was evaluated", ended.training_iteration));
  step_driver(
      DriverCore::Evaluated{ended.training_iteration, std::floor(10 * evaluation_.uniform()), fails ? "SIGSEGV" : ""});
}

/// I7: the best checkpoint, and the one that is evaluated, are on the disk.
void World::check_kept() {
  for (const uint64_t iteration : driver_->evaluations().kept())
    rule(checkpoint_violation(files_, fmt::format("{}/{:09}", kRoot, iteration)).empty(), "I7",
         "checkpoint {} was to be kept", iteration);
}

World::Saved World::load(const std::string& directory) {
  Saved saved;
  saved.directory = directory;
  const auto read = [&](const char* name, auto& into) {
    const auto bytes = files_.read(directory + "/" + name);
    rule(bytes.size() == sizeof into, "I7", "{}/{} has {} bytes", directory, name, bytes.size());
    std::memcpy(&into, bytes.data(), sizeof into);
  };
  read("learner_group/state.bin", saved.learner);
  read("driver.bin", saved.driver);
  for (const std::string& name : files_.list(directory + "/learner_group")) {
    unsigned first = 0;
    if (std::sscanf(name.c_str(), "batch-%u", &first) != 1) continue;
    const auto bytes = files_.read(directory + "/learner_group/" + name);
    for (uint32_t i = 0; i < bytes.size() / sizeof(WaitingFragment); ++i)
      std::memcpy(&saved.batch[first + i], bytes.data() + i * sizeof(WaitingFragment), sizeof(WaitingFragment));
  }
  const auto names = files_.list(directory + "/env_runners");
  const std::set<std::string> there(names.begin(), names.end());
  for (uint32_t slot = 0; slot < plan_.slots; ++slot) {
    const std::string name = fmt::format("slot-{:04}", slot);
    saved.states.push_back(there.contains(name) ? SharedBytes::of(files_.read(directory + "/env_runners/" + name))
                                                : SharedBytes{});
    saved.complete &= there.contains(name);
  }
  return saved;
}

/// I7: the newest checkpoint that verifies is not older than the last one committed, and holds exactly its iteration's
/// state.
void World::check_newest_checkpoint() {
  std::vector<std::string> broken;
  const auto valid = valid_checkpoints(files_, kRoot, &broken);
  if (!committed_ && valid.empty()) return;
  rule(!valid.empty(), "I7", "checkpoint {} was committed and none verifies: {}", committed_.value_or(0),
       broken.empty() ? "none there" : broken[0]);
  const Saved saved = load(valid.back());
  rule(!committed_ || saved.driver.iteration >= *committed_, "I7",
       "the newest checkpoint is of iteration {}, {} was committed", saved.driver.iteration, committed_.value_or(0));
  const State& state = states_.at(saved.driver.iteration);
  rule(saved.learner.iteration == saved.driver.iteration, "I7",
       "the learner's part is of iteration {}, the driver's of {}", saved.learner.iteration, saved.driver.iteration);
  rule(saved.learner.version == state.version && saved.learner.hash == state.hash, "I7",
       "checkpoint {} holds other weights than its iteration's", saved.driver.iteration);
  rule(saved.learner.env_steps == state.env_steps && saved.driver.env_steps == state.env_steps, "I8",
       "checkpoint {} counts {} / {} env steps, want {}", saved.driver.iteration, saved.learner.env_steps,
       saved.driver.env_steps, state.env_steps);
  rule(saved.driver.episodes == state.episodes || (episodes_lost_ && saved.driver.episodes < state.episodes), "I8",
       "checkpoint {} counts {} episodes, want {}", saved.driver.iteration, saved.driver.episodes, state.episodes);
  if (plan_.mode != SamplingMode::lag1 || (driver_cut_ && saved.batch.empty())) return;
  rule(saved.batch.size() == plan_.fragments, "I7", "checkpoint {} has {} fragments of the batch that waits, want {}",
       saved.driver.iteration, saved.batch.size(), plan_.fragments);
  for (const auto& [place, fragment] : saved.batch) {
    const auto it = state.waiting.find(place);
    rule(it != state.waiting.end() && it->second == fragment.content, "I7",
         "checkpoint {} holds another fragment at place {} than the one that waited", saved.driver.iteration, place);
  }
}

}  // namespace myriad::simulation
