// EpochSums: what the gradient steps of an epoch found, as means over their rows. Steps that were skipped are no part
// of it. No torch.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "learners/algorithm.hpp"
#include "learners/moments.hpp"

namespace myriad {

class EpochSums {
 public:
  /// `names` of the loss's metrics, static; `fits`: steps come with a ValueFit.
  EpochSums(std::span<const std::string_view> names, bool fits) : names_(names), fits_(fits) { begin_update(); }

  void begin_update();
  /// A step of this epoch comes, from 1 on: with another one than before the sums begin anew.
  void enter(int64_t epoch);
  /// A step over `rows` rows: its loss and metrics (means), the norm of its gradient.
  void add(double total, std::span<const double> metrics, const ValueFit& fit, double norm, int64_t rows);

  Metrics metrics() const;                      ///< of the epoch; without "total_loss" where all steps were skipped
  int64_t trained() const { return trained_; }  ///< rows of this update's steps

 private:
  std::span<const std::string_view> names_;
  bool fits_;
  int64_t epoch_ = 0, trained_ = 0;
  double rows_ = 0.0;
  std::vector<double> sums_;  ///< total, metrics, explained variance, norm, each times rows
};

}  // namespace myriad
