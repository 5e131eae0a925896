#include "apps/driver/final_evaluation.hpp"

#include "apps/driver/policy_file.hpp"
#include "apps/driver/recorder.hpp"

namespace myriad {

FinalEvaluation evaluate_at_end(const Config& config, const std::filesystem::path& run, const std::string& checkpoint) {
  const EvaluationConfig& settings = config.evaluation;
  const SavedPolicy policy = load_policy(checkpoint);
  RunRecorder recorder(run, std::filesystem::path(checkpoint).filename().string(), settings, policy.env);
  const bool records = settings.record_video + settings.record_episodes > 0;
  const EvaluationResult result = evaluate_policy(policy, {.episodes = static_cast<int>(settings.evaluation_duration),
                                                           .seed = static_cast<uint64_t>(config.seed),
                                                           .explore = settings.explore,
                                                           .observer = records ? &recorder : nullptr});
  return {.return_mean = result.return_mean(),
          .return_stddev = result.return_stddev(),
          .episodes = result.episodes.size(),
          .failed = result.num_failed(),
          .videos = recorder.num_videos(),
          .failure = recorder.failure()};
}

}  // namespace myriad
