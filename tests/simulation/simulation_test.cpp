// A cluster of the real roles under seeded faults: thousands of schedules, every old failure again, and planted bugs.
//
//   MYRIAD_SIMULATION_SCHEDULES=300000 MYRIAD_SIMULATION_FIRST=1   so many, from that seed on; by default 30,000 from a
//                                                                  seed that is drawn anew and printed
//   MYRIAD_SIMULATION_SEED=17   this one too, with its log, with the faults of MYRIAD_SIMULATION_FAULTS=mask and
//                               MYRIAD_SIMULATION_LEARNERS=n
#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <iostream>
#include <mutex>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "tests/simulation/world.hpp"

namespace myriad::simulation {
namespace {

constexpr uint64_t kSchedules = 30'000, kPlantedBudget = 5'000, kTellEvery = 100'000;

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
      Result fewer = run_schedule({.seed = seed, .allowed = faults & ~(1u << i)});
      if (fewer.violation.empty()) continue;
      faults = fewer.faults;
      result = std::move(fewer);
      smaller = true;
    }
  }
  return "seed " + std::to_string(seed) + ", " + result.violation + "\n  " + result.plan + "\n  faults mask " +
         std::to_string(faults) + "; add the seed to failing_seeds.txt";
}

/// The first seed of a block that nobody ran before, with some luck.
uint64_t first_seed(uint64_t schedules) { return 1 + schedules * (std::random_device{}() % 1'000'000); }

/// `take(seed, result, repeats)` for each seed, one call at a time and in no order; it returns whether to go on.
/// `repeats`: a second run of the same seed, made of every hundredth, had the same trace.
template <class F>
void run_on_all_cores(uint64_t first, uint64_t schedules, F&& take) {
  std::atomic<uint64_t> next = first;
  std::mutex mutex;
  bool goes_on = true;
  const auto work = [&] {
    for (uint64_t seed = next++; seed < first + schedules; seed = next++) {
      const Result result = run_schedule({.seed = seed});
      const bool repeats = seed % 100 != 0 || run_schedule({.seed = seed}).trace == result.trace;
      const std::lock_guard lock(mutex);
      if (!goes_on) return;
      goes_on = take(seed, result, repeats);
    }
  };
  std::vector<std::jthread> threads(std::max(1u, std::thread::hardware_concurrency()) - 1);
  for (std::jthread& thread : threads) thread = std::jthread(work);
  work();
}

/// How many batches were compared.
size_t require_same_batches(const Result& one, const Result& other) {
  REQUIRE(one.violation == "");
  REQUIRE(other.violation == "");
  const size_t both = std::min(one.batches.size(), other.batches.size());
  const auto lost = [](const Result& run) { return run.finished.find("learner") != std::string::npos; };
  REQUIRE((both > 0 || lost(one) || lost(other)));  // all learners died at once
  for (size_t i = 0; i < both; ++i) REQUIRE(one.batches[i] == other.batches[i]);
  return both;
}

}  // namespace

TEST_SUITE("simulation/world") {
  TEST_CASE("World: seeds that failed once hold now") {
    for (const FailingSeed& failing : kFailingSeeds) {
      CAPTURE(failing.seed);
      CAPTURE(failing.what);
      CHECK(run_schedule({.seed = failing.seed, .allowed = failing.faults}).violation == "");
    }
    const uint64_t seed = from_environment("MYRIAD_SIMULATION_SEED", 0);
    if (seed == 0) return;
    const auto faults = static_cast<uint32_t>(from_environment("MYRIAD_SIMULATION_FAULTS", kAllFaults));
    const auto learners = static_cast<uint32_t>(from_environment("MYRIAD_SIMULATION_LEARNERS", 0));
    const Result result = run_schedule({.seed = seed, .allowed = faults, .verbose = true, .learners = learners});
    MESSAGE(result.log << result.plan << "\n" << result.violation);
    CHECK(result.violation == "");
  }

  TEST_CASE("World: in every schedule the books balance, and the run goes on or ends for a reason") {
    const uint64_t wanted = from_environment("MYRIAD_SIMULATION_SCHEDULES", kSchedules);
    const uint64_t first = from_environment("MYRIAD_SIMULATION_FIRST", first_seed(wanted));
    std::cout << "NOTE: schedules " << first << " to " << first + wanted - 1 << "; MYRIAD_SIMULATION_FIRST=" << first
              << " runs them again" << std::endl;
    Result sum;
    uint64_t schedules = 0, async = 0;
    std::vector<std::pair<uint64_t, Result>> failures;
    run_on_all_cores(first, wanted, [&](uint64_t seed, const Result& result, bool repeats) {
      ++schedules;
      CAPTURE(seed);
      CHECK(repeats);
      sum.events += result.events;
      sum.updates += result.updates;
      sum.checkpoints += result.checkpoints;
      sum.crashes += result.crashes;
      sum.runner_deaths += result.runner_deaths;
      sum.agent_deaths += result.agent_deaths;
      sum.drains += result.drains;
      sum.learner_deaths += result.learner_deaths;
      sum.epochs += result.epochs;
      sum.resumed += result.resumed;
      sum.shares += result.shares;
      sum.resizes += result.resizes;
      sum.violations += result.violations;
      sum.produced += result.produced;
      sum.consumed += result.consumed;
      sum.dropped += result.dropped;
      sum.lost += result.lost;
      async += result.by_slot ? 0 : 1;
      if (!result.violation.empty()) {
        failures.emplace_back(seed, result);
        std::cout << "seed " << seed << ": " << result.violation << std::endl;
      }
      if (schedules % kTellEvery == 0)
        std::cout << schedules << " schedules, " << failures.size() << " broke a rule" << std::endl;
      return failures.size() < 3;
    });
    for (const auto& [seed, result] : failures) FAIL_CHECK(explain(seed, result));
    MESSAGE(schedules << " schedules, " << async << " of them async, " << sum.events << " events, " << sum.updates
                      << " updates, " << sum.checkpoints << " checkpoints, " << sum.crashes << " crash-restarts, "
                      << sum.resumed << " lives resumed when all learners were lost, " << sum.runner_deaths
                      << " runner deaths, " << sum.agent_deaths << " agent deaths, " << sum.learner_deaths
                      << " learner deaths, " << sum.epochs << " groups formed again, " << sum.resizes
                      << " of them resized, " << sum.shares << " times other shares, " << sum.drains << " drains, "
                      << sum.violations << " hostile runners; fragments: " << sum.produced << " produced, "
                      << sum.consumed << " consumed, " << sum.dropped << " dropped, " << sum.lost << " lost");
    if (schedules < 3'000) return;
    // The schedules must reach what they are for.
    CHECK(sum.updates > 2 * schedules);
    CHECK(sum.checkpoints > schedules / 2);
    CHECK(sum.crashes > schedules / 10);
    CHECK(sum.resumed > schedules / 400);
    CHECK(sum.shares > schedules / 3000);
    CHECK(sum.runner_deaths > schedules / 2);
    CHECK(sum.agent_deaths > schedules / 2);
    CHECK(sum.drains > schedules / 20);
    CHECK(sum.learner_deaths > schedules / 10);
    CHECK(sum.epochs > schedules / 10);
    CHECK(sum.resizes > schedules / 20);
    CHECK(sum.violations > schedules / 20);
    CHECK(async > schedules / 4);
  }

  TEST_CASE(
      "World: whatever the network does, and whoever of the learners dies, a sync or lag1 run trains on the batches "
      "of the undisturbed run") {
    uint64_t replaced = 0, compared = 0;
    for (uint64_t seed = 1; seed <= 1500; ++seed) {
      CAPTURE(seed);
      const Result calm = run_schedule({.seed = seed, .allowed = 0, .learners = 3});
      if (!calm.by_slot) continue;
      const Result disturbed = run_schedule({.seed = seed, .allowed = kHarmlessFaults, .learners = 3});
      compared += require_same_batches(disturbed, calm);
      replaced += disturbed.epochs;
    }
    CHECK(replaced > 100);
    CHECK(compared > 3'000);
  }

  TEST_CASE("World: a resumed sync or lag1 run trains on the batches of the undisturbed run") {
    uint64_t resumed = 0, compared = 0;
    for (uint64_t seed = 1; seed <= 1500; ++seed) {
      CAPTURE(seed);
      const Result crashed = run_schedule({.seed = seed, .allowed = kHarmlessFaults | bit(Fault::crash)});
      if (!crashed.by_slot || crashed.crashes == 0 || crashed.batches.empty()) continue;
      ++resumed;
      compared += require_same_batches(crashed, run_schedule({.seed = seed, .allowed = 0}));
    }
    CHECK(compared > 1'000);
    CHECK(resumed > 200);
  }

  TEST_CASE("World: over however many agents its slots are spread, a sync or lag1 run trains on the same batches") {
    uint64_t spread = 0, compared = 0;
    for (uint64_t seed = 1; seed <= 600; ++seed) {
      CAPTURE(seed);
      const Result one = run_schedule({.seed = seed, .allowed = kHarmlessFaults, .agents = 1, .learners = 1});
      if (!one.by_slot) continue;
      compared += require_same_batches(one, run_schedule({.seed = seed, .allowed = 0, .agents = 3, .learners = 1}));
      compared += require_same_batches(
          one, run_schedule({.seed = seed, .allowed = kHarmlessFaults, .agents = 7, .learners = 1}));
      ++spread;
    }
    CHECK(spread > 300);
    CHECK(compared > 2'500);
  }
}

TEST_SUITE("simulation/planted_bugs") {
  TEST_CASE("World: every planted bug is found, by a rule it breaks") {
    // The rules that may find it first: which one does depends on the schedule.
    struct Planted {
      Bug bug;
      const char* rules;
    };
    const Planted planted[] = {
        {Bug::ack_before_take, "I2"},
        {Bug::gap_taken, "I2"},
        {Bug::lost_on_reconnect, "I2 I9"},
        {Bug::join_not_repeated, "I9"},
        {Bug::resent_consumed, "I1 I2"},
        {Bug::exit_before_socket, "I2"},
        {Bug::stale_epoch_accepted, "I2 I5"},
        {Bug::stale_agent_accepted, "I1 I2 I5"},
        {Bug::connection_not_checked, "I2 I3 I5"},
        {Bug::runner_ignores_credit, "I3"},
        {Bug::credit_leak_on_runner_death, "I3"},
        {Bug::credit_leak_on_agent_death, "I3 I9"},
        {Bug::grant_per_message, "I3"},
        {Bug::runner_starved, "I9"},
        {Bug::drained_leaves_early, "I2"},
        {Bug::weights_torn, "I4"},
        {Bug::old_weights_under_new_version, "I4"},
        {Bug::filter_not_resent, "I4"},
        {Bug::permits_before_weights, "I4"},
        {Bug::overwritten_while_pinned, "I4"},
        {Bug::lag1_publishes_early, "I4"},
        {Bug::lag_off_by_one, "I4"},
        {Bug::no_file_fsync, "I7"},
        {Bug::no_directory_fsync, "I7"},
        {Bug::other_iterations_weights, "I7"},
        {Bug::lag1_batch_not_saved, "I7"},
        {Bug::lag1_batch_not_restored, "I4"},
        {Bug::counters_reset_on_resume, "I8"},
        {Bug::runner_state_not_restored, "determinism"},
        {Bug::newest_pruned, "I7"},
        {Bug::best_pruned, "I7"},
        {Bug::report_not_repeated, "I9"},
        {Bug::restart_without_backoff, "I10"},
        {Bug::hung_runner_not_killed, "I9"},
        {Bug::batch_in_arrival_order, "determinism"},
        {Bug::committed_alone, "I6"},
        {Bug::old_epoch_lives, "I5 I9 group"},
        {Bug::newcomer_keeps_its_own, "I4 I6"},
        {Bug::marks_forgotten, "I1 I2 I9"},
        {Bug::released_too_early, "I2"},
        {Bug::prepared_taken_back, "I6"},
        {Bug::torn_counts, "I6"},
        {Bug::rendezvous_not_repeated, "I9"},
        {Bug::leavers_told_at_once, "I6"},
        {Bug::hung_learner_not_killed, "I9"},
        {Bug::ids_of_the_last_run, "I9"},
        {Bug::last_save_waits_for_data, "I9 I11"},
    };
    CHECK(std::size(planted) == static_cast<size_t>(Bug::count) - 1);
    for (const Planted& p : planted) {
      const std::string rules = p.rules, name(name_of(p.bug));
      CAPTURE(name);
      bool found = false;
      uint64_t seed = 0;
      std::string violation;
      while (!found && ++seed <= kPlantedBudget) {
        violation = run_schedule({.seed = seed, .bug = p.bug}).violation;
        const std::string rule = violation.substr(0, violation.find(':'));
        found = !rule.empty() && (" " + rules + " ").find(" " + rule + " ") != std::string::npos;
      }
      CHECK(found);
      if (!found) continue;
      MESSAGE(name << " found by " << violation.substr(0, violation.find(':')) << " after " << seed << " schedules");
      CHECK(run_schedule({.seed = seed}).violation == "");  // without the bug the same schedule holds
    }
  }
}

}  // namespace myriad::simulation
