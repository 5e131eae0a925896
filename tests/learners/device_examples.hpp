// Runs of the same batches through learners on different devices, which the tests with and without a GPU share.
#pragma once

#include "learners/device_support.hpp"
#include "tests/learners/learner_examples.hpp"

#include <doctest/doctest.h>  // after torch, whose CHECK it replaces

#include <algorithm>
#include <array>
#include <string_view>
#include <vector>

namespace myriad {

/// Updates of each kind: minibatches of rows, whole batches of sequences, sequences of some environments, a buffer of
/// batches with a target network.
inline constexpr std::array kDeviceCases{"PPO", "IMPALA", "IMPALA, minibatches", "APPO"};

inline Config device_config(std::string_view name) {
  Config config = name == "PPO"    ? config_of("torch")
                  : name == "APPO" ? async_config("APPO", "torch", 3)
                                   : async_config("IMPALA", "torch");
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
  for (size_t i = 0; i < x.size(); ++i) most = std::max(most, std::abs(x[i] - y[i]));
  return most;
}

/// The metrics of `want`, but for those that only a CPU's learner has, are in `got` and within `epsilon` of it.
inline void check_metrics(const Metrics& got, const Metrics& want, double epsilon) {
  for (const auto& [name, value] : want) {
    if (name.starts_with("learner_memory_")) continue;
    CAPTURE(name);
    REQUIRE(got.contains(name));
    CHECK(got.at(name) == doctest::Approx(value).epsilon(epsilon));
  }
}

/// The number of time limits in batch `update`: it grows and shrinks.
inline size_t cuts_of(uint64_t update) { return update % 3 == 2 ? 20 : update; }

}  // namespace myriad
