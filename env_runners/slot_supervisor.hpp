// SlotSupervisor: keeps a process running in each runner slot: restart with back-off, quarantine, hang detection.
//
// A slot's process has an incarnation, one higher each time. Crashes within a minute are counted; at the limit the slot
// is quarantined and its last cause kept. Jitter comes in as a random stream. A state machine: one thread, time comes
// in.
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "rl/random.hpp"
#include "rl/system.hpp"

namespace myriad {

class SlotSupervisor {
 public:
  struct Options {
    uint32_t num_slots = 1;
    Time backoff = std::chrono::milliseconds(100);  ///< after the second crash in a row; doubles each time
    Time backoff_max = std::chrono::seconds(30);
    uint32_t max_crashes_per_minute = 5;
    Time step_timeout = std::chrono::seconds(30);   ///< without progress for so long: hung
    Time start_timeout = std::chrono::seconds(60);  ///< from spawn to the first progress
  };
  SlotSupervisor(Options options, RandomStream random);

  // --- inputs ---
  struct Start {};  ///< spawn every slot
  struct Exited {
    uint32_t slot, incarnation;
    std::string cause;
  };
  struct Progress {
    uint32_t slot, incarnation;
  };  ///< it said hello, stepped or waits for credit
  struct Tick {};
  struct StopAll {};  ///< no restarts from here on
  using Input = std::variant<Start, Exited, Progress, Tick, StopAll>;

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
  };
  using Output = std::variant<Spawn, Hung, Down, Quarantined>;

  void step(const Input& input, Time now, std::vector<Output>& outputs);

  Time next_timer() const;  ///< Time::max() when there is none
  uint32_t num_running() const;
  uint32_t num_quarantined() const;
  uint64_t num_restarts() const { return restarts_; }
  /// Of the process that runs or, between two processes, of the one that ended.
  uint32_t incarnation(uint32_t slot) const { return slots_[slot].incarnation; }
  bool running(uint32_t slot) const { return slots_[slot].state == State::running; }

 private:
  enum class State { idle, running, backing_off, quarantined };
  struct Slot {
    State state = State::idle;
    uint32_t incarnation = 0;
    Time since{};             // spawn, last progress or, backing off, when to restart
    bool progressed = false;  // since the spawn
    bool reported_hung = false;
    uint32_t crashes_in_a_row = 0;
    std::vector<Time> crashes;  // of the last minute
  };
  void spawn(uint32_t slot, Time now, std::vector<Output>& outputs);
  void respawn(uint32_t slot, Time now, std::vector<Output>& outputs);
  Time deadline(const Slot& slot) const;

  Options options_;
  RandomStream random_;
  std::vector<Slot> slots_;
  uint64_t restarts_ = 0;
  bool stopping_ = false;
};

}  // namespace myriad
