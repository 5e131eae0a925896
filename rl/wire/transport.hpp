// Transport: typed ZeroMQ sockets that carry frames, never block without a deadline and never grow without a bound.
//
// ZeroMQ is framing and reconnection here: acknowledgement, credit and heartbeat are the roles' own. A socket is used
// by the thread that made it. Every limit libzmq leaves open is set: message size, high-water mark, linger, backlog,
// reconnect.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "rl/system.hpp"

namespace myriad {

class SocketContext {
 public:
  explicit SocketContext(int io_threads = 1);
  ~SocketContext();
  void* handle() const { return handle_; }

 private:
  void* handle_;
};

struct Received {
  std::string peer;  ///< the sender's routing id at a Router; empty at a Dealer
  Frames frames;
};

class Socket {
 public:
  Socket(Socket&& other) noexcept;
  Socket(const Socket&) = delete;
  ~Socket();

  /// The next whole message if one is there.
  std::optional<Received> receive();
  void* handle() const { return handle_; }

 protected:
  Socket(const SocketContext& context, int type);
  /// False when the peer is unknown or its queue is full; the roles send again.
  bool send_frames(const Frames& frames, bool after_identity);
  void* handle_;
};

/// Many peers, addressed by routing id.
class Router : public Socket {
 public:
  /// Binds `endpoint`. Throws Error(resource, "endpoint-in-use") naming it.
  Router(const SocketContext& context, const std::string& endpoint);
  [[nodiscard]] bool send(const std::string& peer, const Frames& frames);
};

/// One peer; connects in the background and again whenever the connection is lost.
class Dealer : public Socket {
 public:
  Dealer(const SocketContext& context, const std::string& endpoint, const std::string& routing_id);
  [[nodiscard]] bool send(const Frames& frames);
};

/// Waits until one of the sockets (or `fd`, unless -1) can be read or `timeout` passed. False when time ran out.
bool wait_readable(std::initializer_list<const Socket*> sockets, int fd, Time timeout);

}  // namespace myriad
