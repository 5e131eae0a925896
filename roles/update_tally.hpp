// UpdateTally: what each shard adds to an update, as numbers that are summed over the group when it begins; and the
// state that follows once all shards have finished it.
//
// A message of an agent below its mark is trained on in this update, or was before, or was dropped: together with the
// parameters of the new version that is all a learner needs to go on in place of another.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "rl/wire/messages.hpp"

namespace myriad {

struct GroupState {
  uint64_t training_iteration = 0, num_env_steps_sampled_lifetime = 0;
  std::vector<wire::AgentMark> marks;  ///< by agent
};

inline wire::GroupStateT to_wire(const GroupState& state) {
  wire::GroupStateT out;
  out.training_iteration = state.training_iteration;
  out.num_env_steps_sampled_lifetime = state.num_env_steps_sampled_lifetime;
  out.marks = state.marks;
  return out;
}

inline GroupState from_wire(const wire::GroupStateT* state) {
  if (state == nullptr) return {};
  return {state->training_iteration, state->num_env_steps_sampled_lifetime, state->marks};
}

struct UpdateTally {
  uint64_t fragments = 0;
  bool ends_iteration = false;
  std::vector<wire::AgentMark> marks;

  /// Of one shard: the sums over all shards are decoded. An agent has one shard.
  std::vector<double> encode(uint32_t num_agents) const {
    std::vector<double> numbers(2 + 2 * size_t{num_agents});
    numbers[0] = static_cast<double>(fragments);
    numbers[1] = ends_iteration ? 1.0 : 0.0;
    for (const wire::AgentMark& mark : marks) {
      if (mark.agent() >= num_agents) continue;
      numbers[2 + 2 * size_t{mark.agent()}] = static_cast<double>(mark.incarnation()) + 1.0;  // 0: not said
      numbers[3 + 2 * size_t{mark.agent()}] = static_cast<double>(mark.messages());
    }
    return numbers;
  }
  static UpdateTally decode(std::span<const double> numbers) {
    UpdateTally tally{static_cast<uint64_t>(numbers[0]), numbers[1] > 0.0, {}};
    for (size_t i = 2; i + 1 < numbers.size(); i += 2)
      if (numbers[i] > 0.0)
        tally.marks.emplace_back(static_cast<uint32_t>(i / 2 - 1), static_cast<uint32_t>(numbers[i] - 1.0),
                                 static_cast<uint64_t>(numbers[i + 1]));
    return tally;
  }
};

/// `state` after an update of this tally; a fragment has `fragment_steps` env steps.
inline GroupState after(GroupState state, const UpdateTally& tally, uint64_t fragment_steps) {
  state.training_iteration += tally.ends_iteration ? 1 : 0;
  state.num_env_steps_sampled_lifetime += tally.fragments * fragment_steps;
  for (const wire::AgentMark& mark : tally.marks) {
    const auto it =
        std::find_if(state.marks.begin(), state.marks.end(), [&](const auto& m) { return m.agent() == mark.agent(); });
    if (it == state.marks.end())
      state.marks.push_back(mark);
    else
      *it = mark;
  }
  return state;
}

}  // namespace myriad
