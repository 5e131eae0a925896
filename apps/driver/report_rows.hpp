// Report rows: one report of the learner and the driver's own counts, as the rows of results.jsonl and of the panel.
#pragma once

#include <map>
#include <string>

#include "apps/driver/run_observer.hpp"
#include "roles/driver_core.hpp"

namespace myriad {

using Metrics = std::map<std::string, double>;
Metrics metrics_of(const wire::IterationReportT& report);

/// What the driver measured since the report before.
struct SinceLastReport {
  double time_total_s, iteration_s;
  double steps;  ///< env steps
};

/// `metrics`: of `report`, the driver's own dropped/* included. Keys that begin with learners/, dropped/, timers/ or
/// policy_lag_hist/ go to the rows as they are.
Report report_rows(const wire::IterationReportT& report, const Metrics& metrics, const DriverCore& core,
                   const SinceLastReport& since);

/// The fields of the panel that a report changes. `in_step`: sync, where no fragment has another version.
void show_metrics(const Metrics& metrics, bool in_step, Snapshot& snapshot);

}  // namespace myriad
