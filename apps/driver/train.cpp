#include "apps/driver/train.hpp"

#include <signal.h>
#include <unistd.h>

#include <chrono>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <iostream>
#include <iterator>
#include <random>

#include "apps/driver/end_signals.hpp"
#include "apps/driver/evaluation_process.hpp"
#include "apps/driver/event_tally.hpp"
#include "apps/driver/final_evaluation.hpp"
#include "apps/driver/janitor.hpp"
#include "apps/driver/launcher.hpp"
#include "apps/driver/live_view.hpp"
#include "apps/driver/observers/event_file.hpp"
#include "apps/driver/observers/event_log.hpp"
#include "apps/driver/observers/progress_file.hpp"
#include "apps/driver/observers/results_file.hpp"
#include "apps/driver/observers/terminal_view.hpp"
#include "apps/driver/origin.hpp"
#include "apps/driver/plugins.hpp"
#include "apps/driver/policy_file.hpp"
#include "apps/driver/resume.hpp"
#include "apps/driver/resume_check.hpp"
#include "apps/driver/row_json.hpp"
#include "apps/driver/run_directory.hpp"
#include "apps/driver/run_progress.hpp"
#include "apps/driver/watched_evaluation.hpp"
#include "rl/config/groups.hpp"
#include "rl/curriculum.hpp"
#include "rl/observation_parts.hpp"
#include "rl/run_layout.hpp"
#include "rl/shell_line.hpp"
#include "rl/simulator/address.hpp"
#include "rl/simulator/clients.hpp"
#include "rl/simulator/facts.hpp"
#include "rl/system.hpp"
#include "rl/wire/messages.hpp"
#include "rl/wire/transport.hpp"
#include "rl/wrappers.hpp"
#include "roles/driver_core.hpp"

namespace myriad {
namespace fs = std::filesystem;
namespace {

constexpr Time kSnapshots = std::chrono::milliseconds(250);  ///< between two, on a terminal
constexpr Time kSnapshotsInLines = std::chrono::seconds(2);  ///< where each is a new line
constexpr const char* kRunFile = "run.json";
constexpr Time kEvaluationGrace = std::chrono::seconds(10);  ///< beyond its time: for a step that does not end
constexpr int kLivesInVain = 3;  ///< that end without a checkpoint, one after the other: then the run ends

double wall_time_s() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

/// The sockets and the launcher of a run, for all of its lives. Made before the run's directory: a run that cannot
/// listen leaves none.
struct Links {
  explicit Links(const Config& run)
      : config(run.network),
        launcher_info(find_launcher(run.hosts.launcher)),
        launcher(launcher_info.make(janitor)),
        context(1, kMaxSockets, keys().empty() ? SocketKeys{} : load_keys(keys(), "driver")),
        router(context, endpoint("driver", 0)) {
    if (!context.keys().server) return;
    config.keys = fs::absolute(config.keys).lexically_normal().string();
    require_strangers_refused(router.endpoint(), context.keys().server->public_key, kSelfTest);
  }

  bool is_ipc() const { return config.bind == "ipc"; }
  /// The directory of the keys; "" where none are used.
  std::string keys() const { return is_ipc() ? "" : config.keys; }
  /// Where `name` listens: the n-th port from network.port, or a file.
  std::string endpoint(const std::string& name, int64_t n) const {
    if (is_ipc()) return "ipc://" + janitor.socket_directory() + "/" + name;
    if (config.bind == "0.0.0.0" || config.bind == "*" || config.bind == "::" || config.bind == "[::]")
      fail(Exit::usage, "bad-bind",
           "network.bind {} is no address to connect to; want this host's own, see `hostname -I`", config.bind);
    return "tcp://" + simulator::with_port(config.bind, config.port == 0 ? 0 : config.port + n);
  }

  static constexpr Time kSelfTest = std::chrono::seconds(2);
  NetworkConfig config;
  Janitor janitor;  // before the context: it forks while there is one thread
  const LauncherInfo& launcher_info;
  std::unique_ptr<Launcher> launcher;
  SocketContext context;
  Router router;
};

/// A goal beyond what a criterion of [stop] has come to.
std::string further(const StopProgress& p) {
  const double reached = std::isnan(p.value) ? p.goal : std::max(p.value, p.goal);
  const double twice = 2 * p.goal > reached ? 2 * p.goal : 2 * reached;
  const double beyond = reached > 0 ? twice : reached < 0 ? reached / 2 : 1;
  const bool whole = p.unit == "iterations" || p.unit == "env steps";
  return whole ? fmt::format("{:.0f}", beyond) : fmt::format("{:.6g}", beyond);
}

uint64_t random_id() { return std::random_device{}() | uint64_t{std::random_device{}()} << 32; }

/// From a start, or a checkpoint, to the end, or to the loss of all learners.
class Run {
 public:
  /// Of a run that may have had lives before: how many in a row made no checkpoint, and the number of the last.
  struct Life {
    uint64_t id, previous = 0;
    int in_vain = 0;
  };
  Run(Config& config, const TrainOptions& options, Links& links, EndSignals& signals, RunDirectory& directory,
      Files& files, const EnvSpec& env, const SavedRun& saved, const Life& life)
      : config_(config),
        directory_(directory),
        life_(life),
        next_run_id_(random_id()),
        links_(links),
        signals_(signals),
        launcher_(*links.launcher),
        router_(links.router),
        clock_(make_system_clock()),
        env_(env),
        curriculum_(config.curriculum, env_, EnvContext::of(config)),
        core_(core_options(saved)),
        checkpoints_(files, (directory_.path() / "checkpoints").string(),
                     static_cast<uint32_t>(config_.checkpointing.num_to_keep)),
        progress_(config, directory.path(), saved.env_steps, directory.record.best, clock_->now()),
        options_(options),
        saved_(saved),
        before_(resumed() && directory_.record.state != "running" ? read_file(directory_.path() / kRunFile) : "") {
    launcher_.begin({.run = life_.id, .control = router_.endpoint(), .keys = links_.keys()},
                    (directory_.path() / "logs").string());
    observers_.push_back(std::make_unique<EventLog>(directory_.path()));
    auto terminal = std::make_unique<TerminalView>(options.json);
    terminal_ = terminal.get();
    observers_.push_back(std::move(terminal));
    if (!resumed()) open_reports();
  }

  /// The exit status; none when next_run_id() goes on.
  std::optional<int> run() {
    if (resumed() && life_.previous == 0)
      if (const std::string met = core_.met_before_start(); !met.empty()) return conclude_at_once(met);
    tell_how_to_join();
    if (!terminal_->is_terminal() && !options_.json)
      terminal_->note(fmt::format("run={} env={} algorithm={} seed={} directory={}", directory_.record.name,
                                  config_.environment.env, config_.algorithm, config_.seed,
                                  as_typed(directory_.path())));
    if (!saved_.note.empty()) note_event("resume", saved_.note);
    step(DriverCore::Start{});
    while (!finished_) {
      wait_readable({&router_}, signals_.fd(), std::min(core_.next_timer(), next_snapshot_) - clock_->now());
      receive();
      while (const auto signal = signals_.take()) {
        if (signal_ == 0) signal_ = *signal;
        step(DriverCore::Interrupted{EndSignals::may_hurry(*signal)});
      }
      take_ended();
      take_evaluated();
      step(DriverCore::Tick{});
      if (clock_->now() >= next_snapshot_) show();
    }
    if (!finished_->goes_on) return conclude();
    note_event("resume", fmt::format("{} in iteration {}: the run goes on from its newest checkpoint",
                                     finished_->reason, core_.training_iteration() + 1));
    directory_.record.best = progress_.best();
    return std::nullopt;
  }
  uint64_t next_run_id() const { return next_run_id_; }
  bool has_saved() const { return !core_.last_checkpoint().empty(); }
  bool has_reported() const { return reports_open_; }

 private:
  DriverCore::Options core_options(const SavedRun& saved) {
    DriverCore::Options options;
    options.run = life_.id;
    options.next_run = next_run_id_;
    options.previous_run = life_.previous;
    options.last_life = life_.in_vain + 1 >= kLivesInVain;
    options.config_toml = to_toml(config_);
    options.resume_directory = saved.directory;
    options.training_iteration = saved.iteration;
    options.num_env_steps_sampled_lifetime = saved.env_steps;
    options.num_episodes_lifetime = saved.episodes;
    options.time_total_s = saved.time_total_s;
    options.stop = config_.stop;
    options.checkpoint_frequency = static_cast<uint64_t>(config_.checkpointing.checkpoint_frequency);
    options.checkpoint_interval = seconds(config_.checkpointing.checkpoint_interval_s);
    options.smoothing_episodes = static_cast<uint32_t>(config_.reporting.metrics_num_episodes_for_smoothing);
    options.training_return = saved.training_return;
    options.evaluations = {.interval = static_cast<uint64_t>(config_.evaluation.evaluation_interval),
                           .at_end = config_.evaluation.evaluate_at_end,
                           .parallel = config_.evaluation.evaluation_parallel_to_training,
                           .timeout = seconds(config_.evaluation.evaluation_sample_timeout_s) + kEvaluationGrace,
                           .scores_training = config_.checkpointing.scores_training(),
                           .best = saved.best,
                           .returns = saved.evaluations};
    options.recent_returns = saved.returns;
    options.recent_lengths = saved.lengths;
    options.levels = {.count = curriculum_.num_levels(),
                      .advance_at = config_.curriculum.advance_at.value_or(0.0),
                      .episodes = options.smoothing_episodes,
                      .level = std::min(saved.level, curriculum_.num_levels() - 1),
                      .returns = saved.level_returns};
    options.fleet.num_slots = static_cast<uint32_t>(config_.env_runners.num_env_runners);
    options.fleet.spawns = links_.launcher_info.starts_agents;
    options.fleet.weights_fanout = static_cast<uint32_t>(config_.hosts.weights_fanout);
    options.fleet.runner_states = saved.runner_states;
    options.fleet.agents.num_slots = static_cast<uint32_t>(config_.num_hosts());
    options.fleet.agents.backoff = seconds(config_.fault_tolerance.restart_backoff_s);
    options.fleet.agents.backoff_max = seconds(config_.fault_tolerance.restart_backoff_max_s);
    options.fleet.agents.max_failures_in_a_row = static_cast<uint32_t>(config_.fault_tolerance.max_failures_in_a_row);
    options.max_failed_episodes = config_.fault_tolerance.max_failed_episodes;
    options.learners.num_learners = static_cast<uint32_t>(config_.learners.num_learners);
    options.learners.fragments_per_batch = static_cast<uint32_t>(config_.fragments_per_batch());
    options.learners.max_failures_in_a_row = static_cast<uint32_t>(config_.fault_tolerance.max_failures_in_a_row);
    options.learners.shares_by_speed = config_.async();
    options.learners.sharded = config_.learners.shard != "none";
    options.learners.endpoint = [this](uint32_t shard, uint32_t incarnation) {
      return links_.endpoint(fmt::format("learner-{}.{}", shard, incarnation), 1 + shard);
    };
    options.seed = static_cast<uint64_t>(config_.seed);
    return options;
  }

  /// The command into run.json, for scripts; on the terminal where other hosts can reach the run, or have to.
  void tell_how_to_join() {
    directory_.record.state = "running";
    std::vector<std::string> words{"agent", "--connect", router_.endpoint(), "--run", std::to_string(life_.id)};
    if (!links_.keys().empty()) words.insert(words.end(), {"--keys", links_.keys()});
    directory_.record.join = command_name() + " " + shell_line(words);
    directory_.save();
    if (links_.is_ipc() && links_.launcher_info.starts_agents) return;
    terminal_->note(fmt::format("join     {}", directory_.record.join));
  }

  void step(const DriverCore::Input& input) {
    std::vector<DriverCore::Output> outputs;
    core_.step(input, clock_->now(), outputs);
    for (DriverCore::Output& output : outputs) apply(output);
  }

  void apply(DriverCore::Output& output) {
    if (const auto failed = carry_out(output, launcher_)) {
      step(*failed);
    } else if (auto* send = std::get_if<DriverCore::Send>(&output)) {
      (void)router_.send(send->peer, encode(send->message));  // repeated by the core until it has its effect
    } else if (auto* save = std::get_if<DriverCore::Save>(&output)) {
      if (auto* commit = std::get_if<CheckpointWriter::Commit>(&save->input)) {
        commit->extra["driver.json"] = driver_json(core_, core_.time_total_s(clock_->now()));
        commit->extra["config.toml"] = to_toml(config_);
        commit->extra["spaces.json"] =
            spaces_json(env_.observation_space, env_.given_actions.value_or(env_.action_space));
      }
      const auto result = checkpoints_.step(save->input, clock_->now());
      step(DriverCore::Saved{result});
    } else if (const auto* report = std::get_if<DriverCore::Report>(&output)) {
      write_report(report->report);
    } else if (const auto* event = std::get_if<DriverCore::Event>(&output)) {
      note_event(event->kind, event->text);
    } else if (const auto* evaluate = std::get_if<DriverCore::Evaluate>(&output)) {
      begin_evaluation(*evaluate);
    } else if (std::holds_alternative<DriverCore::KillEvaluation>(output)) {
      evaluations_.back().process->kill();
    } else if (const auto* best = std::get_if<DriverCore::NewBest>(&output)) {
      point_to_best(fs::path(best->directory).filename());
    } else if (auto* finished = std::get_if<DriverCore::Finished>(&output)) {
      finished_ = std::move(*finished);
    }
  }

  void receive() {
    while (auto received = router_.receive()) {
      const std::string& who = received->user.empty() ? received->peer : received->user;
      if (budget_.refused(who, clock_->now())) {
        ++malformed_;
        continue;
      }
      auto decoded = decode(received->frames);
      if (auto* message = std::get_if<Message>(&decoded)) {
        step(DriverCore::Received{received->peer, std::move(*message), received->user});
        continue;
      }
      ++malformed_;
      if (budget_.malformed(who, clock_->now()))
        note_event("peer-refused", fmt::format("more than {} malformed messages in a minute from one peer: it is not "
                                               "heard for a minute",
                                               PeerBudget::kMaxMalformed));
    }
  }

  void take_ended() {
    while (const auto ended = launcher_.ended()) {
      // Its last message may still be in the socket; DriverCore wants that error before the exit.
      receive();
      step(input_of(*ended));
    }
  }

  bool due_for_evaluation(uint64_t iteration) const {
    const int64_t interval = config_.evaluation.evaluation_interval;
    return interval > 0 && static_cast<int64_t>(iteration) % interval == 0;
  }

  void begin_evaluation(const DriverCore::Evaluate& evaluate) {
    try {
      evaluations_.push_back(
          {{static_cast<double>(evaluate.training_iteration), static_cast<double>(core_.env_steps())},
           clock_->now(),
           std::make_unique<EvaluationProcess>(directory_.path(), evaluate.directory,
                                               config_.evaluation.evaluation_parallel_to_training)});
    } catch (const Error& error) {
      step(DriverCore::Evaluated{evaluate.training_iteration, Snapshot::kUnknown, error.line()});
    }
  }

  /// The last one is the core's; those before it were killed.
  void take_evaluated() {
    for (size_t i = 0; i < evaluations_.size(); ++i) {
      const auto ended = evaluations_[i].process->ended();
      if (!ended) continue;
      EvaluatedCheckpoint checkpoint = evaluations_[i].checkpoint;
      checkpoint.time_s = to_seconds(clock_->now() - evaluations_[i].begun);
      evaluations_.erase(evaluations_.begin() + static_cast<std::ptrdiff_t>(i--));
      const double return_mean = ended->result ? ended->result->return_mean : Snapshot::kUnknown;
      const uint64_t iteration = static_cast<uint64_t>(checkpoint.training_iteration);
      step(DriverCore::Evaluated{iteration, return_mean, ended->failure});
      if (ended->result) note_evaluation(checkpoint, *ended->result);
    }
  }

  void note_evaluation(const EvaluatedCheckpoint& checkpoint, const FinalEvaluation& result) {
    if (!reports_open_) open_reports();
    const auto best = core_.evaluations().best_iteration();
    const Report rows = evaluation_rows(checkpoint, &result, best);
    progress_.evaluated(rows);
    for (const auto& observer : observers_)
      observer->evaluated({rows, static_cast<int64_t>(checkpoint.env_steps), wall_time_s()});
    note_event(
        "evaluation",
        fmt::format("iteration {}: return {:.1f} +/- {:.1f} over {} episodes{}", checkpoint.training_iteration,
                    result.return_mean, result.return_stddev, result.episodes,
                    best && static_cast<double>(*best) == checkpoint.training_iteration ? ", the best so far" : ""));
    if (!result.failure.empty()) note_event("video", result.failure);
    evaluated_ = {checkpoint.training_iteration, result};
  }

  /// The run's `best`, a link to the checkpoint of that name.
  void point_to_best(const fs::path& name) {
    const fs::path link = directory_.path() / "best", next = directory_.path() / ".best";
    std::error_code error;
    fs::remove(next, error);
    fs::create_directory_symlink("checkpoints" / name, next, error);
    if (!error) fs::rename(next, link, error);
    if (error) note_event("best", fmt::format("{} cannot be made: {}", link.string(), error.message()));
  }
  void remove_best() const {
    std::error_code ignored;
    if (const fs::path link = directory_.path() / "best"; fs::is_symlink(link, ignored)) fs::remove(link, ignored);
  }

  void note_event(const std::string& kind, const std::string& text) {
    if (const auto told = tally_.told(kind, text)) note_event({wall_time_s(), kind, *told});
  }
  void note_event(const RunEvent& event) {
    if (!TerminalView::notes(event)) progress_.event(event.text);  // the panel does not say it again
    for (const auto& observer : observers_) observer->event(event);
  }

  bool resumed() const { return !saved_.directory.empty(); }

  /// The files of reports. A run that goes on takes back what came after its checkpoint, at the first report: a resume
  /// that never gets there changes nothing.
  void open_reports() {
    const fs::path& run = directory_.path();
    std::optional<int64_t> from;
    if (resumed()) {
      set_newer_aside(run, saved_.iteration);
      truncate_results(run, static_cast<int64_t>(saved_.iteration));
      if (!saved_.origin.folder.empty()) {  // a user's resume, not a life after the loss of all learners
        directory_.write_resume(options_.command, to_toml(config_));
        saved_.origin.save(run);
      }
      from = static_cast<int64_t>(saved_.env_steps);
    }
    std::vector<std::unique_ptr<RunObserver>> files;
    files.push_back(std::make_unique<ResultsFile>(run));
    files.push_back(std::make_unique<ProgressFile>(run));
    if (resumed() && due_for_evaluation(saved_.iteration))  // it is evaluated again
      truncate_lines(evaluations_up_to(run, static_cast<int64_t>(saved_.iteration) - 1));
    files.push_back(std::make_unique<EvaluationsFile>(run));
    files.push_back(std::make_unique<EventFile>(run / "tb", wall_time_s(), from));
    observers_.insert(observers_.begin(), std::make_move_iterator(files.begin()), std::make_move_iterator(files.end()));
    reports_open_ = true;
    if (const auto best = core_.evaluations().best_iteration())
      point_to_best(fmt::format("{:09}", *best));
    else
      remove_best();
  }

  void write_report(const wire::IterationReportT& report) {
    if (!reports_open_) open_reports();
    Metrics metrics = metrics_of(report);
    metrics["dropped/driver_malformed"] = static_cast<double>(malformed_);
    Report rows = progress_.report(report, metrics, core_, clock_->now());
    for (const auto& [name, value] : curriculum_.rows(core_.env_steps(), core_.levels().level()))
      rows.push_back({"curriculum/" + name, value});
    for (const auto& observer : observers_)
      observer->report({rows, static_cast<int64_t>(core_.env_steps()), wall_time_s()});
    for (const auto& observer : observers_)
      if (const auto event = observer->notice()) note_event(*event);
    if (core_.finishing()) show();
  }

  void show() {
    const Time now = clock_->now();
    next_snapshot_ = now + (terminal_->is_terminal() ? kSnapshots : kSnapshotsInLines);
    const Snapshot snapshot = progress_.snapshot(core_, now);
    for (const auto& observer : observers_) observer->snapshot(snapshot);
  }

  /// Saves how the run ended and prints its result, what is saved and the next commands. Returns the exit status.
  int conclude() {
    launcher_.kill_all();
    const bool interrupted = finished_->exit == Exit::interrupted;
    const bool failed = finished_->exit != Exit::ok && !interrupted;
    if (interrupted) finished_->reason += fmt::format(" by SIG{}", ::sigabbrev_np(signal_));
    const char* state = failed ? "failed" : interrupted ? "interrupted" : "finished";
    save_record(state,
                failed ? fmt::format("error[{}] {}", finished_->error_code, finished_->reason) : finished_->reason);
    for (const auto& observer : observers_) observer->finished({wall_time_s(), "stop", directory_.record.exit_reason});
    if (failed) {
      std::cerr << directory_.record.exit_reason << "\n" << what_is_saved();
      return static_cast<int>(finished_->exit);
    }
    const bool unsaved = !core_.newest_is_saved();
    if (unsaved)
      std::cerr << fmt::format("error[unsaved] iteration {} is in no checkpoint; events.jsonl says why\n",
                               core_.training_iteration());
    terminal_->close(closing_text());
    if (signal_ != 0) return EndSignals::exit_status(signal_);
    return static_cast<int>(unsaved ? Exit::resource : Exit::ok);
  }

  /// Nothing was trained: the resume asks for no more than the run has.
  int conclude_at_once(const std::string& met) {
    terminal_->close(fmt::format(
        "done     {} was reached before: nothing was trained, nothing has changed\nnext     {}\n", met, way_on(met)));
    return static_cast<int>(Exit::ok);
  }

  /// The command that goes on with this run, past the criteria that it has met. `ended_by`: the reason of the core.
  std::string way_on(std::string_view ended_by) const {
    std::vector<std::string> words{"train", "--resume", as_typed(directory_.path())};
    for (const StopProgress& p : progress_.snapshot(core_, clock_->now()).stop)
      if (p.value >= p.goal || ended_by.starts_with(p.key + " "))
        words.push_back(fmt::format("stop.{}={}", p.key, further(p)));
    return command_name() + " " + shell_line(words);
  }

  void save_record(const std::string& state, const std::string& reason) {
    RunRecord& record = directory_.record;
    record.state = state;
    record.end_time_s = wall_time_s();
    record.join.clear();
    record.exit_reason = reason;
    record.last_iteration = static_cast<int64_t>(core_.training_iteration());
    record.last_step = static_cast<int64_t>(core_.env_steps());
    record.best = progress_.best();
    try {
      // A resume that ended before its first report leaves the record of the run as it was.
      if (!before_.empty() && !reports_open_ && state != "finished")
        write_atomically(directory_.path() / kRunFile, before_);
      else
        directory_.save();
    } catch (const Error& error) {
      std::cerr << error.line() << "\n";  // the disk is full; the run's result is printed all the same
    }
  }

  /// Evaluates the last policy where the config says so.
  std::string closing_text() {
    std::string text = fmt::format("{}  {} after {} env steps in {:.1f} s\n",
                                   finished_->exit == Exit::interrupted ? "stopped" : "done   ", finished_->reason,
                                   grouped(static_cast<double>(core_.env_steps())), core_.time_total_s(clock_->now()));
    const auto last = static_cast<double>(core_.training_iteration());
    if (has_saved() && finished_->exit == Exit::ok && signal_ == 0) {
      if (config_.evaluation.evaluate_at_end && config_.evaluation.evaluation_interval == 0)
        text += evaluation_text(last);
      else if (evaluated_ && evaluated_->first == last)
        text += evaluation_text(evaluated_->second);
    }
    if (const std::optional<Evaluations::Best>& best = core_.evaluations().best())
      text += fmt::format("best     {}, iteration {}: {} {:.1f}\n", as_typed(directory_.path() / "best"),
                          best->training_iteration,
                          config_.checkpointing.scores_training() ? "training return" : "return", best->score);
    return text + what_is_saved();
  }

  /// Of an evaluation now. One that fails or does not end is told; the run is trained and saved.
  std::string evaluation_text(double iteration) {
    const Time begun = clock_->now();
    const WatchedEvaluation evaluation =
        watch_evaluation(config_, directory_.path(), core_.last_checkpoint(), signals_, [&] {
          terminal_->note(fmt::format("evaluates {} episodes, for {:.0f} s at most; Ctrl-C leaves it out",
                                      config_.evaluation.evaluation_duration,
                                      config_.evaluation.evaluation_sample_timeout_s));
        });
    signal_ = evaluation.signal;
    if (!evaluation.result) {
      note_event("evaluation-failed", evaluation.failure);
      return fmt::format("return   not evaluated: {}\n", evaluation.failure);
    }
    note_evaluation({iteration, static_cast<double>(core_.env_steps()), to_seconds(clock_->now() - begun)},
                    *evaluation.result);
    return evaluation_text(*evaluation.result);
  }

  std::string evaluation_text(const FinalEvaluation& result) const {
    const auto episodes = static_cast<size_t>(config_.evaluation.evaluation_duration);
    std::string text = fmt::format("return   {:.1f} +/- {:.1f} over {} evaluation episodes{}\n", result.return_mean,
                                   result.return_stddev, result.episodes - result.failed,
                                   result.failed == 0 ? "" : fmt::format(", without {} that failed", result.failed));
    if (result.episodes < episodes)
      text += fmt::format(
          "warning[evaluation-cut] {} of {} episodes ended within "
          "evaluation.evaluation_sample_timeout_s = {:g}\n",
          result.episodes, episodes, config_.evaluation.evaluation_sample_timeout_s);
    if (result.cut > 0) text += endless_warning(result.cut, episodes) + "\n";
    if (result.videos > 0)
      text += fmt::format("videos   {} in {}\n", result.videos, as_typed(directory_.path() / "videos"));
    if (!result.failure.empty()) text += fmt::format("videos   {}\n", result.failure);
    return text;
  }

  /// The last lines: what is saved, and how to go on.
  std::string what_is_saved() const {
    const std::string& newest = has_saved() ? core_.last_checkpoint() : saved_.directory;
    const bool lost = !core_.newest_is_saved();
    if (newest.empty())
      return fmt::format(
          "saved    nothing: {}\nnext     start it again, under another --out where it had one\n",
          lost ? fmt::format("its {} iterations are lost", core_.training_iteration()) : "no iteration was finished");
    std::string text =
        fmt::format("saved    {}{}\nnext     ", as_typed(newest), lost ? "; what came after it is lost" : "");
    // Clients come to env runners alone.
    if (simulator::clients_file_of(config_.environment.env).empty())
      text += fmt::format("{} {}\n         ", command_name(), shell_line({"evaluate", as_typed(newest)}));
    if (core_.evaluations().best())
      text +=
          fmt::format("{} {} --best\n         ", command_name(), shell_line({"evaluate", as_typed(directory_.path())}));
    return text + way_on(finished_->reason) + "\n";
  }

  Config& config_;
  RunDirectory& directory_;
  Life life_;
  uint64_t next_run_id_;
  Links& links_;
  EndSignals& signals_;
  Launcher& launcher_;
  Router& router_;
  std::unique_ptr<Clock> clock_;
  EnvSpec env_;
  Curriculum curriculum_;
  DriverCore core_;
  CheckpointWriter checkpoints_;
  RunProgress progress_;
  std::vector<std::unique_ptr<RunObserver>> observers_;
  TerminalView* terminal_ = nullptr;  // one of the observers
  PeerBudget budget_;
  EventTally tally_;
  std::optional<DriverCore::Finished> finished_;
  struct Evaluation {
    EvaluatedCheckpoint checkpoint;
    Time begun;
    std::unique_ptr<EvaluationProcess> process;
  };
  std::vector<Evaluation> evaluations_;                          // that run
  std::optional<std::pair<double, FinalEvaluation>> evaluated_;  // the last, with its iteration
  Time next_snapshot_{};
  uint64_t malformed_ = 0;
  const TrainOptions& options_;
  SavedRun saved_;      // what the run goes on from; empty for a fresh one
  std::string before_;  // run.json as a resume found it, to the byte; "" of a run that was not ended
  bool reports_open_ = false;
  int signal_ = 0;  // the first that asked to end
};

}  // namespace

ConfigFile read_config(const std::string& path_or_name) {
  if (fs::exists(path_or_name)) return {path_or_name, read_file(path_or_name)};
  std::vector<std::string> shipped;
  for (const fs::path& folder :
       {fs::path(program_directory()) / "../../configs", fs::path(program_directory()) / "../share/myriad/configs"}) {
    const fs::path file = folder / (path_or_name + ".toml");
    if (fs::exists(file)) return {path_or_name + ".toml", read_file(file)};
    if (fs::exists(folder))
      for (const auto& entry : fs::directory_iterator(folder))
        if (entry.is_regular_file()) shipped.push_back(entry.path().stem().string());
  }
  std::sort(shipped.begin(), shipped.end());
  fail(Exit::usage, "no-config", "no file {} and no shipped config of that name{}", path_or_name,
       suggestion(path_or_name, shipped));
}

namespace {

/// Agents of one world are reset and stepped together.
void check_agents(const Config& config, const EnvSpec& env) {
  if (env.agents == 1) return;
  if (const int64_t envs = config.env_runners.num_envs_per_env_runner; envs % env.agents != 0)
    fail(Exit::usage, "impossible",
         "env_runners.num_envs_per_env_runner is {}: {} has {} agents that act together, an environment each; want a "
         "multiple of {}",
         envs, env.id, env.agents, env.agents);
  const CurriculumConfig& curriculum = config.curriculum;
  if (!curriculum.schedules.empty() || !curriculum.randomize.empty() || !curriculum.levels.empty())
    fail(Exit::usage, "impossible", "[curriculum] changes options of one environment, but {} agents of {} share them",
         env.agents, env.id);
}

static_assert(size_t{kMostInferenceParameters} * sizeof(float) <= kMaxPayloadBytes);

/// What of "key=value" makes whole worlds of the agents of `env`, where `is_set` says that these settings were left
/// open. Throws Error("impossible") for a batch that no number of worlds divides.
std::vector<std::string> fitted_to_agents(const Config& config, const EnvSpec& env,
                                          const std::function<bool(std::string_view)>& is_set) {
  const EnvRunnersConfig& runners = config.env_runners;
  const int64_t agents = env.agents, usual = runners.num_envs_per_env_runner, batch = config.training.train_batch_size;
  if (usual % agents == 0 || is_set("env_runners.num_envs_per_env_runner")) return {};
  const int64_t times =
      runners.rollout_fragment_length == 0 ? runners.num_env_runners : runners.rollout_fragment_length;
  const int64_t above = (usual + agents - 1) / agents * agents, unit = above * times;
  const auto set = [](std::string_view key, int64_t value) { return fmt::format("{}={}", key, value); };
  const std::string_view envs_key = "env_runners.num_envs_per_env_runner", batch_key = "training.train_batch_size";
  if (!is_set(batch_key)) return {set(envs_key, above), set(batch_key, (batch + unit - 1) / unit * unit)};
  int64_t best = 0;
  for (int64_t envs = agents; envs * times <= batch; envs += agents)
    if (batch % (envs * times) == 0 && (best == 0 || std::abs(envs - usual) < std::abs(best - usual))) best = envs;
  if (best == 0)
    fail(Exit::usage, "impossible",
         "training.train_batch_size is {}: {} has {} agents that act together, an environment each, and no number of "
         "them makes such a batch; want {} = {} and {} = {}",
         batch, env.id, agents, envs_key, above, batch_key, (batch + unit - 1) / unit * unit);
  return {set(envs_key, best)};
}

/// That of a user's file, for a run.
Config user_config(const ConfigFile& file, const std::vector<std::string>& overrides) {
  const auto load = [&file](const std::vector<std::string>& given) {
    Config config = load_user_config(file.text, file.name, given);
    config.environment.env = EnvRegistry::instance().absolute(config.environment.env);
    return config;
  };
  Config config = load(overrides);
  if (EnvRegistry::instance().find(config.environment.env, EnvContext::of(config)).agents == 1) return config;
  const std::vector<std::string> fitted = fitted_to_agents(config, environment_spec(config), [&](std::string_view key) {
    return is_set(file.text, file.name, overrides, key);
  });
  if (fitted.empty()) return config;
  fmt::print(stderr, "chosen for the agents of {}, which act together: {}\n", config.environment.env,
             fmt::join(fitted, " "));
  std::vector<std::string> all = overrides;
  all.insert(all.end(), fitted.begin(), fitted.end());
  return load(all);
}

/// A fragment is one payload of a message. Throws Error for one that is too large, with the longest that fits.
void check_fragment_size(const Config& config, const EnvSpec& env, const ModuleSpec& module) {
  const auto bytes_of = [&](int64_t length) { return fragment_layout(config, env, module, length).capacity_bytes(); };
  const int64_t length = config.fragment_length(), environments = config.env_runners.num_envs_per_env_runner;
  const size_t bytes = bytes_of(length);
  if (bytes <= kMaxPayloadBytes) return;
  const int64_t in_batch = config.training.train_batch_size / environments;
  int64_t fits = std::min(length, in_batch);
  while (fits > 0 && (in_batch % fits != 0 || bytes_of(fits) > kMaxPayloadBytes)) --fits;
  constexpr double kMiB = 1 << 20;
  fail(Exit::usage, "impossible",
       "a fragment of {} steps x {} environments of observations {} takes {:.0f} MiB, a message holds {:.0f}; want {}",
       length, environments, env.observation_space.to_string(), static_cast<double>(bytes) / kMiB,
       static_cast<double>(kMaxPayloadBytes) / kMiB,
       fits > 0 ? fmt::format("env_runners.rollout_fragment_length = {}", fits)
                : "fewer env_runners.num_envs_per_env_runner");
}

}  // namespace

EnvSpec check_environment(const Config& config) {
  EnvSpec env = environment_spec(config);
  (void)check_environment(config, env);
  return env;
}

ModuleSpec check_environment(const Config& config, const EnvSpec& env) {
  ModuleSpec module = module_of(config, env);
  check_num_parameters(module, env.observation_space, env.action_space);
  check_fragment_size(config, env, module);
  (void)lr_multipliers(module, config.training.lr_multipliers);
  if (const ModelConfig& model = config.rl_module; model.init_from.empty() && !model.init_parts.empty())
    fail(Exit::usage, "impossible", "rl_module.init_parts says what to take of rl_module.init_from, which is not set");
  if (const auto* box = env.action_space.get_if<Box>(); box != nullptr && box->dtype != DType::f32)
    fail(Exit::usage, "unsupported-space", "the actions of {} are {}; a policy's are float32: declare them so",
         config.environment.env, env.action_space.to_string());
  (void)Curriculum(config.curriculum, env, EnvContext::of(config));
  check_agents(config, env);
  if (simulator::clients_file_of(config.environment.env).empty()) return module;
  if (config.env_runners.num_envs_per_env_runner != 1)
    fail(Exit::usage, "impossible",
         "env_runners.num_envs_per_env_runner is {}: a client has its own pace and wants a runner to itself; want "
         "num_envs_per_env_runner = 1",
         config.env_runners.num_envs_per_env_runner);
  if (config.evaluation.evaluate_at_end)
    fail(Exit::usage, "impossible",
         "evaluation.evaluate_at_end is true, but clients come to env runners alone; want evaluate_at_end = false");
  if (config.evaluation.evaluation_interval > 0)
    fail(Exit::usage, "impossible",
         "evaluation.evaluation_interval is {}, but clients come to env runners alone; want 0, and for a best "
         "checkpoint checkpointing.checkpoint_score_attribute = \"env_runners/episode_return_mean\"",
         config.evaluation.evaluation_interval);
  return module;
}

namespace {

int train(Config& config, const EnvSpec& env, const TrainOptions& options, Links& links, EndSignals& signals,
          RunDirectory& directory, Files& files, SavedRun saved) {
  links.janitor.name_folder(directory.path().string());
  for (Run::Life life{random_id()};;) {
    {
      Run run(config, options, links, signals, directory, files, env, saved, life);
      if (const auto status = run.run()) return *status;
      life = {run.next_run_id(), life.id, run.has_saved() ? 0 : life.in_vain + 1};
      if (!run.has_reported()) continue;  // from the checkpoint that was asked for, which need not be the newest
    }
    try {
      saved = load_saved_run(files, checkpoint_of(files, directory.path()), config.env_runners.num_env_runners);
    } catch (const Error& error) {
      directory.record.state = "failed";
      directory.record.join.clear();
      directory.record.exit_reason = error.line();
      directory.save();
      throw;
    }
  }
}

}  // namespace

namespace {

/// Of a run that takes all parameters of a checkpoint with other observations. Throws Error("foreign-checkpoint") where
/// none of these has a name of this run's.
void tell_of_other_observations(const Config& config, const EnvSpec& env) {
  const ModelConfig& model = config.rl_module;
  const std::string spaces = model.init_from + "/spaces.json";
  if (model.init_from.empty() || !model.init_parts.empty() || !fs::exists(spaces)) return;
  const std::vector<ObservationPart> from = saved_observation_parts(read_file(spaces), spaces),
                                     to = observation_parts(env.observation_space);
  if (from == to) return;
  (void)features_by_path(from, to);
  std::vector<std::string> fresh, dropped;
  for (const ObservationPart& part : to)
    if (std::ranges::find(from, part) == from.end()) fresh.push_back(part.path);
  for (const ObservationPart& part : from)
    if (std::ranges::find(to, part) == to.end()) dropped.push_back(part.path);
  std::cerr << fmt::format(
      "note: other observations than {}'s: new {}; no longer there {}; what reads a new one begins with 0\n",
      model.init_from, fresh.empty() ? "none" : fmt::format("{}", fmt::join(fresh, ", ")),
      dropped.empty() ? "none" : fmt::format("{}", fmt::join(dropped, ", ")));
}

}  // namespace

int train(const TrainOptions& options) {
  const auto files = make_system_files("/");
  if (options.resume.empty()) {
    const std::string given = options.from.empty() ? "" : checkpoint_of(*files, fs::absolute(options.from));
    std::vector<std::string> overrides = options.overrides;
    // What a checkpoint's own run began with is not what this one takes.
    if (options.config.empty())
      overrides.insert(overrides.begin(), {"rl_module.init_parts=[]", "rl_module.init_filter='auto'"});
    const ConfigFile file =
        options.config.empty() ? ConfigFile{given + "/config.toml", saved_config(given)} : read_config(options.config);
    Config config = user_config(file, overrides);
    if (std::string& from = config.rl_module.init_from; !given.empty())
      from = given;
    else if (!from.empty())
      from = checkpoint_of(*files, fs::absolute(from));
    ask_for_module(config);
    const EnvSpec env = check_environment(config);
    tell_of_other_observations(config, env);
    config.plugins.environment = simulator::told_facts();
    EndSignals signals;  // what came before it ended this process: there was nothing to save
    Links links(config);
    RunDirectory directory = options.out.empty() ? RunDirectory::create_numbered(fs::absolute("runs"))
                                                 : RunDirectory::create_exact(fs::absolute(options.out));
    directory.record.start_time_s = wall_time_s();
    directory.write_setup(options.command, file.text, to_toml(config), MYRIAD_VERSION);
    Origin::here(config).save(directory.path());
    directory.save();
    return train(config, env, options, links, signals, directory, *files, SavedRun{});
  }
  fs::path given = fs::absolute(options.resume);
  if (given.filename().empty()) given = given.parent_path();
  const fs::path run_path = run_of(given);
  RunDirectory directory = RunDirectory::open(run_path);
  const std::string checkpoint = checkpoint_of(*files, given);
  const std::string text = saved_config(checkpoint);
  refuse_other_algorithm(text, checkpoint, options.overrides);
  Config config = load_user_config(text, checkpoint + "/config.toml", options.overrides);
  config.environment.env = EnvRegistry::instance().absolute(config.environment.env);  // given now: relative to here
  Revisited revisited = revisit(run_path, config, options.overrides);
  ask_for_module(config);
  const EnvSpec env = check_environment(config);
  EndSignals signals;
  config.plugins.environment = simulator::told_facts();
  SavedRun saved = load_saved_run(*files, checkpoint, config.env_runners.num_env_runners);
  prepare_resume(*files, saved, config, env, revisited);
  saved.origin = std::move(revisited.origin);
  check_results(run_path, static_cast<int64_t>(saved.iteration));
  Links links(config);
  return train(config, env, options, links, signals, directory, *files, std::move(saved));
}

}  // namespace myriad
