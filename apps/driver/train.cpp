#include "apps/driver/train.hpp"

#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <iostream>
#include <random>

#include "apps/driver/children.hpp"
#include "apps/driver/driver_core.hpp"
#include "apps/driver/live_view.hpp"
#include "apps/driver/policy_file.hpp"
#include "apps/driver/results.hpp"
#include "apps/driver/run_directory.hpp"
#include "rl/wire/transport.hpp"

namespace myriad {
namespace fs = std::filesystem;
namespace {

constexpr Time kRedraw = std::chrono::milliseconds(250);

double wall_time_s() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

/// What a checkpoint's driver.json says.
struct Saved {
  std::string directory;  // "" = a fresh run
  uint64_t iteration = 0, env_steps = 0, episodes = 0;
  double time_total_s = 0;
  std::deque<double> returns, lengths;
  std::vector<SharedBytes> runner_states;
};

std::string driver_json(const DriverCore& core, double time_total_s) {
  return boost::json::serialize(boost::json::object{
             {"training_iteration", core.training_iteration()},
             {"num_env_steps_sampled_lifetime", core.env_steps()},
             {"num_episodes_lifetime", core.episodes_lifetime()},
             {"time_total_s", time_total_s},
             {"recent_episode_returns", boost::json::array(core.recent_returns().begin(), core.recent_returns().end())},
             {"recent_episode_lengths",
              boost::json::array(core.recent_lengths().begin(), core.recent_lengths().end())}}) +
         "\n";
}

Saved load_saved(Files& files, const std::string& directory, int64_t num_slots) {
  Saved saved;
  saved.directory = directory;
  try {
    const std::string text = read_file(directory + "/driver.json");
    const auto object = boost::json::parse(text).as_object();
    saved.iteration = object.at("training_iteration").to_number<uint64_t>();
    saved.env_steps = object.at("num_env_steps_sampled_lifetime").to_number<uint64_t>();
    saved.episodes = object.at("num_episodes_lifetime").to_number<uint64_t>();
    saved.time_total_s = object.at("time_total_s").to_number<double>();
    for (const auto& value : object.at("recent_episode_returns").as_array())
      saved.returns.push_back(value.to_number<double>());
    for (const auto& value : object.at("recent_episode_lengths").as_array())
      saved.lengths.push_back(value.to_number<double>());
  } catch (const std::exception& error) {
    fail(Exit::usage, "corrupt-checkpoint", "{}/driver.json: {}", directory, error.what());
  }
  for (int64_t slot = 0; slot < num_slots; ++slot) {
    const std::string name = fmt::format("{}/env_runners/slot-{:04}.safetensors", directory, slot);
    saved.runner_states.push_back(fs::exists(name) ? SharedBytes::of(files.read(name)) : SharedBytes{});
  }
  return saved;
}

/// The run goes on before these: kept, but no longer what a resume finds or a new checkpoint of that number meets.
void set_newer_aside(const fs::path& run, uint64_t iteration) {
  std::vector<std::string> newer;
  for (const auto& entry : fs::directory_iterator(run / "checkpoints"))
    if (const std::string name = entry.path().filename().string();
        !name.starts_with('.') && name > fmt::format("{:09}", iteration))
      newer.push_back(name);
  std::sort(newer.begin(), newer.end());
  for (const std::string& name : newer) {
    fs::create_directories(run / "checkpoints-replaced");
    fs::remove_all(run / "checkpoints-replaced" / name);
    fs::rename(run / "checkpoints" / name, run / "checkpoints-replaced" / name);
    std::cerr << fmt::format("note: newer checkpoint {} moved to {}\n", name, (run / "checkpoints-replaced").string());
  }
}

class Run {
 public:
  Run(Config config, const TrainOptions& options, RunDirectory directory, Files& files, const Saved& saved)
      : config_(std::move(config)),
        json_(options.json),
        directory_(std::move(directory)),
        children_((directory_.path() / "logs").string()),
        clock_(make_system_clock()),
        router_(context_, "ipc://" + children_.socket_directory() + "/driver"),
        core_(core_options(saved)),
        checkpoints_(files, (directory_.path() / "checkpoints").string(),
                     static_cast<uint32_t>(config_.checkpointing.num_to_keep)),
        results_(directory_.path(), wall_time_s(),
                 saved.directory.empty() ? std::nullopt : std::optional(static_cast<int64_t>(saved.env_steps))),
        terminal_(Terminal::of_stdout()),
        view_(std::cout,
              view_mode(options.json, terminal_.is_terminal, std::getenv("TERM") == nullptr ? "" : std::getenv("TERM")),
              terminal_.colour) {
    base_steps_ = saved.env_steps;
    last_steps_ = static_cast<double>(saved.env_steps);
    best_ = directory_.record.best.value_or(best_);
  }

  int run() {
    sigset_t signals;
    ::sigemptyset(&signals);
    for (int signal : {SIGINT, SIGTERM, SIGCHLD}) ::sigaddset(&signals, signal);
    const int signal_fd = ::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
    started_ = clock_->now();
    step(DriverCore::Start{});
    while (!finished_) {
      wait_readable({&router_}, signal_fd, std::min(core_.next_timer(), next_redraw_) - clock_->now());
      receive();
      for (signalfd_siginfo info; ::read(signal_fd, &info, sizeof info) == sizeof info;)
        if (info.ssi_signo != SIGCHLD) step(DriverCore::Interrupted{});
      reap();
      step(DriverCore::Tick{});
      if (clock_->now() >= next_redraw_) draw();
    }
    ::close(signal_fd);
    return conclude();
  }

 private:
  DriverCore::Options core_options(const Saved& saved) {
    DriverCore::Options options;
    options.run = run_id_;
    options.config_toml = to_toml(config_);
    options.learner_endpoint = "ipc://" + children_.socket_directory() + "/learner-0";
    options.resume_directory = saved.directory;
    options.runner_states = saved.runner_states;
    options.training_iteration = saved.iteration;
    options.num_env_steps_sampled_lifetime = saved.env_steps;
    options.num_episodes_lifetime = saved.episodes;
    options.time_total_s = saved.time_total_s;
    options.stop = config_.stop;
    options.checkpoint_frequency = static_cast<uint64_t>(config_.checkpointing.checkpoint_frequency);
    options.smoothing_episodes = static_cast<uint32_t>(config_.reporting.metrics_num_episodes_for_smoothing);
    options.recent_returns = saved.returns;
    options.recent_lengths = saved.lengths;
    options.slots.num_slots = static_cast<uint32_t>(config_.env_runners.num_env_runners);
    options.slots.backoff = seconds(config_.fault_tolerance.restart_backoff_s);
    options.slots.backoff_max = seconds(config_.fault_tolerance.restart_backoff_max_s);
    options.slots.max_crashes_per_minute = static_cast<uint32_t>(config_.fault_tolerance.max_crashes_per_minute);
    options.slots.step_timeout = seconds(config_.env_runners.step_timeout_s);
    options.seed = static_cast<uint64_t>(config_.seed);
    return options;
  }

  void step(const DriverCore::Input& input) {
    std::vector<DriverCore::Output> outputs;
    core_.step(input, clock_->now(), outputs);
    for (DriverCore::Output& output : outputs) apply(output);
  }

  std::vector<std::string> child_arguments() const {
    return {"--control", "ipc://" + children_.socket_directory() + "/driver",
            "--run",     std::to_string(run_id_),
            "--epoch",   "1",
            "--parent",  std::to_string(::getpid())};
  }

  void apply(DriverCore::Output& output) {
    if (std::holds_alternative<DriverCore::SpawnLearner>(output)) {
      spawn("myriad-learner", std::nullopt, 0);
    } else if (const auto* runner = std::get_if<DriverCore::SpawnRunner>(&output)) {
      spawn("myriad-env-runner", runner->slot, runner->incarnation);
    } else if (const auto* kill = std::get_if<DriverCore::KillRunner>(&output)) {
      for (const auto& [pid, child] : child_of_)
        if (child.slot == kill->slot && child.incarnation == kill->incarnation) children_.kill(pid, kill->signal);
    } else if (std::holds_alternative<DriverCore::KillAll>(output)) {
      children_.kill_all();
    } else if (auto* send = std::get_if<DriverCore::Send>(&output)) {
      (void)router_.send(send->peer, encode(send->message));  // repeated by the core until it has its effect
    } else if (auto* save = std::get_if<DriverCore::Save>(&output)) {
      if (auto* commit = std::get_if<CheckpointWriter::Commit>(&save->input)) {
        commit->extra["driver.json"] = driver_json(core_, core_.time_total_s(clock_->now()));
        commit->extra["config.toml"] = to_toml(config_);
      }
      const auto result = checkpoints_.step(save->input, clock_->now());
      step(DriverCore::Saved{result});
    } else if (const auto* report = std::get_if<DriverCore::Report>(&output)) {
      write_report(report->report);
    } else if (const auto* event = std::get_if<DriverCore::Event>(&output)) {
      note_event(event->kind, event->text);
    } else {
      finished_ = std::get<DriverCore::Finished>(output);
    }
  }

  void spawn(const std::string& program, std::optional<uint32_t> slot, uint32_t incarnation) {
    std::vector<std::string> arguments = child_arguments();
    if (slot)
      arguments.insert(arguments.end(),
                       {"--slot", std::to_string(*slot), "--incarnation", std::to_string(incarnation)});
    try {
      child_of_[children_.spawn(program, arguments)] = {slot, incarnation};
    } catch (const Error& error) { step(DriverCore::SpawnFailed{slot, error.what()}); }
  }

  void receive() {
    while (auto received = router_.receive()) {
      auto decoded = decode(received->frames);
      if (auto* message = std::get_if<Message>(&decoded))
        step(DriverCore::Received{received->peer, std::move(*message)});
      else
        ++malformed_;
    }
  }

  void reap() {
    while (auto ended = children_.reap()) {
      // What it said before it died may still be in the socket: the cause goes before the exit.
      receive();
      const Child child = child_of_.extract(ended->pid).mapped();
      if (child.slot)
        step(DriverCore::RunnerExited{*child.slot, child.incarnation, ended->cause});
      else
        step(DriverCore::LearnerExited{ended->cause});
    }
  }

  void note_event(const std::string& kind, const std::string& text) {
    results_.event(wall_time_s(), kind, text);
    events_.push_back(text);
    if (events_.size() > 16) events_.erase(events_.begin());
    if (kind != "checkpoint") view_.note(fmt::format("{}: {}", kind, text));
  }

  void write_report(const wire::IterationReportT& report) {
    const Time now = clock_->now();
    const double iteration_s = to_seconds(now - last_report_);
    last_report_ = now;
    std::map<std::string, double> metrics;
    for (const auto& row : report.metrics) metrics[row->key] = row->value;
    double low = std::numeric_limits<double>::quiet_NaN(), high = low;
    for (const double value : core_.recent_returns()) low = std::fmin(low, value), high = std::fmax(high, value);
    const double steps = static_cast<double>(core_.env_steps());
    const double rate = (steps - last_steps_) / iteration_s;
    Report rows{{"training_iteration", static_cast<double>(core_.training_iteration())},
                {"num_env_steps_sampled_lifetime", steps},
                {"time_total_s", core_.time_total_s(now)},
                {"time_this_iter_s", iteration_s},
                {"env_runners/episode_return_mean", core_.episode_return_mean()},
                {"env_runners/episode_return_min", low},
                {"env_runners/episode_return_max", high},
                {"env_runners/episode_len_mean", core_.episode_len_mean()},
                {"env_runners/num_episodes", static_cast<double>(report.episodes.size())},
                {"env_runners/num_episodes_lifetime", static_cast<double>(core_.episodes_lifetime())},
                {"env_runners/num_env_steps_sampled", steps - last_steps_},
                {"env_runners/num_env_steps_sampled_lifetime", steps},
                {"env_runners/num_env_steps_sampled_lifetime_throughput", rate},
                {"env_runners/weights_seq_no", static_cast<double>(report.weights_version - 1)},
                {"timers/env_runner_sampling_timer", metrics["sampling_s"]},
                {"timers/env_runner_waiting_timer", metrics["waiting_s"]},
                {"timers/learner_update_timer", metrics["learner_update_s"]},
                {"fault_tolerance/num_healthy_workers", static_cast<double>(core_.slots().num_running())},
                {"fault_tolerance/num_remote_worker_restarts", static_cast<double>(core_.slots().num_restarts())}};
    double dropped = 0;
    for (const auto& [key, value] : metrics) {
      if (key.starts_with("learners/") || key.starts_with("dropped/")) rows.push_back({key, value});
      if (key.starts_with("dropped/")) dropped += value;
    }
    last_steps_ = steps;
    results_.write(rows, static_cast<int64_t>(steps), wall_time_s());
    if (results_.behind() != results_behind_) {
      results_behind_ = results_.behind();
      note_event("disk", results_behind_ ? "results.jsonl cannot be written; its lines wait for room, training goes on"
                                         : "results.jsonl is written again; no line was lost");
    }
    best_ = std::isnan(core_.episode_return_mean()) ? best_ : std::fmax(best_, core_.episode_return_mean());
    snapshot_.learner.clear();
    for (const auto& [label, key] : {std::pair{"kl", "mean_kl_loss"},
                                     {"entropy", "entropy"},
                                     {"vf", "vf_loss"},
                                     {"expl.var", "vf_explained_var"},
                                     {"grad", "gradients_default_optimizer_global_norm"}})
      if (const auto it = metrics.find(std::string("learners/default_policy/") + key); it != metrics.end())
        snapshot_.learner.emplace_back(label, it->second);
    const double runner_s = metrics["sampling_s"] + metrics["waiting_s"],
                 learner_s = metrics["learner_update_s"] + metrics["learner_wait_s"];
    snapshot_.sampling_share = metrics["sampling_s"] / runner_s;
    snapshot_.wait_share = metrics["waiting_s"] / runner_s;
    snapshot_.learner_busy_share = metrics["learner_update_s"] / learner_s;
    snapshot_.lag_mean = snapshot_.lag_max = 0;  // sync: every fragment has the newest version
    snapshot_.dropped = static_cast<int64_t>(dropped);
    if (core_.finishing()) draw();
  }

  void draw() {
    const Time now = clock_->now();
    next_redraw_ = now + kRedraw * (terminal_.is_terminal ? 1 : 8);
    if (core_.training_iteration() == 0 && !terminal_.is_terminal) return;
    const StopConfig& stop = config_.stop;
    snapshot_.run_name = directory_.path().filename().string();
    snapshot_.env = config_.environment.env;
    snapshot_.algorithm = config_.algorithm;
    snapshot_.seed = config_.seed;
    snapshot_.elapsed_s = core_.time_total_s(now);
    snapshot_.iteration = static_cast<int64_t>(core_.training_iteration());
    snapshot_.steps = static_cast<int64_t>(core_.env_steps());
    const double done = static_cast<double>(core_.env_steps() - base_steps_), spent = to_seconds(now - started_);
    snapshot_.steps_per_s = done > 0 ? done / spent : Snapshot::kUnknown;
    snapshot_.stop.clear();
    if (stop.training_iteration > 0)
      snapshot_.stop.push_back({"training_iteration", "iterations", static_cast<double>(core_.training_iteration()),
                                static_cast<double>(stop.training_iteration)});
    if (stop.num_env_steps_sampled_lifetime > 0)
      snapshot_.stop.push_back({"num_env_steps_sampled_lifetime", "env steps", static_cast<double>(core_.env_steps()),
                                static_cast<double>(stop.num_env_steps_sampled_lifetime)});
    if (stop.episode_return_mean)
      snapshot_.stop.push_back({"episode_return_mean", "", core_.episode_return_mean(), *stop.episode_return_mean});
    if (stop.time_total_s > 0) snapshot_.stop.push_back({"time_total_s", "s", snapshot_.elapsed_s, stop.time_total_s});
    snapshot_.eta_s = Snapshot::kUnknown;
    if (stop.num_env_steps_sampled_lifetime > 0 && done > 0)
      snapshot_.eta_s = std::max(
          0.0, (static_cast<double>(stop.num_env_steps_sampled_lifetime) - static_cast<double>(core_.env_steps())) /
                   (done / spent));
    snapshot_.return_mean = core_.episode_return_mean();
    snapshot_.return_best = best_;
    snapshot_.runners_alive = core_.slots().num_running();
    snapshot_.runners_total = config_.env_runners.num_env_runners;
    snapshot_.envs = snapshot_.runners_total * config_.env_runners.num_envs_per_env_runner;
    snapshot_.events = events_;
    snapshot_.directory = fs::proximate(directory_.path()).string();
    view_.update(snapshot_, Terminal::of_stdout().width);
  }

  /// The closing block: what came out, where it lies, what to type next.
  int conclude() {
    children_.kill_all();
    view_.finish();
    const bool failed = finished_->exit != Exit::ok && finished_->exit != Exit::interrupted;
    const std::string place = fs::proximate(directory_.path()).string();
    directory_.record.state = failed ? "failed" : finished_->exit == Exit::interrupted ? "interrupted" : "finished";
    directory_.record.end_time_s = wall_time_s();
    directory_.record.exit_reason =
        failed ? fmt::format("error[{}] {}", finished_->error_code, finished_->reason) : finished_->reason;
    directory_.record.last_iteration = static_cast<int64_t>(core_.training_iteration());
    directory_.record.last_step = static_cast<int64_t>(core_.env_steps());
    if (!std::isnan(best_)) directory_.record.best = best_;
    try {
      directory_.save();
    } catch (const Error& error) {
      std::cerr << error.line() << "\n";  // the disk is full; what the run came to is said below all the same
    }
    results_.event(wall_time_s(), "stop", directory_.record.exit_reason);
    if (failed) {
      std::cerr << fmt::format("error[{}] {}\n", finished_->error_code, finished_->reason);
      if (!core_.last_checkpoint().empty()) std::cerr << fmt::format("resume  myriad train --resume {}\n", place);
      return static_cast<int>(finished_->exit);
    }
    std::string text = fmt::format("{}  {} after {} env steps in {:.1f} s\n",
                                   finished_->exit == Exit::interrupted ? "stopped" : "done   ", finished_->reason,
                                   grouped(static_cast<double>(core_.env_steps())), core_.time_total_s(clock_->now()));
    if (!core_.last_checkpoint().empty()) {
      if (config_.evaluation.evaluate_at_end && finished_->exit == Exit::ok) {
        const EvaluationResult result =
            evaluate_checkpoint(core_.last_checkpoint(), static_cast<int>(config_.evaluation.evaluation_duration),
                                static_cast<uint64_t>(config_.seed), config_.evaluation.explore);
        text += fmt::format("return   {:.1f} +/- {:.1f} over {} evaluation episodes\n", result.return_mean(),
                            result.return_stddev(), result.episodes.size());
      }
      text +=
          fmt::format("saved    {}\nnext     myriad evaluate {}\n         myriad train --resume {} stop.{}\n",
                      fs::proximate(core_.last_checkpoint()).string(), fs::proximate(core_.last_checkpoint()).string(),
                      place, "num_env_steps_sampled_lifetime=N   go on");
    }
    // With --json every line of stdout is an object.
    if (json_)
      std::cerr << text;
    else
      std::cout << (snapshot_.run_name.empty() ? "" : "\n") << text << std::flush;
    if (finished_->exit == Exit::ok && !core_.newest_is_saved()) {
      std::cerr << fmt::format(
          "error[unsaved] iteration {} is in no checkpoint; events.jsonl says why. Newest: {}\n",
          core_.training_iteration(),
          core_.last_checkpoint().empty() ? "none" : fs::proximate(core_.last_checkpoint()).string());
      return static_cast<int>(Exit::resource);
    }
    return static_cast<int>(finished_->exit);
  }

  struct Child {
    std::optional<uint32_t> slot;
    uint32_t incarnation = 0;
  };

  Config config_;
  bool json_;
  RunDirectory directory_;
  uint64_t run_id_ = std::random_device{}() | uint64_t{std::random_device{}()} << 32;
  Children children_;  // before the context: it forks while there is one thread
  std::unique_ptr<Clock> clock_;
  SocketContext context_;
  Router router_;
  DriverCore core_;
  CheckpointWriter checkpoints_;
  ResultsWriter results_;
  Terminal terminal_;
  LiveView view_;
  Snapshot snapshot_;
  std::map<int, Child> child_of_;
  std::vector<std::string> events_;
  std::optional<DriverCore::Finished> finished_;
  Time started_{}, last_report_ = std::chrono::steady_clock::now().time_since_epoch(), next_redraw_{};
  double last_steps_ = 0, best_ = std::numeric_limits<double>::quiet_NaN();
  uint64_t base_steps_ = 0, malformed_ = 0;
  bool results_behind_ = false;
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
      for (const auto& entry : fs::directory_iterator(folder)) shipped.push_back(entry.path().stem().string());
  }
  std::sort(shipped.begin(), shipped.end());
  fail(Exit::usage, "no-config", "no file {} and no shipped config of that name{}", path_or_name,
       suggestion(path_or_name, shipped));
}

EnvSpec check_environment(const Config& config) {
  EnvSpec env = configured_spec(EnvRegistry::instance().find(config.environment.env), config.environment.env_config);
  (void)make_mlp_spec(env.observation_space, env.action_space, config.rl_module);
  return env;
}

int train(const TrainOptions& options) {
  sigset_t signals;  // blocked before any thread exists, so that all of them leave signals to the signalfd
  ::sigemptyset(&signals);
  for (int signal : {SIGINT, SIGTERM, SIGCHLD}) ::sigaddset(&signals, signal);
  ::sigprocmask(SIG_BLOCK, &signals, nullptr);

  const auto files = make_system_files("/");
  if (options.resume.empty()) {
    const ConfigFile file = read_config(options.config);
    Config config = load_config(file.text, file.name, options.overrides);
    check_environment(config);
    RunDirectory directory = options.out.empty() ? RunDirectory::create_numbered(fs::absolute("runs"))
                                                 : RunDirectory::create_exact(fs::absolute(options.out));
    directory.record.start_time_s = wall_time_s();
    directory.write_setup(options.command, file.text, to_toml(config), MYRIAD_VERSION);
    directory.save();
    return Run(std::move(config), options, std::move(directory), *files, Saved{}).run();
  }
  fs::path given = fs::absolute(options.resume);
  if (given.filename().empty()) given = given.parent_path();
  const bool is_checkpoint = fs::exists(given / "MANIFEST.json");
  const fs::path run_path = is_checkpoint ? given.parent_path().parent_path() : given;
  RunDirectory directory = RunDirectory::open(run_path);
  std::vector<std::string> broken;
  std::string checkpoint = given.string();
  if (!is_checkpoint) {
    const auto valid = valid_checkpoints(*files, (run_path / "checkpoints").string(), &broken);
    for (const std::string& line : broken) std::cerr << "warning[corrupt-checkpoint] left out: " << line << "\n";
    if (valid.empty()) fail(Exit::usage, "no-checkpoint", "{} has no checkpoint that verifies", run_path.string());
    checkpoint = valid.back();
  }
  // Before anything is read from it: a flipped bit is no mistake in the config.
  const std::string violation = checkpoint_violation(*files, checkpoint);
  if (!violation.empty()) fail(Exit::usage, "corrupt-checkpoint", "{}: {}", checkpoint, violation);
  Config config = load_config(read_file(checkpoint + "/config.toml"), checkpoint + "/config.toml", options.overrides);
  check_environment(config);
  const Saved saved = load_saved(*files, checkpoint, config.env_runners.num_env_runners);
  set_newer_aside(run_path, saved.iteration);
  truncate_results(run_path, static_cast<int64_t>(saved.iteration));
  directory.record.state = "running";
  directory.save();
  return Run(std::move(config), options, std::move(directory), *files, saved).run();
}

}  // namespace myriad
