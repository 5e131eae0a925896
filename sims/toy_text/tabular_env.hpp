// TabularEnv: an environment which is a table of transitions, as Gymnasium's toy text environments have in `env.P`.
//
// A state is an integer and is the observation. A table is built once, never changes, and may be shared by
// environments.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "rl/environment.hpp"

namespace myriad {

/// P(s', r | s, a): what an action leads to, and how likely.
struct Outcome {
  double probability = 0;
  int next_state = 0;
  double reward = 0;
  bool terminated = false;
};

class TransitionTable {
 public:
  TransitionTable(int num_states, int num_actions);

  int num_states() const { return static_cast<int>(initial_.size()); }
  /// One number a state, not normalised: how likely an episode starts there.
  void set_initial(const std::vector<double>& weights);
  /// One to three outcomes, in the order in which a draw goes through them.
  void set(int state, int action, const std::vector<Outcome>& outcomes);

  /// Both take one uniform draw, as Gymnasium's categorical_sample does.
  int sample_initial(RandomStream& random) const;
  const Outcome& sample(int state, int action, RandomStream& random) const;

 private:
  static constexpr size_t kMaxOutcomes = 3;
  struct Entry {
    Outcome outcomes[kMaxOutcomes];
    double cumulative[kMaxOutcomes] = {};  // 0 past the last outcome: never above a draw
  };
  size_t num_actions_;
  std::vector<double> initial_;  // [num_states] cumulative
  std::vector<Entry> entries_;   // [num_states, num_actions]
};

class TabularEnv : public Environment {
 public:
  TabularEnv(std::string id, std::shared_ptr<const TransitionTable> table)
      : id_(std::move(id)), table_(std::move(table)) {}

  void reset(RandomStream& random, Row observation) override;
  StepResult step(ConstRow action, RandomStream& random, Row observation) override;
  std::optional<std::vector<double>> state() const override { return std::vector{static_cast<double>(state_)}; }
  void set_state(std::span<const double> state, Row observation) override;

 protected:
  const std::string& id() const { return id_; }
  /// `value` as an integer in [0, n). Throws Error("env-state-value").
  int checked(double value, int n) const;
  void move_to(int state, Row observation) { observation.i32()[0] = state_ = state; }
  int current() const { return state_; }

 private:
  std::string id_;
  std::shared_ptr<const TransitionTable> table_;
  int state_ = 0;
};

}  // namespace myriad
