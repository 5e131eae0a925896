#include "rl/wire/transport.hpp"

#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <zmq.h>

#include <array>
#include <cerrno>
#include <chrono>
#include <cstring>
#include <utility>

#include "rl/check.hpp"
#include "rl/wire/messages.hpp"

namespace myriad {
namespace {

constexpr int kHighWaterMark = 1000;  // messages a peer; credit keeps the real number far below
constexpr int kBacklog = 4096;        // thousands of runners connect at once
constexpr int kReconnectMs = 10, kReconnectMaxMs = 1000;
constexpr int kHandshakeMs = 2000;
constexpr size_t kCopyBelowBytes = 256;  // cheaper to copy than to keep an owner alive

void set(void* socket, int option, int value) {
  check(zmq_setsockopt(socket, option, &value, sizeof value) == 0, "zmq_setsockopt {}: {}", option,
        zmq_strerror(errno));
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

/// Whether somebody listens at an ipc endpoint. libzmq would unlink the path and take it over without a word.
bool somebody_listens(const std::string& endpoint) {
  constexpr std::string_view kScheme = "ipc://";
  if (!endpoint.starts_with(kScheme)) return false;
  const std::string path = endpoint.substr(kScheme.size());
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

}  // namespace

SocketContext::SocketContext(int io_threads) : handle_(zmq_ctx_new()) {
  check(handle_ != nullptr, "zmq_ctx_new: {}", zmq_strerror(errno));
  zmq_ctx_set(handle_, ZMQ_IO_THREADS, io_threads);
  zmq_ctx_set(handle_, ZMQ_MAX_SOCKETS, 16);
}
SocketContext::~SocketContext() { zmq_ctx_term(handle_); }

Socket::Socket(const SocketContext& context, int type) : handle_(zmq_socket(context.handle(), type)) {
  check(handle_ != nullptr, "zmq_socket: {}", zmq_strerror(errno));
  set(handle_, ZMQ_LINGER, 200);
  set(handle_, ZMQ_SNDHWM, kHighWaterMark);
  set(handle_, ZMQ_RCVHWM, kHighWaterMark);
  set(handle_, ZMQ_RECONNECT_IVL, kReconnectMs);
  set(handle_, ZMQ_RECONNECT_IVL_MAX, kReconnectMaxMs);
  set(handle_, ZMQ_HANDSHAKE_IVL, kHandshakeMs);
  const int64_t max_bytes = static_cast<int64_t>(kMaxPayloadBytes);
  zmq_setsockopt(handle_, ZMQ_MAXMSGSIZE, &max_bytes, sizeof max_bytes);
}
Socket::Socket(Socket&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
Socket::~Socket() {
  if (handle_ != nullptr) zmq_close(handle_);
}

std::optional<Received> Socket::receive() {
  Received received;
  int type = 0;
  size_t size = sizeof type;
  zmq_getsockopt(handle_, ZMQ_TYPE, &type, &size);
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
    if (first && type == ZMQ_ROUTER)
      received.peer.assign(reinterpret_cast<const char*>(view.data()), view.size());
    else if (received.frames.size() <= kMaxFrames)
      received.frames.push_back({message, view});
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

Router::Router(const SocketContext& context, const std::string& endpoint) : Socket(context, ZMQ_ROUTER) {
  set(handle_, ZMQ_ROUTER_MANDATORY, 1);
  set(handle_, ZMQ_BACKLOG, kBacklog);
  if (somebody_listens(endpoint))
    fail(Exit::resource, "endpoint-in-use", "cannot listen at {}: another process does", endpoint);
  if (zmq_bind(handle_, endpoint.c_str()) != 0)
    fail(Exit::resource, "endpoint-in-use", "cannot listen at {}: {}", endpoint, zmq_strerror(errno));
}

bool Router::send(const std::string& peer, const Frames& frames) {
  if (zmq_send(handle_, peer.data(), peer.size(), ZMQ_DONTWAIT | ZMQ_SNDMORE) < 0) return false;
  return send_frames(frames, true);
}

Dealer::Dealer(const SocketContext& context, const std::string& endpoint, const std::string& routing_id)
    : Socket(context, ZMQ_DEALER) {
  zmq_setsockopt(handle_, ZMQ_ROUTING_ID, routing_id.data(), routing_id.size());
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

}  // namespace myriad
