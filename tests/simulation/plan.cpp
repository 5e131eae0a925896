#include "tests/simulation/plan.hpp"

#include <algorithm>
#include <array>

#include "rl/check.hpp"

namespace myriad::simulation {

using std::chrono::milliseconds;
using Seconds = std::chrono::seconds;

Plan draw_plan(uint64_t seed, uint32_t allowed, uint32_t agents, uint32_t learners) {
  Dice dice(mix(seed, 1)), group(mix(seed, 9));
  Plan plan;
  constexpr uint32_t kRare = bit(Fault::learner_kills) | bit(Fault::interrupt) | bit(Fault::bad_slot) |
                             bit(Fault::hangs) | bit(Fault::outsiders);
  for (uint32_t i = 0; i < static_cast<uint32_t>(Fault::usage_error); ++i)
    if (dice.chance((kRare >> i & 1) != 0 ? 0.12 : 0.5)) plan.faults |= 1u << i;  // does not depend on `allowed`
  if (dice.chance(0.03)) plan.faults |= bit(Fault::usage_error);
  for (const Fault fault : {Fault::learner_kills, Fault::learner_pauses, Fault::resizes})
    if (group.chance(0.3)) plan.faults |= bit(fault);
  plan.faults &= allowed;

  plan.mode = std::array{SamplingMode::sync, SamplingMode::lag1, SamplingMode::async}[dice.below(3)];
  const double size = dice.uniform();
  const bool huge = size < 1.0 / 7500, wide = !huge && size < 0.02;
  if (huge) {
    plan.agents = 5 + dice.below32(16);
    plan.slots = static_cast<uint32_t>(500 * std::pow(20.0, dice.uniform()));
  } else if (wide) {
    plan.agents = 1 + dice.below32(8);
    plan.slots = plan.agents + dice.below32(41 - plan.agents);
  } else {
    plan.agents = 1 + dice.below32(4);
    plan.slots = plan.agents + dice.below32(7 - plan.agents);
  }
  const uint32_t most = huge ? plan.slots / 8 : wide ? plan.slots : 3 * plan.slots;
  plan.fragments = 1 + dice.below32(most);
  if (agents > 0) plan.agents = std::min(agents, plan.slots);
  const double several = group.uniform(), how_many = group.uniform();
  const uint32_t most_learners = std::min({plan.agents, plan.fragments, huge ? 20u : 4u});
  if (several < 0.7) plan.learners = 1 + static_cast<uint32_t>(how_many * most_learners);
  if (learners > 0) plan.learners = std::min(learners, most_learners);

  const double loss = 0.3 * dice.uniform(), duplicates = 0.5 * dice.uniform(), flips = 0.01 * dice.uniform();
  plan.loss = plan.has(Fault::loss) ? loss : 0;
  plan.duplicates = plan.has(Fault::duplicates) ? duplicates : 0;
  plan.flips = plan.has(Fault::bit_flips) ? flips : 0;
  const Time jitter = dice.log_time(milliseconds(1), milliseconds(60));
  plan.jitter = plan.has(Fault::latency) ? jitter : Time::zero();
  plan.slow = plan.has(Fault::latency) ? 0.003 : 0;
  const bool lengthy = !wide && !huge && dice.chance(0.02);
  plan.faults_end = huge      ? Time(Seconds(1))
                    : lengthy ? dice.time(Seconds(10), Seconds(40))
                              : dice.log_time(milliseconds(300), Seconds(5));
  if (plan.has(Fault::agent_pauses) && dice.chance(huge ? 0 : 0.04)) plan.faults_end += Seconds(13);  // given up
  const double scale = huge ? 0.002 : lengthy ? 0.1 : 1.0;                                            // of each process
  const auto rate = [&](Fault fault, double low, double high) {
    const double drawn = (low + (high - low) * dice.uniform()) * scale;
    return plan.has(fault) ? drawn : 0.0;
  };
  plan.kills_per_s = rate(Fault::runner_kills, 0.05, 0.6);
  plan.pauses_per_s = rate(Fault::runner_pauses, 0.1, 1.1);
  plan.agent_kills_per_s = rate(Fault::agent_kills, 0.02, 0.5);
  plan.agent_drains_per_s = rate(Fault::agent_drains, 0.02, 0.4);
  plan.agent_pauses_per_s = rate(Fault::agent_pauses, 0.05, 0.6);
  // Of a single learner: the end of the run.
  const bool alone = plan.learners == 1;
  const auto group_rate = [&](Fault fault, double high) {
    const double drawn = 0.05 + (high - 0.05) * group.uniform();
    return plan.has(fault) ? drawn * (lengthy ? 0.2 : 1.0) : 0.0;
  };
  plan.learner_kills_per_s = group_rate(Fault::learner_kills, 0.8) * (alone ? 0.1 : 1);
  plan.learner_pauses_per_s = group_rate(Fault::learner_pauses, 0.5);
  if (group.chance(0.04) && plan.has(Fault::learner_pauses) && !huge) plan.faults_end += Seconds(13);  // given up
  plan.hang = plan.has(Fault::hangs) ? 0.05 * scale : 0;
  plan.spawn_failure = plan.has(Fault::spawn_failures) ? 0.3 * (huge ? 0.05 : 1.0) : 0;
  plan.hostile = plan.has(Fault::hostile) ? 0.02 : 0;
  plan.pinned = plan.has(Fault::pins) && !plan.by_slot() ? 0.3 : 0;
  const double disk = 0.02 + 0.1 * dice.uniform();
  plan.disk = plan.has(Fault::disk) ? disk : 0;
  plan.outsiders = plan.has(Fault::outsiders);
  // One that leaves for good must not be the last with runners that may run.
  plan.replaced = dice.chance(0.5) || plan.has(Fault::bad_slot) || plan.has(Fault::spawn_failures) ||
                  plan.has(Fault::hostile) || plan.has(Fault::runner_kills) || plan.has(Fault::hangs);
  const uint32_t bad_slot = dice.below32(plan.slots);
  if (plan.has(Fault::bad_slot)) plan.bad_slot = bad_slot;
  const auto moment = [&] { return dice.time(milliseconds(10), plan.faults_end); };
  const Time interrupt = moment(), unused = moment(), later = dice.log_time(milliseconds(1), Seconds(3));
  const bool twice = dice.chance(0.3);
  static_cast<void>(unused);  // what old seeds draw stays as it was
  if (plan.has(Fault::interrupt)) plan.interrupt = interrupt;
  if (plan.has(Fault::interrupt) && twice) plan.second_interrupt = interrupt + later;
  const uint64_t resizes = 1 + group.below(3);
  for (uint64_t i = 0; i < resizes; ++i)
    if (const Time at = group.time(milliseconds(10), plan.faults_end); plan.has(Fault::resizes) && !huge)
      plan.resizes.push_back(at);
  const uint64_t crashes = 1 + dice.below(3);
  for (uint64_t i = 0; i < crashes; ++i)
    if (const Time at = moment(); plan.has(Fault::crash) && !huge) plan.crashes.push_back(at);

  plan.sample = dice.log_time(milliseconds(plan.by_slot() ? 5 : 25), milliseconds(plan.by_slot() ? 80 : 250));
  plan.update = dice.log_time(milliseconds(2), milliseconds(100));
  plan.step_timeout = Seconds(2 + dice.below(9));
  plan.loop = dice.chance(0.5) ? Time::zero() : dice.log_time(milliseconds(1), milliseconds(20));
  plan.learner_queue_size = 1 + dice.below32(3);
  plan.broadcast_interval = 1 + dice.below32(3);
  plan.weights_fanout = std::array{1u, 2u, 8u}[dice.below(3)];
  const uint64_t lag = plan.broadcast_interval - 1 + dice.below(4);  // less could never be kept
  if (dice.chance(0.6)) plan.max_policy_lag = lag;
  if (dice.chance(0.5)) plan.min_time_per_iteration = dice.log_time(milliseconds(5), milliseconds(500));
  if (dice.chance(0.25)) {
    constexpr std::array<uint64_t, 3> kEdges = {uint64_t{1} << 16, uint64_t{1} << 31, uint64_t{1} << 32};
    const uint64_t edge = kEdges[dice.below(3)];
    plan.start_iteration = edge - 1 - dice.below(4);
    plan.start_version = edge - 1 - dice.below(4);
    plan.start_steps = edge - dice.below(40);
  }
  const uint64_t iterations = 2 + dice.below(24);
  switch (dice.below(4)) {
    case 0:
      break;  // until the schedule ends
    case 1:
      plan.stop_steps = plan.start_steps + iterations * plan.fragments * 6 - dice.below(3);
      break;
    default:
      plan.stop_iteration = plan.start_iteration + iterations;
  }
  plan.checkpoint_frequency = dice.below(4);
  plan.num_to_keep = 1 + dice.below32(3);
  plan.max_crashes = 3 + dice.below32(3);
  Dice evaluation(mix(seed, 10));
  if (evaluation.chance(0.4)) plan.evaluation_interval = 1 + evaluation.below(4);
  plan.evaluation_parallel = evaluation.chance(0.6);
  plan.evaluation_at_end = evaluation.chance(0.5);
  plan.scores_training = evaluation.chance(0.2);
  plan.evaluation = evaluation.log_time(milliseconds(2), Seconds(2));
  plan.evaluation_failure = evaluation.chance(0.3) ? 0.3 : 0;
  Dice updates(mix(seed, 11));
  if (const uint64_t version = plan.start_version + 2 + updates.below(20); updates.chance(0.1))
    plan.failing_update = version;
  if (plan.has(Fault::learner_kills) && updates.chance(0.2)) plan.lone_failure = 0.02;
  return plan;
}

std::string to_text(const Plan& plan) {
  std::string faults;
  for (uint32_t i = 0; i < static_cast<uint32_t>(Fault::count); ++i)
    if ((plan.faults >> i & 1) != 0) faults += fmt::format(" {}", name_of(static_cast<Fault>(i)));
  constexpr std::array<std::string_view, 3> kModes = {"sync", "lag1", "async"};
  std::string text = fmt::format(
      "{}, {} learners, {} agents, {} slots, {} fragments a batch, faults until {:.2f} s:{}; loss {:.2f} dup {:.2f} "
      "flips {:.4f} "
      "jitter {:.0f} ms disk {:.2f}; start {}, stop at iteration {} / {} steps; checkpoint every {}, keep {}; sample "
      "{:.0f} ms update {:.0f} ms loop {:.0f} ms; crash-restarts {}, step timeout {:.0f} s, fanout {}; evaluation "
      "every "
      "{}, {}, up to {:.0f} ms",
      kModes[static_cast<size_t>(plan.mode)], plan.learners, plan.agents, plan.slots, plan.fragments,
      to_seconds(plan.faults_end), faults.empty() ? " none" : faults, plan.loss, plan.duplicates, plan.flips,
      to_seconds(plan.jitter) * 1e3, plan.disk, plan.start_iteration, plan.stop_iteration, plan.stop_steps,
      plan.checkpoint_frequency, plan.num_to_keep, to_seconds(plan.sample) * 1e3, to_seconds(plan.update) * 1e3,
      to_seconds(plan.loop) * 1e3, plan.crashes.size(), to_seconds(plan.step_timeout), plan.weights_fanout,
      plan.evaluation_interval, plan.evaluation_parallel ? "aside" : "waited for", to_seconds(plan.evaluation) * 1e3);
  if (plan.failing_update != UINT64_MAX) text += fmt::format("; no update {}", plan.failing_update);
  if (!plan.by_slot())
    text += fmt::format("; queue {}, broadcast every {}, max lag {}, iteration {:.0f} ms", plan.learner_queue_size,
                        plan.broadcast_interval, plan.max_policy_lag ? static_cast<int64_t>(*plan.max_policy_lag) : -1,
                        to_seconds(plan.min_time_per_iteration) * 1e3);
  return text;
}

std::string_view name_of(Fault fault) {
  constexpr std::array<std::string_view, static_cast<size_t>(Fault::count)> kNames = {
      "loss",         "duplicates",  "latency",        "bit_flips",     "runner_kills", "runner_pauses",
      "hangs",        "bad_slot",    "spawn_failures", "hostile",       "agent_kills",  "agent_drains",
      "agent_pauses", "pins",        "outsiders",      "learner_kills", "interrupt",    "disk",
      "crash",        "usage_error", "learner_pauses", "resizes"};
  return kNames[static_cast<size_t>(fault)];
}

}  // namespace myriad::simulation
