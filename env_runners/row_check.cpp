#include "env_runners/row_check.hpp"

#include <limits>
#include <type_traits>

namespace myriad {
namespace {

/// The finite range of T; of double that of float32, which networks compute in.
template <class T>
using Finite = std::numeric_limits<std::conditional_t<std::is_same_v<T, double>, float, T>>;

/// `value` within T's finite range, rounded to T as Gymnasium stores bounds.
template <class T>
T finite_bound(double value) {
  if (value <= static_cast<double>(Finite<T>::lowest())) return Finite<T>::lowest();
  return value >= static_cast<double>(Finite<T>::max()) ? T{Finite<T>::max()} : static_cast<T>(value);
}

}  // namespace

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
    if (!any) ranges_.push_back({dtype, leaf.offset, leaf.count, first});
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
          add(leaf, box->dtype, low_f32_, high_f32_, low, high);
          break;
        case DType::f64:
          add(leaf, box->dtype, low_f64_, high_f64_, low, high);
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

template <class T>
bool RowCheck::range_holds(const Range& range, const T* low, const T* high, const std::byte* row) const {
  const T* values = reinterpret_cast<const T*>(row + range.offset);
  low += range.first, high += range.first;
  unsigned outside = 0;  // no branch, so that the loop is vectorised; NaN fails both comparisons
  for (size_t i = 0; i < range.count; ++i) outside |= !(values[i] >= low[i]) | !(values[i] <= high[i]);
  return outside == 0;
}

bool RowCheck::holds(const std::byte* row) const {
  for (const Range& range : ranges_) {
    bool inside = false;
    switch (range.dtype) {
      case DType::f32:
        inside = range_holds(range, low_f32_.data(), high_f32_.data(), row);
        break;
      case DType::f64:
        inside = range_holds(range, low_f64_.data(), high_f64_.data(), row);
        break;
      case DType::u8:
        inside = range_holds(range, low_u8_.data(), high_u8_.data(), row);
        break;
      case DType::i32:
        inside = range_holds(range, low_i32_.data(), high_i32_.data(), row);
        break;
      case DType::i64:
        inside = range_holds(range, low_i64_.data(), high_i64_.data(), row);
        break;
    }
    if (!inside) return false;
  }
  return true;
}

std::string_view observation_error_code(std::string_view violation) {
  for (const std::string_view value : {"= nan", "= -nan", "= inf", "= -inf"})
    if (violation.find(value) != std::string_view::npos) return "nan";
  return "obs-bounds";
}

}  // namespace myriad
