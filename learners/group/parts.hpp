// Parts: which part of the state that is sharded over a group this shard has, and how parts move.
//
//   shard           0        1        2        3
//   own part        0        1        2        3        exchange(): in every update, before its barrier
//   left's part     3        0        1        2        what a dead shard had is with its right neighbour
//
// gather() makes the parts of a new group, of any size, from those of the one before: part by part, whoever has it
// sends it to all, and each keeps what falls into its new ranges. A shard keeps its old parts until the new group is
// seen to work, because others may have failed to get their new ones. Owned by the Learner, which has the values
// themselves; one thread. No torch.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <vector>

#include "learners/aligned_vector.hpp"
#include "learners/group/collective.hpp"
#include "learners/group/partition.hpp"

namespace myriad {

class Parts {
 public:
  using Live = std::vector<std::span<float>>;  ///< this shard's own range of each sharded vector
  using Slices = std::vector<AlignedVector>;   ///< a copy of one range of each

  /// One part: everything. `redundancy`: keep the left neighbour's.
  Parts(size_t total, bool redundancy) : redundancy_(redundancy), partition_{total, 1} {}

  const Partition& partition() const { return partition_; }
  uint32_t part() const { return part_; }
  bool whole() const { return partition_.parts == 1; }
  bool redundant() const { return redundancy_ && !whole(); }  ///< whether exchange() does anything

  /// Parts of a partition in `num_parts`.
  struct Holding {
    uint32_t num_parts = 1;
    std::vector<uint32_t> parts;
  };
  /// The present one, and the one before as long as it is kept.
  std::vector<Holding> holdings() const;

  /// A copy of parts.
  struct Kept {
    Partition partition;
    std::map<uint32_t, Slices> slices;
  };
  /// What gather() and cut() made for this shard; nothing has changed yet.
  struct Next {
    Partition partition;
    uint32_t part = 0;
    Slices own, left;
    std::optional<Kept> before;
  };

  /// Collective. `holders[i]` has part i of holders.size(). Throws GroupBroken.
  Next gather(Collective& group, std::span<const uint32_t> holders, const Live& live) const;

  /// Shard `rank` of `size`, where every shard has everything.
  Next cut(uint32_t rank, uint32_t size, const Live& live) const;

  /// Makes it so; the own slices are the caller's to take.
  Slices accept(Next next);

  /// The new group works: what was before is dropped.
  void confirm() { before_.reset(); }

  /// Collective: gets the left neighbour's part as it will be in the version that is prepared.
  void exchange(Collective& group, const Live& live);
  void commit();
  void roll_back() { next_left_.clear(); }

  /// Of the neighbour's part, between two updates.
  size_t redundancy_bytes() const;

 private:
  uint32_t left_of(uint32_t part, uint32_t parts) const { return (part + parts - 1) % parts; }
  Next empty_next(uint32_t rank, uint32_t size, size_t vectors) const;
  Kept kept(const Live& live) const;

  bool redundancy_;
  Partition partition_;
  uint32_t part_ = 0;
  Slices left_, next_left_;
  std::optional<Kept> before_;
};

}  // namespace myriad
