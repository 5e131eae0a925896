// EvaluationProcess: one evaluation of a run's checkpoint while the run trains, in a process of its own:
// `myriad run-evaluation RUN CHECKPOINT`, a verb for the driver alone.
//
//   driver --exec--> run-evaluation: evaluate_at_end() --pipe: its numbers, or its error--> driver
//
// Used from the driver's one thread, which does not wait for it.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <optional>
#include <string>

#include "apps/driver/final_evaluation.hpp"

namespace myriad {

class EvaluationProcess {
 public:
  /// Of `checkpoint`, whose config says how. What it prints goes to the run's logs/evaluation.txt. `aside`: it leaves
  /// the processor to those that train. Throws Error where it cannot be started.
  EvaluationProcess(const std::filesystem::path& run, const std::string& checkpoint, bool aside);
  EvaluationProcess(const EvaluationProcess&) = delete;
  /// Kills it.
  ~EvaluationProcess();

  void kill() const;

  struct Ended {
    std::optional<FinalEvaluation> result;
    std::string failure;  ///< why there is no result
  };
  /// What came of it, once; none while it runs. A SIGCHLD says when to ask.
  std::optional<Ended> ended();

 private:
  std::filesystem::path log_;
  pid_t pid_ = -1;
  int result_ = -1;  // the pipe's end that is read
};

/// What the process does. Returns its exit status.
int run_evaluation(const std::string& run, const std::string& checkpoint);

}  // namespace myriad
