// Groups of shards that are threads, on the CPU.
#include "learners/group/device_group.hpp"

#include <ATen/ATen.h>
#include <torch/csrc/distributed/c10d/Backend.hpp>

#include "rl/algorithm_info.hpp"
#include "tests/learners/device_examples.hpp"
#include "tests/learners/thread_group.hpp"

using namespace myriad;

TEST_SUITE_BEGIN("learners/group/device_group");

namespace {

/// A backend whose operations are a ThreadGroup's.
class ThreadBackend final : public c10d::Backend {
 public:
  explicit ThreadBackend(std::shared_ptr<Collective> collective)
      : Backend(static_cast<int>(collective->rank()), static_cast<int>(collective->size())),
        collective_(std::move(collective)) {}
  using WorkPtr = c10::intrusive_ptr<c10d::Work>;
  WorkPtr allreduce(std::vector<at::Tensor>& tensors, const c10d::AllreduceOptions&) override {
    collective_->all_reduce(floats(tensors[0]));
    return done();
  }
  WorkPtr broadcast(std::vector<at::Tensor>& tensors, const c10d::BroadcastOptions& options) override {
    collective_->broadcast(std::as_writable_bytes(floats(tensors[0])), static_cast<uint32_t>(options.rootRank));
    return done();
  }
  WorkPtr reduce(std::vector<at::Tensor>& tensors, const c10d::ReduceOptions& options) override {
    collective_->reduce(floats(tensors[0]), static_cast<uint32_t>(options.rootRank));
    return done();
  }
  WorkPtr _allgather_base(at::Tensor& all, at::Tensor& own, const c10d::AllgatherOptions&) override {
    collective_->all_gather(std::as_writable_bytes(floats(all)), own.nbytes());
    return done();
  }
  const std::string getBackendName() const override { return "threads"; }

 private:
  static std::span<float> floats(const at::Tensor& tensor) {
    REQUIRE(tensor.is_contiguous());
    return {tensor.mutable_data_ptr<float>(), static_cast<size_t>(tensor.numel())};
  }
  static WorkPtr done() {
    struct Done final : c10d::Work {
      bool wait(std::chrono::milliseconds) override { return true; }
    };
    return c10::make_intrusive<Done>();
  }

  std::shared_ptr<Collective> collective_;
};

/// f(rank, its group) in a thread for each of `size` shards.
template <class F>
void in_group(uint32_t size, bool through_host, F f) {
  ThreadGroup threads(size);
  in_threads(size, [&](uint32_t rank) {
    const std::shared_ptr<Collective> collective = threads.member(rank);
    const auto group = through_host ? make_host_group(*collective)
                                    : make_backend_group(c10::make_intrusive<ThreadBackend>(collective));
    f(rank, *group);
  });
}

}  // namespace

TEST_CASE("DeviceGroup: a tensor becomes the sum over the shards") {
  for (const bool through_host : {false, true}) {
    std::array<float, 3> got{};
    in_group(3, through_host, [&](uint32_t rank, DeviceGroup& group) {
      const at::Tensor x = at::full({5}, static_cast<float>(rank + 1));
      group.all_reduce(x);
      got[rank] = group.rank() == rank && group.size() == 3 ? x[4].item<float>() : 0.0f;
    });
    CHECK(got == std::array<float, 3>{6, 6, 6});
  }
}

TEST_CASE("DeviceGroup: a tensor is sent by one shard, summed at one, gathered from all") {
  for (const bool through_host : {false, true}) {
    std::array<std::array<float, 3>, 3> got{};
    in_group(3, through_host, [&](uint32_t rank, DeviceGroup& group) {
      const auto mine = static_cast<float>(rank + 1);
      const at::Tensor sent = at::full({5}, mine), sum = at::full({5}, mine), all = at::zeros({6});
      group.broadcast(sent, 1);
      group.reduce(sum, 2);
      all.narrow(0, 2 * rank, 2).fill_(mine);
      group.all_gather(all);
      CHECK(all.equal(at::tensor({1.0f, 1.0f, 2.0f, 2.0f, 3.0f, 3.0f})));
      got[rank] = {sent[4].item<float>(), rank == 2 ? sum[4].item<float>() : 0.0f, all[5].item<float>()};
    });
    CHECK(got == std::array<std::array<float, 3>, 3>{{{2, 0, 3}, {2, 0, 3}, {2, 6, 3}}});
  }
}

TEST_CASE("DeviceGroup: shards on devices compute what shards on CPUs do, and all the same bits") {
  for (const char* name : kDeviceCases) {
    CAPTURE(name);
    const Space actions = Space::discrete(3, 5);
    Config config = device_config(name);
    config.learners.gradient_accumulation = 2;
    std::array<LearnerState, 2> here, there;
    std::array<Metrics, 2> want, got;
    for (const bool on_device : {false, true}) {
      ThreadGroup threads(2);
      in_threads(2, [&](uint32_t rank) {
        Learner learner(config, kObs, actions, on_device ? make_cpu_support() : nullptr);
        learner.join(threads.member(rank), {});
        Metrics metrics;
        for (uint64_t update = 1; update <= 5; ++update) {
          Fragment whole = batch_of(actions, update, update);
          Fragment mine = rank == 0 ? slice_of(whole, 0, 3) : slice_of(whole, 3, 5);
          const bool nothing = rank == 0 && (update == 1 || update == 3);
          metrics = learner.update(nothing ? nullptr : &mine).metrics;
        }
        (on_device ? there : here)[rank] = learner.state();
        (on_device ? got : want)[rank] = metrics;
      });
    }
    CHECK(same(there[0], there[1]));
    check_metrics(got[0], want[0], 5e-3);
    const ModuleSpec spec = find_algorithm(config.algorithm).module(kObs, actions, config);
    const auto x = flat_parameters(spec, here[0].module, "test"), y = flat_parameters(spec, there[0].module, "test");
    for (size_t i = 0; i < x.size(); ++i) CHECK(std::abs(x[i] - y[i]) <= 2e-4f);
  }
}

TEST_CASE("DeviceGroup: gradients summed by a backend are those summed through the host, bit for bit") {
  const Space actions = Space::discrete(3, 5);
  for (const char* name : {"PPO", "IMPALA"})
    for (const int64_t parts : {1, 3}) {  // of a minibatch: what is summed is all of them
      CAPTURE(name);
      CAPTURE(parts);
      Config config = device_config(name);
      config.learners.gradient_accumulation = parts;
      std::array<LearnerState, 2> host, backend, overlapped;
      uint64_t sums = 0;
      for (std::array<LearnerState, 2>* states : {&host, &backend, &overlapped}) {
        ThreadGroup threads(2), gradients(2);
        in_threads(2, [&](uint32_t rank) {
          Learner learner(config, kObs, actions, make_cpu_support());
          std::shared_ptr<DeviceGroup> group;
          const std::shared_ptr<Collective> member = gradients.member(rank);
          if (states != &host)
            group = make_backend_group(c10::make_intrusive<ThreadBackend>(member), states == &overlapped ? 1 : 0);
          learner.join(threads.member(rank), {}, group);
          for (uint64_t update = 1; update <= 4; ++update) {
            Fragment whole = batch_of(actions, update, update);
            Fragment mine = rank == 0 ? slice_of(whole, 0, 3) : slice_of(whole, 3, 5);
            learner.update(rank == 0 && update == 3 ? nullptr : &mine);
          }
          (*states)[rank] = learner.state();
          if (rank == 0 && states == &backend) sums = member->operations();
          if (rank == 0 && states == &overlapped) sums = member->operations() - sums;
        });
      }
      CHECK(same(backend[0], backend[1]));
      CHECK(same(backend[0], host[0]));
      CHECK(same(overlapped[0], overlapped[1]));
      CHECK(same(overlapped[0], host[0]));
      CHECK(sums > 0);  // more of them
    }
}

TEST_CASE("DeviceGroup: state in parts moves over a backend as through the host, also where that is recorded") {
  const Space actions = Space::discrete(3, 5);
  enum Way { host, backend, recorded };
  for (const char* name : {"PPO", "APPO"})
    for (const char* kind : {"optimizer", "gradients", "parameters"}) {
      CAPTURE(name);
      CAPTURE(kind);
      Config config = device_config(name);
      config.learners.shard = kind;
      config.learners.executor = "torch";
      std::array<std::array<LearnerState, 2>, 3> states;
      int64_t replays = 0;
      for (const Way way : {host, backend, recorded}) {
        ThreadGroup threads(2), gradients(2);
        in_threads(2, [&](uint32_t rank) {
          int64_t own_replays = 0;
          Learner learner(config, kObs, actions,
                          way == recorded ? std::make_unique<RecordingSupport>(&own_replays) : make_cpu_support());
          std::shared_ptr<DeviceGroup> group;
          if (way != host) group = make_backend_group(c10::make_intrusive<ThreadBackend>(gradients.member(rank)), 1);
          learner.join(threads.member(rank), {}, group);
          for (uint64_t update = 1; update <= 8; ++update) {
            Fragment whole = batch_of(actions, update, update);
            Fragment mine = rank == 0 ? slice_of(whole, 0, 3) : slice_of(whole, 3, 5);
            learner.update(rank == 0 && (update == 1 || update == 3) ? nullptr : &mine);
          }
          states[way][rank] = learner.state();
          if (rank == 1) replays = own_replays;
        });
      }
      CHECK(replays > 0);
      for (const size_t rank : {size_t{0}, size_t{1}}) {
        CHECK(same(states[backend][rank], states[host][rank]));
        CHECK(same(states[recorded][rank], states[host][rank]));
      }
    }
}

TEST_CASE("DeviceGroup: layers that come one by one are multiplied in bfloat16, backward too") {
  const Space actions = Space::box(-1, 1, {1});
  Config config = device_config("PPO");
  config.learners.autocast = "bfloat16";
  std::map<std::string, std::array<LearnerState, 2>> states;
  for (const char* kind : {"none", "gradients", "parameters"}) {
    config.learners.shard = kind;
    config.learners.executor = "torch";
    std::array<LearnerState, 2>& of_kind = states[kind];
    ThreadGroup threads(2);
    in_threads(2, [&](uint32_t rank) {
      Learner learner(config, kObs, actions, make_cpu_support());
      learner.join(threads.member(rank), {});
      for (uint64_t update = 1; update <= 3; ++update) {
        Fragment whole = batch_of(actions, update, update);
        Fragment mine = rank == 0 ? slice_of(whole, 0, 3) : slice_of(whole, 3, 5);
        learner.update(&mine);
      }
      of_kind[rank] = learner.state();
    });
  }
  config.learners.autocast = "none";
  config.learners.shard = "none";
  const ModuleSpec spec = policy_and_value(kObs, actions, config);
  const std::vector<float> want = flat_parameters(spec, states["none"][0].module, "test");
  for (const char* kind : {"gradients", "parameters"}) {
    const std::vector<float> got = flat_parameters(spec, states[kind][1].module, "test");
    for (size_t i = 0; i < want.size(); ++i)
      CHECK(std::abs(got[i] - want[i]) <= 1e-6f);  // the same roundings; float32 differs by some 1e-3
  }
}

TEST_CASE("DeviceGroup: a backend that was aborted breaks the group, also amid backward; the update is put back") {
  const Space actions = Space::discrete(2);
  for (const size_t overlap_floats : {0, 1})
    for (const uint64_t operation : {4, 7}) {
      CAPTURE(overlap_floats);
      std::array<LearnerState, 2> before, after;
      std::array<bool, 2> broke{};
      ThreadGroup threads(2), gradients(2, ThreadGroup::Fault{.rank = 1, .operation = operation, .after = false});
      in_threads(2, [&](uint32_t rank) {
        Learner learner(device_config("PPO"), kObs, actions, make_cpu_support());
        learner.join(threads.member(rank), {},
                     make_backend_group(c10::make_intrusive<ThreadBackend>(gradients.member(rank)), overlap_floats));
        Fragment batch = batch_of(actions, rank);
        before[rank] = learner.state();
        try {
          learner.update(&batch);
        } catch (const GroupBroken&) { broke[rank] = true; }
        learner.settle(false);
        after[rank] = learner.state();
      });
      CHECK(broke == std::array{true, true});
      for (const size_t rank : {size_t{0}, size_t{1}}) CHECK(same(before[rank], after[rank]));
    }
}

TEST_CASE("DeviceGroup: an update that a broken group did not finish is put back bit for bit") {
  for (const char* name : {"PPO", "IMPALA"}) {
    CAPTURE(name);
    const Space actions = Space::discrete(2);
    const Config config = device_config(name);
    std::array<LearnerState, 2> before, after;
    ThreadGroup threads(2, ThreadGroup::Fault{.rank = 1, .operation = 9, .after = false});
    in_threads(2, [&](uint32_t rank) {
      Learner learner(config, kObs, actions, make_cpu_support());
      learner.join(threads.member(rank), {});
      Fragment batch = batch_of(actions, rank);
      for (bool broken = false; !broken;) {
        before[rank] = learner.state();
        try {
          learner.update(&batch);
        } catch (const GroupBroken&) {
          learner.settle(false);
          broken = true;
        }
      }
      after[rank] = learner.state();
    });
    for (const size_t rank : {size_t{0}, size_t{1}}) CHECK(same(before[rank], after[rank]));
  }
}

TEST_SUITE_END();
