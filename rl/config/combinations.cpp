#include "rl/config/combinations.hpp"

#include <algorithm>
#include <initializer_list>

#include "rl/algorithm_info.hpp"
#include "rl/check.hpp"
#include "rl/config/toml_text.hpp"

namespace myriad {
namespace {

class Combinations {
 public:
  Combinations(const Config& config, const Places& places, std::string_view name)
      : config_(config), places_(places), name_(name) {}

  void refuse_impossible() const {
    const TrainingConfig& training = config_.training;
    if (training.minibatch_size > training.train_batch_size)
      fail(Exit::usage, "impossible", "{}: training.minibatch_size {} is more than train_batch_size {}; at most {}",
           place({"training.minibatch_size", "training.train_batch_size"}), training.minibatch_size,
           training.train_batch_size, training.train_batch_size);
    const std::vector<std::string>& modes = find_algorithm(config_.algorithm).sampling;
    if (std::find(modes.begin(), modes.end(), training.sampling) == modes.end())
      fail(Exit::usage, "impossible", "{}: training.sampling is '{}'; {} samples {}", place({"training.sampling"}),
           training.sampling, config_.algorithm, fmt::join(modes, " or "));
    // Weights are up to broadcast_interval - 1 versions old when they are first sampled with.
    if (training.max_policy_lag && *training.max_policy_lag < static_cast<double>(training.broadcast_interval - 1))
      fail(Exit::usage, "impossible",
           "{}: training.max_policy_lag {} drops every fragment with broadcast_interval {}; "
           "at least {}",
           place({"training.max_policy_lag", "training.broadcast_interval"}), *training.max_policy_lag,
           training.broadcast_interval, training.broadcast_interval - 1);
    refuse_lonely_learners();
    if (config_.num_hosts() > config_.env_runners.num_env_runners)
      fail(Exit::usage, "impossible", "{}: hosts.num_hosts {} is more than env_runners.num_env_runners {}",
           place({"hosts.num_hosts", "learners.num_learners", "env_runners.num_env_runners"}), config_.num_hosts(),
           config_.env_runners.num_env_runners);
    refuse_uneven_batch();
    const LearnersConfig& learners = config_.learners;
    if (learners.native() && learners.shards_by_layer())
      fail(Exit::usage, "impossible",
           "{}: learners.shard '{}' goes layer by layer; executor 'native' cannot, 'torch' can",
           place({"learners.executor", "learners.shard"}), learners.shard);
    refuse_device();
    const EnvironmentConfig& environment = config_.environment;
    if (environment.reward_sign && (environment.reward_clip || environment.filters_rewards()))
      fail(Exit::usage, "impossible",
           "{}: environment.reward_sign leaves nothing of reward_filter and reward_clip; take one or the others",
           place({"environment.reward_sign", "environment.reward_clip", "environment.reward_filter"}));
    const std::string& distribution = config_.rl_module.action_distribution;
    if (!environment.normalize_actions && (distribution == "squashed_gaussian" || distribution == "beta"))
      fail(Exit::usage, "impossible",
           "{}: environment.normalize_actions is false, but actions of a {} are within [-1, 1] and want to be "
           "stretched to "
           "their bounds",
           place({"environment.normalize_actions", "rl_module.action_distribution"}), distribution);
    refuse_curriculum();
    if (config_.stop.evaluations_without_improvement > 0 && config_.evaluation.evaluation_interval == 0)
      fail(Exit::usage, "impossible",
           "{}: stop.evaluations_without_improvement counts evaluations, and evaluation.evaluation_interval is 0: want "
           "an interval, or stop.iterations_without_improvement",
           place({"stop.evaluations_without_improvement", "evaluation.evaluation_interval"}));
    const FaultToleranceConfig& faults = config_.fault_tolerance;
    if (faults.restart_backoff_max_s < faults.restart_backoff_s)
      fail(Exit::usage, "impossible", "{}: fault_tolerance.restart_backoff_max_s {} is less than restart_backoff_s {}",
           place({"fault_tolerance.restart_backoff_max_s", "fault_tolerance.restart_backoff_s"}),
           faults.restart_backoff_max_s, faults.restart_backoff_s);
  }

 private:
  /// A learner is fed by host agents of its own, with fragments of its own.
  void refuse_lonely_learners() const {
    const int64_t learners = config_.learners.num_learners, fragments = config_.fragments_per_batch();
    if (learners > config_.num_hosts())
      fail(Exit::usage, "impossible",
           "{}: learners.num_learners {} is more than hosts.num_hosts {}: each learner has its own host agents",
           place({"learners.num_learners", "hosts.num_hosts"}), learners, config_.num_hosts());
    if (learners > fragments)
      fail(Exit::usage, "impossible",
           "{}: learners.num_learners {} is more than the {} fragments of a batch; make train_batch_size at least {}",
           place({"learners.num_learners", "training.train_batch_size"}), learners, fragments,
           learners * config_.fragment_length() * config_.env_runners.num_envs_per_env_runner);
  }

  /// A batch is a whole number of fragments, and fragments have one length.
  void refuse_uneven_batch() const {
    const EnvRunnersConfig& runners = config_.env_runners;
    const int64_t batch = config_.training.train_batch_size, steps = runners.rollout_fragment_length;
    const int64_t unit = runners.num_envs_per_env_runner * (steps == 0 ? runners.num_env_runners : steps);
    if (batch % unit == 0) return;
    const int64_t below = batch / unit * unit;
    const std::string nearest = below == 0 ? fmt::format("{}", unit) : fmt::format("{} or {}", below, below + unit);
    const std::string parts =
        steps == 0 ? fmt::format("runners {} x envs {}", runners.num_env_runners, runners.num_envs_per_env_runner)
                   : fmt::format("a fragment: envs {} x steps {}", runners.num_envs_per_env_runner, steps);
    fail(Exit::usage, "impossible", "{}: training.train_batch_size {} is not a multiple of {} ({}); nearest: {}",
         place({"training.train_batch_size", "env_runners.rollout_fragment_length",
                "env_runners.num_envs_per_env_runner", "env_runners.num_env_runners"}),
         batch, unit, parts, nearest);
  }

  void refuse_curriculum() const {
    const CurriculumConfig& curriculum = config_.curriculum;
    if (curriculum.advance_at.has_value() != !curriculum.levels.empty())
      fail(Exit::usage, "impossible", "{}: curriculum.levels and curriculum.advance_at want each other",
           place({"curriculum.levels", "curriculum.advance_at"}));
    const auto twice = [&](const std::string& option) {
      fail(Exit::usage, "impossible", "{}: {} is set by more than one of curriculum.schedules, randomize and levels",
           place({"curriculum.schedules", "curriculum.randomize", "curriculum.levels"}), option);
    };
    for (const auto& [option, range] : curriculum.randomize)
      if (curriculum.schedules.contains(option)) twice(option);
    for (const OptionRanges& level : curriculum.levels)
      for (const auto& [option, range] : level)
        if (curriculum.schedules.contains(option) || curriculum.randomize.contains(option)) twice(option);
  }

  void refuse_device() const {
    const LearnersConfig& learners = config_.learners;
    const std::string_view device = learners.device;
    const std::string_view number = device.starts_with("cuda:") ? device.substr(5) : "";
    const bool numbered =
        !number.empty() && number.size() <= 3 && number.find_first_not_of("0123456789") == std::string_view::npos;
    if (device != "cpu" && device != "cuda" && !numbered)
      fail(Exit::usage, "out-of-range", "{}: learners.device is {}, want cpu, cuda or cuda:N",
           place({"learners.device"}), quote(device));
    if (device == "cpu" && learners.autocast != "none")
      fail(Exit::usage, "impossible", "{}: learners.autocast is \"{}\", which needs a CUDA device",
           place({"learners.autocast"}), learners.autocast);
    if (device != "cuda" && learners.collective == "nccl")
      fail(Exit::usage, "impossible",
           "{}: learners.collective is \"nccl\", which wants a GPU for each learner: "
           "learners.device \"cuda\"",
           place({"learners.collective"}));
    if (device != "cpu" && learners.native())
      fail(Exit::usage, "impossible", "{}: learners.executor is \"native\", which computes on a CPU",
           place({"learners.executor", "learners.device"}));
  }

  /// Where the first of `keys` that was set at all was set.
  std::string place(std::initializer_list<const char*> keys) const {
    for (const char* key : keys)
      if (const auto found = places_.find(key); found != places_.end()) return found->second;
    return std::string(name_);
  }

  const Config& config_;
  const Places& places_;
  std::string_view name_;
};

}  // namespace

void refuse_impossible(const Config& config, const Places& places, std::string_view name) {
  Combinations(config, places, name).refuse_impossible();
}

}  // namespace myriad
