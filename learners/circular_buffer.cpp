#include "learners/circular_buffer.hpp"

#include <algorithm>
#include <numeric>

#include "rl/check.hpp"

namespace myriad {

CircularBuffer::CircularBuffer(int64_t batches, int64_t uses) : batches_(static_cast<size_t>(batches)), uses_(uses) {
  check(batches >= 1 && uses >= 1, "a circular buffer of {} batches with {} uses each", batches, uses);
}

int64_t CircularBuffer::push(Share batch) {
  entries_.push_back({std::make_shared<Share>(std::move(batch)), uses_});
  if (entries_.size() <= batches_) return 0;
  const int64_t unused = entries_.front().uses_left;
  entries_.pop_front();
  return unused;
}

std::shared_ptr<Share> CircularBuffer::take(RandomStream& random) {
  const auto live = std::ranges::count_if(entries_, [](const Entry& e) { return e.uses_left > 0; });
  check(live > 0, "take() from a circular buffer without uses left");
  const bool leaving = entries_.size() == batches_ && entries_.front().uses_left > 0;
  auto skip = leaving ? 0 : random.below(static_cast<uint64_t>(live));
  const auto entry = std::ranges::find_if(entries_, [&](const Entry& e) { return e.uses_left > 0 && skip-- == 0; });
  return --entry->uses_left == 0 ? std::move(entry->batch) : entry->batch;
}

void CircularBuffer::erase(std::string_view column) {
  for (const Entry& entry : entries_)
    if (entry.batch)
      if (const auto found = entry.batch->columns.find(column); found != entry.batch->columns.end())
        entry.batch->columns.erase(found);
}

int64_t CircularBuffer::uses_left() const {
  return std::accumulate(entries_.begin(), entries_.end(), int64_t{0},
                         [](int64_t sum, const Entry& e) { return sum + e.uses_left; });
}

}  // namespace myriad
