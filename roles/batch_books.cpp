#include "roles/batch_books.hpp"

#include <algorithm>

#include "rl/check.hpp"

namespace myriad {

BatchBooks::BatchBooks(uint32_t num_slots, uint32_t num_places) : next_(num_slots), facts_(num_places) {}

void BatchBooks::begin_slot(uint32_t slot, uint32_t incarnation, uint64_t seq) { next_[slot] = {incarnation, seq}; }

bool BatchBooks::arrived(const FragmentId& id) {
  ++fragments_;
  Next& next = next_[id.slot];
  if (Next{id.incarnation, id.seq} < next) return false;
  missing_ += id.seq - (id.incarnation == next.incarnation ? next.seq : 0);
  next = {id.incarnation, id.seq + 1};
  return true;
}

void BatchBooks::placed(uint32_t place, RunnerMessage fragment, Time waited) {
  const auto& header = *fragment.message.as<wire::FragmentHeaderT>();
  facts_[place] = {.id = id_of(header),
                   .weights_version = header.weights_version,
                   .clients_lag = std::min(header.clients_lag, header.weights_version),
                   .queue_age = waited,
                   .sampling_ns = header.sampling_ns,
                   .waiting_ns = header.waiting_ns,
                   .episodes = header.episodes,
                   .failures = header.failures,
                   .outside = header.outside};
  for (const auto& numbers : header.numbers)
    if (numbers) facts_[place].numbers.push_back(*numbers);
  ended_.push_back({fragment.source, {facts_[place].id, ""}});
  accepted_.push_back({place, std::move(fragment.message)});
}

void BatchBooks::dropped(const MessageSource& source, const FragmentId& id, Drop reason) {
  ended_.push_back({source, {id, std::string(name_of(reason))}});
}

void BatchBooks::drop_placed(uint32_t place, Drop reason) {
  const auto it = std::ranges::find_if(ended_, [&](const Ended& ended) {
    return ended.consumed.dropped.empty() && ended.consumed.id == facts_[place].id;
  });
  check(it != ended_.end(), "place {} has no fragment to drop", place);
  it->consumed.dropped = name_of(reason);
}

std::vector<FragmentFacts> BatchBooks::take_facts() {
  return std::exchange(facts_, std::vector<FragmentFacts>(facts_.size()));
}

void BatchBooks::restore(uint64_t weights_version, std::vector<wire::Episode> episodes) {
  for (FragmentFacts& facts : facts_) facts.weights_version = weights_version;
  facts_.at(0).episodes = std::move(episodes);  // of all places, in their order
}

std::vector<ConsumedFragment> BatchBooks::settle(std::span<const wire::AgentMark> marks) {
  const auto open = std::stable_partition(ended_.begin(), ended_.end(), [&](const Ended& ended) {
    const auto mark = std::lower_bound(marks.begin(), marks.end(), ended.source.agent,
                                       [](const wire::AgentMark& m, uint32_t agent) { return m.agent() < agent; });
    return mark == marks.end() || mark->agent() != ended.source.agent ||
           mark->incarnation() != ended.source.incarnation || ended.source.number < mark->messages();
  });
  std::vector<ConsumedFragment> settled;
  for (auto it = ended_.begin(); it != open; ++it) settled.push_back(std::move(it->consumed));
  ended_.erase(ended_.begin(), open);
  return settled;
}

uint64_t BatchBooks::num_slots_seen() const {
  return static_cast<uint64_t>(std::ranges::count_if(next_, [](const Next& next) { return next != Next{}; }));
}

}  // namespace myriad
