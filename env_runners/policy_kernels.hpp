// The arithmetic of EigenPolicy on panels, one table a CPU generation.
//
// policy_kernels.cpp is compiled for x86-64-v2, v3 and v4 with Eigen's namespace renamed each time; the best table the
// CPU supports is chosen once at run time. Only pointers cross this border: a template instantiated on both sides could
// be linked in its AVX-512 copy for an older CPU.
//
// A panel is feature-major, x[feature][lanes] with lanes = 16, 8 or 4, 64-byte aligned and padded to 16 floats.
// Pictures are one sample's, [height][width][channels]: there the SIMD lanes are channels.
#pragma once

#include <cstddef>

namespace myriad {

/// Mirrors Activation: the kernels see no other header.
enum class PolicyActivation : int { linear, tanh, relu, silu, gelu, elu };

/// Conv2d (or MaxPool2d, where inputs are outputs), whose sides come with their padding.
struct PolicyWindow {
  int height, width, inputs, outputs, kernel, stride, output_height, output_width;
};
/// Packed weights have the bias first and then a row for each element of a patch, of the outputs rounded up to this.
inline constexpr int kPolicyPack = 16;

struct PolicyKernels {
  const char* isa;
  /// y[out][lanes] = b[o] + sum over i, in order, of w[o][i] x[i][:].
  void (*linear)(const float* w, const float* b, const float* x, int in, int out, int lanes, float* y);
  /// The same from rows x[sample][pitch] to a panel, where a sum runs over every so many inputs at once: for many
  /// inputs, and fast for one sample.
  void (*linear_rows)(const float* w, const float* b, const float* x, int in, int pitch, int out, int samples,
                      int lanes, float* y);
  /// x = f(x) for `count` floats, rounded up to 16.
  void (*activate)(PolicyActivation f, float* x, size_t count);
  /// x = (x - mean) / sqrt(var + 1e-5) * gain + bias over the features of each lane, or of the
  /// only one (Ba et al. 2016).
  void (*layer_norm)(const float* gain, const float* bias, float* x, int size, int lanes);
  /// y = factor x for `count` floats; y, aligned to 64 bytes, may be x.
  void (*scale)(float factor, const float* x, size_t count, float* y);
  /// y += x for `count` floats, rounded up to 16.
  void (*add)(const float* x, size_t count, float* y);
  /// y[pixel][output] = bias + sum over rows, columns and channels of the patch, in order, of weight times x. `packed`
  /// is 64-byte aligned.
  void (*convolve)(const PolicyWindow& window, const float* packed, const float* x, float* y);
  /// y[pixel][channel] = the largest of x in the window.
  void (*max_pool)(const PolicyWindow& window, const float* x, float* y);
};

/// The best table this CPU supports.
const PolicyKernels& policy_kernels();

const PolicyKernels& policy_kernels_v2();
const PolicyKernels& policy_kernels_v3();
const PolicyKernels& policy_kernels_v4();

}  // namespace myriad
