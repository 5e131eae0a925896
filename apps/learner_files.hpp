// The learner's part of a checkpoint: safetensors for module, optimizer, connectors and counters, one file for each
// runner.
//
//   learner_group/modules/default_policy.safetensors   learner_group/optimizer.safetensors
//   learner_group/connectors.safetensors               learner_group/state.safetensors
//   env_runners/slot-0000.safetensors ...
//   learner_group/pending_batch-0000-of-0001.safetensors ...   lag1: the batch that was sampled and is not trained on
//                                                              yet, a part from each shard, for any number of them
#pragma once

#include <optional>
#include <vector>

#include "learners/batch_assembler.hpp"
#include "learners/checkpoint.hpp"
#include "learners/learner.hpp"
#include "learners/learner_core.hpp"

namespace myriad {

struct LearnerCounters {
  uint64_t training_iteration = 0, num_env_steps_sampled_lifetime = 0;
};

/// Which part of a checkpoint a shard writes, or of the batch that waits it takes.
struct ShardPart {
  uint32_t rank = 0, size = 1;
  size_t first_place = 0;
};

/// `assembler`: its pending batch is saved when the request says so. Throws FileError.
/// What the shard of `rank` has to write.
std::vector<CheckpointFile> save_learner(Files& files, const LearnerCore::WriteCheckpoint& request,
                                         const Learner& learner, const ShardPart& part,
                                         BatchAssembler& assembler);

/// Throws Error("corrupt-file" or "foreign-checkpoint").
LearnerCounters load_learner(Files& files, const std::string& directory, Learner& learner);

/// The episodes of the checkpoint's pending batch, of which the places from `first_place` on are in `assembler` now;
/// nullopt when there is none. Throws
/// Error("corrupt-file" or "foreign-checkpoint").
std::optional<std::vector<wire::Episode>> load_pending_batch(Files& files, const std::string& directory,
                                                             size_t first_place, size_t all_places,
                                                             BatchAssembler& assembler);

}  // namespace myriad
