#include "rl/wire/transport.hpp"

#include <doctest/doctest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>

#include "rl/check.hpp"
#include "rl/random.hpp"
#include "rl/wire/messages.hpp"

namespace myriad {
namespace {

/// A directory of its own for sockets, removed at the end.
struct SocketDirectory {
  std::string path = (std::filesystem::temp_directory_path() / "myriad-wire-XXXXXX").string();
  SocketDirectory() { REQUIRE(::mkdtemp(path.data()) != nullptr); }
  ~SocketDirectory() { std::filesystem::remove_all(path); }
  std::string endpoint(const std::string& name = "a") const { return "ipc://" + path + "/" + name; }
};

SharedBytes bytes(const std::string& text) {
  std::vector<std::byte> out(text.size());
  if (!text.empty()) std::memcpy(out.data(), text.data(), text.size());
  return SharedBytes::of(std::move(out));
}

std::string text(const SharedBytes& frame) {
  return {reinterpret_cast<const char*>(frame.view.data()), frame.view.size()};
}

/// Waits, at most 10 s, for the next message.
Received next(Socket& socket) {
  for (int i = 0; i < 10; ++i) {
    if (auto received = socket.receive()) return std::move(*received);
    wait_readable({&socket}, -1, std::chrono::seconds(1));
  }
  FAIL("no message within 10 s");
  return {};
}

struct Pair : SocketDirectory {
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
    SocketDirectory directory;
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
}

}  // namespace myriad
