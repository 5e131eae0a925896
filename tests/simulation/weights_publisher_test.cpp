#include "roles/weights_publisher.hpp"

#include <doctest/doctest.h>

#include "rl/check.hpp"

namespace myriad {
namespace {

WeightsPtr weights(uint64_t version) { return std::make_shared<const Weights>(Weights{version, 1, {1.0f}, {}}); }

std::vector<WeightsPublisher::Send> step(WeightsPublisher& publisher, const WeightsPublisher::Input& input) {
  std::vector<WeightsPublisher::Send> sends;
  publisher.step(input, sends);
  return sends;
}

}  // namespace

TEST_SUITE("roles/weights_publisher") {
  TEST_CASE("WeightsPublisher: who is behind gets the newest, who has it gets nothing") {
    WeightsPublisher publisher;
    CHECK(step(publisher, WeightsPublisher::PeerHas{"early", -1, Time{}}).empty());  // nothing to send yet
    REQUIRE(step(publisher, WeightsPublisher::Publish{weights(0), Time{}}).size() == 1);
    CHECK(step(publisher, WeightsPublisher::PeerHas{"late", -1, Time{}}).size() == 1);
    CHECK(step(publisher, WeightsPublisher::PeerHas{"late", 0, Time{}}).empty());
    CHECK(step(publisher, WeightsPublisher::PeerHas{"early", 0, Time{}}).empty());
    const auto sends = step(publisher, WeightsPublisher::Publish{weights(1), Time{}});
    REQUIRE(sends.size() == 2);
    CHECK(sends[0].weights == sends[1].weights);  // shared, not copied
    CHECK(sends[0].weights->version == 1);
  }

  TEST_CASE("WeightsPublisher: who takes its weights from elsewhere is sent none") {
    WeightsPublisher publisher;
    step(publisher, WeightsPublisher::Publish{weights(0), Time{}});
    CHECK(step(publisher, WeightsPublisher::PeerHas{"relayed", INT64_MAX, Time{}}).empty());
    CHECK(step(publisher, WeightsPublisher::Publish{weights(1), Time{}}).empty());
    CHECK(step(publisher, WeightsPublisher::PeerHas{"relayed", 0, Time{}}).size() == 1);  // its source is gone
    step(publisher, WeightsPublisher::PeerHas{"relayed", 1, Time{}});
    CHECK(step(publisher, WeightsPublisher::Publish{weights(2), Time{}}).size() == 1);
  }

  TEST_CASE(
      "WeightsPublisher: one version at a time is on its way to a peer; a lost one is sent again after a second") {
    WeightsPublisher publisher;
    const Time start = std::chrono::seconds(10), later = start + std::chrono::milliseconds(999);
    step(publisher, WeightsPublisher::PeerHas{"slow", -1, start});
    CHECK(step(publisher, WeightsPublisher::Publish{weights(1), start}).size() == 1);
    CHECK(step(publisher, WeightsPublisher::Publish{weights(2), start}).empty());
    CHECK(step(publisher, WeightsPublisher::PeerHas{"slow", -1, later}).empty());
    const auto next = step(publisher, WeightsPublisher::PeerHas{"slow", 1, later});
    REQUIRE(next.size() == 1);
    CHECK(next[0].weights->version == 2);
    CHECK(step(publisher, WeightsPublisher::PeerHas{"slow", 1, later}).empty());
    CHECK(step(publisher, WeightsPublisher::PeerHas{"slow", 1, later + WeightsPublisher::kResend}).size() == 1);
  }

  TEST_CASE("WeightsPublisher: a version never goes back") {
    WeightsPublisher publisher;
    step(publisher, WeightsPublisher::Publish{weights(5), Time{}});
    std::vector<WeightsPublisher::Send> sends;
    CHECK_THROWS_AS(publisher.step(WeightsPublisher::Publish{weights(5), Time{}}, sends), Error);
    CHECK_THROWS_AS(publisher.step(WeightsPublisher::Publish{weights(4), Time{}}, sends), Error);
    CHECK(publisher.newest()->version == 5);
  }

  TEST_CASE("WeightsPublisher: a peer that is gone gets nothing more") {
    WeightsPublisher publisher;
    step(publisher, WeightsPublisher::PeerHas{"a", -1, Time{}});
    step(publisher, WeightsPublisher::PeerGone{"a"});
    CHECK(publisher.num_peers() == 0);
    CHECK(step(publisher, WeightsPublisher::Publish{weights(1), Time{}}).empty());
  }
}

}  // namespace myriad
