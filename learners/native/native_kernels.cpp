// Compiled once for each CPU generation, with MYRIAD_ISA = v2 | v3 | v4 and Eigen's namespace renamed alike
// (-DEigen=...).
#include "learners/native/native_kernels.hpp"

#include <Eigen/Core>
#include <cmath>

namespace myriad {
namespace {

using Array = Eigen::Map<Eigen::ArrayXf>;
using ConstArray = Eigen::Map<const Eigen::ArrayXf>;

// A tile of the products is kRows x kAcross vectors, which leaves registers for a row of b and one number of a.
#if defined(__AVX512F__)
constexpr int kWidth = 16, kAcross = 4;
#elif defined(__AVX__)
constexpr int kWidth = 8, kAcross = 2;
#else
constexpr int kWidth = 4, kAcross = 2;
#endif
constexpr int kRows = 6;
constexpr int kDepth = 128;  // rows of b at a time: 24 KiB, which stay in the first-level cache from tile to tile
using Vector = float __attribute__((vector_size(sizeof(float) * kWidth)));
using Unaligned [[gnu::aligned(sizeof(float)), gnu::may_alias]] = Vector;

using Bytes [[gnu::aligned(1), gnu::may_alias]] = uint8_t __attribute__((vector_size(kWidth)));

Vector load(const float* x) { return *reinterpret_cast<const Unaligned*>(x); }
Vector load(const uint8_t* x) { return __builtin_convertvector(*reinterpret_cast<const Bytes*>(x), Vector); }
void store(float* x, Vector v) { *reinterpret_cast<Unaligned*>(x) = v; }

/// c [rows, width] = start + sum over k of a(row, k) b[k], with a(row, k) = a[row * a_row + k * a_step].
struct Product {
  const float* a;
  ptrdiff_t a_row, a_step;
  const float* b;  // [depth, kPanel]
  int depth;
  float* c;
  ptrdiff_t c_row;
  const float* bias;  // [rows]; null: start is 0, or c
  bool add;           // start is c
};

template <int R, int C>
void tile(const Product& p, int width) {
  Vector sum[R][C];
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < C; ++v) sum[r][v] = Vector{} + (p.bias ? p.bias[r] : 0.0f);
  if (p.add)  // on their way while the sums are made
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < C; ++v) __builtin_prefetch(p.c + r * p.c_row + v * kWidth, 1);
  const float* a = p.a;
  const float* b = p.b;
  for (int k = 0; k < p.depth; ++k, a += p.a_step, b += kPanel) {
    Vector row[C];
#pragma GCC unroll 4
    for (int v = 0; v < C; ++v) row[v] = load(b + v * kWidth);
#pragma GCC unroll 6
    for (int r = 0; r < R; ++r)
#pragma GCC unroll 4
      for (int v = 0; v < C; ++v) sum[r][v] += a[r * p.a_row] * row[v];
  }
  if (width == C * kWidth) {
    for (int r = 0; r < R; ++r)
      for (int v = 0; v < C; ++v) {
        float* c = p.c + r * p.c_row + v * kWidth;
        store(c, p.add ? load(c) + sum[r][v] : sum[r][v]);
      }
    return;
  }
  float edge[C * kWidth];
  for (int r = 0; r < R; ++r) {
    for (int v = 0; v < C; ++v) store(edge + v * kWidth, sum[r][v]);
    float* c = p.c + r * p.c_row;
    for (int i = 0; i < width; ++i) c[i] = p.add ? c[i] + edge[i] : edge[i];
  }
}

template <int C>
void tiles(Product p, int rows, int width) {
  const auto next = [&](int r) {
    p.a += r * p.a_row;
    p.c += r * p.c_row;
    if (p.bias) p.bias += r;
  };
  for (; rows >= kRows; rows -= kRows, next(kRows)) tile<kRows, C>(p, width);
  switch (rows) {
    case 1:
      return tile<1, C>(p, width);
    case 2:
      return tile<2, C>(p, width);
    case 3:
      return tile<3, C>(p, width);
    case 4:
      return tile<4, C>(p, width);
    case 5:
      return tile<5, C>(p, width);
  }
}

void multiply(Product p, int rows, int width) {
  constexpr int kColumns = kWidth * kAcross;
  for (; width >= kColumns; width -= kColumns, p.b += kColumns, p.c += kColumns) tiles<kAcross>(p, rows, kColumns);
  if (width == 0) return;
  if constexpr (kAcross > 2) {
    if (width > 3 * kWidth) return tiles<4>(p, rows, width);
    if (width > 2 * kWidth) return tiles<3>(p, rows, width);
  }
  width > kWidth ? tiles<2>(p, rows, width) : tiles<1>(p, rows, width);
}

/// As wide as n samples in whole vectors.
int in_vectors(int n) { return (n + kWidth - 1) / kWidth * kWidth; }

/// The same with a depth of any size.
void multiply_deep(Product p, int rows, int width) {
  const int depth = p.depth;
  for (int k = 0; k < depth; k += kDepth) {
    p.depth = depth - k < kDepth ? depth - k : kDepth;
    multiply(p, rows, width);
    p.a += kDepth * p.a_step;
    p.b += kDepth * kPanel;
    p.bias = nullptr;
    p.add = true;
  }
}

using Lanes = int __attribute__((vector_size(sizeof(int) * kWidth)));
constexpr Lanes interleaved(int from) {
  Lanes lanes{};
  for (int i = 0; i < kWidth; ++i) lanes[i] = (from + i) / 2 + (i % 2) * kWidth;
  return lanes;
}

/// y [columns, y_row] = factor x [rows, x_row] transposed, for kWidth x kWidth; rows past the end count as zeros.
/// Interleaving the upper with the lower half of the rows, once for each bit of an index, transposes a square.
template <class X>
void transpose_square(const X* x, ptrdiff_t x_row, int rows, float* y, ptrdiff_t y_row, float factor = 1.0f) {
  Vector v[kWidth], w[kWidth];
  for (int i = 0; i < kWidth; ++i) v[i] = i < rows ? load(x + i * x_row) * factor : Vector{};
#pragma GCC unroll 4
  for (int bit = 1; bit < kWidth; bit *= 2) {
#pragma GCC unroll 8
    for (int i = 0; i < kWidth / 2; ++i) {
      w[2 * i] = __builtin_shuffle(v[i], v[i + kWidth / 2], interleaved(0));
      w[2 * i + 1] = __builtin_shuffle(v[i], v[i + kWidth / 2], interleaved(kWidth));
    }
#pragma GCC unroll 16
    for (int i = 0; i < kWidth; ++i) v[i] = w[i];
  }
  for (int i = 0; i < kWidth; ++i) store(y + i * y_row, v[i]);
}

template <class X>
void pack(const X* x, int n, int size, int row, float factor, float* panel, int step) {
  const ptrdiff_t line = ptrdiff_t{step} * kPanel;
  const int full = size / kWidth * kWidth;
  for (int i = 0; i < kPanel; i += kWidth) {
    const int rows = n - i < kWidth ? n - i : kWidth;
    for (int f = 0; f < full; f += kWidth)
      transpose_square(x + ptrdiff_t{i} * row + f, row, rows, panel + f * line + i, line, factor);
  }
  for (int f = full; f < size; ++f)
    for (int i = 0; i < kPanel; ++i)
      panel[f * line + i] = i < n ? static_cast<float>(x[ptrdiff_t{i} * row + f]) * factor : 0.0f;
}

void linear(const float* w, const float* b, const float* x, int n, int in, int out, float* y) {
  multiply_deep(
      {.a = w, .a_row = in, .a_step = 1, .b = x, .depth = in, .c = y, .c_row = kPanel, .bias = b, .add = false}, out,
      in_vectors(n));
}

/// dx [in, n] = w^T dy. Down a column of w each number lies in another line of the cache, and in a wide layer in
/// another page; so one line's width of columns is brought together first.
void multiply_transposed(const float* w, const float* dy, int n, int in, int out, float* dx) {
  constexpr int kLine = 16;
  alignas(64) float columns[kDepth * kLine];
  for (int o = 0; o < out; o += kDepth) {
    const int depth = out - o < kDepth ? out - o : kDepth;
    for (int i = 0; i < in; i += kLine) {
      const int rows = in - i < kLine ? in - i : kLine;
      const float* from = w + static_cast<ptrdiff_t>(o) * in + i;
      if (rows == kLine)
        for (int k = 0; k < depth; ++k, from += in) {
          __builtin_memcpy(columns + k * kLine, from, sizeof(float) * kLine);
          __builtin_prefetch(from + kLine);  // the next ones, while these are used
        }
      else
        for (int k = 0; k < depth; ++k, from += in) __builtin_memcpy(columns + k * kLine, from, sizeof(float) * rows);
      multiply({.a = columns,
                .a_row = 1,
                .a_step = kLine,
                .b = dy + o * kPanel,
                .depth = depth,
                .c = dx + i * kPanel,
                .c_row = kPanel,
                .bias = nullptr,
                .add = o > 0},
               rows, in_vectors(n));
    }
  }
}

void linear_backward(const float* w, const float* x, const float* dy, int n, int in, int out, float* dw, float* db,
                     float* dx) {
  alignas(64) float samples[kPanel * kPanel];  // of up to kPanel features of x, a row for each sample
  for (int f = 0; f < in; f += kPanel) {
    const int features = in - f < kPanel ? in - f : kPanel;
    for (int i = 0; i < features; i += kWidth)
      for (int s = 0; s < n; s += kWidth)
        transpose_square(x + (f + i) * kPanel + s, kPanel, features - i, samples + s * kPanel + i, kPanel);
    multiply({.a = dy,
              .a_row = kPanel,
              .a_step = 1,
              .b = samples,
              .depth = n,
              .c = dw + f,
              .c_row = in,
              .bias = nullptr,
              .add = true},
             out, features);
  }
  for (int o = 0; o < out; ++o) db[o] += ConstArray(dy + o * kPanel, n).sum();
  if (dx) multiply_transposed(w, dy, n, in, out, dx);
}

/// Calls visit(pixel, feature, tap, count) for each output pixel and each row of its window that lies on the picture:
/// `count` features from `feature` on meet as many of a patch from `tap` on.
template <class Visit>
void each_window_row(const NativeWindows& w, Visit visit) {
  const int c = w.channels;
  for (int i = 0; i < w.down; ++i)
    for (int j = 0; j < w.across; ++j) {
      const int top = i * w.stride - w.padding, left = j * w.stride - w.padding;
      const int from = left < 0 ? -left : 0, to = w.width - left < w.kernel ? w.width - left : w.kernel;
      for (int row = 0; row < w.kernel; ++row)
        if (const int y = top + row; y >= 0 && y < w.height)
          visit(i * w.across + j, (y * w.width + left + from) * c, (row * w.kernel + from) * c, (to - from) * c);
    }
}

void convolve(const NativeWindows& windows, const float* w, const float* b, const float* x, int n, int out, float* y) {
  const int patch = windows.kernel * windows.kernel * windows.channels;
  int begun = -1;
  each_window_row(windows, [&](int pixel, int feature, int tap, int count) {
    const bool first = pixel != begun;
    begun = pixel;
    multiply_deep({.a = w + tap,
                   .a_row = patch,
                   .a_step = 1,
                   .b = x + feature * kPanel,
                   .depth = count,
                   .c = y + pixel * out * kPanel,
                   .c_row = kPanel,
                   .bias = first ? b : nullptr,
                   .add = !first},
                  out, in_vectors(n));
  });
}

void convolve_backward(const NativeWindows& windows, const float* w, const float* x, const float* dy, int n, int out,
                       float* room, float* dw, float* db, float* dx) {
  const int patch = windows.kernel * windows.kernel * windows.channels, pixels = windows.down * windows.across;
  alignas(64) float samples[kPanel * kPanel];  // of up to kPanel outputs of a pixel, a row for each sample
  for (int first = 0; first < out; first += kPanel) {
    const int outputs = out - first < kPanel ? out - first : kPanel;
    __builtin_memset(room, 0, sizeof(float) * static_cast<size_t>(patch * outputs));  // dw transposed
    int begun = -1;
    each_window_row(windows, [&](int pixel, int feature, int tap, int count) {
      if (pixel != begun)
        for (int o = 0; o < outputs; o += kWidth)
          for (int s = 0; s < n; s += kWidth)
            transpose_square(dy + (pixel * out + first + o) * kPanel + s, kPanel, outputs - o, samples + s * kPanel + o,
                             kPanel);
      begun = pixel;
      multiply({.a = x + feature * kPanel,
                .a_row = kPanel,
                .a_step = 1,
                .b = samples,
                .depth = n,
                .c = room + tap * outputs,
                .c_row = outputs,
                .bias = nullptr,
                .add = true},
               count, outputs);
    });
    for (int o = 0; o < outputs; ++o)
      for (int i = 0; i < patch; ++i) dw[(first + o) * patch + i] += room[i * outputs + o];
  }
  for (int pixel = 0; pixel < pixels; ++pixel)
    for (int o = 0; o < out; ++o) db[o] += ConstArray(dy + (pixel * out + o) * kPanel, n).sum();
  if (dx == nullptr) return;
  __builtin_memset(dx, 0,
                   sizeof(float) * kPanel * static_cast<size_t>(windows.height * windows.width) *
                       static_cast<size_t>(windows.channels));
  each_window_row(windows, [&](int pixel, int feature, int tap, int count) {
    multiply_deep({.a = w + tap,
                   .a_row = 1,
                   .a_step = patch,
                   .b = dy + pixel * out * kPanel,
                   .depth = out,
                   .c = dx + feature * kPanel,
                   .c_row = kPanel,
                   .bias = nullptr,
                   .add = true},
                  count, in_vectors(n));
  });
}

void max_pool(const NativeWindows& windows, const float* x, float* y) {
  const int row = windows.channels * kPanel;
  int begun = -1;
  each_window_row(windows, [&](int pixel, int feature, int /*tap*/, int count) {
    float* out = y + pixel * row;
    for (int at = 0; at < count * kPanel; at += row) {
      const float* in = x + feature * kPanel + at;
      if (begun != pixel)
        __builtin_memcpy(out, in, sizeof(float) * static_cast<size_t>(row));
      else
        for (int i = 0; i < row; ++i) out[i] = in[i] > out[i] ? in[i] : out[i];
      begun = pixel;
    }
  });
}

void max_pool_backward(const NativeWindows& windows, const float* x, const float* y, const float* dy, float* dx) {
  const int row = windows.channels * kPanel;
  __builtin_memset(dx, 0, sizeof(float) * static_cast<size_t>(windows.height * windows.width * row));
  for (int channel = 0; channel < windows.channels; ++channel) {
    float left[kPanel];  // of dy, until the window's largest is met
    int begun = -1;
    each_window_row(windows, [&](int pixel, int feature, int /*tap*/, int count) {
      const float* largest = y + pixel * row + channel * kPanel;
      if (begun != pixel) __builtin_memcpy(left, dy + pixel * row + channel * kPanel, sizeof left);
      begun = pixel;
      for (int at = 0; at < count * kPanel; at += row) {
        const ptrdiff_t input = (feature + channel) * kPanel + at;
        for (int i = 0; i < kPanel; ++i) {
          const bool met = x[input + i] == largest[i];
          dx[input + i] += met ? left[i] : 0.0f;
          left[i] = met ? 0.0f : left[i];
        }
      }
    });
  }
}

void activate(NativeActivation f, const float* x, float* y, size_t count) {
  const auto n = static_cast<Eigen::Index>(count);
  const ConstArray in(x, n);
  Array out(y, n);
  switch (f) {
    case NativeActivation::linear:
      out = in;
      return;
    case NativeActivation::tanh:
      out = in.tanh();
      return;
    case NativeActivation::relu:
      out = in.max(0.0f);
      return;
    case NativeActivation::silu:
      out = in / (1.0f + (-in).exp());
      return;
    case NativeActivation::gelu:  // exact, as torch's default (Hendrycks and Gimpel 2016)
      for (Eigen::Index i = 0; i < n; ++i) y[i] = 0.5f * x[i] * (1.0f + ::erff(x[i] * 0.70710678f));
      return;
    case NativeActivation::elu:
      out = (in > 0.0f).select(in, in.min(0.0f).exp() - 1.0f);
      return;
  }
}

void activate_backward(NativeActivation f, const float* x, const float* y, float* dy, size_t count) {
  const auto n = static_cast<Eigen::Index>(count);
  const ConstArray in(x, n), out(y, n);
  Array d(dy, n);
  switch (f) {
    case NativeActivation::linear:
      return;
    case NativeActivation::tanh:
      d *= 1.0f - out.square();
      return;
    case NativeActivation::relu:
      d = (out > 0.0f).select(d, 0.0f);
      return;
    case NativeActivation::silu:  // s + x s (1 - s) with s = sigmoid(x)
      for (Eigen::Index i = 0; i < n; ++i) {
        const float s = 1.0f / (1.0f + ::expf(-x[i]));
        dy[i] *= s * (1.0f + x[i] * (1.0f - s));
      }
      return;
    case NativeActivation::gelu:  // Phi(x) + x phi(x)
      for (Eigen::Index i = 0; i < n; ++i)
        dy[i] *= 0.5f * (1.0f + ::erff(x[i] * 0.70710678f)) + x[i] * 0.39894228f * ::expf(-0.5f * x[i] * x[i]);
      return;
    case NativeActivation::elu:
      d *= out.min(0.0f) + 1.0f;
      return;
  }
}

/// Of each sample of a panel, over its features.
struct Statistics {
  float mean[kPanel], scale[kPanel];
  Statistics(const float* x, int n, int size) {
    float variance[kPanel] = {};
    for (float& m : mean) m = 0.0f;
    const float each = 1.0f / static_cast<float>(size);
    for (int f = 0; f < size; ++f)
      for (int i = 0; i < n; ++i) mean[i] += each * x[f * kPanel + i];
    for (int f = 0; f < size; ++f)
      for (int i = 0; i < n; ++i) {
        const float apart = x[f * kPanel + i] - mean[i];
        variance[i] += each * apart * apart;
      }
    for (int i = 0; i < n; ++i) scale[i] = 1.0f / __builtin_sqrtf(variance[i] + 1e-5f);
  }
};

void layer_norm(const float* gain, const float* bias, const float* x, int n, int size, float* y) {
  const Statistics s(x, n, size);
  for (int f = 0; f < size; ++f)
    for (int i = 0; i < n; ++i) y[f * kPanel + i] = (x[f * kPanel + i] - s.mean[i]) * s.scale[i] * gain[f] + bias[f];
}

void layer_norm_backward(const float* gain, const float* x, int n, int size, float* dgain, float* dbias, float* dy) {
  const Statistics s(x, n, size);
  const float each = 1.0f / static_cast<float>(size);
  float mean_d[kPanel] = {}, mean_dx[kPanel] = {}, products[kPanel];
  for (int f = 0; f < size; ++f) {
    const float* d = dy + f * kPanel;
    for (int i = 0; i < n; ++i) {
      products[i] = d[i] * (x[f * kPanel + i] - s.mean[i]) * s.scale[i];
      mean_d[i] += each * gain[f] * d[i];
      mean_dx[i] += each * gain[f] * products[i];
    }
    dgain[f] += ConstArray(products, n).sum();
    dbias[f] += ConstArray(d, n).sum();
  }
  for (int f = 0; f < size; ++f)
    for (int i = 0; i < n; ++i) {
      float& d = dy[f * kPanel + i];
      d = s.scale[i] * (d * gain[f] - mean_d[i] - (x[f * kPanel + i] - s.mean[i]) * s.scale[i] * mean_dx[i]);
    }
}

double sum_squares(const float* x, size_t count) {
  using Half = float __attribute__((vector_size(sizeof(float) * kWidth / 2)));
  using Doubles = double __attribute__((vector_size(sizeof(double) * kWidth / 2)));
  using UnalignedHalf [[gnu::aligned(sizeof(float)), gnu::may_alias]] = Half;
  constexpr size_t kSums = 4, kStep = kSums * kWidth / 2;
  Doubles sums[kSums] = {};
  size_t i = 0;
  for (; i + kStep <= count; i += kStep)
    for (size_t j = 0; j < kSums; ++j) {
      const auto d =
          __builtin_convertvector(Half(*reinterpret_cast<const UnalignedHalf*>(x + i + j * kWidth / 2)), Doubles);
      sums[j] += d * d;
    }
  const Doubles all = (sums[0] + sums[1]) + (sums[2] + sums[3]);
  double sum = 0.0;
  for (int j = 0; j < kWidth / 2; ++j) sum += all[j];
  for (; i < count; ++i) sum += static_cast<double>(x[i]) * static_cast<double>(x[i]);
  return sum;
}

void adam(const AdamStep& s, const float* gradient, float* parameter, float* first, float* second, size_t count) {
  for (size_t i = 0; i < count; ++i) {
    const float g = gradient[i] * s.gradient_scale;
    const float m = first[i] = s.beta1 * first[i] + (1.0f - s.beta1) * g;
    const float v = second[i] = s.beta2 * second[i] + (1.0f - s.beta2) * g * g;
    parameter[i] -= s.lr * m / (__builtin_sqrtf(v) * s.second_scale + s.epsilon);
  }
}

void add(const float* x, float* y, size_t count) {
  for (size_t i = 0; i < count; ++i) y[i] += x[i];
}

void scale(float factor, float* x, size_t count) {
  for (size_t i = 0; i < count; ++i) x[i] *= factor;
}

}  // namespace

#define MYRIAD_JOIN_(a, b) a##b
#define MYRIAD_JOIN(a, b) MYRIAD_JOIN_(a, b)
#define MYRIAD_TEXT_(a) #a
#define MYRIAD_TEXT(a) MYRIAD_TEXT_(a)
const NativeKernels& MYRIAD_JOIN(native_kernels_, MYRIAD_ISA)() {
  static constexpr NativeKernels table{MYRIAD_TEXT(MYRIAD_ISA),
                                       pack<float>,
                                       pack<uint8_t>,
                                       linear,
                                       linear_backward,
                                       convolve,
                                       convolve_backward,
                                       max_pool,
                                       max_pool_backward,
                                       activate,
                                       activate_backward,
                                       layer_norm,
                                       layer_norm_backward,
                                       sum_squares,
                                       adam,
                                       add,
                                       scale};
  return table;
}

}  // namespace myriad
