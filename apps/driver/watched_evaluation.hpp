// A final evaluation in a process of its own, so that nothing an environment does, or never does, is the driver's end.
#pragma once

#include <functional>
#include <optional>

#include "apps/driver/end_signals.hpp"
#include "apps/driver/final_evaluation.hpp"

namespace myriad {

struct WatchedEvaluation {
  std::optional<FinalEvaluation> result;
  std::string failure;  ///< why there is none
  int signal = 0;       ///< that ended it; 0: none did
};

/// evaluate_at_end(), until a signal comes or its time is long over. `slow` is called once, when it takes a while.
WatchedEvaluation watch_evaluation(const Config& config, const std::filesystem::path& run,
                                   const std::string& checkpoint, EndSignals& signals,
                                   const std::function<void()>& slow);

}  // namespace myriad
