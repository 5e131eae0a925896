#include "rl/module_spec.hpp"

#include <Eigen/Dense>
#include <algorithm>
#include <cmath>
#include <numeric>

#include "rl/check.hpp"
#include "rl/hash.hpp"
#include "rl/overloaded.hpp"

namespace myriad {
namespace {

constexpr std::array<std::string_view, 6> kActivations{"linear", "tanh", "relu", "silu", "gelu", "elu"};

/// Calls `linear(name, layer)`, `norm(name, layer)` and `log_std(n)` for what has parameters, in buffer order.
template <class OnLinear, class OnNorm, class OnLogStd>
void visit_parameters(const ModuleSpec& spec, OnLinear linear, OnNorm norm, OnLogStd log_std) {
  const auto layers = [&](const std::vector<Layer>& list, std::string_view part) {
    for (size_t i = 0; i < list.size(); ++i) {
      const std::string name = fmt::format("{}.{}", part, i);
      std::visit(Overloaded{[&](const Linear& l) { linear(name, l); }, [](const Activate&) {},
                            [&](const LayerNorm& l) { norm(name, l); }},
                 list[i]);
    }
  };
  layers(spec.encoder, "encoder");
  linear(std::string("pi"), spec.action_head);
  if (const auto* gaussian = std::get_if<DiagGaussian>(&spec.distribution); gaussian && gaussian->free_log_std)
    log_std(gaussian->n);
  layers(spec.value_encoder, "vf_encoder");
  linear(std::string("vf"), spec.value_head);
}

std::string layers_text(const std::vector<Layer>& layers) {
  std::string text;
  for (const Layer& layer : layers)
    std::visit(Overloaded{[&](const Linear& l) { text += fmt::format("{}{}", text.empty() ? "" : " -> ", l.outputs); },
                          [&](const Activate& l) { text += fmt::format(" {}", name_of(l.activation)); },
                          [&](const LayerNorm&) { text += " layernorm"; }},
               layer);
  return text;
}

std::string distribution_text(const ActionDistribution& distribution) {
  return std::visit(
      Overloaded{[](const Categorical& d) { return fmt::format("categorical {}", d.n); },
                 [](const MultiCategorical& d) { return fmt::format("categorical {}", fmt::join(d.nvec, "+")); },
                 [](const DiagGaussian& d) {
                   return fmt::format("gaussian {}{}", d.n, d.free_log_std ? "" : " with state-dependent std");
                 }},
      distribution);
}

/// The structure as one line: all that both executors must agree on, and nothing of how parameters begin.
std::string structure(const ModuleSpec& spec) {
  const auto layers = [](const std::vector<Layer>& list) {
    std::string text;
    for (const Layer& layer : list)
      std::visit(Overloaded{[&](const Linear& l) { text += fmt::format("linear {}x{};", l.outputs, l.inputs); },
                            [&](const Activate& l) { text += fmt::format("{} {};", name_of(l.activation), l.size); },
                            [&](const LayerNorm& l) { text += fmt::format("layernorm {};", l.size); }},
                 layer);
    return text;
  };
  return fmt::format("obs {}|{}|pi {}x{}|{}|{}|{}|vf {}x{}|clip {}", spec.obs_size, layers(spec.encoder),
                     spec.action_head.outputs, spec.action_head.inputs, distribution_text(spec.distribution),
                     spec.shares_encoder ? "shared" : "separate", layers(spec.value_encoder), spec.value_head.outputs,
                     spec.value_head.inputs, spec.log_std_clip);
}

/// Rows (or columns, where there are fewer) of a normal matrix made orthonormal: Saxe et al. 2014, "Exact solutions to
/// the nonlinear dynamics of learning in deep linear neural networks".
void fill_orthogonal(const Linear& layer, RandomStream& random, float* out) {
  const auto [rows, length] = std::minmax({layer.outputs, layer.inputs});
  Eigen::MatrixXd basis(length, rows);
  for (double& x : basis.reshaped()) x = random.normal();
  const Eigen::HouseholderQR<Eigen::MatrixXd> qr(basis);
  basis = qr.householderQ() * Eigen::MatrixXd::Identity(length, rows);
  basis *= qr.matrixQR().diagonal().array().sign().matrix().asDiagonal();  // as Gram-Schmidt's, whose R is positive
  if (layer.inputs < layer.outputs) basis.transposeInPlace();
  for (const double x : basis.reshaped()) *out++ = layer.gain * static_cast<float>(x);
}

void fill_uniform(const Linear& layer, double bound, RandomStream& random, float* out) {
  const size_t count = static_cast<size_t>(layer.inputs) * static_cast<size_t>(layer.outputs);
  for (size_t i = 0; i < count; ++i) out[i] = layer.gain * static_cast<float>(random.uniform(-bound, bound));
}

void fill_weight(const Linear& layer, RandomStream& random, float* out) {
  switch (layer.initializer) {
    case Initializer::orthogonal:
      return fill_orthogonal(layer, random, out);
    // Glorot and Bengio 2010.
    case Initializer::xavier_uniform:
      return fill_uniform(layer, std::sqrt(6.0 / (layer.inputs + layer.outputs)), random, out);
    // He et al. 2015 with the slope sqrt(5) of torch's Linear: U(-1/sqrt(in), 1/sqrt(in)).
    case Initializer::kaiming_uniform:
      return fill_uniform(layer, 1.0 / std::sqrt(layer.inputs), random, out);
  }
}

std::vector<Layer> mlp(int inputs, const ModelConfig& config, Activation activation) {
  // Gain sqrt(2) before tanh and ReLU alike: Huang et al. 2022, "The 37 Implementation Details of PPO", detail 2.
  const float gain = std::numbers::sqrt2_v<float>;
  std::vector<Layer> layers;
  for (const int hidden : config.fcnet_hiddens) {
    if (hidden < 1) fail(Exit::usage, "out-of-range", "fcnet_hiddens has a layer of {} units, want at least 1", hidden);
    layers.push_back(Linear{inputs, hidden, Initializer::orthogonal, gain});
    if (config.fcnet_use_layernorm) layers.push_back(LayerNorm{hidden});
    if (activation != Activation::linear) layers.push_back(Activate{activation, hidden});
    inputs = hidden;
  }
  return layers;
}

}  // namespace

std::string_view name_of(Activation activation) { return kActivations.at(static_cast<size_t>(activation)); }

Activation activation_from(std::string_view name) {
  for (size_t i = 0; i < kActivations.size(); ++i)
    if (kActivations[i] == name) return static_cast<Activation>(i);
  const std::vector<std::string> known(kActivations.begin(), kActivations.end());
  fail(Exit::usage, "unknown-activation", "unknown activation '{}'{}", name, suggestion(name, known));
}

int inputs_size(const ActionDistribution& distribution) {
  return std::visit(
      Overloaded{[](const Categorical& d) { return d.n; },
                 [](const MultiCategorical& d) { return std::accumulate(d.nvec.begin(), d.nvec.end(), 0); },
                 [](const DiagGaussian& d) { return 2 * d.n; }},
      distribution);
}

ActionDistribution distribution_for(const Space& action_space, bool free_log_std) {
  if (const auto* discrete = action_space.get_if<Discrete>()) return Categorical{discrete->n};
  if (const auto* multi = action_space.get_if<MultiDiscrete>()) return MultiCategorical{multi->nvec};
  if (const auto* binary = action_space.get_if<MultiBinary>())
    return MultiCategorical{std::vector<int>(static_cast<size_t>(binary->n), 2)};
  if (const auto* box = action_space.get_if<Box>(); box && (box->dtype == DType::f32 || box->dtype == DType::f64))
    return DiagGaussian{action_space.flat_size(), free_log_std};
  fail(Exit::usage, "unsupported-space",
       "no action distribution covers {}; known: Discrete, MultiDiscrete, MultiBinary and Box of floats",
       action_space.to_string());
}

std::vector<Parameter> ModuleSpec::parameters() const {
  std::vector<Parameter> list;
  size_t offset = 0;
  const auto add = [&](std::string name, std::vector<int> shape) {
    const size_t count = std::accumulate(shape.begin(), shape.end(), size_t{1},
                                         [](size_t a, int b) { return a * static_cast<size_t>(b); });
    list.push_back({std::move(name), std::move(shape), offset, count});
    offset += count;
  };
  visit_parameters(
      *this,
      [&](const std::string& name, const Linear& l) {
        add(name + ".weight", {l.outputs, l.inputs});
        add(name + ".bias", {l.outputs});
      },
      [&](const std::string& name, const LayerNorm& l) {
        add(name + ".gain", {l.size});
        add(name + ".bias", {l.size});
      },
      [&](int n) { add("log_std", {n}); });
  return list;
}

size_t ModuleSpec::num_parameters() const {
  const std::vector<Parameter> list = parameters();
  return list.back().offset + list.back().count;
}

size_t ModuleSpec::num_inference_parameters() const {
  size_t count = 0;
  for (const Parameter& p : parameters())
    if (!p.name.starts_with("vf")) count += p.count;
  return count;
}

uint64_t ModuleSpec::hash() const { return fnv1a(structure(*this)); }

std::string ModuleSpec::to_string() const {
  const std::string trunk = layers_text(encoder), value = layers_text(value_encoder);
  return fmt::format("{} -> {}{}{}; value {}{}1", obs_size, trunk, trunk.empty() ? "" : " -> ",
                     distribution_text(distribution), shares_encoder ? "shares the encoder -> " : value,
                     shares_encoder || value.empty() ? "" : " -> ");
}

ModuleSpec make_mlp_spec(const Space& observation_space, const Space& action_space, const ModelConfig& config) {
  const Activation activation = activation_from(config.fcnet_activation);
  ModuleSpec spec;
  spec.obs_size = observation_space.flat_size();
  spec.distribution = distribution_for(action_space, config.free_log_std);
  spec.encoder = mlp(spec.obs_size, config, activation);
  spec.shares_encoder = config.vf_share_layers;
  if (!spec.shares_encoder) spec.value_encoder = spec.encoder;
  const int features = config.fcnet_hiddens.empty() ? spec.obs_size : config.fcnet_hiddens.back();
  const auto* gaussian = std::get_if<DiagGaussian>(&spec.distribution);
  const int outputs = gaussian && gaussian->free_log_std ? gaussian->n : inputs_size(spec.distribution);
  // A small gain makes the first policy near uniform (Andrychowicz et al. 2021, "What Matters in On-Policy RL").
  spec.action_head = {features, outputs, Initializer::orthogonal, 0.01f};
  spec.value_head = {features, 1, Initializer::orthogonal, 1.0f};
  spec.log_std_init = static_cast<float>(config.log_std_init);
  spec.log_std_clip = static_cast<float>(config.log_std_clip_param);
  return spec;
}

std::vector<float> initial_parameters(const ModuleSpec& spec, uint64_t seed) {
  std::vector<float> values(spec.num_parameters(), 0.0f);  // biases begin at 0
  const std::vector<Parameter> list = spec.parameters();
  size_t index = 0;  // of the parameter: also names its random stream
  visit_parameters(
      spec,
      [&](const std::string&, const Linear& l) {
        RandomStream random(seed, StreamPurpose::initial_weights, index);
        fill_weight(l, random, &values[list[index].offset]);
        index += 2;
      },
      [&](const std::string&, const LayerNorm& l) {
        std::fill_n(&values[list[index].offset], l.size, 1.0f);
        index += 2;
      },
      [&](int n) { std::fill_n(&values[list[index++].offset], n, spec.log_std_init); });
  return values;
}

}  // namespace myriad
