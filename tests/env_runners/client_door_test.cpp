// The door where clients come in, over a unix socket: who is let in, and to which runner.
#include "env_runners/client_door.hpp"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "rl/check.hpp"
#include "rl/descriptors.hpp"
#include "rl/simulator/address.hpp"
#include "tests/temporary_folder.hpp"

namespace myriad {
namespace {

using simulator::DoorMessage, simulator::HelloT;

constexpr const char* kToken = "a token of letters";
constexpr double kReconnect = 3.0;  // seconds

/// A door of a folder of its own, its runners' ends, and what it said.
struct Rig {
  explicit Rig(const std::string& token = kToken) {
    door.emplace(simulator::ClientsFile{.observation = Space::box(-1.0, 1.0, {2}),
                                        .action = Space::discrete(2),
                                        .bind = folder.path / "s",
                                        .token = token,
                                        .reconnect_s = kReconnect},
                 0, [this](const std::string& text) { said.push_back(text); });
  }
  ~Rig() {
    for (auto& [slot, fd] : runners) ::close(fd);
  }
  /// A runner that says it has no client.
  void add(uint32_t slot) {
    runners[slot] = door->add_runner(slot);
    tell(slot, DoorMessage::Kind::free);
    step();
  }
  void step(Time later = Time::zero()) { door->step(now += later); }
  /// The door's word to a runner; nothing where it has none.
  std::optional<DoorMessage> heard(uint32_t slot) {
    DoorMessage message{};
    const iovec part{&message, sizeof message};
    int fd = -1;
    if (receive_with_descriptors(runners.at(slot), {&part, 1}, {&fd, 1}) != sizeof message) return std::nullopt;
    REQUIRE(fd >= 0);
    ::close(fd);
    return message;
  }
  void tell(uint32_t slot, DoorMessage::Kind kind, const std::string& why = "") {
    DoorMessage message{.kind = kind, .session = {}, .name = {}, .episode = 7, .steps = 3, .acts = 0, .why = {}};
    why.copy(message.why, sizeof message.why);
    REQUIRE(::send(runners.at(slot), &message, sizeof message, 0) == sizeof message);
  }

  TemporaryFolder folder;
  std::vector<std::string> said;
  std::optional<ClientDoor> door;
  std::map<uint32_t, int> runners;
  Time now = std::chrono::seconds(100);
};

HelloT hello(const std::string& token = kToken) {
  HelloT hello;
  hello.protocol = simulator::kProtocol;
  hello.role = simulator::Role::asks;
  hello.name = "robot";
  hello.token = token;
  hello.observation = simulator::to_wire(Space::box(-1.0, 1.0, {2}));
  hello.action = simulator::to_wire(Space::discrete(2));
  return hello;
}

struct Client {
  explicit Client(const Rig& rig) : fd(simulator::connect_to(rig.door->address())) {}
  ~Client() { ::close(fd); }
  void say(std::span<const std::byte> bytes) {
    REQUIRE(::send(fd, bytes.data(), bytes.size(), 0) == std::ssize(bytes));
  }
  void say(HelloT said) { say(simulator::frame_of(std::move(said))); }
  /// The code of a Refused; "" where nothing has come, "closed" after the end.
  std::string refused() {
    std::array<std::byte, 4096> bytes;
    const ssize_t got = ::recv(fd, bytes.data(), bytes.size(), MSG_DONTWAIT);
    if (got == 0) return "closed";
    if (got < 0) return "";
    const auto message = simulator::decode(std::span(bytes).subspan(4, static_cast<size_t>(got) - 4));
    REQUIRE(message.has_value());
    const auto* refused = simulator::as<simulator::RefusedT>(*message);
    REQUIRE(refused != nullptr);
    return refused->code;
  }
  int fd;
};

/// What becomes of a client that says this.
std::string fate(Rig& rig, HelloT said) {
  Client client(rig);
  client.say(std::move(said));
  rig.step(), rig.step();
  return client.refused();
}

TEST_SUITE("env_runners/client_door") {
  TEST_CASE("ClientDoor: a connection over TCP ends 40 s after its peer's host is gone without a word") {
    const int door = simulator::listen_at("127.0.0.1:0");
    sockaddr_in name{};
    socklen_t size = sizeof name;
    REQUIRE(::getsockname(door, reinterpret_cast<sockaddr*>(&name), &size) == 0);
    const int client = simulator::connect_to(fmt::format("127.0.0.1:{}", ntohs(name.sin_port)));
    const int accepted = ::accept(door, nullptr, nullptr);
    for (const int fd : {client, accepted}) {
      int patience_ms = 0;
      size = sizeof patience_ms;
      CHECK(::getsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &patience_ms, &size) == 0);
      CHECK(patience_ms == 40'000);
      ::close(fd);
    }
    ::close(door);
  }

  TEST_CASE("ClientDoor: only the token itself is the token") {
    Rig rig;
    rig.add(4);
    const std::string token = kToken;
    for (const std::string& wrong :
         {std::string(), token.substr(0, 1), token.substr(0, token.size() - 1), token + "s", token + token,
          token.substr(1), std::string(token.size(), 'a'), "A" + token.substr(1)}) {
      CAPTURE(wrong);
      CHECK(fate(rig, hello(wrong)) == "bad-token");
      CHECK(!rig.heard(4));
    }
    CHECK(fate(rig, hello()) == "");
    CHECK(rig.heard(4));
    Rig open("");
    open.add(0);
    CHECK(fate(open, hello("x")) == "bad-token");
    CHECK(fate(open, hello("")) == "");
    CHECK(open.heard(0));
  }

  TEST_CASE("ClientDoor: of a client that acts itself it is said what cannot be promised") {
    Rig rig;
    for (const uint32_t slot : {0u, 1u}) {
      rig.add(slot);
      HelloT said = hello();
      said.acts = slot == 1;
      CHECK(fate(rig, std::move(said)) == "");
      CHECK(rig.said.back().ends_with(slot == 0 ? "with runner 0" : "policy_lag_* counts how old theirs are"));
    }
  }

  TEST_CASE("ClientDoor: runners without a client are told once, with where they wait, and again when that changed") {
    Rig rig;
    rig.add(3);
    rig.add(4);
    rig.step(ClientDoor::kMissing - std::chrono::seconds(1));
    CHECK(rig.said.empty());
    rig.step(std::chrono::seconds(1));
    REQUIRE(rig.said.size() == 1);
    CHECK(rig.said[0] == "clients 0/2: runners 3, 4 wait at " + rig.door->address());
    rig.step(ClientDoor::kMissing);
    CHECK(rig.said.size() == 1);
    Client client(rig);
    client.say(hello());
    rig.step(), rig.step();
    CHECK(rig.said.back().ends_with(" is with runner 3"));
    rig.step(ClientDoor::kMissing);
    CHECK(rig.said.back() == "clients 1/2: runner 4 waits at " + rig.door->address());
  }

  TEST_CASE("ClientDoor: a Hello that is none, or of another protocol, role or space, is refused with its reason") {
    Rig rig;
    rig.add(0);
    HelloT said = hello();
    said.protocol = simulator::kProtocol + 1;
    CHECK(fate(rig, std::move(said)) == "version-skew");
    said = hello();
    said.role = simulator::Role::steps;
    CHECK(fate(rig, std::move(said)) == "wrong-role");
    said = hello();
    said.observation = simulator::to_wire(Space::box(-1.0, 2.0, {2}));
    CHECK(fate(rig, std::move(said)) == "wrong-space");
    said = hello();
    said.action = simulator::to_wire(Space::discrete(3));
    CHECK(fate(rig, std::move(said)) == "wrong-space");
    said = hello();
    said.action.reset();
    CHECK(fate(rig, std::move(said)) == "bad-space");
    for (const uint32_t size : {uint32_t{8}, static_cast<uint32_t>(ClientDoor::kMaxHelloBytes + 1)}) {
      Client junk(rig);
      std::array<std::byte, 12> bytes{};
      std::memcpy(bytes.data(), &size, sizeof size);
      junk.say(bytes);
      rig.step(), rig.step();
      CHECK(junk.refused() == "bad-message");
    }
    CHECK(!rig.heard(0));
  }

  TEST_CASE("ClientDoor: each runner has one client; who comes again goes back to its own") {
    Rig rig;
    for (const uint32_t slot : {3u, 5u, 9u}) rig.add(slot);
    std::map<uint32_t, simulator::Session> sessions;
    for (const uint32_t slot : {3u, 5u, 9u}) {
      HelloT said = hello();
      said.name = "robot " + std::to_string(slot);
      said.acts = slot == 5;
      CHECK(fate(rig, std::move(said)) == "");
      const auto message = rig.heard(slot);
      REQUIRE(message);
      CHECK(message->kind == DoorMessage::Kind::client);
      CHECK(message->name == "robot " + std::to_string(slot));
      CHECK(message->acts == (slot == 5 ? 1 : 0));
      sessions[slot] = message->session;
      CHECK(message->session != simulator::Session{});
    }
    CHECK(sessions[3] != sessions[5]);
    for (const uint32_t slot : {9u, 3u, 5u}) {
      HelloT again = hello();
      again.session.assign(sessions[slot].begin(), sessions[slot].end());
      CHECK(fate(rig, std::move(again)) == "");
      for (const uint32_t other : {3u, 5u, 9u}) {
        const auto message = rig.heard(other);
        CHECK(message.has_value() == (other == slot));
        if (message) CHECK(message->session == sessions[slot]);
      }
    }
    // A fourth waits; a runner that is free again takes it, under a new session.
    Client fourth(rig);
    fourth.say(hello());
    rig.step(), rig.step();
    for (const uint32_t slot : {3u, 5u, 9u}) CHECK(!rig.heard(slot));
    rig.tell(5, DoorMessage::Kind::free);
    rig.step();
    const auto taken = rig.heard(5);
    REQUIRE(taken);
    CHECK(taken->session != sessions[5]);
    // The session that was 5's is nobody's any more.
    HelloT late = hello();
    late.session.assign(sessions[5].begin(), sessions[5].end());
    Client waits(rig);
    waits.say(std::move(late));
    rig.step(), rig.step();
    for (const uint32_t slot : {3u, 5u, 9u}) CHECK(!rig.heard(slot));
    rig.step(ClientDoor::kPatience + seconds(kReconnect) - Time(1));
    CHECK(waits.refused() == "");
    rig.step(Time(1));
    CHECK(waits.refused() == "no-place");
    CHECK(waits.refused() == "closed");
  }

  TEST_CASE(
      "ClientDoor: who says nothing is sent away after its patience, who goes is forgotten, what is lost is told") {
    Rig rig;
    Client silent(rig), half(rig);
    const std::vector<std::byte> frame = simulator::frame_of(hello());
    half.say(std::span(frame).first(9));
    rig.step();
    rig.step(ClientDoor::kPatience - Time(1));
    CHECK(silent.refused() == "");
    CHECK(half.refused() == "");
    rig.step(Time(1));
    CHECK(silent.refused() == "no-hello");
    CHECK(half.refused() == "no-hello");
    {
      Client gone(rig);
      gone.say(hello());
      rig.step(), rig.step();
    }
    rig.step();  // sees that it went
    rig.add(1);
    rig.step();
    CHECK(!rig.heard(1));
    rig.said.clear();
    const std::string longest(sizeof(DoorMessage::why), 'x');
    rig.tell(1, DoorMessage::Kind::lost, "it said\nnothing");
    rig.tell(1, DoorMessage::Kind::lost, longest);
    rig.step();
    REQUIRE(rig.said.size() == 2);
    CHECK(rig.said[0].find("its episode 7 was cut after 3 steps (runner 1)") != std::string::npos);
    CHECK(rig.said[0].ends_with("(runner 1): it said?nothing"));
    CHECK(rig.said[1].ends_with("(runner 1): " + longest.substr(1)));
  }
}

}  // namespace
}  // namespace myriad
