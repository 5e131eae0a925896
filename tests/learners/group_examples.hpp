// Groups of learners in one test: their configs, slices of a batch, and what is done with all of them.
#pragma once

#include <doctest/doctest.h>

#include <functional>
#include <memory>
#include <numeric>
#include <optional>
#include <string>
#include <vector>

#include "tests/learners/gloo_group.hpp"
#include "tests/learners/learner_examples.hpp"
#include "tests/learners/thread_group.hpp"

namespace myriad {

inline const Space kActions = Space::discrete(2);

/// One gradient step an update for PPO, PQN and IMPALA, two for APPO; nothing shuffled.
inline Config plain_config(const std::string& algorithm) {
  if (algorithm != "PPO" && algorithm != "PQN") return async_config(algorithm.c_str());
  Config config = algorithm == "PPO" ? config_of() : pqn_config();
  config.training.num_epochs = 1;
  config.training.minibatch_size = 0;
  config.training.shuffle_batch_per_epoch = false;
  return config;
}

/// Everything that needs a snapshot: minibatches, shuffling, filter, adaptive KL, and with APPO buffer and target.
inline Config full_config(const std::string& algorithm) {
  Config config = algorithm == "PPO"   ? config_of()
                  : algorithm == "PQN" ? pqn_config()
                                       : async_config(algorithm.c_str(), "native", 2);
  config.training.minibatch_size = 3 * kSteps;
  config.training.num_epochs = 2;
  config.training.shuffle_batch_per_epoch = true;
  return config;
}

using Learners = std::vector<std::unique_ptr<Learner>>;

/// `on_device`: each trains as on a GPU, on CpuSupport.
inline std::unique_ptr<Learner> make_learner(const Config& config, bool on_device = false) {
  return std::make_unique<Learner>(config, kObs, kActions, on_device ? make_cpu_support() : nullptr);
}

inline Learners make_learners(size_t count, const std::function<Config()>& config, bool on_device = false) {
  Learners learners;
  for (size_t i = 0; i < count; ++i) learners.push_back(make_learner(config(), on_device));
  return learners;
}

/// Environments of each of `shards`: uneven, and with `empty` the last has none.
inline std::vector<int> uneven(uint32_t shards, bool empty) {
  std::vector<int> counts(shards, 1);
  if (empty && shards > 1) counts.back() = 0;
  counts.front() += kEnvironments - std::accumulate(counts.begin(), counts.end(), 0);
  if (shards > 2) --counts.front(), ++counts[1];
  return counts;
}

inline std::vector<std::optional<Fragment>> slices_of(Fragment& batch, const std::vector<int>& counts) {
  std::vector<std::optional<Fragment>> slices;
  int first = 0;
  for (const int count : counts) {
    slices.push_back(count == 0 ? std::nullopt : std::optional<Fragment>(slice_of(batch, first, count)));
    first += count;
  }
  return slices;
}

using Members = std::vector<std::shared_ptr<Collective>>;

/// `make`: null for a ThreadGroup.
inline Members members_of(uint32_t size, MakeCollective make, std::optional<ThreadGroup::Fault> fault = std::nullopt,
                          size_t overlap_floats = 0) {
  if (make != nullptr) return make_group(make, size);
  ThreadGroup group(size, fault, overlap_floats);
  Members members;
  for (uint32_t r = 0; r < size; ++r) members.push_back(group.member(r));
  return members;
}

inline void join_all(Learners& learners, const Members& members, const Learner::Sources& sources = {}) {
  in_threads(static_cast<uint32_t>(learners.size()), [&](uint32_t r) { learners[r]->join(members[r], sources); });
}

inline std::vector<UpdateResult> update_all(Learners& learners, uint64_t seed, const std::vector<int>& counts) {
  Fragment batch = batch_of(kActions, seed);
  auto slices = slices_of(batch, counts);
  std::vector<UpdateResult> results(learners.size());
  in_threads(static_cast<uint32_t>(learners.size()),
             [&](uint32_t r) { results[r] = learners[r]->update(slices[r] ? &*slices[r] : nullptr); });
  return results;
}

/// With parameters in parts a state is made by all shards together.
inline std::vector<LearnerState> states_of(const Learners& learners) {
  std::vector<LearnerState> states(learners.size());
  in_threads(static_cast<uint32_t>(learners.size()), [&](uint32_t r) { states[r] = learners[r]->state(); });
  return states;
}

inline void check_equal(const Learners& learners) {
  const std::vector<LearnerState> states = states_of(learners);
  for (const LearnerState& other : states) CHECK(same(other, states[0]));
}

inline void check_near(const Learner& a, const Learner& b, float tolerance) {
  const auto x = flat_parameters(a.spec(), a.state().module, "a"), y = flat_parameters(b.spec(), b.state().module, "b");
  float worst = 0;
  for (size_t i = 0; i < x.size(); ++i) worst = std::max(worst, std::abs(x[i] - y[i]));
  CHECK(worst <= tolerance);
}

}  // namespace myriad
