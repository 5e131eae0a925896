// Algorithm: what a learner asks of PPO, IMPALA, ...; one file each in algorithms/, registered by name.
//
//   begin_update(env steps) -> targets(batch) -> for each minibatch: loss(networks, columns) -> end_update(metrics)
//
// or, with a SequencePlan, without targets. Both are in torch's operators and train on any device. An algorithm
// may have its loss by hand as well, for small networks on a CPU: SampleLosses.
//
// Its network, the columns it wants of the runners and its settings are AlgorithmInfo's (rl/algorithm_info.hpp). The
// learner owns module, optimizer, filter and loop; an algorithm owns its coefficients and nothing else. One thread.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "learners/moments.hpp"
#include "learners/networks.hpp"
#include "learners/tensor_batch.hpp"
#include "rl/algorithm_info.hpp"

namespace myriad {

/// RLlib's metric names -> values.
using Metrics = std::map<std::string, double>;

/// A second set of parameters that follows the module's: target := tau * module + (1 - tau) * target, each time
/// `interval` more env steps went through the loss. networks.target() computes with it.
struct TargetNetwork {
  double interval = 0.0, tau = 1.0;
};
/// The columns it gives to the loss of a SequencePlan: the target policy's action_dist_inputs [T, N, k] and log pi(a|s)
/// [T, N].
constexpr const char* kTargetInputs = "target_action_dist_inputs";
constexpr const char* kTargetLogp = "target_logp";

/// Minibatches of single rows: values and targets() once, then columns [n, ...].
struct RowPlan {
  bool loss_is_sum = false;  ///< over the minibatch; else it is the mean
  std::optional<TargetNetwork> target = std::nullopt;
};

/// The newest `batches` batches, each to be used `uses` times (circular_buffer.hpp).
struct BatchBuffer {
  int64_t batches = 1, uses = 1;
};

/// Minibatches of whole sequences of some environments, time-major: loss() makes its own targets. Columns are
/// [T, N, ...], but "obs" has rows [(T+1) * N + F, obs_size]: T steps, the bootstrap row, final_obs. A loss that reads
/// "rewards", "terminateds", "truncateds" names them in loss_columns().
struct SequencePlan {
  bool loss_is_sum = false;  ///< over the minibatch; else it is the mean
  std::optional<BatchBuffer> buffer = std::nullopt;
  std::optional<TargetNetwork> target = std::nullopt;  ///< gives the columns kTargetInputs and kTargetLogp, too
};

/// What an update does with a batch; fixed for a run.
using UpdatePlan = std::variant<RowPlan, SequencePlan>;

inline std::optional<TargetNetwork> target_of(const UpdatePlan& plan) {
  return std::visit([](const auto& p) { return p.target; }, plan);
}
inline bool loss_is_sum(const UpdatePlan& plan) {
  return std::visit([](const auto& p) { return p.loss_is_sum; }, plan);
}

/// Sums a tensor over the shards of a group, in place; empty: this shard is alone. All shards call it equally often.
using DeviceSum = std::function<void(const at::Tensor&)>;

/// What targets() adds to a batch.
struct TargetColumns {
  Columns columns;                          // [T, N, ...]
  at::Tensor metrics;                       // [m]
  std::span<const std::string_view> names;  ///< of the metrics; static
};

struct Loss {
  at::Tensor total;     // []   what is differentiated
  at::Tensor metrics;   // [m]  float32 means over the minibatch, of loss_metrics()
  at::Tensor fit = {};  // [5]  SequencePlan: ValueFit::numbers() of the minibatch's values, for vf_explained_var
};

class Algorithm {
 public:
  virtual ~Algorithm() = default;

  /// Columns a minibatch of loss() holds: of the fragments, and of targets().
  virtual std::vector<std::string> loss_columns() const = 0;

  virtual UpdatePlan plan() const { return RowPlan(); }

  /// The names of Loss::metrics, in order.
  virtual std::span<const std::string_view> loss_metrics() const = 0;

  // What these two launch on a GPU is recorded in a CUDA graph once and replayed: torch's operators only, nothing that
  // waits for the device or depends on a number of the host that changes.

  /// Columns of targets for a batch whose values are filled. It may be a share of the group's, or nothing of it (no
  /// environments): statistics of the whole are made with `sum`. The batch has kFinalIndex, and final_obs rows that no
  /// index names.
  virtual TargetColumns targets(const TensorBatch& /*batch*/, const DeviceSum& /*sum*/) const { return {}; }

  /// The loss of one minibatch, whose shapes are plan()'s; that of a SequencePlan has kFinalIndex, and more final rows
  /// than it names. It asks `networks` for the passes it needs; most need one, networks.online(minibatch.at("obs")).
  virtual Loss loss(Networks& networks, const Columns& minibatch) const = 0;

  /// The coefficients that change; loss() finds each in its minibatch as a tensor [] by this name.
  virtual std::map<std::string, double> coefficients() const { return {}; }

  /// Whether stops_epochs() ever says true: then a device is waited for after each epoch.
  virtual bool may_stop_epochs() const { return false; }

  /// Schedules: `env_steps` of the whole run were trained on before this update.
  virtual void begin_update(double /*env_steps*/) {}

  /// Whether the epochs of this update end here, after one with these metrics.
  virtual bool stops_epochs(const Metrics& /*epoch*/) const { return false; }

  /// Adapts coefficients; `metrics` are the last epoch's, and it may add its own.
  virtual void end_update(Metrics& /*metrics*/) {}

  /// Coefficients that change, for a resume.
  virtual std::map<std::string, double> state() const { return {}; }
  virtual void set_state(const std::map<std::string, double>& /*state*/) {}
};

/// Loss of SampleLosses, with its derivatives by the module's outputs.
struct HostLoss {
  float total = 0.0f;
  at::Tensor d_inputs, d_values;               // [n, inputs_size], [n]
  at::Tensor metrics;                          // [m]
  std::optional<ValueFit> fit = std::nullopt;  ///< SequencePlan
};

/// An accelerator that an Algorithm may have beside its loss: targets and loss sample by sample, with derivatives by
/// hand (algorithms/ops/sample_loss.hpp), for small networks on a CPU, where most of an update in torch's operators is
/// their dispatch. The learner uses it there (`executor` auto and native); tests/algorithms/device_loss_test.cpp holds
/// it to targets() and loss().
class SampleLosses {
 public:
  virtual ~SampleLosses() = default;

  /// As targets(): adds the columns to `batch`; metrics of the whole batch go into `metrics`.
  virtual void sample_targets(TensorBatch& /*batch*/, Metrics& /*metrics*/, const SumOverGroup& /*sum*/) const {}

  /// As loss(), with the coefficients as they are now.
  virtual HostLoss sample_loss(const ModuleSpec& spec, const ModuleOutput& output, const Columns& minibatch) const = 0;
};

using MakeAlgorithm = std::unique_ptr<Algorithm> (*)(const Config& config);

/// `const RegisterAlgorithm registered{"PPO", make_as<Ppo>};` in the algorithm's own file.
struct RegisterAlgorithm {
  RegisterAlgorithm(std::string name, MakeAlgorithm make);
};

template <class A>
std::unique_ptr<Algorithm> make_as(const Config& config) {
  return std::make_unique<A>(config);
}

/// config.algorithm by its registered name. Throws Error("unknown-algorithm").
std::unique_ptr<Algorithm> make_algorithm(const Config& config);

}  // namespace myriad
