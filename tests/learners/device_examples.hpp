// Runs of the same batches through learners on different devices, which the tests with and without a GPU share.
#pragma once

#include <ATen/record_function.h>

#include "learners/device/device_support.hpp"
#include "tests/learners/learner_examples.hpp"

#include <doctest/doctest.h>  // after torch, whose CHECK it replaces

#include <algorithm>
#include <array>
#include <string_view>
#include <vector>

namespace myriad {

/// Updates of each kind: minibatches of rows, whole batches of sequences, sequences of some environments, a buffer of
/// batches with a target network, Q-values.
inline constexpr std::array kDeviceCases{"PPO", "IMPALA", "IMPALA, minibatches", "APPO", "PQN"};

inline std::vector<Space> action_spaces_of(std::string_view name) {
  if (name == "PQN") return {Space::discrete(3, 5)};
  return {Space::discrete(3, 5), Space::box(-1, 1, {1})};
}
/// Two of the losses in an update's metrics.
inline std::array<const char*, 2> losses_of(std::string_view name) {
  return name == "PQN" ? std::array{"qf_loss", "qf_mean"} : std::array{"vf_loss", "entropy"};
}

/// Of the native executor, but where a learner is given a device.
inline Config device_config(std::string_view name) {
  Config config = name == "PPO"    ? config_of()
                  : name == "PQN"  ? pqn_config()
                  : name == "APPO" ? async_config("APPO", "native", 3)
                                   : async_config("IMPALA");
  if (name == "IMPALA, minibatches") config.training.minibatch_size = 3 * kSteps;
  if (auto* appo = dynamic_cast<AppoConfig*>(config.algorithm_config.get()); appo != nullptr && name == "APPO")
    appo->target_network_update_freq = 0.5;  // each three passes
  config.training.grad_clip = 0.5;
  return config;
}

/// The largest difference of two learners' parameters.
inline float apart(const Learner& a, const Learner& b) {
  float most = 0;
  const auto x = flat_parameters(a.spec(), a.state().module, "test"),
             y = flat_parameters(b.spec(), b.state().module, "test");
  for (size_t i = 0; i < x.size(); ++i)
    if (const float d = std::abs(x[i] - y[i]); !(d <= most)) most = d;  // NaN too
  return most;
}

/// The metrics of `want` are in `got` and within `epsilon` of it.
inline void check_metrics(const Metrics& got, const Metrics& want, double epsilon) {
  for (const auto& [name, value] : want) {
    CAPTURE(name);
    REQUIRE(got.contains(name));
    CHECK(got.at(name) == doctest::Approx(value).epsilon(epsilon));
  }
}

/// The number of time limits in batch `update`: it grows and shrinks.
inline size_t cuts_of(uint64_t update) { return update % 3 == 2 ? 20 : update; }

/// What operators ran that would make a GPU's host wait, which a recording forbids; those of the CPU's Adam apart,
/// which reads its numbers on the host.
struct Waits {
  static inline thread_local std::vector<std::string> seen;
  static inline thread_local int in_adam = 0;
  static std::unique_ptr<at::ObserverContext> begin(const at::RecordFunction& f) {
    const std::string name = f.name();
    in_adam += name == "aten::_fused_adam_";
    for (const char* waits : {"aten::_local_scalar_dense", "aten::item", "aten::nonzero", "aten::masked_select",
                              "aten::is_nonzero", "aten::equal", "aten::unique_dim", "aten::repeat_interleave"})
      if (in_adam == 0 && name == waits) seen.push_back(name);
    return nullptr;
  }
  static void end(const at::RecordFunction& f, at::ObserverContext*) {
    in_adam -= std::string_view(f.name()) == "aten::_fused_adam_";
  }
};

/// A CPU that records: what it recorded runs at each replay, as it was when it was recorded.
class RecordingSupport final : public DeviceSupport {
 public:
  explicit RecordingSupport(int64_t* replays) : replays_(replays) {}
  c10::Device device() const override { return cpu_->device(); }
  void run(const std::function<void()>& work) override { cpu_->run(work); }
  void upload(std::span<const std::byte> from, void* to) override { cpu_->upload(from, to); }
  void begin_download(const void* from, size_t bytes) override { cpu_->begin_download(from, bytes); }
  std::span<const std::byte> downloaded() override { return cpu_->downloaded(); }
  std::unique_ptr<DeviceGraph> record(const std::function<void()>& work) override {
    struct Graph final : DeviceGraph {
      Graph(std::function<void()> w, int64_t* r) : work(std::move(w)), replays(r) {}
      void replay() override {
        ++*replays;
        const auto watch = at::addThreadLocalCallback(
            at::RecordFunctionCallback(Waits::begin, Waits::end).scopes({at::RecordScope::FUNCTION}));
        work();
        at::removeCallback(watch);
      }
      std::function<void()> work;
      int64_t* replays;
    };
    return std::make_unique<Graph>(work, replays_);
  }

 private:
  std::unique_ptr<DeviceSupport> cpu_ = make_cpu_support();
  int64_t* replays_;
};

}  // namespace myriad
