#include "learners/device_fit.hpp"

#include <ATen/ATen.h>

namespace myriad {

at::Tensor device_explained_variance(const at::Tensor& targets, const at::Tensor& residuals) {
  return (1.0 - residuals / targets).clamp_min(-1.0).masked_fill(targets.le(0.0), 0.0);
}

namespace {

/// Of the rows of `fits` together. Chan et al. 1979, as Moments::merge.
at::Tensor merged(const at::Tensor& fits) {
  const at::Tensor count = fits.select(1, 0), all = count.sum(), some = all.clamp_min(1.0);
  std::vector<at::Tensor> numbers{all};
  for (const int64_t at : {1, 3}) {
    const at::Tensor mean = (count * fits.select(1, at)).sum() / some, apart = fits.select(1, at) - mean;
    numbers.push_back(mean);
    numbers.push_back(fits.select(1, at + 1).sum() + (count * apart.square()).sum());
  }
  return at::stack(numbers);
}

}  // namespace

at::Tensor device_explained_variance(const at::Tensor& fits) {
  const at::Tensor all = merged(fits);
  return device_explained_variance(all[2], all[4]);
}

at::Tensor merge_fits(const at::Tensor& a, const at::Tensor& b) { return merged(at::stack({a, b})); }

}  // namespace myriad
