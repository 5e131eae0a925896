#include "roles/credit_ledger.hpp"

#include <doctest/doctest.h>

#include <deque>

#include "rl/check.hpp"
#include "rl/random.hpp"

namespace myriad {

TEST_SUITE("roles/credit_ledger") {
  TEST_CASE("CreditLedger: shares go by slots, in bytes, and what is consumed comes back") {
    CreditLedger ledger(12, 100);
    ledger.up(0, 0, 1);
    CHECK(ledger.granted_bytes(0) == 1200);  // alone
    ledger.up(1, 0, 2);
    CHECK(ledger.granted_bytes(0) == 1200);  // what was granted stays
    CHECK(ledger.granted_bytes(1) == 800);   // 12 x 2/3
    for (int i = 0; i < 8; ++i) {
      CHECK(ledger.arrived(0, 0));
      ledger.consumed(0, 0);
    }
    CHECK(ledger.granted_bytes(0) == 1200);  // 8 + its share of 4: nothing new
    CHECK(ledger.arrived(0, 0));
    ledger.consumed(0, 0);
    CHECK(ledger.granted_bytes(0) == 1300);
    CHECK(ledger.outstanding() == 4 + 8);
    CHECK(ledger.granted_bytes(7) == 0);  // unknown
  }

  TEST_CASE("CreditLedger: what has arrived and waits is part of the window still") {
    CreditLedger ledger(4, 1);
    ledger.up(0, 0, 1);
    CHECK(ledger.granted_bytes(0) == 4);
    for (int i = 0; i < 3; ++i) CHECK(ledger.arrived(0, 0));
    CHECK(ledger.granted_bytes(0) == 4);
    ledger.consumed(0, 0);
    CHECK(ledger.granted_bytes(0) == 5);
    CHECK(ledger.outstanding() == 4);
  }

  TEST_CASE("CreditLedger: what is beyond the grant is told apart") {
    CreditLedger ledger(2, 1);
    ledger.up(0, 0, 1);
    CHECK(!ledger.arrived(0, 0));  // nothing was granted yet
    ledger.consumed(0, 0);
    CHECK(ledger.granted_bytes(0) == 3);
    CHECK(ledger.arrived(0, 0));
    CHECK(ledger.arrived(0, 0));
    CHECK(!ledger.arrived(0, 0));
  }

  TEST_CASE("CreditLedger: an agent that was allowed something before goes on from there") {
    CreditLedger ledger(4, 10);
    ledger.up(0, 0, 1);
    ledger.resume(0, 20, 18);
    CHECK(ledger.outstanding() == 2);
    CHECK(ledger.granted_bytes(0) == 220);  // 18 + 4
    for (int i = 0; i < 4; ++i) CHECK(ledger.arrived(0, 0));
    CHECK(!ledger.arrived(0, 0));
    CHECK_THROWS_AS(([&] {
                      for (int i = 0; i < 6; ++i) ledger.consumed(0, 0);  // five have come since
                    }()),
                    Error);
    ledger.up(1, 0, 1);
    ledger.resume(1, 90, 2);
    CHECK(ledger.granted_bytes(1) == 900);  // what was granted stays
    ledger.resume(7, 5, 5);                 // nobody
    CHECK(ledger.granted_bytes(7) == 0);
  }

  TEST_CASE("CreditLedger: each agent may send one, however many there are") {
    CreditLedger ledger(2, 1);
    for (uint32_t agent = 0; agent < 5; ++agent) ledger.up(agent, 0, 1);
    for (uint32_t agent = 0; agent < 5; ++agent) CHECK(ledger.granted_bytes(agent) == 1);
  }

  TEST_CASE("CreditLedger: a gone agent's credit is the others': unsent at once, sent when it is consumed") {
    CreditLedger ledger(10, 1);
    ledger.up(0, 0, 1);
    ledger.up(1, 0, 1);
    CHECK(ledger.granted_bytes(0) == 5);
    CHECK(ledger.granted_bytes(1) == 5);
    for (int i = 0; i < 3; ++i) CHECK(ledger.arrived(0, 0));
    ledger.down(0);
    CHECK(ledger.outstanding() == 3 + 5);
    CHECK(ledger.granted_bytes(1) == 7);  // 10 - 3
    CHECK(ledger.granted_bytes(0) == 0);
    ledger.consumed(0, 0);
    CHECK(ledger.granted_bytes(1) == 8);
    ledger.up(0, 1, 1);  // returns with nothing sent
    CHECK(ledger.granted_bytes(0) == 4);
    ledger.consumed(0, 0);
    ledger.consumed(0, 0);
    CHECK(ledger.granted_bytes(0) == 5);
    CHECK_THROWS_AS(ledger.consumed(0, 0), Error);
    ledger.up(0, 2, 1);  // the end of 1 was not heard of
    CHECK(ledger.granted_bytes(0) == 5);
    CHECK(ledger.granted_bytes(1) == 8);
  }

  TEST_CASE("CreditLedger: needs a window and a size") {
    CHECK_THROWS_AS(CreditLedger(0, 1), Error);
    CHECK_THROWS_AS(CreditLedger(1, 0), Error);
    CreditLedger ledger(1, 1);
    CHECK_THROWS_AS(ledger.up(0, 0, 0), Error);
  }

  TEST_CASE("CreditLedger: random lives keep the books") {
    for (uint64_t seed = 0; seed < 200; ++seed) {
      RandomStream random(seed, StreamPurpose::simulation, 1);
      const auto below = [&](uint64_t n) { return static_cast<uint32_t>(random.below(n)); };
      const uint64_t window = 1 + below(50);
      CreditLedger ledger(window, 1);
      constexpr uint32_t kAgents = 4;
      struct Agent {
        bool up = false;
        uint32_t incarnation = 0;
        uint64_t granted = 0, sent = 0;
      };
      Agent agents[kAgents];
      std::deque<std::pair<uint32_t, uint32_t>> here;
      // Only a share that shrinks under a grant leaves more than the window out.
      uint64_t bound = window + kAgents;
      for (int i = 0; i < 500; ++i) {
        const uint32_t a = below(kAgents);
        Agent& agent = agents[a];
        switch (below(8)) {
          case 0:
            bound = std::max(bound, ledger.outstanding() + window + kAgents);
            agent = {true, agent.incarnation + 1, 0, 0};
            ledger.up(a, agent.incarnation, 1 + below(5));
            break;
          case 1:
            if (agent.up) ledger.down(a);
            agent.up = false;
            break;
          case 2:
          case 3:
            if (agent.up) {
              const uint64_t granted = ledger.granted_bytes(a);
              CHECK(granted >= agent.granted);  // never back
              CHECK(granted > 0);
              agent.granted = granted;
            }
            break;
          case 4:
          case 5:
            if (!here.empty()) {
              ledger.consumed(here.front().first, here.front().second);
              here.pop_front();
            }
            break;
          default:
            if (agent.up && agent.sent < agent.granted) {
              ++agent.sent;
              CHECK(ledger.arrived(a, agent.incarnation));
              here.emplace_back(a, agent.incarnation);
            }
        }
        CHECK(ledger.outstanding() >= here.size());
        CHECK(ledger.outstanding() <= bound);
      }
      while (!here.empty()) {
        ledger.consumed(here.front().first, here.front().second);
        here.pop_front();
      }
      for (uint32_t a = 0; a < kAgents; ++a) ledger.down(a);
      CHECK(ledger.outstanding() == 0);  // nothing was lost
      ledger.up(9, 0, 1);
      CHECK(ledger.granted_bytes(9) == window);
    }
  }
}

}  // namespace myriad
