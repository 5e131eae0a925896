// GradientBuckets: which stretches of a flat gradient a group can sum while backward still works on the others.
//
//   [ 0 ............................ P )   backward finishes tensors about from the end
//   [  bucket 2  |  bucket 1 | bucket 0 )   each is begun when all its tensors are finished, and those before it begun
//
// So the order is the same at every shard, whatever autograd does, and also where a shard has nothing to add.
#pragma once

#include <functional>
#include <span>
#include <utility>
#include <vector>

#include "learners/group/partition.hpp"
#include "rl/module_spec.hpp"

namespace myriad {

class GradientBuckets {
 public:
  using Begin = std::function<void(Range)>;

  GradientBuckets() = default;
  /// Of at least `floats` each but for the last; no buckets where 0, or where one would hold everything.
  GradientBuckets(std::span<const Parameter> tensors, size_t floats) : bucket_of_(tensors.size()) {
    for (size_t i = floats == 0 ? 0 : tensors.size(); i-- > 0;) {
      const Parameter& p = tensors[i];
      if (buckets_.empty() || buckets_.back().range.count() >= floats)
        buckets_.push_back({{p.offset, p.offset + p.count}, 0, 0});
      buckets_.back().range.begin = p.offset;
      ++buckets_.back().tensors;
      bucket_of_[i] = buckets_.size() - 1;
    }
    if (buckets_.size() < 2) buckets_.clear();
  }

  size_t size() const { return buckets_.size(); }
  bool started() const { return begin_ != nullptr; }

  void start(Begin begin) {
    begin_ = std::move(begin);
    next_ = 0;
    for (Bucket& bucket : buckets_) bucket.missing = bucket.tensors;
  }
  /// Tensor `i` is finished; nothing where they were not started.
  void done(size_t i) {
    if (!started()) return;
    --buckets_[bucket_of_[i]].missing;
    while (next_ < buckets_.size() && buckets_[next_].missing == 0) begin_(buckets_[next_++].range);
  }
  /// Begins those that are left, and stops.
  void rest() {
    while (next_ < buckets_.size()) begin_(buckets_[next_++].range);
    stop();
  }
  void stop() { begin_ = nullptr; }

 private:
  struct Bucket {
    Range range;
    size_t tensors, missing;
  };
  std::vector<Bucket> buckets_;  ///< in the order they are begun
  std::vector<size_t> bucket_of_;
  Begin begin_;
  size_t next_ = 0;
};

}  // namespace myriad
