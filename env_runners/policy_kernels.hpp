// The arithmetic of EigenPolicy on panels, one table a CPU generation.
//
// policy_kernels.cpp is compiled for x86-64-v2, v3 and v4 with Eigen's namespace renamed each time; the best table the
// CPU supports is chosen once at run time. Only pointers cross this border: a template instantiated on both sides could
// be linked in its AVX-512 copy for an older CPU.
//
// A panel is feature-major, x[feature][lanes] with lanes = 16, 8 or 4, 64-byte aligned and padded to 16 floats.
#pragma once

#include <cstddef>

namespace myriad {

/// Mirrors Activation: the kernels see no other header.
enum class PolicyActivation : int { linear, tanh, relu, silu, gelu, elu };

struct PolicyKernels {
  const char* isa;
  /// y[out][lanes] = b[o] + sum over i, in order, of w[o][i] x[i][:].
  void (*linear)(const float* w, const float* b, const float* x, int in, int out, int lanes, float* y);
  /// x = f(x) for `count` floats, rounded up to 16.
  void (*activate)(PolicyActivation f, float* x, size_t count);
  /// x = (x - mean) / sqrt(var + 1e-5) * gain + bias over the features of each lane (Ba et al. 2016).
  void (*layer_norm)(const float* gain, const float* bias, float* x, int size, int lanes);
};

/// The best table this CPU supports.
const PolicyKernels& policy_kernels();

const PolicyKernels& policy_kernels_v2();
const PolicyKernels& policy_kernels_v3();
const PolicyKernels& policy_kernels_v4();

}  // namespace myriad
