// The evaluation of a run's last policy: evaluation.evaluate_at_end.
#pragma once

#include <filesystem>
#include <string>

#include "rl/config.hpp"

namespace myriad {

struct FinalEvaluation {
  double return_mean, return_stddev;
  size_t episodes, failed;  ///< the means are of those that did not fail
  int64_t videos;           ///< in the run's videos/
  std::string failure;      ///< why recording ended early, while the evaluation went on; "" where nothing went wrong
};

/// Evaluates `checkpoint` as [evaluation] of `config` says, and records its first episodes into the folder `run`.
/// Throws what load_policy() and evaluate_policy() throw.
FinalEvaluation evaluate_at_end(const Config& config, const std::filesystem::path& run, const std::string& checkpoint);

}  // namespace myriad
