#include "rl/fragment.hpp"

#include <cmath>
#include <cstring>
#include <new>
#include <numeric>

#include "rl/check.hpp"
#include "rl/connector.hpp"
#include "rl/hash.hpp"

namespace myriad {
namespace {
constexpr size_t kAlignment = 64;
size_t aligned(size_t n) { return (n + kAlignment - 1) / kAlignment * kAlignment; }

template <class T>
bool all_finite(const std::byte* bytes, size_t count) {
  T sum = 0;  // 0 * x is NaN exactly where x is not finite, so the loop needs no branch
  for (size_t i = 0; i < count; ++i) {
    T value;  // copied: what a socket received is not aligned
    std::memcpy(&value, bytes + i * sizeof(T), sizeof(T));
    sum += value * T{0};
  }
  return sum == T{0};
}
}  // namespace

FragmentLayout::FragmentLayout(int steps, int environments, int frame_stack)
    : steps_(steps), environments_(environments), frame_stack_(frame_stack) {
  check(frame_stack >= 1, "an observation of {} frames, want at least 1", frame_stack);
}

FragmentLayout& FragmentLayout::add(std::string name, Rows rows, DType dtype, std::vector<int> shape) {
  check(columns_.empty() || columns_.back().rows != Rows::final_step, "column {} comes after final_obs", name);
  const size_t count = std::accumulate(shape.begin(), shape.end(), size_t{1}, std::multiplies<>());
  columns_.push_back(
      {std::move(name), rows, dtype, std::move(shape), count * size_of(dtype), aligned(capacity_bytes_)});
  const Column& column = columns_.back();
  capacity_bytes_ = column.offset + this->rows(column) * column.row_bytes;
  return *this;
}

const Column* FragmentLayout::find(std::string_view name) const {
  for (const Column& column : columns_)
    if (column.name == name) return &column;
  return nullptr;
}

std::vector<const Column*> FragmentLayout::observation_columns() const {
  std::vector<const Column*> found;
  for (const Column& column : columns_)
    if (column.holds_observations()) found.push_back(&column);
  return found;
}

const Column& FragmentLayout::column(std::string_view name) const {
  const Column* column = find(name);
  check(column != nullptr, "a fragment of this run has no column {}", name);
  return *column;
}

size_t FragmentLayout::rows(const Column& column) const {
  const size_t t = static_cast<size_t>(steps_), b = static_cast<size_t>(environments_);
  switch (column.rows) {
    case Rows::step:
      return t * b;
    case Rows::step_and_bootstrap:
      return (t + 1) * b;
    case Rows::frame:
      return (t + static_cast<size_t>(frame_stack_)) * b;
    case Rows::environment:
      return b;
    case Rows::final_step:
      return t * b;  // the worst case: a time limit of one step; only the used rows are touched
  }
  return 0;
}

size_t FragmentLayout::used_bytes(size_t final_rows) const {
  if (columns_.empty() || columns_.back().rows != Rows::final_step) return capacity_bytes_;
  return columns_.back().offset + final_rows * columns_.back().row_bytes;
}

uint64_t FragmentLayout::hash() const {
  std::string text = fmt::format("{}x{}", steps_, environments_);
  if (frame_stack_ > 1) text += fmt::format("x{}", frame_stack_);
  for (const Column& c : columns_)
    text += fmt::format(";{}:{}:{}:{}", c.name, static_cast<int>(c.rows), static_cast<int>(c.dtype),
                        fmt::join(c.shape, ","));
  return fnv1a(text);
}

Fragment::Fragment(std::shared_ptr<const FragmentLayout> layout)
    : layout_(std::move(layout)),
      buffer_(static_cast<std::byte*>(::operator new (layout_->capacity_bytes(), std::align_val_t{kAlignment}))) {
  // The tail (final_obs) is left untouched on purpose: its worst case is large and its pages are seldom needed.
  std::memset(buffer_.get(), 0, layout_->used_bytes(0));
}

void Fragment::Free::operator()(std::byte* p) const { ::operator delete (p, std::align_val_t{kAlignment}); }

std::string fragment_violation(const FragmentLayout& layout, std::span<const std::byte> buffer, size_t final_rows,
                               const Space& action_space) {
  if (final_rows > static_cast<size_t>(layout.steps()) * static_cast<size_t>(layout.environments()))
    return fmt::format("final_rows {} is more than T x B", final_rows);
  if (buffer.size() != layout.used_bytes(final_rows))
    return fmt::format("buffer has {} bytes, want {}", buffer.size(), layout.used_bytes(final_rows));
  const std::byte* terminated = nullptr;
  const std::byte* truncated = nullptr;
  for (const Column& column : layout.columns()) {
    const std::byte* data = buffer.data() + column.offset;
    const size_t rows = column.rows == Rows::final_step ? final_rows : layout.rows(column);
    const size_t count = rows * column.row_bytes / size_of(column.dtype);
    const bool finite = column.dtype == DType::f32   ? all_finite<float>(data, count)
                        : column.dtype == DType::f64 ? all_finite<double>(data, count)
                                                     : true;
    if (!finite) return fmt::format("column {} has a value that is not finite", column.name);
    if (column.name == "terminateds") terminated = data;
    if (column.name == "truncateds") truncated = data;
    // Integers index the module's outputs; a Gaussian's action is clipped on its way to the environment, not before.
    if (column.name == "actions" && (column.dtype == DType::i32 || !action_space.is_leaf()))
      for (size_t i = 0; i < rows; ++i) {
        std::string fact = stored_action_violation(action_space, {data + i * column.row_bytes, column.row_bytes});
        if (!fact.empty()) return fact;
      }
  }
  if (terminated == nullptr || truncated == nullptr) return "";
  size_t expected = 0;
  for (size_t i = 0; i < static_cast<size_t>(layout.steps()) * static_cast<size_t>(layout.environments()); ++i) {
    const int over = std::to_integer<int>(terminated[i]), cut = std::to_integer<int>(truncated[i]);
    if (over > 1 || cut > 1) return fmt::format("flag {} is {} / {}, want 0 or 1", i, over, cut);
    expected += cut == 1 && over == 0 ? 1 : 0;
  }
  if (expected != final_rows)
    return fmt::format("final_rows {}, but {} steps were cut by the time limit", final_rows, expected);
  return "";
}

}  // namespace myriad
