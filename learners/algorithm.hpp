// Algorithm: what a learner asks of PPO, IMPALA, ...; one file each in algorithms/, registered by name.
//
//   begin_update(env steps) -> add_targets(batch) -> for each minibatch: loss(module output, columns) ->
//   end_update(metrics)
//
// The learner owns module, optimizer, filter and loop; an algorithm owns its coefficients and nothing else. One thread.
#pragma once

#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "learners/tensor_batch.hpp"
#include "learners/torch_module.hpp"
#include "rl/config.hpp"

namespace myriad {

/// RLlib's metric names -> values.
using Metrics = std::map<std::string, double>;

/// How experience reaches the learner.
enum class Sampling : uint8_t {
  sync_on_policy,  ///< the next round begins with the new weights
  bounded_lag,     ///< runners fill batch k+1 while the learner works on k
  free_async,      ///< runners never wait; the algorithm corrects for the lag
  replay,          ///< fragments go through a replay buffer
};

struct Loss {
  at::Tensor total;                         // []   what is differentiated
  at::Tensor metrics;                       // [m]  float32 means over the minibatch, averaged over minibatches
  std::span<const std::string_view> names;  ///< of the metrics; static
};

class Algorithm {
 public:
  virtual ~Algorithm() = default;

  /// The network, with whatever heads the loss needs.
  virtual ModuleSpec module_spec(const Space& observation_space, const Space& action_space) const = 0;

  /// Columns the runners must send beside obs, actions, rewards, terminateds and truncateds.
  virtual std::vector<std::string> fragment_columns() const = 0;

  /// Columns a minibatch of loss() holds.
  virtual std::vector<std::string> loss_columns() const = 0;

  /// Adds columns of targets to `batch`, whose values are filled; what it learns by the way goes into `metrics`.
  virtual void add_targets(TensorBatch& batch, Metrics& metrics) const = 0;

  /// The loss of one minibatch: columns [n, ...].
  virtual Loss loss(const ModuleSpec& spec, const ModuleOutput& output, const Columns& minibatch) const = 0;

  virtual Sampling sampling() const { return Sampling::sync_on_policy; }

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

using MakeAlgorithm = std::unique_ptr<Algorithm> (*)(const Config& config);

/// `static const RegisterAlgorithm ppo{"PPO", [](const Config& c) ... };` in the algorithm's own file.
struct RegisterAlgorithm {
  RegisterAlgorithm(std::string name, MakeAlgorithm make);
};

/// config.algorithm by its registered name. Throws Error("unknown-algorithm").
std::unique_ptr<Algorithm> make_algorithm(const Config& config);

}  // namespace myriad
