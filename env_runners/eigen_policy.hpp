// EigenPolicy: a module's inference part, obs -> action_dist_inputs, from the flat weights as they arrived.
//
// Owned by one RolloutWorker or Evaluator, used by one thread; nothing is allocated per forward. Samples are processed
// in panels of 16 (8 or 4 where fewer are left): sample j is SIMD lane j of every instruction and a sum runs over
// the inputs in order, so a sample's result is the same bits whoever shares its call.
//
//   obs [n, in] --transpose--> panel [in][16] --Linear: y[o][:] = b[o] + sum_i W[o][i] x[i][:]--> ... --> [n, out]
//
// What begins with a picture's layers takes its samples one by one through these, where the lanes are channels, and
// they enter the panel behind them. Convolutions have their weights transposed by load(). Streams go one after the
// other, each into its place of the panel that the layers behind them begin with.
#pragma once

#include <cstddef>
#include <memory>
#include <span>
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

  /// Layers from a row of features, in the observations or of the panel that streams joined, to a panel.
  struct Part {
    std::span<const Layer> layers;   ///< without the Stream and the Select that it begins with
    size_t weights = 0, packed = 0;  ///< where its parameters begin in the buffer, and in packed_
    int offset = 0;                  ///< of the row in the observations
    size_t row_layers = 0;           ///< the leading layers that a sample goes through alone
    size_t row_weights = 0;          ///< floats of their parameters
    bool from_rows = false;          ///< the layer behind them is linear
    int features = 0;                ///< that it takes
    bool joined = false;             ///< the row is what streams joined
    int outputs = 0;

    int pitch() const;  ///< floats between the features of two samples behind the row layers
  };

  void make_parts();
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
  std::vector<Layer> layers_;  ///< the encoder's and the head
  std::vector<Part> parts_;    ///< streams, then what they join in; or all there is
  std::span<const float> weights_;
  std::vector<float> scratch_;  ///< what the pointers point into, 64-byte aligned
  float *panels_[2], *joined_, *panel_saved_;
  float *rows_[2], *row_saved_, *padded_, *packed_, *gathered_;
};

}  // namespace myriad
