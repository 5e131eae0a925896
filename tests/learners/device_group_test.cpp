// Groups of shards that are threads, on the CPU.
#include "learners/device_group.hpp"

#include <ATen/ATen.h>
#include <torch/csrc/distributed/c10d/Backend.hpp>

#include "learners/device_learner.hpp"
#include "tests/learners/device_examples.hpp"
#include "tests/learners/thread_group.hpp"

using namespace myriad;

TEST_SUITE_BEGIN("learners/device_group");

namespace {

/// A backend whose operations are a ThreadGroup's.
class ThreadBackend final : public c10d::Backend {
 public:
  explicit ThreadBackend(std::shared_ptr<Collective> collective)
      : Backend(static_cast<int>(collective->rank()), static_cast<int>(collective->size())),
        collective_(std::move(collective)) {}
  c10::intrusive_ptr<c10d::Work> allreduce(std::vector<at::Tensor>& tensors, const c10d::AllreduceOptions&) override {
    struct Done final : c10d::Work {
      bool wait(std::chrono::milliseconds) override { return true; }
    };
    collective_->all_reduce(
        std::span<float>(tensors[0].mutable_data_ptr<float>(), static_cast<size_t>(tensors[0].numel())));
    return c10::make_intrusive<Done>();
  }
  const std::string getBackendName() const override { return "threads"; }

 private:
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

/// Parameters after five updates, and the last counts; `seed` draws the batches.
std::vector<float> trained(const char* name, DeviceGroup* group, uint64_t seed,
                           std::map<std::string, int64_t>* counts = nullptr) {
  const Space actions = Space::discrete(2);
  const Config config = device_config(name);
  const auto algorithm = make_algorithm(config);
  DeviceLearner learner(config, *algorithm, algorithm->module_spec(kObs, actions), actions, make_cpu_support());
  learner.set_group(group);
  RandomStream random(1, StreamPurpose::minibatch, 0);
  PassCounters counters;
  algorithm->begin_update(0);
  for (uint64_t update = 0; update < 5; ++update) {
    Fragment batch = batch_of(actions, seed + update);
    learner.update(batch, nullptr, 1e-3, random, counters);
  }
  if (counts != nullptr) *counts = learner.work_counts();
  const auto all = learner.parameters();
  return {all.begin(), all.end()};
}

float apart(const std::vector<float>& a, const std::vector<float>& b) {
  float most = 0;
  for (size_t i = 0; i < a.size(); ++i) most = std::max(most, std::abs(a[i] - b[i]));
  return most;
}

}  // namespace

TEST_CASE("DeviceGroup: a tensor becomes the mean over the shards") {
  for (const bool through_host : {false, true}) {
    std::array<float, 3> got{};
    in_group(3, through_host, [&](uint32_t rank, DeviceGroup& group) {
      const at::Tensor x = at::full({5}, static_cast<float>(rank + 1));
      group.all_reduce_mean(x);
      got[rank] = x[4].item<float>();
    });
    CHECK(got == std::array<float, 3>{2, 2, 2});
  }
}

TEST_CASE("DeviceGroup: shards with the same batches train as one alone, with different ones they stay together") {
  for (const char* name : {"PPO", "IMPALA"})
    for (const bool through_host : {false, true}) {
      CAPTURE(name);
      const std::vector<float> alone = trained(name, nullptr, 1);
      std::array<std::vector<float>, 2> same_batches, other_batches;
      in_group(2, through_host, [&](uint32_t rank, DeviceGroup& group) {
        same_batches[rank] = trained(name, &group, 1);
        other_batches[rank] = trained(name, &group, 1 + 10 * rank);
      });
      CHECK(apart(same_batches[0], alone) <= 1e-6f);
      CHECK(apart(same_batches[1], alone) <= 1e-6f);
      CHECK(other_batches[0] == other_batches[1]);
      CHECK(apart(other_batches[0], alone) > 1e-4f);
    }
}

TEST_CASE("DeviceGroup: through the host a step is two recordings with the reduction between, queued it is one") {
  for (const bool through_host : {false, true}) {
    std::array<std::map<std::string, int64_t>, 1> counts;
    in_group(1, through_host, [&](uint32_t, DeviceGroup& group) {
      CHECK(group.recordable() == !through_host);
      trained("IMPALA", &group, 1, &counts[0]);
    });
    int64_t pieces = 0;
    for (const auto& [kind, count] : counts[0]) pieces += count;
    CHECK(pieces == (through_host ? 2 : 1) * 5);
  }
}

TEST_SUITE_END();
