#include "sims/toy_text/tabular_env.hpp"

#include <algorithm>
#include <numeric>

#include "rl/check.hpp"

namespace myriad {

TransitionTable::TransitionTable(int num_states, int num_actions)
    : num_actions_(static_cast<size_t>(num_actions)),
      initial_(static_cast<size_t>(num_states)),
      entries_(initial_.size() * num_actions_) {}

void TransitionTable::set_initial(const std::vector<double>& weights) {
  check(weights.size() == initial_.size(), "{} initial weights, want {}", weights.size(), initial_.size());
  const double sum = std::accumulate(weights.begin(), weights.end(), 0.0);
  double cumulative = 0;
  for (size_t s = 0; s < weights.size(); ++s) initial_[s] = cumulative += weights[s] / sum;
}

void TransitionTable::set(int state, int action, const std::vector<Outcome>& outcomes) {
  check(!outcomes.empty() && outcomes.size() <= kMaxOutcomes, "{} outcomes, want 1 to {}", outcomes.size(),
        kMaxOutcomes);
  Entry& entry = entries_[static_cast<size_t>(state) * num_actions_ + static_cast<size_t>(action)];
  double cumulative = 0;
  for (size_t i = 0; i < outcomes.size(); ++i) {
    entry.outcomes[i] = outcomes[i];
    entry.cumulative[i] = cumulative += outcomes[i].probability;
  }
}

// Where rounding leaves the last sum below the draw, the first counts, as with NumPy's argmax over no True.
int TransitionTable::sample_initial(RandomStream& random) const {
  const auto found = std::ranges::upper_bound(initial_, random.uniform());
  return found == initial_.end() ? 0 : static_cast<int>(found - initial_.begin());
}

const Outcome& TransitionTable::sample(int state, int action, RandomStream& random) const {
  const Entry& entry = entries_[static_cast<size_t>(state) * num_actions_ + static_cast<size_t>(action)];
  const double draw = random.uniform();
  for (size_t i = 0; i < kMaxOutcomes; ++i)
    if (entry.cumulative[i] > draw) return entry.outcomes[i];
  return entry.outcomes[0];
}

void TabularEnv::reset(RandomStream& random, Row observation) { move_to(table_->sample_initial(random), observation); }

StepResult TabularEnv::step(ConstRow action, RandomStream& random, Row observation) {
  const Outcome& outcome = table_->sample(state_, action.i32()[0], random);
  move_to(outcome.next_state, observation);
  return {.reward = outcome.reward, .terminated = outcome.terminated};
}

void TabularEnv::set_state(std::span<const double> state, Row observation) {
  check_state_length(id_, state.size(), 1);
  move_to(checked(state[0], table_->num_states()), observation);
}

int TabularEnv::checked(double value, int n) const {
  if (!(value >= 0 && value < n))
    fail(Exit::usage, "env-state-value", "a state of {} holds {}, want 0 to {}", id_, value, n - 1);
  return static_cast<int>(value);
}

}  // namespace myriad
