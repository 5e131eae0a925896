#include "rl/wire/transport.hpp"

#include <doctest/doctest.h>
#include <unistd.h>

#include "rl/check.hpp"
#include "rl/random.hpp"
#include "rl/wire/messages.hpp"
#include "tests/rl/wire_helpers.hpp"

namespace myriad {
namespace {

struct Pair : PrivateDirectory {
  SocketContext context;
  Router router{context, endpoint()};
  Dealer dealer{context, endpoint(), "runner-0.0"};
};

}  // namespace

TEST_SUITE("rl/wire/transport") {
  TEST_CASE_FIXTURE(Pair, "Router, Dealer: a multipart message goes there and its answer back to who sent it") {
    REQUIRE(dealer.send({bytes("one"), bytes(""), bytes(std::string(100'000, 'x'))}));
    const Received received = next(router);
    CHECK(received.peer == "runner-0.0");
    REQUIRE(received.frames.size() == 3);
    CHECK(text(received.frames[0]) == "one");
    CHECK(text(received.frames[1]).empty());
    CHECK(text(received.frames[2]) == std::string(100'000, 'x'));
    REQUIRE(router.send(received.peer, {bytes("answer")}));
    const Received answer = next(dealer);
    CHECK(answer.peer.empty());
    CHECK(text(answer.frames.at(0)) == "answer");
  }

  TEST_CASE("Dealer: a large payload is not copied and lives until it is sent") {
    std::weak_ptr<const void> alive;
    {
      Pair pair;
      auto payload = bytes(std::string(1'000'000, 'p'));
      alive = payload.owner;
      REQUIRE(pair.dealer.send({payload}));
      payload = {};
      const Received received = next(pair.router);
      CHECK(text(received.frames.at(0)) == std::string(1'000'000, 'p'));
    }
    CHECK(alive.expired());  // and no longer
  }

  TEST_CASE_FIXTURE(Pair, "Router: received frames outlive the socket's next message") {
    REQUIRE(dealer.send({bytes(std::string(1000, 'a'))}));
    const Received first = next(router);
    REQUIRE(dealer.send({bytes(std::string(1000, 'b'))}));
    const Received second = next(router);
    CHECK(text(first.frames[0]) == std::string(1000, 'a'));
    CHECK(text(second.frames[0]) == std::string(1000, 'b'));
  }

  TEST_CASE_FIXTURE(Pair, "Router: an endpoint somebody listens at is refused, not taken over") {
    try {
      Router second(context, endpoint());
      FAIL("the endpoint was taken over");
    } catch (const Error& error) {
      CHECK(error.code() == "endpoint-in-use");
      CHECK(error.exit_status() == Exit::resource);
    }
    REQUIRE(dealer.send({bytes("still there")}));
    CHECK(text(next(router).frames.at(0)) == "still there");
  }

  TEST_CASE("Router: the path a dead process left behind is free") {
    PrivateDirectory directory;
    SocketContext context;
    {
      std::FILE* left = std::fopen((directory.path + "/a").c_str(), "w");
      std::fclose(left);
    }
    Router router(context, directory.endpoint());
    Dealer dealer(context, directory.endpoint(), "d");
    REQUIRE(dealer.send({bytes("x")}));
    CHECK(text(next(router).frames.at(0)) == "x");
  }

  TEST_CASE("Router, Dealer: endpoints that cannot be are Errors that name them") {
    SocketContext context;
    CHECK_THROWS_WITH_AS(Router(context, "ipc:///no/such/directory/a"), doctest::Contains("/no/such/directory/a"),
                         Error);
    CHECK_THROWS_WITH_AS(Dealer(context, "nonsense", "d"), doctest::Contains("nonsense"), Error);
  }

  TEST_CASE("Router: what cannot be listened at is said by its cause, with what to set") {
    SocketContext context;
    const auto error_at = [&](const std::string& endpoint) -> std::string {
      try {
        Router router(context, endpoint);
      } catch (const Error& error) { return error.line(); }
      return "";
    };
    Router taken(context, "tcp://127.0.0.1:0");
    CHECK(error_at(taken.endpoint()).starts_with("error[endpoint-in-use]"));
    CHECK(error_at(taken.endpoint()).find("network.port") != std::string::npos);
    const PrivateDirectory directory;
    const std::string longest = directory.path + "/" + std::string(120, 'x');
    CHECK(error_at("ipc://" + longest).find("TMPDIR") != std::string::npos);
  }

  TEST_CASE("Router, Dealer: over IPv6, on the loopback without keys") {
    SocketContext context;
    std::optional<Router> router;
    try {
      router.emplace(context, "tcp://[::1]:0");
    } catch (const Error& error) {
      CHECK(error.code() != "no-keys");
      return;  // a machine without IPv6
    }
    Dealer dealer(context, router->endpoint(), "d");
    REQUIRE(dealer.send({bytes("x")}));
    CHECK(text(next(*router).frames.at(0)) == "x");
  }

  TEST_CASE_FIXTURE(Pair, "Router: a message to an unknown peer returns false and leaves the socket as it was") {
    CHECK(!router.send("nobody", {bytes("a"), bytes("b")}));
    REQUIRE(dealer.send({bytes("x")}));
    const Received received = next(router);
    REQUIRE(router.send(received.peer, {bytes("y")}));
    CHECK(text(next(dealer).frames.at(0)) == "y");
  }

  TEST_CASE_FIXTURE(Pair, "wait_readable: false when there is nothing, true for a message and for a file descriptor") {
    CHECK(!wait_readable({&router}, -1, Time::zero()));
    CHECK(!wait_readable({&router}, -1, Time(-5)));
    CHECK(!router.receive());
    int ends[2];
    REQUIRE(::pipe(ends) == 0);
    CHECK(!wait_readable({&router, &dealer}, ends[0], Time::zero()));
    REQUIRE(::write(ends[1], "x", 1) == 1);
    CHECK(wait_readable({&router, &dealer}, ends[0], Time::zero()));
    ::close(ends[0]);
    ::close(ends[1]);
    REQUIRE(dealer.send({bytes("x")}));
    CHECK(wait_readable({&router}, -1, std::chrono::seconds(10)));
  }

  TEST_CASE_FIXTURE(Pair, "Router: 10000 mangled messages leave it alive, the next good one is read") {
    RandomStream random(4, StreamPurpose::simulation, 2);
    wire::WeightsHeaderT header;
    const Frames good = encode(make_message(std::move(header), {bytes(std::string(300, 'w')), bytes("12345678")}));
    size_t malformed = 0;
    for (int i = 0; i < 10'000; ++i) {
      Frames frames = good;
      SharedBytes& frame = frames[random.below(frames.size())];
      std::vector<std::byte> changed(frame.view.begin(), frame.view.end());
      if (random.below(3) == 0)
        changed.erase(changed.begin() + static_cast<ptrdiff_t>(random.below(changed.size())), changed.end());
      else
        changed[random.below(changed.size())] ^= static_cast<std::byte>(1u << random.below(8));
      frame = SharedBytes::of(std::move(changed));
      if (random.below(20) == 0) frames.resize(1 + random.below(kMaxFrames + 8), bytes("z"));
      REQUIRE(dealer.send(frames));
      const Received received = next(router);
      const auto result = decode(received.frames);
      malformed += std::holds_alternative<Malformed>(result) ? 1 : 0;
    }
    CHECK(malformed == 10'000);
    REQUIRE(dealer.send(good));
    CHECK(std::holds_alternative<Message>(decode(next(router).frames)));
  }

  TEST_CASE("Router: an ipc socket that other users could reach is refused") {
    PrivateDirectory directory;
    SocketContext context;
    std::filesystem::permissions(directory.path, std::filesystem::perms(0750));
    CHECK_THROWS_WITH_AS(Router(context, directory.endpoint()), doctest::Contains("mode 750"), Error);
    std::filesystem::permissions(directory.path, std::filesystem::perms(0700));
    CHECK_NOTHROW(Router(context, directory.endpoint()));
    CHECK_THROWS_WITH_AS(Router(context, "ipc://@myriad"), doctest::Contains("abstract"), Error);
  }

  TEST_CASE("Router: port 0 is a free one, and it says which") {
    SocketContext context;
    Router router(context, "tcp://127.0.0.1:0");
    CHECK(router.endpoint().starts_with("tcp://127.0.0.1:"));
    CHECK(!router.endpoint().ends_with(":0"));
    Dealer dealer(context, router.endpoint(), "d");
    REQUIRE(dealer.send({bytes("x")}));
    CHECK(text(next(router).frames.at(0)) == "x");
    CHECK_THROWS_WITH_AS(Router(context, router.endpoint()), doctest::Contains("cannot listen at tcp://127.0.0.1:"),
                         Error);
  }

  TEST_CASE("Router: without keys no socket leaves this machine, and the error says how to mend it") {
    SocketContext context(1, 100);  // libzmq frees a socket's place a moment after it was closed
    for (const char* endpoint : {"tcp://0.0.0.0:0", "tcp://*:0", "tcp://10.0.0.5:4000", "tcp://eth0:0",
                                 "tcp://128.0.0.1:0", "tcp://127.0.0.1.example:0", "tcp://127.0.0.1:1;10.0.0.5:4000"}) {
      CAPTURE(endpoint);
      for (const bool listens : {true, false}) {
        try {
          if (listens)
            Router(context, endpoint);
          else
            Dealer(context, endpoint, "d");
          FAIL("was let out");
        } catch (const Error& error) {
          CHECK(error.code() == "no-keys");
          CHECK(error.exit_status() == Exit::usage);
          CHECK(std::string(error.what()).find("myriad keys DIR") != std::string::npos);
          CHECK(std::string(error.what()).find("network.keys") != std::string::npos);
        }
      }
    }
    for (const char* endpoint : {"tipc://{5560,0,0}", "pgm://eth0;239.0.0.1:5555", "inproc://a", "tcp://", ""})
      CHECK_THROWS_WITH_AS(Router(context, endpoint), doctest::Contains("want ipc://PATH or tcp://ADDRESS:PORT"),
                           Error);
  }

  TEST_CASE("SocketContext: the sockets it may have are the caller's number") {
    SocketContext context(1, 2);
    Router one(context, "tcp://127.0.0.1:0"), two(context, "tcp://127.0.0.1:0");
    CHECK_THROWS_WITH_AS(Router(context, "tcp://127.0.0.1:0"), doctest::Contains("zmq_socket"), Error);
  }

  TEST_CASE("SocketContext: libzmq before 4.3.4 is refused") {
    CHECK_NOTHROW(require_libzmq(4, 3, 4));
    CHECK_NOTHROW(require_libzmq(5, 0, 0));
    CHECK_THROWS_WITH_AS(require_libzmq(4, 3, 3), doctest::Contains("4.3.3"), Error);
    CHECK_THROWS_AS(require_libzmq(3, 9, 9), Error);
  }

  TEST_CASE_FIXTURE(Pair, "Router: a second peer with a taken id is not let in") {
    REQUIRE(dealer.send({bytes("1")}));
    CHECK(text(next(router).frames.at(0)) == "1");
    Dealer thief(context, endpoint(), "runner-0.0"), other(context, endpoint(), "runner-0.1");
    REQUIRE(thief.send({bytes("stolen")}));
    REQUIRE(other.send({bytes("2")}));
    CHECK(text(next(router).frames.at(0)) == "2");
    REQUIRE(router.send("runner-0.0", {bytes("for the first")}));
    CHECK(text(next(dealer).frames.at(0)) == "for the first");
    CHECK(!thief.receive());
  }

  TEST_CASE_FIXTURE(Pair, "Router: a message of more frames than allowed is dropped whole, the next one is read") {
    REQUIRE(dealer.send(Frames(kMaxFrames + 1, bytes("z"))));
    CHECK(std::get<Malformed>(decode(next(router).frames)) == Malformed::too_many_frames);
    REQUIRE(dealer.send(Frames(20 * kMaxFrames, bytes("z"))));
    const Received received = next(router);
    CHECK(received.frames.size() == kMaxFrames + 1);  // what is over is not kept
    CHECK(std::get<Malformed>(decode(received.frames)) == Malformed::too_many_frames);
    REQUIRE(dealer.send({bytes("good")}));
    CHECK(text(next(router).frames.at(0)) == "good");
  }

  TEST_CASE("PeerBudget: 100 malformed messages a minute are borne, one more is a minute's refusal") {
    using std::chrono::seconds;
    PeerBudget budget;
    const Time start = seconds(1000);
    for (int i = 0; i < 100; ++i) CHECK(!budget.malformed("a", start + seconds(i) / 2));
    CHECK(!budget.refused("a", start + seconds(50)));
    CHECK(budget.malformed("a", start + seconds(50)));
    CHECK(!budget.malformed("a", start + seconds(50)));  // said once
    CHECK(budget.refused("a", start + seconds(50)));
    CHECK(!budget.refused("b", start + seconds(50)));
    CHECK(budget.refused("a", start + seconds(109)));
    CHECK(!budget.refused("a", start + seconds(110)));
    CHECK(!budget.malformed("a", start + seconds(110)));  // begins anew
    CHECK(!budget.refused("a", start + seconds(110)));
  }

  TEST_CASE("PeerBudget: 100 in one minute and 100 in the next are borne") {
    PeerBudget budget;
    for (int minute = 0; minute < 5; ++minute)
      for (int i = 0; i < 100; ++i) CHECK(!budget.malformed("a", std::chrono::minutes(minute)));
  }

  TEST_CASE("PeerBudget: a peer that changes its name with every message is forgotten, not piled up") {
    PeerBudget budget;
    for (size_t i = 0; i < 3 * PeerBudget::kMaxPeers; ++i) budget.malformed(fmt::format("peer-{}", i), Time::zero());
    for (int i = 0; i < 101; ++i) budget.malformed("late", Time::zero());
    CHECK(!budget.refused("late", Time::zero()));  // no room
    for (int i = 0; i < 101; ++i) budget.malformed("late", std::chrono::seconds(60));
    CHECK(budget.refused("late", std::chrono::seconds(60)));
  }
}

}  // namespace myriad
