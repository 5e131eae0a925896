// ActionDist: from action_dist_inputs to actions and their log probabilities.
//
// Used by one thread; no allocation. Each environment draws from its own random stream, so what it draws does not
// depend on its neighbours. Actions are rows of the action space (int32; float32 or float64 for Box), before the
// ActionConnector.
#pragma once

#include <cmath>
#include <cstddef>
#include <span>
#include <vector>

#include "rl/module_spec.hpp"
#include "rl/random.hpp"
#include "rl/space.hpp"

namespace myriad {

class ActionDist {
 public:
  /// Throws Error when the distribution and the space do not fit.
  ActionDist(const ActionDistribution& distribution, const Space& action_space);

  /// Of an epsilon-greedy policy, in [0, 1]: 0 until it is set.
  void set_epsilon(double epsilon);
  bool is_epsilon_greedy() const { return std::holds_alternative<EpsilonGreedy>(distribution_); }

  /// Draws an action a stream. inputs [n, num_inputs] -> actions [n, row_bytes], logp [n].
  void sample(const float* inputs, std::span<RandomStream> streams, std::byte* actions, float* logp);

  /// The mode: argmax (of logits, of Q-values), or the mean. inputs [n, num_inputs] -> actions [n, row_bytes], logp
  /// [n].
  void mode(const float* inputs, size_t n, std::byte* actions, float* logp) const;

  /// Log probability (density) of one action.
  float logp(const float* inputs, const std::byte* action) const;

  int num_inputs() const { return inputs_; }
  size_t row_bytes() const { return row_bytes_; }

 private:
  ActionDistribution distribution_;
  size_t row_bytes_;
  int inputs_;
  int start_ = 0;     ///< Discrete::start
  bool f64_ = false;  ///< a Box of float64
  double epsilon_ = 0.0;
  float logp_best_ = 0.0f, logp_other_ = -INFINITY;  ///< of epsilon_
  std::vector<float> cumulative_;                    // scratch of sample(): the largest group's running sums
};

/// Actions drawn uniformly from what the policy's actions may be: the space, or with `normalize` [-1, 1] for each
/// bounded element of a Box (the ActionConnector stretches it). Unbounded elements as Space::sample draws them.
class UniformActions {
 public:
  UniformActions(const Space& action_space, bool normalize);
  /// Writes one action and returns its log probability (density).
  float operator()(RandomStream& random, std::span<std::byte> action) const;

 private:
  Space space_;
  double bounded_logp_ = 0.0;  ///< of all discrete and bounded elements
  struct Unbounded {
    size_t index;
    double low, high;
  };
  std::vector<Unbounded> unbounded_;  ///< Box elements without one or both bounds
  DType dtype_ = DType::i32;
};

}  // namespace myriad
