// ValueFit on a device: explained variance from numbers that lie on several shards.
#pragma once

#include <ATen/core/Tensor.h>

namespace myriad {

/// Numbers of a ValueFit: count; mean and m2 of targets; mean and m2 of residuals.
constexpr int64_t kFitNumbers = 5;

/// 1 - residuals / targets, sums of squared deviations both, at least -1; 0 where the targets do not vary.
at::Tensor device_explained_variance(const at::Tensor& targets, const at::Tensor& residuals);  // [] each

/// The same of the fits of several shards, one a row; a row of zeros is nobody's.
at::Tensor device_explained_variance(const at::Tensor& fits);  // [S, kFitNumbers] -> []

/// The fit of both sets of numbers; zeros are a fit of none.
at::Tensor merge_fits(const at::Tensor& a, const at::Tensor& b);  // [kFitNumbers] each

}  // namespace myriad
