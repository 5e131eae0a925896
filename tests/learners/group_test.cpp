// Learner as a shard of a group: S learners on slices of a batch are one learner at the whole of it.
#include <doctest/doctest.h>

#include <array>
#include <cmath>

#include "tests/learners/group_examples.hpp"

using namespace myriad;

TEST_SUITE_BEGIN("learners/group");

TEST_CASE("Group: shards on slices of a batch train as one learner on the whole") {
  for (const MakeCollective make :
       {MakeCollective{nullptr}, MakeCollective{make_local_gloo}, MakeCollective{make_shared_collective}})
    for (const char* algorithm : {"PPO", "IMPALA", "APPO", "PQN"})
      for (const uint32_t size : {1u, 2u, 3u, 4u})
        for (const bool empty : {false, true}) {
          CAPTURE(make != nullptr);
          CAPTURE(algorithm);
          CAPTURE(size);
          CAPTURE(empty);
          Learner whole(plain_config(algorithm), kObs, kActions);
          Learners shards = make_learners(size, [&] { return plain_config(algorithm); });
          join_all(shards, members_of(size, make));
          for (uint64_t seed : {1, 2, 3}) {
            Fragment batch = batch_of(kActions, seed);
            const Metrics want = whole.update(&batch).metrics;
            const auto results = update_all(shards, seed, uneven(size, empty));
            check_equal(shards);
            // Adam's first steps are of size lr = 1e-3 whatever the gradient's size: a gradient near 0 that differs in
            // its last bit moves a parameter by a fraction of that.
            check_near(*shards[0], whole, 2e-6f);
            for (const auto& [name, value] : want) {
              if (name.starts_with("learner_memory_")) continue;
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
  for (const char* algorithm : {"PPO", "IMPALA", "APPO", "PQN"})
    for (const uint32_t size : {2u, 3u}) {
      CAPTURE(algorithm);
      const auto run = [&] {
        Learners shards = make_learners(size, [&] { return full_config(algorithm); });
        join_all(shards, members_of(size, nullptr));
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

TEST_CASE("Group: a gradient summed in stretches while backward works is the gradient, bit for bit") {
  for (const char* algorithm : {"PPO", "IMPALA", "PQN"})
    for (const char* executor : {"torch", "native"})
      for (const int parts : {1, 3}) {
        CAPTURE(algorithm);
        CAPTURE(executor);
        CAPTURE(parts);
        std::array<uint64_t, 2> operations{};
        const auto run = [&](size_t overlap_floats) {
          Learners shards = make_learners(3, [&] {
            Config config = full_config(algorithm);
            config.learners.executor = executor;
            config.learners.gradient_accumulation = parts;
            return config;
          });
          const Members members = members_of(3, nullptr, std::nullopt, overlap_floats);
          join_all(shards, members);
          for (uint64_t seed : {1, 2, 3}) update_all(shards, seed, uneven(3, seed == 3));
          check_equal(shards);
          operations[overlap_floats > 0] = members[0]->operations();
          return shards[0]->state();
        };
        CHECK(same(run(0), run(1)));
        CHECK(operations[1] > operations[0]);
      }
}

TEST_CASE("Group: what is summed by Gloo while backward works is what it sums afterwards") {
  for (const char* executor : {"torch", "native"}) {
    CAPTURE(executor);
    const auto config = [&] {
      Config c = plain_config("PPO");
      c.rl_module.fcnet_hiddens = {1024, 1024};  // 2.1 million parameters: two stretches and more
      c.learners.executor = executor;
      return c;
    };
    Learners during = make_learners(2, config), after = make_learners(2, config);
    const MakeCollective make = [](Rendezvous& rendezvous, uint32_t rank, uint32_t size, auto deadline) {
      return make_gloo_collective(rendezvous, rank, size, "127.0.0.1", deadline, kOverlapFloats);
    };
    const Members members = members_of(2, make), others = members_of(2, make_local_gloo);
    join_all(during, members);
    join_all(after, others);
    for (uint64_t seed : {1, 2})
      update_all(during, seed, uneven(2, seed == 2)), update_all(after, seed, uneven(2, seed == 2));
    CHECK(members[0]->operations() > others[0]->operations());
    check_equal(during);
    CHECK(same(during[0]->state(), after[0]->state()));  // of two numbers there is one sum
  }
}

TEST_CASE("Group: minibatches are counted over the group, and none is empty") {
  Learners shards = make_learners(4, [&] { return full_config("PPO"); });
  join_all(shards, members_of(4, nullptr));
  const auto results = update_all(shards, 1, uneven(4, true));
  // 128 rows in minibatches of at most 48: three, twice.
  CHECK(results[0].grad_updates == 6);
  CHECK(results[0].metrics.at("num_module_steps_trained") == kSteps * kEnvironments);
  CHECK(results[0].metrics.at("num_env_steps_trained_lifetime") == kSteps * kEnvironments);
}

TEST_CASE("Group: numbers of the protocol are summed, and an update without a row changes nothing") {
  Learners shards = make_learners(3, [&] { return full_config("APPO"); });
  join_all(shards, members_of(3, nullptr));
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
  for (const auto& [algorithm, overlap_floats] :
       {std::pair<const char*, size_t>{"PPO", 0}, {"PPO", 1}, {"IMPALA", 0}, {"APPO", 0}}) {
    CAPTURE(algorithm);
    CAPTURE(overlap_floats);
    const uint32_t size = 3;
    const std::vector<int> counts = uneven(size, true);
    // Two updates; their state is where each broken update begins.
    Learners start = make_learners(size, [name = algorithm] { return full_config(name); });
    join_all(start, members_of(size, nullptr));
    update_all(start, 1, counts);
    update_all(start, 2, counts);
    std::vector<LearnerState> states;  // without a circular buffer: the third update begins with an empty one
    for (const auto& learner : start) states.push_back(learner->state());
    const auto begin = [&, name = algorithm, overlap = overlap_floats](const std::optional<ThreadGroup::Fault>& fault,
                                                                       Members& members) {
      Learners shards = make_learners(size, [&] { return full_config(name); });
      for (uint32_t r = 0; r < size; ++r) shards[r]->set_state(states[r]);
      members = members_of(size, nullptr, fault, overlap);
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
          Members again = members_of(size, nullptr);
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
    join_all(undisturbed, members_of(3, nullptr));
    Learners shards = make_learners(3, [&] { return full_config(algorithm); });
    join_all(shards, members_of(3, nullptr));
    for (uint64_t seed : {1, 2}) update_all(undisturbed, seed, counts), update_all(shards, seed, counts);
    shards[1] = std::make_unique<Learner>(full_config(algorithm), kObs, kActions);
    join_all(shards, members_of(3, make_local_gloo), {.root = 2, .holders = {2}, .everybody = false});
    check_equal(shards);
    // Sums in Gloo's order differ from the double's: both go on with Gloo.
    join_all(undisturbed, members_of(3, make_local_gloo));
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
    join_all(shards, members_of(size, nullptr));
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
