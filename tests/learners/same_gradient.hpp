// Gradients of two executors, tensor by tensor.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "rl/module_spec.hpp"

namespace myriad {

/// Within 1e-5 of each other, and no tensor's is zero.
inline void check_same_gradient(const ModuleSpec& spec, const std::vector<float>& want, const std::vector<float>& got) {
  for (const Parameter& p : spec.parameters()) {
    float worst = 0, size = 0;
    for (size_t i = p.offset; i < p.offset + p.count; ++i) {
      worst = std::max(worst, std::abs(want[i] - got[i]));
      size = std::max(size, std::abs(want[i]));
    }
    CHECK_MESSAGE(worst <= 1e-5f, p.name);
    CHECK_MESSAGE(size > 0, p.name);
  }
}

}  // namespace myriad
