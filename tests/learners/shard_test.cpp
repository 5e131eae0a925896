// Learner with its state in parts over the shards (learners.shard).
#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>

#include "learners/group/parts.hpp"
#include "rl/check.hpp"
#include "tests/learners/group_examples.hpp"

using namespace myriad;

TEST_SUITE_BEGIN("learners/shard");

namespace {

constexpr std::array<const char*, 4> kKinds{"none", "optimizer", "gradients", "parameters"};
constexpr std::array<std::pair<bool, bool>, 4> kBoth{{{false, false}, {false, true}, {true, false}, {true, true}}};

Config sharded(Config config, const std::string& kind, bool redundancy = true) {
  config.learners.shard = kind;
  config.learners.redundancy = redundancy;
  config.learners.executor = "auto";  // native, but layer by layer torch
  return config;
}

std::string where(const std::string& kind, bool on_device) { return kind + (on_device ? " on a device" : ""); }

/// All of a group's state: the optimizer's parts side by side.
LearnerState whole_state(const Learners& learners) {
  const std::vector<LearnerState> states = states_of(learners);
  LearnerState whole = states[0];
  if (!whole.optimizer.contains("offset")) return whole;
  for (const char* name : {"exp_avg", "exp_avg_sq"}) {
    Tensor all = states[0].optimizer.at(name);
    for (size_t r = 1; r < states.size(); ++r) {
      const Tensor& part = states[r].optimizer.at(name);
      CHECK(states[r].optimizer.at("offset").i64()[0] == static_cast<int64_t>(all.shape[0]));
      all.bytes.insert(all.bytes.end(), part.bytes.begin(), part.bytes.end());
      all.shape[0] += part.shape[0];
    }
    whole.optimizer[name] = all;
  }
  CHECK(whole.optimizer.at("total").i64()[0] == static_cast<int64_t>(whole.optimizer.at("exp_avg").shape[0]));
  whole.optimizer.erase("offset");
  whole.optimizer.erase("total");
  return whole;
}

void check_near(const LearnerState& a, const LearnerState& b, double tolerance) {
  const auto worst = [](const TensorMap& x, const TensorMap& y) {
    double largest = 0;
    for (const auto& [name, tensor] : x) {
      if (tensor.dtype != DType::f32) continue;
      const auto p = tensor.f32(), q = y.at(name).f32();
      REQUIRE(p.size() == q.size());
      for (size_t i = 0; i < p.size(); ++i) largest = std::max(largest, std::abs(double{p[i]} - double{q[i]}));
    }
    return largest;
  };
  CHECK(worst(a.module, b.module) <= tolerance);
  CHECK(worst(a.optimizer, b.optimizer) <= tolerance);
  CHECK(worst(a.scalars, b.scalars) <= tolerance);
}

}  // namespace

TEST_CASE("Partition: parts cover everything once, at multiples of 64 bytes") {
  for (const size_t total : {0u, 1u, 15u, 16u, 17u, 100u, 1000u, 12345u})
    for (const uint32_t parts : {1u, 2u, 3u, 7u, 100u}) {
      const Partition partition{total, parts};
      size_t next = 0;
      for (uint32_t part = 0; part < parts; ++part) {
        const Range range = partition.range(part);
        CHECK(range.begin == next);
        CHECK(range.count() <= partition.chunk());
        CHECK((range.begin % 16 == 0 || range.count() == 0));
        next = range.end;
      }
      CHECK(next == total);
    }
}

TEST_CASE("Shard: what lies where changes no update") {
  for (const char* algorithm : {"PPO", "IMPALA", "APPO", "PQN"})
    for (const uint32_t size : {1u, 2u, 3u, 4u}) {
      CAPTURE(algorithm);
      CAPTURE(size);
      std::map<std::string, LearnerState> states;
      for (const bool on_device : {false, true})
        for (const char* kind : kKinds) {
          CAPTURE(on_device);
          CAPTURE(kind);
          const auto config = [&] {
            Config c = sharded(full_config(algorithm), kind);
            c.training.grad_clip = 0.5;
            c.learners.gradient_accumulation = 2;
            return c;
          };
          Learners shards = make_learners(size, config, on_device);
          join_all(shards, members_of(size, nullptr));
          for (uint64_t seed : {1, 2, 3, 4}) {
            std::vector<int> counts = uneven(size, false);
            if (seed == 3 && size > 1) counts.back() = 0;  // the others' layouts stay
            const auto results = update_all(shards, seed, counts);
            for (const UpdateResult& result : results)
              for (const auto& [name, value] : result.metrics)
                if (!name.starts_with("learner_memory_") && !name.starts_with("num_device_work_"))
                  CHECK(value == results[0].metrics.at(name));
          }
          states[where(kind, on_device)] = whole_state(shards);
        }
      for (const bool on_device : {false, true}) {
        CAPTURE(on_device);
        const LearnerState &none = states[where("none", on_device)], &torch = states[where("none", true)];
        // The same operations in another place.
        CHECK(same(states[where("optimizer", on_device)], none));
        // Layer by layer sums are in another order, and a gathered layer lies elsewhere.
        for (const char* kind : {"gradients", "parameters"}) check_near(states[where(kind, on_device)], torch, 1e-5);
        check_near(none, states[where("none", false)], 1e-4);
      }
    }
}

TEST_CASE("Shard: every kind of layer and head goes layer by layer") {
  for (const bool share : {false, true})
    for (const bool norm : {false, true})
      for (const bool free : {false, true}) {
        const Space actions = Space::box(-1, 1, {1});
        const auto config = [&](const char* kind) {
          Config c = sharded(plain_config("PPO"), kind);
          c.rl_module.vf_share_layers = share;
          c.rl_module.fcnet_use_layernorm = norm;
          c.rl_module.free_log_std = free;
          return c;
        };
        std::map<std::string, std::vector<float>> weights;
        for (const char* kind : {"none", "parameters"}) {
          Learners shards;
          for (int i = 0; i < 2; ++i)
            shards.push_back(std::make_unique<Learner>(config(kind), kObs, actions, make_cpu_support()));
          join_all(shards, members_of(2, nullptr));
          for (uint64_t seed : {1, 2}) {
            Fragment batch = batch_of(actions, seed);
            auto slices = slices_of(batch, {5, 3});
            in_threads(2, [&](uint32_t r) { shards[r]->update(&*slices[r]); });
          }
          std::array<Weights, 2> published;
          in_threads(2, [&](uint32_t r) { published[r] = shards[r]->weights(); });
          CHECK(published[0].values == published[1].values);
          CHECK(published[0].values.size() == shards[0]->spec().num_inference_parameters());
          weights[kind] = published[0].values;
        }
        float worst = 0;
        for (size_t i = 0; i < weights["none"].size(); ++i)
          worst = std::max(worst, std::abs(weights["none"][i] - weights["parameters"][i]));
        CHECK(worst <= 2e-6f);
      }
}

TEST_CASE("Shard: memory is what the formula says") {
  for (const char* algorithm : {"PPO", "APPO"})
    for (const char* kind : kKinds)
      for (const auto& [redundancy, on_device] : kBoth) {
        CAPTURE(algorithm);
        CAPTURE(kind);
        CAPTURE(redundancy);
        CAPTURE(on_device);
        const uint32_t n = 3;
        Learners shards = make_learners(
            n, [&] { return sharded(full_config(algorithm), kind, redundancy); }, on_device);
        join_all(shards, members_of(n, nullptr));
        update_all(shards, 1, uneven(n, false));
        const auto results = update_all(shards, 2, uneven(n, false));
        const std::string k = kind;
        const ModuleSpec& spec = shards[0]->spec();
        const size_t p = spec.num_parameters(), t = algorithm == std::string("APPO") ? 1 : 0;
        size_t layer = 0;  // the largest: weight and bias
        for (const Parameter& w : spec.parameters())
          if (w.name.ends_with(".weight")) layer = std::max(layer, w.count + static_cast<size_t>(w.shape[0]));
        for (uint32_t r = 0; r < n; ++r) {
          const Partition partition{p, n};
          const size_t c = partition.range(r).count(), left = partition.range((r + n - 1) % n).count();
          const auto bytes = [&](const char* what) {
            return results[r].metrics.at(std::string("learner_memory_") + what + "_bytes");
          };
          const bool parameters = k == "parameters", by_layer = parameters || k == "gradients", any = k != "none";
          CHECK(bytes("parameters") == static_cast<double>(parameters ? 4 * c * (1 + t) + 4 * layer : 4 * p * (1 + t)));
          CHECK(bytes("gradients") == static_cast<double>(by_layer ? 4 * (c + layer) : 4 * p));
          CHECK(bytes("optimizer") == static_cast<double>(any ? 8 * c : 8 * p));
          const size_t kept = parameters ? 4 * left * (3 + t) : 8 * left;
          CHECK(bytes("redundancy") == static_cast<double>(any && redundancy ? kept : 0));
          CHECK(bytes("snapshot") ==
                static_cast<double>((parameters ? 4 * c : 4 * p) * (1 + t) + (any ? 8 * c : 8 * p)));
        }
      }
}

namespace {

/// Each of `kinds` on a CPU and on a device.
std::vector<std::pair<const char*, bool>> cases(std::initializer_list<const char*> kinds) {
  std::vector<std::pair<const char*, bool>> all;
  for (const char* kind : kinds)
    for (const bool on_device : {false, true}) all.emplace_back(kind, on_device);
  return all;
}

/// Who of the survivors has each part, as a driver finds it out; empty when some part is lost.
std::vector<uint32_t> holders_of(const Learners& survivors) {
  for (const auto& candidate : survivors)
    for (const Parts::Holding& wanted : candidate->holdings()) {
      std::vector<std::optional<uint32_t>> found(wanted.num_parts);
      for (uint32_t r = 0; r < survivors.size(); ++r)
        for (const Parts::Holding& holding : survivors[r]->holdings())
          if (holding.num_parts == wanted.num_parts)
            for (const uint32_t part : holding.parts)
              if (!found[part]) found[part] = r;
      if (!std::ranges::all_of(found, [](const auto& holder) { return holder.has_value(); })) continue;
      std::vector<uint32_t> holders;
      for (const auto& holder : found) holders.push_back(*holder);
      return holders;
    }
  return {};
}

std::vector<int> even(uint32_t shards) {
  std::vector<int> counts;
  for (uint32_t r = 0; r < shards; ++r)
    counts.push_back(kEnvironments * static_cast<int>(r + 1) / static_cast<int>(shards) -
                     kEnvironments * static_cast<int>(r) / static_cast<int>(shards));
  return counts;
}

}  // namespace

TEST_CASE("Shard: groups of 4, 3, 2, 1, 2 and 4 have the same state to the bit") {
  for (const char* algorithm : {"PPO", "APPO"})
    for (const auto& [kind, on_device] : cases({"optimizer", "gradients", "parameters"})) {
      CAPTURE(algorithm);
      CAPTURE(kind);
      CAPTURE(on_device);
      const auto config = [&, k = kind] { return sharded(full_config(algorithm), k); };
      const bool real = algorithm == std::string("PPO") && kind == std::string("parameters");
      const MakeCollective make = real ? make_shared_collective : nullptr;
      Learners shards = make_learners(4, config, on_device);
      join_all(shards, members_of(4, make));
      for (uint64_t seed : {1, 2}) update_all(shards, seed, even(4));
      const LearnerState state = whole_state(shards);
      CHECK(shards[1]->num_parts() == 4);
      CHECK(shards[1]->parts() == std::vector<uint32_t>{1, 0});
      for (const uint32_t size : {3u, 2u, 1u, 2u, 4u}) {
        CAPTURE(size);
        if (size < shards.size()) shards.erase(shards.begin() + 1);  // one dies; what it had is with the next
        const Learner::Sources sources{.root = 0, .holders = holders_of(shards), .everybody = false};
        REQUIRE(!sources.holders.empty());
        while (shards.size() < size) shards.push_back(make_learner(config(), on_device));
        join_all(shards, members_of(size, make), sources);
        CHECK(same(whole_state(shards), state));
      }
      // An empty update confirms the group: the parts of before are dropped.
      CHECK(shards[0]->holdings().size() == 2);
      in_threads(4, [&](uint32_t r) { shards[r]->update(nullptr); });
      CHECK(shards[0]->holdings().size() == 1);
    }
}

TEST_CASE("Shard: it may break at every operation of every shard; one dies, the rest rebuild and go on bit for bit") {
  for (const auto& [kind, on_device] : cases({"optimizer", "parameters"})) {
    CAPTURE(kind);
    CAPTURE(on_device);
    const uint32_t size = 3;
    const std::vector<int> counts = even(size);
    const auto config = [&, k = kind] {
      Config c = sharded(full_config("PPO"), k);
      c.rl_module.fcnet_hiddens = {4};
      c.training.num_epochs = 1;
      c.training.minibatch_size = 0;
      return c;
    };
    Members members;
    const auto begin = [&, device = on_device](const std::optional<ThreadGroup::Fault>& fault) {
      Learners shards = make_learners(size, config, device);
      members = members_of(size, nullptr, fault);
      join_all(shards, members);
      return shards;
    };
    Learners undisturbed = begin(std::nullopt);
    std::vector<LearnerState> versions{whole_state(undisturbed)};
    for (uint64_t seed : {1, 2, 3}) {
      update_all(undisturbed, seed, counts);
      versions.push_back(whole_state(undisturbed));
    }
    Learners counted = begin(std::nullopt);  // without the operations of whole_state()
    update_all(counted, 1, counts);
    const uint64_t first = members[0]->operations();
    update_all(counted, 2, counts);
    const uint64_t operations = members[0]->operations();
    int forward = 0, back = 0;
    for (uint64_t operation = first; operation < operations; ++operation)
      for (uint32_t rank = 0; rank < size; ++rank)
        for (const bool lost : {false, true}) {
          CAPTURE(operation);
          CAPTURE(rank);
          CAPTURE(lost);
          Learners shards = begin(ThreadGroup::Fault{rank, operation, lost});
          update_all(shards, 1, counts);
          CHECK_THROWS_AS(update_all(shards, 2, counts), GroupBroken);
          shards.erase(shards.begin() + rank);  // it is dead
          bool all_prepared = true;
          for (const auto& shard : shards)
            all_prepared &= shard->standing() == Standing::prepared || shard->version() == 2;
          for (const auto& shard : shards) shard->settle(all_prepared && shard->standing() == Standing::prepared);
          ++(all_prepared ? forward : back);
          Learner::Sources sources{.root = 1, .holders = holders_of(shards), .everybody = false};
          REQUIRE(sources.holders.size() == 3);
          shards.insert(shards.begin(), make_learner(config(), on_device));  // takes its place: rank
          std::rotate(shards.begin(), shards.begin() + 1, shards.begin() + 1 + rank);
          // Ranks of the new group: those behind the newcomer move up by one.
          for (uint32_t& holder : sources.holders) holder += holder >= rank ? 1 : 0;
          sources.root = rank == 0 ? 1 : 0;
          join_all(shards, members_of(size, nullptr), sources);
          CHECK(shards[0]->version() == (all_prepared ? 2 : 1));
          CHECK(same(whole_state(shards), versions[all_prepared ? 2 : 1]));
          if (!all_prepared) update_all(shards, 2, counts);
          update_all(shards, 3, counts);
          CHECK(same(whole_state(shards), versions[3]));
        }
    CHECK(forward > 0);
    CHECK(back > 0);
  }
}

TEST_CASE("Shard: a join may break at every operation; what is left has all parts, old or new") {
  for (const auto& [kind, on_device] : cases({"optimizer", "parameters"})) {
    CAPTURE(kind);
    CAPTURE(on_device);
    const auto config = [&, k = kind] { return sharded(full_config("PPO"), k); };
    // Four shards after an update; the third dies, three form a group that breaks, and then another.
    for (uint64_t operation = 0; operation < 40; ++operation)
      for (const bool lost : {false, true}) {
        CAPTURE(operation);
        CAPTURE(lost);
        Learners shards = make_learners(4, config, on_device);
        join_all(shards, members_of(4, nullptr));
        update_all(shards, 1, even(4));
        const LearnerState state = whole_state(shards);
        shards.erase(shards.begin() + 2);
        const uint32_t rank = operation % 3;
        const Members members = members_of(3, nullptr, ThreadGroup::Fault{rank, operation, lost});
        const Learner::Sources sources{.root = 0, .holders = holders_of(shards), .everybody = false};
        bool broke = false;
        try {
          join_all(shards, members, sources);
        } catch (const GroupBroken&) { broke = true; }
        const Learner::Sources again{.root = 0, .holders = holders_of(shards), .everybody = false};
        REQUIRE(!again.holders.empty());
        join_all(shards, members_of(3, nullptr), again);
        CHECK(same(whole_state(shards), state));
        if (!broke) operation = 1000;  // the join has fewer operations
      }
  }
}

TEST_CASE("Shard: without redundancy a dead shard's part is lost, and a foreign holder is an error") {
  Learners shards = make_learners(3, [] { return sharded(full_config("PPO"), "optimizer", false); });
  join_all(shards, members_of(3, nullptr));
  update_all(shards, 1, even(3));
  CHECK(shards[1]->parts() == std::vector<uint32_t>{1});
  shards.pop_back();
  CHECK(holders_of(shards).empty());
  CHECK_THROWS_AS(shards[0]->join(nullptr, {.root = 0, .holders = {0, 0, 0}, .everybody = false}), Error);
}

TEST_CASE("Shard: by layer takes the torch executor by itself") {
  for (const char* kind : {"gradients", "parameters"}) {
    Config config = sharded(plain_config("PPO"), kind);
    config.learners.executor = "auto";
    Learner learner(config, kObs, kActions);
    Fragment batch = batch_of(kActions);
    CHECK(learner.update(&batch).grad_updates == 1);
  }
}

TEST_SUITE_END();
