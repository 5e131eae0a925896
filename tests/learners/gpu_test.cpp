// TorchTrainer and libmyriad_cuda.so on a GPU. Every case says SKIPPED where there is none.
#include <ATen/ATen.h>
#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/HashStore.hpp>

#include <cstdio>

#include "learners/group/device_group.hpp"
#include "rl/algorithm_info.hpp"
#include "tests/learners/device_examples.hpp"
#include "tests/learners/thread_group.hpp"

using namespace myriad;

TEST_SUITE_BEGIN("learners/gpu");

namespace {

/// Opens the library before anything asks torch for its devices: it remembers the first answer.
bool skipped() {
  static const std::string reason = why_no_cuda();
  if (!reason.empty()) std::printf("SKIPPED: no GPU: %s\n", reason.c_str());
  return !reason.empty();
}

Config on_gpu(const char* name) {
  Config config = device_config(name);
  config.learners.device = "cuda";
  return config;
}

}  // namespace

TEST_CASE("GPU: trains as the CPU does, batch after batch") {
  if (skipped()) return;
  for (const char* name : kDeviceCases)
    for (const Space& actions : action_spaces_of(name)) {
      CAPTURE(name);
      CAPTURE(actions.to_string());
      const Config config = on_gpu(name), cpu = device_config(name);
      Learner there(config, kObs, actions), here(cpu, kObs, actions);
      for (uint64_t update = 1; update <= 6; ++update) {
        CAPTURE(update);
        Fragment batch = batch_of(actions, update, cuts_of(update));
        const Metrics want = here.update(&batch).metrics, got = there.update(&batch).metrics;
        check_metrics(got, want, 5e-3);
      }
      CHECK(apart(here, there) <= 1e-3f);
    }
}

TEST_CASE("GPU: a recorded gradient step gives what the step itself gives") {
  if (skipped()) return;
  for (const char* name : kDeviceCases) {
    CAPTURE(name);
    const Space actions = Space::discrete(3, 5);
    Config config = on_gpu(name);
    Learner recorded(config, kObs, actions);
    config.learners.cuda_graph = false;
    Learner plain(config, kObs, actions);
    Metrics last;
    for (uint64_t update = 1; update <= 12; ++update) {
      Fragment batch = batch_of(actions, update, cuts_of(update));
      last = recorded.update(&batch).metrics;
      plain.update(&batch);
    }
    CHECK(apart(recorded, plain) <= 1e-5f);
    CHECK(last.contains("num_device_work_replayed_lifetime"));
    CHECK(!last.contains("num_device_work_not_recorded_lifetime"));
  }
}

TEST_CASE("GPU: bfloat16 trains nearly as float32 does") {
  if (skipped()) return;
  for (const char* name : kDeviceCases) {
    CAPTURE(name);
    const Space actions = action_spaces_of(name).back();
    Config config = on_gpu(name);
    Learner exact(config, kObs, actions);
    config.learners.autocast = "bfloat16";
    Learner rough(config, kObs, actions);
    for (uint64_t update = 1; update <= 8; ++update) {
      Fragment batch = batch_of(actions, update);
      exact.update(&batch);
      rough.update(&batch);
    }
    CHECK(apart(exact, rough) > 1e-6f);
    CHECK(apart(exact, rough) <= 2e-2f);
  }
}

TEST_CASE("GPU: a gradient that is not finite is skipped on the device, and the third in a row is an error") {
  if (skipped()) return;
  const Space actions = Space::discrete(2);
  Learner learner(on_gpu("IMPALA"), kObs, actions);
  Fragment good = batch_of(actions), bad = batch_of(actions);
  bad.values<float>(bad.layout().column("rewards"))[3] = std::nanf("");
  for (int i = 0; i < 4; ++i) learner.update(&good);  // recorded by now
  const LearnerState before = learner.state();
  CHECK(learner.update(&bad).skipped == 1);
  CHECK(same(learner.state().module, before.module));
  learner.update(&bad);
  CHECK_THROWS_WITH_AS(learner.update(&bad), doctest::Contains("'encoder.0.weight'"), Error);
}

TEST_CASE("GPU: a checkpoint of a GPU continues on a CPU and on a GPU") {
  if (skipped()) return;
  for (const char* name : {"PPO", "IMPALA"}) {
    const Space actions = Space::box(-1, 1, {1});
    Learner gpu(on_gpu(name), kObs, actions), again(on_gpu(name), kObs, actions),
        cpu(device_config(name), kObs, actions);
    Fragment batch = batch_of(actions);
    for (int i = 0; i < 3; ++i) gpu.update(&batch);
    again.set_state(gpu.state());
    cpu.set_state(gpu.state());
    CHECK(same(again.state(), gpu.state()));
    for (Learner* learner : {&gpu, &again, &cpu}) learner->update(&batch);
    CHECK(apart(gpu, again) <= 1e-5f);
    CHECK(apart(gpu, cpu) <= 1e-3f);
  }
}

TEST_CASE("GPU: copies through the pinned slabs arrive whole and in order") {
  if (skipped()) return;
  const std::unique_ptr<DeviceSupport> gpu = open_device("cuda", 0);
  constexpr int64_t kNumbers = 5'000'001;  // five slabs, the last one not full
  std::vector<float> numbers(kNumbers);
  at::Tensor there;
  gpu->run([&] {
    there = at::zeros({kNumbers}, at::TensorOptions(at::kFloat).device(gpu->device()));
    for (float round : {1.0f, 2.0f}) {
      for (size_t i = 0; i < numbers.size(); ++i) numbers[i] = round * static_cast<float>(i % 1000);
      gpu->upload(std::as_bytes(std::span<const float>(numbers)), there.mutable_data_ptr());
      std::ranges::fill(numbers, -1.0f);  // it may be changed at once
      there.add_(1.0f);
    }
    gpu->begin_download(there.const_data_ptr(), there.nbytes());
    there.zero_();  // it may be changed at once
  });
  const auto* back = reinterpret_cast<const float*>(gpu->downloaded().data());
  int64_t wrong = 0;
  for (int64_t i = 0; i < kNumbers; ++i) wrong += back[i] != 2.0f * static_cast<float>(i % 1000) + 1.0f;
  CHECK(wrong == 0);
}

TEST_CASE("GPU: an NCCL group of one reduces, also when it is recorded, and can be aborted") {
  if (skipped()) return;  // NCCL refuses two ranks on one GPU: a larger group wants more of them
  const std::unique_ptr<DeviceSupport> gpu = open_device("cuda", 0);
  const auto group =
      make_nccl_backend(gpu->device(), c10::make_intrusive<c10d::HashStore>(), 0, 1, std::chrono::seconds(30));
  gpu->run([&] {
    const at::Tensor x = at::ones({1000}, at::TensorOptions(at::kFloat).device(gpu->device()));
    const auto reduce = [&] {
      std::vector<at::Tensor> tensors{x};
      group->allreduce(tensors)->wait();
      x.mul_(2.0f);
    };
    reduce();
    const std::unique_ptr<DeviceGraph> recorded = gpu->record(reduce);
    REQUIRE(recorded != nullptr);
    recorded->replay();
    recorded->replay();
    CHECK(x.cpu().eq(8.0f).all().item<bool>());
  });
  group->abort();
}

namespace {

/// The first of two shards with the same numbers: a sum is NCCL's of one rank, doubled. Parameters that the other would
/// have are zeros.
class FirstOfTwo final : public DeviceGroup {
 public:
  FirstOfTwo(const DeviceSupport& gpu, size_t overlap_floats)
      : nccl_(make_backend_group(
            make_nccl_backend(gpu.device(), c10::make_intrusive<c10d::HashStore>(), 0, 1, std::chrono::seconds(30)),
            overlap_floats)) {}
  int64_t rank() const override { return 0; }
  int64_t size() const override { return 2; }
  void all_reduce(const at::Tensor& tensor) override {
    nccl_->all_reduce(tensor);
    tensor.mul_(2.0f);
  }
  void begin_all_reduce(const at::Tensor& tensor) override {
    ++begun;
    nccl_->begin_all_reduce(tensor);
    unfinished_.push_back(tensor);
  }
  void finish() override {
    nccl_->finish();
    for (const at::Tensor& tensor : std::exchange(unfinished_, {})) tensor.mul_(2.0f);
  }
  void broadcast(const at::Tensor& tensor, uint32_t root) override {
    if (root != 0) tensor.zero_();
    nccl_->broadcast(tensor, 0);
    ++moved;
  }
  void reduce(const at::Tensor& tensor, uint32_t) override {
    nccl_->reduce(tensor, 0);
    tensor.mul_(2.0f);
    ++moved;
  }
  void all_gather(const at::Tensor& all) override {
    nccl_->all_gather(all.chunk(2)[0]);
    ++moved;
  }
  size_t overlap_floats() const override { return nccl_->overlap_floats(); }
  bool recordable() const override { return true; }
  void abort() noexcept override { nccl_->abort(); }
  void require_alive() const override { nccl_->require_alive(); }

  int64_t begun = 0, moved = 0;

 private:
  std::unique_ptr<DeviceGroup> nccl_;
  std::vector<at::Tensor> unfinished_;
};

/// The second, which has no rows and whose results nobody looks at.
class SecondOfTwo final : public DeviceGroup {
 public:
  int64_t rank() const override { return 1; }
  int64_t size() const override { return 2; }
  void all_reduce(const at::Tensor& tensor) override { tensor.mul_(2.0f); }
  void begin_all_reduce(const at::Tensor&) override {}
  void finish() override {}
  void broadcast(const at::Tensor& tensor, uint32_t) override { tensor.zero_(); }
  void reduce(const at::Tensor&, uint32_t) override {}
  void all_gather(const at::Tensor&) override {}
  size_t overlap_floats() const override { return 0; }
  bool recordable() const override { return false; }
  void abort() noexcept override {}
  void require_alive() const override {}
};

}  // namespace

TEST_CASE("GPU: NCCL sums stretches of a gradient during a recorded backward") {
  if (skipped()) return;
  const Space actions = Space::discrete(2);
  std::array<LearnerState, 2> states;
  for (const size_t overlap_floats : {0, 1}) {
    const std::unique_ptr<DeviceSupport> gpu = open_device("cuda", 0);
    const auto first = std::make_shared<FirstOfTwo>(*gpu, overlap_floats);
    ThreadGroup threads(2);
    in_threads(2, [&](uint32_t rank) {
      Learner learner(rank == 0 ? on_gpu("PPO") : device_config("PPO"), kObs, actions,
                      rank == 0 ? nullptr : make_cpu_support());
      learner.join(threads.member(rank), {},
                   rank == 0 ? std::shared_ptr<DeviceGroup>(first) : std::make_shared<SecondOfTwo>());
      Fragment batch = batch_of(actions);
      Metrics last;
      for (int update = 0; update < 6; ++update) last = learner.update(rank == 0 ? &batch : nullptr).metrics;
      if (rank == 1) return;
      states[overlap_floats] = learner.state();
      CHECK(last.contains("num_device_work_replayed_lifetime"));
      CHECK(!last.contains("num_device_work_not_recorded_lifetime"));
    });
    CHECK((first->begun > 0) == (overlap_floats > 0));
    first->abort();
  }
  CHECK(same(states[0], states[1]));
}

TEST_CASE("GPU: what lies in parts moves over NCCL amid recorded passes as it does unrecorded") {
  if (skipped()) return;
  const Space actions = Space::discrete(2);
  for (const char* name : {"PPO", "APPO"})
    for (const char* kind : {"optimizer", "gradients", "parameters"}) {
      CAPTURE(name);
      CAPTURE(kind);
      std::array<std::vector<float>, 2> parts;
      for (const bool recorded : {false, true}) {
        const std::unique_ptr<DeviceSupport> gpu = open_device("cuda", 0);
        const auto first = std::make_shared<FirstOfTwo>(*gpu, 0);
        ThreadGroup threads(2);
        in_threads(2, [&](uint32_t rank) {
          Config config = rank == 0 ? on_gpu(name) : device_config(name);
          config.learners.cuda_graph = recorded;
          config.learners.shard = kind;
          Learner learner(config, kObs, actions, rank == 0 ? nullptr : make_cpu_support());
          learner.join(threads.member(rank), {},
                       rank == 0 ? std::shared_ptr<DeviceGroup>(first) : std::make_shared<SecondOfTwo>());
          Fragment batch = batch_of(actions);
          Metrics last;
          for (int update = 0; update < 8; ++update) last = learner.update(rank == 0 ? &batch : nullptr).metrics;
          const LearnerState state = learner.state();
          if (rank == 1) return;
          parts[recorded] = state.optimizer.at("exp_avg").f32();
          CHECK(last.contains("num_device_work_replayed_lifetime") == recorded);
          CHECK(!last.contains("num_device_work_not_recorded_lifetime"));
        });
        CHECK(first->moved > 0);
        first->abort();
      }
      CHECK(parts[0].size() < policy_and_value(kObs, actions, on_gpu(name)).num_parameters());
      const float most = std::abs(*std::ranges::max_element(parts[0], {}, [](float x) { return std::abs(x); }));
      CHECK(most > 0);
      for (size_t i = 0; i < parts[0].size(); ++i) CHECK(std::abs(parts[0][i] - parts[1][i]) <= 1e-4f * most);
    }
}

TEST_CASE("GPU: a shard on a GPU and one on a CPU, with state in parts, train as two on CPUs do") {
  if (skipped()) return;  // two on GPUs want a process each: their backward passes would share a thread
  const Space actions = Space::discrete(2);
  for (const char* name : {"PPO", "APPO"})
    for (const char* kind : {"optimizer", "gradients", "parameters"}) {
      CAPTURE(name);
      CAPTURE(kind);
      std::array<std::array<LearnerState, 2>, 2> states;
      for (const bool gpu : {false, true}) {
        ThreadGroup threads(2);
        in_threads(2, [&](uint32_t rank) {
          Config config = gpu && rank == 0 ? on_gpu(name) : device_config(name);
          config.learners.shard = kind;
          Learner learner(config, kObs, actions, gpu && rank == 0 ? nullptr : make_cpu_support());
          learner.join(threads.member(rank), {});
          for (uint64_t update = 1; update <= 5; ++update) {
            Fragment whole = batch_of(actions, update, update);
            Fragment mine = rank == 0 ? slice_of(whole, 0, 3) : slice_of(whole, 3, 5);
            learner.update(rank == 0 && update == 3 ? nullptr : &mine);
          }
          states[gpu][rank] = learner.state();
        });
      }
      CHECK(same(states[1][0].module, states[1][1].module));
      const auto check_near = [](const Tensor& a, const Tensor& b, float tolerance) {
        const std::vector<float> x = a.f32(), y = b.f32();
        REQUIRE(x.size() == y.size());
        for (size_t i = 0; i < x.size(); ++i) CHECK(std::abs(x[i] - y[i]) <= tolerance);
      };
      for (const auto& [tensor, want] : states[0][0].module) check_near(states[1][0].module.at(tensor), want, 1e-3f);
      const Tensor& want = states[0][0].optimizer.at("exp_avg");
      float most = 0;
      for (const float x : want.f32()) most = std::max(most, std::abs(x));
      check_near(states[1][0].optimizer.at("exp_avg"), want, 0.02f * most);
    }
}

TEST_CASE("GPU: frames are stacked there as on the host") {
  if (skipped()) return;
  const Space actions = Space::discrete(3, 5);
  for (const char* name : kDeviceCases) {
    CAPTURE(name);
    Learner whole(on_gpu(name), kObs, actions), frames(on_gpu(name), kObs, actions);
    for (uint64_t update = 1; update <= 8; ++update) {
      Fragment stacks = batch_of(actions, update, cuts_of(update));
      Fragment batch = frames_of(stacks);
      whole.update(&stacks);
      const Metrics last = frames.update(&batch).metrics;
      CHECK(!last.contains("num_device_work_not_recorded_lifetime"));
    }
    CHECK(apart(whole, frames) <= 1e-5f);
  }
}

TEST_SUITE_END();
