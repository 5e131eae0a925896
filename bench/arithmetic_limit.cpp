#include "bench/arithmetic_limit.hpp"

#include <Eigen/Core>

namespace myriad {
namespace {

#if defined(__AVX512F__)
constexpr int kWidth = 16, kSums = 24;
#elif defined(__AVX__)
constexpr int kWidth = 8, kSums = 12;
#else
constexpr int kWidth = 4, kSums = 12;
#endif
using Vector = float __attribute__((vector_size(sizeof(float) * kWidth)));

}  // namespace

/// Enough sums to hide the latency of one, each different, or they would become one.
double fma_flops() {
  constexpr int kSteps = 200'000;
  Vector sums[kSums], factor = Vector{} + 0.999f;
  for (int i = 0; i < kSums; ++i) sums[i] = Vector{} + static_cast<float>(i);
  for (int step = 0; step < kSteps; ++step) {
#pragma GCC unroll 24
    for (Vector& sum : sums) sum = sum * factor + factor;
    asm volatile("" : "+x"(factor));  // or the loop would be folded
  }
  for (Vector& sum : sums) asm volatile("" : : "m"(sum));
  return 2.0 * kSteps * kSums * kWidth;
}

double gemm_flops() {
  constexpr Eigen::Index kSize = 1024;
  static const Eigen::MatrixXf a = Eigen::MatrixXf::Random(kSize, kSize), b = Eigen::MatrixXf::Random(kSize, kSize);
  static Eigen::MatrixXf c(kSize, kSize);
  c.noalias() = a * b;
  return 2.0 * kSize * kSize * kSize;
}

}  // namespace myriad
