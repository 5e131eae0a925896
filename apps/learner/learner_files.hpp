// The learner's part of a checkpoint: safetensors for module, optimizer, connectors and counters, one file for each
// runner.
//
//   learner_group/modules/default_policy.safetensors   learner_group/optimizer-0000-of-0001.safetensors ...
//   learner_group/module.json                          the network of these, rl/module_json.hpp
//   learner_group/connectors.safetensors               learner_group/state.safetensors
//   env_runners/slot-0000.safetensors ...
//   learner_group/pending_batch-000000.safetensors ...         lag1: the batch that was sampled and is not trained on
//                                                              yet, a part from each shard, by its first place
//
// The optimizer's state lies in as many files as the learners had parts of it. Any number of learners reads what any
// number wrote: each shard writes its own part, and the first shard what is the same on all.
#pragma once

#include <optional>
#include <vector>

#include "learners/batch_assembler.hpp"
#include "learners/learner.hpp"
#include "roles/checkpoint.hpp"
#include "roles/learner_core.hpp"

namespace myriad {

struct LearnerCounters {
  uint64_t training_iteration = 0, num_env_steps_sampled_lifetime = 0;
};

/// This shard's files. Collective where Learner::state() is. `assembler`: its pending batch, from `first_place` of the
/// group's batch on, is saved when the request says so. Throws FileError.
std::vector<CheckpointFile> save_learner(Files& files, const LearnerCore::WriteCheckpoint& request,
                                         const Learner& learner, size_t first_place, BatchAssembler& assembler);

/// Loads the files of any number of learners into one without a group. Throws Error("corrupt-file" or
/// "foreign-checkpoint").
LearnerCounters load_learner(Files& files, const std::string& directory, Learner& learner);

/// Parameters of another run's checkpoint, and its filter of observations, into a learner that has not trained, as
/// rl_module.init_from, init_parts and init_filter say. Where that run had other observations, what reads them is taken
/// by the names of their parts. Throws Error("corrupt-file", or "foreign-checkpoint" where nothing in it fits).
void load_parameters(Files& files, const Config& config, const Space& observation_space, Learner& learner);

/// The episodes of the checkpoint's pending batch, of which the places from `first_place` on are in `assembler` now;
/// nullopt when there is none. Throws Error("corrupt-file" or "foreign-checkpoint").
std::optional<std::vector<wire::Episode>> load_pending_batch(Files& files, const std::string& directory,
                                                             size_t first_place, size_t all_places,
                                                             BatchAssembler& assembler);

}  // namespace myriad
