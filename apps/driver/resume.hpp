// Resume: what of a run the driver keeps in a checkpoint (driver.json), and how a run goes on from one.
#pragma once

#include <deque>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "apps/driver/origin.hpp"
#include "rl/system.hpp"
#include "roles/driver_core.hpp"

namespace myriad {

/// The contents of a checkpoint's driver.json, and its runners' states.
struct SavedRun {
  std::string directory;  ///< "" = a fresh run
  uint64_t iteration = 0, env_steps = 0, episodes = 0;
  double time_total_s = 0;
  std::deque<double> returns, lengths;
  uint32_t level = 0;                     ///< of the curriculum
  std::deque<double> level_returns;       ///< at it
  std::optional<Evaluations::Best> best;  ///< checkpoint, where it is there
  Improvement evaluations, training_return;
  std::vector<SharedBytes> runner_states;  ///< by slot; empty where it has none
  Origin origin;
  std::string note;  ///< what the resumed run has to tell at its start
};

std::string driver_json(const DriverCore& core, double time_total_s);

/// Throws Error(usage, "corrupt-checkpoint").
SavedRun load_saved_run(Files& files, const std::string& checkpoint, int64_t num_slots);

/// The run that `given`, a run's directory or one checkpoint in it, belongs to.
std::filesystem::path run_of(const std::filesystem::path& given);

/// The checkpoint that `given` means, verified: itself, or the run's newest that verifies. Warns of those left out on
/// stderr. Throws Error(usage, "no-checkpoint", or "corrupt-checkpoint" where what is there is damaged).
std::string checkpoint_of(Files& files, const std::filesystem::path& given);

/// Moves the checkpoints newer than `iteration` away: kept, but no longer what a resume finds or a new checkpoint of
/// that number meets.
void set_newer_aside(const std::filesystem::path& run, uint64_t iteration);

/// Throws Error("corrupt-file") where truncate_results() would; changes nothing.
void check_results(const std::filesystem::path& run, int64_t iteration);

/// Cuts results.jsonl and progress.csv back to the reports up to `iteration`, each atomically: a resumed run goes on
/// from its checkpoint as if the rest had not been. Throws Error("corrupt-file") when a line before that cannot be
/// read.
void truncate_results(const std::filesystem::path& run, int64_t iteration);

}  // namespace myriad
