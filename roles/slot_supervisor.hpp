// SlotSupervisor: keeps a process running in each runner slot: restart with back-off, quarantine, hang detection.
//
// A slot's process has an incarnation, one higher each time. Failures in a row are counted, with nothing achieved in
// between, however long they take; at the limit the slot is quarantined and its last cause kept. Jitter comes in as a
// random stream. Made for ten thousand slots: only a Tick at which something may be due looks at all of them. A state
// machine: one thread, time comes in.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "rl/random.hpp"
#include "rl/system.hpp"

namespace myriad {

/// Of a slot's first process under this incarnation of its agent; restarts count on from it.
constexpr uint32_t first_incarnation(uint32_t agent_incarnation) { return agent_incarnation << 16; }

class SlotSupervisor {
 public:
  struct Options {
    uint32_t num_slots = 1;
    uint32_t first_incarnation = 0;                 ///< of every slot
    Time backoff = std::chrono::milliseconds(100);  ///< after the second failure in a row; doubles each time
    Time backoff_max = std::chrono::seconds(30);
    uint32_t max_failures_in_a_row = 5;
    Time step_timeout = std::chrono::seconds(30);   ///< without progress for so long: hung
    Time start_timeout = std::chrono::seconds(60);  ///< from spawn, or the last sign of life, to the first progress
  };
  SlotSupervisor(Options options, RandomStream random);

  // --- inputs ---
  struct Start {};  ///< spawn every slot
  struct Exited {
    uint32_t slot, incarnation;
    std::string cause;
    bool asked = false;     ///< it was told to end: restarted at once, and no failure
    uint32_t failures = 1;  ///< in a row that this end stands for
  };
  struct Progress {
    uint32_t slot, incarnation;
    bool achieved = false;  ///< what a slot is for: an episode of a runner has ended, an agent has sent a fragment
    bool starts = false;    ///< what comes next may take as long as a start
  };                        ///< it connected, stepped or waits for credit
  struct Alive {
    uint32_t slot, incarnation;
  };  ///< it starts, and its time to do so begins anew
  struct Tick {};
  struct StopAll {};  ///< no restarts from here on
  using Input = std::variant<Start, Exited, Progress, Alive, Tick, StopAll>;

  // --- outputs ---
  struct Spawn {
    uint32_t slot, incarnation;
  };
  struct Hung {
    uint32_t slot, incarnation;
    Time silent;
  };  ///< abort it for its stack, then kill it
  struct Down {
    uint32_t slot, incarnation;
    std::string cause;
    Time restart_in;
  };
  struct Quarantined {
    uint32_t slot;
    std::string cause;
    uint32_t failures;
  };
  using Output = std::variant<Spawn, Hung, Down, Quarantined>;

  void step(const Input& input, Time now, std::vector<Output>& outputs);

  /// When a Tick may be due, perhaps earlier than it is; Time::max() when nothing is awaited.
  Time next_timer() const { return stopping_ || awaited() == 0 ? Time::max() : next_; }
  uint32_t num_running() const { return counts_[static_cast<size_t>(State::running)]; }
  uint32_t num_quarantined() const { return counts_[static_cast<size_t>(State::quarantined)]; }
  uint64_t num_restarts() const { return restarts_; }
  /// Of the process that runs or, between two processes, of the one that ended.
  uint32_t incarnation(uint32_t slot) const { return slots_[slot].incarnation; }
  bool running(uint32_t slot) const { return slots_[slot].state == State::running; }
  bool quarantined(uint32_t slot) const { return slots_[slot].state == State::quarantined; }

 private:
  enum class State : uint8_t { idle, running, backing_off, quarantined };
  struct Slot {
    State state = State::idle;
    uint32_t incarnation = 0;
    Time since{};             // spawn, last progress or, backing off, when to restart
    bool progressed = false;  // since the spawn, or since it began what is like a start
    bool reported_hung = false;
    uint32_t failures_in_a_row = 0;
  };
  void enter(Slot& slot, State state, Time since);
  uint32_t awaited() const { return num_running() + counts_[static_cast<size_t>(State::backing_off)]; }
  void ended(const Exited& exited, Time now, std::vector<Output>& outputs);
  void look_at_all(Time now, std::vector<Output>& outputs);
  void spawn(uint32_t slot, Time now, std::vector<Output>& outputs);
  void respawn(uint32_t slot, Time now, std::vector<Output>& outputs);
  Time deadline(const Slot& slot) const;

  Options options_;
  RandomStream random_;
  std::vector<Slot> slots_;
  std::array<uint32_t, 4> counts_{};  // slots in each state
  Time next_ = Time::max();           // no deadline is before it; progress only moves deadlines away
  uint64_t restarts_ = 0;
  bool stopping_ = false;
};

}  // namespace myriad
