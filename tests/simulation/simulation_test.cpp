// A cluster of the real roles under seeded faults: thousands of schedules, every old failure again, and planted bugs.
//
//   MYRIAD_SIMULATION_SCHEDULES=300000   runs more of them (nightly); MYRIAD_SIMULATION_SEED=17 one, with its log
#include <doctest/doctest.h>

#include <cstdlib>
#include <string>

#include "tests/simulation/world.hpp"

namespace myriad::simulation {
namespace {

constexpr uint64_t kSchedules = 30'000, kPlantedBudget = 5'000;

struct FailingSeed {
  uint64_t seed;
  uint32_t faults;
  const char* what;
};
constexpr FailingSeed kFailingSeeds[] = {
#include "tests/simulation/failing_seeds.txt"
};

uint64_t from_environment(const char* name, uint64_t otherwise) {
  const char* text = std::getenv(name);
  return text == nullptr ? otherwise : std::strtoull(text, nullptr, 10);
}

/// A failure in words, with as few kinds of fault as still show one.
std::string explain(uint64_t seed, Result result) {
  uint32_t faults = result.faults;
  for (bool smaller = true; smaller;) {
    smaller = false;
    for (uint32_t i = 0; i < static_cast<uint32_t>(Fault::count); ++i) {
      if ((faults >> i & 1) == 0) continue;
      Result fewer = run_schedule(seed, faults & ~(1u << i));
      if (fewer.violation.empty()) continue;
      faults = fewer.faults;
      result = std::move(fewer);
      smaller = true;
    }
  }
  return "seed " + std::to_string(seed) + ", " + result.violation + "\n  " + result.plan + "\n  faults mask " +
         std::to_string(faults) + "; add the seed to failing_seeds.txt";
}

}  // namespace

TEST_SUITE("simulation/world") {
  TEST_CASE("World: one schedule of MYRIAD_SIMULATION_SEED, told event by event") {
    const uint64_t seed = from_environment("MYRIAD_SIMULATION_SEED", 0);
    if (seed == 0) return;
    const Result result = run_schedule(seed, kAllFaults, Bug::none, true);
    MESSAGE(result.log << result.plan << "\n" << result.violation);
    CHECK(result.violation == "");
  }

  TEST_CASE("World: seeds that failed once hold now") {
    for (const FailingSeed& failing : kFailingSeeds) {
      CAPTURE(failing.seed);
      CAPTURE(failing.what);
      CHECK(run_schedule(failing.seed, failing.faults).violation == "");
    }
  }

  TEST_CASE("World: in every schedule the books balance, and the run goes on or ends for a reason") {
    const uint64_t schedules = from_environment("MYRIAD_SIMULATION_SCHEDULES", kSchedules);
    uint64_t events = 0, updates = 0, crashes = 0, deaths = 0, checkpoints = 0;
    int failures = 0;
    for (uint64_t seed = 1; seed <= schedules && failures < 3; ++seed) {
      const Result result = run_schedule(seed);
      events += result.events;
      updates += result.updates;
      crashes += result.crashes;
      deaths += result.runner_deaths;
      checkpoints += result.checkpoints;
      if (!result.violation.empty()) {
        ++failures;
        FAIL_CHECK(explain(seed, result));
      }
      if (seed % 100 == 0) {
        const Result again = run_schedule(seed);
        CAPTURE(seed);
        CHECK(again.trace == result.trace);
      }
    }
    MESSAGE(schedules << " schedules, " << events << " events, " << updates << " updates, " << checkpoints
                      << " checkpoints, " << crashes << " crash-restarts, " << deaths << " runner deaths");
    // The schedules must reach what they are for.
    CHECK(updates > 2 * schedules);
    CHECK(checkpoints > schedules / 2);
    CHECK(crashes > schedules / 10);
    CHECK(deaths > schedules / 2);
  }

  TEST_CASE("World: whatever the network does, a sync run trains on the batches of the undisturbed run") {
    for (uint64_t seed = 1; seed <= 1000; ++seed) {
      CAPTURE(seed);
      const Result disturbed = run_schedule(seed, kNetworkFaults), calm = run_schedule(seed, 0);
      REQUIRE(calm.violation == "");
      REQUIRE(disturbed.violation == "");
      const size_t both = std::min(disturbed.batches.size(), calm.batches.size());
      REQUIRE(both > 0);
      for (size_t i = 0; i < both; ++i) REQUIRE(disturbed.batches[i] == calm.batches[i]);
    }
  }
}

TEST_SUITE("simulation/planted_bugs") {
  TEST_CASE("World: every planted bug is found, by the rule it breaks") {
    // The rules that may find it first: which one does depends on the schedule.
    struct Planted {
      Bug bug;
      const char* rules;
    };
    const Planted planted[] = {
        {Bug::ack_before_enqueue, "I2"},
        {Bug::no_incarnation_check, "I1 I5"},
        {Bug::duplicate_accepted, "I1"},
        {Bug::stale_epoch_accepted, "I5"},
        {Bug::no_file_fsync, "I7"},
        {Bug::no_directory_fsync, "I7"},
        {Bug::credit_leak_on_death, "I9"},
        {Bug::weights_torn, "I4"},
        {Bug::old_weights_under_new_version, "I4"},
        {Bug::grants_not_repeated, "I9"},
        {Bug::runner_ignores_credit, "I3"},
        {Bug::report_not_repeated, "I9"},
        {Bug::other_iterations_weights, "I7"},
        {Bug::restart_without_backoff, "I10"},
        {Bug::filter_not_resent, "I4"},
        {Bug::counters_reset_on_resume, "I8"},
        {Bug::hung_runner_not_killed, "I9"},
        {Bug::runner_state_not_restored, "determinism"},
        {Bug::newest_pruned, "I7"},
        {Bug::batch_in_arrival_order, "determinism"},
        {Bug::old_weights_sampled, "I4"},
    };
    CHECK(std::size(planted) == static_cast<size_t>(Bug::count) - 1);
    for (const Planted& p : planted) {
      const std::string rules = p.rules, name(name_of(p.bug));
      CAPTURE(name);
      bool found = false;
      uint64_t seed = 0;
      std::string violation;
      while (!found && ++seed <= kPlantedBudget) {
        violation = run_schedule(seed, kAllFaults, p.bug).violation;
        const std::string rule = violation.substr(0, violation.find(':'));
        found = !rule.empty() && (" " + rules + " ").find(" " + rule + " ") != std::string::npos;
      }
      CHECK(found);
      if (!found) continue;
      MESSAGE(name << " found by " << violation.substr(0, violation.find(':')) << " after " << seed << " schedules");
      CHECK(run_schedule(seed).violation == "");  // without the bug the same schedule holds
    }
  }
}

}  // namespace myriad::simulation
