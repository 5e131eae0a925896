#include "learners/device/step_numbers.hpp"

#include <ATen/ATen.h>

#include <algorithm>
#include <array>

#include "learners/moments.hpp"

namespace myriad {
namespace {

constexpr int64_t kSteps = 1024;  // before the host reads what they left
constexpr size_t kFit = ValueFit::kNumbers;

}  // namespace

void StepNumbers::set_width(int64_t width, const at::TensorOptions& options) {
  rows_ = at::zeros({kSteps, width}, options);
  next_ = at::zeros({1}, options.dtype(at::kLong));
  begin();
}

void StepNumbers::begin() {
  unread_.clear();
  next_.zero_();
  epoch_ = 0;
  trained_ = 0;
  sums_.assign(1 + names_.size() + 3, 0.0);
}

void StepNumbers::write(const at::Tensor& row) {
  rows_.index_copy_(0, next_, row.unsqueeze(0));
  next_.add_(1);
}

bool StepNumbers::full() const { return static_cast<int64_t>(unread_.size()) == kSteps; }

std::vector<float> StepNumbers::read(DeviceOptimizer& optimizer, const at::Tensor& also) {
  std::vector<at::Tensor> numbers{rows_.narrow(0, 0, static_cast<int64_t>(unread_.size())).flatten()};
  if (also.defined()) numbers.push_back(also);
  const at::Tensor all = at::cat(numbers).cpu();
  const std::span<const float> floats(all.const_data_ptr<float>(), static_cast<size_t>(all.numel()));
  const auto width = static_cast<size_t>(rows_.size(1));
  for (size_t i = 0; i < unread_.size(); ++i) {
    if (unread_[i].epoch != epoch_) std::ranges::fill(sums_, 0.0);
    epoch_ = unread_[i].epoch;
    const auto row = floats.subspan(i * width, width);
    if (optimizer.count(row.back())) sum_up(row, unread_[i].rows);
  }
  const auto rest = floats.subspan(width * unread_.size());
  unread_.clear();
  next_.zero_();
  return {rest.begin(), rest.end()};
}

void StepNumbers::sum_up(std::span<const float> row, int64_t rows) {
  const double norm = row.back(), weight = static_cast<double>(rows);
  trained_ += rows;
  const size_t means = sums_.size() - 3;
  ValueFit fit;
  std::array<double, kFit> part;
  for (size_t at = means; fits_ && at + 1 < row.size(); at += kFit) {
    std::ranges::copy(row.subspan(at, kFit), part.begin());
    fit.merge(ValueFit::of(part));
  }
  for (size_t i = 0; i < means; ++i) sums_[i] += weight * row[i];
  sums_[means] += weight * fit.explained_variance();
  sums_[means + 1] += weight * norm;
  sums_[means + 2] += weight;
}

Metrics StepNumbers::epoch_metrics() const {
  const double rows = sums_.back();
  Metrics metrics{{"num_module_steps_trained", rows}};
  if (rows == 0.0) return metrics;
  metrics["total_loss"] = sums_[0] / rows;
  for (size_t i = 0; i < names_.size(); ++i) metrics[std::string(names_[i])] = sums_[1 + i] / rows;
  if (fits_) metrics["vf_explained_var"] = sums_[1 + names_.size()] / rows;
  metrics["gradients_default_optimizer_global_norm"] = sums_[2 + names_.size()] / rows;
  return metrics;
}

}  // namespace myriad
