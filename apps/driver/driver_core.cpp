#include "apps/driver/driver_core.hpp"

#include <csignal>
#include <limits>
#include <numeric>

namespace myriad {
namespace {

double mean_of(const std::deque<double>& values) {
  if (values.empty()) return std::numeric_limits<double>::quiet_NaN();
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

}  // namespace

DriverCore::DriverCore(Options options)
    : options_(std::move(options)),
      slots_(options_.slots, RandomStream(options_.seed, StreamPurpose::simulation, options_.run)),
      iteration_(options_.training_iteration),
      env_steps_(options_.num_env_steps_sampled_lifetime),
      episodes_(options_.num_episodes_lifetime),
      returns_(options_.recent_returns),
      lengths_(options_.recent_lengths) {}

double DriverCore::episode_return_mean() const { return mean_of(returns_); }
double DriverCore::episode_len_mean() const { return mean_of(lengths_); }

Time DriverCore::next_timer() const {
  if (phase_ == Phase::finished) return Time::max();
  Time next = slots_.next_timer();
  if (!commit_pending_) next = std::min(next, deadline_);
  if (phase_ == Phase::running || (phase_ == Phase::saving && !commit_pending_))
    next = std::min(next, last_sent_ + kRetry);
  if (options_.stop.time_total_s > 0 && phase_ == Phase::running && !finishing())
    next = std::min(next, started_ + seconds(options_.stop.time_total_s - options_.time_total_s));
  return next;
}

void DriverCore::send(const std::string& peer, Message message, std::vector<Output>& outputs) {
  if (peer.empty()) return;
  message.run = options_.run;
  message.epoch = options_.epoch;
  outputs.push_back(Send{peer, std::move(message)});
}

void DriverCore::send_command(Time now, std::vector<Output>& outputs) {
  last_sent_ = now;
  send(learner_, make_message(command_), outputs);
}

void DriverCore::send_slot(uint32_t slot, bool up, std::vector<Output>& outputs) {
  wire::SlotStateT state;
  state.slot = slot;
  state.incarnation = slots_.incarnation(slot);
  state.up = up;
  send(learner_, make_message(std::move(state)), outputs);
}

std::string DriverCore::stop_criterion(Time now) const {
  const StopConfig& stop = options_.stop;
  if (stop.training_iteration > 0 && iteration_ >= static_cast<uint64_t>(stop.training_iteration))
    return fmt::format("training_iteration {}", iteration_);
  if (stop.num_env_steps_sampled_lifetime > 0 &&
      env_steps_ >= static_cast<uint64_t>(stop.num_env_steps_sampled_lifetime))
    return fmt::format("num_env_steps_sampled_lifetime {}", env_steps_);
  if (stop.episode_return_mean && returns_.size() >= options_.smoothing_episodes &&
      mean_of(returns_) >= *stop.episode_return_mean)
    return fmt::format("episode_return_mean {:.1f}", mean_of(returns_));
  if (stop.time_total_s > 0 && time_total_s(now) >= stop.time_total_s)
    return fmt::format("time_total_s {:.1f}", time_total_s(now));
  return "";
}

void DriverCore::step(const Input& input, Time now, std::vector<Output>& outputs) {
  if (phase_ == Phase::finished) return;
  if (std::holds_alternative<Start>(input)) {
    started_ = last_sent_ = now;
    learner_alive_ = true;
    outputs.push_back(SpawnLearner{});
    apply_slots(SlotSupervisor::Start{}, now, outputs);
  } else if (const auto* received = std::get_if<Received>(&input)) {
    const Message& message = received->message;
    if (message.run != options_.run || message.epoch != options_.epoch) return;
    if (message.as<wire::RunnerHelloT>() || message.as<wire::RunnerStatusT>())
      from_runner(received->peer, message, now, outputs);
    else
      from_learner(received->peer, message, now, outputs);
  } else if (const auto* exited = std::get_if<RunnerExited>(&input)) {
    std::string cause = exited->cause;
    const bool own_words = process_error_.has_value();
    if (own_words) cause = fmt::format("error[{}] {}", process_error_->code, process_error_->message);
    // A mistake that restarting cannot mend: the user's to act on, so the run ends with the runner's own words.
    if (own_words && process_error_->exit == static_cast<int32_t>(Exit::usage))
      stop_all(now, Exit::usage, process_error_->message, process_error_->code, outputs);
    apply_slots(SlotSupervisor::Exited{exited->slot, exited->incarnation, cause}, now, outputs);
    if (slots_.num_quarantined() == options_.slots.num_slots)
      stop_all(now, own_words ? static_cast<Exit>(process_error_->exit) : Exit::environment,
               own_words ? process_error_->message
                         : fmt::format("every runner slot is quarantined; the last cause: {}", cause),
               own_words ? process_error_->code : "runners-lost", outputs);
    process_error_.reset();
  } else if (const auto* exited = std::get_if<LearnerExited>(&input)) {
    learner_alive_ = false;
    learner_.clear();
    if (phase_ != Phase::stopping) {
      if (process_error_)
        stop_all(now, static_cast<Exit>(process_error_->exit), process_error_->message, process_error_->code, outputs);
      else
        stop_all(now, Exit::internal, fmt::format("the learner ended: {}", exited->cause), "learner-lost", outputs);
    }
  } else if (const auto* failed = std::get_if<SpawnFailed>(&input)) {
    if (!failed->slot) {
      learner_alive_ = false;
      stop_all(now, Exit::resource, failed->cause, "spawn-failed", outputs);
    } else {
      apply_slots(SlotSupervisor::Exited{*failed->slot, slots_.incarnation(*failed->slot), failed->cause}, now,
                  outputs);
      if (slots_.num_quarantined() == options_.slots.num_slots)
        stop_all(now, Exit::resource,
                 fmt::format("every runner slot is quarantined; the last cause: {}", failed->cause), "spawn-failed",
                 outputs);
    }
  } else if (std::holds_alternative<Interrupted>(input)) {
    if (++interrupts_ == 1 && phase_ != Phase::stopping && !learner_.empty() &&
        iteration_ > options_.training_iteration) {
      stop_reason_ = "interrupted";
      outputs.push_back(Event{"interrupt", "finishing this iteration, then saving; Ctrl-C again stops at once"});
    } else {
      outputs.push_back(KillAll{});
      phase_ = Phase::finished;
      outputs.push_back(Finished{Exit::interrupted, "interrupted", "interrupted"});
      return;
    }
    exit_ = Exit::interrupted;
  } else if (const auto* saved = std::get_if<Saved>(&input)) {
    if (const auto* prepared = std::get_if<CheckpointWriter::Prepared>(&saved->result)) {
      command_ = {};
      command_.kind = wire::CommandKind::checkpoint;
      command_.sequence = checkpoint_sequence_;
      command_.until = iteration_;
      command_.directory = prepared->directory;
      send_command(now, outputs);
    } else {
      commit_pending_ = false;
      deadline_ = Time::max();
      if (const auto* committed = std::get_if<CheckpointWriter::Committed>(&saved->result)) {
        last_checkpoint_ = committed->directory;
        committed_iteration_ = committed->training_iteration;
        outputs.push_back(Event{"checkpoint", fmt::format("iteration {} saved to {}", committed->training_iteration,
                                                          committed->directory)});
      } else {
        outputs.push_back(Event{
            "checkpoint-failed",
            fmt::format("{}; the last good one: {}",
                        save_error_.empty() ? std::get<CheckpointWriter::Failed>(saved->result).reason : save_error_,
                        last_checkpoint_.empty() ? "none" : last_checkpoint_)});
      }
      save_error_.clear();
      saved_iteration_ = iteration_;
      phase_ = Phase::running;
      go_on(now, outputs);
    }
  } else {
    apply_slots(SlotSupervisor::Tick{}, now, outputs);
    if (phase_ == Phase::running && !finishing())
      stop_reason_ = stop_criterion(now);  // the time; acts at the next report
    if (phase_ == Phase::saving && now >= deadline_ && !commit_pending_) {
      commit_pending_ = true;
      outputs.push_back(Save{CheckpointWriter::Abandon{}});
    } else if (phase_ == Phase::stopping && now >= deadline_) {
      outputs.push_back(KillAll{});
      deadline_ = now + kStopDeadline;
    } else if ((phase_ == Phase::running || phase_ == Phase::saving) && now >= last_sent_ + kRetry &&
               !commit_pending_) {
      for (uint32_t slot = 0; slot < options_.slots.num_slots; ++slot) send_slot(slot, slots_.running(slot), outputs);
      send_command(now, outputs);
    }
  }
  if (phase_ == Phase::stopping && !learner_alive_ && slots_.num_running() == 0) {
    phase_ = Phase::finished;
    deadline_ = Time::max();
    outputs.push_back(Finished{exit_, stop_reason_, exit_code_});
  }
}

void DriverCore::apply_slots(const SlotSupervisor::Input& input, Time now, std::vector<Output>& outputs) {
  std::vector<SlotSupervisor::Output> results;
  slots_.step(input, now, results);
  for (const auto& result : results) {
    if (const auto* spawn = std::get_if<SlotSupervisor::Spawn>(&result)) {
      outputs.push_back(SpawnRunner{spawn->slot, spawn->incarnation});
    } else if (const auto* hung = std::get_if<SlotSupervisor::Hung>(&result)) {
      outputs.push_back(Event{"runner-hung", fmt::format("runner {} made no step for {:.0f} s: killed", hung->slot,
                                                         to_seconds(hung->silent))});
      outputs.push_back(KillRunner{hung->slot, hung->incarnation, SIGKILL});
    } else if (const auto* down = std::get_if<SlotSupervisor::Down>(&result)) {
      wire::SlotStateT state;
      state.slot = down->slot;
      state.incarnation = down->incarnation;
      state.up = false;
      send(learner_, make_message(std::move(state)), outputs);
      const std::string next = down->restart_in == Time::max() ? ""
                               : down->restart_in == Time::zero()
                                   ? "; restarted"
                                   : fmt::format("; restarts in {:.2f} s", to_seconds(down->restart_in));
      outputs.push_back(Event{"runner-down", fmt::format("runner {} ended: {}{}", down->slot, down->cause, next)});
    } else {
      const auto& quarantined = std::get<SlotSupervisor::Quarantined>(result);
      outputs.push_back(Event{"runner-quarantined",
                              fmt::format("runner {} is given up after {} crashes in a minute: {}", quarantined.slot,
                                          options_.slots.max_crashes_per_minute, quarantined.cause)});
    }
  }
}

void DriverCore::from_runner(const std::string& peer, const Message& message, Time now, std::vector<Output>& outputs) {
  if (const auto* hello = message.as<wire::RunnerHelloT>()) {
    if (hello->slot >= options_.slots.num_slots || hello->incarnation != slots_.incarnation(hello->slot)) return;
    if (hello->protocol != kProtocolVersion) {
      stop_all(now, Exit::usage,
               fmt::format("runner speaks protocol {}, this driver {}: install the same version", hello->protocol,
                           kProtocolVersion),
               "version-skew", outputs);
      return;
    }
    wire::RunnerWelcomeT welcome;
    welcome.slot = hello->slot;
    welcome.incarnation = hello->incarnation;
    welcome.config = options_.config_toml;
    welcome.learner_endpoint = options_.learner_endpoint;
    // Only the first process of a slot continues the saved environments: a later one would repeat what was trained on.
    const bool resumes = hello->incarnation == 0 && hello->slot < options_.runner_states.size();
    send(peer, make_message(std::move(welcome), {resumes ? options_.runner_states[hello->slot] : SharedBytes{}}),
         outputs);
    send_slot(hello->slot, slots_.running(hello->slot), outputs);  // a late hello may be of one that ended
    apply_slots(SlotSupervisor::Progress{hello->slot, hello->incarnation}, now, outputs);
  } else if (const auto* status = message.as<wire::RunnerStatusT>()) {
    apply_slots(SlotSupervisor::Progress{status->slot, status->incarnation}, now, outputs);
  }
}

void DriverCore::from_learner(const std::string& peer, const Message& message, Time now, std::vector<Output>& outputs) {
  if (const auto* error = message.as<wire::ProcessErrorT>()) {  // of a runner, too: its exit follows
    process_error_ = *error;
  } else if (const auto* hello = message.as<wire::LearnerHelloT>()) {
    if (hello->protocol != kProtocolVersion) {
      stop_all(now, Exit::usage,
               fmt::format("learner speaks protocol {}, this driver {}: install the same version", hello->protocol,
                           kProtocolVersion),
               "version-skew", outputs);
      return;
    }
    const bool first = learner_.empty();
    learner_ = peer;
    wire::LearnerWelcomeT welcome;
    welcome.config = options_.config_toml;
    welcome.data_endpoint = options_.learner_endpoint;
    welcome.checkpoint = options_.resume_directory;
    send(peer, make_message(std::move(welcome)), outputs);
    if (first && phase_ == Phase::starting) {
      phase_ = Phase::running;
      go_on(now, outputs);
    }
  } else if (const auto* iteration = message.as<wire::IterationReportT>()) {
    report(*iteration, now, outputs);
  } else if (const auto* done = message.as<wire::CheckpointDoneT>()) {
    if (phase_ != Phase::saving || done->sequence != checkpoint_sequence_ || commit_pending_) return;
    if (done->error.empty() && done->training_iteration != iteration_) return;  // never another iteration's weights
    commit_pending_ = true;
    if (!done->error.empty()) {
      save_error_ = done->error;  // told when the partial directory is gone: a full disk takes no event before
      outputs.push_back(Save{CheckpointWriter::Abandon{}});
      return;
    }
    CheckpointWriter::Commit commit;
    for (const auto& file : done->files) commit.files.push_back({file->name, file->bytes, file->crc32c});
    outputs.push_back(Save{std::move(commit)});
  }
}

void DriverCore::report(const wire::IterationReportT& report, Time now, std::vector<Output>& outputs) {
  if (phase_ != Phase::running || report.training_iteration <= iteration_) return;  // a repeat
  iteration_ = report.training_iteration;
  env_steps_ = report.num_env_steps_sampled_lifetime;
  for (const wire::Episode& episode : report.episodes) {
    ++episodes_;
    returns_.push_back(episode.episode_return());
    lengths_.push_back(episode.length());
    if (returns_.size() > options_.smoothing_episodes) {
      returns_.pop_front();
      lengths_.pop_front();
    }
  }
  // First the answer, so that the learner does not wait for the disk; but not while it fills a disk with a checkpoint.
  const auto answer = static_cast<std::ptrdiff_t>(outputs.size());
  go_on(now, outputs);
  outputs.insert(phase_ == Phase::saving ? outputs.begin() + answer : outputs.end(), Report{report});
}

void DriverCore::go_on(Time now, std::vector<Output>& outputs) {
  if (stop_reason_.empty()) stop_reason_ = stop_criterion(now);
  const bool due = options_.checkpoint_frequency > 0 && iteration_ % options_.checkpoint_frequency == 0;
  const bool something_new = iteration_ > options_.training_iteration && saved_iteration_ != iteration_;
  if (something_new && (due || finishing())) {
    begin_save(now, outputs);
  } else if (finishing()) {
    stop_all(now, exit_, stop_reason_, exit_code_, outputs);
  } else {
    command_ = {};
    command_.kind = wire::CommandKind::go;
    command_.until = iteration_ + 1;
    send_command(now, outputs);
  }
}

void DriverCore::begin_save(Time now, std::vector<Output>& outputs) {
  phase_ = Phase::saving;
  ++checkpoint_sequence_;
  command_ = {};
  command_.kind = wire::CommandKind::go;  // nothing new until the directory is there
  command_.until = iteration_;
  deadline_ = now + kSaveDeadline;
  outputs.push_back(Save{CheckpointWriter::Prepare{iteration_}});
}

void DriverCore::stop_all(Time now, Exit exit, std::string reason, std::string code, std::vector<Output>& outputs) {
  if (phase_ == Phase::stopping) return;
  phase_ = Phase::stopping;
  exit_ = exit;
  stop_reason_ = std::move(reason);
  exit_code_ = std::move(code);
  deadline_ = now + kStopDeadline;
  apply_slots(SlotSupervisor::StopAll{}, now, outputs);
  wire::StopT stop;
  stop.reason = stop_reason_;
  send(learner_, make_message(stop), outputs);
  for (uint32_t slot = 0; slot < options_.slots.num_slots; ++slot)
    if (slots_.running(slot)) outputs.push_back(KillRunner{slot, slots_.incarnation(slot), SIGTERM});
  if (learner_.empty() && learner_alive_) outputs.push_back(KillAll{});  // not yet connected: nobody to ask
}

}  // namespace myriad
