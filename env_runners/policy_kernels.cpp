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
template <class P>
struct PacketFor<1, P, false> : PacketFor<4> {};

/// One lane is calculated with in all lanes of a packet.
template <int kLanes, class P>
inline P load(const float* x) {
  if constexpr (kLanes == 1)
    return simd::pset1<P>(*x);
  else
    return simd::pload<P>(x);
}
template <int kLanes, class P>
inline void store(float* y, P value) {
  if constexpr (kLanes == 1)
    *y = simd::pfirst(value);
  else
    simd::pstore(y, value);
}
template <int kLanes, class P>
constexpr int kWidthOf = kLanes == 1 ? 1 : simd::unpacket_traits<P>::size;

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

/// kOutputs rows of a weight times kSamples rows of inputs. Lane l of a sum adds inputs l, l + kWidest, ...; the lanes'
/// sums are added in a fixed order, then what is left of the inputs.
template <int kOutputs, int kSamples>
inline void dot_tile(const float* w, const float* b, const float* x, int in, int pitch, int lanes, float* y) {
  Widest sum[kOutputs][kSamples];
  for (int o = 0; o < kOutputs; ++o)
    for (int s = 0; s < kSamples; ++s) sum[o][s] = simd::pset1<Widest>(0.0f);
  int i = 0;
  for (; i + kWidest <= in; i += kWidest) {
    Widest value[kSamples];
    for (int s = 0; s < kSamples; ++s) value[s] = simd::ploadu<Widest>(x + s * pitch + i);
    for (int o = 0; o < kOutputs; ++o) {
      const Widest weight = simd::ploadu<Widest>(w + o * in + i);
      for (int s = 0; s < kSamples; ++s) sum[o][s] = simd::pmadd(weight, value[s], sum[o][s]);
    }
  }
  for (int o = 0; o < kOutputs; ++o)
    for (int s = 0; s < kSamples; ++s) {
      float total = b[o] + simd::predux(sum[o][s]);
      for (int rest = i; rest < in; ++rest) total += w[o * in + rest] * x[s * pitch + rest];
      y[o * lanes + s] = total;
    }
}

template <int kOutputs>
inline void dot_rows(const float* w, const float* b, const float* x, int in, int pitch, int samples, int lanes,
                     float* y) {
  constexpr int kBlock = EIGEN_ARCH_DEFAULT_NUMBER_OF_REGISTERS >= 32 ? 4 : 2;
  int s = 0;
  for (; s + kBlock <= samples; s += kBlock) dot_tile<kOutputs, kBlock>(w, b, x + s * pitch, in, pitch, lanes, y + s);
  for (; s < samples; ++s) dot_tile<kOutputs, 1>(w, b, x + s * pitch, in, pitch, lanes, y + s);
}

void linear_rows(const float* w, const float* b, const float* x, int in, int pitch, int out, int samples, int lanes,
                 float* y) {
  int o = 0;
  if (samples == 1)
    for (; o + 8 <= out; o += 8) dot_tile<8, 1>(w + o * in, b + o, x, in, pitch, lanes, y + o * lanes);
  for (; o + 4 <= out; o += 4) dot_rows<4>(w + o * in, b + o, x, in, pitch, samples, lanes, y + o * lanes);
  for (; o < out; ++o) dot_rows<1>(w + o * in, b + o, x, in, pitch, samples, lanes, y + o * lanes);
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
  constexpr int kWidth = kWidthOf<kLanes, P>;
  const P share = simd::pset1<P>(1.0f / static_cast<float>(size));
  for (int lane = 0; lane < kLanes; lane += kWidth) {
    P sum = simd::pset1<P>(0.0f), squares = sum;
    for (int i = 0; i < size; ++i) sum = simd::padd(sum, load<kLanes, P>(x + i * kLanes + lane));
    const P mean = simd::pmul(sum, share);
    for (int i = 0; i < size; ++i) {
      const P apart = simd::psub(load<kLanes, P>(x + i * kLanes + lane), mean);
      squares = simd::pmadd(apart, apart, squares);
    }
    const P variance = simd::pmadd(squares, share, simd::pset1<P>(1e-5f));
    const P scale = simd::pdiv(simd::pset1<P>(1.0f), simd::psqrt(variance));
    for (int i = 0; i < size; ++i) {
      const P apart = simd::psub(load<kLanes, P>(x + i * kLanes + lane), mean);
      const P scaled = simd::pmul(apart, scale);
      store<kLanes>(x + i * kLanes + lane, simd::pmadd(scaled, simd::pset1<P>(gain[i]), simd::pset1<P>(bias[i])));
    }
  }
}

void layer_norm(const float* gain, const float* bias, float* x, int size, int lanes) {
  if (lanes == 16) return layer_norm_panel<16>(gain, bias, x, size);
  if (lanes == 8) return layer_norm_panel<8>(gain, bias, x, size);
  if (lanes == 4) return layer_norm_panel<4>(gain, bias, x, size);
  layer_norm_panel<1>(gain, bias, x, size);
}

void scale(float factor, const float* x, size_t count, float* y) {
  const Widest f = simd::pset1<Widest>(factor);
  size_t i = 0;
  for (; i + kWidest <= count; i += kWidest) simd::pstore(y + i, simd::pmul(simd::ploadu<Widest>(x + i), f));
  for (; i < count; ++i) y[i] = factor * x[i];
}

void add(const float* x, size_t count, float* y) {
  for (size_t i = 0; i < count; i += kWidest)
    simd::pstore(y + i, simd::padd(simd::pload<Widest>(x + i), simd::pload<Widest>(y + i)));
}

/// kPixels neighbours in a row of the output, kVectors packets of outputs. As in linear_block, each accumulator adds
/// its products in the order of the patch, whatever the tile.
template <int kPixels, int kVectors>
void convolve_tile(const PolicyWindow& c, const float* w, int pitch, const float* x, float* y, int outputs) {
  const int step = c.stride * c.inputs, run = c.kernel * c.inputs;
  Widest sum[kPixels][kVectors];
  for (int v = 0; v < kVectors; ++v) {
    const Widest bias = simd::pload<Widest>(w + v * kWidest);
    for (int p = 0; p < kPixels; ++p) sum[p][v] = bias;
  }
  w += pitch;
  for (int row = 0; row < c.kernel; ++row, x += c.width * c.inputs)
    for (int i = 0; i < run; ++i, w += pitch) {
      Widest weight[kVectors];
      for (int v = 0; v < kVectors; ++v) weight[v] = simd::pload<Widest>(w + v * kWidest);
      for (int p = 0; p < kPixels; ++p) {
        const Widest value = simd::pset1<Widest>(x[p * step + i]);
        for (int v = 0; v < kVectors; ++v) sum[p][v] = simd::pmadd(weight[v], value, sum[p][v]);
      }
    }
  for (int p = 0; p < kPixels; ++p) {
    float* to = y + p * c.outputs;
    if (outputs >= kVectors * kWidest) {
      for (int v = 0; v < kVectors; ++v) simd::pstoreu(to + v * kWidest, sum[p][v]);
    } else {
      alignas(64) float all[kVectors * kWidest];
      for (int v = 0; v < kVectors; ++v) simd::pstore(all + v * kWidest, sum[p][v]);
      for (int o = 0; o < outputs; ++o) to[o] = all[o];
    }
  }
}

constexpr int kTile = 8;  // pixels at most

/// One row of output pixels in tiles of nearly the same width, so that none is small.
template <int kVectors>
void convolve_row(const PolicyWindow& c, const float* w, int pitch, const float* x, float* y, int outputs) {
  using Tile = void (*)(const PolicyWindow&, const float*, int, const float*, float*, int);
  static constexpr Tile kTiles[kTile + 1] = {nullptr,
                                             convolve_tile<1, kVectors>,
                                             convolve_tile<2, kVectors>,
                                             convolve_tile<3, kVectors>,
                                             convolve_tile<4, kVectors>,
                                             convolve_tile<5, kVectors>,
                                             convolve_tile<6, kVectors>,
                                             convolve_tile<7, kVectors>,
                                             convolve_tile<8, kVectors>};
  const int tiles = (c.output_width + kTile - 1) / kTile;
  for (int t = 0; t < tiles; ++t) {
    const int begin = t * c.output_width / tiles, end = (t + 1) * c.output_width / tiles;
    kTiles[end - begin](c, w, pitch, x + begin * c.stride * c.inputs, y + begin * c.outputs, outputs);
  }
}

void convolve(const PolicyWindow& c, const float* packed, const float* x, float* y) {
  const int pitch = (c.outputs + kPolicyPack - 1) / kPolicyPack * kPolicyPack;
  for (int row = 0; row < c.output_height; ++row) {
    const float* from = x + row * c.stride * c.width * c.inputs;
    float* to = y + row * c.output_width * c.outputs;
    int o = 0;
    for (; o + kWidest < c.outputs; o += 2 * kWidest)
      convolve_row<2>(c, packed + o, pitch, from, to + o, c.outputs - o);
    if (o < c.outputs) convolve_row<1>(c, packed + o, pitch, from, to + o, c.outputs - o);
  }
}

void max_pool(const PolicyWindow& c, const float* x, float* y) {
  const auto largest = [&]<class P>(P, const float* window) {
    P most = simd::ploadu<P>(window);
    for (int row = 0; row < c.kernel; ++row)
      for (int column = 0; column < c.kernel; ++column)
        most = simd::pmax(most, simd::ploadu<P>(window + (row * c.width + column) * c.inputs));
    return most;
  };
  for (int row = 0; row < c.output_height; ++row)
    for (int column = 0; column < c.output_width; ++column, y += c.inputs) {
      const float* window = x + (row * c.width + column) * c.stride * c.inputs;
      int channel = 0;
      for (; channel + kWidest <= c.inputs; channel += kWidest)
        simd::pstoreu(y + channel, largest(Widest(), window + channel));
      for (; channel < c.inputs; ++channel) y[channel] = largest(float(), window + channel);
    }
}

}  // namespace

#define MYRIAD_JOIN_(a, b) a##b
#define MYRIAD_JOIN(a, b) MYRIAD_JOIN_(a, b)
#define MYRIAD_TEXT_(a) #a
#define MYRIAD_TEXT(a) MYRIAD_TEXT_(a)
const PolicyKernels& MYRIAD_JOIN(policy_kernels_, MYRIAD_ISA)() {
  static constexpr PolicyKernels table{
      MYRIAD_TEXT(MYRIAD_ISA), linear, linear_rows, activate, layer_norm, scale, add, convolve, max_pool};
  return table;
}

}  // namespace myriad
