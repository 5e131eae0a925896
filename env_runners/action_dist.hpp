// ActionDist: from action_dist_inputs to actions and their log probabilities.
//
// Used by one thread; no allocation. Each environment draws from its own random stream, so what it draws does not
// depend on its neighbours; parts of a Composite draw from it one after the other. Actions are as fragments keep them
// (StoredAction): rows of the action space, or float32 of a Dict or Tuple, before the ActionConnector.
#pragma once

#include <cmath>
#include <cstddef>
#include <span>
#include <vector>

#include "rl/action_mask.hpp"
#include "rl/connector.hpp"
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

  /// The likeliest choice; the greatest of Q-values; of a Gaussian the mean, squashed where it is; of a Beta the mode.
  /// inputs [n, num_inputs] -> actions [n, row_bytes], logp [n].
  void mode(const float* inputs, size_t n, std::byte* actions, float* logp) const;

  /// Log probability (density) of one action; -inf for a masked one.
  float logp(const float* inputs, const std::byte* action) const;

  int num_inputs() const { return inputs_; }
  size_t row_bytes() const { return row_bytes_; }

 private:
  struct Draw;
  struct Mode;
  struct LogProb;
  /// What the elements of a stored action are.
  struct Format {
    bool floats = false;  ///< of a Composite: choices from 0, too
    bool f64 = false;     ///< a Box of float64
    int start = 0;        ///< Discrete::start
  };
  /// Those of one part, in the row of all.
  struct Elements {
    std::byte* row;
    size_t first;
    const Format& format;

    Elements of(const ActionPart& part) const { return {row, static_cast<size_t>(part.element), format}; }
    void put_choice(size_t i, int choice) const;
    int choice(size_t i, int n) const;  ///< throws Error for one outside [0, n)
    void put_real(size_t i, float value) const;
    float real(size_t i) const;
  };

  ActionDistribution distribution_;
  std::vector<ActionPart> parts_;
  size_t row_bytes_;
  int inputs_;
  Format format_;
  double epsilon_ = 0.0;
  std::vector<float> cumulative_;  // scratch of sample(): the largest group's running sums
};

/// Inversion: the first of n choices whose running sum of probabilities, `cumulative` [n], exceeds u times the whole,
/// u in [0, 1). None whose logit is kMaskedLogit, whatever u.
int draw_choice(const float* logits, const float* cumulative, int n, double u);

/// Actions drawn uniformly from what the policy's actions may be: the space, or with `normalize` [-1, 1] for each
/// bounded element of a Box (the ActionConnector stretches it). Unbounded elements as Space::sample draws them.
class UniformActions {
 public:
  UniformActions(const Space& action_space, bool normalize);
  /// Writes one action as fragments keep it and returns its log probability (density). `mask`: of the choices that are
  /// allowed, those of each element side by side; null: all are.
  float operator()(RandomStream& random, std::span<std::byte> action, const float* mask = nullptr);

 private:
  Space space_;
  ActionConnector store_;
  double bounded_logp_ = 0.0, choices_logp_ = 0.0;  ///< of bounded elements of Boxes; of all choices
  struct Unbounded {
    size_t offset;  ///< in a row of the space
    bool f64;
    double low, high;
  };
  std::vector<Unbounded> unbounded_;  ///< Box elements without one or both bounds
  std::vector<Choice> choices_;
  bool only_choices_ = true;    ///< no Box
  std::vector<std::byte> row_;  ///< scratch: of the space
};

}  // namespace myriad
