// RowCheck: whether a row of bytes lies in its space and is finite, and what to do with one that does not.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

#include "rl/space.hpp"

namespace myriad {

/// What becomes of an observation that has a finite number of a Box outside its bounds.
enum class OutOfBounds : uint8_t { error, warn, clip };
OutOfBounds out_of_bounds_of(std::string_view name);  ///< environment.out_of_bounds

/// Whether a row lies in its space: the fast form of Space::violation(), for every observation of every step.
class RowCheck {
 public:
  explicit RowCheck(const Space& space);
  bool holds(const std::byte* row) const;

  /// Of a row that does not hold: whether nothing is wrong but finite numbers of Boxes outside their bounds. They are
  /// put on their bounds with OutOfBounds::clip, and stay as they are with OutOfBounds::warn.
  bool tolerates(std::byte* row, OutOfBounds how) const;

 private:
  struct Range {
    DType dtype;
    size_t offset, count, first;  ///< bytes from the start of the row; elements; index of the first bound
    bool is_box;
  };
  template <class T, class Bound>
  static bool range_holds(const Range& range, const Bound* low, const Bound* high, const std::byte* row);
  template <class T, class Bound>
  static bool range_tolerates(const Range& range, const Bound* low, const Bound* high, std::byte* row, OutOfBounds how);
  template <class F>
  bool each_range(F&& f) const;

  std::vector<Range> ranges_;  ///< leaves whose type alone does not keep them in the space
  /// Of f32 and f64, whose values are compared as the float32 they become. Infinite bounds are the largest finite
  /// floats: NaN and inf fail too.
  std::vector<float> low_f32_, high_f32_;
  std::vector<uint8_t> low_u8_, high_u8_;
  std::vector<int32_t> low_i32_, high_i32_;
  std::vector<int64_t> low_i64_, high_i64_;
};

/// The code of an observation's violation: "nan" for a value that is not finite, else "obs-bounds".
std::string_view observation_error_code(std::string_view violation);

}  // namespace myriad
