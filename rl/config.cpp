#include "rl/config.hpp"

#include <algorithm>

#include "rl/algorithm_info.hpp"
#include "rl/check.hpp"
#include "rl/config/groups.hpp"

namespace myriad {

namespace {

/// A string setting with known values.
SettingInfo choice(std::string_view key, std::string_view meaning, std::vector<std::string> choices) {
  SettingInfo info{key, "", meaning};
  info.choices = std::move(choices);
  return info;
}

SettingInfo choice_or_plugin(std::string_view key, std::string_view meaning, std::vector<std::string> choices) {
  SettingInfo info = choice(key, meaning, std::move(choices));
  info.or_plugin = true;
  return info;
}

// ---- the settings of each group: {key, unit, meaning, low, high} ----

void model_settings(ModelConfig& model, SettingVisitor& v) {
  std::vector<std::string> activations;
  for (const Activation a :
       {Activation::linear, Activation::tanh, Activation::relu, Activation::silu, Activation::gelu, Activation::elu})
    activations.emplace_back(name_of(a));
  v.visit({"fcnet_hiddens", "", "sizes of the hidden layers", 1, 65536}, model.fcnet_hiddens);
  v.visit(choice("fcnet_activation", "after each hidden layer", activations), model.fcnet_activation);
  v.visit({"fcnet_use_layernorm", "", "LayerNorm before each activation"}, model.fcnet_use_layernorm);
  v.visit({"fcnet_use_batchnorm", "", "BatchNorm before each activation, with running statistics"},
          model.fcnet_use_batchnorm);
  v.visit({"vf_share_layers", "", "policy and value share the encoder"}, model.vf_share_layers);
  v.visit(choice("action_distribution",
                 "of Box actions; auto: diag_gaussian; squashed_gaussian and beta stay within the bounds",
                 action_distribution_names()),
          model.action_distribution);
  v.visit({"free_log_std", "", "Box actions: log std is a parameter, not an output"}, model.free_log_std);
  v.visit({"log_std_init", "", "initial value of a free log std", -20, 20}, model.log_std_init);
  v.visit({"log_std_clip_param", "", "log std is clipped to +/- this", 0, 100}, model.log_std_clip_param);
  std::vector<std::string> encoders = encoder_names();
  encoders.insert(encoders.begin(), "auto");
  v.visit(
      choice_or_plugin("encoder",
                       "auto: convolutions for pictures up to 16 x 16 and from 36 x 36, mlp for everything else; or "
                       "plugin:PATH, a network of your own",
                       encoders),
      model.encoder);
  v.visit({"conv_filters", "", "[[filters, kernel, stride], ...], then fcnet_hiddens; in place of encoder", 0, 65536},
          model.conv_filters);
  v.visit(choice("conv_activation", "after each of conv_filters", activations), model.conv_activation);
  v.visit(choice("channels", "axis of a picture's channels; auto: the smallest one, where that is first or last",
                 {"auto", "first", "last"}),
          model.channels);
  v.visit({"scale_uint8", "", "bytes of a picture are taken by 1 / 255; false with a filter of observations"},
          model.scale_uint8);
  v.visit({"random_shift", "", "pixels that pictures are moved by at random in training, at most; 0: they stay", 0, 64},
          model.random_shift);
  v.visit({"embedding_size", "", "of each integer of Discrete and MultiDiscrete observations; 0: one-hot as it is", 0,
           65536},
          model.embedding_size);
  v.visit({"ignored_parts", "", "parts of Dict and Tuple observations that the module does not see, by path"},
          model.ignored_parts);
  v.visit({"init_from", "", "a run or checkpoint whose parameters this run begins with"}, model.init_from);
  v.visit({"init_parts", "", "of them: encoder, pi, ...; empty: all"}, model.init_parts);
  v.visit(choice("init_filter", "the filter of observations of init_from; auto: keep, and fresh with init_parts",
                 {"auto", "keep", "fresh"}),
          model.init_filter);
  v.visit({"critic_only_parts", "", "parts that the value function alone sees (asymmetric actor-critic)"},
          model.critic_only_parts);
}

}  // namespace

void top_settings(Config& config, SettingVisitor& v) {
  std::vector<std::string> names;
  for (const AlgorithmInfo& info : algorithm_infos())
    if (info.library.empty()) names.push_back(info.name);
  check(!names.empty(), "this program was linked without algorithms and cannot read a config");
  v.visit(choice_or_plugin("algorithm", "the learning algorithm; or plugin:PATH, a library of your own", names),
          config.algorithm);
  v.visit({"seed", "", "same seed, same config: the same batches", 0}, config.seed);
}

void for_each_group(Config& config, const std::function<void(std::string_view group, const SettingList& list)>& f) {
  f("", [&](SettingVisitor& v) { top_settings(config, v); });
  f("environment", [&](SettingVisitor& v) { config.environment.settings(v); });
  f("curriculum", [&](SettingVisitor& v) { config.curriculum.settings(v); });
  f("env_runners", [&](SettingVisitor& v) { config.env_runners.settings(v); });
  f("hosts", [&](SettingVisitor& v) { config.hosts.settings(v); });
  f("network", [&](SettingVisitor& v) { config.network.settings(v); });
  f("training", [&](SettingVisitor& v) {
    config.training.settings(v);
    if (config.algorithm_config) config.algorithm_config->settings(v);
  });
  f("rl_module", [&](SettingVisitor& v) { model_settings(config.rl_module, v); });
  f("learners", [&](SettingVisitor& v) { config.learners.settings(v); });
  f("evaluation", [&](SettingVisitor& v) { config.evaluation.settings(v); });
  f("reporting", [&](SettingVisitor& v) { config.reporting.settings(v); });
  f("checkpointing", [&](SettingVisitor& v) { config.checkpointing.settings(v); });
  f("fault_tolerance", [&](SettingVisitor& v) { config.fault_tolerance.settings(v); });
  f("stop", [&](SettingVisitor& v) { config.stop.settings(v); });
  f("plugins", [&](SettingVisitor& v) { config.plugins.settings(v); });
}

double Schedule::at(double env_steps) const {
  check(!points.empty(), "a schedule has no points");
  if (env_steps <= points.front().first) return points.front().second;
  for (size_t i = 1; i < points.size(); ++i) {
    const auto& [x0, y0] = points[i - 1];
    const auto& [x1, y1] = points[i];
    if (env_steps < x1) return y0 + (y1 - y0) * (env_steps - x0) / (x1 - x0);
  }
  return points.back().second;
}

void EnvironmentConfig::settings(SettingVisitor& v) {
  v.visit({"env", "", "the environment's id: myriad envs"}, env);
  v.visit({"env_config", "", "the environment's own options"}, env_config);
  v.visit({"max_episode_steps", "env steps", "time limit; 0: the environment's own", 0, 2147483647}, max_episode_steps);
  v.visit({"normalize_actions", "", "Box actions: the policy's [-1, 1] becomes [low, high]"}, normalize_actions);
  v.visit({"clip_actions", "", "Box actions are clipped to [low, high] before the step"}, clip_actions);
  v.visit({"wrappers", "", "of your own, the innermost first: plugin:PATH or plugin:PATH:NAME (myriad new-wrapper)"},
          wrappers);
  v.visit({"frame_skip", "env steps", "of one action, their rewards summed; everything else counts one", 1, 10000},
          frame_skip);
  v.visit(
      {"frame_stack", "observations", "that the policy sees, the last ones; a reset fills all with the first", 1, 1000},
      frame_stack);
  v.visit({"sticky_actions", "", "probability, each env step, that the action before is applied again", 0, 1},
          sticky_actions);
  v.visit(choice("reward_filter", "what the learner sees: first, rewards / running std of each environment's return",
                 {"NoFilter", "discounted_return_std"}),
          reward_filter);
  v.visit({"reward_scale", "", "then this factor; episode returns stay as they are", -1e9, 1e9}, reward_scale);
  v.visit({"reward_clip", "", "then clipped to +/- this", 1e-9, 1e9}, reward_clip);
  v.visit({"reward_sign", "", "the learner sees 1, 0 or -1: the reward's sign"}, reward_sign);
  v.visit(choice("observation_filter", "running normalization of observations", {"NoFilter", "MeanStdFilter"}),
          observation_filter);
  v.visit({"observation_clip", "std", "filtered observations are clipped to +/- this", 1e-6, 1e9}, observation_clip);
  v.visit(
      choice("on_failure",
             "an environment throws, gives NaN, leaves its space: restart: that costs its episode; end: the run ends",
             {"restart", "end"}),
      on_failure);
  v.visit(
      choice("out_of_bounds", "a Box's observation outside its bounds: error: a failure; warn: taken; clip: clipped",
             {"error", "warn", "clip"}),
      out_of_bounds);
}

void CurriculumConfig::settings(SettingVisitor& v) {
  v.visit({"schedules", "env steps", "options of env_config over the run's env steps"}, schedules);
  v.visit({"randomize", "", "options that each episode draws uniformly: { name = [low, high] }"}, randomize);
  v.visit({"levels", "", "options by level, numbers or ranges; the first one is where a run begins"}, levels);
  v.visit({"advance_at", "", "mean return of metrics_num_episodes_for_smoothing episodes at a level that ends it"},
          advance_at);
}

void EnvRunnersConfig::settings(SettingVisitor& v) {
  v.visit({"num_env_runners", "processes", "env runners of the run", 1, 100000}, num_env_runners);
  v.visit({"num_envs_per_env_runner", "environments", "stepped together by one runner", 1, 65536},
          num_envs_per_env_runner);
  v.visit({"rollout_fragment_length", "env steps",
           "of one environment in a fragment; auto: train_batch_size / (runners x envs)", 0, 1e6},
          rollout_fragment_length);
  v.visit({"explore", "", "sample actions; false: take the most likely one"}, explore);
  v.visit({"random_actions", "", "uniform actions, whatever the policy says"}, random_actions);
  v.visit({"step_timeout_s", "s", "a runner without progress for so long is restarted", 0.1, 1e6}, step_timeout_s);
  v.visit({"start_timeout_s", "s",
           "for a simulator's first word, and for each environment it makes; connect: waits so long for its peer", 0.1,
           1e6},
          start_timeout_s);
  v.visit(choice("sandbox", "of runners: default: what the kernel offers; strict: all of it, or no run",
                 {"off", "default", "strict"}),
          sandbox);
  v.visit({"sandbox_write", "", "folder in which environments may write files; empty: nowhere"}, sandbox_write);
  v.visit({"sandbox_network", "", "environments may open sockets"}, sandbox_network);
}

void TrainingConfig::settings(SettingVisitor& v) {
  v.visit({"gamma", "", "discount of future rewards", 0, 1}, gamma);
  v.visit({"lr", "", "learning rate of Adam", 0, 10}, lr);
  v.visit({"train_batch_size", "env steps", "what one update round consumes", 1, 1e9}, train_batch_size);
  v.visit({"num_epochs", "passes", "over each batch", 1, 10000}, num_epochs);
  v.visit({"minibatch_size", "env steps", "of one gradient step; 0: the whole batch", 0, 1e9}, minibatch_size);
  v.visit({"shuffle_batch_per_epoch", "", "new minibatches in every epoch"}, shuffle_batch_per_epoch);
  v.visit({"grad_clip", "", "global norm of the gradient is held to this", 1e-9, 1e9}, grad_clip);
  v.visit({"adam_epsilon", "", "Adam's epsilon", 1e-16, 1}, adam_epsilon);
  v.visit({"lr_multipliers", "", "of lr for parts of the network: { encoder = 0.1 }; 0 freezes"}, lr_multipliers);
  v.visit(choice("sampling", "sync: by rounds; lag1: the next round fills during the update; async: free",
                 {"sync", "lag1", "async"}),
          sampling);
  v.visit({"max_policy_lag", "versions", "async: older fragments are dropped, and counted", 0, 1e9}, max_policy_lag);
  v.visit({"learner_queue_size", "batches", "async: may wait for the learner; runners have credit for no more", 1, 1e6},
          learner_queue_size);
  v.visit({"broadcast_interval", "updates", "async: between published weights", 1, 1e6}, broadcast_interval);
}

void HostsConfig::settings(SettingVisitor& v) {
  v.visit({"num_hosts", "host agents", "the env runners are split evenly over them; 0: one a learner", 0, 4096},
          num_hosts);
  v.visit(choice("launcher", "who starts the agents: local: the driver, here; none: `myriad agent`, from anywhere",
                 {"local", "none"}),
          launcher);
  v.visit({"runner_memory_mib", "MiB", "limit of one runner; 0: none", 0, 1e7}, runner_memory_mib);
  v.visit({"runner_cpus", "cores", "limit of one runner; 0: none", 0, 1e5}, runner_cpus);
  v.visit({"memory_reserve", "", "share of a host's memory; below it the largest runner is stopped", 0, 0.9},
          memory_reserve);
  v.visit({"weights_fanout", "hosts", "that take their weights from one source", 1, 4096}, weights_fanout);
}

void NetworkConfig::settings(SettingVisitor& v) {
  v.visit({"bind", "", "where the run listens: ipc (this machine's files) or an address"}, bind);
  v.visit({"port", "", "of the driver; the learner takes the next one; 0: free ones", 0, 65534}, port);
  v.visit({"keys", "", "directory made by `myriad keys`; needed beyond loopback"}, keys);
}

void LearnersConfig::settings(SettingVisitor& v) {
  v.visit({"num_learners", "processes", "that share each batch; `myriad scale` changes it while they run", 1, 1024},
          num_learners);
  v.visit({"device", "", "what a learner computes on: cpu, cuda:N, or cuda: GPU i % number of GPUs for learner i"},
          device);
  v.visit(choice("executor", "who runs the module on a CPU", {"auto", "torch", "native"}), executor);
  v.visit(
      choice("autocast", "CUDA: type of the module's matrix products; parameters stay float32", {"none", "bfloat16"}),
      autocast);
  v.visit({"cuda_graph", "", "CUDA: gradient steps are recorded once and replayed"}, cuda_graph);
  v.visit({"num_threads", "threads", "of a learner; 0: the learners share the machine's cores", 0, 1024}, num_threads);
  v.visit(
      choice("collective",
             "how learners sum: auto: in shared memory where all are on one host, else gloo; nccl: gradients between "
             "GPUs, one learner each",
             {"auto", "gloo", "nccl"}),
      collective);
  v.visit(choice("shard", "what lies in parts over the learners (ZeRO); each includes those before it",
                 {"none", "optimizer", "gradients", "parameters"}),
          shard);
  v.visit({"redundancy", "", "a learner also keeps its left neighbour's part, for when that dies"}, redundancy);
  v.visit(
      {"gradient_accumulation", "parts", "of a minibatch, one after the other; the same step with less memory", 1, 1e6},
      gradient_accumulation);
}

void EvaluationConfig::settings(SettingVisitor& v) {
  v.visit({"evaluation_interval", "iterations",
           "between evaluations while it trains, of a checkpoint made for each; 0: none", 0, 1e9},
          evaluation_interval);
  v.visit({"evaluation_duration", "episodes", "of one evaluation", 1, 1e6}, evaluation_duration);
  v.visit({"evaluation_parallel_to_training", "", "training goes on meanwhile; false: it waits"},
          evaluation_parallel_to_training);
  v.visit(
      {"evaluation_sample_timeout_s", "s", "for one evaluation; then it ends with the episodes there are", 0.1, 1e6},
      evaluation_sample_timeout_s);
  v.visit({"explore", "", "sample actions; false: take the most likely one"}, explore);
  v.visit({"evaluate_at_end", "", "evaluate the final policy"}, evaluate_at_end);
  v.visit({"record_video", "episodes", "of an evaluation, filmed into the run's videos/", 0, 1e6}, record_video);
  v.visit({"record_episodes", "episodes", "of an evaluation, written step by step into the run's episodes/", 0, 1e6},
          record_episodes);
  v.visit({"video_width", "pixels", "of a video", 16, 4096}, video_width);
  v.visit({"video_height", "pixels", "of a video", 16, 4096}, video_height);
}

void ReportingConfig::settings(SettingVisitor& v) {
  v.visit({"metrics_num_episodes_for_smoothing", "episodes", "in the mean return", 1, 1e6},
          metrics_num_episodes_for_smoothing);
  v.visit({"min_time_s_per_iteration", "s", "async: updates of so much time make one iteration", 0, 1e6},
          min_time_s_per_iteration);
}

void CheckpointingConfig::settings(SettingVisitor& v) {
  v.visit({"checkpoint_frequency", "iterations", "between checkpoints; 0: by checkpoint_interval_s alone", 0, 1e9},
          checkpoint_frequency);
  v.visit({"checkpoint_interval_s", "s", "between checkpoints, beside checkpoint_frequency; 0: not by time", 0, 1e9},
          checkpoint_interval_s);
  v.visit({"num_to_keep", "checkpoints", "the latest; older ones but the best are removed", 1, 1e6}, num_to_keep);
  v.visit(choice("checkpoint_score_attribute", "the best checkpoint has the most of it",
                 {kEvaluationReturn, "env_runners/episode_return_mean"}),
          checkpoint_score_attribute);
}

void FaultToleranceConfig::settings(SettingVisitor& v) {
  v.visit({"restart_backoff_s", "s", "before the second restart in a row (the first is at once); doubles each time", 0,
           1e6},
          restart_backoff_s);
  v.visit({"restart_backoff_max_s", "s", "where the doubling ends", 0, 1e6}, restart_backoff_max_s);
  v.visit({"max_failures_in_a_row", "failures",
           "of one slot, with no finished episode (a learner: iteration) between; then it is quarantined", 1, 1e6},
          max_failures_in_a_row);
  v.visit({"max_failed_episodes", "", "share of the last 100 episodes or more that may fail; more end the run; 1: all",
           0, 1},
          max_failed_episodes);
}

void StopConfig::settings(SettingVisitor& v) {
  v.visit({"training_iteration", "iterations", "0: not a criterion", 0}, training_iteration);
  v.visit({"num_env_steps_sampled_lifetime", "env steps", "0: not a criterion", 0}, num_env_steps_sampled_lifetime);
  v.visit({"episode_return_mean", "", "stop when the mean return reaches this"}, episode_return_mean);
  v.visit({"time_total_s", "s", "0: not a criterion", 0}, time_total_s);
  v.visit({"evaluations_without_improvement", "evaluations",
           "stop after so many whose return is no better than the best before; 0: not a criterion", 0},
          evaluations_without_improvement);
  v.visit({"iterations_without_improvement", "iterations",
           "stop after so many whose episode_return_mean is no better than the best before; 0: not a criterion", 0},
          iterations_without_improvement);
}

void PluginsConfig::settings(SettingVisitor& v) {
  v.visit({"algorithm", "", "what the library of `algorithm` says of itself"}, algorithm);
  v.visit({"module", "", "the network that a library made"}, module);
  v.visit({"environment", "", "what the simulators say of themselves"}, environment);
}

int64_t Config::fragment_length() const {
  if (env_runners.rollout_fragment_length > 0) return env_runners.rollout_fragment_length;
  return std::max<int64_t>(
      1, training.train_batch_size / (env_runners.num_env_runners * env_runners.num_envs_per_env_runner));
}

int64_t Config::fragments_per_batch() const {
  return std::max<int64_t>(1, training.train_batch_size / (fragment_length() * env_runners.num_envs_per_env_runner));
}

}  // namespace myriad
