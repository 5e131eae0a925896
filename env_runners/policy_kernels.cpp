// Compiled once for each CPU generation, with MYRIAD_ISA = v2 | v3 | v4 and Eigen's namespace renamed alike
// (-DEigen=...). Written on Eigen's packets: its loads, fused multiply-adds, exp and tanh for whichever SIMD width the
// target has.
#include "env_runners/policy_kernels.hpp"

#include <Eigen/Core>

namespace myriad {
namespace {

namespace simd = Eigen::internal;

using Widest = simd::packet_traits<float>::type;
constexpr int kWidest = simd::unpacket_traits<Widest>::size;  // 4, 8 or 16 floats

/// The packet for a panel of kLanes: the widest which does not exceed it.
template <int kLanes, class P = Widest, bool kFits = (simd::unpacket_traits<P>::size <= kLanes)>
struct PacketFor {
  using type = P;
};
template <int kLanes, class P>
struct PacketFor<kLanes, P, false> : PacketFor<kLanes, typename simd::unpacket_traits<P>::half> {};

/// kOutputs rows of one Linear. Each accumulator adds its products in the order of the inputs, whatever the panel's
/// width.
template <int kLanes, int kOutputs>
inline void linear_block(const float* w, const float* b, const float* x, int in, float* y) {
  using P = typename PacketFor<kLanes>::type;
  constexpr int kWidth = simd::unpacket_traits<P>::size, kParts = kLanes / kWidth;
  P sum[kOutputs][kParts];
  for (int o = 0; o < kOutputs; ++o)
    for (int p = 0; p < kParts; ++p) sum[o][p] = simd::pset1<P>(b[o]);
  for (int i = 0; i < in; ++i) {
    P value[kParts];
    for (int p = 0; p < kParts; ++p) value[p] = simd::pload<P>(x + i * kLanes + p * kWidth);
    for (int o = 0; o < kOutputs; ++o) {
      const P weight = simd::pset1<P>(w[o * in + i]);
      for (int p = 0; p < kParts; ++p) sum[o][p] = simd::pmadd(weight, value[p], sum[o][p]);
    }
  }
  for (int o = 0; o < kOutputs; ++o)
    for (int p = 0; p < kParts; ++p) simd::pstore(y + o * kLanes + p * kWidth, sum[o][p]);
}

template <int kLanes>
void linear_panel(const float* w, const float* b, const float* x, int in, int out, float* y) {
  using P = typename PacketFor<kLanes>::type;
  constexpr int kParts = kLanes / simd::unpacket_traits<P>::size;
  constexpr int kRegisters = EIGEN_ARCH_DEFAULT_NUMBER_OF_REGISTERS;  // 16 below AVX-512, 32 from there on
  // As many sums as registers hold beside the inputs; the weights are broadcast from memory.
  constexpr int kBlock = kRegisters >= 32 || kParts == 1 ? 8 : kParts == 2 ? 4 : 2;
  int o = 0;
  for (; o + kBlock <= out; o += kBlock) linear_block<kLanes, kBlock>(w + o * in, b + o, x, in, y + o * kLanes);
  for (; o + 2 <= out; o += 2) linear_block<kLanes, 2>(w + o * in, b + o, x, in, y + o * kLanes);
  if (o < out) linear_block<kLanes, 1>(w + o * in, b + o, x, in, y + o * kLanes);
}

void linear(const float* w, const float* b, const float* x, int in, int out, int lanes, float* y) {
  if (lanes == 16) return linear_panel<16>(w, b, x, in, out, y);
  if (lanes == 8) return linear_panel<8>(w, b, x, in, out, y);
  linear_panel<4>(w, b, x, in, out, y);
}

template <class F>
inline void map_packets(float* x, size_t count, F f) {
  for (size_t i = 0; i < count; i += kWidest) simd::pstore(x + i, f(simd::pload<Widest>(x + i)));
}

void activate(PolicyActivation f, float* x, size_t count) {
  const Widest zero = simd::pset1<Widest>(0.0f), one = simd::pset1<Widest>(1.0f);
  switch (f) {
    case PolicyActivation::linear:
      return;
    case PolicyActivation::tanh:
      return map_packets(x, count, [](Widest v) { return simd::ptanh(v); });
    case PolicyActivation::relu:
      return map_packets(x, count, [=](Widest v) { return simd::pmax(v, zero); });
    case PolicyActivation::silu:  // Elfwing et al. 2018: x sigmoid(x)
      return map_packets(x, count,
                         [=](Widest v) { return simd::pdiv(v, simd::padd(one, simd::pexp(simd::pnegate(v)))); });
    case PolicyActivation::gelu:  // Hendrycks and Gimpel 2016: exact, as torch's default
      for (size_t i = 0; i < count; ++i) x[i] = 0.5f * x[i] * (1.0f + __builtin_erff(x[i] * 0.70710678f));
      return;
    case PolicyActivation::elu:  // Clevert et al. 2016, alpha = 1; one of the two terms is zero
      return map_packets(x, count, [=](Widest v) {
        return simd::padd(simd::pmax(v, zero), simd::psub(simd::pexp(simd::pmin(v, zero)), one));
      });
  }
}

template <int kLanes>
void layer_norm_panel(const float* gain, const float* bias, float* x, int size) {
  using P = typename PacketFor<kLanes>::type;
  constexpr int kWidth = simd::unpacket_traits<P>::size;
  const P share = simd::pset1<P>(1.0f / static_cast<float>(size));
  for (int lane = 0; lane < kLanes; lane += kWidth) {
    P sum = simd::pset1<P>(0.0f), squares = sum;
    for (int i = 0; i < size; ++i) sum = simd::padd(sum, simd::pload<P>(x + i * kLanes + lane));
    const P mean = simd::pmul(sum, share);
    for (int i = 0; i < size; ++i) {
      const P apart = simd::psub(simd::pload<P>(x + i * kLanes + lane), mean);
      squares = simd::pmadd(apart, apart, squares);
    }
    const P variance = simd::pmadd(squares, share, simd::pset1<P>(1e-5f));
    const P scale = simd::pdiv(simd::pset1<P>(1.0f), simd::psqrt(variance));
    for (int i = 0; i < size; ++i) {
      const P apart = simd::psub(simd::pload<P>(x + i * kLanes + lane), mean);
      const P scaled = simd::pmul(apart, scale);
      simd::pstore(x + i * kLanes + lane, simd::pmadd(scaled, simd::pset1<P>(gain[i]), simd::pset1<P>(bias[i])));
    }
  }
}

void layer_norm(const float* gain, const float* bias, float* x, int size, int lanes) {
  if (lanes == 16) return layer_norm_panel<16>(gain, bias, x, size);
  if (lanes == 8) return layer_norm_panel<8>(gain, bias, x, size);
  layer_norm_panel<4>(gain, bias, x, size);
}

}  // namespace

#define MYRIAD_JOIN_(a, b) a##b
#define MYRIAD_JOIN(a, b) MYRIAD_JOIN_(a, b)
#define MYRIAD_TEXT_(a) #a
#define MYRIAD_TEXT(a) MYRIAD_TEXT_(a)
const PolicyKernels& MYRIAD_JOIN(policy_kernels_, MYRIAD_ISA)() {
  static constexpr PolicyKernels table{MYRIAD_TEXT(MYRIAD_ISA), linear, activate, layer_norm};
  return table;
}

}  // namespace myriad
