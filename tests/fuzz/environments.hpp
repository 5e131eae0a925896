// The environments of the target runner_state and of its seeds: with all that a state may hold.
#pragma once

#include "env_runners/vector_env.hpp"
#include "rl/wrappers.hpp"

namespace myriad::fuzz {

constexpr size_t kEnvironments = 2, kStateLength = 10;  // numbers: CartPole 4, sticky actions 2, skip 1, stack 3

inline VectorEnv saved_environments() {
  EnvironmentConfig config;
  config.sticky_actions = 0.5, config.frame_skip = 2, config.frame_stack = 2;
  return {wrapped_spec(EnvRegistry::instance().find("CartPole-v1"), config),
          {.num_envs = kEnvironments,
           .first_env_index = 3,
           .seed = 7,
           .curriculum = {"sutton_barto_reward"},
           .rewards = {.filter = true}}};
}

}  // namespace myriad::fuzz
