// Groups of shards that are threads, on the CPU.
#include "learners/device_group.hpp"

#include <ATen/ATen.h>
#include <torch/csrc/distributed/c10d/Backend.hpp>

#include <barrier>
#include <thread>

#include "learners/device_learner.hpp"
#include "tests/learners/device_examples.hpp"

using namespace myriad;

TEST_SUITE_BEGIN("learners/device_group");

namespace {

/// Where the shards' threads add up what each brings.
class Meeting {
 public:
  explicit Meeting(int size) : size_(size), barrier_(size), parts_(static_cast<size_t>(size)) {}
  int size() const { return size_; }
  void sum(int rank, std::span<float> values) {
    parts_[static_cast<size_t>(rank)].assign(values.begin(), values.end());
    barrier_.arrive_and_wait();
    std::ranges::fill(values, 0.0f);
    for (const std::vector<float>& part : parts_)
      for (size_t i = 0; i < values.size(); ++i) values[i] += part[i];
    barrier_.arrive_and_wait();
  }

 private:
  int size_;
  std::barrier<> barrier_;
  std::vector<std::vector<float>> parts_;
};

std::span<float> floats_of(const at::Tensor& t) {
  return {t.mutable_data_ptr<float>(), static_cast<size_t>(t.numel())};
}

class ThreadBackend final : public c10d::Backend {
 public:
  ThreadBackend(Meeting& meeting, int rank) : Backend(rank, meeting.size()), meeting_(meeting) {}
  c10::intrusive_ptr<c10d::Work> allreduce(std::vector<at::Tensor>& tensors, const c10d::AllreduceOptions&) override {
    struct Done final : c10d::Work {
      bool wait(std::chrono::milliseconds) override { return true; }
    };
    meeting_.sum(getRank(), floats_of(tensors[0]));
    return c10::make_intrusive<Done>();
  }
  const std::string getBackendName() const override { return "threads"; }

 private:
  Meeting& meeting_;
};

class ThreadCollective final : public Collective {
 public:
  ThreadCollective(Meeting& meeting, int rank) : meeting_(meeting), rank_(rank) {}
  uint32_t rank() const override { return static_cast<uint32_t>(rank_); }
  uint32_t size() const override { return static_cast<uint32_t>(meeting_.size()); }
  void all_reduce(std::span<float> values) override { meeting_.sum(rank_, values); }
  void all_reduce(std::span<double>) override { FAIL("not used"); }
  void broadcast(std::span<std::byte>, uint32_t) override { FAIL("not used"); }
  void abort() noexcept override {}
  uint64_t operations() const override { return 0; }
  bool inside() const override { return false; }

 private:
  Meeting& meeting_;
  int rank_;
};

/// f(rank, its group) in a thread for each of `size` shards.
template <class F>
void in_group(int size, bool through_host, F f) {
  Meeting meeting(size);
  std::vector<std::thread> threads;
  for (int rank = 0; rank < size; ++rank)
    threads.emplace_back([&, rank] {
      ThreadCollective collective(meeting, rank);
      const auto group = through_host ? make_host_group(collective)
                                      : make_backend_group(c10::make_intrusive<ThreadBackend>(meeting, rank));
      f(rank, *group);
    });
  for (std::thread& thread : threads) thread.join();
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
    in_group(3, through_host, [&](int rank, DeviceGroup& group) {
      const at::Tensor x = at::full({5}, static_cast<float>(rank + 1));
      group.all_reduce_mean(x);
      got[static_cast<size_t>(rank)] = x[4].item<float>();
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
      in_group(2, through_host, [&](int rank, DeviceGroup& group) {
        same_batches[static_cast<size_t>(rank)] = trained(name, &group, 1);
        other_batches[static_cast<size_t>(rank)] = trained(name, &group, 1 + 10 * static_cast<uint64_t>(rank));
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
    in_group(1, through_host, [&](int, DeviceGroup& group) {
      CHECK(group.recordable() == !through_host);
      trained("IMPALA", &group, 1, &counts[0]);
    });
    int64_t pieces = 0;
    for (const auto& [kind, count] : counts[0]) pieces += count;
    CHECK(pieces == (through_host ? 2 : 1) * 5);
  }
}

TEST_SUITE_END();
