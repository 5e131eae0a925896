// A Collective between CPU shards of one host: memory that all of them have mapped, and one barrier.
//
//   all_reduce:  mine -> my slot | barrier | [a part of the slots' sum -> result | barrier] | all -> mine
//
// In brackets: where the values of all shards are too many for each shard to sum. Sums are in rank order. There is no
// thread and no socket: a small module's gradient is there as soon as the last shard has come. Of a dead peer the
// driver tells, by abort().
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>

#include "learners/group/collective.hpp"
#include "learners/group/rendezvous.hpp"

namespace myriad {

/// Joins the group of `size` shards as `rank`; null, at every shard, when one of them cannot map the memory of shard 0:
/// it is on another host, or in another namespace of process ids. `deadline`: of forming the group, and of each
/// operation. Throws GroupBroken when the group does not form in time, or the rendezvous ends.
std::unique_ptr<Collective> make_shared_collective(Rendezvous& rendezvous, uint32_t rank, uint32_t size,
                                                   std::chrono::milliseconds deadline);

}  // namespace myriad
