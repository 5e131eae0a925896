// RunObserver: what a run shows of itself. Files, the terminal and exporters are observers of it.
//
//   learner --IterationReport--> Run --report, event, snapshot, finished--> results.jsonl, progress.csv, events.jsonl,
//   evaluation ----------------->     --evaluated------------------------>  evaluations.jsonl, tb/, the terminal
//
// Called from the driver's one thread, which has sockets and processes to serve: an observer does not wait. Times are
// given, never read here.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "apps/driver/snapshot.hpp"

namespace myriad {

/// One value of a report: key as in "env_runners/episode_return_mean".
struct ReportValue {
  std::string key;
  std::variant<double, std::string> value;
};
/// One training iteration's values in the order they are printed; "training_iteration" must be among them.
using Report = std::vector<ReportValue>;
/// What an evaluation says lies in this group of a report.
inline constexpr std::string_view kEvaluationGroup = "evaluation/";

/// The value of a number in the report, if it has one of that key.
std::optional<double> number_in(const Report& report, std::string_view key);

struct RunReport {
  const Report& rows;
  int64_t env_steps;   ///< lifetime
  double wall_time_s;  ///< since 1970
};

/// Something that happened: kind "runner-down", text "runner 3 ended: SIGSEGV".
struct RunEvent {
  double wall_time_s;  ///< since 1970
  std::string kind, text;
};

class RunObserver {
 public:
  virtual ~RunObserver() = default;

  /// After each training iteration.
  virtual void report(const RunReport&) {}

  /// After an evaluation. `env_steps` is its checkpoint's, "training_iteration" among the rows, too.
  virtual void evaluated(const RunReport&) {}

  virtual void event(const RunEvent&) {}

  /// What is known now: a few times a second, and with the last report.
  virtual void snapshot(const Snapshot&) {}

  /// The last call but for those of the evaluation that may follow. `stop`: kind "stop" with the reason.
  virtual void finished(const RunEvent& /*stop*/) {}

  /// Asked after each report: an event where the observer has fallen behind, or has caught up again. A full disk or a
  /// peer that does not answer is told so; what an observer throws ends the run.
  virtual std::optional<RunEvent> notice() { return std::nullopt; }
};

}  // namespace myriad
