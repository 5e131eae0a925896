// World: a whole run in one thread, the real roles under a fake clock, network, disk and kernel with seeded faults.
//
//   DriverCore + SlotSupervisor + CheckpointWriter          |
//   LearnerCore (fake update: weights = hash of the batch)  | <--> encoded frames, event queue by (time, id), SimFiles
//   RunnerCore x N (fake environments: a counter)           |
//
// A seed draws the topology, which faults exist at all (swarm testing) and their rates. After every event and at the
// end the books must balance; the first rule that does not hold is the result. A planted Bug lives in the shells around
// the roles: what it must break is in simulation_test.cpp.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace myriad::simulation {

enum class Fault : uint8_t {
  loss,
  duplicates,
  latency,
  bit_flips,
  runner_kills,
  pauses,
  hangs,
  bad_slot,
  spawn_failures,
  invalid_fragments,
  learner_kill,
  interrupt,
  disk,
  crash,
  usage_error,
  count
};
std::string_view name_of(Fault fault);
inline constexpr uint32_t kAllFaults = (1u << static_cast<uint32_t>(Fault::count)) - 1;
constexpr uint32_t bit(Fault fault) { return 1u << static_cast<uint32_t>(fault); }
/// Faults after which a sync run must still train on exactly the same batches.
inline constexpr uint32_t kNetworkFaults =
    bit(Fault::loss) | bit(Fault::duplicates) | bit(Fault::latency) | bit(Fault::bit_flips);

enum class Bug : uint8_t {
  none,
  ack_before_enqueue,             // the learner acknowledges, then loses the fragment
  no_incarnation_check,           // fragments of a dead process count as the living one's
  duplicate_accepted,             // a fragment sent again takes the next open place
  stale_epoch_accepted,           // messages of the run before the crash pass
  no_file_fsync,                  // files of a checkpoint are not synced
  no_directory_fsync,             // directories are not
  credit_leak_on_death,           // the learner does not hear that a slot is down
  weights_torn,                   // half of one version, half of another
  old_weights_under_new_version,  // the version grows, the content stays
  grants_not_repeated,            // a lost grant or fragment is not sent again
  runner_ignores_credit,          // it samples whenever it has weights
  report_not_repeated,            // a lost report stays lost
  other_iterations_weights,       // the checkpoint holds the weights before the last update
  restart_without_backoff,        // and without quarantine
  filter_not_resent,              // a restarted runner gets parameters without the filter's state
  counters_reset_on_resume,       // env steps start from 0 again
  hung_runner_not_killed,
  runner_state_not_restored,  // resumed environments start anew
  newest_pruned,              // pruning removes the newest checkpoint, not the oldest
  batch_in_arrival_order,     // places are ignored
  old_weights_sampled,        // the runner does not wait for the round's weights
  count
};
std::string_view name_of(Bug bug);

struct Result {
  std::string violation;  ///< "" when every rule held; else "I4: ..."
  std::string plan;       ///< the schedule in words
  uint64_t trace = 0;     ///< hash over every event
  uint64_t events = 0, updates = 0, lives = 1;
  uint32_t faults = 0;            ///< those that existed
  std::vector<uint64_t> batches;  ///< hash of each batch by iteration, until the first runner died
  std::string finished;           ///< the driver's reason; "" when the schedule ended first
  std::string log;                ///< with `verbose`: what happened, one line an event
  uint64_t crashes = 0, runner_deaths = 0, checkpoints = 0;
};

/// Runs the schedule of `seed` with the faults it draws out of `allowed`.
Result run_schedule(uint64_t seed, uint32_t allowed = kAllFaults, Bug bug = Bug::none, bool verbose = false);

}  // namespace myriad::simulation
