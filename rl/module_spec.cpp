#include "rl/module_spec.hpp"

#include <Eigen/Dense>
#include <algorithm>
#include <cctype>
#include <cmath>
#include <map>
#include <numeric>
#include <set>
#include <utility>

#include "rl/action_mask.hpp"
#include "rl/check.hpp"
#include "rl/hash.hpp"
#include "rl/overloaded.hpp"

namespace myriad {
namespace {

constexpr std::array<std::string_view, 6> kActivations{"linear", "tanh", "relu", "silu", "gelu", "elu"};

constexpr std::array<std::string_view, 5> kPresets{"mlp", "nature_cnn", "impala_resnet", "impoola_cnn", "minatar_cnn"};

template <class L>
int64_t input_size(const L& l) {
  if constexpr (requires { l.input_size(); })
    return l.input_size();
  else
    return l.size;
}
template <class L>
int64_t output_size(const L& l) {
  if constexpr (requires { l.output_size(); })
    return l.output_size();
  else
    return l.size;
}
template <class L>
constexpr bool kHasTensors = requires(const L& l) {
  l.tensors();
};
template <class L>
std::vector<LayerTensor> tensors(const L& l) {
  if constexpr (kHasTensors<L>)
    return l.tensors();
  else
    return {};
}

size_t count_of(const std::vector<int>& shape) {
  return std::accumulate(shape.begin(), shape.end(), size_t{1},
                         [](size_t a, int b) { return a * static_cast<size_t>(b); });
}

std::string layers_text(const std::vector<Layer>& layers) {
  std::string text;
  const auto begins = [&] { return text.ends_with("(") || text.ends_with("{"); };
  const auto arrow = [&] { return text.empty() || begins() ? "" : " -> "; };
  const auto space = [&] { return begins() ? "" : " "; };
  for (const Layer& layer : layers)
    text += std::visit(
        Overloaded{[&](const ResidualBegin&) { return fmt::format("{}+(", arrow()); },
                   [&](const ResidualEnd&) { return std::string(")"); },
                   [&](const Stream&) { return std::string(text.empty() ? "{" : "} {"); },
                   [&](const Concat&) { return std::string("}"); },
                   [&]<class L>(const L& l) { return (requires { L::kIsSuffix; } ? space() : arrow()) + l.text(); }},
        layer);
  return text;
}

std::string gaussian_text(std::string_view name, const DiagGaussian& d) {
  return fmt::format("{} {}{}", name, d.n, d.free_log_std ? "" : " with state-dependent std");
}

/// As an ActionDistribution of its own.
ActionDistribution whole(const PartDistribution& part) {
  return std::visit([](const auto& d) { return ActionDistribution(d); }, part);
}

std::string distribution_text(const ActionDistribution& distribution) {
  return std::visit(
      Overloaded{[](const Categorical& d) { return fmt::format("categorical {}", d.n); },
                 [](const MultiCategorical& d) { return fmt::format("categorical {}", fmt::join(d.nvec, "+")); },
                 [](const DiagGaussian& d) { return gaussian_text("gaussian", d); },
                 [](const SquashedGaussian& d) { return gaussian_text("squashed gaussian", d); },
                 [](const Beta& d) { return fmt::format("beta {}", d.n); },
                 [](const EpsilonGreedy& d) { return fmt::format("epsilon-greedy {}", d.n); },
                 [](const Composite& d) {
                   std::vector<std::string> parts;
                   for (const PartDistribution& part : d.parts) parts.push_back(distribution_text(whole(part)));
                   return fmt::format("({})", fmt::join(parts, ", "));
                 }},
      distribution);
}

/// The networks in one line. A network that another reads, and nothing else, is in line with the first that does.
std::string networks_text(const ModuleSpec& spec) {
  std::set<std::string_view> said;
  const auto chain = [&](const auto& self, const Network& network) -> std::string {
    std::string from;
    if (network.reads_only(kObsInput))
      from = said.empty() ? std::to_string(spec.obs_size) : "";
    else if (const Network* source = network.inputs.size() == 1 ? spec.find(network.inputs[0]) : nullptr)
      from = said.contains(source->name) ? "shares the " + source->name : self(self, *source);
    else
      from = fmt::format("{}", fmt::join(network.inputs, " + "));
    said.insert(network.name);
    std::vector<Layer> layers = network.layers;
    std::string last;
    if (network.name == kPolicyNetwork) {
      last = (spec.mask_offset < 0 ? "" : "masked ") + distribution_text(spec.distribution);
      if (!layers.empty() && std::holds_alternative<Linear>(layers.back())) layers.pop_back();
    }
    for (const std::string& part : {layers_text(layers), last})
      if (!part.empty()) from += (from.empty() ? "" : " -> ") + part;
    return from;
  };
  std::string text;
  for (const Network& network : spec.networks) {
    const auto in_line = [&](const Network& other) { return other.reads_only(network.name); };
    if (std::ranges::any_of(spec.networks, in_line)) continue;
    const std::string label = network.name == kValueNetwork ? "value" : network.name;
    if (!text.empty() || label != kPolicyNetwork) text += fmt::format("{}{} ", text.empty() ? "" : "; ", label);
    text += chain(chain, network);
  }
  return spec.is_q_network() ? text + "; value: the greatest" : text;
}

/// The structure as one line: all that both executors must agree on, and nothing of how parameters begin.
std::string structure(const ModuleSpec& spec) {
  const auto layers = [](const std::vector<Layer>& list) {
    std::string text;
    for (const Layer& layer : list)
      text += std::visit(
          Overloaded{[](const Linear& l) { return fmt::format("linear {}x{};", l.outputs, l.inputs); },
                     [](const Activate& l) { return fmt::format("{} {};", name_of(l.activation), l.size); },
                     []<class L>(const L& l) {
                       std::string all(L::kKind);
                       L::fields(l, Overloaded{[&](std::string_view, int value) { all += fmt::format(" {}", value); },
                                               [&](std::string_view name, float value) {
                                                 if (name != "gain" && name != "momentum")
                                                   all += fmt::format(" {}", value);
                                               },
                                               [](std::string_view, Initializer) {}});
                       return all + ';';
                     }},
          layer);
    return text;
  };
  std::string text = fmt::format("obs {}|", spec.obs_size);
  for (const Network& network : spec.networks)
    text += fmt::format("{}({}){}: {}|", network.name, fmt::join(network.inputs, ","), network.acts ? " acts" : "",
                        layers(network.layers));
  return fmt::format("{}{}|clip {}{}", text, distribution_text(spec.distribution), spec.log_std_clip,
                     spec.mask_offset < 0 ? "" : fmt::format("|mask {}", spec.mask_offset));
}

/// A weight as a matrix: `inputs` and `outputs` are what one output sees and one input reaches.
struct Matrix {
  int rows, columns;
  double inputs, outputs;
};

/// Rows (or columns, where there are fewer) of a normal matrix made orthonormal: Saxe et al. 2014, "Exact solutions to
/// the nonlinear dynamics of learning in deep linear neural networks".
void fill_orthogonal(const Matrix& m, float gain, RandomStream& random, float* out) {
  const auto [rows, length] = std::minmax({m.rows, m.columns});
  Eigen::MatrixXd basis(length, rows);
  for (double& x : basis.reshaped()) x = random.normal();
  const Eigen::HouseholderQR<Eigen::MatrixXd> qr(basis);
  basis = qr.householderQ() * Eigen::MatrixXd::Identity(length, rows);
  basis *= qr.matrixQR().diagonal().array().sign().matrix().asDiagonal();  // as Gram-Schmidt's, whose R is positive
  if (m.columns < m.rows) basis.transposeInPlace();
  for (const double x : basis.reshaped()) *out++ = gain * static_cast<float>(x);
}

void fill_uniform(const Matrix& m, float gain, double bound, RandomStream& random, float* out) {
  const size_t count = static_cast<size_t>(m.rows) * static_cast<size_t>(m.columns);
  for (size_t i = 0; i < count; ++i) out[i] = gain * static_cast<float>(random.uniform(-bound, bound));
}

void fill_weight(const Matrix& m, Initializer initializer, float gain, RandomStream& random, float* out) {
  switch (initializer) {
    case Initializer::orthogonal:
      return fill_orthogonal(m, gain, random, out);
    // Glorot and Bengio 2010.
    case Initializer::xavier_uniform:
      return fill_uniform(m, gain, std::sqrt(6.0 / (m.inputs + m.outputs)), random, out);
    // He et al. 2015 with the slope sqrt(5) of torch's Linear: U(-1/sqrt(in), 1/sqrt(in)).
    case Initializer::kaiming_uniform:
      return fill_uniform(m, gain, 1.0 / std::sqrt(m.inputs), random, out);
  }
}

/// What a layer's parameters begin with.
void fill(const Layer& layer, RandomStream& random, float* out) {
  float* next = out;
  for (const LayerTensor& tensor : tensors_of(layer)) next = std::fill_n(next, count_of(tensor.shape), tensor.initial);
  std::visit(Overloaded{[&](const Linear& l) {
                          const Matrix m{l.outputs, l.inputs, double(l.inputs), double(l.outputs)};
                          fill_weight(m, l.initializer, l.gain, random, out);
                        },
                        [&](const Conv2d& l) {
                          const double window = double(l.kernel) * l.kernel;
                          const Matrix m{l.outputs, l.patch_size(), l.inputs * window, l.outputs * window};
                          fill_weight(m, l.initializer, l.gain, random, out);
                        },
                        [](const auto&) {}},
             layer);
}

// ---- checks ----

template <class... Args>
[[noreturn]] void bad_module(fmt::format_string<Args...> format, Args&&... args) {
  fail(Exit::usage, "bad-module", format, std::forward<Args>(args)...);
}

constexpr int kLargest = 1 << 24, kLargestSide = 1 << 15;  // of a row, and of a picture's side: products fit 64 bits
constexpr int64_t kLargestRow = 1 << 26, kMostWeights = (int64_t{1} << 31) - 1;

/// Its sizes alone.
void check_layer(const std::string& name, const Layer& layer) {
  std::visit(
      [&]<class L>(const L& l) {
        constexpr bool picture = requires { l.height; };
        L::fields(l, Overloaded{[&](std::string_view field, int value) {
                                  const int low = field == "padding" || field == "offset" ? 0 : 1,
                                            high = picture ? kLargestSide : kLargest;
                                  if (value < low || value > high)
                                    bad_module("{} ({}) has {} {}, want {} to {}", name, L::kKind, field, value, low,
                                               high);
                                },
                                [&](std::string_view field, float value) {
                                  if (!std::isfinite(value))
                                    bad_module("{} ({}) has {} {}, want a finite number", name, L::kKind, field, value);
                                },
                                [](std::string_view, auto) {}});
        if constexpr (std::is_same_v<L, Select>)
          if (int64_t{l.offset} + l.size > l.inputs)
            bad_module("{} ({}) takes features [{}, {}) of {}", name, L::kKind, l.offset, int64_t{l.offset} + l.size,
                       l.inputs);
        if constexpr (std::is_same_v<L, BatchNorm>) {
          if (l.size % l.channels != 0)
            bad_module("{} ({}) has size {}, want a multiple of its {} channels", name, L::kKind, l.size, l.channels);
          if (!(l.momentum > 0 && l.momentum <= 1))
            bad_module("{} ({}) has momentum {}, want above 0 and at most 1", name, L::kKind, l.momentum);
        }
        int64_t row = input_size(l);
        if constexpr (requires { l.padding; }) {
          const auto check_kernel = [&](std::string_view field, int kernel, int64_t side) {
            side += 2 * l.padding;
            if (kernel > side) bad_module("{} ({}) has {} {}, want at most {}", name, L::kKind, field, kernel, side);
            if (2 * l.padding > kernel)
              bad_module("{} ({}) has padding {}, want at most half of {} {}", name, L::kKind, l.padding, field,
                         kernel);
          };
          if constexpr (requires { l.kernel; }) {
            check_kernel("kernel", l.kernel, std::min(l.height, l.width));
          } else {
            check_kernel("kernel_height", l.kernel_height, l.height);
            check_kernel("kernel_width", l.kernel_width, l.width);
          }
          row = row / l.height / l.width * (l.height + 2 * l.padding) * (l.width + 2 * l.padding);
        }
        row = std::max(row, output_size(l));
        if (row > kLargestRow)
          bad_module("{} ({}) has rows of {} floats, want at most {}", name, L::kKind, row, kLargestRow);
        for (const LayerTensor& tensor : tensors(l))
          if (count_of(tensor.shape) > kMostWeights)
            bad_module("{} ({}) has a {} of {} floats, want at most {}", name, L::kKind, tensor.name,
                       count_of(tensor.shape), kMostWeights);
      },
      layer);
}

/// That the layers of a network that reads rows of `inputs` floats fit each other; the size of what comes out.
int check_layers(const Network& network, const int inputs) {
  int size = inputs;
  std::vector<int> open;  // residual blocks
  enum { none, inside, behind } streams = none;
  int64_t joined = 0;  // floats that the streams before this one gave
  for (size_t i = 0; i < network.layers.size(); ++i) {
    const Layer& layer = network.layers[i];
    const std::string name = network.layer_name(i);
    check_layer(name, layer);
    const bool begins = std::holds_alternative<Stream>(layer), ends = std::holds_alternative<Concat>(layer);
    if (begins || ends) {
      if (!open.empty()) bad_module("{} ({}) lies in a residual block", name, kind_of(layer));
      if (streams != inside && (ends || i > 0))
        bad_module("{} ({}) lies behind other layers; a network begins with its streams", name, kind_of(layer));
      if (i > 0) joined += size;
      if (joined > kLargestRow)
        bad_module("{} ({}) has rows of {} floats, want at most {}", name, kind_of(layer), joined, kLargestRow);
      size = begins ? inputs : static_cast<int>(joined);
      streams = begins ? inside : behind;
    }
    if (inputs_of(layer) != size)
      bad_module("{} ({}) takes {} floats and gets {}", name, kind_of(layer), inputs_of(layer), size);
    if (streams == behind && is_on_picture(layer))
      bad_module("{} ({}) lies behind streams, where there are no pictures", name, kind_of(layer));
    if (network.acts && is_on_picture(layer) && !network.reads_only(kObsInput))
      bad_module("{} ({}) acts on what {} reads, want obs alone: runners know no other pictures", name, kind_of(layer),
                 network.name);
    size = outputs_of(layer);
    if (std::holds_alternative<ResidualBegin>(layer)) open.push_back(size);
    if (std::holds_alternative<ResidualEnd>(layer)) {
      if (open.empty()) bad_module("{} (residual_end) ends no residual block", name);
      if (open.back() != size) bad_module("{} (residual_end) adds {} floats to {}", name, open.back(), size);
      open.pop_back();
    }
  }
  if (!open.empty()) bad_module("{} has {} residual blocks without an end", network.name, open.size());
  if (streams == inside) bad_module("{} has streams without a concat", network.name);
  return size;
}

void check_name(const ModuleSpec& spec, const Network& network) {
  const auto fits = [](char c) { return std::isalnum(static_cast<unsigned char>(c)) || c == '_'; };
  if (network.name.empty() || !std::ranges::all_of(network.name, fits))
    bad_module("a network is called '{}', want letters, digits and _", network.name);
  if (network.name == kObsInput || network.name == kActionsInput || network.name == "log_std")
    bad_module("a network is called {}, which stands for something else", network.name);
  if (spec.find(network.name) != &network) bad_module("two networks are called {}", network.name);
}

/// That a network which acts reads what runners have, and lies where they look for it.
void check_acts(const ModuleSpec& spec, const Network& network) {
  const auto index = static_cast<size_t>(&network - spec.networks.data());
  for (const std::string& input : network.inputs) {
    if (input == kActionsInput) bad_module("{} acts and reads actions, which runners get from pi", network.name);
    if (const Network* source = spec.find(input); source && !source->acts)
      bad_module("{} acts and reads {}, which does not act", network.name, input);
  }
  if (index > 0 && !spec.networks[index - 1].acts)
    bad_module("{} acts and lies behind {}, which does not; want those that act first", network.name,
               spec.networks[index - 1].name);
  const auto reads = [&](const Network& other) {
    return other.acts && std::ranges::find(other.inputs, network.name) != other.inputs.end();
  };
  if (network.name != kPolicyNetwork && std::ranges::none_of(spec.networks, reads))
    bad_module("{} acts, and no network that acts reads it", network.name);
}

constexpr size_t kMostNetworks = 256;

void check_networks(const ModuleSpec& spec) {
  if (spec.networks.size() > kMostNetworks)
    bad_module("a module has {} networks, want at most {}", spec.networks.size(), kMostNetworks);
  std::map<std::string, int> sizes{{std::string(kObsInput), spec.obs_size},
                                   {std::string(kActionsInput), actions_size(spec.distribution)}};
  for (const Network& network : spec.networks) check_name(spec, network);
  for (const Network& network : spec.networks) {
    if (network.inputs.empty()) bad_module("{} reads nothing, want obs, actions or networks before it", network.name);
    int64_t inputs = 0;
    for (const std::string& input : network.inputs) {
      const auto found = sizes.find(input);
      if (found == sizes.end())
        bad_module("{} reads '{}', want obs, actions or networks before it", network.name, input);
      if (input == kPolicyNetwork)
        bad_module("{} reads {}, whose outputs are the distribution's alone", network.name, input);
      inputs += found->second;
    }
    if (inputs > kLargestRow)
      bad_module("{} reads rows of {} floats, want at most {}", network.name, inputs, kLargestRow);
    if (network.acts) check_acts(spec, network);
    sizes[network.name] = check_layers(network, static_cast<int>(inputs));
  }
  const auto gives = [&](std::string_view name, int wanted) {
    if (const int size = sizes.at(std::string(name)); size != wanted)
      bad_module("{} gives {} floats, want {}", name, size, wanted);
  };
  if (const Network* policy = spec.find(kPolicyNetwork); policy == nullptr || !policy->acts)
    bad_module("a module has no network {} that acts", kPolicyNetwork);
  gives(kPolicyNetwork, outputs_size(spec.distribution));
  if (spec.find(kValueNetwork) == nullptr) return;
  if (spec.is_q_network()) bad_module("a Q-network has its value from its Q-values, and no network {}", kValueNetwork);
  gives(kValueNetwork, 1);
}

// ---- the presets ----

// Gain sqrt(2) before tanh and ReLU alike: Huang et al. 2022, "The 37 Implementation Details of PPO", detail 2.
constexpr float kGain = std::numbers::sqrt2_v<float>;

void add_activation(std::vector<Layer>& layers, Activation activation, int size) {
  if (activation != Activation::linear) layers.push_back(Activate{activation, size});
}

/// The hidden layers of fcnet_hiddens.
void add_hiddens(std::vector<Layer>& layers, int inputs, const ModelConfig& config) {
  const Activation activation = activation_from(config.fcnet_activation);
  for (const int hidden : config.fcnet_hiddens) {
    if (hidden < 1) fail(Exit::usage, "out-of-range", "fcnet_hiddens has a layer of {} units, want at least 1", hidden);
    layers.push_back(Linear{inputs, hidden, Initializer::orthogonal, kGain});
    if (config.fcnet_use_layernorm) layers.push_back(LayerNorm{hidden});
    if (config.fcnet_use_batchnorm) layers.push_back(BatchNorm{hidden, hidden});
    add_activation(layers, activation, hidden);
    inputs = hidden;
  }
}

/// Layers on a picture, one after the other.
class PictureLayers {
 public:
  PictureLayers(const Picture& picture, const Space& space, const ModelConfig& config)
      : layernorm_(config.fcnet_use_layernorm),
        batchnorm_(config.fcnet_use_batchnorm),
        height_(picture.height),
        width_(picture.width),
        channels_(picture.frames * picture.channels) {
    const Box& box = *space.get_if<Box>();
    const bool bytes = box.dtype == DType::u8 && std::ranges::any_of(box.high, [](double high) { return high > 1; });
    if (bytes && config.scale_uint8) layers_.push_back(Scale{size(), 1.0f / 255.0f});
    if (picture.channels_first && channels_ > 1)
      layers_.push_back(ChannelsLast{channels_, height_, width_, 1});
    else if (!picture.channels_first && picture.frames > 1)
      layers_.push_back(ChannelsLast{picture.frames, height_, width_, picture.channels});
    if (config.random_shift > 0)
      layers_.push_back(RandomShift{height_, width_, channels_, static_cast<int>(config.random_shift)});
  }

  int size() const { return height_ * width_ * channels_; }
  std::vector<Layer> take() { return std::move(layers_); }

  void conv(int filters, int kernel, int stride, int padding = 0) {
    fits("a convolution", kernel, padding);
    const Conv2d layer{height_, width_, channels_, filters, kernel, stride, padding, Initializer::orthogonal, kGain};
    check_layer(fmt::format("encoder.{}", layers_.size()), layer);
    layers_.push_back(layer);
    become(layer.output_height(), layer.output_width(), filters);
  }
  void max_pool(int kernel, int stride, int padding) {
    fits("a pooling", kernel, padding);
    const MaxPool2d layer{height_, width_, channels_, kernel, stride, padding};
    layers_.push_back(layer);
    become(layer.output_height(), layer.output_width(), channels_);
  }
  /// Of each channel its mean over all pixels.
  void global_average() {
    layers_.push_back(AvgPool2d{height_, width_, channels_, height_, width_});
    become(1, 1, channels_);
  }
  void activate(Activation activation) {
    if (layernorm_) layers_.push_back(LayerNorm{size()});
    if (batchnorm_) layers_.push_back(BatchNorm{size(), channels_});
    add_activation(layers_, activation, size());
  }
  void relu() { activate(Activation::relu); }
  void residual_begin() { layers_.push_back(ResidualBegin{size()}); }
  void residual_end() { layers_.push_back(ResidualEnd{size()}); }
  void linear(int outputs) {
    layers_.push_back(Linear{size(), outputs, Initializer::orthogonal, kGain});
    become(1, 1, outputs);
  }

 private:
  void become(int height, int width, int channels) { height_ = height, width_ = width, channels_ = channels; }
  void fits(std::string_view what, int kernel, int padding) const {
    if (kernel > std::min(height_, width_) + 2 * padding)
      fail(Exit::usage, "impossible",
           "{} of {}x{} does not fit into {}x{} pixels; take another rl_module.encoder or conv_filters", what, kernel,
           kernel, height_, width_);
  }

  std::vector<Layer> layers_;
  bool layernorm_, batchnorm_;
  int height_, width_, channels_;
};

/// Mnih et al. 2015, "Human-level control through deep reinforcement learning".
void nature_cnn(PictureLayers& layers) {
  for (const auto& [filters, kernel, stride] : {std::array{32, 8, 4}, {64, 4, 2}, {64, 3, 1}}) {
    layers.conv(filters, kernel, stride);
    layers.relu();
  }
  layers.linear(512);
  layers.relu();
}

/// Young and Tian 2019, "MinAtar: An Atari-Inspired Testbed".
void minatar_cnn(PictureLayers& layers) {
  layers.conv(16, 3, 1);
  layers.relu();
  layers.linear(128);
  layers.relu();
}

/// Espeholt et al. 2018, "IMPALA: Scalable Distributed Deep-RL", figure 3, the deep one without its LSTM. `averages`:
/// the linear layer gets each channel's mean in place of all pixels (Trumpp et al. 2025, "Impoola: The Power of Average
/// Pooling for Image-Based Deep Reinforcement Learning").
void impala_resnet(PictureLayers& layers, bool averages) {
  for (const int filters : {16, 32, 32}) {
    layers.conv(filters, 3, 1, 1);
    layers.max_pool(3, 2, 1);
    for (int block = 0; block < 2; ++block) {
      layers.residual_begin();
      for (int i = 0; i < 2; ++i) {
        layers.relu();
        layers.conv(filters, 3, 1, 1);
      }
      layers.residual_end();
    }
  }
  layers.relu();
  if (averages) layers.global_average();
  layers.linear(256);
  layers.relu();
}

void conv_filters(PictureLayers& layers, const ModelConfig& config) {
  const Activation activation = activation_from(config.conv_activation);
  for (const std::vector<int>& f : config.conv_filters) {
    const int padding = f.size() == 4 ? f[3] : 0;
    if (f.size() < 3 || f.size() > 4 || f[0] < 1 || f[1] < 1 || f[2] < 1 || padding < 0 || 2 * padding > f[1])
      fail(Exit::usage, "out-of-range",
           "rl_module.conv_filters has [{}], want [filters, kernel, stride] or [filters, kernel, stride, padding], "
           "padding at most half of kernel",
           fmt::join(f, ", "));
    layers.conv(f[0], f[1], f[2], padding);
    layers.activate(activation);
  }
}

constexpr int kSmallestSide = 8, kMostChannels = 16;       // of what auto takes for a picture
constexpr int kLargestMinAtar = 16, kSmallestNature = 36;  // sides: the last convolution of nature_cnn needs 36

/// A Box [frames,] a, b, c.
/// Bytes of the whole range.
bool has_bytes(const Box& box) {
  return box.dtype == DType::u8 && std::ranges::all_of(box.high, [](double high) { return high >= 255; });
}

/// Height, width and channels, perhaps of several frames; bytes of height and width are grey.
bool has_picture_rank(const Box& box) {
  const size_t rank = box.shape.size();
  return rank == 3 || rank == 4 || (rank == 2 && has_bytes(box) && std::ranges::min(box.shape) >= kSmallestSide);
}

Picture picture(const Box& box, bool channels_first) {
  const auto last = box.shape.end();
  if (box.shape.size() == 2) return {1, last[-2], last[-1], 1, false};
  const int frames = box.shape.size() == 4 ? box.shape.front() : 1;
  return channels_first ? Picture{frames, last[-2], last[-1], last[-3], true}
                        : Picture{frames, last[-3], last[-2], last[-1], false};
}

/// What auto stands for.
std::string_view encoder_for(const Space& space, const ModelConfig& config) {
  const auto* box = space.get_if<Box>();
  if (box == nullptr || !has_picture_rank(*box) || box->dtype == DType::i32 || box->dtype == DType::i64) return "mlp";
  const auto looks_like_one = [](const Picture& p) {
    return std::min(p.height, p.width) >= kSmallestSide && p.channels <= kMostChannels;
  };
  const std::string_view between = has_bytes(*box) ? "impala_resnet" : "mlp";  // it takes any size
  const bool first = looks_like_one(picture(*box, true)), last = looks_like_one(picture(*box, false));
  if (!(config.channels == "auto" ? first || last : config.channels == "first" ? first : last)) return "mlp";
  const Picture p = picture_of(space, config.channels);
  if (!looks_like_one(p)) return "mlp";
  if (std::max(p.height, p.width) <= kLargestMinAtar) return "minatar_cnn";
  return std::min(p.height, p.width) >= kSmallestNature ? "nature_cnn" : between;
}

/// The preset that `config` names for a picture, or conv_filters without what follows them.
std::vector<Layer> picture_layers(const Space& space, std::string_view encoder, const ModelConfig& config) {
  PictureLayers layers(picture_of(space, config.channels), space, config);
  if (!config.conv_filters.empty())
    conv_filters(layers, config);
  else if (encoder == "nature_cnn")
    nature_cnn(layers);
  else if (encoder == "minatar_cnn")
    minatar_cnn(layers);
  else
    impala_resnet(layers, encoder == "impoola_cnn");
  return layers.take();
}

/// A stretch of a row of observations, and what an encoder begins with there; none: it is taken as it is.
struct PartOfRow {
  int offset, size;
  std::vector<Layer> layers;
  bool picture = false;
};

/// Throws Error for names that no part of the observations has.
void check_names(const Space& space, const std::vector<std::string>& names, std::string_view setting) {
  std::vector<std::string> known;
  for (const Leaf& leaf : space.leaves())
    if (!leaf.path.empty()) known.push_back(leaf.path);
  for (const std::string& name : names)
    if (std::ranges::none_of(known, [&](const std::string& path) { return lies_in(path, name, '/'); }))
      fail(Exit::usage, "out-of-range", "rl_module.{} has '{}', which is no part of the observations {}{}", setting,
           name, space.to_string(), suggestion(name, known));
}

std::string_view known_encoder(const ModelConfig& config) {
  if (config.encoder == "auto" || std::ranges::find(kPresets, config.encoder) != kPresets.end()) return config.encoder;
  std::vector<std::string> known = encoder_names();
  known.emplace_back("auto");
  fail(Exit::usage, "out-of-range", "unknown rl_module.encoder '{}'{}", config.encoder,
       suggestion(config.encoder, known));
}

/// The parts that an encoder sees, in the order of the row; neighbours that are taken as they are, are one.
std::vector<PartOfRow> parts_of(const Space& space, const ModelConfig& config, const std::vector<std::string>& hidden) {
  const std::string_view encoder = known_encoder(config);
  const bool convolves = !config.conv_filters.empty() || (encoder != "auto" && encoder != "mlp");
  std::vector<PartOfRow> parts;
  const auto add = [&](int offset, int size, std::vector<Layer> layers, bool picture = false) {
    if (!parts.empty() && layers.empty() && parts.back().layers.empty() &&
        parts.back().offset + parts.back().size == offset)
      parts.back().size += size;
    else
      parts.push_back({offset, size, std::move(layers), picture});
  };
  const auto embed = [&](int offset, int n) {
    std::vector<Layer> layers;
    if (config.embedding_size > 0)
      layers = {Linear{n, static_cast<int>(config.embedding_size), Initializer::orthogonal, 1.0f}};
    add(offset, n, std::move(layers));
  };
  int offset = 0;
  for (const Leaf& leaf : space.leaves()) {
    const int begin = std::exchange(offset, offset + leaf.space->flat_size());
    if (std::ranges::any_of(hidden, [&](const std::string& name) { return lies_in(leaf.path, name, '/'); })) continue;
    if (const auto* discrete = leaf.space->get_if<Discrete>()) {
      embed(begin, discrete->n);
    } else if (const auto* multi = leaf.space->get_if<MultiDiscrete>()) {
      int at = begin;
      for (const int n : multi->nvec) embed(std::exchange(at, at + n), n);
    } else {
      const auto* box = leaf.space->get_if<Box>();
      const std::string_view chosen = encoder == "auto" && !convolves ? encoder_for(*leaf.space, config) : encoder;
      // A space that is one leaf must be a picture where convolutions are asked for: picture_of() says what it is not.
      const bool picture = convolves ? space.is_leaf() || (box != nullptr && has_picture_rank(*box)) : chosen != "mlp";
      add(begin, offset - begin, picture ? picture_layers(*leaf.space, chosen, config) : std::vector<Layer>(), picture);
    }
  }
  if (parts.empty())
    fail(Exit::usage, "impossible", "rl_module leaves nothing of the observations {}: {} are left out",
         space.to_string(), fmt::join(hidden, ", "));
  if (convolves && std::ranges::none_of(parts, &PartOfRow::picture))
    fail(Exit::usage, "impossible", "no part of the observations {} is a picture for rl_module.{}", space.to_string(),
         config.conv_filters.empty() ? "encoder" : "conv_filters");
  return parts;
}

/// What sees all of the observations but `hidden`.
std::vector<Layer> encoder_of(const Space& space, const ModelConfig& config, const std::vector<std::string>& hidden) {
  if (config.fcnet_use_layernorm && config.fcnet_use_batchnorm)
    fail(Exit::usage, "impossible", "rl_module has fcnet_use_layernorm and fcnet_use_batchnorm, want one of them");
  std::vector<PartOfRow> parts = parts_of(space, config, hidden);
  std::vector<Layer> layers;
  int outputs = 0;
  for (PartOfRow& part : parts) {
    if (parts.size() > 1) layers.push_back(Stream{space.flat_size()});
    if (part.size < space.flat_size()) layers.push_back(Select{space.flat_size(), part.offset, part.size});
    outputs += part.layers.empty() ? part.size : outputs_of(part.layers.back());
    std::ranges::move(part.layers, std::back_inserter(layers));
  }
  if (parts.size() > 1) layers.push_back(Concat{outputs});
  const bool preset_alone = parts.size() == 1 && parts[0].picture && config.conv_filters.empty();
  if (!preset_alone) add_hiddens(layers, outputs, config);
  return layers;
}

/// What an observation and an action space say: sizes, and where the action mask is. Returns the parts that no encoder
/// sees: what `config` leaves out, and the mask where there is more than that.
std::vector<std::string> begin_spec(const Space& observation_space, const Space& action_space,
                                    const ModelConfig& config, ModuleSpec& spec) {
  check_names(observation_space, config.ignored_parts, "ignored_parts");
  check_names(observation_space, config.critic_only_parts, "critic_only_parts");
  std::vector<std::string> hidden = config.ignored_parts;
  spec.obs_size = observation_space.flat_size();
  if (const std::optional<ActionMask> mask = ActionMask::of(observation_space, action_space)) {
    spec.mask_offset = mask->offset();
    if (mask->rest()) hidden.emplace_back(ActionMask::kKey);
  }
  if (config.random_shift > 0 && std::ranges::none_of(parts_of(observation_space, config, hidden), &PartOfRow::picture))
    fail(Exit::usage, "impossible",
         "rl_module.random_shift is {}, but no part of the observations {} goes through convolutions; want 0",
         config.random_shift, observation_space.to_string());
  return hidden;
}

/// The distribution of one leaf; `named`: what an error calls it.
PartDistribution part_for(const Space& leaf, bool free_log_std, std::string_view name, const std::string& named) {
  const auto* reals = leaf.get_if<Box>();
  const int n = static_cast<int>(leaf.leaves()[0].count);
  if (name == "squashed_gaussian" || name == "beta") {
    for (size_t i = 0; i < leaf.leaves()[0].count; ++i)
      if (!std::isfinite(bound_at(reals->low, i)) || !std::isfinite(bound_at(reals->high, i)))
        fail(Exit::usage, "impossible",
             "rl_module.action_distribution is {}, but {} has no bounds at element {}; want diag_gaussian", name, named,
             i);
    if (name == "beta") return Beta{n};
    return SquashedGaussian{{n, free_log_std}};
  }
  if (const auto* discrete = leaf.get_if<Discrete>()) return Categorical{discrete->n};
  if (const auto* multi = leaf.get_if<MultiDiscrete>()) return MultiCategorical{multi->nvec};
  if (leaf.get_if<MultiBinary>() != nullptr) return MultiCategorical{std::vector<int>(static_cast<size_t>(n), 2)};
  if (reals->dtype == DType::f32 || reals->dtype == DType::f64) return DiagGaussian{n, free_log_std};
  fail(Exit::usage, "unsupported-space",
       "no action distribution covers {}: whole numbers want bounds on both sides; make it so, or a Box of floats, "
       "Discrete, MultiDiscrete or MultiBinary",
       named);
}

int sum_of(const ActionDistribution& distribution, int ActionPart::*count) {
  int sum = 0;
  for (const ActionPart& part : action_parts(distribution)) sum += part.*count;
  return sum;
}

/// Of an encoder of `spec`.
int features_of(const std::vector<Layer>& encoder, const ModuleSpec& spec) {
  return encoder.empty() ? spec.obs_size : outputs_of(encoder.back());
}

}  // namespace

std::string_view name_of(Activation activation) { return kActivations.at(static_cast<size_t>(activation)); }

bool lies_in(std::string_view path, std::string_view name, char separator) {
  return path.starts_with(name) && (path.size() == name.size() || path[name.size()] == separator);
}

Activation activation_from(std::string_view name) {
  for (size_t i = 0; i < kActivations.size(); ++i)
    if (kActivations[i] == name) return static_cast<Activation>(i);
  const std::vector<std::string> known(kActivations.begin(), kActivations.end());
  fail(Exit::usage, "unknown-activation", "unknown activation '{}'{}", name, suggestion(name, known));
}

std::string_view kind_of(const Layer& layer) {
  return std::visit([](const auto& l) { return std::remove_cvref_t<decltype(l)>::kKind; }, layer);
}
int inputs_of(const Layer& layer) {
  return std::visit([](const auto& l) { return static_cast<int>(input_size(l)); }, layer);
}
int outputs_of(const Layer& layer) {
  return std::visit([](const auto& l) { return static_cast<int>(output_size(l)); }, layer);
}
std::vector<LayerTensor> tensors_of(const Layer& layer) {
  return std::visit([](const auto& l) { return tensors(l); }, layer);
}
bool has_parameters(const Layer& layer) {
  return std::visit([]<class L>(const L&) { return kHasTensors<L>; }, layer);
}
bool is_on_picture(const Layer& layer) {
  return std::visit(
      []<class L>(const L&) {
        return requires(const L& l) { l.height; };
      },
      layer);
}
std::string window_text(int kernel_height, int kernel_width, int stride, int padding) {
  return fmt::format("{}x{}{}{}", kernel_height, kernel_width, stride == 1 ? "" : fmt::format("/{}", stride),
                     padding == 0 ? "" : fmt::format(" pad {}", padding));
}
size_t num_parameters_of(const Layer& layer) {
  size_t count = 0;
  for (const LayerTensor& tensor : tensors_of(layer)) count += count_of(tensor.shape);
  return count;
}

std::vector<ActionPart> action_parts(const ActionDistribution& distribution) {
  std::vector<ActionPart> parts;
  ActionPart end;  // behind the last one
  const auto add = [&](const auto& d, int inputs, int outputs, int elements, int log_std, int choices) {
    parts.push_back(
        {d, end.input, inputs, end.output, outputs, end.element, elements, end.log_std, log_std, end.choice, choices});
    end.input += inputs, end.output += outputs, end.element += elements, end.log_std += log_std, end.choice += choices;
  };
  const auto choices = [&](const auto& d, int logits, int elements) { add(d, logits, logits, elements, 0, logits); };
  const auto gaussian = [&](const auto& d) {
    add(d, 2 * d.n, d.free_log_std ? d.n : 2 * d.n, d.n, d.free_log_std ? d.n : 0, 0);
  };
  const Overloaded one{[&](const Categorical& d) { choices(d, d.n, 1); },
                       [&](const EpsilonGreedy& d) { choices(d, d.n, 1); },
                       [&](const MultiCategorical& d) {
                         choices(d, std::accumulate(d.nvec.begin(), d.nvec.end(), 0), static_cast<int>(d.nvec.size()));
                       },
                       [&](const DiagGaussian& d) { gaussian(d); },
                       [&](const SquashedGaussian& d) { gaussian(d); },
                       [&](const Beta& d) { add(d, 2 * d.n, 2 * d.n, d.n, 0, 0); }};
  std::visit(Overloaded{[&](const Composite& d) {
                          for (const PartDistribution& part : d.parts) std::visit(one, part);
                        },
                        one},
             distribution);
  return parts;
}

int inputs_size(const ActionDistribution& distribution) { return sum_of(distribution, &ActionPart::num_inputs); }
int outputs_size(const ActionDistribution& distribution) { return sum_of(distribution, &ActionPart::num_outputs); }
int log_std_size(const ActionDistribution& distribution) { return sum_of(distribution, &ActionPart::num_log_std); }
int num_choices(const ActionDistribution& distribution) { return sum_of(distribution, &ActionPart::num_choices); }

int actions_size(const ActionDistribution& distribution) {
  int sum = 0;
  for (const ActionPart& part : action_parts(distribution))
    sum += part.num_choices > 0 ? part.num_choices : part.num_elements;
  return sum;
}

DType stored_dtype(const ActionDistribution& distribution) {
  return num_choices(distribution) > 0 && !std::holds_alternative<Composite>(distribution) ? DType::i32 : DType::f32;
}

const DiagGaussian* gaussian_of(const ActionDistribution& distribution) {
  if (const auto* squashed = std::get_if<SquashedGaussian>(&distribution)) return squashed;
  return std::get_if<DiagGaussian>(&distribution);
}

std::vector<std::string> action_distribution_names() { return {"auto", "diag_gaussian", "squashed_gaussian", "beta"}; }

ActionDistribution distribution_for(const Space& action_space, bool free_log_std, std::string_view name) {
  const auto is_real = [](const Leaf& leaf) {
    return leaf.space->get_if<Box>() != nullptr && (leaf.dtype == DType::f32 || leaf.dtype == DType::f64);
  };
  const auto leaves = action_space.leaves();
  if (leaves.empty())
    fail(Exit::usage, "unsupported-space", "the actions {} have no part: nothing is to be chosen",
         action_space.to_string());
  if (name != "auto" && std::ranges::none_of(leaves, is_real))
    fail(Exit::usage, "impossible",
         "rl_module.action_distribution is {}, which is for a Box of floats, not for {}; want auto", name,
         action_space.to_string());
  if (action_space.is_leaf()) return whole(part_for(*leaves[0].space, free_log_std, name, action_space.to_string()));
  Composite all;
  for (const Leaf& leaf : leaves)
    all.parts.push_back(part_for(
        *leaf.space, free_log_std, is_real(leaf) ? name : "auto",
        fmt::format("'{}' {} of the actions {}", leaf.path, leaf.space->to_string(), action_space.to_string())));
  return all;
}

std::string Network::layer_name(size_t index) const {
  const auto is_network = [](const std::string& input) { return input != kObsInput && input != kActionsInput; };
  if (layers.size() == 1 && std::ranges::any_of(inputs, is_network)) return name;
  return fmt::format("{}.{}", name, index);
}

const Network* ModuleSpec::find(std::string_view name) const {
  const auto found = std::ranges::find(networks, name, &Network::name);
  return found == networks.end() ? nullptr : &*found;
}

const Network& ModuleSpec::network(std::string_view name) const {
  if (const Network* found = find(name)) return *found;
  std::vector<std::string> known;
  for (const Network& network : networks) known.push_back(network.name);
  bad_module("a module has no network {}{}", name, suggestion(name, known));
}

Network& ModuleSpec::network(std::string_view name) { return const_cast<Network&>(std::as_const(*this).network(name)); }

ModuleSpec ModuleSpec::inference_part() const {
  ModuleSpec part = *this;
  std::erase_if(part.networks, [](const Network& network) { return !network.acts; });
  return part;
}

std::vector<Parameter> ModuleSpec::parameters() const {
  std::vector<Parameter> list;
  size_t offset = 0;
  const auto add = [&](std::string name, std::vector<int> shape, float momentum = 0.0f) {
    const size_t count = count_of(shape);
    list.push_back({std::move(name), std::move(shape), offset, count, momentum});
    offset += count;
  };
  for_each_layer(
      *this,
      [&](const std::string& name, const Layer& layer) {
        for (const LayerTensor& tensor : tensors_of(layer))
          add(fmt::format("{}.{}", name, tensor.name), tensor.shape, tensor.momentum);
      },
      [&](int n) { add("log_std", {n}); });
  return list;
}

size_t ModuleSpec::num_parameters() const {
  const std::vector<Parameter> list = parameters();
  return list.empty() ? 0 : list.back().offset + list.back().count;
}

size_t ModuleSpec::num_trainable_parameters() const {
  size_t count = 0;
  for (const Parameter& p : parameters())
    if (p.momentum == 0.0f) count += p.count;
  return count;
}

size_t ModuleSpec::num_inference_parameters() const { return inference_part().num_parameters(); }

uint64_t ModuleSpec::hash() const { return fnv1a(structure(*this)); }

std::string ModuleSpec::to_string() const { return networks_text(*this); }

void check_num_parameters(const ModuleSpec& spec, const Space& observation_space, const Space& action_space) {
  double acting = 0, all = 0;
  for (const Network& network : spec.networks)
    for (const Layer& layer : network.layers) {
      const auto count = static_cast<double>(num_parameters_of(layer));
      all += count;
      if (network.acts) acting += count;
    }
  if (acting <= kMostInferenceParameters) return;
  fail(Exit::usage, "impossible",
       "a network of {:.0f} M parameters to act with, {:.0f} M in all: {} features of the observations {}, {} outputs "
       "for the actions {}; runners are sent {:.0f} M at most. A Discrete or MultiDiscrete has one for each of its "
       "values: make it numbers of a Box, or say rl_module.embedding_size, smaller rl_module.fcnet_hiddens, or "
       "rl_module.ignored_parts",
       acting / 1e6, all / 1e6, spec.obs_size, observation_space.to_string(), outputs_size(spec.distribution),
       action_space.to_string(), static_cast<double>(kMostInferenceParameters) / 1e6);
}

void check_module(const ModuleSpec& spec) {
  if (spec.obs_size < 1 || spec.obs_size > kLargestRow)
    bad_module("obs_size is {}, want 1 to {}", spec.obs_size, kLargestRow);
  const auto positive = [](int n) {
    if (n < 1 || n > kLargest) bad_module("the distribution has a size of {}, want 1 to {}", n, kLargest);
  };
  const auto few = [](size_t n, std::string_view what) {
    if (n < 1 || n > kLargest / 1024) bad_module("the distribution has {} {}, want 1 to {}", n, what, kLargest / 1024);
  };
  const Overloaded check_part{[&](const MultiCategorical& d) {
                                few(d.nvec.size(), "choices");
                                int64_t sum = 0;
                                for (const int n : d.nvec) positive(n), sum += n;
                                positive(static_cast<int>(std::min<int64_t>(sum, kLargest + 1)));
                              },
                              [&](const auto& d) { positive(d.n); }};
  std::visit(Overloaded{[&](const Composite& d) {
                          few(d.parts.size(), "parts");
                          int64_t sum = 0;
                          for (const PartDistribution& part : d.parts) {
                            std::visit(check_part, part);
                            sum += inputs_size(whole(part));
                          }
                          positive(static_cast<int>(std::min<int64_t>(sum, kLargest + 1)));
                        },
                        check_part},
             spec.distribution);
  if (!std::isfinite(spec.log_std_init) || !(spec.log_std_clip >= 0) || !std::isfinite(spec.log_std_clip))
    bad_module("log_std_init is {} and log_std_clip {}, want finite ones, the second not negative", spec.log_std_init,
               spec.log_std_clip);
  if (spec.mask_offset != -1) {
    const int last = spec.obs_size - num_choices(spec.distribution);
    if (num_choices(spec.distribution) == 0) bad_module("a distribution of real numbers has no action mask");
    if (spec.mask_offset < 0 || spec.mask_offset > last)
      bad_module("mask_offset is {}, want -1, or 0 to {}", spec.mask_offset, last);
  }
  check_networks(spec);
}

std::vector<std::string> encoder_names() { return {kPresets.begin(), kPresets.end()}; }

Picture picture_of(const Space& observation_space, const std::string& channels) {
  const auto* box = observation_space.get_if<Box>();
  if (box == nullptr || !has_picture_rank(*box))
    fail(Exit::usage, "impossible",
         "convolutions want a Box of height, width and channels, got {}; rl_module.encoder \"mlp\" takes any",
         observation_space.to_string());
  if (channels != "auto" || box->shape.size() == 2) return picture(*box, channels == "first");
  const int a = box->shape.end()[-3], b = box->shape.end()[-2], c = box->shape.end()[-1];
  const bool first = a < std::min(b, c), last = c < std::min(a, b);
  if (!first && !last)
    fail(Exit::usage, "impossible", "{}: which axis has the channels? rl_module.channels \"first\" or \"last\" says it",
         observation_space.to_string());
  return picture(*box, first);
}

ModuleSpec make_module_spec(const Space& observation_space, const Space& action_space, const ModelConfig& config) {
  if (config.vf_share_layers && !config.critic_only_parts.empty())
    fail(Exit::usage, "impossible",
         "rl_module.critic_only_parts wants an encoder for the value function alone, vf_share_layers = true has none");
  ModuleSpec spec;
  std::vector<std::string> hidden = begin_spec(observation_space, action_space, config, spec);
  spec.distribution = distribution_for(action_space, config.free_log_std, config.action_distribution);
  const bool shared = config.vf_share_layers;
  std::vector<Layer> value_encoder;
  if (!shared) value_encoder = encoder_of(observation_space, config, hidden);
  hidden.insert(hidden.end(), config.critic_only_parts.begin(), config.critic_only_parts.end());
  const std::vector<Layer> encoder = encoder_of(observation_space, config, hidden);
  const int features = features_of(encoder, spec), value_features = features_of(shared ? encoder : value_encoder, spec);
  // A small gain makes the first policy near uniform (Andrychowicz et al. 2021, "What Matters in On-Policy RL").
  const Linear policy{features, outputs_size(spec.distribution), Initializer::orthogonal, 0.01f};
  spec.networks = {{"encoder", {"obs"}, encoder, true}, {"pi", {"encoder"}, {policy}, true}};
  if (!shared) spec.networks.push_back({"vf_encoder", {"obs"}, value_encoder});
  spec.networks.push_back({"vf", {shared ? "encoder" : "vf_encoder"}, {Linear{value_features, 1}}});
  spec.log_std_init = static_cast<float>(config.log_std_init);
  spec.log_std_clip = static_cast<float>(config.log_std_clip_param);
  check_num_parameters(spec, observation_space, action_space);
  check_module(spec);
  return spec;
}

ModuleSpec make_q_spec(const Space& observation_space, const Space& action_space, const ModelConfig& config) {
  const auto* discrete = action_space.get_if<Discrete>();
  check(discrete != nullptr, "a Q-network has a Q-value for each action, {} are not Discrete",
        action_space.to_string());
  if (!config.critic_only_parts.empty())
    fail(Exit::usage, "impossible",
         "rl_module.critic_only_parts wants a value function beside the policy, a Q-network has none");
  if (config.action_distribution != "auto")
    fail(Exit::usage, "impossible",
         "rl_module.action_distribution is {}, but a Q-network's policy is epsilon-greedy; want auto",
         config.action_distribution);
  ModuleSpec spec;
  const std::vector<std::string> hidden = begin_spec(observation_space, action_space, config, spec);
  spec.distribution = EpsilonGreedy{discrete->n};
  const std::vector<Layer> encoder = encoder_of(observation_space, config, hidden);
  const Linear q_values{features_of(encoder, spec), discrete->n};
  spec.networks = {{"encoder", {"obs"}, encoder, true}, {"pi", {"encoder"}, {q_values}, true}};
  check_num_parameters(spec, observation_space, action_space);
  check_module(spec);
  return spec;
}

ModuleSpec make_mlp_spec(const Space& observation_space, const Space& action_space, ModelConfig config) {
  config.encoder = "mlp";
  config.conv_filters.clear();
  return make_module_spec(observation_space, action_space, config);
}

std::vector<double> lr_multipliers(const ModuleSpec& spec, const std::map<std::string, double>& multipliers) {
  const std::vector<Parameter> parameters = spec.parameters();
  std::vector<double> found(parameters.size(), 1.0);
  std::vector<size_t> longest(parameters.size(), 0);
  for (const auto& [name, multiplier] : multipliers) {
    if (!(multiplier >= 0))
      fail(Exit::usage, "out-of-range", "training.lr_multipliers has {} for {}, want 0 or more", multiplier, name);
    bool any = false;
    for (size_t i = 0; i < parameters.size(); ++i) {
      if (!lies_in(parameters[i].name, name)) continue;
      any = true;
      if (name.size() < longest[i]) continue;
      longest[i] = name.size();
      found[i] = multiplier;
    }
    if (any) continue;
    std::vector<std::string> known;
    for (const Parameter& p : parameters)
      for (size_t dot = 0; dot != std::string::npos;) {
        dot = p.name.find('.', dot + 1);
        if (std::ranges::find(known, p.name.substr(0, dot)) == known.end()) known.push_back(p.name.substr(0, dot));
      }
    fail(Exit::usage, "out-of-range", "training.lr_multipliers has '{}', which is no part of the network{}", name,
         suggestion(name, known));
  }
  return found;
}

std::vector<float> initial_parameters(const ModuleSpec& spec, uint64_t seed) {
  std::vector<float> values(spec.num_parameters());
  size_t offset = 0, index = 0;  // of the tensor: also names its random stream
  for_each_layer(
      spec,
      [&](const std::string&, const Layer& layer) {
        const size_t tensors = tensors_of(layer).size();
        if (tensors == 0) return;
        RandomStream random(seed, StreamPurpose::initial_weights, index);
        fill(layer, random, &values[offset]);
        offset += num_parameters_of(layer);
        index += tensors;
      },
      [&](int n) {
        std::fill_n(&values[offset], n, spec.log_std_init);
        offset += static_cast<size_t>(n);
        ++index;
      });
  return values;
}

}  // namespace myriad
