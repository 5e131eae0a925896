// DriverCore: the driver's decisions: which processes to start, when to go on, save and stop. It has no process, socket
// or file.
//
//   start -> learners and host agents spawned, the group formed -> [report -> stop? checkpoint? -> go]* -> last
//   checkpoint -> stop all -> finished
//
// The learners wait for `go` after each report, so a run stops at exactly the iteration its criterion names. A run that
// ends while no report comes (no data arrive, its runners are given up) is cut: the agents are told to stop, the group
// begins a last epoch, and what its learners have is the last checkpoint.
// LearnerGroup decides which learners are in the group, Fleet which agents hold a place. Commands and welcomes are
// repeated until their effect is seen. A state machine: one thread, time comes in.
#pragma once

#include <deque>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "rl/check.hpp"
#include "rl/config.hpp"
#include "rl/wire/messages.hpp"
#include "roles/checkpoint.hpp"
#include "roles/evaluations.hpp"
#include "roles/fleet.hpp"
#include "roles/learner_group.hpp"
#include "roles/levels.hpp"

namespace myriad {

class DriverCore {
 public:
  struct Options {
    uint64_t run = 0;
    uint64_t next_run = 0;            ///< continues from the newest checkpoint if all learners are lost; 0: none
    uint64_t previous_run = 0;        ///< its agents may still send to this driver; 0: none
    bool last_life = false;           ///< next_run follows only if this run made a checkpoint
    std::string config_toml;          ///< resolved, for the processes
    std::string resume_directory;     ///< "" = a fresh run
    uint64_t training_iteration = 0;  ///< of the checkpoint, as the two below
    uint64_t num_env_steps_sampled_lifetime = 0, num_episodes_lifetime = 0;
    double time_total_s = 0.0;  ///< spent before the resume
    StopConfig stop;
    uint64_t checkpoint_frequency = 0;
    Time checkpoint_interval{};  ///< at the first report so long after the last checkpoint; 0: none
    uint32_t smoothing_episodes = 100;
    std::deque<double> recent_returns, recent_lengths;  ///< of the checkpoint
    Improvement training_return = {};                   ///< of the checkpoint: of the training's mean return
    Levels::Options levels;                             ///< of the curriculum
    double max_failed_episodes = 1.0;                   ///< share of the last kJudged or more; 1: all may fail
    Evaluations::Options evaluations = {};
    /// The constructor fills in what the fields above already say, and slots and agents of the group.
    Fleet::Options fleet;
    LearnerGroup::Options learners;
    uint64_t seed = 0;
  };
  static constexpr Time kRetry = std::chrono::milliseconds(250);
  static constexpr Time kStopDeadline = std::chrono::seconds(15);  ///< from Stop to SIGKILL
  static constexpr Time kSaveDeadline = std::chrono::seconds(60);
  static constexpr uint64_t kJudged = 100;                                ///< episodes, by whole iterations
  static constexpr Time kSameInterrupt = std::chrono::milliseconds(250);  ///< a second one so soon is the first, again
  static constexpr Time kFinish = std::chrono::seconds(10);  ///< for the iteration, once interrupted; then it is cut
  static constexpr Time kFinishOnTime = std::chrono::seconds(60);  ///< the same, when time_total_s is over
  static constexpr Time kNoData = std::chrono::seconds(10);  ///< without a fragment: an end does not wait for the next
  static constexpr Time kTellNoData = std::chrono::seconds(30);  ///< without one: told, then after twice as long
  static constexpr Time kTellNoDataMax = std::chrono::minutes(10);

  explicit DriverCore(Options options);

  // --- inputs ---
  struct Start {};
  struct Received {
    std::string peer;
    Message message;
    std::string user = "";  ///< its name in the allow-list; "" without keys
  };
  struct AgentExited {
    uint32_t agent, incarnation;
    std::string cause;
    bool drained = false;  ///< exit status 75: it was told to leave (preemption)
  };
  struct LearnerExited {
    uint32_t shard, incarnation;
    std::string cause;
  };
  struct SpawnFailed {
    std::optional<uint32_t> agent;  ///< none: a learner
    uint32_t shard, incarnation;    ///< of the learner
    std::string cause;
  };
  struct Interrupted {
    bool may_hurry = true;  ///< false: a second one changes nothing
  };                        ///< Ctrl-C, SIGTERM, ...; the second stops at once
  struct Saved {
    CheckpointWriter::Output result;
  };  ///< of the last Save output
  struct Evaluated {
    uint64_t training_iteration;
    double return_mean;
    std::string failure;  ///< why there is no return; "": there is
  };
  struct Tick {};
  using Input =
      std::variant<Start, Received, AgentExited, LearnerExited, SpawnFailed, Interrupted, Saved, Evaluated, Tick>;

  // --- outputs ---
  using SpawnLearner = LearnerGroup::SpawnLearner;
  using KillLearner = LearnerGroup::KillLearner;
  using SpawnAgent = Fleet::SpawnAgent;
  using KillAgent = Fleet::KillAgent;
  struct KillAll {};
  using Send = Fleet::ToAgent;  ///< to learners, too
  struct Save {
    CheckpointWriter::Input input;
  };  ///< extra files are added by the shell
  struct Report {
    wire::IterationReportT report;
  };  ///< for results, view and TensorBoard
  using Event = Fleet::Event;
  using Evaluate = Evaluations::Begin;
  using KillEvaluation = Evaluations::Kill;
  using NewBest = Evaluations::NewBest;
  struct Finished {
    Exit exit;
    std::string reason, error_code;
    bool goes_on = false;  ///< as Options::next_run, from the newest checkpoint
  };
  using Output = std::variant<SpawnLearner, KillLearner, SpawnAgent, KillAgent, KillAll, Send, Save, Report, Event,
                              Evaluate, KillEvaluation, NewBest, Finished>;

  void step(const Input& input, Time now, std::vector<Output>& outputs);

  Time next_timer() const;
  uint64_t training_iteration() const { return iteration_; }
  uint64_t env_steps() const { return env_steps_; }
  double time_total_s(Time now) const { return options_.time_total_s + to_seconds(now - started_); }
  /// NaN before the first episode ended.
  double episode_return_mean() const;
  double episode_len_mean() const;
  const std::deque<double>& recent_returns() const { return returns_; }
  const std::deque<double>& recent_lengths() const { return lengths_; }
  const Levels& levels() const { return levels_; }
  const Evaluations& evaluations() const { return evaluations_; }
  const Improvement& training_return() const { return training_return_; }
  uint64_t episodes_lifetime() const { return episodes_; }
  const Fleet& fleet() const { return fleet_; }
  const LearnerGroup& learners() const { return learners_; }
  const std::string& last_checkpoint() const { return last_checkpoint_; }
  /// False when the last iteration's state is in no checkpoint: the disk did not take it.
  bool newest_is_saved() const {
    return iteration_ == options_.training_iteration || committed_iteration_ == iteration_;
  }
  bool finishing() const { return !stop_reason_.empty(); }
  /// Before Start: the criterion that a run which goes on from here has met already; "" = none.
  std::string met_before_start() const { return stop_criterion(started_); }
  bool interrupted() const { return interrupts_ > 0; }
  bool cutting() const { return cutting_; }

 private:
  enum class Phase { starting, running, saving, stopping, finished };
  void received(const Received& received, Time now, Fleet::Outputs& fleet, LearnerGroup::Outputs& learners,
                std::vector<Output>& outputs);
  void tell_of_this_run(const Received& received, std::vector<Output>& outputs) const;
  void saved(const Saved& saved, Time now, std::vector<Output>& outputs);
  void checkpoint_done(const wire::CheckpointDoneT& done, std::vector<Output>& outputs);
  void formed(Time now, std::vector<Output>& outputs);
  void report(const wire::IterationReportT& report, Time now, std::vector<Output>& outputs);
  void judge_failures(const wire::IterationReportT& report);
  void judge_level(std::vector<wire::Episode> episodes, std::vector<Output>& outputs);
  void apply_fleet(Fleet::Outputs& results, Time now, std::vector<Output>& outputs);
  void apply_learners(LearnerGroup::Outputs& results, Time now, std::vector<Output>& outputs);
  void go_on(Time now, std::vector<Output>& outputs);  // after a report or a checkpoint
  void begin_save(Time now, std::vector<Output>& outputs);
  void interrupted(const Interrupted& input, Time now, std::vector<Output>& outputs);
  void end(Time now, Exit exit, std::string reason, std::string code, std::vector<Output>& outputs);
  void cut(Time now, std::vector<Output>& outputs);
  void learners_over(const LearnerGroup::Over& over, Time now, std::vector<Output>& outputs);
  void look_for_data(Time now, std::vector<Output>& outputs);
  std::string missing() const;
  void stop_all(Time now, std::vector<Output>& outputs);
  void send(const std::string& peer, uint64_t epoch, Message message, std::vector<Output>& outputs);
  void send_command(Time now, std::vector<Output>& outputs);
  std::string stop_criterion(Time now) const;
  double settled_return_mean() const;
  void apply_evaluations(Evaluations::Outputs& results, std::vector<Output>& outputs);

  Options options_;
  Fleet fleet_;
  LearnerGroup learners_;
  Phase phase_ = Phase::starting;
  uint64_t iteration_ = 0, env_steps_ = 0, episodes_ = 0;
  std::deque<double> returns_, lengths_;
  Levels levels_;
  struct Outcomes {
    double failed = 0, finished = 0;
  };
  std::deque<Outcomes> outcomes_;  // of the last iterations, kJudged episodes at least once there were so many
  Outcomes judged_;                // their sum
  std::string last_failure_;       // that an event told
  Evaluations evaluations_;
  Improvement training_return_;
  bool held_ = false;       // the learners wait for an evaluation
  wire::CommandT command_;  // the newest; repeated until answered
  std::string save_error_;  // of the learner, until the partial directory is gone
  uint64_t checkpoint_sequence_ = 0, saved_iteration_ = UINT64_MAX, committed_iteration_ = UINT64_MAX;
  bool commit_pending_ = false, save_again_ = false;
  std::string last_checkpoint_;
  std::string stop_reason_;
  int interrupts_ = 0;
  bool cutting_ = false;
  Exit exit_ = Exit::ok;
  std::string exit_code_;
  bool goes_on_ = false;
  uint64_t fragments_ = 0;  // that agents have received, when looked at last
  Time data_{}, tell_no_data_ = kTellNoData;
  Time finishing_since_ = Time::max(), interrupted_at_{}, saved_at_{};
  Time started_{}, last_sent_{}, last_announced_{}, deadline_ = Time::max();
};

}  // namespace myriad
