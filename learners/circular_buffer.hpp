// CircularBuffer: the newest N batches, each to be used K times in random order (Luo et al. 2020, "IMPACT", section
// 3.2). Owned by the Learner; one thread.
//
//   push: a batch enters with K uses; the batch N pushes older leaves, with what it has left
//   take: a batch with uses left loses one; at its last use it leaves. Which one is random, but the batch that the next
//         push would drop goes first: whoever takes K times for each push drops nothing
#pragma once

#include <deque>
#include <memory>

#include "learners/tensor_batch.hpp"
#include "rl/random.hpp"

namespace myriad {

class CircularBuffer {
 public:
  /// N, K >= 1.
  CircularBuffer(int64_t batches, int64_t uses);

  /// Returns the uses that were lost: those of the batch that had to leave.
  int64_t push(Share batch);

  /// Throws Error when no uses are left. Its columns may be changed or added to; that stays for the next use.
  std::shared_ptr<Share> take(RandomStream& random);

  /// Takes a column from every batch.
  void erase(std::string_view column);

  int64_t uses_left() const;

 private:
  struct Entry {
    std::shared_ptr<Share> batch;  ///< null once used up: the place still counts among the N
    int64_t uses_left;
  };
  size_t batches_;
  int64_t uses_;
  std::deque<Entry> entries_;  // oldest first
};

}  // namespace myriad
