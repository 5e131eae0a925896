// The evaluation of a run's policy: evaluation.evaluation_interval and evaluate_at_end.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "apps/driver/run_observer.hpp"
#include "rl/config.hpp"

namespace myriad {

/// As they go through a pipe.
struct EvaluationNumbers {
  double return_mean, return_stddev;
  double return_min, return_max, length_mean;
  size_t episodes, failed;  ///< that ended, and of them those that failed, which the means leave out
  size_t cut;               ///< of them, at Evaluator::kEndlessEpisode
  int64_t videos;           ///< in the run's videos/
};
struct FinalEvaluation : EvaluationNumbers {
  std::string failure;  ///< why recording ended early, while the evaluation went on; "" where nothing went wrong
};

/// Of which checkpoint an evaluation is, and how long it took.
struct EvaluatedCheckpoint {
  double training_iteration = Snapshot::kUnknown, env_steps = Snapshot::kUnknown, time_s = Snapshot::kUnknown;
};

/// An evaluation as the values of a report; without `result` nothing was evaluated, and they are NaN. `best`: the
/// iteration of the run's best checkpoint.
Report evaluation_rows(const EvaluatedCheckpoint& checkpoint, const EvaluationNumbers* result,
                       std::optional<uint64_t> best);

/// Evaluates `checkpoint` as [evaluation] of `config` says, and records its first episodes into the folder `run`.
/// Throws what load_policy() and evaluate_policy() throw, and Error where no episode ended well.
FinalEvaluation evaluate_at_end(const Config& config, const std::filesystem::path& run, const std::string& checkpoint);

}  // namespace myriad
