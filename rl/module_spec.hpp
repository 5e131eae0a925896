// Module spec: a network as data. Two executors build the same spec: torch and native (training), Eigen (inference).
//
//   obs -> encoder -> action head -> action_dist_inputs     (inference part: what runners receive)
//     \--> [value encoder] -> value head -> value           (learner only; shares the encoder with vf_share_layers)
//
// Parameters lie in one flat float32 buffer, inference part first: for each layer in order its weight [out, in]
// (row-major, as torch) and bias [out]; LayerNorm gain and bias [n]; a free log std [n] after the action head.
// The hash of the structure travels with the weights. A new layer kind is a new alternative of Layer: the build breaks
// exactly where an executor has to learn it.
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "rl/space.hpp"

namespace myriad {

enum class Activation : uint8_t { linear, tanh, relu, silu, gelu, elu };
std::string_view name_of(Activation activation);
Activation activation_from(std::string_view name);  ///< throws Error naming the known ones

enum class Initializer : uint8_t { orthogonal, xavier_uniform, kaiming_uniform };

/// y = W x + b.
struct Linear {
  int inputs, outputs;
  Initializer initializer = Initializer::orthogonal;
  float gain = 1.0f;
};
struct Activate {
  Activation activation;
  int size;
};
/// (x - mean) / sqrt(var + 1e-5) * gain + bias over the features (Ba et al. 2016).
struct LayerNorm {
  int size;
};

using Layer = std::variant<Linear, Activate, LayerNorm>;

/// How action_dist_inputs become an action.
struct Categorical {
  int n;
};  ///< logits [n]
struct MultiCategorical {
  std::vector<int> nvec;
};  ///< logits side by side [sum nvec]
struct DiagGaussian {
  int n;
  bool free_log_std;
};  ///< mean [n], log std [n] (a parameter when free)
using ActionDistribution = std::variant<Categorical, MultiCategorical, DiagGaussian>;
int inputs_size(const ActionDistribution& distribution);  ///< length of action_dist_inputs
ActionDistribution distribution_for(const Space& action_space, bool free_log_std);

/// One tensor of the flat buffer.
struct Parameter {
  std::string name;  ///< "encoder.0.weight", "pi.bias", "vf_encoder.2.weight", "log_std"
  std::vector<int> shape;
  size_t offset;  ///< floats from the start of the buffer
  size_t count;
};

/// The settings of the default MLP, named as RLlib's DefaultModelConfig.
struct ModelConfig {
  std::vector<int> fcnet_hiddens{256, 256};
  std::string fcnet_activation = "tanh";
  bool fcnet_use_layernorm = false;
  bool vf_share_layers = false;
  bool free_log_std = true;
  double log_std_init = 0.0;       ///< initial value of a free log std
  double log_std_clip_param = 20;  ///< log std is clipped to +/- this
};

struct ModuleSpec {
  int obs_size = 0;  ///< flat float32 features the encoder sees
  std::vector<Layer> encoder;
  Linear action_head{0, 0};
  std::vector<Layer> value_encoder;  ///< empty: the value head reads the encoder
  bool shares_encoder = false;
  Linear value_head{0, 0};
  ActionDistribution distribution{Categorical{0}};
  float log_std_init = 0.0f;
  float log_std_clip = 20.0f;

  std::vector<Parameter> parameters() const;  ///< in buffer order
  size_t num_parameters() const;              ///< floats, all
  size_t num_inference_parameters() const;    ///< floats of the leading inference part
  uint64_t hash() const;                      ///< of the structure: sizes, kinds, order
  std::string to_string() const;  ///< "4 -> 64 tanh -> 64 tanh -> categorical 2; value 64 tanh -> 64 tanh -> 1"
};

/// The default module: MLP encoder(s) after flattening. Throws Error for an action space no distribution covers.
ModuleSpec make_mlp_spec(const Space& observation_space, const Space& action_space, const ModelConfig& config);

/// Fresh parameters [num_parameters], the same for the same seed on any machine and executor (Saxe et al. 2014 for
/// orthogonal).
std::vector<float> initial_parameters(const ModuleSpec& spec, uint64_t seed);

}  // namespace myriad
