// RunProgress: what a run has come to, as the rows of a report and as a Snapshot: the core's numbers, what was measured
// between reports, and the best return.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "apps/driver/report_rows.hpp"
#include "apps/driver/run_observer.hpp"
#include "rl/config.hpp"
#include "roles/driver_core.hpp"

namespace myriad {

class RunProgress {
 public:
  /// Of a run in `directory` that begins at `now`, or goes on: with so many env steps behind it, and a best mean
  /// return.
  RunProgress(const Config& config, const std::filesystem::path& directory, uint64_t env_steps,
              std::optional<double> best, Time now);

  /// `metrics`: of `report`, the driver's own included. `core` has counted the report already.
  Report report(const wire::IterationReportT& report, const Metrics& metrics, const DriverCore& core, Time now);
  /// An evaluation came to this. It is in the next report, and the reports between two evaluations have NaN.
  void evaluated(const Report& rows);
  void event(const std::string& text);
  Snapshot snapshot(const DriverCore& core, Time now) const;

  /// The best mean return of a report; none before an episode has ended.
  std::optional<double> best() const { return best_; }

 private:
  const Config& config_;
  uint64_t base_steps_;  // of the checkpoint that the run went on from
  std::optional<double> best_;
  Time started_, last_report_;
  double last_steps_;
  std::optional<uint64_t> base_iteration_;  // of the checkpoint, too; none before the first report
  std::optional<Report> evaluated_;         // not yet in a report
  Snapshot shown_;                          // what does not change, and what the last report and event said
};

}  // namespace myriad
