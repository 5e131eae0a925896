#include "rl/space.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <numeric>
#include <type_traits>

#include "rl/check.hpp"
#include "rl/overloaded.hpp"

namespace myriad {
namespace {

/// Calls `f` with a value of the C++ type of `dtype`.
template <class F>
decltype(auto) with_type(DType dtype, F&& f) {
  switch (dtype) {
    case DType::f32:
      return f(float{});
    case DType::f64:
      return f(double{});
    case DType::u8:
      return f(uint8_t{});
    case DType::i32:
      return f(int32_t{});
    case DType::i64:
      return f(int64_t{});
  }
  fail(Exit::internal, "internal", "dtype {} is not one of 0..4", static_cast<int>(dtype));
}

/// `value` in T, held within T's range: infinite or huge bounds of integer Boxes mean "any".
template <class T>
T bound_as(double value) {
  if constexpr (std::is_floating_point_v<T>) {
    return static_cast<T>(value);
  } else {
    if (value <= static_cast<double>(std::numeric_limits<T>::min())) return std::numeric_limits<T>::min();
    if (value >= static_cast<double>(std::numeric_limits<T>::max())) return std::numeric_limits<T>::max();
    return static_cast<T>(value);
  }
}

template <class T>
T load(std::span<const std::byte> row, size_t offset, size_t i) {
  T value;
  std::memcpy(&value, row.data() + offset + i * sizeof(T), sizeof(T));
  return value;
}

template <class T>
void store(std::span<std::byte> row, size_t offset, size_t i, T value) {
  std::memcpy(row.data() + offset + i * sizeof(T), &value, sizeof(T));
}

/// A leaf kind's shape and type; the checks that its numbers make sense.
void describe(const Space::Kind& kind, Leaf& leaf) {
  std::visit(Overloaded{[&](const Box& box) { leaf.shape = box.shape, leaf.dtype = box.dtype; },
                        [&](const Discrete& discrete) {
                          check(discrete.n >= 1, "Discrete has n = {}, want at least 1", discrete.n);
                          leaf.shape = {1}, leaf.dtype = DType::i32;
                        },
                        [&](const MultiDiscrete& multi) {
                          for (int n : multi.nvec) check(n >= 1, "MultiDiscrete has n = {}, want at least 1", n);
                          check(multi.start.empty() || multi.start.size() == multi.nvec.size(),
                                "MultiDiscrete has {} starts, want {}", multi.start.size(), multi.nvec.size());
                          leaf.shape = {static_cast<int>(multi.nvec.size())}, leaf.dtype = DType::i32;
                        },
                        [&](const MultiBinary& binary) { leaf.shape = {binary.n}, leaf.dtype = DType::i32; },
                        [](const auto&) {}},
             kind);
  for (int size : leaf.shape) check(size >= 1, "a space has a dimension of {}, want at least 1", size);
  leaf.count = std::accumulate(leaf.shape.begin(), leaf.shape.end(), size_t{1}, std::multiplies<>());
  if (const Box* box = std::get_if<Box>(&kind)) {
    for (const auto* bounds : {&box->low, &box->high})
      check(bounds->size() == 1 || bounds->size() == leaf.count, "Box has {} bounds, want 1 or {}", bounds->size(),
            leaf.count);
    for (size_t i = 0; i < std::max(box->low.size(), box->high.size()); ++i)
      check(bound_at(box->low, i) <= bound_at(box->high, i), "Box has bounds [{}, {}] at element {}, want low <= high",
            bound_at(box->low, i), bound_at(box->high, i), i);
  }
}

int64_t flat_size_of(const Space::Kind& kind, size_t count) {
  if (const Discrete* discrete = std::get_if<Discrete>(&kind)) return discrete->n;
  if (const MultiDiscrete* multi = std::get_if<MultiDiscrete>(&kind))
    return std::accumulate(multi->nvec.begin(), multi->nvec.end(), int64_t{0});
  return static_cast<int64_t>(count);
}

/// What stands for "no bound" of real numbers becomes infinite.
Space::Kind with_open_bounds(Space::Kind kind) {
  Box* box = std::get_if<Box>(&kind);
  if (box == nullptr || (box->dtype != DType::f32 && box->dtype != DType::f64)) return kind;
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  for (double& low : box->low)
    if (low <= -kUnbounded) low = -kInfinity;
  for (double& high : box->high)
    if (high >= kUnbounded) high = kInfinity;
  return kind;
}

/// The first violation in one leaf, after the row's name: "[3] = nan".
template <class T>
std::string box_violation(const Box& box, const Leaf& leaf, std::span<const std::byte> row) {
  for (size_t i = 0; i < leaf.count; ++i) {
    const T value = load<T>(row, leaf.offset, i);
    // A bound like -1.2 is compared as Gymnasium stores it: rounded to the element's type. A float64 is compared as
    // the float32 that a policy sees, so that arithmetic in float64 may miss a bound by a hair.
    using Compared = std::conditional_t<std::is_floating_point_v<T>, float, T>;
    const T low = bound_as<T>(bound_at(box.low, i)), high = bound_as<T>(bound_at(box.high, i));
    if constexpr (std::is_floating_point_v<T>)
      if (!std::isfinite(value)) return fmt::format("[{}] = {}", i, value);
    if constexpr (std::is_same_v<T, double>)
      if (std::abs(value) > static_cast<double>(std::numeric_limits<float>::max()))
        return fmt::format("[{}] = {} is beyond float32, which a network computes in", i, value);
    if (!(static_cast<Compared>(value) >= static_cast<Compared>(low) &&
          static_cast<Compared>(value) <= static_cast<Compared>(high)))
      return fmt::format("[{}] = {} outside [{}, {}]", i, value, low, high);
  }
  return "";
}

/// Of Discrete kinds element i lies in [start(i), start(i) + n(i)): calls f(start, n).
template <class F>
void with_integers(const Space::Kind& kind, F&& f) {
  if (const Discrete* one = std::get_if<Discrete>(&kind))
    f([one](size_t) { return one->start; }, [one](size_t) { return one->n; });
  else if (const MultiDiscrete* multi = std::get_if<MultiDiscrete>(&kind))
    f([multi](size_t i) { return multi->start_at(i); }, [multi](size_t i) { return multi->nvec[i]; });
  else
    f([](size_t) { return 0; }, [](size_t) { return 2; });  // MultiBinary
}

std::string integer_violation(const Leaf& leaf, std::span<const std::byte> row) {
  std::string found;
  with_integers(leaf.space->kind(), [&](auto start, auto n) {
    for (size_t i = 0; i < leaf.count && found.empty(); ++i) {
      const int64_t value = load<int32_t>(row, leaf.offset, i), end = int64_t{start(i)} + n(i);
      if (value < start(i) || value >= end) found = fmt::format("[{}] = {} outside [{}, {})", i, value, start(i), end);
    }
  });
  return found;
}

std::string leaf_violation(const Leaf& leaf, std::span<const std::byte> row) {
  const Box* box = leaf.space->get_if<Box>();
  if (box == nullptr) return integer_violation(leaf, row);
  return with_type(leaf.dtype, [&](auto zero) { return box_violation<decltype(zero)>(*box, leaf, row); });
}

/// Gymnasium's Box.sample: uniform between two bounds, exponential from one, standard normal without any.
template <class T>
T sample_box(double low, double high, RandomStream& random) {
  const bool below = std::isfinite(low), above = std::isfinite(high);
  double value;
  if (below && above)
    value =
        std::is_integral_v<T> ? std::floor(random.uniform(low, high + 1.0)) : std::lerp(low, high, random.uniform());
  else if (below)
    value = low - std::log(1.0 - random.uniform());
  else if (above)
    value = high + std::log(1.0 - random.uniform());
  else
    value = random.normal();
  return std::clamp(bound_as<T>(std::is_integral_v<T> ? std::floor(value) : value), bound_as<T>(low),
                    bound_as<T>(high));
}

void sample_leaf(const Leaf& leaf, RandomStream& random, std::span<std::byte> row) {
  const Box* box = leaf.space->get_if<Box>();
  if (box == nullptr)
    return with_integers(leaf.space->kind(), [&](auto start, auto n) {
      for (size_t i = 0; i < leaf.count; ++i)
        store(row, leaf.offset, i, static_cast<int32_t>(start(i) + static_cast<int64_t>(random.below(n(i)))));
    });
  with_type(leaf.dtype, [&](auto zero) {
    for (size_t i = 0; i < leaf.count; ++i)
      store(row, leaf.offset, i, sample_box<decltype(zero)>(bound_at(box->low, i), bound_at(box->high, i), random));
  });
}

/// Numbers as numpy prints them: "[2 3]", "[[5 5] [3 3]]".
std::string nested(std::span<const int> numbers, std::span<const int> shape) {
  if (shape.size() < 2) return fmt::format("[{}]", fmt::join(numbers, " "));
  std::vector<std::string> rows;
  const size_t size = numbers.size() / static_cast<size_t>(shape[0]);
  for (size_t i = 0; i < numbers.size(); i += size) rows.push_back(nested(numbers.subspan(i, size), shape.subspan(1)));
  return fmt::format("[{}]", fmt::join(rows, " "));
}

/// One bound for all elements as a number, else as a list, in the element's type: "-1.0" or "[-4.8 -inf]".
std::string bounds_to_string(const std::vector<double>& bounds, DType dtype) {
  const auto number = [&](double value) {
    if (dtype == DType::f32) return fmt::format("{:#}", static_cast<float>(value));
    return dtype == DType::f64 ? fmt::format("{:#}", value) : fmt::format("{:.0f}", value);
  };
  if (std::all_of(bounds.begin(), bounds.end(), [&](double value) { return value == bounds[0]; }))
    return number(bounds[0]);
  std::vector<std::string> numbers;
  for (double value : bounds) numbers.push_back(number(value));
  return fmt::format("[{}]", fmt::join(numbers, " "));
}

}  // namespace

size_t size_of(DType dtype) {
  return with_type(dtype, [](auto zero) { return sizeof(zero); });
}

std::string_view name_of(DType dtype) {
  constexpr std::string_view kNames[] = {"float32", "float64", "uint8", "int32", "int64"};
  return kNames[static_cast<size_t>(dtype)];
}

Space::Space(Kind given) {
  Kind kind = with_open_bounds(std::move(given));
  // A leaf's own Space must outlive copies and moves of this object, so it lives beside the shared kind.
  struct Shared {
    Kind kind;
    Space self;
  };
  auto shared = std::make_shared<Shared>(Shared{std::move(kind), Space()});
  shared->self.kind_ = std::shared_ptr<const Kind>(std::shared_ptr<void>(), &shared->kind);  // no owner: no cycle
  shared->self.lay_out(&shared->self);
  kind_ = std::shared_ptr<const Kind>(shared, &shared->kind);
  lay_out(&shared->self);
}

void Space::lay_out(const Space* self) {
  const auto add_children = [&](const Space& child, const std::string& name) {
    for (const Leaf& leaf : child.leaves()) {
      leaves_.push_back(leaf);
      leaves_.back().path = leaf.path.empty() ? name : name + "/" + leaf.path;
    }
  };
  if (const Dict* dict = get_if<Dict>()) {
    for (const auto& [name, child] : dict->spaces) add_children(child, name);
  } else if (const Tuple* tuple = get_if<Tuple>()) {
    for (size_t i = 0; i < tuple->spaces.size(); ++i) add_children(tuple->spaces[i], std::to_string(i));
  } else {
    Leaf leaf{.path = "", .space = self, .dtype = DType::f32, .shape = {}, .count = 0, .offset = 0};
    describe(*kind_, leaf);
    leaves_.push_back(std::move(leaf));
  }
  size_t alignment = 1;
  int64_t features = 0;
  const auto align = [](size_t bytes, size_t to) { return (bytes + to - 1) / to * to; };
  for (Leaf& leaf : leaves_) {
    leaf.offset = align(row_bytes_, size_of(leaf.dtype));
    row_bytes_ = leaf.offset + leaf.count * size_of(leaf.dtype);
    alignment = std::max(alignment, size_of(leaf.dtype));
    features += flat_size_of(leaf.space->kind(), leaf.count);
  }
  if (features > kMaxFeatures)
    fail(Exit::usage, "unsupported-space",
         "{} has {} features (a Discrete has one for each of its values), at most {}; make it numbers of a Box",
         leaves_.size() == 1 ? leaves_[0].space->to_string() : fmt::format("a space of {} parts", leaves_.size()),
         features, kMaxFeatures);
  flat_size_ = static_cast<int>(features);
  row_bytes_ = align(row_bytes_, alignment);
}

std::string problem_of(const Box& box) {
  constexpr int64_t kMaxElements = 1 << 26;
  int64_t elements = 1;
  if (box.shape.size() > 8) return "has more than 8 dimensions";
  for (const int size : box.shape) {
    if (size <= 0 || size > kMaxElements) return fmt::format("has a size of {}, want 1 to {}", size, kMaxElements);
    if ((elements *= size) > kMaxElements) return fmt::format("has elements: {}, want 1 to {}", elements, kMaxElements);
  }
  for (const auto* bounds : {&box.low, &box.high})
    if (bounds->size() != 1 && std::ssize(*bounds) != elements) return "wants one bound, or one of each element";
  for (size_t i = 0; i < std::max(box.low.size(), box.high.size()); ++i)
    if (!(bound_at(box.low, i) <= bound_at(box.high, i))) return "has a low above its high, or no number";
  return "";
}

Space Space::box(double low, double high, std::vector<int> shape, DType dtype) {
  return Space(Box{.low = {low}, .high = {high}, .shape = std::move(shape), .dtype = dtype});
}

std::string Space::violation(std::span<const std::byte> row, std::string_view name) const {
  if (row.size() != row_bytes_) return fmt::format("{} has {} bytes, want {}", name, row.size(), row_bytes_);
  for (const Leaf& leaf : leaves_) {
    const std::string found = leaf_violation(leaf, row);
    if (!found.empty()) return fmt::format("{}{}{}{}", name, leaf.path.empty() ? "" : ".", leaf.path, found);
  }
  return "";
}

void Space::sample(RandomStream& random, std::span<std::byte> row) const {
  check(row.size() == row_bytes_, "the row to sample into has {} bytes, want {}", row.size(), row_bytes_);
  for (const Leaf& leaf : leaves_) sample_leaf(leaf, random, row);
}

std::string Space::to_string() const {
  const auto each = [](const auto& items, auto text) {
    std::vector<std::string> texts;
    for (const auto& item : items) texts.push_back(text(item));
    return fmt::format("{}", fmt::join(texts, ", "));
  };
  return std::visit(
      Overloaded{[](const Box& box) {
                   return fmt::format("Box({}, {}, ({}{}), {})", bounds_to_string(box.low, box.dtype),
                                      bounds_to_string(box.high, box.dtype), fmt::join(box.shape, ", "),
                                      box.shape.size() == 1 ? "," : "", name_of(box.dtype));
                 },
                 [](const Discrete& one) {
                   return one.start == 0 ? fmt::format("Discrete({})", one.n)
                                         : fmt::format("Discrete({}, start={})", one.n, one.start);
                 },
                 [](const MultiDiscrete& multi) {
                   return fmt::format("MultiDiscrete({}{})", nested(multi.nvec, multi.shape),
                                      multi.start.empty() ? "" : ", start=" + nested(multi.start, multi.shape));
                 },
                 [](const MultiBinary& binary) {
                   return binary.shape.empty() ? fmt::format("MultiBinary({})", binary.n)
                                               : fmt::format("MultiBinary(({}))", fmt::join(binary.shape, ", "));
                 },
                 [&](const Dict& dict) {
                   return fmt::format("Dict({})", each(dict.spaces, [](const auto& item) {
                                        return fmt::format("'{}': {}", item.first, item.second.to_string());
                                      }));
                 },
                 [&](const Tuple& tuple) {
                   return fmt::format("Tuple({})", each(tuple.spaces, [](const Space& s) { return s.to_string(); }));
                 }},
      *kind_);
}

}  // namespace myriad
