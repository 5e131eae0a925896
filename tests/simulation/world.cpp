// The clock, the network and the kernel of the simulated world, and when a schedule is over.
#include "tests/simulation/world.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>

#include "rl/wire/process_error.hpp"
#include "tests/simulation/cluster.hpp"

namespace myriad::simulation {

using std::chrono::microseconds;
using std::chrono::milliseconds;

namespace {
constexpr uint64_t kMaxEvents = 600'000, kMaxEventsOfSlot = 300;
constexpr Time kHelloRetry = milliseconds(200);  // as ControlLink::introduce
}  // namespace

World::World(const Schedule& schedule)
    : seed_(schedule.seed),
      bug_(schedule.bug),
      verbose_(schedule.verbose),
      plan_(draw_plan(schedule.seed, schedule.allowed, schedule.agents, schedule.learners)),
      dice_(mix(schedule.seed, 2)),
      network_(mix(schedule.seed, 3)),
      connections_(mix(schedule.seed, 4)),
      evaluation_(mix(schedule.seed, 11)),
      weights_layout_{.num_values = kValues, .num_filter = kFilter, .num_published = kPublished} {
  layout_ = std::make_shared<FragmentLayout>(kSteps, kEnvironments);
  layout_->add("truth", Rows::environment, DType::i64, {4});
  fragment_ = std::make_shared<Fragment>(layout_);
}

// --- network ---

uint32_t World::keep(Letter letter) {
  if (free_letters_.empty()) {
    letters_.push_back(std::move(letter));
    return static_cast<uint32_t>(letters_.size() - 1);
  }
  const uint32_t index = free_letters_.back();
  free_letters_.pop_back();
  letters_[index] = std::move(letter);
  return index;
}

void World::send(uint32_t from, uint32_t to, const Message& message) { send_frames(from, to, encode(message)); }

void World::send_frames(uint32_t from, uint32_t to, const Frames& frames) {
  if (faulty() && network_.chance(plan_.loss)) return;
  uint64_t copies = 1 + (faulty() && network_.chance(plan_.duplicates) ? 1 : 0);
  for (; copies > 0; --copies) {
    Time latency = microseconds(200);
    if (faulty() && plan_.jitter > Time::zero()) {
      latency += network_.time(Time::zero(), plan_.jitter);
      if (network_.chance(plan_.slow)) latency += network_.log_time(milliseconds(100), std::chrono::seconds(5));
    }
    Frames sent = frames;
    if (faulty() && network_.chance(plan_.flips)) {
      SharedBytes& frame = sent[network_.below(sent.size())];
      std::vector<std::byte> bytes(frame.view.begin(), frame.view.end());
      if (!bytes.empty() && network_.chance(0.8))
        bytes[network_.below(bytes.size())] ^= static_cast<std::byte>(1u << network_.below(8));
      else
        bytes.resize(network_.below(bytes.size() + 1));
      frame = SharedBytes::of(std::move(bytes));
    }
    Letter letter;
    letter.from = from;
    letter.frames = std::move(sent);
    push(now_ + latency, Kind::deliver, to, keep(std::move(letter)));
  }
}

void World::to_driver(const Process& process, Message message) {
  message.run = run_of(process);
  message.epoch = process.learner && process.learner->member ? process.learner->member->epoch()
                  : process.agent && process.agent->core     ? process.agent->core->epoch()
                                                             : 0;
  send(process.id, kDriver, message);
}

/// As ControlLink and Router: an id is taken until the connection that has it ends, and whoever else comes with it in
/// the meantime is never let in.
bool World::let_in(Process& process) {
  uint32_t& holder = connected_.try_emplace(routing_id(process), process.id).first->second;
  if (holder != process.id && !process.shut_out) {
    const Process& other = processes_[holder];
    process.shut_out = other.alive || now_ < other.connected_until;
    if (process.shut_out)
      note(fmt::format("p{} is not let in: p{} has its id", process.id, holder));
    else
      holder = process.id;
  }
  return !process.shut_out;
}

std::string World::routing_id(const Process& process) const {
  const std::string run = bugged(Bug::ids_of_the_last_run) ? "" : fmt::format("-{}", run_of(process));
  if (process.learner) return fmt::format("learner-{}.{}{}", process.learner->shard, process.learner->incarnation, run);
  if (process.agent->outside) return fmt::format("join-{}{}", process.id, run);
  return fmt::format("agent-{}.{}{}", process.agent->place, process.agent->incarnation, run);
}

void World::deliver(uint32_t to, const Letter& letter) {
  if (to == kDriver && (driver_ == nullptr || !let_in(processes_[letter.from]))) return;
  auto decoded = decode(letter.frames);
  if (const auto* malformed = std::get_if<Malformed>(&decoded)) {
    rule(plan_.has(Fault::bit_flips), "wire", "an intact message was refused: {}", name_of(*malformed));
    if (to != kDriver && processes_[to].learner && processes_[to].learner->core)
      processes_[to].learner->core->count_malformed(*malformed);
    return;
  }
  Message& message = std::get<Message>(decoded);
  if (verbose_)
    note(fmt::format("  {} -> {}: {}", letter.from == kDriver ? "driver" : fmt::format("p{}", letter.from),
                     to == kDriver ? "driver" : fmt::format("p{}", to), wire::EnumNameBody(message.body.type)));
  result_.trace = mix(result_.trace, static_cast<uint64_t>(message.body.type));
  if (bugged(Bug::stale_epoch_accepted) && to != kDriver) message.run = kRun + life_;
  if (const auto* status = message.as<wire::AgentStatusT>();
      to == kDriver && status != nullptr && status->fragments > 0)
    agent_starts_.at(status->agent) = 0;
  if (to == kDriver)
    step_driver(DriverCore::Received{std::to_string(letter.from), std::move(message)});
  else if (processes_[to].learner)
    learner_message(processes_[to], letter.from, std::move(message));
  else
    agent_message(processes_[to], letter.from, std::move(message));
}

/// A stream socket loses and reorders nothing.
void World::stream(Process& from, Process& to, Letter letter) {
  Runner& runner = from.runner ? *from.runner : *to.runner;
  Time& last = from.runner ? runner.from_it : runner.to_it;
  last = std::max(last, now_ + dice_.time(microseconds(50), milliseconds(4)));
  letter.from = from.id;
  push(last, Kind::stream, to.id, keep(std::move(letter)));
}

// --- processes ---

Process& World::add_process() {
  Process& process = processes_.emplace_back();
  process.id = static_cast<uint32_t>(processes_.size() - 1);
  process.life = life_;
  process.born = now_;
  return process;
}

void World::arm(Process& process, Time at) {
  at = std::max(at, now_);
  if (!process.alive || at >= process.armed) return;
  process.armed = at;
  push(at, Kind::timer, process.id);
}

void World::kill(Process& process, const char* cause) {
  if (!process.alive) return;
  const std::string name =
      process.learner ? fmt::format("learner {}.{}", process.learner->shard, process.learner->incarnation)
      : process.agent ? fmt::format("agent {}.{}", process.agent->place, process.agent->incarnation)
                      : fmt::format("runner {}.{}", process.runner->slot, process.runner->incarnation);
  note(fmt::format("p{} ({}) ends: {}", process.id, name, cause));
  process.deferred.clear();
  if (!process.learner) deterministic_ = false;
  const Time heard = now_ + dice_.time(milliseconds(1), milliseconds(10));
  process.connected_until = now_ + connections_.log_time(milliseconds(1), std::chrono::seconds(2));
  if (process.learner) {
    process.alive = false;
    ++result_.learner_deaths;
    if (driver_ != nullptr && !finished_ && std::ranges::none_of(learners_, [this](uint32_t id) {
          return processes_[id].alive && processes_[id].learner->known;
        }))
      learners_lost_ = true;
    push(heard, Kind::learner_exited, process.id);
  } else if (process.agent) {
    process.alive = false;
    ++result_.agent_deaths;
    if (process.agent->core)
      for (const uint32_t id : process.agent->runners)
        if (id != kNobody && processes_[id].alive) kill(processes_[id], "its agent ended");
    process.agent->runners.clear();
    push(heard, Kind::agent_exited, process.id);
  } else {
    Runner& runner = *process.runner;
    Process& agent = processes_[runner.agent];
    if (plan_.has(Fault::usage_error) && faulty() && runner.welcomed && agent.alive && driver_ != nullptr &&
        !driver_->finishing()) {
      // A mistake of the user's, seen by one environment only.
      wire::ProcessErrorT error = process_error(Error(Exit::usage, "out-of-range", "env_config.size"));
      error.slot = runner.slot;
      runner_says(process, make_message(std::move(error)));
      usage_error_ = true;
    }
    process.alive = false;
    ++result_.runner_deaths;
    if (agent.alive)
      push(bugged(Bug::exit_before_socket) ? now_ : std::max(heard, runner.from_it), Kind::runner_exited, runner.agent,
           process.id);
  }
}

void World::crash() {
  note("the machine crashes");
  ++result_.crashes;
  connected_.clear();
  end_life();
  const double kept = std::array{0.0, 0.5, 1.0}[dice_.below(3)];
  files_.crash([&](const SimFiles::Operation&) { return dice_.chance(kept); });
}

/// The next one goes on from the newest checkpoint.
void World::end_life() {
  for (Process& process : processes_) {
    process.alive = false;
    process.deferred.clear();
  }
  close_books(life_);
  driver_.reset();
  writer_.reset();
  learners_.clear();
  restarting_ = true;
  push(now_ + dice_.log_time(milliseconds(1), std::chrono::seconds(1)), Kind::restart);
}

void World::timer(Process& process) {
  process.armed = Time::max();
  if (!process.welcomed) {
    if (now_ - process.born > std::chrono::seconds(60)) return kill(process, "the driver did not answer for 60 s");
    if (process.learner)
      learner_hello(process);
    else
      agent_hello(process);
    arm(process, now_ + kHelloRetry);
  } else if (process.learner) {
    LearnerNode& node = *process.learner;
    if (node.core) step_learner(process, LearnerCore::Tick{});
    if (process.alive && now_ >= node.member->next_timer()) {
      if (node.member->stage() == wire::LearnerStage::joining && !bugged(Bug::rendezvous_not_repeated))
        say_found(process);
      step_member(process, GroupMember::Tick{});
    }
    if (!process.alive) return;
    Time next = node.member->next_timer();
    if (node.core) next = std::min(next, node.core->next_timer());
    rule(next > now_, "I10", "learner {} spins", node.shard);
    arm(process, next);
  } else if (process.agent) {
    agent_wake(process);
  }
}

// --- the loop ---

/// Whether nothing is left to wait for: every slot runs or is given up, and training went on after the last fault.
void World::check_progress(bool last) {
  if (finished_ || restarting_) {
    if (last && restarting_) done_ = true;
    return;
  }
  if (now_ < plan_.faults_end || (!last && now_ < next_check_)) return;
  next_check_ = now_ + milliseconds(10);
  const bool ending = driver_->finishing() || interrupted_;
  std::string open;
  // async: a runner that waits is served after all that have waited longer, and updates set the pace.
  const bool all_had_a_turn = (result_.updates - updates_before_) * plan_.fragments >= plan_.slots;
  bool waits_its_turn = false;
  std::set<uint32_t> held = given_up_;
  for (const uint32_t id : agents_) {
    const Process& process = processes_[id];
    if (!process.alive) continue;
    const AgentNode& agent = *process.agent;
    if (!agent.core || agent.draining) {
      open = fmt::format("agent {} starts or drains", agent.place);
      continue;
    }
    held.insert(agent.place);
    for (uint32_t i = 0; i < agent.runners.size() && open.empty(); ++i) {
      const uint32_t slot = agent.welcome.first_slot + i;
      if (agent.core->quarantined(slot)) continue;
      const Process* runner = agent.runners[i] == kNobody ? nullptr : &processes_[agent.runners[i]];
      const bool hangs = runner != nullptr && runner->hung && agent.core->sampling().contains(slot);  // or nobody asks
      if (runner == nullptr || !runner->alive || hangs || !runner->runner->up)
        open = fmt::format("slot {} does not run", slot);
      else if (!plan_.by_slot() && !runner->runner->produced_lately) {
        waits_its_turn = !all_had_a_turn;
        open = fmt::format("runner {} produces nothing", slot);
      }
    }
  }
  if (held.size() < plan_.agents && (!plan_.outsiders || plan_.replaced) && open.empty())
    open = fmt::format("{} of {} places are held", held.size(), plan_.agents);
  if (last_update_ <= plan_.faults_end && open.empty())
    open = fmt::format("the last update was at {:.2f} s", to_seconds(last_update_));
  if (!ending && open.empty()) {
    done_ = true;
    return;
  }
  if (last && waits_its_turn && !ending) {
    done_ = true;
    return;
  }
  rule(!last, "I9", "{:.0f} s after the last fault: {}", to_seconds(kLiveness),
       ending ? "the run does not end" : open.c_str());
}

void World::dispatch(const Event& event) {
  if (event.kind != Kind::deliver && event.kind != Kind::stream) return handle(event);
  // A letter's place is free when it was read, or when nobody will.
  uint32_t to = event.process;
  if (to < processes_.size() && processes_[to].learner && processes_[to].life != life_)  // where one listens again
    for (const uint32_t id : learners_)
      if (processes_[id].alive && processes_[id].learner->shard == processes_[event.process].learner->shard) to = id;
  Process* process = to < processes_.size() ? &processes_[to] : nullptr;
  const bool readable = to == kDriver || (process != nullptr && process->alive);
  if (readable && process != nullptr &&
      (process->paused || process->hung || process->loading || (process->runner && process->runner->sampling))) {
    Event later = event;
    later.process = to;
    process->deferred.push_back(later);
    return;
  }
  const Letter letter = std::move(letters_[event.extra]);
  free_letters_.push_back(event.extra);
  if (!readable) return;
  if (event.kind == Kind::deliver)
    deliver(to, letter);
  else if (process->runner)
    runner_message(*process, letter);
  else
    from_runner(*process, letter);
}

void World::handle(const Event& event) {
  Process* process = event.process < processes_.size() ? &processes_[event.process] : nullptr;
  const bool alive = process != nullptr && process->alive;
  const bool stands = alive && (process->paused || process->hung || process->loading);
  switch (event.kind) {
    case Kind::deliver:
    case Kind::stream:
      break;
    case Kind::timer:
      if (event.process == kDriver) {
        if (driver_ == nullptr || event.extra != life_ || driver_armed_ != event.at || finished_) return;
        driver_armed_ = Time::max();
        step_driver(DriverCore::Tick{});
        rule(finished_ || driver_->next_timer() > now_, "I10", "the driver spins");
      } else if (alive && process->armed == event.at) {
        process->armed = Time::max();
        if (!stands) timer(*process);  // the end of a pause arms it again
      }
      break;
    case Kind::started:
      if (!alive) return;
      if (process->runner && processes_[process->runner->agent].paused)
        push(processes_[process->runner->agent].resumes_at + milliseconds(1), Kind::started, event.process);
      else if (process->runner)
        runner_started(*process);
      else
        agent_loaded(*process);
      break;
    case Kind::sampled:
      if (!alive || process->hung) return;
      if (process->paused)
        process->deferred.push_back(event);
      else
        finish_sample(*process);
      break;
    case Kind::joins:
    case Kind::joined:
    case Kind::prepared:
    case Kind::committed:
    case Kind::aborted:
    case Kind::written:
      if (!alive) return;
      if (stands) {
        process->deferred.push_back(event);
        return;
      }
      if (event.kind == Kind::written) return written(*process);
      if (event.extra != process->learner->job) return;  // it was aborted
      if (event.kind == Kind::joins) joins(*process);
      if (event.kind == Kind::joined) joined(*process);
      if (event.kind == Kind::prepared) prepared(*process);
      if (event.kind == Kind::committed) committed(*process);
      if (event.kind == Kind::aborted) aborted(*process);
      break;
    case Kind::spawn_failed:
    case Kind::runner_exited:
      if (!alive) return;
      if (stands)
        process->deferred.push_back(event);
      else if (event.kind == Kind::runner_exited)
        runner_exited(processes_[event.extra]);
      else
        step_agent(*process, HostAgent::SpawnFailed{event.extra, process->agent->core->incarnation(event.extra),
                                                    "cannot start a process"});
      break;
    case Kind::agent_exited:
      if (driver_ == nullptr || process->life != life_ || finished_) return;
      if (!process->agent->outside)
        step_driver(
            DriverCore::AgentExited{process->agent->place, process->agent->incarnation, "killed", process->clean});
      else if (plan_.replaced || !process->clean || held_.size() < plan_.agents ||  // the learner waits for each
               std::none_of(agents_.begin(), agents_.end(), [&](uint32_t id) { return processes_[id].alive; }))
        push(now_ + dice_.log_time(milliseconds(50), std::chrono::seconds(2)), Kind::newcomer,
             static_cast<uint32_t>(life_));
      break;
    case Kind::newcomer:
      if (driver_ != nullptr && event.process == life_ && !finished_) spawn_agent(UINT32_MAX, 0);
      break;
    case Kind::learner_exited:
      if (driver_ != nullptr && process->life == life_ && !finished_)
        step_driver(DriverCore::LearnerExited{process->learner->shard, process->learner->incarnation, "killed"});
      break;
    case Kind::kill:
      if (alive) kill(*process, "SIGSEGV");
      break;
    case Kind::hang:
      if (!alive || (process->learner && !process->learner->veteran)) return;
      process->hung = true;
      note(fmt::format("p{} hangs", process->id));
      break;
    case Kind::pause:
      if (!alive || process->paused || process->hung) return;
      process->paused = true;
      process->resumes_at =
          std::min(now_ + dice_.log_time(milliseconds(1), std::chrono::seconds(60)), plan_.faults_end);
      note(fmt::format("p{} is paused until {:.3f}", process->id, to_seconds(process->resumes_at)));
      push(process->resumes_at, Kind::resume, event.process);
      break;
    case Kind::resume: {
      if (!alive) return;
      process->paused = false;
      if (process->hung) return;
      auto deferred = std::exchange(process->deferred, {});
      for (const Event& later : deferred)
        if (process->alive) dispatch(later);
      if (process->alive && !process->runner && !process->loading) timer(*process);
      break;
    }
    case Kind::drain:
      if (!alive || !process->welcomed) return;
      note(fmt::format("agent {} is told to leave", process->agent->place));
      process->agent->term_pending = true;
      ++result_.drains;
      if (!stands && process->agent->core) agent_wake(*process);
      break;
    case Kind::faults_end:
      updates_before_ = result_.updates;
      break;
    case Kind::interrupt:
      if (driver_ == nullptr || finished_) return;
      interrupted_ = true;
      ++interrupts_;
      note("Ctrl-C");
      step_driver(DriverCore::Interrupted{});
      break;
    case Kind::resize: {
      if (driver_ == nullptr || finished_) return;
      wire::ScaleRequestT request;
      request.learners = 1 + dice_.below32(std::min(plan_.agents, plan_.fragments));
      const uint32_t learners = request.learners;
      note(fmt::format("scale to {} learners", learners));
      Message message = make_message(std::move(request));
      message.run = kRun + life_;
      deterministic_ = false;
      ++result_.resizes;
      if (bugged(Bug::leavers_told_at_once))
        for (const uint32_t id : learners_)
          if (Process& process = processes_[id]; process.alive && process.learner->shard >= learners) {
            Message stop = make_message(wire::StopT{});
            stop.run = run_of(process);
            send(kDriver, id, stop);
          }
      step_driver(DriverCore::Received{std::to_string(kOperator), std::move(message)});
      break;
    }
    case Kind::crash:
      if (driver_ == nullptr || finished_ || interrupted_ || learners_lost_) return;
      crash();
      break;
    case Kind::restart:
      start_life();
      break;
    case Kind::evaluated:
      if (driver_ != nullptr && event.process == life_) evaluated(event.extra);
      break;
    case Kind::deadline:
      check_progress(true);
      break;
  }
}

void World::check_finished() {
  result_.finished = finished_->reason;
  rule(!finished_->reason.empty(), "I9", "the run finished without a reason");
  // I11: what the learners have is saved, whatever ends the run.
  const bool could_save = !learners_lost_ && !finished_->goes_on && interrupts_ < 2 && !plan_.has(Fault::disk) &&
                          !plan_.has(Fault::learner_kills) && !plan_.has(Fault::learner_pauses);
  rule(!could_save || driver_->training_iteration() == saved_.driver.iteration ||
           (driver_->newest_is_saved() && current_.version == states_.at(driver_->training_iteration()).version),
       "I11", "the run ended ({}), and iteration {} with weights {} is in no checkpoint", finished_->reason,
       driver_->training_iteration(), current_.version);
  if (finished_->exit == Exit::ok) {
    rule(!interrupted_, "I9", "an interrupted run says it is done");
    rule(plan_.stop_iteration == 0 ||
             driver_->training_iteration() == std::max(plan_.stop_iteration, plan_.start_iteration),
         "I9", "stopped at iteration {}, want {}", driver_->training_iteration(), plan_.stop_iteration);
    const uint64_t per_iteration = uint64_t{plan_.fragments} * kSteps * kEnvironments;
    rule(plan_.stop_steps == 0 || (driver_->env_steps() >= plan_.stop_steps &&
                                   (!plan_.by_slot() || driver_->env_steps() < plan_.stop_steps + per_iteration)),
         "I9", "stopped at {} env steps, want {}", driver_->env_steps(), plan_.stop_steps);
  } else {
    const bool nobody_left = finished_->error_code == "runners-lost" || finished_->error_code == "agents-lost" ||
                             finished_->error_code == "spawn-failed";
    rule(!learners_lost_ || interrupted_ || nobody_left || finished_->exit != Exit::internal ||
             finished_->error_code == "learner-lost" || finished_->error_code == "diverged",
         "I9", "lost learners end the run with {}", finished_->error_code);
    const bool diverged =
        finished_->error_code == "diverged" && (current_.version + 1 == plan_.failing_update || plan_.lone_failure > 0);
    rule(interrupted_ || learners_lost_ || (usage_error_ && finished_->exit == Exit::usage) || nobody_left || diverged,
         "I9", "the run ended for nothing: {} [{}]", finished_->reason, finished_->error_code);
    if (!nobody_left) return;
    for (const uint32_t id : agents_) {
      const Process& process = processes_[id];
      if (!process.alive || !process.agent->core || given_up_.contains(process.agent->place)) continue;
      for (uint32_t i = 0; i < process.agent->runners.size(); ++i)
        rule(process.agent->core->quarantined(process.agent->welcome.first_slot + i), "I9",
             "the run ended for want of runners, and slot {} could run", process.agent->welcome.first_slot + i);
    }
  }
}

Result World::run() {
  result_.plan = to_text(plan_);
  result_.faults = plan_.faults;
  result_.by_slot = plan_.by_slot();
  result_.agents = plan_.agents;
  result_.learners = plan_.learners;
  files_.make_directory(kRoot);
  files_.fsync("");
  files_.ignores_file_fsync = bugged(Bug::no_file_fsync);
  files_.ignores_directory_fsync = bugged(Bug::no_directory_fsync);
  files_.fault = [this](const char*, const std::string&) {
    return faulty() && dice_.chance(plan_.disk) ? (dice_.chance(0.5) ? ENOSPC : EIO) : 0;
  };
  try {
    for (const Time at : plan_.crashes) push(at, Kind::crash);
    if (plan_.interrupt != Time::max()) push(plan_.interrupt, Kind::interrupt);
    if (plan_.second_interrupt != Time::max()) push(plan_.second_interrupt, Kind::interrupt);
    for (const Time at : plan_.resizes) push(at, Kind::resize);
    push(plan_.faults_end, Kind::faults_end);
    // A crash just before the end of the faults restarts a second later.
    push(plan_.faults_end + kLiveness + std::chrono::seconds(2), Kind::deadline);
    start_life();
    while (!queue_.empty() && !done_ && !finished_) {
      const Event event = queue_.top();
      queue_.pop();
      now_ = event.at;
      result_.trace = mix(result_.trace, mix(static_cast<uint64_t>(event.at.count()),
                                             uint64_t{event.process} << 8 | static_cast<uint64_t>(event.kind)));
      ++result_.events;
      rule(result_.events < kMaxEvents + kMaxEventsOfSlot * plan_.slots, "I10", "{} events", result_.events);
      dispatch(event);
      if (finished_ && finished_->goes_on) {
        check_finished();
        finished_.reset();
        learners_lost_ = false;
        ++result_.resumed;
        end_life();
      }
      if (event.kind == Kind::committed || event.kind == Kind::timer || event.kind == Kind::sampled)
        check_progress(false);
    }
    if (finished_) check_finished();
    close_books(life_);
    check_newest_checkpoint();
  } catch (const Violation& violation) { result_.violation = violation.text; } catch (const std::exception& error) {
    result_.violation = fmt::format("exception: {}", error.what());
  } catch (const FileError& error) { result_.violation = fmt::format("file error {} of {}", error.error, error.path); }
  if (!result_.violation.empty()) note(result_.violation);
  return result_;
}

std::string_view name_of(Bug bug) {
  constexpr std::array<std::string_view, static_cast<size_t>(Bug::count)> kNames = {"none",
                                                                                    "ack_before_take",
                                                                                    "gap_taken",
                                                                                    "lost_on_reconnect",
                                                                                    "join_not_repeated",
                                                                                    "resent_consumed",
                                                                                    "exit_before_socket",
                                                                                    "stale_epoch_accepted",
                                                                                    "stale_agent_accepted",
                                                                                    "connection_not_checked",
                                                                                    "runner_ignores_credit",
                                                                                    "credit_leak_on_runner_death",
                                                                                    "credit_leak_on_agent_death",
                                                                                    "grant_per_message",
                                                                                    "runner_starved",
                                                                                    "drained_leaves_early",
                                                                                    "weights_torn",
                                                                                    "old_weights_under_new_version",
                                                                                    "filter_not_resent",
                                                                                    "permits_before_weights",
                                                                                    "overwritten_while_pinned",
                                                                                    "lag1_publishes_early",
                                                                                    "lag_off_by_one",
                                                                                    "no_file_fsync",
                                                                                    "no_directory_fsync",
                                                                                    "other_iterations_weights",
                                                                                    "lag1_batch_not_saved",
                                                                                    "lag1_batch_not_restored",
                                                                                    "counters_reset_on_resume",
                                                                                    "runner_state_not_restored",
                                                                                    "newest_pruned",
                                                                                    "best_pruned",
                                                                                    "report_not_repeated",
                                                                                    "restart_without_backoff",
                                                                                    "hung_runner_not_killed",
                                                                                    "batch_in_arrival_order",
                                                                                    "committed_alone",
                                                                                    "old_epoch_lives",
                                                                                    "newcomer_keeps_its_own",
                                                                                    "marks_forgotten",
                                                                                    "released_too_early",
                                                                                    "prepared_taken_back",
                                                                                    "torn_counts",
                                                                                    "rendezvous_not_repeated",
                                                                                    "leavers_told_at_once",
                                                                                    "hung_learner_not_killed",
                                                                                    "ids_of_the_last_run",
                                                                                    "last_save_waits_for_data"};
  return kNames[static_cast<size_t>(bug)];
}

Result run_schedule(const Schedule& schedule) { return World(schedule).run(); }

}  // namespace myriad::simulation
