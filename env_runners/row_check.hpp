// RowCheck: whether a row of bytes lies in its space and is finite.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "rl/space.hpp"

namespace myriad {

/// Whether a row lies in its space: the fast form of Space::violation(), for every observation of every step.
class RowCheck {
 public:
  explicit RowCheck(const Space& space);
  bool holds(const std::byte* row) const;

 private:
  struct Range {
    DType dtype;
    size_t offset, count, first;  ///< bytes from the start of the row; elements; index of the first bound
  };
  template <class T>
  bool range_holds(const Range& range, const T* low, const T* high, const std::byte* row) const;

  std::vector<Range> ranges_;  ///< leaves whose type alone does not keep them in the space
  std::vector<float> low_f32_,
      high_f32_;  ///< infinite bounds are the largest finite floats: NaN, inf and what is beyond fail
  std::vector<double> low_f64_, high_f64_;
  std::vector<uint8_t> low_u8_, high_u8_;
  std::vector<int32_t> low_i32_, high_i32_;
  std::vector<int64_t> low_i64_, high_i64_;
};

/// The code of an observation's violation: "nan" for a value that is not finite, else "obs-bounds".
std::string_view observation_error_code(std::string_view violation);

}  // namespace myriad
