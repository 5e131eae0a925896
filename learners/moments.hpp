// Moments: count, mean and sum of squared deviations of numbers that may lie on several shards.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <functional>
#include <span>

namespace myriad {

/// Sums over the shards of a group, in place; empty: this shard is alone. All shards call it equally often.
using SumOverGroup = std::function<void(std::span<double>)>;

struct Moments {
  double count = 0, mean = 0, m2 = 0;  ///< m2: sum of (x - mean)^2

  double variance() const { return count > 0 ? m2 / count : 0.0; }

  /// Chan et al. 1979, "Updating Formulae and a Pairwise Algorithm for Computing Sample Variances".
  void merge(const Moments& other) {
    if (other.count == 0) return;
    const double total = count + other.count, delta = other.mean - mean;
    mean += delta * (other.count / total);
    m2 += other.m2 + delta * delta * (count * other.count / total);
    count = total;
  }
};

/// Of N series at once, over the whole group, in two passes; `values(i)` gives the N numbers of row i of `count`.
template <size_t N, class Values>
std::array<Moments, N> moments_of(size_t count, Values values, const SumOverGroup& sum = {}) {
  std::array<double, N + 1> sums{};
  sums[N] = static_cast<double>(count);
  for (size_t i = 0; i < count; ++i) {
    const std::array<double, N> row = values(i);
    for (size_t k = 0; k < N; ++k) sums[k] += row[k];
  }
  if (sum) sum(sums);
  std::array<Moments, N> moments;
  for (size_t k = 0; k < N; ++k) moments[k] = {sums[N], sums[k] / std::max(1.0, sums[N]), 0.0};
  std::array<double, N> squares{};
  for (size_t i = 0; i < count; ++i) {
    const std::array<double, N> row = values(i);
    for (size_t k = 0; k < N; ++k) squares[k] += (row[k] - moments[k].mean) * (row[k] - moments[k].mean);
  }
  if (sum) sum(squares);
  for (size_t k = 0; k < N; ++k) moments[k].m2 = squares[k];
  return moments;
}

/// How well values fit their targets.
struct ValueFit {
  Moments targets, residuals;  ///< residuals: target - value

  /// 1 - Var(residuals) / Var(targets), at least -1; 0 where the targets do not vary.
  double explained_variance() const { return targets.m2 > 0.0 ? std::max(-1.0, 1.0 - residuals.m2 / targets.m2) : 0.0; }
  void merge(const ValueFit& other) {
    targets.merge(other.targets);
    residuals.merge(other.residuals);
  }

  /// As numbers: the count; mean and m2 of targets, of residuals. Zeros are a fit of nothing.
  static constexpr size_t kNumbers = 5;
  static ValueFit of(std::span<const double, kNumbers> n) { return {{n[0], n[1], n[2]}, {n[0], n[3], n[4]}}; }
  std::array<double, kNumbers> numbers() const {
    return {targets.count, targets.mean, targets.m2, residuals.mean, residuals.m2};
  }
};

}  // namespace myriad
