#include "roles/slot_supervisor.hpp"

#include <doctest/doctest.h>

namespace myriad {
namespace {

using std::chrono::milliseconds;
using Outputs = std::vector<SlotSupervisor::Output>;

SlotSupervisor supervisor(uint32_t slots = 1, uint32_t max_crashes = 5) {
  SlotSupervisor::Options options;
  options.num_slots = slots;
  options.max_failures_in_a_row = max_crashes;
  return {options, RandomStream(1, StreamPurpose::simulation, 0)};
}

Outputs step(SlotSupervisor& slots, const SlotSupervisor::Input& input, Time now) {
  Outputs outputs;
  slots.step(input, now, outputs);
  return outputs;
}

template <class T>
const T* find(const Outputs& outputs) {
  for (const auto& output : outputs)
    if (const T* found = std::get_if<T>(&output)) return found;
  return nullptr;
}

}  // namespace

TEST_SUITE("roles/slot_supervisor") {
  TEST_CASE("SlotSupervisor: Start spawns incarnation 0 of every slot") {
    SlotSupervisor slots = supervisor(3);
    CHECK(step(slots, SlotSupervisor::Start{}, Time{}).size() == 3);
    CHECK(slots.num_running() == 3);
    CHECK(slots.next_timer() == std::chrono::seconds(60));  // the start timeout
  }

  TEST_CASE(
      "SlotSupervisor: the first crash restarts at once, the next ones after 1, 2, 4 back-offs and at most half more") {
    SlotSupervisor slots = supervisor(1, 10);
    step(slots, SlotSupervisor::Start{}, Time{});
    Time now{};
    for (uint32_t crash = 0; crash < 5; ++crash) {
      const Outputs outputs = step(slots, SlotSupervisor::Exited{0, crash, "SIGSEGV"}, now);
      const auto* down = find<SlotSupervisor::Down>(outputs);
      REQUIRE(down != nullptr);
      const Time want = crash == 0 ? Time::zero() : Time(milliseconds(100)) * (1 << (crash - 1));
      CHECK(down->restart_in >= want);
      CHECK(down->restart_in <= want * 3 / 2);
      if (crash > 0) {
        CHECK(find<SlotSupervisor::Spawn>(outputs) == nullptr);
        CHECK(slots.incarnation(0) == crash);  // of the one that ended, until the next one starts
        CHECK(slots.next_timer() == now + down->restart_in);
        now = slots.next_timer();
        CHECK(find<SlotSupervisor::Spawn>(step(slots, SlotSupervisor::Tick{}, now - Time(1))) == nullptr);
        CHECK(find<SlotSupervisor::Spawn>(step(slots, SlotSupervisor::Tick{}, now))->incarnation == crash + 1);
      }
    }
    CHECK(slots.num_restarts() == 5);
  }

  TEST_CASE("SlotSupervisor: what is like a start may take as long as one, and what comes after it may not") {
    using std::chrono::seconds;
    SlotSupervisor slots = supervisor();
    step(slots, SlotSupervisor::Start{}, Time{});
    step(slots, SlotSupervisor::Progress{0, 0}, seconds(1));
    step(slots, SlotSupervisor::Progress{0, 0, false, true}, seconds(10));
    CHECK(find<SlotSupervisor::Hung>(step(slots, SlotSupervisor::Tick{}, seconds(69))) == nullptr);
    step(slots, SlotSupervisor::Alive{0, 0}, seconds(69));
    CHECK(find<SlotSupervisor::Hung>(step(slots, SlotSupervisor::Tick{}, seconds(128))) == nullptr);
    step(slots, SlotSupervisor::Progress{0, 0}, seconds(128));
    CHECK(slots.next_timer() <= seconds(158));
    CHECK(find<SlotSupervisor::Hung>(step(slots, SlotSupervisor::Tick{}, seconds(157))) == nullptr);
    CHECK(find<SlotSupervisor::Hung>(step(slots, SlotSupervisor::Tick{}, seconds(158))) != nullptr);
    SlotSupervisor long_one = supervisor();
    step(long_one, SlotSupervisor::Start{}, Time{});
    step(long_one, SlotSupervisor::Progress{0, 0}, seconds(1));
    step(long_one, SlotSupervisor::Progress{0, 0, false, true}, seconds(2));
    CHECK(find<SlotSupervisor::Hung>(step(long_one, SlotSupervisor::Tick{}, seconds(62))) != nullptr);
  }

  TEST_CASE("SlotSupervisor: a process that starts and says that it lives is not hung; it is no step either") {
    using std::chrono::seconds;
    SlotSupervisor slots = supervisor(1, 100);
    step(slots, SlotSupervisor::Start{}, Time{});
    for (int i = 1; i <= 10; ++i) {
      CHECK(find<SlotSupervisor::Hung>(step(slots, SlotSupervisor::Tick{}, seconds(50 * i))) == nullptr);
      step(slots, SlotSupervisor::Alive{0, 0}, seconds(50 * i));
      step(slots, SlotSupervisor::Alive{0, 1}, seconds(50 * i + 5));  // of another
    }
    CHECK(find<SlotSupervisor::Hung>(step(slots, SlotSupervisor::Tick{}, seconds(559))) == nullptr);
    CHECK(find<SlotSupervisor::Hung>(step(slots, SlotSupervisor::Tick{}, seconds(560))) != nullptr);
    CHECK(find<SlotSupervisor::Down>(step(slots, SlotSupervisor::Exited{0, 0, "SIGKILL"}, seconds(561)))->restart_in ==
          Time::zero());
    step(slots, SlotSupervisor::Alive{0, 1}, seconds(562));
    step(slots, SlotSupervisor::Alive{0, 1}, seconds(563));
    CHECK(find<SlotSupervisor::Down>(step(slots, SlotSupervisor::Exited{0, 1, "SIGKILL"}, seconds(564)))->restart_in >
          Time::zero());  // the second in a row
  }

  TEST_CASE("SlotSupervisor: what a slot is for ends the row of failures, steps alone do not") {
    SlotSupervisor slots = supervisor(1, 100);
    step(slots, SlotSupervisor::Start{}, Time{});
    Time now{};
    uint32_t incarnation = 0;
    const auto crash = [&] {
      const Outputs outputs = step(slots, SlotSupervisor::Exited{0, incarnation++, "SIGSEGV"}, now);
      const Time restart_in = find<SlotSupervisor::Down>(outputs)->restart_in;
      step(slots, SlotSupervisor::Tick{}, now += restart_in);
      REQUIRE(slots.running(0));
      return restart_in;
    };
    const auto progress = [&](bool achieved) {
      step(slots, SlotSupervisor::Progress{0, incarnation, achieved}, now += milliseconds(10));
    };
    CHECK(crash() == Time::zero());
    CHECK(crash() >= milliseconds(100));
    progress(false), progress(false);
    CHECK(crash() >= milliseconds(200));
    progress(true);
    CHECK(crash() == Time::zero());  // the first of a row again
    CHECK(crash() <= milliseconds(150));
    for (int i = 0; i < 30; ++i) crash();
    const Time longest = crash();  // 30 s, and at most half more
    CHECK(longest >= std::chrono::seconds(30));
    CHECK(longest <= std::chrono::seconds(45));
  }

  TEST_CASE("SlotSupervisor: so many failures in a row quarantine the slot, with its cause") {
    SlotSupervisor slots = supervisor(1, 3);
    step(slots, SlotSupervisor::Start{}, Time{});
    Time now{};
    for (uint32_t crash = 0; crash < 2; ++crash) {
      step(slots, SlotSupervisor::Exited{0, crash, "abort"}, now += std::chrono::seconds(1));
      step(slots, SlotSupervisor::Tick{}, now += std::chrono::seconds(1));
    }
    const Outputs outputs = step(slots, SlotSupervisor::Exited{0, 2, "abort in env 7"}, now);
    CHECK(find<SlotSupervisor::Quarantined>(outputs)->cause == "abort in env 7");
    CHECK(find<SlotSupervisor::Quarantined>(outputs)->failures == 3);
    CHECK(slots.num_quarantined() == 1);
    CHECK(slots.next_timer() == Time::max());
    CHECK(step(slots, SlotSupervisor::Tick{}, now + std::chrono::hours(1)).empty());
  }

  TEST_CASE("SlotSupervisor: failures an hour apart are in a row, where nothing was achieved between") {
    for (const bool achieves : {false, true}) {
      SlotSupervisor slots = supervisor(1, 3);
      step(slots, SlotSupervisor::Start{}, Time{});
      Time now{};
      for (uint32_t crash = 0; crash < 20 && slots.num_quarantined() == 0; ++crash) {
        step(slots, SlotSupervisor::Progress{0, crash, achieves}, now += std::chrono::minutes(1));
        step(slots, SlotSupervisor::Exited{0, crash, "x"}, now += std::chrono::hours(1));
        step(slots, SlotSupervisor::Tick{}, now += std::chrono::minutes(1));
      }
      CHECK(slots.num_quarantined() == (achieves ? 0 : 1));
      CHECK(slots.num_restarts() == (achieves ? 20 : 2));
    }
  }

  TEST_CASE("SlotSupervisor: an end may stand for several failures in a row") {
    SlotSupervisor slots = supervisor(1, 5);
    step(slots, SlotSupervisor::Start{}, Time{});
    CHECK(find<SlotSupervisor::Spawn>(step(slots, SlotSupervisor::Exited{0, 0, "x", false, 3}, Time{})) != nullptr);
    const Outputs outputs = step(slots, SlotSupervisor::Exited{0, 1, "x", false, 3}, Time{});
    REQUIRE(find<SlotSupervisor::Quarantined>(outputs) != nullptr);
    CHECK(find<SlotSupervisor::Quarantined>(outputs)->failures == 6);
  }

  TEST_CASE("SlotSupervisor: a process without progress is reported hung once") {
    SlotSupervisor slots = supervisor();
    step(slots, SlotSupervisor::Start{}, Time{});
    step(slots, SlotSupervisor::Progress{0, 0}, std::chrono::seconds(1));
    CHECK(step(slots, SlotSupervisor::Tick{}, std::chrono::seconds(30)).empty());
    const Outputs outputs = step(slots, SlotSupervisor::Tick{}, std::chrono::seconds(31));
    REQUIRE(find<SlotSupervisor::Hung>(outputs) != nullptr);
    CHECK(find<SlotSupervisor::Hung>(outputs)->silent == std::chrono::seconds(30));
    CHECK(step(slots, SlotSupervisor::Tick{}, std::chrono::seconds(99)).empty());
    CHECK(slots.next_timer() == Time::max());
  }

  TEST_CASE("SlotSupervisor: progress and exits of another incarnation are ignored") {
    SlotSupervisor slots = supervisor();
    step(slots, SlotSupervisor::Start{}, Time{});
    CHECK(step(slots, SlotSupervisor::Exited{0, 1, "?"}, Time{}).empty());
    CHECK(step(slots, SlotSupervisor::Exited{9, 0, "?"}, Time{}).empty());
    step(slots, SlotSupervisor::Progress{0, 1}, std::chrono::seconds(59));
    CHECK(find<SlotSupervisor::Hung>(step(slots, SlotSupervisor::Tick{}, std::chrono::seconds(60))) != nullptr);
  }

  TEST_CASE("SlotSupervisor: an exit that was asked for restarts at once and is no crash") {
    SlotSupervisor slots = supervisor(1, 2);
    step(slots, SlotSupervisor::Start{}, Time{});
    for (uint32_t exit = 0; exit < 9; ++exit) {
      const Outputs outputs =
          step(slots, SlotSupervisor::Exited{0, exit, "exit status 75", true}, std::chrono::seconds(exit));
      CHECK(find<SlotSupervisor::Down>(outputs)->restart_in == Time::zero());
      CHECK(find<SlotSupervisor::Spawn>(outputs)->incarnation == exit + 1);
    }
    CHECK(slots.num_quarantined() == 0);
    // The next real crash is the first in a row.
    const Outputs outputs = step(slots, SlotSupervisor::Exited{0, 9, "SIGSEGV"}, std::chrono::seconds(9));
    CHECK(find<SlotSupervisor::Spawn>(outputs) != nullptr);
  }

  TEST_CASE("SlotSupervisor: incarnations start where they are told to") {
    SlotSupervisor::Options options;
    options.num_slots = 2;
    options.first_incarnation = 3u << 16;
    SlotSupervisor slots(options, RandomStream(1, StreamPurpose::simulation, 0));
    CHECK(find<SlotSupervisor::Spawn>(step(slots, SlotSupervisor::Start{}, Time{}))->incarnation == 3u << 16);
    const Outputs outputs = step(slots, SlotSupervisor::Exited{1, 3u << 16, "SIGSEGV"}, Time{});
    CHECK(find<SlotSupervisor::Spawn>(outputs)->incarnation == (3u << 16) + 1);
  }

  TEST_CASE("SlotSupervisor: its counts and its timer agree with a look at every slot, whatever happens") {
    constexpr uint32_t kSlots = 40;
    SlotSupervisor slots = supervisor(kSlots, 4);
    RandomStream random(7, StreamPurpose::simulation, 1);
    const auto pick = [&](uint32_t n) { return static_cast<uint32_t>(random.uniform() * n); };
    std::vector<Time> last(kSlots, Time::zero());  // spawn or progress
    std::vector<bool> hung(kSlots), progressed(kSlots);
    Time now{};
    const auto note = [&](const Outputs& outputs) {
      for (const auto& output : outputs) {
        if (const auto* spawn = std::get_if<SlotSupervisor::Spawn>(&output)) {
          last[spawn->slot] = now;
          hung[spawn->slot] = progressed[spawn->slot] = false;
        } else if (const auto* found = std::get_if<SlotSupervisor::Hung>(&output)) {
          CHECK(found->silent >= std::chrono::seconds(progressed[found->slot] ? 30 : 60));
          hung[found->slot] = true;
        }
      }
    };
    note(step(slots, SlotSupervisor::Start{}, now));
    for (int i = 0; i < 20'000; ++i) {
      now += milliseconds(pick(200));
      const uint32_t slot = pick(kSlots);
      if (random.uniform() < 0.6) {
        if (slots.running(slot)) last[slot] = now, progressed[slot] = true;
        note(step(slots, SlotSupervisor::Progress{slot, slots.incarnation(slot)}, now));
        hung[slot] = hung[slot] && slots.running(slot);
      } else if (random.uniform() < 0.02) {
        note(step(slots, SlotSupervisor::Exited{slot, slots.incarnation(slot), "SIGSEGV"}, now));
      }
      if (now >= slots.next_timer()) note(step(slots, SlotSupervisor::Tick{}, now));
      CHECK(slots.next_timer() > now);
      uint32_t running = 0, quarantined = 0;
      for (uint32_t s = 0; s < kSlots; ++s) {
        running += slots.running(s) ? 1 : 0;
        quarantined += slots.quarantined(s) ? 1 : 0;
        // Nobody is silent for longer than allowed without a word.
        if (slots.running(s) && !hung[s]) CHECK(now - last[s] < std::chrono::seconds(progressed[s] ? 30 : 60));
      }
      CHECK(running == slots.num_running());
      CHECK(quarantined == slots.num_quarantined());
    }
  }

  TEST_CASE("SlotSupervisor: after StopAll nothing is restarted") {
    SlotSupervisor slots = supervisor(2);
    step(slots, SlotSupervisor::Start{}, Time{});
    step(slots, SlotSupervisor::StopAll{}, Time{});
    CHECK(step(slots, SlotSupervisor::Exited{0, 0, "SIGTERM"}, Time{}).empty());
    CHECK(slots.num_running() == 1);
    CHECK(slots.next_timer() == Time::max());
    CHECK(step(slots, SlotSupervisor::Tick{}, std::chrono::hours(1)).empty());
  }
}

}  // namespace myriad
