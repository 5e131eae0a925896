#include "env_runners/eigen_policy.hpp"

#include <algorithm>
#include <cstdint>

#include "env_runners/policy_kernels.hpp"
#include "rl/check.hpp"
#include "rl/overloaded.hpp"

namespace myriad {
namespace {

constexpr int kPanel = 16;

size_t widest_layer(const ModuleSpec& spec) {
  int widest = std::max({spec.obs_size, spec.action_head.inputs, spec.action_head.outputs});
  for (const Layer& layer : spec.encoder)
    widest = std::max(widest, std::visit(Overloaded{[](const Linear& l) { return std::max(l.inputs, l.outputs); },
                                                    [](const Activate& l) { return l.size; },
                                                    [](const LayerNorm& l) { return l.size; }},
                                         layer));
  return static_cast<size_t>(widest);
}

/// rows [samples, size] -> panel [size][lanes]; lanes without a sample are zero, and nobody reads what becomes of them.
void pack(const float* rows, int samples, int size, int lanes, float* panel) {
  for (int j = 0; j < samples; ++j)
    for (int i = 0; i < size; ++i) panel[i * lanes + j] = rows[j * size + i];
  for (int j = samples; j < lanes; ++j)
    for (int i = 0; i < size; ++i) panel[i * lanes + j] = 0.0f;
}

PolicyActivation kernel_of(Activation activation) {
  switch (activation) {
    case Activation::linear:
      return PolicyActivation::linear;
    case Activation::tanh:
      return PolicyActivation::tanh;
    case Activation::relu:
      return PolicyActivation::relu;
    case Activation::silu:
      return PolicyActivation::silu;
    case Activation::gelu:
      return PolicyActivation::gelu;
    case Activation::elu:
      return PolicyActivation::elu;
  }
  fail(Exit::internal, "internal", "activation {} has no kernel", static_cast<int>(activation));
}

}  // namespace

const PolicyKernels& policy_kernels() {
  // The x86-64 levels' marks: v4 is AVX-512 F, BW, CD, DQ and VL; v3 adds AVX2, FMA and BMI to v2.
  static const PolicyKernels& best = []() -> const PolicyKernels& {
    __builtin_cpu_init();
    const bool v3 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("bmi") &&
                    __builtin_cpu_supports("bmi2");
    const bool v4 = v3 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512cd") && __builtin_cpu_supports("avx512dq") &&
                    __builtin_cpu_supports("avx512vl");
    return v4 ? policy_kernels_v4() : v3 ? policy_kernels_v3() : policy_kernels_v2();
  }();
  return best;
}

EigenPolicy::EigenPolicy(const ModuleSpec& spec, const PolicyKernels* kernels)
    : spec_(spec),
      kernels_(kernels ? *kernels : policy_kernels()),
      num_weights_(spec.num_inference_parameters()),
      outputs_(inputs_size(spec.distribution)) {
  const size_t panel = widest_layer(spec) * kPanel;
  scratch_.assign(2 * panel + kPanel, 0.0f);
  const auto address = reinterpret_cast<uintptr_t>(scratch_.data());
  panels_[0] = scratch_.data() + (64 - address % 64) % 64 / sizeof(float);
  panels_[1] = panels_[0] + panel;
}

void EigenPolicy::load(std::span<const float> values) {
  check(values.size() >= num_weights_, "the policy got {} weights, want {}", values.size(), num_weights_);
  weights_ = values;
}

void EigenPolicy::forward(const float* obs, size_t n, float* action_dist_inputs) {
  check(!weights_.empty(), "the policy has no weights yet");
  while (n > 0) {
    const int samples = static_cast<int>(std::min<size_t>(n, kPanel));
    forward_panel(obs, samples, samples > 8 ? 16 : samples > 4 ? 8 : 4, action_dist_inputs);
    obs += samples * spec_.obs_size;
    action_dist_inputs += samples * outputs_;
    n -= static_cast<size_t>(samples);
  }
}

void EigenPolicy::forward_panel(const float* obs, int samples, int lanes, float* out) {
  float *x = panels_[0], *y = panels_[1];
  const float* w = weights_.data();
  const auto linear = [&](const Linear& l) {
    const float* bias = w + static_cast<size_t>(l.outputs) * static_cast<size_t>(l.inputs);
    kernels_.linear(w, bias, x, l.inputs, l.outputs, lanes, y);
    std::swap(x, y);
    w = bias + l.outputs;
  };
  pack(obs, samples, spec_.obs_size, lanes, x);
  for (const Layer& layer : spec_.encoder)
    std::visit(Overloaded{linear,
                          [&](const Activate& l) {
                            kernels_.activate(kernel_of(l.activation), x, static_cast<size_t>(l.size * lanes));
                          },
                          [&](const LayerNorm& l) {
                            kernels_.layer_norm(w, w + l.size, x, l.size, lanes);
                            w += 2 * l.size;
                          }},
               layer);
  linear(spec_.action_head);
  write_outputs(x, w, samples, lanes, out);
}

/// head [outputs][lanes] -> out [samples, num_outputs]; `log_std` is what follows the head in the buffer.
void EigenPolicy::write_outputs(const float* head, const float* log_std, int samples, int lanes, float* out) const {
  const auto unpack = [&](int size) {
    for (int j = 0; j < samples; ++j)
      for (int o = 0; o < size; ++o) out[j * outputs_ + o] = head[o * lanes + j];
  };
  std::visit(Overloaded{[&](const Categorical& d) { unpack(d.n); }, [&](const MultiCategorical&) { unpack(outputs_); },
                        [&](const DiagGaussian& d) {
                          unpack(d.free_log_std ? d.n : 2 * d.n);
                          const float clip = spec_.log_std_clip;
                          for (int j = 0; j < samples; ++j)
                            for (int o = 0; o < d.n; ++o) {
                              float& value = out[j * outputs_ + d.n + o];
                              value = std::clamp(d.free_log_std ? log_std[o] : value, -clip, clip);
                            }
                        }},
             spec_.distribution);
}

}  // namespace myriad
