// FragmentQueue: how many fragments each slot may produce, and which arriving fragment takes which place of the next
// batch.
//
// A round (sync and lag1) is F places, place p owned by slot p mod S, so that the batch is the same whatever the order
// of arrival. Credit is the number of places a slot owns. When a slot goes down its open places, and with them their
// credit, move to the slots that are up; when none is up they wait for the first one to return. Every fragment that
// arrives is accepted once or dropped for a counted reason; the place of one that cannot be used is given again. A
// state machine: one thread, no clock, no socket.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>
#include <variant>
#include <vector>

#include "rl/fragment.hpp"

namespace myriad {

/// Why an arriving fragment is not used; the metric is dropped/<name>.
enum class Drop : uint8_t {
  unknown_slot,
  stale_incarnation,
  duplicate,
  beyond_credit,
  wrong_version,
  invalid,
  policy_lag,  ///< async only, not the queue's own
  count
};
std::string_view name_of(Drop drop);
using DropCounts = std::array<uint64_t, static_cast<size_t>(Drop::count)>;

class FragmentQueue {
 public:
  FragmentQueue(uint32_t num_slots, uint32_t fragments_per_batch);

  // --- inputs ---
  struct BeginRound {
    uint64_t weights_version;
    /// Of a round that is collected again, newer weights than its own may have been published: fragments up to these
    /// do.
    uint64_t newest_version = 0;
  };
  /// A slot that ran before this queue began: its process, and the number of its next fragment.
  struct SlotIs {
    uint32_t slot, incarnation;
    uint64_t next_seq;
  };
  /// Processes of this incarnation run in `count` slots from `slot` on, or are on their way (repeats, ended and older
  /// ones are ignored). What an older one in the slot left open is the newer one's to do.
  struct SlotUp {
    uint32_t slot, incarnation;
    uint32_t count = 1;
  };
  struct SlotDown {
    uint32_t slot, incarnation;
  };  ///< it and those before it ended; the credit moves on
  /// The next fragment of the slot will not come to this queue.
  struct Skip {
    uint32_t slot;
  };
  /// A fragment whose bytes were checked; `valid` is false when its columns break their contract.
  struct Arrived {
    FragmentId id;
    uint64_t weights_version;
    bool valid;
  };
  using Input = std::variant<BeginRound, SlotIs, SlotUp, SlotDown, Skip, Arrived>;

  // --- outputs ---
  struct CreditChanged {
    uint32_t slot;
  };  ///< send the slot its grant
  struct Accepted {
    FragmentId id;
    uint32_t place;
  };  ///< copy it to this place of the batch
  struct Dropped {
    FragmentId id;
    Drop reason;
  };
  struct RoundComplete {
    uint64_t weights_version;
  };  ///< every place is filled
  using Output = std::variant<CreditChanged, Accepted, Dropped, RoundComplete>;

  void step(const Input& input, std::vector<Output>& outputs);

  /// What a slot may do now: fragments in all, cumulative over its incarnation.
  struct Credit {
    uint32_t incarnation;
    uint64_t granted;
  };
  Credit credit(uint32_t slot) const {
    return {slots_[slot].incarnation, slots_[slot].first_seq + slots_[slot].place_of.size()};
  }
  bool is_up(uint32_t slot) const { return slots_[slot].up; }
  uint32_t num_up() const { return num_up_; }
  uint32_t num_slots() const { return static_cast<uint32_t>(slots_.size()); }
  uint64_t weights_version() const { return weights_version_; }
  bool round_open() const { return filled_ < places_; }
  const DropCounts& drops() const { return drops_; }

 private:
  struct Slot {
    bool up = true;  // until told otherwise: the first process is on its way
    uint32_t incarnation = 0;
    std::vector<uint32_t> place_of;  // place of the fragment with seq first_seq + i, if it was not skipped
    std::vector<bool> received;      // used, or dropped for good
    uint64_t first_seq = 0;          // fragments below belong to finished rounds
  };
  void begin(const BeginRound& round, std::vector<Output>& outputs);
  void skipped(uint32_t slot, std::vector<Output>& outputs);
  void is(const SlotIs& input, std::vector<Output>& outputs);
  void up(const SlotUp& input, std::vector<Output>& outputs);
  void down(const SlotDown& input, std::vector<Output>& outputs);
  void arrived(const Arrived& input, std::vector<Output>& outputs);
  void hand_out(uint32_t place, std::vector<Output>& outputs);
  void give(uint32_t place, uint32_t slot, std::vector<Output>& outputs);
  uint32_t least_loaded_slot() const;
  std::optional<Drop> why_not(const Arrived& arrived) const;

  uint32_t places_, num_up_;
  uint32_t filled_;  // == places_: no round is open
  uint64_t weights_version_ = 0, newest_version_ = 0;
  std::vector<Slot> slots_;
  std::vector<uint32_t> orphans_;  // places no slot could take
  DropCounts drops_{};
};

}  // namespace myriad
