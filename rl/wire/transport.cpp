#include "rl/wire/transport.hpp"

#include <arpa/inet.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include <zmq.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <utility>
#include <vector>

#include "rl/check.hpp"
#include "rl/wire/messages.hpp"

namespace myriad {
namespace {

constexpr int kReconnectMs = 10, kReconnectMaxMs = 1000, kConnectMs = 2000;
// TCP by itself would come back from a cut of 7 s after 13 s, as its retries double. The listener gives up a silent
// connection before the connecting side does: a peer that came back while its old connection lives would be ignored.
constexpr int kHeartbeatMs = 1000, kListenerSilenceMs = 2000, kConnecterSilenceMs = 5000;
constexpr size_t kCopyBelowBytes = 256;     // cheaper to copy than to keep an owner alive
constexpr size_t kCurveOverheadBytes = 64;  // libzmq's limit is of the encrypted frame, 33 bytes longer
constexpr const char* kZapDomain = "myriad";
constexpr int kEnforceDomain = 93;  // ZMQ_ZAP_ENFORCE_DOMAIN, which zmq.h shows to draft builds only; it is there
constexpr std::string_view kIpc = "ipc://", kTcp = "tcp://";
static_assert(kMaxFrameBytes >= kMaxPayloadBytes);

void set(void* socket, int option, const void* value, size_t size) {
  check(zmq_setsockopt(socket, option, value, size) == 0, "zmq_setsockopt {}: {}", option, zmq_strerror(errno));
}
void set(void* socket, int option, int value) { set(socket, option, &value, sizeof value); }
void set_key(void* socket, int option, const char* z85) { set(socket, option, z85, kKeyCharacters + 1); }

void set_client_keys(void* socket, const KeyPair& client, const std::string& server_public) {
  set_key(socket, ZMQ_CURVE_SERVERKEY, server_public.c_str());
  set_key(socket, ZMQ_CURVE_PUBLICKEY, client.public_key.c_str());
  set_key(socket, ZMQ_CURVE_SECRETKEY, client.secret_key.bytes.data());
}

/// What a TCP socket wants before it listens or connects.
void prepare_tcp(void* socket, const std::string& endpoint, int silence_ms) {
  if (!endpoint.starts_with(kTcp)) return;
  if (endpoint.find('[') != std::string::npos) set(socket, ZMQ_IPV6, 1);
  set(socket, ZMQ_HEARTBEAT_IVL, kHeartbeatMs);
  set(socket, ZMQ_HEARTBEAT_TIMEOUT, silence_ms);
  set(socket, ZMQ_CONNECT_TIMEOUT, kConnectMs);
}

void release(void*, void* owner) { delete static_cast<std::shared_ptr<const void>*>(owner); }

void fill(zmq_msg_t* message, const SharedBytes& bytes) {
  if (bytes.view.size() < kCopyBelowBytes || bytes.owner == nullptr) {
    zmq_msg_init_size(message, bytes.view.size());
    if (!bytes.view.empty()) std::memcpy(zmq_msg_data(message), bytes.view.data(), bytes.view.size());
  } else {
    zmq_msg_init_data(message, const_cast<std::byte*>(bytes.view.data()), bytes.view.size(), release,
                      new std::shared_ptr<const void>(bytes.owner));
  }
}

/// Whether a process listens at an ipc endpoint. libzmq would unlink the path and take it over without an error.
bool somebody_listens(const std::string& endpoint) {
  if (!endpoint.starts_with(kIpc)) return false;
  const std::string path = endpoint.substr(kIpc.size());
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.size() >= sizeof address.sun_path) return false;  // zmq_bind says so
  std::memcpy(address.sun_path, path.c_str(), path.size() + 1);
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return false;
  const bool connected =
      ::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0 || errno == EAGAIN;
  ::close(fd);
  return connected;
}

/// Whether only this machine's processes reach a tcp endpoint. "*", an interface's name and 0.0.0.0 are not loopback.
bool is_loopback(const std::string& endpoint) {
  const std::string host = endpoint.substr(kTcp.size(), endpoint.rfind(':') - kTcp.size());
  in_addr address{};
  return host == "localhost" || host == "[::1]" ||
         (::inet_pton(AF_INET, host.c_str(), &address) == 1 && ntohl(address.s_addr) >> 24 == 127);
}

/// Whether a socket at `endpoint` is to use keys. Throws Error where it would be open to others without them.
bool needs_keys(const std::string& endpoint, bool has_keys, std::string_view verb) {
  if (endpoint.starts_with(kIpc)) return false;
  if (!endpoint.starts_with(kTcp) || endpoint.rfind(':') < kTcp.size())
    fail(Exit::usage, "bad-endpoint", "cannot {} {}: want ipc://PATH or tcp://ADDRESS:PORT", verb, endpoint);
  if (!has_keys && !is_loopback(endpoint))
    fail(Exit::usage, "no-keys",
         "cannot {} {} without keys: anybody could take part in the run. Make them with "
         "`myriad keys DIR` and set network.keys to DIR",
         verb, endpoint);
  return has_keys;
}

/// Throws Error unless only this user can reach files beside an ipc socket.
void require_private_directory(const std::string& endpoint) {
  const std::string path = endpoint.substr(kIpc.size());
  if (path.starts_with('@'))
    fail(Exit::usage, "bad-endpoint", "cannot listen at {}: any user reaches an abstract socket; want a path",
         endpoint);
  const std::string directory = std::filesystem::absolute(path).parent_path().string();
  struct stat status {};
  if (::stat(directory.c_str(), &status) != 0) return;  // zmq_bind says so
  if ((status.st_mode & 077) != 0 || status.st_uid != ::geteuid())
    fail(Exit::usage, "open-directory",
         "cannot listen at {}: other users reach {} (mode {:o}, uid {}); want one of "
         "this user with mode 700",
         endpoint, directory, status.st_mode & 0777, status.st_uid);
}

[[noreturn]] void fail_to_listen(const std::string& endpoint, int error) {
  const bool tcp = endpoint.starts_with(kTcp);
  const auto failed = [&](std::string_view code, std::string_view what) {
    return Error(Exit::resource, std::string(code), fmt::format("cannot listen at {}: {}", endpoint, what));
  };
  if (error == EADDRINUSE)
    throw failed("endpoint-in-use", "another process does; take another network.port, or 0 for free ones");
  if (tcp && (error == EADDRNOTAVAIL || error == ENODEV))
    throw failed("bad-bind", "this host has no such address; want one of its own for network.bind, see `hostname -I`");
  if (tcp && (error == EACCES || error == EPERM))
    throw failed("bad-bind", "this user may not listen there; network.port wants 1024 or more");
  if (tcp && error == EINVAL)
    throw failed("bad-bind", "that is no address of a host; want 10.0.0.5 or ::1, and a port up to 65535");
  if (!tcp && error == ENAMETOOLONG)
    throw failed("cannot-listen", "a socket's path has at most 107 characters; set TMPDIR to a shorter one");
  fail(Exit::resource, "cannot-listen", "cannot listen at {}: {}", endpoint, zmq_strerror(error));
}

struct Close {
  void operator()(void* socket) const { zmq_close(socket); }
};
using RawSocket = std::unique_ptr<void, Close>;

RawSocket make_socket(void* context, int type) {
  RawSocket socket(zmq_socket(context, type));
  check(socket != nullptr, "zmq_socket: {}", zmq_strerror(errno));
  set(socket.get(), ZMQ_LINGER, 0);
  return socket;
}

/// A whole message as strings; empty when the context ends.
std::vector<std::string> receive_strings(void* socket) {
  std::vector<std::string> parts;
  for (bool more = true; more;) {
    zmq_msg_t part;
    zmq_msg_init(&part);
    while (zmq_msg_recv(&part, socket, 0) < 0)
      if (errno != EINTR) return {};
    parts.emplace_back(static_cast<const char*>(zmq_msg_data(&part)), zmq_msg_size(&part));
    more = zmq_msg_more(&part) != 0;
    zmq_msg_close(&part);
  }
  return parts;
}

/// The thread that answers handshakes, until the context ends. It only looks up: a slow answer would stall them all.
void answer_handshakes(RawSocket socket, const std::map<std::string, std::string>& allowed) {
  for (;;) {
    // version, request id, domain, address, routing id, mechanism, the client's public key
    const std::vector<std::string> request = receive_strings(socket.get());
    if (request.empty()) return;
    const std::string* name = nullptr;
    if (request.size() == 7 && request[0] == "1.0" && request[2] == kZapDomain && request[5] == "CURVE" &&
        request[6].size() == 32) {
      std::array<char, kKeyCharacters + 1> key{};
      zmq_z85_encode(key.data(), reinterpret_cast<const uint8_t*>(request[6].data()), request[6].size());
      if (const auto it = allowed.find(key.data()); it != allowed.end()) name = &it->second;
    }
    const std::array<std::string, 6> reply{"1.0", request.size() > 1 ? request[1] : "", name != nullptr ? "200" : "400",
                                           "",    name != nullptr ? *name : "",         ""};
    for (size_t i = 0; i < reply.size(); ++i)
      zmq_send(socket.get(), reply[i].data(), reply[i].size(), i + 1 < reply.size() ? ZMQ_SNDMORE : 0);
  }
}

/// Starts a thread that takes no signals: they are for the thread that expects them.
template <class Body>
std::jthread start_thread(Body body) {
  sigset_t all, before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  std::jthread thread(std::move(body));
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return thread;
}

}  // namespace

void require_libzmq(int major, int minor, int patch) {
  if (std::array{major, minor, patch} < std::array{4, 3, 4})
    fail(Exit::environment, "old-libzmq",
         "this machine's libzmq is {}.{}.{}: want 4.3.4 or newer, older ones have known "
         "holes",
         major, minor, patch);
}

void SocketContext::Terminate::operator()(void* context) const { zmq_ctx_term(context); }

SocketContext::SocketContext(int io_threads, int max_sockets, SocketKeys keys) : keys_(std::move(keys)) {
  int major = 0, minor = 0, patch = 0;
  zmq_version(&major, &minor, &patch);
  require_libzmq(major, minor, patch);
  handle_.reset(zmq_ctx_new());
  check(handle_ != nullptr, "zmq_ctx_new: {}", zmq_strerror(errno));
  zmq_ctx_set(handle(), ZMQ_IO_THREADS, io_threads);
  check(zmq_ctx_set(handle(), ZMQ_MAX_SOCKETS, max_sockets + (keys_.server ? 1 : 0)) == 0, "{} sockets: {}",
        max_sockets, zmq_strerror(errno));
  if (!keys_.server) return;
  RawSocket handler = make_socket(handle(), ZMQ_REP);
  check(zmq_bind(handler.get(), "inproc://zeromq.zap.01") == 0, "zmq_bind of the ZAP handler: {}", zmq_strerror(errno));
  handshakes_ = start_thread(
      [this, handler = std::move(handler)]() mutable { answer_handshakes(std::move(handler), keys_.allowed); });
}

Socket::Socket(const SocketContext& context, int type, size_t max_frame_bytes)
    : handle_(zmq_socket(context.handle(), type)), router_(type == ZMQ_ROUTER) {
  check(handle_ != nullptr, "zmq_socket: {}", zmq_strerror(errno));
  set(handle_, ZMQ_LINGER, 200);
  set(handle_, ZMQ_SNDHWM, kHighWaterMark);
  set(handle_, ZMQ_RCVHWM, kHighWaterMark);
  set(handle_, ZMQ_RECONNECT_IVL, kReconnectMs);
  set(handle_, ZMQ_RECONNECT_IVL_MAX, kReconnectMaxMs);
  set(handle_, ZMQ_HANDSHAKE_IVL, kHandshakeMs);
  const auto max_bytes = static_cast<int64_t>(max_frame_bytes + kCurveOverheadBytes);
  set(handle_, ZMQ_MAXMSGSIZE, &max_bytes, sizeof max_bytes);
}
Socket::Socket(Socket&& other) noexcept
    : handle_(std::exchange(other.handle_, nullptr)), router_(other.router_), names_peers_(other.names_peers_) {}
Socket::~Socket() {
  if (handle_ != nullptr) zmq_close(handle_);
}

std::optional<Received> Socket::receive() {
  Received received;
  bool first = true, more = true;
  while (more) {
    auto message = std::shared_ptr<zmq_msg_t>(new zmq_msg_t, [](zmq_msg_t* m) {
      zmq_msg_close(m);
      delete m;
    });
    zmq_msg_init(message.get());
    if (zmq_msg_recv(message.get(), handle_, ZMQ_DONTWAIT) < 0)
      return std::nullopt;  // parts arrive together or not at all
    more = zmq_msg_more(message.get()) != 0;
    const std::span<const std::byte> view{static_cast<const std::byte*>(zmq_msg_data(message.get())),
                                          zmq_msg_size(message.get())};
    if (first && router_) {
      received.peer.assign(reinterpret_cast<const char*>(view.data()), view.size());
    } else if (received.frames.size() <= kMaxFrames) {
      // On a socket without keys a peer could put a User-Id of its liking into its handshake.
      if (names_peers_ && received.frames.empty())
        if (const char* user = zmq_msg_gets(message.get(), "User-Id")) received.user = user;
      received.frames.push_back({message, view});
    }
    first = false;
  }
  return received;
}

bool Socket::send_frames(const Frames& frames, bool after_identity) {
  for (size_t i = 0; i < frames.size(); ++i) {
    zmq_msg_t message;
    fill(&message, frames[i]);
    const int flags = ZMQ_DONTWAIT | (i + 1 < frames.size() ? ZMQ_SNDMORE : 0);
    if (zmq_msg_send(&message, handle_, flags) < 0) {
      zmq_msg_close(&message);
      check(i == 0 && !after_identity, "zmq_msg_send of a later part: {}", zmq_strerror(errno));
      return false;
    }
  }
  return true;
}

Router::Router(const SocketContext& context, const std::string& endpoint, size_t max_frame_bytes)
    : Socket(context, ZMQ_ROUTER, max_frame_bytes) {
  const std::optional<KeyPair>& server = context.keys().server;
  names_peers_ = needs_keys(endpoint, server.has_value(), "listen at");
  if (endpoint.starts_with(kIpc)) require_private_directory(endpoint);
  if (names_peers_) {
    set(handle_, ZMQ_CURVE_SERVER, 1);
    set_key(handle_, ZMQ_CURVE_SECRETKEY, server->secret_key.bytes.data());
    // CURVE by itself, and even with a handler that is gone, lets any key in. Only both of these do not.
    set(handle_, ZMQ_ZAP_DOMAIN, kZapDomain, std::strlen(kZapDomain));
    set(handle_, kEnforceDomain, 1);
  }
  set(handle_, ZMQ_ROUTER_MANDATORY, 1);
  set(handle_, ZMQ_ROUTER_HANDOVER, 0);  // or a peer could take another's id
  set(handle_, ZMQ_BACKLOG, kBacklog);
  prepare_tcp(handle_, endpoint, kListenerSilenceMs);
  if (somebody_listens(endpoint))
    fail(Exit::resource, "endpoint-in-use", "cannot listen at {}: another process does", endpoint);
  if (zmq_bind(handle_, endpoint.c_str()) != 0) fail_to_listen(endpoint, errno);
}

bool Router::send(const std::string& peer, const Frames& frames) {
  if (zmq_send(handle_, peer.data(), peer.size(), ZMQ_DONTWAIT | ZMQ_SNDMORE) < 0) return false;
  return send_frames(frames, true);
}

std::string Router::endpoint() const {
  std::array<char, 256> text{};
  size_t size = text.size();
  check(zmq_getsockopt(handle_, ZMQ_LAST_ENDPOINT, text.data(), &size) == 0, "ZMQ_LAST_ENDPOINT: {}",
        zmq_strerror(errno));
  return text.data();
}

Dealer::Dealer(const SocketContext& context, const std::string& endpoint, const std::string& routing_id,
               size_t max_frame_bytes)
    : Socket(context, ZMQ_DEALER, max_frame_bytes) {
  const SocketKeys& keys = context.keys();
  if (needs_keys(endpoint, keys.client.has_value(), "connect to"))
    set_client_keys(handle_, *keys.client, keys.server_public);
  set(handle_, ZMQ_ROUTING_ID, routing_id.data(), routing_id.size());
  prepare_tcp(handle_, endpoint, kConnecterSilenceMs);
  if (zmq_connect(handle_, endpoint.c_str()) != 0)
    fail(Exit::resource, "bad-endpoint", "cannot connect to {}: {}", endpoint, zmq_strerror(errno));
}

bool Dealer::send(const Frames& frames) { return send_frames(frames, false); }

bool wait_readable(std::initializer_list<const Socket*> sockets, int fd, Time timeout) {
  std::array<zmq_pollitem_t, 8> items{};
  int count = 0;
  for (const Socket* socket : sockets) items[static_cast<size_t>(count++)] = {socket->handle(), 0, ZMQ_POLLIN, 0};
  if (fd >= 0) items[static_cast<size_t>(count++)] = {nullptr, fd, ZMQ_POLLIN, 0};
  // Rounded up: a wait that ends just before its deadline would spin.
  const auto ms = std::chrono::ceil<std::chrono::milliseconds>(timeout).count();
  return zmq_poll(items.data(), count, std::max<long>(0, static_cast<long>(ms))) > 0;
}

Handshake try_handshake(const std::string& endpoint, const std::string& server_public, const KeyPair& who,
                        Time timeout) {
  const SocketContext context;
  const RawSocket socket = make_socket(context.handle(), ZMQ_DEALER);
  set_client_keys(socket.get(), who, server_public);
  set(socket.get(), ZMQ_RECONNECT_IVL, kReconnectMs);
  if (endpoint.find('[') != std::string::npos) set(socket.get(), ZMQ_IPV6, 1);
  const int events = ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_HANDSHAKE_FAILED_AUTH;
  check(zmq_socket_monitor(socket.get(), "inproc://events", events) == 0, "zmq_socket_monitor: {}",
        zmq_strerror(errno));
  const RawSocket monitor = make_socket(context.handle(), ZMQ_PAIR);
  check(zmq_connect(monitor.get(), "inproc://events") == 0, "zmq_connect: {}", zmq_strerror(errno));
  if (zmq_connect(socket.get(), endpoint.c_str()) != 0)
    fail(Exit::resource, "bad-endpoint", "cannot connect to {}: {}", endpoint, zmq_strerror(errno));
  zmq_pollitem_t item{monitor.get(), 0, ZMQ_POLLIN, 0};
  if (zmq_poll(&item, 1, std::chrono::ceil<std::chrono::milliseconds>(timeout).count()) <= 0)
    return Handshake::no_answer;
  const std::vector<std::string> event = receive_strings(monitor.get());  // frame 0: number (16 bits), value (32)
  uint16_t number = 0;
  check(!event.empty() && event[0].size() == 6, "a monitor's event of {} frames", event.size());
  std::memcpy(&number, event[0].data(), sizeof number);
  return number == ZMQ_EVENT_HANDSHAKE_SUCCEEDED ? Handshake::admitted : Handshake::refused;
}

void require_strangers_refused(const std::string& endpoint, const std::string& server_public, Time timeout) {
  const Handshake handshake = try_handshake(endpoint, server_public, make_key_pair("stranger"), timeout);
  if (handshake == Handshake::refused) return;
  fail(Exit::environment, "strangers-admitted",
       "the self-test of {} failed: a key that is not allowed {}; nothing was "
       "started",
       endpoint,
       handshake == Handshake::admitted ? "was let in" : fmt::format("got no answer within {} s", to_seconds(timeout)));
}

bool PeerBudget::malformed(const std::string& peer, Time now) {
  if (peers_.size() >= kMaxPeers && !peers_.contains(peer)) {
    if (now < next_sweep_) return false;
    next_sweep_ = now + kWindow / 60;
    std::erase_if(peers_, [&](const auto& entry) {
      return now >= entry.second.window_ends && now >= entry.second.refused_until;
    });
    if (peers_.size() >= kMaxPeers) return false;
  }
  Count& count = peers_.try_emplace(peer, Count{now + kWindow, Time::min(), 0}).first->second;
  if (now >= count.window_ends) count = {now + kWindow, count.refused_until, 0};
  if (++count.malformed != kMaxMalformed + 1) return false;
  count.refused_until = now + kRefusedFor;
  return true;
}

bool PeerBudget::refused(const std::string& peer, Time now) const {
  const auto it = peers_.find(peer);
  return it != peers_.end() && now < it->second.refused_until;
}

}  // namespace myriad
