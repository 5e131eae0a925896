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
                            [&]<class L>(const L& l) {
                              if constexpr (std::is_same_v<L, Conv2d>) packed += packed_size(l);
                              if constexpr (requires { l.padding; }) padded = std::max(padded, padded_size(l));
                            }},
                 layer);
      saved = std::max(saved, std::accumulate(open.begin(), open.end(), size_t{0}));
    }
  }

  static size_t rounded(size_t count) { return (count + kPolicyPack - 1) / kPolicyPack * kPolicyPack; }
  static size_t packed_size(const Conv2d& l) {
    return rounded(static_cast<size_t>(l.outputs)) * (static_cast<size_t>(l.patch_size()) + 1);
  }
  template <class L>
  static size_t padded_size(const L& l) {
    const auto channels = static_cast<int>(l.input_size() / l.height / l.width), border = 2 * l.padding;
    return border == 0 ? 0 : static_cast<size_t>((l.height + border) * (l.width + border) * channels);
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

/// `samples` rows, `pitch` apart -> panel [size][lanes]; lanes without a sample are zero, and nothing reads what
/// becomes of them.
void pack(const float* rows, int samples, int size, int pitch, int lanes, float* panel) {
  for (int j = 0; j < samples; ++j)
    for (int i = 0; i < size; ++i) panel[i * lanes + j] = rows[j * pitch + i];
  for (int j = samples; j < lanes; ++j)
    for (int i = 0; i < size; ++i) panel[i * lanes + j] = 0.0f;
}

/// x = (x - mean) factor + bias by channel, where `factor`, room for one float a channel, is gain / sqrt(var + 1e-5).
/// `weights`: gain, bias, mean, var.
void normalize(const BatchNorm& l, const float* weights, int lanes, float* factor, float* x) {
  const float *bias = weights + l.channels, *mean = bias + l.channels, *var = mean + l.channels;
  for (int c = 0; c < l.channels; ++c) factor[c] = weights[c] / std::sqrt(var[c] + 1e-5f);
  for (int pixel = 0; pixel < l.size / l.channels; ++pixel)
    for (int c = 0; c < l.channels; ++c)
      for (int lane = 0; lane < lanes; ++lane, ++x) *x = (*x - mean[c]) * factor[c] + bias[c];
}

/// y[pixel][channel] = the mean of x, which has its border, in the window.
void average(const AvgPool2d& l, const float* x, float* y) {
  const int row = (l.width + 2 * l.padding) * l.channels;
  const float share = 1.0f / static_cast<float>(l.kernel_height * l.kernel_width);
  for (int i = 0; i < l.output_height(); ++i)
    for (int j = 0; j < l.output_width(); ++j, y += l.channels) {
      std::fill_n(y, l.channels, 0.0f);
      for (int k = 0; k < l.kernel_height * l.kernel_width; ++k) {
        const float* pixel =
            x + (i * l.stride + k / l.kernel_width) * row + (j * l.stride + k % l.kernel_width) * l.channels;
        for (int c = 0; c < l.channels; ++c) y[c] += pixel[c];
      }
      for (int c = 0; c < l.channels; ++c) y[c] *= share;
    }
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

/// Up to the last layer of a picture, and what is inside its residual block or changes single features behind it.
size_t count_row_layers(std::span<const Layer> layers) {
  size_t count = 0;
  int open = 0;
  bool inside = false;  // what was begun before the last of them
  for (size_t i = 0; i < layers.size(); ++i) {
    const Layer& layer = layers[i];
    if (std::holds_alternative<ResidualBegin>(layer)) ++open;
    if (std::holds_alternative<ResidualEnd>(layer)) --open;
    const bool single = std::holds_alternative<Activate>(layer) || std::holds_alternative<Scale>(layer);
    if (is_on_picture(layer)) inside = open > 0;
    if (is_on_picture(layer) || inside || (single && count == i && count > 0)) count = i + 1;
    if (open == 0) inside = false;
  }
  return count;
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
    : spec_(spec.inference_part()),
      kernels_(kernels ? *kernels : policy_kernels()),
      num_weights_(spec_.num_parameters()),
      outputs_(inputs_size(spec.distribution)),
      action_parts_(action_parts(spec.distribution)) {
  check_module(spec);
  make_parts();
  size_t panel = 0, panel_saved = 0, row = 0, row_saved = 0, padded = 0, packed = 0, gathered = 0;
  for (const Part& part : parts_) {
    const Room alone(part.layers.first(part.row_layers)),
        together(part.layers.subspan(part.row_layers + (part.from_rows ? 1 : 0)));
    const int first = part.from_rows ? outputs_of(part.layers[part.row_layers]) : part.features;
    panel = std::max({panel, static_cast<size_t>(first), together.row});
    panel_saved = std::max(panel_saved, together.saved);
    row = std::max(row, alone.row), row_saved = std::max(row_saved, alone.saved);
    padded = std::max(padded, alone.padded), packed += alone.packed;
    if (part.row_layers > 0) gathered = std::max(gathered, static_cast<size_t>(kPanel * part.pitch()));
  }
  joined_size_ = Room::rounded(panel * kPanel);
  const std::pair<float**, size_t> rooms[] = {{&panels_[0], panel * kPanel},
                                              {&panels_[1], panel * kPanel},
                                              {&joined_, static_cast<size_t>(num_joined_) * joined_size_},
                                              {&panel_saved_, panel_saved * kPanel},
                                              {&rows_[0], row},
                                              {&rows_[1], row},
                                              {&row_saved_, row_saved},
                                              {&padded_, padded},
                                              {&packed_, packed},
                                              {&gathered_, gathered}};
  size_t total = kPanel;
  for (const auto& [pointer, size] : rooms) total += Room::rounded(size);
  scratch_.assign(total, 0.0f);
  const auto address = reinterpret_cast<uintptr_t>(scratch_.data());
  float* next = scratch_.data() + (64 - address % 64) % 64 / sizeof(float);
  for (const auto& [pointer, size] : rooms) *pointer = std::exchange(next, next + Room::rounded(size));
}

int EigenPolicy::Part::pitch() const { return static_cast<int>(Room::rounded(static_cast<size_t>(features))); }

/// A network that is all another reads, and that nothing else reads, has its part together with that.
void EigenPolicy::make_parts() {
  std::map<std::string_view, Source> outputs;
  const Network* before = nullptr;
  const auto readers = [&](const std::string& name) {
    return std::ranges::count_if(spec_.networks, [&](const Network& network) {
      return std::ranges::find(network.inputs, name) != network.inputs.end();
    });
  };
  for (const Network& network : spec_.networks) {
    const size_t begin = layers_.size();
    layers_.insert(layers_.end(), network.layers.begin(), network.layers.end());
    const bool streams = !network.layers.empty() && std::holds_alternative<Stream>(network.layers[0]);
    if (before && network.reads_only(before->name) && readers(before->name) == 1 && !streams) {
      parts_.back().end = layers_.size();
      const int size = network.layers.empty() ? outputs[before->name].size : outputs_of(network.layers.back());
      outputs[network.name] = {parts_.size() - 1, size};
    } else {
      add_parts(network, begin, outputs);
    }
    before = &network;
  }
  size_t weights = 0, packed = 0;
  for (Part& part : parts_) place_layers(part, weights, packed);
}

/// Each stream up to the next Stream or Concat, then the rest; `outputs` are what networks give.
void EigenPolicy::add_parts(const Network& network, size_t begin, std::map<std::string_view, Source>& outputs) {
  const auto borders = [](const Layer& layer) {
    return std::holds_alternative<Stream>(layer) || std::holds_alternative<Concat>(layer);
  };
  const auto join = [&](Part& part) {
    part.joined = num_joined_++;
    part.features = 0;
  };
  const auto read = [&](Part& part, Source source) {
    parts_[source.part].readers.push_back({parts_.size(), part.features});
    part.features += source.size;
  };
  std::vector<Source> streams;
  do {
    const Layer* border = begin < layers_.size() && borders(layers_[begin]) ? &layers_[begin++] : nullptr;
    Part part{.begin = begin, .end = begin, .features = spec_.obs_size};
    while (part.end < layers_.size() && !borders(layers_[part.end])) ++part.end;
    begin = part.end;
    if (border && std::holds_alternative<Concat>(*border)) {
      join(part);
      for (const Source& stream : streams) read(part, stream);
    } else if (!network.reads_only(kObsInput)) {
      join(part);
      for (const std::string& input : network.inputs)
        if (input == kObsInput)
          part.obs_at.push_back(std::exchange(part.features, part.features + spec_.obs_size));
        else
          read(part, outputs.at(input));
    }
    streams.push_back({parts_.size(), part.begin == part.end ? part.features : outputs_of(layers_[part.end - 1])});
    parts_.push_back(std::move(part));
  } while (begin < layers_.size());
  outputs[network.name] = streams.back();
}

void EigenPolicy::place_layers(Part& part, size_t& weights, size_t& packed) const {
  part.layers = std::span(layers_).subspan(part.begin, part.end - part.begin);
  part.weights = weights;
  part.packed = packed;
  if (const auto* select = part.layers.empty() ? nullptr : std::get_if<Select>(&part.layers[0]);
      select && part.joined < 0) {
    part.offset = select->offset;
    part.features = select->size;
    part.layers = part.layers.subspan(1);
  }
  part.outputs = part.layers.empty() ? part.features : outputs_of(part.layers.back());
  part.row_layers = count_row_layers(part.layers);
  for (const Layer& layer : part.layers.first(part.row_layers)) {
    part.row_weights += num_parameters_of(layer);
    part.features = outputs_of(layer);
  }
  part.from_rows = part.row_layers > 0 && part.row_layers < part.layers.size() &&
                   std::holds_alternative<Linear>(part.layers[part.row_layers]);
  for (const Layer& layer : part.layers) {
    weights += num_parameters_of(layer);
    if (const auto* conv = std::get_if<Conv2d>(&layer)) packed += Room::packed_size(*conv);
  }
}

void EigenPolicy::load(std::span<const float> values) {
  check(values.size() >= num_weights_, "the policy got {} weights, want {}", values.size(), num_weights_);
  weights_ = values;
  for (const Part& part : parts_) {
    const float* w = values.data() + part.weights;
    float* packed = packed_ + part.packed;
    for (const Layer& layer : part.layers.first(part.row_layers)) {
      if (const auto* conv = std::get_if<Conv2d>(&layer)) packed = pack_weights(*conv, w, packed);
      w += num_parameters_of(layer);
    }
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
  Pass panel{panels_[0], panels_[1], panel_saved_, lanes, nullptr, nullptr};
  for (const Part& part : parts_) {
    run_part(part, obs, samples, panel);
    for (const Place& to : part.readers)
      std::copy_n(panel.x, part.outputs * lanes, joined_panel(parts_[to.part]) + to.feature * lanes);
  }
  write_outputs(panel.x, panel.weights, samples, lanes, out);
  if (spec_.mask_offset >= 0) mask_outputs(obs, samples, out);
}

void EigenPolicy::run_part(const Part& part, const float* obs, int samples, Pass& panel) {
  const int lanes = panel.lanes;
  panel.weights = weights_.data() + part.weights + part.row_weights;
  std::span<const Layer> layers = part.layers.subspan(part.row_layers);
  if (part.row_layers > 0) run_rows(part, obs, samples);
  if (part.from_rows) {
    const auto& l = std::get<Linear>(layers[0]);
    const float* bias = panel.weights + static_cast<size_t>(l.outputs) * static_cast<size_t>(l.inputs);
    if (samples < lanes) std::fill_n(panel.x, l.outputs * lanes, 0.0f);
    kernels_.linear_rows(panel.weights, bias, gathered_, l.inputs, part.pitch(), l.outputs, samples, lanes, panel.x);
    panel.weights = bias + l.outputs;
    layers = layers.subspan(1);
  } else if (part.row_layers > 0) {
    pack(gathered_, samples, part.features, part.pitch(), lanes, panel.x);
  } else if (part.joined >= 0) {
    panel.x = joined_panel(part);
    for (const int at : part.obs_at) pack(obs, samples, spec_.obs_size, spec_.obs_size, lanes, panel.x + at * lanes);
  } else {
    pack(obs + part.offset, samples, part.features, spec_.obs_size, lanes, panel.x);
  }
  for (const Layer& layer : layers) {  // an MLP's without run()'s table: 20 ns of 1.2 us
    if (const auto* linear = std::get_if<Linear>(&layer)) [[likely]]
      run_linear(*linear, panel);
    else if (const auto* activate = std::get_if<Activate>(&layer)) [[likely]]
      kernels_.activate(kernel_of(activate->activation), panel.x, static_cast<size_t>(activate->size * lanes));
    else
      run(layer, panel);
  }
}

/// Each sample through the picture's layers, side by side into gathered_.
void EigenPolicy::run_rows(const Part& part, const float* obs, int samples) {
  const int inputs = inputs_of(part.layers[0]);
  for (int j = 0; j < samples; ++j) {
    Pass row{rows_[0], rows_[1], row_saved_, 1, weights_.data() + part.weights, packed_ + part.packed};
    std::copy_n(obs + j * spec_.obs_size + part.offset, inputs, row.x);
    for (const Layer& layer : part.layers.first(part.row_layers)) run(layer, row);
    std::copy_n(row.x, part.features, gathered_ + j * part.pitch());
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
                        [&](const BatchNorm& l) {
                          normalize(l, pass.weights, pass.lanes, pass.y, pass.x);
                          pass.weights += 4 * l.channels;
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
                        [&](const AvgPool2d& l) {
                          average(l, padded(pass.x, l.height, l.width, l.channels, l.padding, 0.0f), pass.y);
                          std::swap(pass.x, pass.y);
                        },
                        [&](const Select& l) {
                          std::copy_n(pass.x + l.offset * pass.lanes, count(l.size), pass.y);
                          std::swap(pass.x, pass.y);
                        },
                        [](const RandomShift&) {},                   // of training alone
                        [](const Stream&) {}, [](const Concat&) {},  // add_parts() took them out
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

/// The logits of actions that obs [samples, obs_size] forbids.
void EigenPolicy::mask_outputs(const float* obs, int samples, float* out) const {
  for (int j = 0; j < samples; ++j)
    for (const ActionPart& part : action_parts_) {
      const float* mask = obs + j * spec_.obs_size + spec_.mask_offset + part.choice;
      float* logits = out + j * outputs_ + part.input;
      for (int o = 0; o < part.num_choices; ++o)
        if (mask[o] == 0.0f) logits[o] = kMaskedLogit;
    }
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
  for (const ActionPart& part : action_parts_) {
    const float* outputs = head + part.output * lanes;
    float* inputs = out + part.input;
    for (int j = 0; j < samples; ++j)
      for (int o = 0; o < part.num_outputs; ++o) inputs[j * outputs_ + o] = outputs[o * lanes + j];
    const DiagGaussian* gaussian = gaussian_of(part.distribution);
    if (gaussian == nullptr) continue;
    const float clip = spec_.log_std_clip;
    const int n = gaussian->n;
    for (int j = 0; j < samples; ++j)
      for (int o = 0; o < n; ++o) {
        float& value = inputs[j * outputs_ + n + o];
        value = std::clamp(gaussian->free_log_std ? log_std[part.log_std + o] : value, -clip, clip);
      }
  }
}

}  // namespace myriad
