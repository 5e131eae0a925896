#include "learners/device/step_numbers.hpp"

#include <ATen/ATen.h>

#include "learners/moments.hpp"

namespace myriad {
namespace {

constexpr int64_t kSteps = 1024;  // before the host reads what they left
constexpr size_t kFit = ValueFit::kNumbers;

}  // namespace

void StepNumbers::set_width(size_t metrics, size_t fits, const at::TensorOptions& options) {
  metrics_ = metrics;
  fits_ = fits;
  rows_ = at::zeros({kSteps, static_cast<int64_t>(1 + metrics + fits * kFit + 1)}, options);
  next_ = at::zeros({1}, options.dtype(at::kLong));
  begin();
}

void StepNumbers::begin() {
  unread_.clear();
  unread_rows_ = 0;
  next_.zero_();
}

void StepNumbers::write(const at::Tensor& row) {
  rows_.index_copy_(0, next_, row.unsqueeze(0));
  next_.add_(1);
}

void StepNumbers::wrote(int64_t epoch, int64_t rows) {
  unread_.push_back({epoch, rows});
  unread_rows_ += rows;
}

bool StepNumbers::full() const { return static_cast<int64_t>(unread_.size()) == kSteps; }

std::vector<float> StepNumbers::read(DeviceOptimizer& optimizer, EpochSums& sums, const at::Tensor& also) {
  std::vector<at::Tensor> numbers{rows_.narrow(0, 0, static_cast<int64_t>(unread_.size())).flatten()};
  if (also.defined()) numbers.push_back(also);
  const at::Tensor all = at::cat(numbers).cpu();
  const std::span<const float> floats(all.const_data_ptr<float>(), static_cast<size_t>(all.numel()));
  const auto width = static_cast<size_t>(rows_.size(1));
  for (size_t i = 0; i < unread_.size(); ++i) {
    const auto row = floats.subspan(i * width, width);
    sums.enter(unread_[i].epoch);
    if (optimizer.count(row.back())) add(row, unread_[i].rows, sums);
  }
  const auto rest = floats.subspan(width * unread_.size());
  begin();
  return {rest.begin(), rest.end()};
}

void StepNumbers::add(std::span<const float> row, int64_t rows, EpochSums& sums) const {
  const std::vector<double> numbers(row.begin(), row.end());
  ValueFit fit;
  for (size_t i = 0; i < fits_; ++i)
    fit.merge(ValueFit::of(std::span(numbers).subspan(1 + metrics_ + i * kFit).first<kFit>()));
  sums.add(numbers[0], std::span(numbers).subspan(1, metrics_), fit, numbers.back(), rows);
}

}  // namespace myriad
