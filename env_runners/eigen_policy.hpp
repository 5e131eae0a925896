// EigenPolicy: a module's inference part, obs -> action_dist_inputs, from the flat weights as they arrived.
//
// Owned by one RolloutWorker or Evaluator, used by one thread; nothing is allocated per forward. Samples are processed
// in panels of 16 (8 or 4 where fewer are left): sample j is SIMD lane j of every instruction and a sum runs over
// the inputs in order, so a sample's result is the same bits whatever shares its call.
//
//   obs [n, in] --transpose--> panel [in][16] --Linear: y[o][:] = b[o] + sum_i W[o][i] x[i][:]--> ... --> [n, out]
//
// What begins with a picture's layers takes its samples one by one through these, where the lanes are channels, and
// they enter the panel behind them. Convolutions have their weights transposed by load(). Streams and networks run
// one after the other; what reads several of them begins with a panel of its own, where each has copied its outputs.
#pragma once

#include <cstddef>
#include <map>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "rl/module_spec.hpp"

namespace myriad {

struct PolicyKernels;

class EigenPolicy {
 public:
  /// `kernels` null: the best the CPU supports.
  explicit EigenPolicy(const ModuleSpec& spec, const PolicyKernels* kernels = nullptr);

  int obs_size() const { return spec_.obs_size; }
  int num_outputs() const { return outputs_; }  ///< inputs_size(distribution)

  /// Uses `values` (the inference part or more) in place: they must stay until the next load, and a change of a
  /// convolution's wants one. Throws Error when too short.
  void load(std::span<const float> values);

  /// obs [n, obs_size] (already filtered) -> action_dist_inputs [n, num_outputs]; DiagGaussian: [mean, clipped log
  /// std].
  void forward(const float* obs, size_t n, float* action_dist_inputs);

 private:
  /// Rows on their way through the layers: x[feature][lanes], one lane outside of panels.
  struct Pass {
    float *x, *y, *saved;
    int lanes;
    const float *weights, *packed;
  };

  /// What a part gives.
  struct Source {
    size_t part;
    int size;
  };
  /// Where a part's outputs go: from this feature on of the panel that another part begins with.
  struct Place {
    size_t part;
    int feature;
  };

  /// Layers from a row of features, in the observations or of a panel where what it reads lies side by side, to a
  /// panel: a stream, what lies behind streams, or whole networks of which each is all that the next one reads.
  struct Part {
    size_t begin = 0, end = 0;           ///< of layers_, without the Stream or Concat before them
    std::span<const Layer> layers = {};  ///< without the Select that it begins with
    size_t weights = 0, packed = 0;      ///< where its parameters begin in the buffer, and in packed_
    int offset = 0;                      ///< of the row in the observations
    size_t row_layers = 0;               ///< the leading layers that a sample goes through alone
    size_t row_weights = 0;              ///< floats of their parameters
    bool from_rows = false;              ///< the layer behind them is linear
    int features = 0;                    ///< that it takes
    int joined = -1;                     ///< the panel where what it reads is joined; -1: it reads obs alone
    std::vector<int> obs_at = {};        ///< features of that panel where obs go
    std::vector<Place> readers = {};     ///< where its outputs go
    int outputs = 0;

    int pitch() const;  ///< floats between the features of two samples behind the row layers
  };

  void make_parts();
  void add_parts(const Network& network, size_t begin, std::map<std::string_view, Source>& outputs);
  void place_layers(Part& part, size_t& weights, size_t& packed) const;
  float* joined_panel(const Part& part) const { return joined_ + static_cast<size_t>(part.joined) * joined_size_; }
  void run(const Layer& layer, Pass& pass);
  void run_linear(const Linear& l, Pass& pass);
  const float* padded(const float* x, int height, int width, int channels, int padding, float border);
  void run_rows(const Part& part, const float* obs, int samples);
  void run_part(const Part& part, const float* obs, int samples, Pass& panel);
  void forward_panel(const float* obs, int samples, int lanes, float* out);
  void mask_outputs(const float* obs, int samples, float* out) const;
  void write_outputs(const float* head, const float* log_std, int samples, int lanes, float* out) const;

  ModuleSpec spec_;
  const PolicyKernels& kernels_;
  size_t num_weights_;
  int outputs_;
  std::vector<Layer> layers_;  ///< of the networks that act
  std::vector<Part> parts_;    ///< the last one ends with pi
  int num_joined_ = 0;         ///< panels where what a part reads is joined
  size_t joined_size_ = 0;     ///< floats between two of them
  std::vector<ActionPart> action_parts_;
  std::span<const float> weights_;
  std::vector<float> scratch_;  ///< what the pointers point into, 64-byte aligned
  float *panels_[2], *joined_, *panel_saved_;
  float *rows_[2], *row_saved_, *padded_, *packed_, *gathered_;
};

}  // namespace myriad
