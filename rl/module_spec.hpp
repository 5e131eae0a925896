// Module spec: networks as data. Two executors build the same spec: torch and native (training), Eigen (inference).
//
//   obs -> encoder -> pi -> action_dist_inputs     they act: the inference part, which runners receive
//     \--> vf_encoder -> vf -> value               learner only; with vf_share_layers vf reads the encoder
//
// A Q-network has the first line alone: its action_dist_inputs are Q-values, and its value is the greatest of them.
// A module may have more networks that the learner computes, as critics qf1 and qf2 that read obs and actions.
//
// Parameters lie in one flat float32 buffer, network after network: for each layer in order its weight [out, in]
// (row-major, as torch) and bias [out]; LayerNorm gain and bias [n]; a free log std [n] after pi.
// The hash of the structure travels with the weights. A new layer kind is a new alternative of Layer: the build breaks
// exactly where an executor has to learn it. What every kind says of itself (its name, its fields, its sizes, its
// tensors and its words in to_string()) is in its struct, and the hash, the JSON and the checks follow from that.
//
// Pictures are rows too: [height, width, channels], row-major, channels last.
#pragma once

#include <fmt/format.h>

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "rl/space.hpp"

namespace myriad {

enum class Activation : uint8_t { linear, tanh, relu, silu, gelu, elu };
std::string_view name_of(Activation activation);
Activation activation_from(std::string_view name);  ///< throws Error naming the known ones

enum class Initializer : uint8_t { orthogonal, xavier_uniform, kaiming_uniform };

/// A tensor of a layer. Where the layer has an Initializer, that fills its weight.
struct LayerTensor {
  std::string_view name;  ///< within the layer
  std::vector<int> shape;
  float initial = 0.0f;  ///< each element of a fresh one
  /// 0: it is trained. Else it is a running statistic: each gradient step moves it so much of the way to the
  /// minibatch's.
  float momentum = 0.0f;
};

/// Places of a window on a picture's side: `stride` apart, the border is `padding` wide.
constexpr int num_windows(int side, int kernel, int stride, int padding) {
  return (side + 2 * padding - kernel) / stride + 1;
}
/// "3x3/2 pad 1"
std::string window_text(int kernel_height, int kernel_width, int stride, int padding);

// A layer that says no other sizes takes and gives rows of `size`; one without tensors() has no parameters. What has a
// height and a width is on pictures. kIsSuffix: in to_string() its text belongs to the layer before it.

/// y = W x + b.
struct Linear {
  int inputs, outputs;
  Initializer initializer = Initializer::orthogonal;
  float gain = 1.0f;

  static constexpr std::string_view kKind = "linear";
  template <class Self, class F>
  static void fields(Self& self, F f) {
    f("inputs", self.inputs), f("outputs", self.outputs), f("initializer", self.initializer), f("gain", self.gain);
  }
  int64_t input_size() const { return inputs; }
  int64_t output_size() const { return outputs; }
  std::vector<LayerTensor> tensors() const { return {{"weight", {outputs, inputs}}, {"bias", {outputs}}}; }
  std::string text() const { return std::to_string(outputs); }
  bool operator==(const Linear&) const = default;
};

struct Activate {
  Activation activation;
  int size;

  static constexpr std::string_view kKind = "activate";
  static constexpr bool kIsSuffix = true;
  template <class Self, class F>
  static void fields(Self& self, F f) {
    f("activation", self.activation), f("size", self.size);
  }
  std::string text() const { return std::string(name_of(activation)); }
  bool operator==(const Activate&) const = default;
};

/// (x - mean) / sqrt(var + 1e-5) * gain + bias over the features (Ba et al. 2016).
struct LayerNorm {
  int size;

  static constexpr std::string_view kKind = "layernorm";
  static constexpr bool kIsSuffix = true;
  template <class Self, class F>
  static void fields(Self& self, F f) {
    f("size", self.size);
  }
  std::vector<LayerTensor> tensors() const { return {{"gain", {size}, 1.0f}, {"bias", {size}}}; }
  std::string text() const { return std::string(kKind); }
  bool operator==(const LayerNorm&) const = default;
};

/// (x - mean) / sqrt(var + 1e-5) * gain + bias of each channel, where a row is pixels of `channels` each, or one (Ioffe
/// and Szegedy 2015). In training mean and var are those of the rows that one gradient is computed of; else they are
/// running ones, which lie beside gain and bias. The momentum is that of Bhatt et al. 2024, "CrossQ: Batch
/// Normalization in Deep Reinforcement Learning for Greater Sample Efficiency and Simplicity".
struct BatchNorm {
  int size, channels;
  float momentum = 0.01f;

  static constexpr std::string_view kKind = "batchnorm";
  static constexpr bool kIsSuffix = true;
  template <class Self, class F>
  static void fields(Self& self, F f) {
    f("size", self.size), f("channels", self.channels), f("momentum", self.momentum);
  }
  std::vector<LayerTensor> tensors() const {
    return {{"gain", {channels}, 1.0f},
            {"bias", {channels}},
            {"running_mean", {channels}, 0.0f, momentum},
            {"running_var", {channels}, 1.0f, momentum}};
  }
  std::string text() const { return std::string(kKind); }
  bool operator==(const BatchNorm&) const = default;
};

/// y = factor x: bytes of a picture by 1 / 255.
struct Scale {
  int size;
  float factor;

  static constexpr std::string_view kKind = "scale";
  template <class Self, class F>
  static void fields(Self& self, F f) {
    f("size", self.size), f("factor", self.factor);
  }
  std::string text() const { return fmt::format("x {:.4g}", factor); }
  bool operator==(const Scale&) const = default;
};

/// [channels, height, width, depth] -> [height, width, channels * depth]: planes (depth 1), or stacked pictures that
/// have their own channels last.
struct ChannelsLast {
  int channels, height, width, depth = 1;

  static constexpr std::string_view kKind = "channels_last";
  template <class Self, class F>
  static void fields(Self& self, F f) {
    f("channels", self.channels), f("height", self.height), f("width", self.width), f("depth", self.depth);
  }
  int64_t input_size() const { return int64_t{channels} * height * width * depth; }
  int64_t output_size() const { return input_size(); }
  std::string text() const { return fmt::format("{}x{}x{}", height, width, channels * depth); }
  bool operator==(const ChannelsLast&) const = default;
};

/// In training each picture is moved by up to `pixels` up or down and left or right, at random, all its channels alike;
/// what comes in is the nearest pixel of its border (Yarats et al. 2021, "Image Augmentation Is All You Need:
/// Regularizing Deep Reinforcement Learning from Pixels"). Else y = x.
struct RandomShift {
  int height, width, channels, pixels;

  static constexpr std::string_view kKind = "random_shift";
  template <class Self, class F>
  static void fields(Self& self, F f) {
    f("height", self.height), f("width", self.width), f("channels", self.channels), f("pixels", self.pixels);
  }
  int64_t input_size() const { return int64_t{height} * width * channels; }
  int64_t output_size() const { return input_size(); }
  std::string text() const { return fmt::format("shift {}", pixels); }
  bool operator==(const RandomShift&) const = default;
};

/// [height, width, inputs] -> [output_height, output_width, outputs], each output pixel from kernel x kernel input
/// pixels, `stride` apart; the border is `padding` zeros wide. The weight [outputs, kernel, kernel, inputs] is, in
/// memory, torch's [outputs, inputs, kernel, kernel] with channels last.
struct Conv2d {
  int height, width, inputs, outputs, kernel, stride = 1, padding = 0;
  Initializer initializer = Initializer::orthogonal;
  float gain = 1.0f;

  static constexpr std::string_view kKind = "conv2d";
  template <class Self, class F>
  static void fields(Self& self, F f) {
    f("height", self.height), f("width", self.width), f("inputs", self.inputs), f("outputs", self.outputs);
    f("kernel", self.kernel), f("stride", self.stride), f("padding", self.padding);
    f("initializer", self.initializer), f("gain", self.gain);
  }
  int output_height() const { return num_windows(height, kernel, stride, padding); }
  int output_width() const { return num_windows(width, kernel, stride, padding); }
  int patch_size() const { return kernel * kernel * inputs; }
  int64_t input_size() const { return int64_t{height} * width * inputs; }
  int64_t output_size() const { return int64_t{output_height()} * output_width() * outputs; }
  std::vector<LayerTensor> tensors() const {
    return {{"weight", {outputs, kernel, kernel, inputs}}, {"bias", {outputs}}};
  }
  std::string text() const { return fmt::format("conv {} {}", outputs, window_text(kernel, kernel, stride, padding)); }
  bool operator==(const Conv2d&) const = default;
};

/// The largest of kernel x kernel pixels, `stride` apart, channel by channel; the border, `padding` wide, is never it.
struct MaxPool2d {
  int height, width, channels, kernel, stride, padding = 0;

  static constexpr std::string_view kKind = "max_pool2d";
  template <class Self, class F>
  static void fields(Self& self, F f) {
    f("height", self.height), f("width", self.width), f("channels", self.channels);
    f("kernel", self.kernel), f("stride", self.stride), f("padding", self.padding);
  }
  int output_height() const { return num_windows(height, kernel, stride, padding); }
  int output_width() const { return num_windows(width, kernel, stride, padding); }
  int64_t input_size() const { return int64_t{height} * width * channels; }
  int64_t output_size() const { return int64_t{output_height()} * output_width() * channels; }
  std::string text() const { return "maxpool " + window_text(kernel, kernel, stride, padding); }
  bool operator==(const MaxPool2d&) const = default;
};

/// The mean of kernel_height x kernel_width pixels, `stride` apart, channel by channel; the border is `padding` zeros
/// wide, and they count, as in torch.
struct AvgPool2d {
  int height, width, channels, kernel_height, kernel_width, stride = 1, padding = 0;

  static constexpr std::string_view kKind = "avg_pool2d";
  template <class Self, class F>
  static void fields(Self& self, F f) {
    f("height", self.height), f("width", self.width), f("channels", self.channels);
    f("kernel_height", self.kernel_height), f("kernel_width", self.kernel_width);
    f("stride", self.stride), f("padding", self.padding);
  }
  int output_height() const { return num_windows(height, kernel_height, stride, padding); }
  int output_width() const { return num_windows(width, kernel_width, stride, padding); }
  int64_t input_size() const { return int64_t{height} * width * channels; }
  int64_t output_size() const { return int64_t{output_height()} * output_width() * channels; }
  std::string text() const { return "avgpool " + window_text(kernel_height, kernel_width, stride, padding); }
  bool operator==(const AvgPool2d&) const = default;
};

/// x -> x + f(x), where f is the layers between the two (He et al. 2016). Blocks may be nested.
struct ResidualBegin {
  int size;

  static constexpr std::string_view kKind = "residual_begin";
  template <class Self, class F>
  static void fields(Self& self, F f) {
    f("size", self.size);
  }
  bool operator==(const ResidualBegin&) const = default;
};
struct ResidualEnd {
  int size;

  static constexpr std::string_view kKind = "residual_end";
  template <class Self, class F>
  static void fields(Self& self, F f) {
    f("size", self.size);
  }
  bool operator==(const ResidualEnd&) const = default;
};

/// The part [offset, offset + size) of a row.
struct Select {
  int inputs, offset, size;

  static constexpr std::string_view kKind = "select";
  template <class Self, class F>
  static void fields(Self& self, F f) {
    f("inputs", self.inputs), f("offset", self.offset), f("size", self.size);
  }
  int64_t input_size() const { return inputs; }
  int64_t output_size() const { return size; }
  std::string text() const { return fmt::format("[{}:{}]", offset, offset + size); }
  bool operator==(const Select&) const = default;
};

/// Streams side by side, at the beginning of a network: Stream begins one, which gets the whole row that the network
/// reads, and Concat ends the last one; behind it lies what they gave, side by side. The layers behind it know no
/// pictures.
struct Stream {
  int size;

  static constexpr std::string_view kKind = "stream";
  template <class Self, class F>
  static void fields(Self& self, F f) {
    f("size", self.size);
  }
  bool operator==(const Stream&) const = default;
};
struct Concat {
  int size;

  static constexpr std::string_view kKind = "concat";
  template <class Self, class F>
  static void fields(Self& self, F f) {
    f("size", self.size);
  }
  bool operator==(const Concat&) const = default;
};

using Layer = std::variant<Linear, Activate, LayerNorm, BatchNorm, Scale, ChannelsLast, RandomShift, Conv2d, MaxPool2d,
                           AvgPool2d, ResidualBegin, ResidualEnd, Select, Stream, Concat>;

std::string_view kind_of(const Layer& layer);
int inputs_of(const Layer& layer);   ///< floats of a row it takes
int outputs_of(const Layer& layer);  ///< and gives
std::vector<LayerTensor> tensors_of(const Layer& layer);
size_t num_parameters_of(const Layer& layer);  ///< floats
bool has_parameters(const Layer& layer);
bool is_on_picture(const Layer& layer);

/// How action_dist_inputs become an action.
struct Categorical {
  int n;

  static constexpr std::string_view kKind = "categorical";
  template <class Self, class F>
  static void fields(Self& self, F f) {
    f("n", self.n);
  }
  bool operator==(const Categorical&) const = default;
};  ///< logits [n]
struct MultiCategorical {
  std::vector<int> nvec;

  static constexpr std::string_view kKind = "multi_categorical";
  template <class Self, class F>
  static void fields(Self& self, F f) {
    f("nvec", self.nvec);
  }
  bool operator==(const MultiCategorical&) const = default;
};  ///< logits side by side [sum nvec]
struct DiagGaussian {
  int n;
  bool free_log_std;

  static constexpr std::string_view kKind = "diag_gaussian";
  template <class Self, class F>
  static void fields(Self& self, F f) {
    f("n", self.n), f("free_log_std", self.free_log_std);
  }
  bool operator==(const DiagGaussian&) const = default;
};  ///< mean [n], log std [n] (a parameter when free)
/// a = tanh(u) of a DiagGaussian's u, in (-1, 1): Haarnoja et al. 2018, "Soft Actor-Critic", appendix C.
struct SquashedGaussian : DiagGaussian {
  static constexpr std::string_view kKind = "squashed_gaussian";
  bool operator==(const SquashedGaussian&) const = default;
};
/// (a + 1) / 2 of a Beta distribution with alpha = 1 + softplus(x), beta = 1 + softplus(y), so that it has one peak and
/// none at the bounds: Chou et al. 2017, "Improving Stochastic Policy Gradients in Continuous Control with Deep
/// Reinforcement Learning using the Beta Distribution".
struct Beta {
  int n;

  static constexpr std::string_view kKind = "beta";
  template <class Self, class F>
  static void fields(Self& self, F f) {
    f("n", self.n);
  }
  bool operator==(const Beta&) const = default;
};  ///< x [n], y [n]
struct EpsilonGreedy {
  int n;

  static constexpr std::string_view kKind = "epsilon_greedy";
  template <class Self, class F>
  static void fields(Self& self, F f) {
    f("n", self.n);
  }
  bool operator==(const EpsilonGreedy&) const = default;
};  ///< Q-values [n]: the best action, or with probability epsilon (Weights::published) any; also has the value
using PartDistribution = std::variant<Categorical, MultiCategorical, DiagGaussian, SquashedGaussian, Beta>;
/// Of a Dict or Tuple of actions, one part for each leaf. Given the state they are independent: log probabilities,
/// entropies and KL divergences add up. A stored action is float32, the elements of all parts side by side, choices
/// from 0, which are exact: no part has more than 2^24.
struct Composite {
  std::vector<PartDistribution> parts;

  static constexpr std::string_view kKind = "composite";
  template <class Self, class F>
  static void fields(Self& self, F f) {
    f("parts", self.parts);
  }
  bool operator==(const Composite&) const = default;
};  ///< the parts' inputs side by side
using ActionDistribution =
    std::variant<Categorical, MultiCategorical, DiagGaussian, SquashedGaussian, Beta, EpsilonGreedy, Composite>;

/// A part of a Composite, or all of another distribution, and where its numbers lie.
struct ActionPart {
  ActionDistribution distribution;    ///< no Composite
  int input = 0, num_inputs = 0;      ///< of action_dist_inputs
  int output = 0, num_outputs = 0;    ///< of what pi gives: no free log std
  int element = 0, num_elements = 0;  ///< of a stored action
  int log_std = 0, num_log_std = 0;   ///< of the parameter log_std
  int choice = 0, num_choices = 0;    ///< of an action mask, where real numbers have none
};
std::vector<ActionPart> action_parts(const ActionDistribution& distribution);
int inputs_size(const ActionDistribution& distribution);     ///< length of action_dist_inputs
int outputs_size(const ActionDistribution& distribution);    ///< of what pi gives
int log_std_size(const ActionDistribution& distribution);    ///< of the parameter log_std; 0: there is none
int actions_size(const ActionDistribution& distribution);    ///< floats of an action: real numbers, or choices one-hot
int num_choices(const ActionDistribution& distribution);     ///< length of an action mask
DType stored_dtype(const ActionDistribution& distribution);  ///< of an action in a fragment: i32 or f32

/// The Gaussian of a DiagGaussian or SquashedGaussian, whose inputs are alike; null for others.
const DiagGaussian* gaussian_of(const ActionDistribution& distribution);

/// The bound of a stored action of a SquashedGaussian: atanh of more would be too coarse in float32.
constexpr float kSquashedBound = 1.0f - 1e-6f;
/// The least and, from 1, the most of a stored (a + 1) / 2 of a Beta.
constexpr float kBetaBound = 1e-6f;

std::vector<std::string> action_distribution_names();  ///< what ModelConfig::action_distribution may be
/// `name` as ModelConfig::action_distribution; of a Dict or Tuple it is that of each Box of floats. Throws Error for an
/// action space that it does not cover.
ActionDistribution distribution_for(const Space& action_space, bool free_log_std, std::string_view name = "auto");

/// One tensor of the flat buffer.
struct Parameter {
  std::string name;  ///< "encoder.0.weight", "pi.bias", "vf_encoder.2.weight", "log_std"
  std::vector<int> shape;
  size_t offset;  ///< floats from the start of the buffer
  size_t count;
  float momentum = 0.0f;  ///< as LayerTensor's: above 0 for a running statistic
};

/// Whether a path is `name` or lies in it: "encoder.0.weight" in "encoder"; "camera/rgb" in "camera" with '/'.
bool lies_in(std::string_view path, std::string_view name, char separator = '.');

/// The settings of the default modules, named as RLlib's DefaultModelConfig where that has them.
struct ModelConfig {
  std::vector<int> fcnet_hiddens{256, 256};
  std::string fcnet_activation = "tanh";
  bool fcnet_use_layernorm = false;
  bool fcnet_use_batchnorm = false;
  bool vf_share_layers = false;
  std::string action_distribution = "auto";  ///< auto, or one of action_distribution_names() for Boxes of floats
  bool free_log_std = true;
  double log_std_init = 0.0;                   ///< initial value of a free log std
  double log_std_clip_param = 20;              ///< log std is clipped to +/- this
  std::string encoder = "auto";                ///< auto, or one of encoder_names()
  std::vector<std::vector<int>> conv_filters;  ///< {filters, kernel, stride[, padding]}, ...: in place of `encoder`
  std::string conv_activation = "relu";        ///< after each of conv_filters
  std::string channels = "auto";               ///< auto | first | last: where a picture has them
  bool scale_uint8 = true;                     ///< bytes of a picture by 1 / 255
  int64_t random_shift = 0;                    ///< pixels that pictures are moved by in training, at most
  int64_t embedding_size = 0;                  ///< of each integer of Discrete and MultiDiscrete; 0: one-hot as it is
  std::vector<std::string> ignored_parts;      ///< of a Dict or Tuple, by path: the module does not see them
  std::vector<std::string> critic_only_parts;  ///< the value function alone sees them
  std::string init_from;                       ///< a checkpoint whose parameters a run begins with; "": none
  std::vector<std::string> init_parts;         ///< of them, by name: "encoder", "pi"; empty: all
  std::string init_filter = "auto";            ///< keep | fresh | auto: kept with all parameters, fresh with parts
};

/// What a forward pass gives in place of the logit of a masked action. exp(x - m) is 0 for it, exactly, and products
/// of it with 0 and sums over a row are finite: so probability, entropy, KL and their derivatives are those of the
/// allowed actions alone (Huang and Ontanon 2022, "A Closer Look at Invalid Action Masking in Policy Gradient
/// Algorithms").
constexpr float kMaskedLogit = -1e30f;

// Names of networks and of what they read that mean something in every module; all others are its author's.
constexpr std::string_view kPolicyNetwork = "pi";  ///< gives action_dist_inputs, but for a free log std and a mask
constexpr std::string_view kValueNetwork = "vf";   ///< gives the value of a state
constexpr std::string_view kObsInput = "obs";
constexpr std::string_view kActionsInput = "actions";  ///< actions_size(distribution) floats

/// Layers on what it reads, which lies side by side. Without layers it gives what it reads.
struct Network {
  std::string name;                 ///< of letters, digits and _
  std::vector<std::string> inputs;  ///< "obs", "actions", or the names of networks that are listed before it
  std::vector<Layer> layers;
  bool acts = false;  ///< runners compute it

  bool reads_only(std::string_view input) const { return inputs.size() == 1 && inputs[0] == input; }
  /// "encoder.0"; "pi", where a network of one layer reads networks.
  std::string layer_name(size_t index) const;
  bool operator==(const Network&) const = default;
};

struct ModuleSpec {
  int obs_size = 0;  ///< flat float32 features of an observation
  /// In buffer order. Those that act come first, the last of them is pi.
  std::vector<Network> networks;
  ActionDistribution distribution{Categorical{0}};
  float log_std_init = 0.0f;
  float log_std_clip = 20.0f;
  /// Where the action mask begins in an observation: the logit of an action whose feature is 0 becomes kMaskedLogit.
  /// -1: none. It has the choices of all Categorical and MultiCategorical parts, side by side.
  int mask_offset = -1;

  int mask_size() const { return mask_offset < 0 ? 0 : num_choices(distribution); }  ///< features
  const Network* find(std::string_view name) const;                                  ///< null: it has no such network
  /// Throws Error("bad-module") for a name of none.
  const Network& network(std::string_view name) const;
  Network& network(std::string_view name);
  /// Whether it gives Q-values [n, actions] as action_dist_inputs; then V(s) = max_a Q(s, a), and there is no vf.
  bool is_q_network() const { return std::holds_alternative<EpsilonGreedy>(distribution); }
  ModuleSpec inference_part() const;          ///< the networks that act
  std::vector<Parameter> parameters() const;  ///< in buffer order
  size_t num_parameters() const;              ///< floats, all
  size_t num_trainable_parameters() const;    ///< without running statistics
  size_t num_inference_parameters() const;    ///< floats of the leading inference part
  uint64_t hash() const;                      ///< of the structure: names, sizes, kinds, order
  bool operator==(const ModuleSpec&) const = default;
  std::string to_string() const;  ///< "4 -> 64 tanh -> 64 tanh -> categorical 2; value 64 tanh -> 64 tanh -> 1"
};

inline constexpr int64_t kMostInferenceParameters = 1 << 26;  ///< a payload of a message, as float32

/// Throws Error("impossible") for more parameters that act than can be sent, with the features and actions they are of.
void check_num_parameters(const ModuleSpec& spec, const Space& observation_space, const Space& action_space);

/// Throws Error("bad-module") for a spec whose sizes cannot be, or do not fit each other; for a network that reads none
/// before it, or one that acts and reads what runners do not have; and for names that stand twice.
void check_module(const ModuleSpec& spec);

/// A picture among observation spaces: a Box [frames,] height, width, channels, or [frames,] channels, height, width.
/// Which, says the smallest of the three, or `channels` of ModelConfig.
struct Picture {
  int frames, height, width, channels;
  bool channels_first;
  bool operator==(const Picture&) const = default;
};
/// Throws Error("impossible") for a space that is none, or could be both ways.
Picture picture_of(const Space& observation_space, const std::string& channels);

std::vector<std::string> encoder_names();  ///< what ModelConfig::encoder may be, beside auto

/// The module of a config: encoder, pi, [vf_encoder,] vf. Encoders do not see an action mask (rl/action_mask.hpp) that
/// is beside the observation. encoder = auto is an MLP after flattening for what is no picture (sides of 8 or more, 16
/// channels at most, of bytes or floats); else minatar_cnn up to 16 x 16, nature_cnn from 36 x 36, an MLP between.
/// Pictures in a Dict or Tuple, and what is embedded, have streams of their own; what these give and everything else
/// goes side by side into an MLP (as MultiInputPolicy of Stable-Baselines3). Throws Error for an action space no
/// distribution covers, for a picture too small for its filters, and for names of parts that are not there.
ModuleSpec make_module_spec(const Space& observation_space, const Space& action_space, const ModelConfig& config);

/// The encoder of make_module_spec(), and as pi one Q-value for each of the Discrete actions, for EpsilonGreedy.
ModuleSpec make_q_spec(const Space& observation_space, const Space& action_space, const ModelConfig& config);

/// make_module_spec() with MLP encoder(s) after flattening, whatever the space and `encoder`.
ModuleSpec make_mlp_spec(const Space& observation_space, const Space& action_space, ModelConfig config);

/// What training.lr is multiplied by for each of spec.parameters(); 0: it is frozen. A name of `multipliers` stands for
/// all tensors that lie in it ("encoder", "encoder.0", "log_std"), the longest name for a tensor counts, and without
/// any it is 1. Throws Error("out-of-range") for a name of none.
std::vector<double> lr_multipliers(const ModuleSpec& spec, const std::map<std::string, double>& multipliers);

/// Fresh parameters [num_parameters], the same for the same seed on any machine and executor (Saxe et al. 2014 for
/// orthogonal).
std::vector<float> initial_parameters(const ModuleSpec& spec, uint64_t seed);

/// The one way through all layers of a spec: calls visit(name, layer) for each, with or without parameters, in buffer
/// order ("encoder.0", ..., "pi", "vf_encoder.0", ..., "vf"), and log_std(n) where a free log std lies.
template <class Visit, class OnLogStd>
void for_each_layer(const ModuleSpec& spec, Visit visit, OnLogStd log_std) {
  const int log_stds = log_std_size(spec.distribution);
  for (const Network& network : spec.networks) {
    for (size_t i = 0; i < network.layers.size(); ++i) visit(network.layer_name(i), network.layers[i]);
    if (network.name == kPolicyNetwork && log_stds > 0) log_std(log_stds);
  }
}

}  // namespace myriad
