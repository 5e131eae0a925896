#include "env_runners/row_check.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <type_traits>

namespace myriad {
namespace {

/// `value` within T's finite range, rounded to T as Gymnasium stores bounds.
template <class T>
T finite_bound(double value) {
  if (value <= static_cast<double>(std::numeric_limits<T>::lowest())) return std::numeric_limits<T>::lowest();
  return value >= static_cast<double>(std::numeric_limits<T>::max()) ? std::numeric_limits<T>::max()
                                                                     : static_cast<T>(value);
}

}  // namespace

OutOfBounds out_of_bounds_of(std::string_view name) {
  return name == "clip" ? OutOfBounds::clip : name == "warn" ? OutOfBounds::warn : OutOfBounds::error;
}

RowCheck::RowCheck(const Space& space) {
  const auto add = [this](const Leaf& leaf, DType dtype, auto& low, auto& high, auto low_at, auto high_at) {
    using T = typename std::remove_reference_t<decltype(low)>::value_type;
    const size_t first = low.size();
    bool any = std::is_integral_v<T>;  // every value of the type is inside
    for (size_t i = 0; i < leaf.count; ++i) {
      low.push_back(finite_bound<T>(low_at(i)));
      high.push_back(finite_bound<T>(high_at(i)));
      any = any && low.back() == std::numeric_limits<T>::lowest() && high.back() == std::numeric_limits<T>::max();
    }
    if (!any) ranges_.push_back({dtype, leaf.offset, leaf.count, first, leaf.space->get_if<Box>() != nullptr});
  };
  for (const Leaf& leaf : space.leaves()) {
    const auto integers = [&](auto start, auto n) {
      add(
          leaf, DType::i32, low_i32_, high_i32_, [=](size_t i) { return double(start(i)); },
          [=](size_t i) { return double(start(i)) + n(i) - 1; });
    };
    const auto zero = [](size_t) { return 0; };
    if (const auto* box = leaf.space->get_if<Box>()) {
      const auto low = [box](size_t i) { return bound_at(box->low, i); };
      const auto high = [box](size_t i) { return bound_at(box->high, i); };
      switch (box->dtype) {
        case DType::f32:
        case DType::f64:
          add(leaf, box->dtype, low_f32_, high_f32_, low, high);
          break;
        case DType::u8:
          add(leaf, box->dtype, low_u8_, high_u8_, low, high);
          break;
        case DType::i32:
          add(leaf, box->dtype, low_i32_, high_i32_, low, high);
          break;
        case DType::i64:
          add(leaf, box->dtype, low_i64_, high_i64_, low, high);
          break;
      }
    } else if (const auto* one = leaf.space->get_if<Discrete>()) {
      integers([one](size_t) { return one->start; }, [one](size_t) { return one->n; });
    } else if (const auto* multi = leaf.space->get_if<MultiDiscrete>()) {
      integers([multi](size_t i) { return multi->start_at(i); }, [multi](size_t i) { return multi->nvec[i]; });
    } else {
      integers(zero, [](size_t) { return 2; });  // MultiBinary
    }
  }
}

template <class T, class Bound>
bool RowCheck::range_holds(const Range& range, const Bound* low, const Bound* high, const std::byte* row) {
  const T* values = reinterpret_cast<const T*>(row + range.offset);
  low += range.first, high += range.first;
  unsigned outside = 0;  // no branch, so that the loop is vectorised; NaN fails both comparisons
  for (size_t i = 0; i < range.count; ++i) {
    const Bound value = static_cast<Bound>(values[i]);
    outside |= !(value >= low[i]) | !(value <= high[i]);
  }
  return outside == 0;
}

template <class T, class Bound>
bool RowCheck::range_tolerates(const Range& range, const Bound* low, const Bound* high, std::byte* row,
                               OutOfBounds how) {
  if (range_holds<T>(range, low, high, row)) return true;
  if (!range.is_box) return false;
  T* values = reinterpret_cast<T*>(row + range.offset);
  low += range.first, high += range.first;
  for (size_t i = 0; i < range.count; ++i) {
    if constexpr (std::is_floating_point_v<T>)
      if (!std::isfinite(static_cast<Bound>(values[i]))) return false;
    if (how == OutOfBounds::clip) values[i] = std::clamp<T>(values[i], low[i], high[i]);
  }
  return true;
}

/// Whether f(range, an element, low, high) is true of all ranges.
template <class F>
bool RowCheck::each_range(F&& f) const {
  for (const Range& range : ranges_) {
    bool holds = false;
    switch (range.dtype) {
      case DType::f32:
        holds = f(range, float{}, low_f32_.data(), high_f32_.data());
        break;
      case DType::f64:
        holds = f(range, double{}, low_f32_.data(), high_f32_.data());
        break;
      case DType::u8:
        holds = f(range, uint8_t{}, low_u8_.data(), high_u8_.data());
        break;
      case DType::i32:
        holds = f(range, int32_t{}, low_i32_.data(), high_i32_.data());
        break;
      case DType::i64:
        holds = f(range, int64_t{}, low_i64_.data(), high_i64_.data());
        break;
    }
    if (!holds) return false;
  }
  return true;
}

bool RowCheck::holds(const std::byte* row) const {
  return each_range([row](const Range& range, auto element, auto low, auto high) {
    return range_holds<decltype(element)>(range, low, high, row);
  });
}

bool RowCheck::tolerates(std::byte* row, OutOfBounds how) const {
  return how != OutOfBounds::error && each_range([=](const Range& range, auto element, auto low, auto high) {
           return range_tolerates<decltype(element)>(range, low, high, row, how);
         });
}

std::string_view observation_error_code(std::string_view violation) {
  for (const std::string_view value : {"= nan", "= -nan", "= inf", "= -inf"})
    if (violation.find(value) != std::string_view::npos) return "nan";
  return "obs-bounds";
}

}  // namespace myriad
