// How an optimizer's state lies in a checkpoint and goes to a peer, whatever it computes on: "exp_avg", "exp_avg_sq"
// and "steps" {steps, skipped, skipped in a row}; of a part also "offset" and "total".
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "learners/group/partition.hpp"
#include "rl/weights.hpp"

namespace myriad {

struct OptimizerCounters {
  int64_t steps = 0, skipped = 0;  ///< lifetime
  int64_t skipped_in_a_row = 0;    ///< up to the last step
};

TensorMap optimizer_state(const OptimizerCounters& counters);
/// With the moments of `part` of `total` parameters.
TensorMap optimizer_state(const OptimizerCounters& counters, std::span<const float> first,
                          std::span<const float> second, Range part, size_t total);

// Throw Error("foreign-checkpoint") when it does not fit.

OptimizerCounters optimizer_counters(const TensorMap& state);
std::array<std::vector<float>, 2> optimizer_moments(const TensorMap& state, size_t total);  ///< of the whole

}  // namespace myriad
