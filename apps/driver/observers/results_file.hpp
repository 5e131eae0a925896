// results.jsonl: the truth of a run, one JSON object a report, flushed at once. "a/b" is {"a": {"b": ...}} as in RLlib,
// NaN is null.
#pragma once

#include <filesystem>

#include "apps/driver/append_file.hpp"
#include "apps/driver/run_observer.hpp"

namespace myriad {

/// The report as one line of results.jsonl, without the line's end. Throws Error where a key is a value and a group.
std::string to_json_line(const Report& report);

class ResultsFile final : public RunObserver {
 public:
  /// Creates the file in a run's folder, or goes on with the one that is there. Throws Error("cannot-write").
  explicit ResultsFile(const std::filesystem::path& run);

  void report(const RunReport& report) override;
  /// When the disk begins to refuse lines, and when it has taken all of them.
  std::optional<RunEvent> notice() override;

 private:
  AppendFile file_;
  bool was_behind_ = false;
  double wall_time_s_ = 0;  ///< of the last report
};

/// evaluations.jsonl: one object an evaluation.
class EvaluationsFile final : public RunObserver {
 public:
  /// As ResultsFile's.
  explicit EvaluationsFile(const std::filesystem::path& run);

  void evaluated(const RunReport& report) override;

 private:
  AppendFile file_;
};

/// The rows of evaluations.jsonl of checkpoints up to `iteration`. Throws as results_up_to().
LinesUpTo evaluations_up_to(const std::filesystem::path& run, int64_t iteration);

/// The reports of results.jsonl up to `iteration`. Throws Error("corrupt-file") as lines_up_to().
LinesUpTo results_up_to(const std::filesystem::path& run, int64_t iteration);

}  // namespace myriad
