// Toy environments whose every number is known; registered when toy_envs.cpp is linked.
#pragma once

#include "rl/config.hpp"
#include "rl/environment.hpp"

namespace myriad::test {

/// Observation [c, k]: c = steps since reset, k = drawn at reset from the env's stream in [0, 1). Reward: c + action.
/// Terminates at c == options["length"] (0 = never).
const EnvSpec& counter();
/// As the counter, but cannot give its state.
const EnvSpec& forgetful();
/// Goes wrong at step 3 as options["fault"] says: 0 NaN observation, 1 observation outside, 2 throws, 3 inf reward,
/// 4 throws an int, 5 outside at reset.
const EnvSpec& faulty();
/// uint8 Box [2, 2] filled with the step count; Discrete(3, start = 5) actions; reward = action.
const EnvSpec& pixels();
/// Dict{pose: Box [2], room: Discrete 3}; Box action [2] in [-2, 4]; reward = sum of the action.
const EnvSpec& rooms();
/// Dict{pose: Box [2], picture: Box [8, 8, 1] of uint8, room: Discrete 3}, where all but the room is drawn anew in each
/// step; Discrete(2) actions; reward 0; ends with a chance of 0.1, cut with 0.1.
const EnvSpec& camera();

/// Box [2], both drawn anew; Discrete(2) actions; reward 0. After each step the episode is over with probability 0.3,
/// cut with 0.2. set_state() shows a first feature that is off by options["rounding"].
const EnvSpec& chancy();

/// Dict{action_mask: Box [4] of uint8, observation: Box [4]}; Discrete(4, start = 10) actions, of which
/// options["allowed"] (1) are, drawn anew each step. The reward is the observation's element of the action; a masked
/// action throws. Ends with a chance of 0.1, its last mask all zeros. options["stuck"] > 0: no action is allowed after
/// so many steps.
const EnvSpec& masked();
/// The same with two choices: MultiDiscrete [2, 3], the mask a MultiBinary(5) behind a Box [5]; each choice has
/// "allowed" options, and the reward is their sum.
const EnvSpec& masked_pair();

/// masked() with an observation of four bytes, in front of the mask.
const EnvSpec& masked_bytes();

/// Dict{aim: Box [2] in [-2, 4], keys: MultiBinary(2), more: Tuple{Box [1] in [0, 1] of float64, MultiDiscrete [2, 3]},
/// move: Discrete(3, start = 10)}. The observation is one-hot of one of three contexts c, drawn anew each step. The
/// reward is 1 where every part is right: aim[0] > 1, keys 1 0, more < 0.5 and 1 c, move 10 + c. Throws at what lies
/// outside the space. Ends after 10 steps.
const EnvSpec& gamepad();
/// masked() with these actions: of the 12 options of their six choices.
const EnvSpec& masked_gamepad();
/// masked() with MultiBinary(3) actions.
const EnvSpec& masked_bits();

/// A config for `env` with B environments and fragments of T steps.
Config config_for(const EnvSpec& env, int environments, int steps, int64_t seed = 7);

}  // namespace myriad::test
