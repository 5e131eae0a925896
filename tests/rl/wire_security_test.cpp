// Who gets in: CURVE and the allow-list on real sockets, strangers of every kind, and the key files.
#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zmq.h>

#include <algorithm>
#include <chrono>
#include <cstring>
#include <fstream>
#include <set>
#include <sstream>

#include "rl/check.hpp"
#include "rl/wire/keys.hpp"
#include "rl/wire/messages.hpp"
#include "rl/wire/transport.hpp"
#include "tests/rl/wire_helpers.hpp"

namespace myriad {
namespace {

constexpr Time kDeadline = std::chrono::seconds(10);

KeyPair copy_of(const KeyPair& pair) {
  KeyPair copy;
  copy.name = pair.name;
  copy.public_key = pair.public_key;
  copy.secret_key.bytes = pair.secret_key.bytes;
  return copy;
}

SocketKeys client_keys(const KeyPair& client, const std::string& server_public) {
  SocketKeys keys;
  keys.client = copy_of(client);
  keys.server_public = server_public;
  return keys;
}

/// What a socket's connections go through.
class Monitor {
 public:
  Monitor(const SocketContext& context, const Socket& socket, int events)
      : pair_(zmq_socket(context.handle(), ZMQ_PAIR)) {
    REQUIRE(zmq_socket_monitor(socket.handle(), "inproc://watched", events) == 0);
    REQUIRE(zmq_connect(pair_, "inproc://watched") == 0);
  }
  Monitor(const Monitor&) = delete;
  ~Monitor() { zmq_close(pair_); }

  /// Waits, at most 10 s, for the next event: its number and value.
  std::pair<int, uint32_t> next() {
    zmq_pollitem_t item{pair_, 0, ZMQ_POLLIN, 0};
    REQUIRE(zmq_poll(&item, 1, 10'000) == 1);
    std::array<char, 6> frame{};
    std::array<char, 256> address{};
    REQUIRE(zmq_recv(pair_, frame.data(), frame.size(), 0) == 6);
    zmq_recv(pair_, address.data(), address.size(), 0);
    uint16_t number = 0;
    uint32_t value = 0;
    std::memcpy(&number, frame.data(), 2);
    std::memcpy(&value, frame.data() + 2, 4);
    return {number, value};
  }

 private:
  void* pair_;
};

/// A driver's ROUTER with keys, and one agent whom it allows.
struct Guarded {
  KeyPair agent = make_key_pair("agent-3");
  std::string server_public;
  SocketContext context{1, kMaxSockets, server_keys()};
  Router router{context, "tcp://127.0.0.1:0"};
  SocketContext agent_context{1, kMaxSockets, client_keys(agent, server_public)};

  SocketKeys server_keys() {
    SocketKeys keys;
    keys.server = make_key_pair("server");
    server_public = keys.server->public_key;
    keys.allowed = {{agent.public_key, "agent-3"}};
    return keys;
  }
  /// The socket lives and lets the agent in; nothing else was there to read before.
  void check_agent_gets_in(const std::string& routing_id = "agent-3") {
    Dealer dealer(agent_context, router.endpoint(), routing_id);
    REQUIRE(dealer.send({bytes("hello")}));
    const Received received = next(router);
    CHECK(received.user == "agent-3");
    CHECK(received.peer == routing_id);
    CHECK(text(received.frames.at(0)) == "hello");
  }
};

/// ZMTP 3.0's first 64 bytes.
std::string greeting(std::string mechanism) {
  mechanism.resize(20, '\0');
  return "\xff" + std::string(8, '\0') + "\x7f\x03" + std::string(1, '\0') + mechanism + std::string(32, '\0');
}
std::string big_endian(uint64_t number, int size) {
  std::string text;
  for (int i = size - 1; i >= 0; --i) text += static_cast<char>(number >> (8 * i));
  return text;
}
std::string property(const std::string& name, const std::string& value) {
  return static_cast<char>(name.size()) + name + big_endian(value.size(), 4) + value;
}
/// The handshake of a NULL client, with properties more.
std::string ready(const std::string& more) {
  const std::string body = "\5READY" + property("Socket-Type", "DEALER") + more;
  return "\x04" + std::string(1, static_cast<char>(body.size())) + body;
}
/// A frame of `size` bytes: flags are 1 (more follow) and 2 (long).
std::string long_frame(int flags, uint64_t announced, size_t sent) {
  return std::string(1, static_cast<char>(flags | 2)) + big_endian(announced, 8) + std::string(sent, 'm');
}

/// A TCP connection that says what it likes.
class RawPeer {
 public:
  explicit RawPeer(const std::string& endpoint) : fd_(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(std::stoi(endpoint.substr(endpoint.rfind(':') + 1))));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    REQUIRE(::connect(fd_, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
    const timeval limit{10, 0};
    REQUIRE(::setsockopt(fd_, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit) == 0);
    REQUIRE(::setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) == 0);
  }
  RawPeer(const RawPeer&) = delete;
  ~RawPeer() { ::close(fd_); }

  /// False when the other side has hung up.
  bool say(const std::string& words) {
    for (size_t done = 0; done < words.size();) {
      const ssize_t n = ::send(fd_, words.data() + done, words.size() - done, MSG_NOSIGNAL);
      if (n <= 0) return false;
      done += static_cast<size_t>(n);
    }
    return true;
  }
  /// Says hello as a NULL client, with properties more, and waits for the other side's hello: until then nothing else
  /// may be said.
  void shake_hands(const std::string& more) {
    REQUIRE(say(greeting("NULL") + ready(more)));
    std::string heard(64 + 2, '\0');
    REQUIRE(::recv(fd_, heard.data(), heard.size(), MSG_WAITALL) == 66);
    heard.resize(static_cast<size_t>(heard[65]));
    REQUIRE(::recv(fd_, heard.data(), heard.size(), MSG_WAITALL) == static_cast<ssize_t>(heard.size()));
  }
  /// Waits, at most 10 s, for the other side to hang up.
  bool is_cut() {
    std::array<char, 4096> heard{};
    for (;;) {
      pollfd item{fd_, POLLIN, 0};
      if (::poll(&item, 1, 10'000) != 1) return false;
      if (::recv(fd_, heard.data(), heard.size(), 0) <= 0) return true;
    }
  }

 private:
  int fd_;
};

size_t resident_bytes() {
  size_t total = 0, resident = 0;
  std::ifstream("/proc/self/statm") >> total >> resident;
  return resident * static_cast<size_t>(::sysconf(_SC_PAGESIZE));
}

size_t entries(const char* directory) {
  return static_cast<size_t>(std::distance(std::filesystem::directory_iterator(directory), {}));
}

/// A CURVE ROUTER as one would write it without knowing better.
struct Weak {
  KeyPair server = make_key_pair("server");
  void* context = zmq_ctx_new();
  void* socket = zmq_socket(context, ZMQ_ROUTER);
  std::string endpoint;
  explicit Weak(const std::string& domain, bool enforce = false) {
    const int one = 1, on = enforce ? 1 : 0;
    REQUIRE(zmq_setsockopt(socket, 93, &on, sizeof on) == 0);  // ZMQ_ZAP_ENFORCE_DOMAIN
    REQUIRE(zmq_setsockopt(socket, ZMQ_CURVE_SERVER, &one, sizeof one) == 0);
    REQUIRE(zmq_setsockopt(socket, ZMQ_CURVE_SECRETKEY, server.secret_key.bytes.data(), 41) == 0);
    if (!domain.empty()) REQUIRE(zmq_setsockopt(socket, ZMQ_ZAP_DOMAIN, domain.data(), domain.size()) == 0);
    REQUIRE(zmq_bind(socket, "tcp://127.0.0.1:0") == 0);
    std::array<char, 64> text{};
    size_t size = text.size();
    REQUIRE(zmq_getsockopt(socket, ZMQ_LAST_ENDPOINT, text.data(), &size) == 0);
    endpoint = text.data();
  }
  Weak(const Weak&) = delete;
  ~Weak() {
    zmq_close(socket);
    zmq_ctx_term(context);
  }
};

std::string error_of(const std::function<void()>& body) {
  try {
    body();
  } catch (const Error& error) { return error.line(); }
  return "no error";
}

}  // namespace

TEST_SUITE("rl/wire/security") {
  TEST_CASE_FIXTURE(Guarded,
                    "Router: an allowed key gets in, and its messages carry its name whatever its routing id") {
    Dealer dealer(agent_context, router.endpoint(), "agent-9");
    REQUIRE(dealer.send({bytes("one"), bytes(""), bytes(std::string(100'000, 'x'))}));
    const Received received = next(router);
    CHECK(received.user == "agent-3");
    CHECK(received.peer == "agent-9");
    REQUIRE(received.frames.size() == 3);
    CHECK(text(received.frames[2]) == std::string(100'000, 'x'));
    REQUIRE(router.send(received.peer, {bytes("answer")}));
    const Received answer = next(dealer);
    CHECK(text(answer.frames.at(0)) == "answer");
    CHECK(answer.user.empty());
  }

  TEST_CASE_FIXTURE(Guarded, "Router: two agents keep their names apart") {
    KeyPair other = make_key_pair("agent-4");
    SocketKeys keys = server_keys();
    keys.allowed[other.public_key] = "agent-4";
    SocketContext both_context(2, 4, std::move(keys));
    Router both(both_context, "tcp://0.0.0.0:0");  // with keys any address will do
    SocketContext three_context(1, 1, client_keys(agent, server_public)),
        four_context(1, 1, client_keys(other, server_public));
    Dealer three(three_context, both.endpoint(), "a"), four(four_context, both.endpoint(), "b");
    std::set<std::pair<std::string, std::string>> seen;
    for (int i = 0; i < 10; ++i) {
      REQUIRE(three.send({bytes("x")}));
      REQUIRE(four.send({bytes("x")}));
    }
    for (int i = 0; i < 20; ++i) {
      const Received received = next(both);
      seen.emplace(received.peer, received.user);
    }
    CHECK(seen == std::set<std::pair<std::string, std::string>>{{"a", "agent-3"}, {"b", "agent-4"}});
  }

  TEST_CASE_FIXTURE(Guarded, "Router: a key that is not in the list is refused, and knows it") {
    Monitor monitor(context, router, ZMQ_EVENT_HANDSHAKE_FAILED_AUTH | ZMQ_EVENT_HANDSHAKE_SUCCEEDED);
    const KeyPair stranger = make_key_pair("agent-3");
    SocketContext stranger_context(1, 2, client_keys(stranger, server_public));
    Dealer dealer(stranger_context, router.endpoint(), "agent-3");
    REQUIRE(dealer.send({bytes("let me in")}));
    CHECK(monitor.next() == std::pair<int, uint32_t>{ZMQ_EVENT_HANDSHAKE_FAILED_AUTH, 400});
    CHECK(try_handshake(router.endpoint(), server_public, stranger, kDeadline) == Handshake::refused);
    CHECK(try_handshake(router.endpoint(), server_public, agent, kDeadline) == Handshake::admitted);
    check_agent_gets_in();
    CHECK(!router.receive());
  }

  TEST_CASE_FIXTURE(Guarded, "Router: a client without CURVE is refused") {
    // Both sides hang up at the other's first words; the first to do so decides which event the other sees.
    Monitor monitor(context, router,
                    ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL | ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL |
                        ZMQ_EVENT_HANDSHAKE_FAILED_AUTH | ZMQ_EVENT_HANDSHAKE_SUCCEEDED);
    SocketContext plain;
    Dealer dealer(plain, router.endpoint(), "agent-3");  // loopback, so the Dealer itself has no objection
    REQUIRE(dealer.send({bytes("let me in")}));
    const int event = monitor.next().first;
    CHECK((event == ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL || event == ZMQ_EVENT_HANDSHAKE_FAILED_NO_DETAIL));
    CHECK(!router.receive());
    check_agent_gets_in("agent-3b");
  }

  TEST_CASE_FIXTURE(Guarded, "Router: who expects another server is not spoken to") {
    Monitor monitor(context, router, ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL | ZMQ_EVENT_HANDSHAKE_SUCCEEDED);
    SocketContext mistaken(1, 2, client_keys(agent, make_key_pair("server").public_key));
    Dealer dealer(mistaken, router.endpoint(), "agent-3");
    REQUIRE(dealer.send({bytes("a secret for another")}));
    CHECK(monitor.next() ==
          std::pair<int, uint32_t>{ZMQ_EVENT_HANDSHAKE_FAILED_PROTOCOL, ZMQ_PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC});
    CHECK(!router.receive());
    check_agent_gets_in("agent-3b");
  }

  TEST_CASE_FIXTURE(Guarded, "Router: what does not speak ZMTP is cut off") {
    for (const std::string& words :
         {std::string("GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"), std::string(4096, '\0'), std::string(4096, '\xff'),
          "\x01" + std::string(100, '\0'), greeting("PLAIN"), greeting("CURVE") + ready(""),
          greeting("NULL") + ready(property("User-Id", "agent-3"))}) {
      RawPeer peer(router.endpoint());
      (void)peer.say(words);
      CHECK(peer.is_cut());
    }
    CHECK(!router.receive());
    check_agent_gets_in();
  }

  TEST_CASE_FIXTURE(Guarded, "Router: who says nothing, or half a handshake, is cut off by the handshake's limit") {
    RawPeer silent(router.endpoint()), halfway(router.endpoint());
    REQUIRE(halfway.say(greeting("CURVE")));
    CHECK(silent.is_cut());
    CHECK(halfway.is_cut());
    check_agent_gets_in();
  }

  TEST_CASE_FIXTURE(Guarded, "Router: an endless message of a stranger stops early and leaves no memory behind") {
    const std::string megabyte = long_frame(1, 1 << 20, 1 << 20);
    check_agent_gets_in("warm up");
    const size_t before = resident_bytes();
    for (int i = 0; i < 40; ++i) {
      RawPeer peer(router.endpoint());
      bool heard = peer.say(greeting(i % 2 == 0 ? "NULL" : "CURVE"));
      int sent = 0;
      for (; heard && sent < 100; ++sent) heard = peer.say(megabyte);
      CHECK(sent < 100);  // socket buffers take some before the cut is felt
    }
    const size_t after = resident_bytes();
    CHECK(after < before + (size_t{64} << 20));  // of some 4 GB on offer
    CHECK(!router.receive());
    check_agent_gets_in();
  }

  TEST_CASE_FIXTURE(Guarded, "Router: a frame over the limit cuts its sender off, one at the limit is read") {
    Router small(context, "tcp://127.0.0.1:0", 1000);
    Monitor monitor(context, small, ZMQ_EVENT_DISCONNECTED);
    Dealer dealer(agent_context, small.endpoint(), "agent-3");
    REQUIRE(dealer.send({bytes(std::string(1000, 'a'))}));
    CHECK(text(next(small).frames.at(0)) == std::string(1000, 'a'));
    REQUIRE(dealer.send({bytes(std::string(1100, 'b'))}));
    CHECK(monitor.next().first == ZMQ_EVENT_DISCONNECTED);
    CHECK(!small.receive());
    Dealer again(agent_context, small.endpoint(), "agent-3b");
    REQUIRE(again.send({bytes("c")}));
    CHECK(text(next(small).frames.at(0)) == "c");
  }

  TEST_CASE("Router: a frame announced larger than kMaxFrameBytes cuts its sender off before it is sent") {
    SocketContext context;
    Router router(context, "tcp://127.0.0.1:0");
    for (const uint64_t announced : {uint64_t{kMaxFrameBytes} + 65, uint64_t{1} << 40, ~uint64_t{0}}) {
      RawPeer peer(router.endpoint());
      peer.shake_hands("");
      REQUIRE(peer.say(std::string("\x00\x02hi", 4)));
      CHECK(text(next(router).frames.at(0)) == "hi");
      REQUIRE(peer.say(long_frame(0, announced, 100)));
      CHECK(peer.is_cut());
    }
    CHECK(!router.receive());
  }

  TEST_CASE_FIXTURE(Guarded, "Router: a message of 65 frames is dropped, the next one is read") {
    Dealer dealer(agent_context, router.endpoint(), "agent-3");
    REQUIRE(dealer.send(Frames(kMaxFrames + 1, bytes("z"))));
    CHECK(std::get<Malformed>(decode(next(router).frames)) == Malformed::too_many_frames);
    REQUIRE(dealer.send({bytes("good")}));
    CHECK(text(next(router).frames.at(0)) == "good");
  }

  TEST_CASE("Router: without keys nobody has a name, not even who brings one") {
    SocketContext context;
    Router router(context, "tcp://127.0.0.1:0");
    RawPeer peer(router.endpoint());
    peer.shake_hands(property("Identity", "raw") + property("User-Id", "agent-3"));
    REQUIRE(peer.say(std::string("\x00\x02hi", 4)));
    const Received received = next(router);
    CHECK(received.peer == "raw");
    CHECK(received.user.empty());
    CHECK(text(received.frames.at(0)) == "hi");
  }

  TEST_CASE("Router: ipc beside keys is as without them") {
    Guarded guarded;
    PrivateDirectory directory;
    Router router(guarded.context, directory.endpoint());
    SocketContext plain;
    Dealer dealer(plain, directory.endpoint(), "runner-0.0");
    REQUIRE(dealer.send({bytes("x")}));
    const Received received = next(router);
    CHECK(received.user.empty());
    CHECK(text(received.frames.at(0)) == "x");
  }

  TEST_CASE_FIXTURE(Guarded, "Router: a dead handler would let nobody in") {
    int enforced = 0;
    size_t size = sizeof enforced;
    REQUIRE(zmq_getsockopt(router.handle(), 93, &enforced, &size) == 0);  // ZMQ_ZAP_ENFORCE_DOMAIN
    CHECK(enforced == 1);
    std::array<char, 64> domain{};
    size = domain.size();
    REQUIRE(zmq_getsockopt(router.handle(), ZMQ_ZAP_DOMAIN, domain.data(), &size) == 0);
    CHECK(domain[0] != '\0');
  }

  TEST_CASE("Router: it listens with the backlog it says") {
    SocketContext context;
    Router router(context, "tcp://127.0.0.1:0");
    const int port = std::stoi(router.endpoint().substr(std::string("tcp://127.0.0.1:").size()));
    int system_limit = 0;
    std::ifstream("/proc/sys/net/core/somaxconn") >> system_limit;
    bool found = false;
    for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
      const int fd = std::stoi(entry.path().filename().string());
      sockaddr_in address{};
      socklen_t size = sizeof address;
      if (::getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size) != 0 || address.sin_family != AF_INET ||
          ntohs(address.sin_port) != port)
        continue;
      tcp_info info{};
      size = sizeof info;
      REQUIRE(::getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &size) == 0);
      CHECK(info.tcpi_sacked == static_cast<uint32_t>(std::min(kBacklog, system_limit)));  // a listener's backlog
      found = true;
    }
    CHECK(found);
  }

  TEST_CASE_FIXTURE(Guarded, "require_strangers_refused: passes, and nothing of it is left") {
    const size_t threads = entries("/proc/self/task");
    for (int i = 0; i < 5; ++i) CHECK_NOTHROW(require_strangers_refused(router.endpoint(), server_public, kDeadline));
    // The kernel drops a thread's entry a moment after the thread is joined.
    const auto deadline = std::chrono::steady_clock::now() + kDeadline;
    while (entries("/proc/self/task") > threads && std::chrono::steady_clock::now() < deadline) ::sched_yield();
    CHECK(entries("/proc/self/task") <= threads);
    CHECK(!router.receive());
    check_agent_gets_in();
  }

  TEST_CASE("require_strangers_refused: sockets that only look guarded fail it") {
    for (const char* domain : {"", "myriad"}) {  // no handler: CURVE lets any key in, with a domain and without
      CAPTURE(domain);
      const Weak weak(domain);
      CHECK(error_of([&] {
              require_strangers_refused(weak.endpoint, weak.server.public_key, kDeadline);
            }).starts_with("error[strangers-admitted] the self-test of tcp://127.0.0.1:"));
      CHECK(try_handshake(weak.endpoint, weak.server.public_key, make_key_pair("anybody"), kDeadline) ==
            Handshake::admitted);
    }
    const Weak enforced("myriad", true);  // the option that makes the difference, for whoever doubts it
    CHECK(try_handshake(enforced.endpoint, enforced.server.public_key, make_key_pair("anybody"),
                        std::chrono::milliseconds(100)) == Handshake::no_answer);
  }

  TEST_CASE("require_strangers_refused: a socket without CURVE, and nobody at all, fail it") {
    SocketContext context;
    Router plain(context, "tcp://127.0.0.1:0");
    const std::string server_public = make_key_pair("server").public_key;
    const Time shortly = std::chrono::milliseconds(100);
    CHECK_THROWS_WITH_AS(require_strangers_refused(plain.endpoint(), server_public, shortly),
                         doctest::Contains("no answer"), Error);
    CHECK_THROWS_WITH_AS(require_strangers_refused("tcp://127.0.0.1:1", server_public, shortly),
                         doctest::Contains("no answer"), Error);
  }

  TEST_CASE("Router: with keys to connect only, it does not listen beyond loopback") {
    Guarded guarded;
    CHECK_THROWS_WITH_AS(Router(guarded.agent_context, "tcp://0.0.0.0:0"), doctest::Contains("without keys"), Error);
    CHECK_THROWS_WITH_AS(Dealer(guarded.context, "tcp://10.0.0.5:4000", "d"), doctest::Contains("without keys"), Error);
  }
}

namespace {

std::string content(const std::string& path) {
  std::ostringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}
void write(const std::string& path, const std::string& text) { std::ofstream(path) << text; }

/// A directory with the keys of a driver, a learner and two agents.
struct KeyDirectory : PrivateDirectory {
  std::string keys = path + "/keys";
  std::string told = make_keys(keys, 2, false);
  std::string file(const std::string& name) const { return keys + "/" + name; }
  std::string load(const std::string& process) const {
    return error_of([&] { load_keys(keys, process); });
  }
};

}  // namespace

TEST_SUITE("rl/wire/keys") {
  TEST_CASE_FIXTURE(KeyDirectory, "make_keys: every file is there, only for this user, and the summary holds no key") {
    struct stat status {};
    REQUIRE(::stat(keys.c_str(), &status) == 0);
    CHECK((status.st_mode & 0777) == 0700);
    std::set<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(keys)) {
      names.insert(entry.path().filename().string());
      REQUIRE(::stat(entry.path().c_str(), &status) == 0);
      CHECK((status.st_mode & 0777) == 0600);
    }
    CHECK(names ==
          std::set<std::string>{"agent-0.key", "agent-1.key", "allowed", "learner-0.key", "server.key", "server.pub"});
    for (const char* process : {"driver", "learner-0", "agent-0", "agent-1"}) {
      const SocketKeys loaded = load_keys(keys, process);
      for (const auto* pair : {&loaded.server, &loaded.client})
        if (pair->has_value()) CHECK(told.find((*pair)->secret_key.bytes.data()) == std::string::npos);
    }
    CHECK(told.find("agent-K.key                      K = 0..1") != std::string::npos);
  }

  TEST_CASE_FIXTURE(KeyDirectory, "load_keys: each process gets what it needs and no more, and they get through") {
    SocketKeys driver = load_keys(keys, "driver"), learner = load_keys(keys, "learner-0"),
               agent = load_keys(keys, "agent-1");
    CHECK(!driver.client);
    CHECK(driver.allowed.size() == 3);
    CHECK(learner.server->public_key == driver.server->public_key);
    CHECK(!agent.server);
    CHECK(agent.allowed.empty());
    SocketContext driver_context(1, 4, std::move(driver)), learner_context(1, 4, std::move(learner)),
        agent_context(1, 4, std::move(agent));
    Router control(driver_context, "tcp://127.0.0.1:0"), data(learner_context, "tcp://127.0.0.1:0");
    Dealer from_learner(learner_context, control.endpoint(), "l"), from_agent(agent_context, data.endpoint(), "a");
    REQUIRE(from_learner.send({bytes("x")}));
    REQUIRE(from_agent.send({bytes("x")}));
    CHECK(next(control).user == "learner-0");
    CHECK(next(data).user == "agent-1");
  }

  TEST_CASE_FIXTURE(KeyDirectory, "make_keys: keys that are there stay, unless they are to be replaced") {
    const std::string before = content(file("server.key"));
    const std::string error = error_of([&] { make_keys(keys, 1, false); });
    CHECK(error.starts_with("error[keys-exist]"));
    CHECK(error.find("--force") != std::string::npos);
    CHECK(content(file("server.key")) == before);
    make_keys(keys, 1, true);
    CHECK(content(file("server.key")) != before);
    CHECK(!std::filesystem::exists(file("agent-1.key")));  // of the old set
    CHECK(load("agent-0") == "no error");
  }

  TEST_CASE_FIXTURE(PrivateDirectory, "make_keys: an empty private directory will do, an open one or a file will not") {
    make_keys(path, 1, false);
    std::filesystem::create_directory(path + "/open");
    std::filesystem::permissions(path + "/open", std::filesystem::perms(0755));
    CHECK(error_of([&] { make_keys(path + "/open", 1, true); }).starts_with("error[open-directory]"));
    CHECK(std::filesystem::is_empty(path + "/open"));
    CHECK(error_of([&] { make_keys(path + "/allowed", 1, true); }).starts_with("error[cannot-write]"));
    CHECK(error_of([&] { make_keys(path + "/no/such", 1, true); }).starts_with("error[cannot-write]"));
  }

  TEST_CASE_FIXTURE(KeyDirectory, "load_keys: files that others could read or change are refused") {
    using std::filesystem::perms;
    for (const int mode : {0640, 0604, 0610, 0666}) {
      std::filesystem::permissions(file("agent-0.key"), perms(mode));
      CHECK(load("agent-0").starts_with("error[open-key-file]"));
    }
    std::filesystem::permissions(file("agent-0.key"), perms(0400));
    CHECK(load("agent-0") == "no error");
    std::filesystem::permissions(file("allowed"), perms(0644));  // no secret
    CHECK(load("driver") == "no error");
    std::filesystem::permissions(file("allowed"), perms(0620));
    CHECK(load("driver").find("others can change it") != std::string::npos);
    std::filesystem::permissions(file("server.pub"), perms(0602));
    CHECK(load("agent-0").find("others can change it") != std::string::npos);
    if (::geteuid() == 0) {  // only root can give a file away
      REQUIRE(::chown(file("agent-1.key").c_str(), 12345, static_cast<gid_t>(-1)) == 0);
      std::filesystem::permissions(file("server.pub"), perms(0600));
      CHECK(load("agent-1").find("belongs to uid 12345") != std::string::npos);
    }
  }

  TEST_CASE_FIXTURE(KeyDirectory, "load_keys: an error names file and line and says how to mend it") {
    const std::string key = content(file("agent-0.key")), list = content(file("allowed"));
    const std::string server_key = content(file("server.key"));
    const auto line = [](const std::string& whole, size_t number) {
      std::istringstream in(whole);
      std::string one;
      for (size_t i = 0; i < number; ++i) std::getline(in, one);
      return one + "\n";
    };
    const std::string header = line(key, 1), name = line(key, 2), open = line(key, 3), secret = line(key, 4);
    const std::string first = line(list, 2), second = line(list, 3);
    struct Case {
      const char* file;
      std::string text;
      const char* wanted;
    };
    for (const Case& c : std::vector<Case>{
             {"agent-0.key", "", "agent-0.key:1: the file ends here"},
             {"agent-0.key", "myriad-key 2\n" + name + open + secret, ":1: the first line is not `myriad-key 1`"},
             {"agent-0.key", header + open + name + secret, ":2: want `name ...`"},
             {"agent-0.key", header + "name agent-1\n" + open + secret,
              ":2: this is the key of agent-1, not of agent-0"},
             {"agent-0.key", header + "name ../agent\n" + open + secret, ":2: want a name of a-z, 0-9 and -"},
             {"agent-0.key", header + name + open.substr(0, 46) + "\n" + secret,
              ":3: want a key of 40 characters, got 39"},
             {"agent-0.key", header + name + open.substr(0, 46) + "~\n" + secret, ":3: the key has characters"},
             {"agent-0.key", header + name + open, ":4: the file ends here"},
             {"agent-0.key", header + name + open + line(server_key, 4), ":4: public and secret key do not belong"},
             {"agent-0.key", header + name + open + secret.substr(0, 47) + "\r\n", "Windows line ends"},
             {"agent-0.key", key + "\n", ":5: want the end of the file"},
             {"agent-0.key", key + std::string(5000, 'x'), "agent-0.key has 4096 bytes or more"},
             {"agent-0.key",
              header + name + "public Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID\n" +
                  "secret D:)Q[IlAW!ahhC2ac:9*A}h:p?([4%wOTJ%JR%cs\n",
              "error[test-key]"},
             {"server.pub", "myriad-public-key 1\nname server\npublic rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7\n",
              "server.pub:3: this is the test key of ZeroMQ's manual"},
             {"server.pub", key, ":1: the first line is not `myriad-public-key 1`"},
             {"allowed", "myriad-allowed 1\n", "nobody may connect"},
             {"allowed", list + "\n", ":5: want `name public-key`"},
             {"allowed", list + "agent-7 " + std::string(39, 'a') + "\n", ":5: want a key of 40 characters, got 39"},
             {"allowed", list + first, ":5: learner-0 is there already, in line 2"},
             {"allowed", list + "agent-7" + second.substr(second.find(' ')), ":5: agent-7 has the key of agent-0"},
             {"allowed", list + "agent-7 Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID\n", "error[test-key]"},
         }) {
      CAPTURE(c.wanted);
      const std::string before = content(file(c.file));
      write(file(c.file), c.text);
      const std::string error = load(c.file == std::string("allowed") ? "driver" : "agent-0");
      CAPTURE(error);
      CHECK(error.find(c.wanted) != std::string::npos);
      CHECK(error.find("myriad keys DIR") != std::string::npos);
      write(file(c.file), before);
    }
    CHECK(load("agent-7").find("agent-7.key: No such file") != std::string::npos);
    std::filesystem::remove(file("agent-0.key"));
    std::filesystem::create_directory(file("agent-0.key"));
    CHECK(load("agent-0").find("is not a file") != std::string::npos);
    CHECK(load("driver") == "no error");
  }

  TEST_CASE_FIXTURE(KeyDirectory, "load_keys: every change of one byte is noticed, and no error tells a key") {
    const std::string good = content(file("agent-0.key"));
    const SocketKeys keys_now = load_keys(keys, "agent-0");
    const std::string secret = keys_now.client->secret_key.bytes.data(), open = keys_now.client->public_key;
    for (size_t i = 0; i < good.size(); ++i) {
      std::string bad = good;
      bad[i] = static_cast<char>(bad[i] ^ 1);
      write(file("agent-0.key"), bad);
      const std::string error = load("agent-0");
      CAPTURE(i);
      CHECK(error.starts_with("error[bad-key-file]"));
      for (const std::string& key : {secret, open})
        for (size_t part = 0; part + 8 <= key.size(); part += 8)
          CHECK(error.find(key.substr(part, 8)) == std::string::npos);
    }
  }

  TEST_CASE_FIXTURE(KeyDirectory, "load_keys: server.key and server.pub of two sets are refused") {
    make_keys(path + "/other", 1, false);
    write(file("server.pub"), content(path + "/other/server.pub"));
    CHECK(load("learner-0").find("are of two sets") != std::string::npos);
  }

  TEST_CASE("Wiped: what was moved from holds nothing") {
    KeyPair one = make_key_pair("a");
    const std::string secret = one.secret_key.bytes.data();
    const KeyPair two = std::move(one);
    CHECK(one.secret_key.bytes == decltype(one.secret_key.bytes){});
    CHECK(secret == two.secret_key.bytes.data());
    CHECK(secret.size() == kKeyCharacters);
  }
}

}  // namespace myriad
