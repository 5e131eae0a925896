#include "rl/connector.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "rl/check.hpp"

namespace myriad {
namespace {

constexpr double kMinimumStd = 1e-4;  // a feature that never moves is not blown up

template <class T>
T load(const std::byte* bytes, size_t i) {
  T value;
  std::memcpy(&value, bytes + i * sizeof(T), sizeof(T));
  return value;
}

template <class T>
void copy_as_float(const std::byte* from, size_t count, float* to) {
  for (size_t i = 0; i < count; ++i) to[i] = static_cast<float>(load<T>(from, i));
}

void copy_as_float(DType dtype, const std::byte* from, size_t count, float* to) {
  switch (dtype) {
    case DType::f32:
      std::memcpy(to, from, count * sizeof(float));
      return;
    case DType::f64:
      copy_as_float<double>(from, count, to);
      return;
    case DType::u8:
      copy_as_float<uint8_t>(from, count, to);
      return;
    case DType::i32:
      copy_as_float<int32_t>(from, count, to);
      return;
    case DType::i64:
      copy_as_float<int64_t>(from, count, to);
      return;
  }
}

/// Sets element `index` of a run of `n` zeros to one; an index outside leaves it zero.
void one_hot(int64_t index, int n, float* to) {
  std::fill_n(to, n, 0.0f);
  if (index >= 0 && index < n) to[index] = 1.0f;
}

/// The leaf's features; returns how many were written.
size_t flatten_leaf(const Leaf& leaf, const std::byte* bytes, float* features) {
  if (const Discrete* discrete = leaf.space->get_if<Discrete>()) {
    one_hot(int64_t{load<int32_t>(bytes, 0)} - discrete->start, discrete->n, features);
    return static_cast<size_t>(discrete->n);
  }
  if (const MultiDiscrete* multi = leaf.space->get_if<MultiDiscrete>()) {
    size_t offset = 0;
    for (size_t i = 0; i < leaf.count; ++i) {
      one_hot(int64_t{load<int32_t>(bytes, i)} - multi->start_at(i), multi->nvec[i], features + offset);
      offset += static_cast<size_t>(multi->nvec[i]);
    }
    return offset;
  }
  copy_as_float(leaf.dtype, bytes, leaf.count, features);
  return leaf.count;
}

bool is_real(const Leaf& leaf) { return leaf.dtype == DType::f32 || leaf.dtype == DType::f64; }

int start_of(const Space& leaf) {
  const Discrete* discrete = leaf.get_if<Discrete>();
  return discrete ? discrete->start : 0;
}

/// Of element i of a Discrete, MultiDiscrete or MultiBinary.
int choices_at(const Space& leaf, size_t i) {
  if (const Discrete* discrete = leaf.get_if<Discrete>()) return discrete->n;
  const MultiDiscrete* multi = leaf.get_if<MultiDiscrete>();
  return multi ? multi->nvec[i] : 2;
}

template <class T>
void put(std::span<std::byte> row, const Leaf& leaf, size_t i, T value) {
  std::memcpy(row.data() + leaf.offset + i * sizeof value, &value, sizeof value);
}

}  // namespace

// ---- ObservationFlattener ----

bool ObservationFlattener::is_identity() const {
  const Box* box = space_.get_if<Box>();
  return box != nullptr && box->dtype == DType::f32;
}

void ObservationFlattener::operator()(std::span<const std::byte> row, std::span<float> features) const {
  check(row.size() == space_.row_bytes(), "an observation has {} bytes, want {}", row.size(), space_.row_bytes());
  check(features.size() == static_cast<size_t>(space_.flat_size()), "features have {} elements, want {}",
        features.size(), space_.flat_size());
  float* to = features.data();
  for (const Leaf& leaf : space_.leaves()) to += flatten_leaf(leaf, row.data() + leaf.offset, to);
}

// ---- MeanStdFilter ----

MeanStdFilter::MeanStdFilter(int size, double clip, int plain_offset, int plain_size)
    : clip_(clip),
      plain_begin_(static_cast<size_t>(plain_offset)),
      plain_end_(static_cast<size_t>(plain_offset + plain_size)),
      mean_(static_cast<size_t>(size)),
      m2_(static_cast<size_t>(size)),
      shift_(static_cast<size_t>(size)),
      scale_(static_cast<size_t>(size), 1.0f) {
  check(size >= 1, "a filter has {} features, want at least 1", size);
  check(clip > 0, "a filter clips at {}, want more than 0", clip);
  check(plain_offset >= 0 && plain_size >= 0 && plain_offset + plain_size <= size,
        "a filter of {} features leaves {} from {} on alone", size, plain_size, plain_offset);
}

void MeanStdFilter::update(std::span<const float> rows) {
  const size_t n = mean_.size();
  check(rows.size() % n == 0, "rows have {} elements, want a multiple of {}", rows.size(), n);
  if (rows.empty()) return;
  // The rows' own mean and sum of squares first (two passes: no cancellation), then one merge.
  MeanStdFilter batch(static_cast<int>(n), clip_);
  batch.count_ = static_cast<double>(rows.size() / n);
  for (size_t i = 0; i < rows.size(); i += n)
    for (size_t j = 0; j < n; ++j) batch.mean_[j] += static_cast<double>(rows[i + j]);
  for (double& mean : batch.mean_) mean /= batch.count_;
  for (size_t i = 0; i < rows.size(); i += n)
    for (size_t j = 0; j < n; ++j) {
      const double d = static_cast<double>(rows[i + j]) - batch.mean_[j];
      batch.m2_[j] += d * d;
    }
  merge(batch);
}

// Chan, Golub and LeVeque (1979), "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances".
void MeanStdFilter::merge(const MeanStdFilter& other) {
  check(other.size() == size(), "a filter of {} features is merged into one of {}", other.size(), size());
  if (other.count_ == 0) return;
  const double total = count_ + other.count_;
  for (size_t j = 0; j < mean_.size(); ++j) {
    const double delta = other.mean_[j] - mean_[j];
    mean_[j] += delta * (other.count_ / total);
    m2_[j] += other.m2_[j] + delta * delta * (count_ * other.count_ / total);
  }
  count_ = total;
  refresh();
}

void MeanStdFilter::apply(std::span<const float> rows, std::span<float> out) const {
  const size_t n = mean_.size();
  check(rows.size() % n == 0 && out.size() == rows.size(), "rows have {} elements and out {}, want one multiple of {}",
        rows.size(), out.size(), n);
  if (!active()) {
    std::copy(rows.begin(), rows.end(), out.begin());
    return;
  }
  const float clip = static_cast<float>(clip_);
  for (size_t i = 0; i < rows.size(); i += n)
    for (size_t j = 0; j < n; ++j) out[i + j] = std::clamp((rows[i + j] - shift_[j]) * scale_[j], -clip, clip);
}

std::vector<double> MeanStdFilter::state() const {
  std::vector<double> state{count_};
  state.insert(state.end(), mean_.begin(), mean_.end());
  state.insert(state.end(), m2_.begin(), m2_.end());
  return state;
}

void MeanStdFilter::set_state(std::span<const double> state) {
  const size_t n = mean_.size();
  check(state.size() == 1 + 2 * n, "a filter's state has {} values, want {}", state.size(), 1 + 2 * n);
  count_ = state[0];
  std::copy_n(state.begin() + 1, n, mean_.begin());
  std::copy_n(state.begin() + 1 + static_cast<std::ptrdiff_t>(n), n, m2_.begin());
  refresh();
}

void MeanStdFilter::refresh() {
  for (size_t j = 0; j < mean_.size(); ++j) {
    const double std = count_ < 2 ? 1.0 : std::sqrt(m2_[j] / (count_ - 1));
    shift_[j] = static_cast<float>(mean_[j]);
    scale_[j] = static_cast<float>(1.0 / std::max(std, kMinimumStd));
  }
  std::fill(shift_.begin() + plain_begin_, shift_.begin() + plain_end_, 0.0f);
  std::fill(scale_.begin() + plain_begin_, scale_.begin() + plain_end_, 1.0f);
}

// ---- ActionConnector ----

StoredAction stored_action(const Space& space) {
  if (space.is_leaf()) return {space.leaves()[0].dtype, space.leaves()[0].shape, space.row_bytes()};
  size_t elements = 0;
  for (const Leaf& leaf : space.leaves()) elements += leaf.count;
  return {DType::f32, {static_cast<int>(elements)}, elements * sizeof(float)};
}

std::string stored_action_violation(const Space& space, std::span<const std::byte> action) {
  if (space.is_leaf()) return is_real(space.leaves()[0]) ? "" : space.violation(action, "action");
  if (const size_t want = stored_action(space).bytes; action.size() != want)
    return fmt::format("action has {} bytes, want {}", action.size(), want);
  size_t element = 0;
  for (const Leaf& leaf : space.leaves())
    for (size_t i = 0; i < leaf.count; ++i, ++element) {
      if (is_real(leaf)) continue;
      const float choice = load<float>(action.data(), element);
      const int n = choices_at(*leaf.space, i);
      if (!(choice >= 0 && choice < static_cast<float>(n) && choice == std::trunc(choice)))
        return fmt::format("action.{}[{}] = {} outside [0, {})", leaf.path, i, choice, n);
    }
  return "";
}

ActionConnector::ActionConnector(const Space& space, bool normalize, bool clip)
    : space_(space), stored_bytes_(stored_action(space).bytes), identity_(space.is_leaf()) {
  if (identity_ && (space_.get_if<Box>() == nullptr || (!normalize && !clip))) return;
  identity_ = false;
  const float infinity = std::numeric_limits<float>::infinity();
  for (const Leaf& leaf : space_.leaves()) {
    const Box* box = leaf.space->get_if<Box>();
    check(box == nullptr || is_real(leaf), "a Box action has elements of {}, want float32 or float64",
          name_of(leaf.dtype));
    for (size_t i = 0; i < leaf.count; ++i) {
      const double low = box ? bound_at(box->low, i) : -INFINITY, high = box ? bound_at(box->high, i) : INFINITY;
      const bool bounded = std::isfinite(low) && std::isfinite(high);  // an open side has no [-1, 1] to map
      scale_.push_back(normalize && bounded ? static_cast<float>((high - low) / 2) : 1.0f);
      offset_.push_back(normalize && bounded ? static_cast<float>((high + low) / 2) : 0.0f);
      low_.push_back(clip ? static_cast<float>(low) : -infinity);
      high_.push_back(clip ? static_cast<float>(high) : infinity);
    }
  }
}

void ActionConnector::operator()(std::span<const std::byte> action, std::span<std::byte> env_action) const {
  check(action.size() == stored_bytes_ && env_action.size() == space_.row_bytes(),
        "actions have {} and {} bytes, want {} and {}", action.size(), env_action.size(), stored_bytes_,
        space_.row_bytes());
  if (identity_) {
    std::memcpy(env_action.data(), action.data(), action.size());
    return;
  }
  const bool is_leaf = space_.is_leaf();
  size_t element = 0;
  for (const Leaf& leaf : space_.leaves()) {
    const auto convert = [&](auto zero) {
      using T = decltype(zero);
      for (size_t i = 0; i < leaf.count; ++i, ++element) {
        const T given = is_leaf ? load<T>(action.data(), i) : T{load<float>(action.data(), element)};
        const T value = given * T{scale_[element]} + T{offset_[element]};
        put(env_action, leaf, i, std::clamp(value, T{low_[element]}, T{high_[element]}));
      }
    };
    if (leaf.dtype == DType::f64)
      convert(double{});
    else if (leaf.dtype == DType::f32)
      convert(float{});
    else
      for (size_t i = 0; i < leaf.count; ++i, ++element)
        put(env_action, leaf, i, start_of(*leaf.space) + static_cast<int32_t>(load<float>(action.data(), element)));
  }
}

void ActionConnector::store(std::span<const std::byte> drawn, std::span<std::byte> action) const {
  check(drawn.size() == space_.row_bytes() && action.size() == stored_bytes_,
        "actions have {} and {} bytes, want {} and {}", drawn.size(), action.size(), space_.row_bytes(), stored_bytes_);
  if (space_.is_leaf()) {
    std::memcpy(action.data(), drawn.data(), drawn.size());
    return;
  }
  auto* to = action.data();
  for (const Leaf& leaf : space_.leaves())
    for (size_t i = 0; i < leaf.count; ++i, to += sizeof(float)) {
      const std::byte* at = drawn.data() + leaf.offset;
      const float value = leaf.dtype == DType::f32   ? load<float>(at, i)
                          : leaf.dtype == DType::f64 ? static_cast<float>(load<double>(at, i))
                                                     : static_cast<float>(load<int32_t>(at, i) - start_of(*leaf.space));
      std::memcpy(to, &value, sizeof value);
    }
}

// ---- RewardConnector ----

RewardConnector::RewardConnector(const Options& options, size_t num_envs)
    : options_(options),
      plain_(!options.filter && !options.clip && !options.sign),
      statistics_(options.filter ? num_envs : 0) {}

void RewardConnector::Statistics::update(double reward, bool terminated, double gamma) {
  discounted_return = discounted_return * gamma * (terminated ? 0.0 : 1.0) + reward;
  const double delta = discounted_return - mean, total = count + 1.0;
  mean += delta / total;
  variance = (variance * count + delta * delta * count / total) / total;
  count = total;
}

float RewardConnector::shaped(size_t env, double reward, bool terminated) {
  if (!std::isfinite(reward)) return std::numeric_limits<float>::quiet_NaN();
  if (options_.filter) {
    Statistics& statistics = statistics_[env];
    statistics.update(reward, terminated, options_.gamma);
    reward /= std::sqrt(statistics.variance + 1e-8);
  }
  reward *= options_.scale;
  if (options_.sign) return reward > 0 ? 1.0f : reward < 0 ? -1.0f : 0.0f;
  return static_cast<float>(options_.clip ? std::clamp(reward, -*options_.clip, *options_.clip) : reward);
}

std::vector<double> RewardConnector::state() const {
  std::vector<double> state;
  for (const Statistics& s : statistics_) state.insert(state.end(), {s.count, s.mean, s.variance, s.discounted_return});
  return state;
}

void RewardConnector::set_state(std::span<const double> state) {
  check(state.size() == 4 * statistics_.size(), "a reward filter's state has {} values, want {}", state.size(),
        4 * statistics_.size());
  for (size_t i = 0; i < state.size(); ++i) {
    const bool positive = i % 4 == 0, at_least_zero = i % 4 == 2;
    if (!std::isfinite(state[i]) || (positive && state[i] <= 0) || (at_least_zero && state[i] < 0))
      fail(Exit::environment, "corrupt-file", "a reward filter's state has {} at {}", state[i], i);
  }
  for (Statistics& s : statistics_) {
    s = {state[0], state[1], state[2], state[3]};
    state = state.subspan(4);
  }
}

}  // namespace myriad
