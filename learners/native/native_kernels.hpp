// The arithmetic of NativeModule and Optimizer as plain loops over plain pointers, one table a CPU generation.
//
// native_kernels.cpp is compiled three times (x86-64-v2, v3, v4) and the best table the CPU supports is chosen once at
// run time, so that what ships needs no -march=native. Only pointers cross this border: no template of the standard
// library may be instantiated behind it, or the linker could pick an AVX-512 copy for an older CPU.
//
// They work on panels: 64 samples, feature by feature, X [size, 64]. Then every product is sums of a weight times a few
// vectors of samples, whatever the sizes of the layers, and no weight has to be rearranged. Only the first n samples of
// a panel count, and are computed, in whole vectors; the rest may hold anything. Every function is single-threaded.
#pragma once

#include <cstddef>
#include <cstdint>

namespace myriad {

constexpr int kPanel = 64;  ///< samples

/// Mirrors Activation: the kernels see no other header.
enum class NativeActivation : int { linear, tanh, relu, silu, gelu, elu };

struct AdamStep {
  float lr;  ///< divided by 1 - beta1^t
  float beta1, beta2;
  float epsilon;
  float second_scale;    ///< 1 / sqrt(1 - beta2^t)
  float gradient_scale;  ///< what global-norm clipping leaves, 1 without
};

/// Windows of kernel x kernel pixels, `stride` apart, on a picture [height, width, channels] whose border is `padding`
/// wide.
struct NativeWindows {
  int height, width, channels, kernel, stride, padding;
  int across, down;  ///< windows side by side, and one below the other
};

struct NativeKernels {
  const char* isa;

  /// Feature f of the first `size` columns of x [n, row], times `factor`, becomes line f * step of panel [.., 64];
  /// zeros for samples from n on, n <= 64.
  void (*pack)(const float* x, int n, int size, int row, float factor, float* panel, int step);
  void (*pack_bytes)(const uint8_t* x, int n, int size, int row, float factor, float* panel, int step);

  /// y [out, 64] = w [out, in] x [in, 64] + b.
  void (*linear)(const float* w, const float* b, const float* x, int n, int in, int out, float* y);
  /// dw [out, in] += dy x^T, db [out] += sum of dy, dx [in, 64] = w^T dy (dx may be null).
  void (*linear_backward)(const float* w, const float* x, const float* dy, int n, int in, int out, float* dw, float* db,
                          float* dx);

  /// y [down, across, out, 64] = w [out, kernel, kernel, channels] x [height, width, channels, 64] + b, the border 0.
  void (*convolve)(const NativeWindows& windows, const float* w, const float* b, const float* x, int n, int out,
                   float* y);
  /// dw, db += and dx = as linear_backward's; `room`: kernel * kernel * channels * 64 floats.
  void (*convolve_backward)(const NativeWindows& windows, const float* w, const float* x, const float* dy, int n,
                            int out, float* room, float* dw, float* db, float* dx);
  /// y [down, across, channels, 64] = the largest of each window, where the border is never it.
  void (*max_pool)(const NativeWindows& windows, const float* x, float* y);
  /// dx [height, width, channels, 64] = dy where x is the first of its window that is y.
  void (*max_pool_backward)(const NativeWindows& windows, const float* x, const float* y, const float* dy, float* dx);

  /// y = f(x); y may be x.
  void (*activate)(NativeActivation f, const float* x, float* y, size_t count);
  /// dy *= f'(x), where tanh, relu and elu look at y only.
  void (*activate_backward)(NativeActivation f, const float* x, const float* y, float* dy, size_t count);

  /// y = (x - mean) / sqrt(var + 1e-5) * gain + bias, a sample at a time (Ba et al. 2016); x and y [size, 64].
  void (*layer_norm)(const float* gain, const float* bias, const float* x, int n, int size, float* y);
  /// dgain, dbias +=; dy becomes dx.
  void (*layer_norm_backward)(const float* gain, const float* x, int n, int size, float* dgain, float* dbias,
                              float* dy);

  /// Sum of squares in double precision.
  double (*sum_squares)(const float* x, size_t count);
  void (*adam)(const AdamStep& step, const float* gradient, float* parameter, float* first, float* second,
               size_t count);
  void (*add)(const float* x, float* y, size_t count);  ///< y += x
  void (*scale)(float factor, float* x, size_t count);  ///< x *= factor
};

/// The best table this CPU supports.
const NativeKernels& native_kernels();

const NativeKernels& native_kernels_v2();
const NativeKernels& native_kernels_v3();
const NativeKernels& native_kernels_v4();

}  // namespace myriad
