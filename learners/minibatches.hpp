// Minibatches: what each shard of a group takes into each gradient step of an epoch. Pure.
//
//   3 minibatches     0        1        2
//   shard 0       [ piece 0  piece 1  piece 2 )    of its own units, in near-equal pieces
//   shard 1       [ piece 1  piece 2  piece 0 )    one further at each shard, so that the small pieces do not meet
//
// A unit is a row, or where sequences are trained on an environment with all its steps.
#pragma once

#include <cstdint>
#include <vector>

namespace myriad {

/// Units [begin, begin + count) of an order.
struct Piece {
  int64_t begin = 0, count = 0;
};

/// Piece `index` of `pieces` near-equal ones of `count` units; some are empty where there are fewer units.
Piece piece_of(int64_t count, int64_t index, int64_t pieces);

/// One gradient step of the group.
struct Minibatch {
  Piece own;          ///< of this shard's order
  int64_t units = 0;  ///< of the whole group
  int64_t rows = 0;   ///< of the whole group: env steps

  /// Of `count` of the minibatch's units.
  double share_of(int64_t count) const { return static_cast<double>(count) / static_cast<double>(units); }
};

class Minibatches {
 public:
  /// `units` of each shard, not all 0, of `unit_rows` rows each. `minibatch_size` is in rows; 0: one minibatch. They
  /// are as many as keep the largest at that size, but that each shard's piece is rounded, and that a minibatch has a
  /// unit at least.
  Minibatches(std::vector<int64_t> units, int64_t unit_rows, int64_t minibatch_size, uint32_t rank);

  int64_t count() const { return count_; }
  /// Has no units where there are hardly more of them than minibatches: then no shard makes a step.
  Minibatch operator[](int64_t index) const;

 private:
  std::vector<int64_t> units_;
  int64_t unit_rows_, count_;
  uint32_t rank_;
};

}  // namespace myriad
