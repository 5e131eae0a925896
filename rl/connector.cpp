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
      one_hot(load<int32_t>(bytes, i), multi->nvec[i], features + offset);
      offset += static_cast<size_t>(multi->nvec[i]);
    }
    return offset;
  }
  copy_as_float(leaf.dtype, bytes, leaf.count, features);
  return leaf.count;
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

ActionConnector::ActionConnector(const Space& space, bool normalize, bool clip) : space_(space), identity_(true) {
  const Box* box = space_.get_if<Box>();
  if (box == nullptr || (!normalize && !clip)) return;
  check(box->dtype == DType::f32 || box->dtype == DType::f64,
        "a Box action has elements of {}, want float32 or float64", name_of(box->dtype));
  identity_ = false;
  const float infinity = std::numeric_limits<float>::infinity();
  const size_t count = space_.leaves()[0].count;
  for (size_t i = 0; i < count; ++i) {
    const double low = bound_at(box->low, i), high = bound_at(box->high, i);
    const bool bounded = std::isfinite(low) && std::isfinite(high);  // an open side has no [-1, 1] to map
    scale_.push_back(normalize && bounded ? static_cast<float>((high - low) / 2) : 1.0f);
    offset_.push_back(normalize && bounded ? static_cast<float>((high + low) / 2) : 0.0f);
    low_.push_back(clip ? static_cast<float>(low) : -infinity);
    high_.push_back(clip ? static_cast<float>(high) : infinity);
  }
}

void ActionConnector::operator()(std::span<const std::byte> action, std::span<std::byte> env_action) const {
  check(action.size() == space_.row_bytes() && env_action.size() == action.size(),
        "actions have {} and {} bytes, want {}", action.size(), env_action.size(), space_.row_bytes());
  if (identity_) {
    std::memcpy(env_action.data(), action.data(), action.size());
    return;
  }
  const auto convert = [&](auto zero) {
    using T = decltype(zero);
    for (size_t i = 0; i < scale_.size(); ++i) {
      const T value = load<T>(action.data(), i) * T{scale_[i]} + T{offset_[i]};
      const T clipped = std::clamp(value, T{low_[i]}, T{high_[i]});
      std::memcpy(env_action.data() + i * sizeof(T), &clipped, sizeof(T));
    }
  };
  if (space_.leaves()[0].dtype == DType::f32)
    convert(float{});
  else
    convert(double{});
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
