// The stacks of a fragment of frames, by the rule of rl/fragment.hpp word for word.
#pragma once

#include <algorithm>
#include <optional>
#include <vector>

#include "rl/fragment.hpp"

namespace myriad::test {

inline std::vector<float> stacks_of(Fragment& fragment) {  // [T+1, B, k * f]
  const FragmentLayout& layout = fragment.layout();
  const auto steps = static_cast<size_t>(layout.steps()), environments = static_cast<size_t>(layout.environments());
  const auto k = static_cast<size_t>(layout.frame_stack());
  const Column& frames = layout.column("frames");
  const auto terminateds = fragment.values<uint8_t>(layout.column("terminateds"));
  const auto truncateds = fragment.values<uint8_t>(layout.column("truncateds"));
  const size_t size = frames.row_bytes / sizeof(float);
  std::vector<float> stacks;
  for (size_t t = 0; t <= steps; ++t)
    for (size_t b = 0; b < environments; ++b) {
      std::optional<size_t> began;
      for (size_t s = 1; s <= t; ++s)
        if (terminateds[(s - 1) * environments + b] || truncateds[(s - 1) * environments + b]) began = s;
      for (size_t i = 0; i < k; ++i) {
        const size_t row = began ? std::max(t + i, k - 1 + *began) : t + i;
        const auto frame = fragment.values<float>(frames).subspan((row * environments + b) * size, size);
        stacks.insert(stacks.end(), frame.begin(), frame.end());
      }
    }
  return stacks;
}

}  // namespace myriad::test
