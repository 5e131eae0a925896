// Learner as a shard of a group: S learners on slices of a batch are one learner at the whole of it.
#include <doctest/doctest.h>

#include <cmath>
#include <numeric>

#include "algorithms/appo.hpp"
#include "algorithms/ppo.hpp"
#include "learners/learner.hpp"
#include "tests/learners/gloo_group.hpp"
#include "tests/learners/learner_examples.hpp"
#include "tests/learners/thread_group.hpp"

using namespace myriad;

TEST_SUITE_BEGIN("learners/group");

namespace {

const Space kActions = Space::discrete(2);

/// One gradient step an update for PPO and IMPALA, two for APPO; nothing shuffled.
Config plain_config(const std::string& algorithm) {
  if (algorithm != "PPO") return async_config(algorithm.c_str());
  Config config = config_of();
  config.training.num_epochs = 1;
  config.training.minibatch_size = 0;
  config.training.shuffle_batch_per_epoch = false;
  return config;
}

/// Everything that needs a snapshot: minibatches, shuffling, filter, adaptive KL, and with APPO buffer and target.
Config full_config(const std::string& algorithm) {
  Config config = algorithm == "PPO" ? config_of() : async_config(algorithm.c_str(), "native", 2);
  config.training.minibatch_size = 3 * kSteps;
  config.training.num_epochs = 2;
  config.training.shuffle_batch_per_epoch = true;
  return config;
}

using Learners = std::vector<std::unique_ptr<Learner>>;

Learners make_learners(size_t count, const std::function<Config()>& config) {
  Learners learners;
  for (size_t i = 0; i < count; ++i) learners.push_back(std::make_unique<Learner>(config(), kObs, kActions));
  return learners;
}

/// Environments of each of `shards`: uneven, and with `empty` the last has none.
std::vector<int> uneven(uint32_t shards, bool empty) {
  std::vector<int> counts(shards, 1);
  if (empty && shards > 1) counts.back() = 0;
  counts.front() += kEnvironments - std::accumulate(counts.begin(), counts.end(), 0);
  if (shards > 2) --counts.front(), ++counts[1];
  return counts;
}

std::vector<std::optional<Fragment>> slices_of(Fragment& batch, const std::vector<int>& counts) {
  std::vector<std::optional<Fragment>> slices;
  int first = 0;
  for (const int count : counts) {
    slices.push_back(count == 0 ? std::nullopt : std::optional<Fragment>(slice_of(batch, first, count)));
    first += count;
  }
  return slices;
}

using Members = std::vector<std::shared_ptr<Collective>>;

Members members_of(uint32_t size, bool gloo, std::optional<ThreadGroup::Fault> fault = std::nullopt) {
  if (gloo) return make_gloo_group(size);
  ThreadGroup group(size, fault);
  Members members;
  for (uint32_t r = 0; r < size; ++r) members.push_back(group.member(r));
  return members;
}

void join_all(Learners& learners, const Members& members, const Learner::Sources& sources = {}) {
  in_threads(static_cast<uint32_t>(learners.size()), [&](uint32_t r) { learners[r]->join(members[r], sources); });
}

std::vector<UpdateResult> update_all(Learners& learners, uint64_t seed, const std::vector<int>& counts) {
  Fragment batch = batch_of(kActions, seed);
  auto slices = slices_of(batch, counts);
  std::vector<UpdateResult> results(learners.size());
  in_threads(static_cast<uint32_t>(learners.size()),
             [&](uint32_t r) { results[r] = learners[r]->update(slices[r] ? &*slices[r] : nullptr); });
  return results;
}

void check_equal(const Learners& learners) {
  for (const auto& other : learners) CHECK(same(other->state(), learners[0]->state()));
}

void check_near(const Learner& a, const Learner& b, float tolerance) {
  const auto x = flat_parameters(a.spec(), a.state().module, "a"), y = flat_parameters(b.spec(), b.state().module, "b");
  float worst = 0;
  for (size_t i = 0; i < x.size(); ++i) worst = std::max(worst, std::abs(x[i] - y[i]));
  CHECK(worst <= tolerance);
}

}  // namespace

TEST_CASE("Group: shards on slices of a batch train as one learner on the whole") {
  for (const bool gloo : {false, true})
    for (const char* algorithm : {"PPO", "IMPALA", "APPO"})
      for (const uint32_t size : {1u, 2u, 3u, 4u})
        for (const bool empty : {false, true}) {
          CAPTURE(gloo);
          CAPTURE(algorithm);
          CAPTURE(size);
          CAPTURE(empty);
          Learner whole(plain_config(algorithm), kObs, kActions);
          Learners shards = make_learners(size, [&] { return plain_config(algorithm); });
          join_all(shards, members_of(size, gloo));
          for (uint64_t seed : {1, 2, 3}) {
            Fragment batch = batch_of(kActions, seed);
            const Metrics want = whole.update(&batch).metrics;
            const auto results = update_all(shards, seed, uneven(size, empty));
            check_equal(shards);
            // Adam's first steps are of size lr = 1e-3 whatever the gradient's size: a gradient near 0 that differs in
            // its last bit moves a parameter by a fraction of that.
            check_near(*shards[0], whole, 2e-6f);
            for (const auto& [name, value] : want) {
              CAPTURE(name);
              CHECK(results[0].metrics.at(name) == doctest::Approx(value).epsilon(1e-4));
            }
            for (const UpdateResult& result : results) CHECK(result.metrics == results[0].metrics);
            CHECK(results[0].metrics.size() == want.size());
          }
          CHECK(shards[0]->version() == 3);
          const auto x = shards[0]->weights().filter, y = whole.weights().filter;
          for (size_t i = 0; i < x.size(); ++i) CHECK(x[i] == doctest::Approx(y[i]).epsilon(1e-12));
        }
}

TEST_CASE("Group: with shuffled minibatches all shards have the same bits, and a run repeats") {
  for (const char* algorithm : {"PPO", "IMPALA", "APPO"})
    for (const uint32_t size : {2u, 3u}) {
      CAPTURE(algorithm);
      const auto run = [&] {
        Learners shards = make_learners(size, [&] { return full_config(algorithm); });
        join_all(shards, members_of(size, false));
        for (uint64_t seed : {1, 2, 3, 4}) {
          const auto results = update_all(shards, seed, uneven(size, seed == 3));
          check_equal(shards);
          for (const UpdateResult& result : results) CHECK(result.metrics == results[0].metrics);
        }
        return shards[0]->state();
      };
      CHECK(same(run(), run()));
    }
}

TEST_CASE("Group: minibatches are counted over the group, and none is empty") {
  Learners shards = make_learners(4, [&] { return full_config("PPO"); });
  join_all(shards, members_of(4, false));
  const auto results = update_all(shards, 1, uneven(4, true));
  // 128 rows in minibatches of at most 48: three, twice.
  CHECK(results[0].grad_updates == 6);
  CHECK(results[0].metrics.at("num_module_steps_trained") == kSteps * kEnvironments);
  CHECK(results[0].metrics.at("num_env_steps_trained_lifetime") == kSteps * kEnvironments);
}

TEST_CASE("Group: numbers of the protocol are summed, and an update without a row changes nothing") {
  Learners shards = make_learners(3, [&] { return full_config("APPO"); });
  join_all(shards, members_of(3, false));
  const LearnerState before = shards[0]->state();
  in_threads(3, [&](uint32_t r) {
    std::vector<double> numbers{1.0, static_cast<double>(r)};
    const UpdateResult result = shards[r]->update(nullptr, numbers);
    if (!result.empty || numbers != std::vector<double>{3.0, 3.0}) throw std::runtime_error("other numbers");
  });
  for (const auto& shard : shards) {
    CHECK(same(shard->state(), before));
    CHECK(shard->version() == 0);
    CHECK(shard->standing() == Standing::settled);
  }
}

TEST_CASE("Group: it may break at every operation of every shard; all settle at one version and go on bit for bit") {
  for (const char* algorithm : {"PPO", "IMPALA", "APPO"}) {
    CAPTURE(algorithm);
    const uint32_t size = 3;
    const std::vector<int> counts = uneven(size, true);
    // Two updates; their state is where each broken update begins.
    Learners start = make_learners(size, [&] { return full_config(algorithm); });
    join_all(start, members_of(size, false));
    update_all(start, 1, counts);
    update_all(start, 2, counts);
    std::vector<LearnerState> states;  // without a circular buffer: the third update begins with an empty one
    for (const auto& learner : start) states.push_back(learner->state());
    const auto begin = [&](const std::optional<ThreadGroup::Fault>& fault, Members& members) {
      Learners shards = make_learners(size, [&] { return full_config(algorithm); });
      for (uint32_t r = 0; r < size; ++r) shards[r]->set_state(states[r]);
      members = members_of(size, false, fault);
      join_all(shards, members);
      return shards;
    };
    Members members;
    Learners undisturbed = begin(std::nullopt, members);
    update_all(undisturbed, 3, counts);
    const uint64_t operations = members[0]->operations();
    const LearnerState after = undisturbed[0]->state();
    update_all(undisturbed, 4, counts);
    const LearnerState later = undisturbed[0]->state();
    REQUIRE(operations > 4);
    int forward = 0, back = 0;
    for (uint64_t operation = 0; operation < operations; ++operation)
      for (uint32_t rank = 0; rank < size; ++rank)
        for (const bool lost : {false, true}) {
          CAPTURE(operation);
          CAPTURE(rank);
          CAPTURE(lost);
          Learners shards = begin(ThreadGroup::Fault{rank, operation, lost}, members);
          CHECK_THROWS_AS(update_all(shards, 3, counts), GroupBroken);
          bool all_prepared = true;
          for (const auto& shard : shards)
            all_prepared &= shard->standing() == Standing::prepared || shard->version() == 3;
          for (const auto& shard : shards) shard->settle(all_prepared && shard->standing() == Standing::prepared);
          for (uint32_t r = 0; r < size; ++r) {
            CHECK(shards[r]->version() == (all_prepared ? 3 : 2));
            CHECK(same(shards[r]->state(), all_prepared ? after : states[r]));
          }
          ++(all_prepared ? forward : back);
          Members again = members_of(size, false);
          if (algorithm == std::string("APPO") && all_prepared) continue;  // join() empties its circular buffer
          join_all(shards, again);
          if (!all_prepared) update_all(shards, 3, counts);
          CHECK(same(shards[0]->state(), after));
          update_all(shards, 4, counts);
          CHECK(same(shards[0]->state(), later));
          check_equal(shards);
        }
    CHECK(forward > 0);
    CHECK(back > 0);
  }
}

TEST_CASE("Group: a fresh learner takes a dead one's place and goes on bit for bit") {
  for (const char* algorithm : {"PPO", "IMPALA"}) {
    CAPTURE(algorithm);
    const std::vector<int> counts{4, 3, 1};
    Learners undisturbed = make_learners(3, [&] { return full_config(algorithm); });
    join_all(undisturbed, members_of(3, false));
    Learners shards = make_learners(3, [&] { return full_config(algorithm); });
    join_all(shards, members_of(3, false));
    for (uint64_t seed : {1, 2}) update_all(undisturbed, seed, counts), update_all(shards, seed, counts);
    shards[1] = std::make_unique<Learner>(full_config(algorithm), kObs, kActions);
    join_all(shards, members_of(3, true), {.root = 2, .holders = {2}, .everybody = false});
    check_equal(shards);
    // Sums in Gloo's order differ from the double's: both go on with Gloo.
    join_all(undisturbed, members_of(3, true));
    for (uint64_t seed : {3, 4}) update_all(undisturbed, seed, counts), update_all(shards, seed, counts);
    check_equal(shards);
    CHECK(same(shards[1]->state(), undisturbed[1]->state()));
  }
}

TEST_CASE("Group: one flipped bit is found at the hundredth version, and who has it") {
  for (const uint32_t size : {2u, 3u}) {
    Learners shards = make_learners(size, [&] { return plain_config("PPO"); });
    for (auto& shard : shards) {
      LearnerState state = shard->state();
      state.scalars["version"] = Tensor::of(std::vector<int64_t>{98}, {1});
      if (shard == shards[1]) { state.module.at("encoder.0.weight").bytes[1] ^= std::byte{1}; }
      shard->set_state(state);
    }
    join_all(shards, members_of(size, false));
    std::vector<int> counts(size, kEnvironments / static_cast<int>(size));
    counts[0] += kEnvironments % static_cast<int>(size);
    update_all(shards, 1, counts);
    CHECK(shards[0]->version() == 99);
    Fragment batch = batch_of(kActions, 2);
    auto slices = slices_of(batch, counts);
    in_threads(size, [&](uint32_t r) {
      try {
        shards[r]->update(&*slices[r]);
      } catch (const ShardsDisagree& error) {
        if (error.minority == (size == 2 ? std::vector<uint32_t>{} : std::vector<uint32_t>{1})) return;
      }
      throw std::runtime_error("no, or another disagreement");
    });
    CHECK(shards[0]->standing() == Standing::prepared);
    CHECK(shards[0]->version() == 99);
  }
}

TEST_CASE("Learner: a minibatch in k parts gives the same step") {
  for (const char* algorithm : {"PPO", "IMPALA", "APPO"})
    for (const char* executor : {"native", "torch"})
      for (const int64_t parts : {2, 3, 200}) {
        CAPTURE(algorithm);
        CAPTURE(executor);
        CAPTURE(parts);
        const auto config = [&](int64_t k) {
          Config c = plain_config(algorithm);
          c.learners.executor = executor;
          c.learners.gradient_accumulation = k;
          return c;
        };
        Learner whole(config(1), kObs, kActions), split(config(parts), kObs, kActions);
        for (uint64_t seed : {1, 2}) {
          Fragment batch = batch_of(kActions, seed);
          const UpdateResult a = whole.update(&batch), b = split.update(&batch);
          CHECK(a.grad_updates == b.grad_updates);
          for (const auto& [name, value] : a.metrics) {
            CAPTURE(name);
            CHECK(b.metrics.at(name) == doctest::Approx(value).epsilon(1e-4));
          }
          check_near(split, whole, 2e-6f);
        }
      }
}

TEST_SUITE_END();
