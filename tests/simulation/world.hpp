// World: a whole run in one thread, the real roles under a fake clock, network, disk and kernel with seeded faults.
//
//   DriverCore + CheckpointWriter                           |
//   LearnerCore (fake update: weights = hash of the batch)  | <--> encoded frames, event queue by (time, id), SimFiles
//   HostAgent x H (real parcels, shared weights, relay)     |
//     <--> runners x R as env_runner.cpp behaves, on reliable ordered streams of packed messages
//
// A seed draws the topology, which faults exist at all (swarm testing) and their rates. After every event and at the
// end the books must balance; the first rule that does not hold is the result. A planted Bug lives in the shells around
// the roles: what it must break is in simulation_test.cpp.
//
//   plan: what a seed draws | cluster: the World class | world: clock, network, kernel | world_driver, world_learner,
//   world_agent: the shells of the roles | world_books: the ledger that is kept apart from the roles' own
#pragma once

#include "tests/simulation/plan.hpp"

namespace myriad::simulation {

enum class Bug : uint8_t {
  none,
  // parcels
  ack_before_take,     // the learner acknowledges a parcel, then loses it
  gap_taken,           // it takes a parcel though one before it is missing
  lost_on_reconnect,   // the agent forgets what was not acknowledged
  join_not_repeated,   // a lost Join stays lost
  resent_consumed,     // a fragment sent again counts as the next one
  exit_before_socket,  // a runner's end is told before what it still had said
  // fencing
  stale_epoch_accepted,    // messages of the run before the crash pass
  stale_agent_accepted,    // fragments of a dead agent count as the living one's
  connection_not_checked,  // the slot in a runner's message is believed
  // credit
  runner_ignores_credit,        // it samples whenever it has weights
  credit_leak_on_runner_death,  // what it was permitted is gone with it
  credit_leak_on_agent_death,   // the learner does not hear that an agent is down
  grant_per_message,            // grants add up instead of being cumulative
  runner_starved,               // the last runner of an agent comes after all others, always
  // draining
  drained_leaves_early,  // before the last acknowledgement
  // weights
  weights_torn,                   // half of one version, half of another
  old_weights_under_new_version,  // the version grows, the content stays
  filter_not_resent,              // a replaced agent gets parameters without the filter's state
  permits_before_weights,         // the runner samples before the round's weights are there
  overwritten_while_pinned,       // a buffer is written though a runner infers on it
  lag1_publishes_early,           // when the update ends, not when the next round begins
  lag_off_by_one,                 // max_policy_lag + 1 passes
  // checkpoints and counters
  no_file_fsync,
  no_directory_fsync,
  other_iterations_weights,   // the checkpoint holds the weights before the last update
  lag1_batch_not_saved,       // the batch that waits is not in the checkpoint
  lag1_batch_not_restored,    // it is, and is not used
  counters_reset_on_resume,   // env steps start from 0 again
  runner_state_not_restored,  // resumed environments start anew
  newest_pruned,              // pruning removes the newest checkpoint, not the oldest
  best_pruned,                // pruning removes the best one, or the one that is evaluated
  // processes
  report_not_repeated,      // a lost report stays lost
  restart_without_backoff,  // and without quarantine
  hung_runner_not_killed,
  batch_in_arrival_order,  // places are ignored
  // the learner group
  committed_alone,          // a shard counts an update that others have not finished
  old_epoch_lives,          // a shard does not leave when it is called
  newcomer_keeps_its_own,   // who joins with older weights is given nothing
  marks_forgotten,          // the next epoch does not know what was trained on
  released_too_early,       // agents forget when the update begins
  prepared_taken_back,      // an update that all survivors have finished is undone by one of them
  torn_counts,              // one that a survivor has not finished counts there
  rendezvous_not_repeated,  // a lost entry stays lost
  leavers_told_at_once,     // a smaller group: before those that stay have the state
  hung_learner_not_killed,
  ids_of_the_last_run,  // a process of the next life comes with the routing id of one of the last
  // the end
  last_save_waits_for_data,  // the checkpoint of a run that is cut waits for its round and its runners' states
  count
};
std::string_view name_of(Bug bug);

struct Result {
  std::string violation;  ///< "" when every rule held; else "I4: ..."
  std::string plan;       ///< the schedule in words
  uint64_t trace = 0;     ///< hash over every event
  uint64_t events = 0, updates = 0, lives = 1, resumed = 0, shares = 0;
  uint32_t faults = 0;  ///< those that existed
  bool by_slot = true;  ///< sync or lag1
  uint32_t agents = 0, learners = 0;
  std::vector<uint64_t> batches;  ///< by_slot: hash of each batch by iteration, until the first runner died
  std::string finished;           ///< the driver's reason; "" when the schedule ended first
  std::string log;                ///< with `verbose`: what happened, one line an event
  uint64_t crashes = 0, runner_deaths = 0, agent_deaths = 0, learner_deaths = 0, epochs = 0, resizes = 0, drains = 0,
           violations = 0, checkpoints = 0;
  uint64_t produced = 0, received = 0, consumed = 0, dropped = 0, lost = 0;  ///< fragments
};

struct Schedule {
  uint64_t seed = 0;
  uint32_t allowed = kAllFaults;
  Bug bug = Bug::none;
  bool verbose = false;
  uint32_t agents = 0, learners = 0;  ///< instead of the number drawn
};
/// Runs the schedule of a seed with the faults it draws out of those allowed.
Result run_schedule(const Schedule& schedule);

}  // namespace myriad::simulation
