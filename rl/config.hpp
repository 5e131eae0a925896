// Config: every setting of a run, in groups named after RLlib's AlgorithmConfig, read from TOML.
//
// Each group is a plain struct with its defaults and one `settings` function that lists key, unit, meaning and range:
// that list is what reads the file, refuses unknown keys, prints `myriad config` and writes config.toml of a run.
// An algorithm adds its own settings to [training]; they are described in its torch-free header.
#pragma once

#include <functional>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "rl/environment.hpp"
#include "rl/module_spec.hpp"

namespace myriad {

/// Piecewise-linear value over env steps: one number, or [[step, value], ...] (RLlib's schedules).
struct Schedule {
  std::vector<std::pair<double, double>> points;                ///< ascending steps; one point = constant
  Schedule(double constant = 0.0) : points{{0.0, constant}} {}  // NOLINT: a number is a schedule
  explicit Schedule(std::vector<std::pair<double, double>> p) : points(std::move(p)) {}
  double at(double env_steps) const;
  bool operator==(const Schedule&) const = default;
};

/// A value of an environment's option, or a range that each episode draws from uniformly.
struct OptionRange {
  double low = 0.0, high = 0.0;
  bool operator==(const OptionRange&) const = default;
};
using OptionRanges = std::map<std::string, OptionRange>;
using OptionSchedules = std::map<std::string, Schedule>;

/// One setting, as `settings` describes it.
struct SettingInfo {
  std::string_view key;   ///< within the group: "lr"
  std::string_view unit;  ///< "s", "env steps", ""
  std::string_view meaning;
  double low = -std::numeric_limits<double>::infinity();  ///< numbers outside [low, high] are refused
  double high = std::numeric_limits<double>::infinity();
  std::vector<std::string> choices = {};  ///< for strings: the known values
  bool or_plugin = false;                 ///< or "plugin:PATH"
};

/// Receives each setting of a group: one door for each type a setting may have.
class SettingVisitor {
 public:
  virtual ~SettingVisitor() = default;
  virtual void visit(const SettingInfo& info, bool& value) = 0;
  virtual void visit(const SettingInfo& info, int64_t& value) = 0;
  virtual void visit(const SettingInfo& info, double& value) = 0;
  virtual void visit(const SettingInfo& info, std::string& value) = 0;
  virtual void visit(const SettingInfo& info, std::vector<int>& value) = 0;
  virtual void visit(const SettingInfo& info, std::vector<std::vector<int>>& value) = 0;
  virtual void visit(const SettingInfo& info, std::vector<std::string>& value) = 0;
  virtual void visit(const SettingInfo& info, Schedule& value) = 0;
  virtual void visit(const SettingInfo& info, std::optional<double>& value) = 0;  ///< absent = off
  virtual void visit(const SettingInfo& info, EnvOptions& value) = 0;
  virtual void visit(const SettingInfo& info, OptionSchedules& value) = 0;
  virtual void visit(const SettingInfo& info, OptionRanges& value) = 0;
  virtual void visit(const SettingInfo& info, std::vector<OptionRanges>& value) = 0;
};

struct EnvironmentConfig {
  std::string env = "CartPole-v1";
  EnvOptions env_config;
  int64_t max_episode_steps = 0;           ///< 0: the environment's own limit
  bool normalize_actions = true;           ///< Box actions: the policy's [-1, 1] is unsquashed to [low, high]
  bool clip_actions = true;                ///< Box actions are clipped to [low, high] before the step
  std::vector<std::string> wrappers = {};  ///< of plugins, the innermost first: rl/wrapper_plugin.hpp
  int64_t frame_skip = 1;                  ///< wrappers: rl/wrappers.hpp
  int64_t frame_stack = 1;
  double sticky_actions = 0.0;
  std::string reward_filter =
      "NoFilter";  ///< what the learner sees of rewards: RewardConnector; returns stay as they are
  double reward_scale = 1.0;
  std::optional<double> reward_clip;
  bool reward_sign = false;
  std::string observation_filter = "NoFilter";
  double observation_clip = 10.0;
  std::string on_failure = "restart";   ///< of an environment: restart | end
  std::string out_of_bounds = "error";  ///< observations outside their space: error | warn | clip
  bool filters_observations() const { return observation_filter == "MeanStdFilter"; }
  bool filters_rewards() const { return reward_filter == "discounted_return_std"; }
  void settings(SettingVisitor& v);
};

/// Environment options that change while it trains: rl/curriculum.hpp.
struct CurriculumConfig {
  OptionSchedules schedules;
  OptionRanges randomize;
  std::vector<OptionRanges> levels;
  std::optional<double> advance_at;
  void settings(SettingVisitor& v);
};

struct EnvRunnersConfig {
  int64_t num_env_runners = 2;
  int64_t num_envs_per_env_runner = 8;
  int64_t rollout_fragment_length = 0;  ///< 0: train_batch_size / (runners x envs)
  bool explore = true;
  bool random_actions = false;
  double step_timeout_s = 30.0;     ///< a runner without progress for so long is restarted
  double start_timeout_s = 120.0;   ///< for a simulator to say its first word, and to make each of its environments
  std::string sandbox = "default";  ///< off, default, strict: rl/sandbox.hpp
  std::string sandbox_write;        ///< folder in which environments may write files; "": none
  bool sandbox_network = false;     ///< environments may open sockets
  void settings(SettingVisitor& v);
};

/// The machines that run env runners, one host agent each.
struct HostsConfig {
  int64_t num_hosts = 0;  ///< env runners are split evenly over them; 0: one a learner. Use Config::num_hosts()
  std::string launcher =
      "local";                   ///< local: the driver starts the agents here; none: `myriad agent` joins from anywhere
  double runner_memory_mib = 0;  ///< limit of one runner; 0: none
  double runner_cpus = 0;        ///< limit of one runner, in cores; 0: none
  double memory_reserve = 0.05;  ///< share of the host's memory; below it the largest runner is stopped
  int64_t weights_fanout = 8;    ///< hosts that take their weights from one source
  void settings(SettingVisitor& v);
};

/// Where the run's processes listen.
struct NetworkConfig {
  std::string bind = "ipc";  ///< "ipc", or an address: "127.0.0.1", "10.0.0.5"
  int64_t port = 0;          ///< of the driver; learners take the next ones; 0: any free
  std::string keys;          ///< directory made by `myriad keys`; needed beyond loopback
  void settings(SettingVisitor& v);
};

struct TrainingConfig {
  double gamma = 0.99;
  Schedule lr = 5e-5;
  int64_t train_batch_size = 4000;  ///< env steps an update round consumes
  int64_t num_epochs = 30;
  int64_t minibatch_size = 128;  ///< 0: the whole batch
  bool shuffle_batch_per_epoch = true;
  std::optional<double> grad_clip;  ///< global norm
  double adam_epsilon = 1e-8;
  EnvOptions lr_multipliers;             ///< of lr, by part of the network: lr_multipliers() of rl/module_spec.hpp
  std::string sampling = "sync";         ///< sync | lag1 | async; the algorithm says which it can
  std::optional<double> max_policy_lag;  ///< async: fragments sampled more versions ago are dropped, and counted
  int64_t learner_queue_size = 3;        ///< async: batches that may wait for the learner, as credit
  int64_t broadcast_interval = 1;        ///< async: updates between published weights
  void settings(SettingVisitor& v);
};

struct LearnersConfig {
  int64_t num_learners = 1;
  std::string device = "cpu";       ///< cpu | cuda | cuda:N
  std::string executor = "auto";    ///< auto | torch | native
  std::string autocast = "none";    ///< none | bfloat16: of a CUDA device's matrix products
  bool cuda_graph = true;           ///< a CUDA device's gradient steps are recorded and replayed
  int64_t num_threads = 0;          ///< 0: the machine's cores
  std::string collective = "auto";  ///< auto | gloo | nccl
  std::string shard = "none";       ///< none | optimizer | gradients | parameters: what lies in parts over the learners
  bool redundancy = true;           ///< a learner keeps its left neighbour's part, too
  int64_t gradient_accumulation = 1;  ///< parts of a minibatch that go through the module one after the other
  bool native() const { return executor == "native"; }
  /// Gradients, at least, lie in parts: backward goes layer by layer, which the torch executor alone does.
  bool shards_by_layer() const { return shard == "gradients" || shard == "parameters"; }
  void settings(SettingVisitor& v);
};

struct EvaluationConfig {
  int64_t evaluation_interval = 0;   ///< iterations between evaluations while it trains; 0: none
  int64_t evaluation_duration = 20;  ///< episodes
  bool evaluation_parallel_to_training = true;
  double evaluation_sample_timeout_s = 600.0;  ///< then an evaluation ends with the episodes there are
  bool explore = false;
  bool evaluate_at_end = true;
  int64_t record_video = 0;     ///< the first episodes of an evaluation, filmed into the run's videos/
  int64_t record_episodes = 0;  ///< the first episodes of an evaluation, step by step into the run's episodes/
  int64_t video_width = 640, video_height = 480;
  void settings(SettingVisitor& v);
};

struct ReportingConfig {
  int64_t metrics_num_episodes_for_smoothing = 100;
  double min_time_s_per_iteration = 0.0;  ///< async: updates of so much time make one iteration
  void settings(SettingVisitor& v);
};

struct CheckpointingConfig {
  static constexpr const char* kEvaluationReturn = "evaluation/env_runners/episode_return_mean";
  int64_t checkpoint_frequency = 0;      ///< iterations between checkpoints; 0: not by iterations
  double checkpoint_interval_s = 300.0;  ///< between checkpoints, too; 0: not by time
  int64_t num_to_keep = 3;
  std::string checkpoint_score_attribute = kEvaluationReturn;  ///< of which the best checkpoint has the most
  bool scores_training() const { return checkpoint_score_attribute != kEvaluationReturn; }
  void settings(SettingVisitor& v);
};

struct FaultToleranceConfig {
  double restart_backoff_s = 0.1;
  double restart_backoff_max_s = 30.0;
  int64_t max_failures_in_a_row = 5;  ///< of a slot without a finished episode; then it is quarantined
  double max_failed_episodes = 0.5;   ///< share of the last ones; then the run ends
  void settings(SettingVisitor& v);
};

struct StopConfig {
  int64_t training_iteration = 0;  ///< 0 = not a criterion
  int64_t num_env_steps_sampled_lifetime = 0;
  std::optional<double> episode_return_mean;
  double time_total_s = 0.0;
  int64_t evaluations_without_improvement = 0, iterations_without_improvement = 0;
  void settings(SettingVisitor& v);
};

/// What the plugins of a run say of themselves: written by the driver into the run's config, so that no process but the
/// learner opens an algorithm's library, and none a module's; and what simulators say. Empty without either.
struct PluginsConfig {
  std::string algorithm;    ///< rl/algorithm_facts.hpp
  std::string module;       ///< rl/module_json.hpp
  std::string environment;  ///< rl/simulator/facts.hpp
  bool empty() const { return algorithm.empty() && module.empty() && environment.empty(); }
  void settings(SettingVisitor& v);
};

/// An algorithm's own part of [training].
class AlgorithmConfig {
 public:
  virtual ~AlgorithmConfig() = default;
  virtual void settings(SettingVisitor& v) = 0;
  virtual std::unique_ptr<AlgorithmConfig> clone() const = 0;
};

struct Config {
  std::string algorithm = "PPO";
  int64_t seed = 0;
  EnvironmentConfig environment;
  CurriculumConfig curriculum;
  EnvRunnersConfig env_runners;
  HostsConfig hosts;
  NetworkConfig network;
  TrainingConfig training;
  std::unique_ptr<AlgorithmConfig> algorithm_config;
  ModelConfig rl_module;
  LearnersConfig learners;
  EvaluationConfig evaluation;
  ReportingConfig reporting;
  CheckpointingConfig checkpointing;
  FaultToleranceConfig fault_tolerance;
  StopConfig stop;
  PluginsConfig plugins;

  /// T of a fragment: rollout_fragment_length, or what makes the batch with one fragment a runner.
  int64_t fragment_length() const;
  int64_t fragments_per_batch() const;
  int64_t num_hosts() const { return hosts.num_hosts > 0 ? hosts.num_hosts : learners.num_learners; }
  bool async() const { return training.sampling == "async"; }
};

/// Reads `text` (of file `name`) and `overrides` ("training.lr=1e-3"). Throws Error with code unknown-key, wrong-type,
/// out-of-range, bad-toml or impossible (combinations), naming file:line:column, got, wanted and the nearest key.
Config load_config(std::string_view text, std::string_view name, const std::vector<std::string>& overrides = {});

/// The algorithm that these name, before its settings are known. Throws Error as load_config().
std::string algorithm_of(std::string_view text, std::string_view name, const std::vector<std::string>& overrides = {});

/// Reads the settings of `text` (of file `name`) over those of `config`, whose algorithm is given. Throws Error as
/// load_config(), but refuses no combination.
void read_settings(std::string_view text, std::string_view name, Config& config);

/// The whole config as TOML: load_config(to_toml(c)) == c. With `describe`, each setting's meaning and unit as a
/// comment.
std::string to_toml(Config& config, bool describe = false);

/// One row for each setting, for `myriad config`.
struct SettingRow {
  std::string group, key, type, value, unit, meaning;
};
std::vector<SettingRow> setting_rows(Config& config);

}  // namespace myriad
