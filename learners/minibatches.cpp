#include "learners/minibatches.hpp"

#include <algorithm>
#include <numeric>

#include "rl/check.hpp"

namespace myriad {

Piece piece_of(int64_t count, int64_t index, int64_t pieces) {
  const int64_t begin = count * index / pieces;
  return {begin, count * (index + 1) / pieces - begin};
}

Minibatches::Minibatches(std::vector<int64_t> units, int64_t unit_rows, int64_t minibatch_size, uint32_t rank)
    : units_(std::move(units)), unit_rows_(unit_rows), rank_(rank) {
  const int64_t all = std::accumulate(units_.begin(), units_.end(), int64_t{0});
  check(all > 0 && rank < units_.size(), "minibatches of {} units for shard {} of {}", all, rank, units_.size());
  const int64_t size = minibatch_size == 0 ? all : std::clamp(minibatch_size / unit_rows, int64_t{1}, all);
  count_ = (all + size - 1) / size;
}

Minibatch Minibatches::operator[](int64_t index) const {
  Minibatch minibatch;
  for (size_t shard = 0; shard < units_.size(); ++shard) {
    const Piece piece = piece_of(units_[shard], (index + static_cast<int64_t>(shard)) % count_, count_);
    if (shard == rank_) minibatch.own = piece;
    minibatch.units += piece.count;
  }
  minibatch.rows = minibatch.units * unit_rows_;
  return minibatch;
}

}  // namespace myriad
