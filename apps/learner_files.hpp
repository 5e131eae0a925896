// The learner's part of a checkpoint: safetensors for module, optimizer, connectors and counters, one file for each
// runner.
//
//   learner_group/modules/default_policy.safetensors   learner_group/optimizer.safetensors
//   learner_group/connectors.safetensors               learner_group/state.safetensors
//   env_runners/slot-0000.safetensors ...
#pragma once

#include <vector>

#include "learners/checkpoint.hpp"
#include "learners/learner.hpp"
#include "learners/learner_core.hpp"

namespace myriad {

struct LearnerCounters {
  uint64_t training_iteration = 0, num_env_steps_sampled_lifetime = 0;
};

/// Throws FileError.
std::vector<wire::FileEntryT> save_learner(Files& files, const LearnerCore::WriteCheckpoint& request,
                                           const Learner& learner);

/// Throws Error("corrupt-file" or "foreign-checkpoint").
LearnerCounters load_learner(Files& files, const std::string& directory, Learner& learner);

}  // namespace myriad
