#include "roles/batch_books.hpp"

#include "tests/simulation/batch_harness.hpp"

namespace myriad {

using namespace batch_harness;

TEST_SUITE("roles/batch_books") {
  TEST_CASE("BatchBooks: numbers that are passed over are missing, a number that came is not new") {
    BatchBooks books(2, 1);
    CHECK(books.num_slots_seen() == 0);
    CHECK(books.arrived({0, 0, 0}));
    CHECK(books.arrived({0, 0, 3}));  // 1 and 2 are missing
    CHECK(!books.arrived({0, 0, 3}));
    CHECK(!books.arrived({0, 0, 1}));
    CHECK(books.arrived({0, 2, 1}));  // 0 of the new process is missing
    CHECK(!books.arrived({0, 1, 9}));
    CHECK(books.num_missing() == 3);
    CHECK(books.num_fragments() == 6);
    CHECK(books.num_slots_seen() == 1);
    books.begin_slot(1, 4, 7);
    CHECK(books.num_slots_seen() == 2);
    CHECK(!books.arrived({1, 4, 6}));
    CHECK(books.arrived({1, 4, 7}));
    CHECK(books.num_missing() == 3);
  }

  TEST_CASE("BatchBooks: an end is settled by the update whose mark passes its message, once") {
    BatchBooks books(1, 2);
    books.placed(0, {{3, 1, 4}, 0, fragment(0, 0, 0, 5), true}, {});
    books.dropped({3, 1, 5}, {0, 0, 1}, Drop::invalid);
    books.dropped({3, 1, 6}, {0, 0, 2}, Drop::duplicate);
    books.dropped({3, 0, 9}, {0, 0, 9}, Drop::duplicate);  // of an incarnation that is gone: no mark waits for it
    books.dropped({2, 0, 9}, {0, 0, 8}, Drop::duplicate);  // of an agent that is
    const std::vector marks{wire::AgentMark(1, 0, 9), wire::AgentMark(3, 1, 6)};
    CHECK(ends(books.settle(marks)) == Ends{"0.0.0 trained", "0.0.1 invalid", "0.0.9 duplicate", "0.0.8 duplicate"});
    CHECK(books.settle(marks).empty());
    CHECK(ends(books.settle(std::vector{wire::AgentMark(3, 1, 7)})) == Ends{"0.0.2 duplicate"});
  }

  TEST_CASE("BatchBooks: facts are by place, and gone when they are taken") {
    BatchBooks books(1, 2);
    books.placed(1, {{0, 0, 0}, 0, fragment(0, 0, 0, 5), true}, std::chrono::seconds(3));
    books.placed(0, {{0, 0, 1}, 0, fragment(0, 0, 1, 6, 4), true}, {});
    REQUIRE(books.take_accepted().size() == 2);
    CHECK(books.take_accepted().empty());
    books.drop_placed(1, Drop::policy_lag);
    books.placed(1, {{0, 0, 2}, 0, fragment(0, 0, 2, 7, 9), true}, {});
    const std::vector<FragmentFacts> facts = books.take_facts();
    REQUIRE(facts.size() == 2);
    CHECK(facts[0].weights_version == 6);
    CHECK(facts[0].clients_lag == 4);
    CHECK(facts[1].clients_lag == 7);  // there are no older weights
    CHECK(facts[1].id == FragmentId{0, 0, 2});
    CHECK(facts[1].queue_age == Time{});
    CHECK(ends(books.settle({})) == Ends{"0.0.0 policy_lag", "0.0.1 trained", "0.0.2 trained"});
    CHECK(books.facts().size() == 2);
    CHECK(books.facts()[1].episodes.empty());
    CHECK_THROWS(books.drop_placed(0, Drop::policy_lag));  // nothing is there
  }
}

}  // namespace myriad
