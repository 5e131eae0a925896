#include "roles/update_tally.hpp"

#include <doctest/doctest.h>

namespace myriad {
namespace {

bool same(const std::vector<wire::AgentMark>& a, const std::vector<wire::AgentMark>& b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), [](const auto& x, const auto& y) {
    return x.agent() == y.agent() && x.incarnation() == y.incarnation() && x.messages() == y.messages();
  });
}

std::vector<double> sum(const std::vector<std::vector<double>>& shards) {
  std::vector<double> total(shards.at(0).size());
  for (const auto& numbers : shards)
    for (size_t i = 0; i < total.size(); ++i) total[i] += numbers.at(i);
  return total;
}

}  // namespace

TEST_SUITE("roles/update_tally") {
  TEST_CASE("UpdateTally: the numbers of three shards, summed, are the tally of all") {
    // Five agents; agent 3 is nobody's now. Incarnation 0 and 0 messages are not the same as nothing said.
    const UpdateTally a{4, true, {wire::AgentMark(0, 0, 0), wire::AgentMark(1, 7, uint64_t{1} << 52)}};
    const UpdateTally b{0, false, {}};
    const UpdateTally c{3, false, {wire::AgentMark(2, UINT32_MAX, 5), wire::AgentMark(4, 1, 6)}};
    const UpdateTally all = UpdateTally::decode(sum({a.encode(5), b.encode(5), c.encode(5)}));
    CHECK(all.fragments == 7);
    CHECK(all.ends_iteration);
    CHECK(same(all.marks, {wire::AgentMark(0, 0, 0), wire::AgentMark(1, 7, uint64_t{1} << 52),
                           wire::AgentMark(2, UINT32_MAX, 5), wire::AgentMark(4, 1, 6)}));
    const UpdateTally two = UpdateTally::decode(sum({a.encode(5), a.encode(5)}));
    CHECK(two.ends_iteration);  // however many say so
    CHECK(!UpdateTally::decode(sum({b.encode(5), c.encode(5)})).ends_iteration);
  }

  TEST_CASE("UpdateTally: as many numbers whoever says something; marks of agents there are none of are left out") {
    const UpdateTally tally{1, false, {wire::AgentMark(9, 0, 1), wire::AgentMark(1, 0, 2)}};
    CHECK(tally.encode(2).size() == UpdateTally{}.encode(2).size());
    CHECK(same(UpdateTally::decode(tally.encode(2)).marks, {wire::AgentMark(1, 0, 2)}));
  }

  TEST_CASE("after: iterations and steps add up, a mark takes the place of its agent's older one") {
    const GroupState before{2, 100, {wire::AgentMark(0, 1, 50), wire::AgentMark(1, 0, 9)}};
    const GroupState next =
        after(before, {3, true, {wire::AgentMark(2, 0, 4), wire::AgentMark(0, 2, 1)}}, /*fragment_steps=*/10);
    CHECK(next.training_iteration == 3);
    CHECK(next.num_env_steps_sampled_lifetime == 130);
    CHECK(same(next.marks, {wire::AgentMark(0, 2, 1), wire::AgentMark(1, 0, 9), wire::AgentMark(2, 0, 4)}));
    const GroupState same_iteration = after(before, {1, false, {}}, 10);
    CHECK(same_iteration.training_iteration == 2);
    CHECK(same_iteration.num_env_steps_sampled_lifetime == 110);
    CHECK(same(same_iteration.marks, before.marks));
  }

  TEST_CASE("GroupState: comes back from the wire as it was; nothing said is a start") {
    const GroupState state{2, 100, {wire::AgentMark(0, 1, 50)}};
    const wire::GroupStateT wire = to_wire(state);
    const GroupState back = from_wire(&wire);
    CHECK(back.training_iteration == 2);
    CHECK(back.num_env_steps_sampled_lifetime == 100);
    CHECK(same(back.marks, state.marks));
    CHECK(from_wire(nullptr).training_iteration == 0);
    CHECK(from_wire(nullptr).marks.empty());
  }
}

}  // namespace myriad
