#include "roles/driver_core.hpp"

#include <algorithm>
#include <limits>
#include <numeric>

#include "roles/iteration_metrics.hpp"

namespace myriad {
namespace {

double mean_of(const std::deque<double>& values) {
  if (values.empty()) return std::numeric_limits<double>::quiet_NaN();
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

Fleet::Options fleet_options(const DriverCore::Options& options) {
  Fleet::Options fleet = options.fleet;
  fleet.run = options.run;
  fleet.config_toml = options.config_toml;
  fleet.seed = options.seed;
  return fleet;
}

LearnerGroup::Options learner_options(const DriverCore::Options& options) {
  LearnerGroup::Options learners = options.learners;
  learners.run = options.run;
  learners.config_toml = options.config_toml;
  learners.checkpoint = options.resume_directory;
  learners.num_agents = options.fleet.agents.num_slots;
  learners.num_slots = options.fleet.num_slots;
  learners.training_iteration = options.training_iteration;
  return learners;
}

}  // namespace

DriverCore::DriverCore(Options options)
    : options_(std::move(options)),
      fleet_(fleet_options(options_)),
      learners_(learner_options(options_)),
      iteration_(options_.training_iteration),
      env_steps_(options_.num_env_steps_sampled_lifetime),
      episodes_(options_.num_episodes_lifetime),
      returns_(options_.recent_returns),
      lengths_(options_.recent_lengths),
      levels_(options_.levels),
      evaluations_(options_.evaluations),
      training_return_(options_.training_return) {}

double DriverCore::episode_return_mean() const { return mean_of(returns_); }
double DriverCore::episode_len_mean() const { return mean_of(lengths_); }

/// Of as many episodes as are asked for, at the present level; NaN before they are there.
double DriverCore::settled_return_mean() const {
  if (levels_.count() > 1) return levels_.return_mean();
  return returns_.size() >= options_.smoothing_episodes ? mean_of(returns_) : std::numeric_limits<double>::quiet_NaN();
}

Time DriverCore::next_timer() const {
  if (phase_ == Phase::finished) return Time::max();
  Time next = std::min({fleet_.next_timer(), learners_.next_timer(), evaluations_.next_timer()});
  if (!commit_pending_) next = std::min(next, deadline_);
  if (phase_ == Phase::running || (phase_ == Phase::saving && !commit_pending_))
    next = std::min({next, last_sent_ + kRetry, last_announced_ + kRetry});
  if (options_.stop.time_total_s > 0 && phase_ == Phase::running && !finishing())
    next = std::min(next, started_ + seconds(options_.stop.time_total_s - options_.time_total_s));
  return next;
}

void DriverCore::send(const std::string& peer, uint64_t epoch, Message message, std::vector<Output>& outputs) {
  if (peer.empty()) return;
  message.run = options_.run;
  message.epoch = epoch;
  outputs.push_back(Send{peer, std::move(message)});
}

void DriverCore::send_command(Time now, std::vector<Output>& outputs) {
  last_sent_ = now;
  command_.level = levels_.level();
  LearnerGroup::Outputs learners;
  learners_.send_all(make_message(command_), learners);
  apply_learners(learners, now, outputs);
}

std::string DriverCore::stop_criterion(Time now) const {
  const StopConfig& stop = options_.stop;
  if (stop.training_iteration > 0 && iteration_ >= static_cast<uint64_t>(stop.training_iteration))
    return fmt::format("training_iteration {}", iteration_);
  if (stop.num_env_steps_sampled_lifetime > 0 &&
      env_steps_ >= static_cast<uint64_t>(stop.num_env_steps_sampled_lifetime))
    return fmt::format("num_env_steps_sampled_lifetime {}", env_steps_);
  const double return_mean = settled_return_mean();
  if (stop.episode_return_mean && levels_.last() && return_mean >= *stop.episode_return_mean)
    return fmt::format("episode_return_mean {:.1f}", return_mean);
  if (const Improvement& returns = evaluations_.returns();
      stop.evaluations_without_improvement > 0 &&
      returns.since >= static_cast<uint64_t>(stop.evaluations_without_improvement))
    return fmt::format("evaluations_without_improvement {}, the best return was {:.1f}", returns.since, *returns.best);
  if (stop.iterations_without_improvement > 0 &&
      training_return_.since >= static_cast<uint64_t>(stop.iterations_without_improvement))
    return fmt::format("iterations_without_improvement {}, the best episode_return_mean was {:.1f}",
                       training_return_.since, *training_return_.best);
  if (stop.time_total_s > 0 && time_total_s(now) >= stop.time_total_s)
    return fmt::format("time_total_s {:.1f}", time_total_s(now));
  return "";
}

void DriverCore::step(const Input& input, Time now, std::vector<Output>& outputs) {
  if (phase_ == Phase::finished) return;
  Fleet::Outputs fleet;
  LearnerGroup::Outputs learners;
  Evaluations::Outputs evaluations;
  if (std::holds_alternative<Start>(input)) {
    started_ = last_sent_ = last_announced_ = saved_at_ = data_ = now;
    learners_.start(now, learners);
    fleet_.start(now, fleet);
    // What came of its evaluation is not in the checkpoint itself.
    if (!options_.resume_directory.empty())
      evaluations_.saved(iteration_, options_.resume_directory, settled_return_mean(), false, now, evaluations);
  } else if (const auto* received = std::get_if<Received>(&input)) {
    this->received(*received, now, fleet, learners, outputs);
  } else if (const auto* exited = std::get_if<AgentExited>(&input)) {
    fleet_.exited(exited->agent, exited->incarnation, exited->cause, exited->drained, now, fleet);
  } else if (const auto* exited = std::get_if<LearnerExited>(&input)) {
    learners_.exited(exited->shard, exited->incarnation, exited->cause, now, learners);
  } else if (const auto* failed = std::get_if<SpawnFailed>(&input)) {
    if (failed->agent)
      fleet_.spawn_failed(*failed->agent, failed->cause, now, fleet);
    else
      learners_.spawn_failed(failed->shard, failed->incarnation, failed->cause, now, learners);
  } else if (const auto* interrupt = std::get_if<Interrupted>(&input)) {
    interrupted(*interrupt, now, outputs);
    if (phase_ == Phase::finished) return;
  } else if (const auto* saved = std::get_if<Saved>(&input)) {
    this->saved(*saved, now, outputs);
  } else if (const auto* evaluated = std::get_if<Evaluated>(&input)) {
    evaluations_.evaluated(evaluated->training_iteration, evaluated->return_mean, evaluated->failure, now, evaluations);
  } else {
    learners_.tick(now, learners);
    fleet_.tick(now, fleet);
    evaluations_.tick(now, evaluations);
    if (phase_ == Phase::running && !finishing())
      stop_reason_ = stop_criterion(now);  // acts at the next report, or at the end of an evaluation
    if (finishing()) finishing_since_ = std::min(finishing_since_, now);
    if (phase_ == Phase::saving && now >= deadline_ && !commit_pending_) {
      commit_pending_ = true;
      outputs.push_back(Save{CheckpointWriter::Abandon{}});
    } else if (phase_ == Phase::running && now >= deadline_) {
      stop_all(now, outputs);  // the learners did not form their last epoch
    } else if (phase_ == Phase::stopping && now >= deadline_) {
      outputs.push_back(KillAll{});
      deadline_ = now + kStopDeadline;
    } else if ((phase_ == Phase::running || phase_ == Phase::saving) && now >= last_sent_ + kRetry &&
               !commit_pending_) {
      send_command(now, outputs);
    }
    // On a timer of its own: every new command restarts the command's, so quick iterations would postpone it for ever.
    if ((phase_ == Phase::running || phase_ == Phase::saving) && now >= last_announced_ + kRetry && !commit_pending_) {
      last_announced_ = now;
      if (learners_.formed()) fleet_.announce_all(fleet);
      look_for_data(now, outputs);
    }
  }
  apply_evaluations(evaluations, outputs);
  if (held_ && phase_ == Phase::running && (finishing() || !evaluations_.holds())) go_on(now, outputs);
  if (learners_.size() > 1 && !cutting_) learners_.set_given_up(fleet_.given_up(), now, learners);
  apply_learners(learners, now, outputs);
  apply_fleet(fleet, now, outputs);
  if (phase_ == Phase::stopping && learners_.num_processes() == 0 && fleet_.num_processes() == 0 &&
      !evaluations_.running()) {
    phase_ = Phase::finished;
    deadline_ = Time::max();
    outputs.push_back(Finished{exit_, stop_reason_, exit_code_, goes_on_});
  }
}

void DriverCore::received(const Received& received, Time now, Fleet::Outputs& fleet, LearnerGroup::Outputs& learners,
                          std::vector<Output>& outputs) {
  const Message& message = received.message;
  if (options_.previous_run != 0 && message.run == options_.previous_run) return tell_of_this_run(received, outputs);
  if (message.run != options_.run || message.epoch > learners_.epoch()) return;
  if (const auto* scale = message.as<wire::ScaleRequestT>()) {
    wire::ScaleReplyT reply;
    const bool may = received.user.empty() || received.user.starts_with("learner-");
    reply.text = !may                                    ? "only the driver's host may scale a run"
                 : phase_ == Phase::stopping || cutting_ ? "the run is ending"
                                                         : learners_.resize(scale->learners, now, learners);
    reply.error = !reply.text.empty();
    if (!reply.error) reply.text = fmt::format("{} learners, as soon as they are there", scale->learners);
    send(received.peer, learners_.epoch(), make_message(std::move(reply)), outputs);
  } else if (!learners_.received(received.peer, received.user, message, now, learners)) {
    fleet_.received(received.peer, received.user, message, now, fleet);
  }
}

/// Answers an agent of the previous run, which missed that run's Stop.
void DriverCore::tell_of_this_run(const Received& received, std::vector<Output>& outputs) const {
  const Message& said = received.message;
  if (said.as<wire::AgentHelloT>() == nullptr && said.as<wire::AgentStatusT>() == nullptr) return;
  wire::StopT stop;
  stop.reason = "the run goes on from its newest checkpoint";
  stop.next_run = options_.run;
  Message message = make_message(std::move(stop));
  message.run = options_.previous_run;
  outputs.push_back(Send{received.peer, std::move(message)});
}

void DriverCore::saved(const Saved& saved, Time now, std::vector<Output>& outputs) {
  if (const auto* prepared = std::get_if<CheckpointWriter::Prepared>(&saved.result)) {
    command_ = {};
    command_.kind = wire::CommandKind::checkpoint;
    command_.sequence = checkpoint_sequence_;
    command_.until = iteration_;
    command_.directory = prepared->directory;
    command_.at_once = cutting_;
    send_command(now, outputs);
    return;
  }
  commit_pending_ = false;
  deadline_ = Time::max();
  saved_at_ = now;
  if (std::exchange(save_again_, false)) return begin_save(now, outputs);
  if (const auto* committed = std::get_if<CheckpointWriter::Committed>(&saved.result)) {
    last_checkpoint_ = committed->directory;
    committed_iteration_ = committed->training_iteration;
    outputs.push_back(Event{
        "checkpoint", fmt::format("iteration {} saved to {}", committed->training_iteration, committed->directory)});
    if (stop_reason_.empty()) stop_reason_ = stop_criterion(now);
    Evaluations::Outputs evaluations;
    evaluations_.saved(committed->training_iteration, committed->directory, settled_return_mean(), finishing(), now,
                       evaluations);
    apply_evaluations(evaluations, outputs);
  } else {
    outputs.push_back(
        Event{"checkpoint-failed",
              fmt::format("{}; the last good one: {}",
                          save_error_.empty() ? std::get<CheckpointWriter::Failed>(saved.result).reason : save_error_,
                          last_checkpoint_.empty() ? "none" : last_checkpoint_)});
  }
  save_error_.clear();
  saved_iteration_ = iteration_;
  phase_ = Phase::running;
  go_on(now, outputs);
}

void DriverCore::apply_fleet(Fleet::Outputs& results, Time now, std::vector<Output>& outputs) {
  for (auto& result : results) {
    if (auto* to_agent = std::get_if<Fleet::ToAgent>(&result))
      send(to_agent->peer, fleet_.epoch(), std::move(to_agent->message), outputs);
    else if (auto* to_learner = std::get_if<Fleet::ToLearner>(&result))
      send(learners_.peer(to_learner->shard), fleet_.epoch(), std::move(to_learner->message), outputs);
    else if (auto* over = std::get_if<Fleet::Over>(&result))
      end(now, over->exit, over->reason, over->error_code, outputs);
    else if (const auto* spawn = std::get_if<SpawnAgent>(&result))
      outputs.push_back(*spawn);
    else if (const auto* kill = std::get_if<KillAgent>(&result))
      outputs.push_back(*kill);
    else {
      const auto& event = std::get<Event>(result);
      if (event.kind == "env-failure") last_failure_ = event.text;
      outputs.push_back(event);
    }
  }
}

void DriverCore::apply_learners(LearnerGroup::Outputs& results, Time now, std::vector<Output>& outputs) {
  for (auto& result : results) {
    if (auto* to = std::get_if<LearnerGroup::ToLearner>(&result))
      send(to->peer, learners_.epoch(), std::move(to->message), outputs);
    else if (const auto* spawn = std::get_if<SpawnLearner>(&result))
      outputs.push_back(*spawn);
    else if (const auto* kill = std::get_if<KillLearner>(&result))
      outputs.push_back(*kill);
    else if (const auto* event = std::get_if<LearnerGroup::Event>(&result))
      outputs.push_back(Event{event->kind, event->text});
    else if (auto* reported = std::get_if<LearnerGroup::Reported>(&result))
      report(reported->report, now, outputs);
    else if (auto* saved = std::get_if<LearnerGroup::Saved>(&result))
      checkpoint_done(saved->done, outputs);
    else if (auto* over = std::get_if<LearnerGroup::Over>(&result))
      learners_over(*over, now, outputs);
    else
      formed(now, outputs);
  }
}

void DriverCore::apply_evaluations(Evaluations::Outputs& results, std::vector<Output>& outputs) {
  for (auto& result : results) {
    if (auto* event = std::get_if<Evaluations::Event>(&result))
      outputs.push_back(Event{std::move(event->kind), std::move(event->text)});
    else if (auto* begin = std::get_if<Evaluate>(&result))
      outputs.push_back(std::move(*begin));
    else if (auto* best = std::get_if<NewBest>(&result))
      outputs.push_back(std::move(*best));
    else
      outputs.push_back(KillEvaluation{});
  }
}

/// An epoch of the learner group began.
void DriverCore::formed(Time now, std::vector<Output>& outputs) {
  std::vector<Fleet::LearnerOf> by_place;
  for (uint32_t place = 0; place < options_.fleet.agents.num_slots; ++place) {
    const uint32_t shard = learners_.shard_of(place);
    by_place.push_back({shard, learners_.endpoint(shard)});
  }
  Fleet::Outputs fleet;
  fleet_.set_learners(learners_.epoch(), std::move(by_place), now, fleet);
  apply_fleet(fleet, now, outputs);
  if (phase_ == Phase::starting) {
    phase_ = Phase::running;
    go_on(now, outputs);
  } else if (phase_ == Phase::saving && command_.kind == wire::CommandKind::checkpoint && !commit_pending_) {
    // What the shards of the last epoch had written of it is worth nothing: the files of all are of one epoch.
    commit_pending_ = save_again_ = true;
    outputs.push_back(Save{CheckpointWriter::Abandon{}});
  } else if (phase_ == Phase::running && cutting_) {
    go_on(now, outputs);
  } else if (phase_ == Phase::running) {
    send_command(now, outputs);
  }
}

void DriverCore::checkpoint_done(const wire::CheckpointDoneT& done, std::vector<Output>& outputs) {
  if (phase_ != Phase::saving || done.sequence != checkpoint_sequence_ || commit_pending_) return;
  if (done.error.empty() && done.training_iteration != iteration_) return;  // never another iteration's weights
  commit_pending_ = true;
  if (!done.error.empty()) {
    save_error_ = done.error;  // told when the partial directory is gone: a full disk takes no event before
    outputs.push_back(Save{CheckpointWriter::Abandon{}});
    return;
  }
  CheckpointWriter::Commit commit;
  commit.keep = evaluations_.kept();
  for (const auto& file : done.files) commit.files.push_back({file->name, file->bytes, file->crc32c});
  outputs.push_back(Save{std::move(commit)});
}

void DriverCore::report(const wire::IterationReportT& report, Time now, std::vector<Output>& outputs) {
  if (phase_ != Phase::running) return;
  data_ = now;
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
  if (levels_.count() > 1) judge_level(report.episodes, outputs);
  judge_failures(report);
  training_return_.add(settled_return_mean());
  Evaluations::Outputs evaluations;
  evaluations_.reported(iteration_, evaluations);
  apply_evaluations(evaluations, outputs);
  // First the answer, so that the learners do not wait for the disk; but not while it fills a disk with a checkpoint.
  const auto answer = static_cast<std::ptrdiff_t>(outputs.size());
  go_on(now, outputs);
  outputs.insert(phase_ == Phase::saving ? outputs.begin() + answer : outputs.end(), Report{report});
}

/// Ends the run where too many episodes fail: what is trained on is little more than their beginnings.
void DriverCore::judge_failures(const wire::IterationReportT& report) {
  Outcomes now;
  for (const auto& row : report.metrics) {
    if (row->key.starts_with(kEnvFailures)) now.failed += row->value;
    if (row->key == "num_episodes_left_out") now.finished += row->value;
  }
  now.finished += static_cast<double>(report.episodes.size());
  outcomes_.push_back(now);
  judged_.failed += now.failed, judged_.finished += now.finished;
  const auto total = [](const Outcomes& some) { return some.failed + some.finished; };
  while (total(judged_) - total(outcomes_.front()) >= kJudged) {
    judged_.failed -= outcomes_.front().failed, judged_.finished -= outcomes_.front().finished;
    outcomes_.pop_front();
  }
  if (finishing() || total(judged_) < kJudged || judged_.failed <= options_.max_failed_episodes * total(judged_))
    return;
  exit_ = Exit::environment;
  exit_code_ = "episodes-failed";
  stop_reason_ = fmt::format(
      "{:.0f} of the last {:.0f} episodes failed, more than fault_tolerance.max_failed_episodes = {} lets; one was: {}",
      judged_.failed, total(judged_), options_.max_failed_episodes, last_failure_);
}

/// By environment, so that the last ones are the same ones however environments are split over runners.
void DriverCore::judge_level(std::vector<wire::Episode> episodes, std::vector<Output>& outputs) {
  std::ranges::stable_sort(episodes, {}, &wire::Episode::env_index);
  for (const wire::Episode& episode : episodes) levels_.add(episode.episode_return(), episode.level());
  const double return_mean = levels_.return_mean();
  if (!levels_.advance()) return;
  training_return_ = {};
  outputs.push_back(
      Event{"curriculum", fmt::format("level {} of 0 to {} after iteration {}: the mean return was {:.1f}",
                                      levels_.level(), levels_.count() - 1, iteration_, return_mean)});
}

void DriverCore::go_on(Time now, std::vector<Output>& outputs) {
  if (stop_reason_.empty()) stop_reason_ = stop_criterion(now);
  const bool due = (options_.checkpoint_frequency > 0 && iteration_ % options_.checkpoint_frequency == 0) ||
                   (options_.checkpoint_interval > Time::zero() && now - saved_at_ >= options_.checkpoint_interval);
  held_ = false;
  const bool something_new = iteration_ > options_.training_iteration && saved_iteration_ != iteration_;
  if (something_new && (due || finishing() || evaluations_.wants(iteration_))) {
    begin_save(now, outputs);
  } else if (finishing()) {
    stop_all(now, outputs);
  } else if (evaluations_.holds()) {
    held_ = true;
    command_ = {};
    command_.kind = wire::CommandKind::go;
    command_.until = iteration_;
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

// --- the end ---

void DriverCore::interrupted(const Interrupted& input, Time now, std::vector<Output>& outputs) {
  if (interrupts_ > 0 && (!input.may_hurry || now - interrupted_at_ < kSameInterrupt)) return;
  if (++interrupts_ == 1) interrupted_at_ = now;
  const bool nothing_new = iteration_ == options_.training_iteration;
  if (interrupts_ > 1 || phase_ == Phase::starting || (phase_ == Phase::running && nothing_new)) {
    Fleet::Outputs fleet;
    fleet_.stop("interrupted", 0, now, fleet);  // for agents that are no processes of ours
    apply_fleet(fleet, now, outputs);
    outputs.push_back(KillAll{});
    phase_ = Phase::finished;
    outputs.push_back(Finished{Exit::interrupted, "interrupted", "interrupted"});
    return;
  }
  if (std::exchange(goes_on_, false)) {  // no next life
    exit_ = Exit::interrupted;
    stop_reason_ = "interrupted";
    exit_code_.clear();
  }
  if (exit_ == Exit::ok) exit_ = Exit::interrupted;
  if (phase_ == Phase::stopping || cutting_) return;
  stop_reason_ = "interrupted";
  finishing_since_ = now;
  Evaluations::Outputs evaluations;
  evaluations_.stop(evaluations);
  apply_evaluations(evaluations, outputs);
  outputs.push_back(
      Event{"interrupt", fmt::format("finishing this iteration, for {:.0f} s at most, then saving; Ctrl-C "
                                     "again stops at once",
                                     to_seconds(kFinish))});
}

/// The run cannot go on, but its learners may have what is worth a checkpoint.
void DriverCore::end(Time now, Exit exit, std::string reason, std::string code, std::vector<Output>& outputs) {
  if (phase_ == Phase::stopping || cutting_) return;
  if (!finishing()) {
    exit_ = exit;
    stop_reason_ = std::move(reason);
    exit_code_ = std::move(code);
  }
  cut(now, outputs);
}

/// No more data: the group's last epoch begins with what its learners have.
void DriverCore::cut(Time now, std::vector<Output>& outputs) {
  if (std::exchange(cutting_, true)) return;
  if (phase_ == Phase::starting || iteration_ == options_.training_iteration) return stop_all(now, outputs);
  Fleet::Outputs fleet;
  fleet_.stop(stop_reason_, 0, now, fleet);
  apply_fleet(fleet, now, outputs);
  if (phase_ == Phase::running) deadline_ = now + kSaveDeadline;
  LearnerGroup::Outputs learners;
  learners_.cut(now, learners);
  apply_learners(learners, now, outputs);
}

void DriverCore::learners_over(const LearnerGroup::Over& over, Time now, std::vector<Output>& outputs) {
  if (phase_ == Phase::stopping) return;
  if (over.learners_live) return end(now, over.exit, over.reason, over.error_code, outputs);
  if (interrupts_ == 0 && !cutting_) {
    exit_ = over.exit;
    stop_reason_ = over.reason;
    exit_code_ = over.error_code;
  }
  stop_all(now, outputs);
}

/// Tells when none arrive; cuts a run that is to end and would wait for them.
void DriverCore::look_for_data(Time now, std::vector<Output>& outputs) {
  const Fleet::Counts fleet = fleet_.counts();
  if (std::exchange(fragments_, fleet.fragments) != fleet.fragments || learners_.computes() || held_) data_ = now;
  if (phase_ != Phase::running || cutting_) return;
  const Time silent = now - data_;
  if (!finishing()) {
    if (silent < tell_no_data_) return;
    tell_no_data_ = std::min(2 * tell_no_data_, kTellNoDataMax);
    outputs.push_back(Event{"waiting", fmt::format("no data for {:.0f} s: {}", to_seconds(silent), missing())});
  } else if (silent >= kNoData || fleet.hosts == 0 ||
             now - finishing_since_ >= (interrupts_ > 0 ? kFinish : kFinishOnTime)) {
    cut(now, outputs);
  }
}

std::string DriverCore::missing() const {
  const Fleet::Counts fleet = fleet_.counts();
  const uint32_t hosts = options_.fleet.agents.num_slots, runners = options_.fleet.num_slots;
  if (fleet.hosts < hosts)
    return fmt::format("host agents {}/{}; run.json has the command to join", fleet.hosts, hosts);
  if (fleet.running < runners) return fmt::format("runners {}/{}", fleet.running, runners);
  return fmt::format("all {} runners are up, and their environments are slow, or wait", runners);
}

void DriverCore::stop_all(Time now, std::vector<Output>& outputs) {
  if (phase_ == Phase::stopping) return;
  phase_ = Phase::stopping;
  deadline_ = now + kStopDeadline;
  if (exit_ != Exit::ok) {
    Evaluations::Outputs evaluations;
    evaluations_.stop(evaluations);
    apply_evaluations(evaluations, outputs);
  }
  LearnerGroup::Outputs learners;
  learners_.stop(stop_reason_, learners);
  const bool all_hear = learners_.connected();
  apply_learners(learners, now, outputs);
  Fleet::Outputs fleet;
  const bool resumable = !last_checkpoint_.empty() || (!options_.resume_directory.empty() && !options_.last_life);
  goes_on_ = exit_code_ == "learner-lost" && options_.next_run != 0 && interrupts_ == 0 && resumable;
  fleet_.stop(stop_reason_, goes_on_ ? options_.next_run : 0, now, fleet);
  apply_fleet(fleet, now, outputs);
  if (!all_hear && learners_.num_processes() > 0)
    outputs.push_back(KillAll{});  // not yet connected: Stop cannot reach them
}

}  // namespace myriad
