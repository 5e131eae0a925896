// Connectors: what lies between an environment and a module. All write where the caller says; nothing allocates a step.
//
//   env row --ObservationFlattener--> f32 features --(fragment keeps these)--> MeanStdFilter --> module
//   module action --ActionConnector (unsquash, clip)--> env action row
//   env reward --RewardConnector (filter, scale, clip)--> (fragment keeps this)
//
// The fragment keeps unfiltered features: the learner owns the statistics, updates them from the batches it accepted
// and sends them with the weights, so nothing is counted twice and every runner filters alike.
#pragma once

#include <optional>
#include <span>
#include <string>
#include <vector>

#include "rl/space.hpp"

namespace myriad {

/// Any observation space -> flat_size() floats: Box as it is, Discrete and MultiDiscrete one-hot, Dict/Tuple side by
/// side.
class ObservationFlattener {
 public:
  explicit ObservationFlattener(const Space& space) : space_(space) {}
  /// A row that already is flat float32 can be written straight into the fragment.
  bool is_identity() const;
  void operator()(std::span<const std::byte> row, std::span<float> features) const;

 private:
  Space space_;
};

/// Running mean and variance of features (Chan et al. 1979): exact to merge, in any grouping to rounding.
class MeanStdFilter {
 public:
  /// `plain_size` features from `plain_offset` on are clipped alone, neither shifted nor scaled: an action mask.
  explicit MeanStdFilter(int size, double clip = 10.0, int plain_offset = 0, int plain_size = 0);
  int size() const { return static_cast<int>(mean_.size()); }
  double count() const { return count_; }

  void update(std::span<const float> rows);  ///< [n, size]
  void merge(const MeanStdFilter& other);

  /// out = clip((x - mean) / max(std, 1e-4)); the identity until two rows were seen. `out` may be `rows`.
  void apply(std::span<const float> rows, std::span<float> out) const;

  /// What apply computes with: (x - shift) * scale, clipped to +/- clip, once active.
  bool active() const { return count_ >= 2; }
  std::span<const float> shift() const { return shift_; }  // [size]
  std::span<const float> scale() const { return scale_; }  // [size]
  double clip() const { return clip_; }

  std::vector<double> state() const;              ///< [count, mean..., m2...]
  void set_state(std::span<const double> state);  ///< throws Error when the length is wrong

 private:
  void refresh();
  double clip_, count_ = 0;
  size_t plain_begin_, plain_end_;
  std::vector<double> mean_, m2_;
  std::vector<float> shift_, scale_;  ///< what apply uses, kept beside the statistics
};

/// How a policy gives an action and a fragment keeps it. Of a space that is one leaf: as a row of it. Of a Dict or
/// Tuple: float32, the elements of its leaves side by side, choices counted from 0.
struct StoredAction {
  DType dtype;
  std::vector<int> shape;
  size_t bytes;
};
StoredAction stored_action(const Space& space);

/// Of a stored action: "" where each of its choices is one of its space, else "action.move[0] = 4 outside [0, 4)". Real
/// numbers may be any.
std::string stored_action_violation(const Space& space, std::span<const std::byte> action);

/// The policy's action -> the environment's. Box: optional unsquash of [-1, 1] to [low, high], then clip; integers as
/// they are.
class ActionConnector {
 public:
  ActionConnector(const Space& space, bool normalize, bool clip);
  /// A stored action -> a row of the space.
  void operator()(std::span<const std::byte> action, std::span<std::byte> env_action) const;

  /// The other way round for an action that was drawn elsewhere (OwnAction), which is a row of the space, and neither
  /// stretched nor clipped.
  void store(std::span<const std::byte> drawn, std::span<std::byte> action) const;

 private:
  Space space_;
  size_t stored_bytes_;
  bool identity_;
  std::vector<float> scale_, offset_, low_, high_;  // [elements]
};

/// The environment's reward -> what the learner sees: filtered, then scaled, then clipped, where asked for. The filter
/// divides by the running standard deviation of the environment's discounted return, as Gymnasium's NormalizeReward:
/// each environment has its own statistics, so that how environments are shared over runners changes nothing.
class RewardConnector {
 public:
  struct Options {
    bool filter = false;
    double gamma = 0.99;  ///< of the filter's return
    double scale = 1.0;
    std::optional<double> clip = {};  ///< to [-clip, clip]
    bool sign = false;                ///< -1, 0 or 1 (Mnih et al. 2015)
  };
  RewardConnector(const Options& options, size_t num_envs);

  /// NaN for a reward that is not finite.
  float operator()(size_t env, double reward, bool terminated) {
    if (plain_) [[likely]]
      return static_cast<float>(reward * options_.scale);
    return shaped(env, reward, terminated);
  }

  bool has_state() const { return !statistics_.empty(); }
  std::vector<double> state() const;              ///< [num_envs, {count, mean, variance, return}]
  void set_state(std::span<const double> state);  ///< throws Error when the length is wrong, or a number cannot be

 private:
  /// Of the discounted return so far, at each step (Welford 1962), begun as Gymnasium's: 1e-4 values of variance 1.
  struct Statistics {
    double count = 1e-4, mean = 0.0, variance = 1.0, discounted_return = 0.0;
    void update(double reward, bool terminated, double gamma);
  };
  float shaped(size_t env, double reward, bool terminated);

  Options options_;
  bool plain_;
  std::vector<Statistics> statistics_;  // [num_envs] or none
};

}  // namespace myriad
