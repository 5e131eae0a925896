#include "env_runners/eigen_policy.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <utility>

#include "env_runners/policy_kernels.hpp"
#include "rl/check.hpp"
#include "rl/overloaded.hpp"

namespace myriad {
namespace {

constexpr int kPanel = 16;

/// The room that some layers need, in floats of one lane.
struct Room {
  size_t row = 0, saved = 0, padded = 0, packed = 0;

  explicit Room(std::span<const Layer> layers) {
    std::vector<size_t> open;
    for (const Layer& layer : layers) {
      const auto size = static_cast<size_t>(std::max(inputs_of(layer), outputs_of(layer)));
      row = std::max(row, size);
      std::visit(Overloaded{[&](const ResidualBegin&) { open.push_back(rounded(size)); },
                            [&](const ResidualEnd&) { open.pop_back(); },
                            [&](const Conv2d& l) {
                              packed += packed_size(l);
                              padded = std::max(padded, padded_size(l.height, l.width, l.inputs, l.padding));
                            },
                            [&](const MaxPool2d& l) {
                              padded = std::max(padded, padded_size(l.height, l.width, l.channels, l.padding));
                            },
                            [](const auto&) {}},
                 layer);
      saved = std::max(saved, std::accumulate(open.begin(), open.end(), size_t{0}));
    }
  }

  static size_t rounded(size_t count) { return (count + kPolicyPack - 1) / kPolicyPack * kPolicyPack; }
  static size_t packed_size(const Conv2d& l) {
    return rounded(static_cast<size_t>(l.outputs)) * (static_cast<size_t>(l.patch_size()) + 1);
  }
  static size_t padded_size(int height, int width, int channels, int padding) {
    return padding == 0 ? 0 : static_cast<size_t>((height + 2 * padding) * (width + 2 * padding) * channels);
  }
};

/// weight [outputs][patch] and bias [outputs] -> bias [rounded], then [patch][rounded], where `rounded` is outputs
/// rounded up and the rest is 0.
float* pack_weights(const Conv2d& l, const float* weight, float* packed) {
  const size_t pitch = Room::rounded(static_cast<size_t>(l.outputs)), patch = static_cast<size_t>(l.patch_size());
  const float* bias = weight + static_cast<size_t>(l.outputs) * patch;
  std::copy_n(bias, l.outputs, packed);
  packed += pitch;
  for (size_t o = 0; o < static_cast<size_t>(l.outputs); ++o)
    for (size_t i = 0; i < patch; ++i) packed[i * pitch + o] = weight[o * patch + i];
  return packed + patch * pitch;
}

/// `samples` rows, `pitch` apart -> panel [size][lanes]; lanes without a sample are zero, and nobody reads what becomes
/// of them.
void pack(const float* rows, int samples, int size, int pitch, int lanes, float* panel) {
  for (int j = 0; j < samples; ++j)
    for (int i = 0; i < size; ++i) panel[i * lanes + j] = rows[j * pitch + i];
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
      outputs_(inputs_size(spec.distribution)),
      layers_(spec.encoder) {
  check_module(spec_);
  layers_.emplace_back(spec_.action_head);
  row_layers_ = count_row_layers();
  const std::span<const Layer> layers = layers_;
  const bool has_rows = row_layers_ > 0;
  from_rows_ = has_rows && std::holds_alternative<Linear>(layers[row_layers_]);
  for (const Layer& layer : layers.first(row_layers_)) row_weights_ += num_parameters_of(layer);
  features_ = inputs_of(layers[row_layers_]);
  const Room alone(layers.first(row_layers_)), together(layers.subspan(row_layers_ + (from_rows_ ? 1 : 0)));
  const auto first = static_cast<size_t>(from_rows_ ? outputs_of(layers[row_layers_]) : features_);
  const size_t panel = kPanel * std::max(first, together.row),
               gathered = has_rows ? static_cast<size_t>(kPanel * pitch()) : 0;
  const std::pair<float**, size_t> parts[] = {
      {&panels_[0], panel},     {&panels_[1], panel},     {&panel_saved_, together.saved * kPanel},
      {&rows_[0], alone.row},   {&rows_[1], alone.row},   {&row_saved_, alone.saved},
      {&padded_, alone.padded}, {&packed_, alone.packed}, {&gathered_, gathered}};
  size_t total = kPanel;
  for (const auto& [pointer, size] : parts) total += Room::rounded(size);
  scratch_.assign(total, 0.0f);
  const auto address = reinterpret_cast<uintptr_t>(scratch_.data());
  float* next = scratch_.data() + (64 - address % 64) % 64 / sizeof(float);
  for (const auto& [pointer, size] : parts) *pointer = std::exchange(next, next + Room::rounded(size));
}

/// Floats between the features of two samples behind the picture's layers.
int EigenPolicy::pitch() const { return static_cast<int>(Room::rounded(static_cast<size_t>(features_))); }

/// Up to the last layer of a picture, and what is inside its residual block or changes single features behind it.
size_t EigenPolicy::count_row_layers() const {
  size_t count = 0;
  int open = 0;
  bool inside = false;  // what was begun before the last of them
  for (size_t i = 0; i < layers_.size(); ++i) {
    const Layer& layer = layers_[i];
    if (std::holds_alternative<ResidualBegin>(layer)) ++open;
    if (std::holds_alternative<ResidualEnd>(layer)) --open;
    const bool picture = std::holds_alternative<Conv2d>(layer) || std::holds_alternative<MaxPool2d>(layer) ||
                         std::holds_alternative<ChannelsLast>(layer);
    const bool single = std::holds_alternative<Activate>(layer) || std::holds_alternative<Scale>(layer);
    if (picture) inside = open > 0;
    if (picture || inside || (single && count == i && count > 0)) count = i + 1;
    if (open == 0) inside = false;
  }
  return count;
}

void EigenPolicy::load(std::span<const float> values) {
  check(values.size() >= num_weights_, "the policy got {} weights, want {}", values.size(), num_weights_);
  weights_ = values;
  const float* w = values.data();
  float* packed = packed_;
  for (const Layer& layer : std::span(layers_).first(row_layers_)) {
    if (const auto* conv = std::get_if<Conv2d>(&layer)) packed = pack_weights(*conv, w, packed);
    w += num_parameters_of(layer);
  }
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
  Pass panel{panels_[0], panels_[1], panel_saved_, lanes, weights_.data() + row_weights_, nullptr};
  std::span<const Layer> layers = std::span(layers_).subspan(row_layers_);
  if (row_layers_ > 0) run_rows(obs, samples);
  if (from_rows_) {
    const auto& l = std::get<Linear>(layers[0]);
    const float* bias = panel.weights + static_cast<size_t>(l.outputs) * static_cast<size_t>(l.inputs);
    if (samples < lanes) std::fill_n(panel.x, l.outputs * lanes, 0.0f);
    kernels_.linear_rows(panel.weights, bias, gathered_, l.inputs, pitch(), l.outputs, samples, lanes, panel.x);
    panel.weights = bias + l.outputs;
    layers = layers.subspan(1);
  } else {
    pack(row_layers_ > 0 ? gathered_ : obs, samples, features_, row_layers_ > 0 ? pitch() : features_, lanes, panel.x);
  }
  for (const Layer& layer : layers) {  // an MLP's without run()'s table: 20 ns of 1.2 us
    if (const auto* linear = std::get_if<Linear>(&layer)) [[likely]]
      run_linear(*linear, panel);
    else if (const auto* activate = std::get_if<Activate>(&layer)) [[likely]]
      kernels_.activate(kernel_of(activate->activation), panel.x, static_cast<size_t>(activate->size * lanes));
    else
      run(layer, panel);
  }
  write_outputs(panel.x, panel.weights, samples, lanes, out);
}

/// Each sample through the picture's layers, side by side into gathered_.
void EigenPolicy::run_rows(const float* obs, int samples) {
  for (int j = 0; j < samples; ++j) {
    Pass row{rows_[0], rows_[1], row_saved_, 1, weights_.data(), packed_};
    std::copy_n(obs + j * spec_.obs_size, spec_.obs_size, row.x);
    for (const Layer& layer : std::span(layers_).first(row_layers_)) run(layer, row);
    std::copy_n(row.x, features_, gathered_ + j * pitch());
  }
}

inline void EigenPolicy::run_linear(const Linear& l, Pass& pass) {
  const float* bias = pass.weights + static_cast<size_t>(l.outputs) * static_cast<size_t>(l.inputs);
  if (pass.lanes == 1)
    kernels_.linear_rows(pass.weights, bias, pass.x, l.inputs, 0, l.outputs, 1, 1, pass.y);
  else
    kernels_.linear(pass.weights, bias, pass.x, l.inputs, l.outputs, pass.lanes, pass.y);
  pass.weights = bias + l.outputs;
  std::swap(pass.x, pass.y);
}

void EigenPolicy::run(const Layer& layer, Pass& pass) {
  const auto count = [&](int size) { return static_cast<size_t>(size) * static_cast<size_t>(pass.lanes); };
  const auto window = [](const auto& l, int inputs, int outputs) {
    return PolicyWindow{l.height + 2 * l.padding, l.width + 2 * l.padding, inputs, outputs, l.kernel, l.stride,
                        l.output_height(),        l.output_width()};
  };
  std::visit(Overloaded{[&](const Linear& l) { run_linear(l, pass); },
                        [&](const Activate& l) { kernels_.activate(kernel_of(l.activation), pass.x, count(l.size)); },
                        [&](const LayerNorm& l) {
                          kernels_.layer_norm(pass.weights, pass.weights + l.size, pass.x, l.size, pass.lanes);
                          pass.weights += 2 * l.size;
                        },
                        [&](const Scale& l) { kernels_.scale(l.factor, pass.x, count(l.size), pass.x); },
                        [&](const ChannelsLast& l) {
                          const int pixels = l.height * l.width;
                          for (int p = 0; p < pixels; ++p)
                            for (int c = 0; c < l.channels; ++c)
                              std::copy_n(pass.x + (c * pixels + p) * l.depth, l.depth,
                                          pass.y + (p * l.channels + c) * l.depth);
                          std::swap(pass.x, pass.y);
                        },
                        [&](const Conv2d& l) {
                          const float* x = padded(pass.x, l.height, l.width, l.inputs, l.padding, 0.0f);
                          kernels_.convolve(window(l, l.inputs, l.outputs), pass.packed, x, pass.y);
                          pass.packed += Room::packed_size(l);
                          pass.weights += static_cast<size_t>(l.outputs) * (static_cast<size_t>(l.patch_size()) + 1);
                          std::swap(pass.x, pass.y);
                        },
                        [&](const MaxPool2d& l) {
                          const float* x = padded(pass.x, l.height, l.width, l.channels, l.padding, -INFINITY);
                          kernels_.max_pool(window(l, l.channels, l.channels), x, pass.y);
                          std::swap(pass.x, pass.y);
                        },
                        [&](const ResidualBegin& l) {
                          std::copy_n(pass.x, count(l.size), pass.saved);
                          pass.saved += Room::rounded(count(l.size));
                        },
                        [&](const ResidualEnd& l) {
                          pass.saved -= Room::rounded(count(l.size));
                          kernels_.add(pass.saved, count(l.size), pass.x);
                        }},
             layer);
}

/// x [height, width, channels] with a border around it; x itself where there is none.
const float* EigenPolicy::padded(const float* x, int height, int width, int channels, int padding, float border) {
  if (padding == 0) return x;
  const int side = padding * channels, row = width * channels + 2 * side;
  float* to = padded_;
  const auto fill = [&](int n) { to = std::fill_n(to, n, border); };
  fill(padding * row);
  for (int y = 0; y < height; ++y) {
    fill(side);
    to = std::copy_n(x + y * width * channels, width * channels, to);
    fill(side);
  }
  fill(padding * row);
  return padded_;
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
