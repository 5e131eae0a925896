// Compiled once for each CPU generation, with MYRIAD_ISA = v2 | v3 | v4 and Eigen's namespace renamed alike
// (-DEigen=...).
#include "learners/native_kernels.hpp"

#include <Eigen/Core>
#include <cmath>

namespace myriad {
namespace {

using Columns = Eigen::Map<Eigen::MatrixXf>;
using ConstColumns = Eigen::Map<const Eigen::MatrixXf>;
using Weight = Eigen::Map<Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>>;
using ConstWeight = Eigen::Map<const Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>>;
using Vector = Eigen::Map<Eigen::VectorXf>;
using ConstVector = Eigen::Map<const Eigen::VectorXf>;
using Array = Eigen::Map<Eigen::ArrayXf>;
using ConstArray = Eigen::Map<const Eigen::ArrayXf>;

void linear(const float* w, const float* b, const float* x, int n, int in, int out, float* y) {
  const ConstColumns inputs(x, in, n);
  if (out == 1) {  // a value head: one dot product a sample
    Vector outputs(y, n);
    outputs.noalias() = inputs.transpose() * ConstVector(w, in);
    outputs.array() += *b;
    return;
  }
  Columns outputs(y, out, n);
  outputs.noalias() = ConstWeight(w, out, in) * inputs;
  outputs.colwise() += ConstVector(b, out);
}

void linear_backward(const float* w, const float* x, const float* dy, int n, int in, int out, float* dw, float* db,
                     float* dx) {
  const ConstColumns inputs(x, in, n);
  if (out == 1) {
    const ConstVector gradient(dy, n);
    Vector(dw, in).noalias() += inputs * gradient;
    *db += gradient.sum();
    if (dx) Columns(dx, in, n).noalias() = ConstVector(w, in) * gradient.transpose();
    return;
  }
  const ConstColumns gradient(dy, out, n);
  Weight(dw, out, in).noalias() += gradient * inputs.transpose();
  Vector(db, out) += gradient.rowwise().sum();
  if (dx) Columns(dx, in, n).noalias() = ConstWeight(w, out, in).transpose() * gradient;
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

void layer_norm(const float* gain, const float* bias, const float* x, int n, int size, float* y) {
  const ConstArray g(gain, size), b(bias, size);
  for (int i = 0; i < n; ++i) {
    const ConstArray in(x + static_cast<ptrdiff_t>(i) * size, size);
    const float mean = in.mean();
    const float scale = 1.0f / ::sqrtf((in - mean).square().mean() + 1e-5f);
    Array(y + static_cast<ptrdiff_t>(i) * size, size) = (in - mean) * scale * g + b;
  }
}

void layer_norm_backward(const float* gain, const float* x, int n, int size, float* dgain, float* dbias, float* dy) {
  const ConstArray g(gain, size);
  Array dg(dgain, size), db(dbias, size);
  for (int i = 0; i < n; ++i) {
    const ConstArray in(x + static_cast<ptrdiff_t>(i) * size, size);
    Array d(dy + static_cast<ptrdiff_t>(i) * size, size);
    const float mean = in.mean();
    const float scale = 1.0f / ::sqrtf((in - mean).square().mean() + 1e-5f);
    dg += d * (in - mean) * scale;
    db += d;
    const float mean_d = (d * g).mean();
    const float mean_dx = (d * g * (in - mean)).mean() * scale;
    d = scale * (d * g - mean_d - (in - mean) * scale * mean_dx);
  }
}

double sum_squares(const float* x, size_t count) {
  return ConstArray(x, static_cast<Eigen::Index>(count)).cast<double>().square().sum();
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

}  // namespace

#define MYRIAD_JOIN_(a, b) a##b
#define MYRIAD_JOIN(a, b) MYRIAD_JOIN_(a, b)
#define MYRIAD_TEXT_(a) #a
#define MYRIAD_TEXT(a) MYRIAD_TEXT_(a)
const NativeKernels& MYRIAD_JOIN(native_kernels_, MYRIAD_ISA)() {
  static constexpr NativeKernels table{MYRIAD_TEXT(MYRIAD_ISA),
                                       linear,
                                       linear_backward,
                                       activate,
                                       activate_backward,
                                       layer_norm,
                                       layer_norm_backward,
                                       sum_squares,
                                       adam,
                                       add};
  return table;
}

}  // namespace myriad
