#include "learners/group/parts.hpp"

#include <algorithm>

#include "rl/check.hpp"

namespace myriad {
namespace {

constexpr size_t kPiece = size_t{1} << 18;  // floats sent at once: 1 MiB

/// Copies what of `piece` falls into `range` to its place there.
void copy_overlap(std::span<const float> values, Range piece, Range range, AlignedVector& to) {
  const Range here = piece.overlap(range);
  if (to.empty() || here.count() == 0) return;
  std::ranges::copy(values.subspan(here.begin - piece.begin, here.count()),
                    to.begin() + static_cast<std::ptrdiff_t>(here.begin - range.begin));
}

}  // namespace

std::vector<Parts::Holding> Parts::holdings() const {
  std::vector<Holding> holdings{{partition_.parts, {part_}}};
  if (!left_.empty()) holdings.front().parts.push_back(left_of(part_, partition_.parts));
  if (!before_) return holdings;
  Holding& before = holdings.emplace_back();
  before.num_parts = before_->partition.parts;
  for (const auto& [part, slices] : before_->slices) before.parts.push_back(part);
  return holdings;
}

Parts::Next Parts::empty_next(uint32_t rank, uint32_t size, size_t vectors) const {
  Next next{.partition = {partition_.total, size}, .part = rank, .own = {}, .left = {}, .before = std::nullopt};
  const auto room = [&](uint32_t part) { return Slices(vectors, AlignedVector(next.partition.range(part).count())); };
  next.own = room(rank);
  if (redundancy_ && size > 1) next.left = room(left_of(rank, size));
  return next;
}

Parts::Kept Parts::kept(const Live& live) const {
  Kept kept{partition_, {}};
  for (const std::span<float> values : live) kept.slices[part_].emplace_back(values.begin(), values.end());
  if (!left_.empty()) kept.slices[left_of(part_, partition_.parts)] = left_;
  return kept;
}

Parts::Next Parts::gather(Collective& group, std::span<const uint32_t> holders, const Live& live) const {
  Next next = empty_next(group.rank(), group.size(), live.size());
  const Partition from{partition_.total, static_cast<uint32_t>(holders.size())};
  // A shard with parts of that partition, or, after a join that broke, with older ones.
  const bool present = partition_.parts == from.parts;
  if (present) next.before = kept(live);
  if (before_ && before_->partition.parts == from.parts) {
    if (!next.before) next.before = Kept{from, {}};
    next.before->slices.insert(before_->slices.begin(), before_->slices.end());
  }
  const Range own = next.partition.range(next.part),
              left = next.partition.range(left_of(next.part, next.partition.parts));
  std::vector<float> values;
  bool holds = false;
  for (uint32_t part = 0; part < from.parts; ++part) {
    const bool mine = holders[part] == group.rank();
    holds |= mine;
    check(!mine || (next.before && next.before->slices.contains(part)), "this shard has no part {} of {}", part,
          from.parts);
    const Range range = from.range(part);
    for (size_t vector = 0; vector < live.size(); ++vector)
      for (size_t begin = range.begin; begin < range.end; begin += kPiece) {
        const Range piece{begin, std::min(begin + kPiece, range.end)};
        values.resize(piece.count());
        if (mine)
          std::ranges::copy(std::span<const float>(next.before->slices.at(part)[vector])
                                .subspan(piece.begin - range.begin, piece.count()),
                            values.begin());
        group.broadcast(std::as_writable_bytes(std::span(values)), holders[part]);
        copy_overlap(values, piece, own, next.own[vector]);
        if (!next.left.empty()) copy_overlap(values, piece, left, next.left[vector]);
      }
  }
  // A newcomer also has everything, but of another version.
  if (!holds && from.parts == 1) next.before.reset();
  return next;
}

Parts::Next Parts::cut(uint32_t rank, uint32_t size, const Live& live) const {
  check(whole(), "a group starts with a shard that has one of {} parts", partition_.parts);
  Next next = empty_next(rank, size, live.size());
  const Range own = next.partition.range(rank), left = next.partition.range(left_of(rank, size));
  for (size_t vector = 0; vector < live.size(); ++vector) {
    copy_overlap(live[vector], partition_.whole(), own, next.own[vector]);
    if (!next.left.empty()) copy_overlap(live[vector], partition_.whole(), left, next.left[vector]);
  }
  return next;
}

Parts::Slices Parts::accept(Next next) {
  partition_ = next.partition;
  part_ = next.part;
  left_ = std::move(next.left);
  next_left_.clear();
  before_ = std::move(next.before);
  return std::move(next.own);
}

void Parts::exchange(Collective& group, const Live& live) {
  if (!redundant()) return;
  const size_t chunk = partition_.chunk(), count = partition_.range(left_of(part_, partition_.parts)).count();
  AlignedVector mine(chunk), left(chunk);
  next_left_.clear();
  for (const std::span<float> values : live) {
    std::ranges::copy(values, mine.begin());
    group.shift(std::as_bytes(std::span(mine)), std::as_writable_bytes(std::span(left)));
    next_left_.emplace_back(left.begin(), left.begin() + static_cast<std::ptrdiff_t>(count));
  }
}

void Parts::commit() {
  if (!next_left_.empty()) left_ = std::move(next_left_);
  next_left_.clear();
}

size_t Parts::redundancy_bytes() const {
  size_t floats = 0;
  for (const AlignedVector& values : next_left_.empty() ? left_ : next_left_) floats += values.size();
  return floats * sizeof(float);
}

}  // namespace myriad
