#include "apps/driver/final_evaluation.hpp"

#include <algorithm>
#include <vector>

#include "apps/driver/policy_file.hpp"
#include "apps/driver/recorder.hpp"
#include "rl/check.hpp"

namespace myriad {

Report evaluation_rows(const EvaluatedCheckpoint& checkpoint, const EvaluationNumbers* result,
                       std::optional<uint64_t> best) {
  constexpr double kUnknown = Snapshot::kUnknown;
  const EvaluationNumbers unknown{kUnknown, kUnknown, kUnknown, kUnknown, kUnknown, 0, 0, 0, 0};
  const EvaluationNumbers& it = result == nullptr ? unknown : *result;
  return {{"training_iteration", checkpoint.training_iteration},
          {"num_env_steps_sampled_lifetime", checkpoint.env_steps},
          {"time_this_iter_s", checkpoint.time_s},
          {"env_runners/episode_return_mean", it.return_mean},
          {"env_runners/episode_return_stddev", it.return_stddev},
          {"env_runners/episode_return_min", it.return_min},
          {"env_runners/episode_return_max", it.return_max},
          {"env_runners/episode_len_mean", it.length_mean},
          {"env_runners/num_episodes", result == nullptr ? kUnknown : static_cast<double>(it.episodes)},
          {"best_training_iteration", best ? static_cast<double>(*best) : kUnknown}};
}

FinalEvaluation evaluate_at_end(const Config& config, const std::filesystem::path& run, const std::string& checkpoint) {
  const EvaluationConfig& settings = config.evaluation;
  const SavedPolicy policy = load_policy(checkpoint);
  RunRecorder recorder(run, std::filesystem::path(checkpoint).filename().string(), settings, policy.env);
  const bool records = settings.record_video + settings.record_episodes > 0;
  const EvaluationResult result = evaluate_policy(policy, {.episodes = static_cast<int>(settings.evaluation_duration),
                                                           .seed = static_cast<uint64_t>(config.seed),
                                                           .explore = settings.explore,
                                                           .max_time = seconds(settings.evaluation_sample_timeout_s),
                                                           .observer = records ? &recorder : nullptr});
  if (result.num_ended() == 0)
    fail(Exit::environment, "evaluation-cut", "no episode ended within evaluation.evaluation_sample_timeout_s = {:g}",
         settings.evaluation_sample_timeout_s);
  if (result.num_ended() == result.num_failed())
    fail(Exit::environment, "episodes-failed", "all {} episodes failed", result.num_failed());
  std::vector<double> returns;
  for (const EvaluationResult::Episode& episode : result.episodes)
    if (episode.ended && !episode.failed) returns.push_back(episode.episode_return);
  return {{.return_mean = result.return_mean(),
           .return_stddev = result.return_stddev(),
           .return_min = std::ranges::min(returns),
           .return_max = std::ranges::max(returns),
           .length_mean = result.length_mean(),
           .episodes = result.num_ended(),
           .failed = result.num_failed(),
           .cut = result.num_cut,
           .videos = recorder.num_videos()},
          recorder.failure()};
}

}  // namespace myriad
