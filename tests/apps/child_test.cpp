#include "apps/child.hpp"

#include <doctest/doctest.h>

#include <array>
#include <memory>
#include <set>

using namespace myriad;

TEST_SUITE_BEGIN("apps/child");

TEST_CASE("ControlLink: a learner of the next run is let in while the same one of this run is still connected") {
  const SocketContext context;
  Router driver(context, "tcp://127.0.0.1:0");
  const std::string endpoint = driver.endpoint();
  const auto learner_of = [&](const char* run) {
    std::array<const char*, 5> words{"myriad-learner", "--control", endpoint.c_str(), "--run", run};
    const ChildArguments arguments(words.size(), const_cast<char**>(words.data()));
    return std::make_unique<ControlLink>(context, arguments, "learner-0.0");
  };
  std::set<std::string> peers;
  const auto heard = [&](ControlLink& link) {
    link.send(wire::LearnerHelloT());
    REQUIRE(wait_readable({&driver}, -1, std::chrono::seconds(5)));
    peers.insert(driver.receive()->peer);
  };
  const auto before = learner_of("17"), after = learner_of("18");
  heard(*before);
  heard(*after);
  CHECK(peers.size() == 2);
}

TEST_SUITE_END();
