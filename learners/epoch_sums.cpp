#include "learners/epoch_sums.hpp"

#include <algorithm>

namespace myriad {

void EpochSums::begin_update() {
  epoch_ = trained_ = 0;
  rows_ = 0.0;
  sums_.assign(1 + names_.size() + 2, 0.0);
}

void EpochSums::enter(int64_t epoch) {
  if (epoch == epoch_) return;
  epoch_ = epoch;
  rows_ = 0.0;
  std::ranges::fill(sums_, 0.0);
}

void EpochSums::add(double total, std::span<const double> metrics, const ValueFit& fit, double norm, int64_t rows) {
  const double weight = static_cast<double>(rows);
  trained_ += rows;
  rows_ += weight;
  double* sum = sums_.data();
  *sum++ += weight * total;
  for (const double metric : metrics) *sum++ += weight * metric;
  *sum++ += weight * fit.explained_variance();
  *sum += weight * norm;
}

Metrics EpochSums::metrics() const {
  Metrics metrics{{"num_module_steps_trained", rows_}};
  if (rows_ == 0.0) return metrics;
  metrics["total_loss"] = sums_[0] / rows_;
  for (size_t i = 0; i < names_.size(); ++i) metrics[std::string(names_[i])] = sums_[1 + i] / rows_;
  if (fits_) metrics["vf_explained_var"] = sums_[1 + names_.size()] / rows_;
  metrics["gradients_default_optimizer_global_norm"] = sums_.back() / rows_;
  return metrics;
}

}  // namespace myriad
