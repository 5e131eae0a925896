// Transport: typed ZeroMQ sockets that carry frames, never block without a deadline and never grow without a bound.
//
// ZeroMQ is framing and reconnection here: acknowledgement, credit and heartbeat are the roles' own. A socket is used
// by the thread that made it. Every limit libzmq leaves open is set: message size, high-water mark, linger, backlog,
// reconnect, handshake.
//
// Who may connect: ipc is guarded by its 0700 directory; tcp without keys stays on loopback; tcp with keys is CURVE,
// and a thread of the context (ZAP, ZeroMQ RFC 27) asks the allow-list about every handshake, before a byte of a peer
// reaches a role. What libzmq cannot bound: the number of TCP connections (descriptors do: RLIMIT_NOFILE), the frames
// of one message while it arrives, and one frame of the greatest size a connection during its handshake. Strangers are
// cut after kHandshakeMs; a memory limit of the process bounds friends.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>
#include <thread>

#include "rl/system.hpp"
#include "rl/wire/keys.hpp"

namespace myriad {

inline constexpr int kMaxSockets = 16;       ///< of one context; connections are not sockets
inline constexpr int kHighWaterMark = 1000;  ///< messages a peer; credit keeps the real number far below
inline constexpr int kBacklog = 4096;        ///< thousands of peers connect at once
inline constexpr int kHandshakeMs = 2000;    ///< then a connection without a finished handshake is cut
inline constexpr size_t kMaxFrameBytes = size_t{256} << 20;

/// Throws Error(environment, "old-libzmq") below 4.3.4, the first without known holes that CURVE does not close.
void require_libzmq(int major, int minor, int patch);

class SocketContext {
 public:
  /// With keys that can listen, answers handshakes from then on, before any socket exists.
  explicit SocketContext(int io_threads = 1, int max_sockets = kMaxSockets, SocketKeys keys = {});
  SocketContext(const SocketContext&) = delete;
  void* handle() const { return handle_.get(); }
  const SocketKeys& keys() const { return keys_; }

 private:
  struct Terminate {
    void operator()(void* context) const;
  };
  SocketKeys keys_;
  std::jthread handshakes_;  ///< ends when the context does, so it is declared before it
  std::unique_ptr<void, Terminate> handle_;
};

struct Received {
  std::string peer;  ///< the sender's routing id at a Router: where answers go, chosen by the sender; empty at a Dealer
  std::string user;  ///< the sender's authenticated name in the allow-list. Empty without keys
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
  Socket(const SocketContext& context, int type, size_t max_frame_bytes);
  /// False when the peer is unknown or its queue is full; the roles send again.
  bool send_frames(const Frames& frames, bool after_identity);
  void* handle_;
  bool router_;
  bool names_peers_ = false;  ///< the allow-list was asked: the User-Id of a message comes from it, not from the peer
};

/// Many peers, addressed by routing id. A second peer with an id that is taken is not let in (no handover).
class Router : public Socket {
 public:
  /// Binds `endpoint`: ipc://PATH in a private directory, or tcp://ADDRESS:PORT, port 0 being any free one. A peer that
  /// sends a larger frame than `max_frame_bytes` is cut off. Throws Error(usage, "no-keys") beyond loopback without
  /// keys, Error(usage, "open-directory"), Error(resource, "endpoint-in-use") naming the endpoint.
  Router(const SocketContext& context, const std::string& endpoint, size_t max_frame_bytes = kMaxFrameBytes);
  [[nodiscard]] bool send(const std::string& peer, const Frames& frames);
  std::string endpoint() const;  ///< with the port it got
};

/// One peer; connects in the background and again whenever the connection is lost. libzmq gives up for good when the
/// peer refuses its key or does not speak CURVE: without an answer, try_handshake() tells why; only a new Dealer tries
/// again.
class Dealer : public Socket {
 public:
  /// Throws Error(usage, "no-keys") beyond loopback without keys.
  Dealer(const SocketContext& context, const std::string& endpoint, const std::string& routing_id,
         size_t max_frame_bytes = kMaxFrameBytes);
  [[nodiscard]] bool send(const Frames& frames);
};

/// Waits until one of the sockets (or `fd`, unless -1) can be read or `timeout` passed. False when time ran out.
bool wait_readable(std::initializer_list<const Socket*> sockets, int fd, Time timeout);

/// What became of a connection: let in; turned away by the allow-list; something else (no listener, another server
/// key, no CURVE).
enum class Handshake : uint8_t { admitted, refused, no_answer };
/// Connects to `endpoint` with the keys `who`, sends nothing and disconnects, with a context of its own.
Handshake try_handshake(const std::string& endpoint, const std::string& server_public, const KeyPair& who,
                        Time timeout);

/// The self-test of a socket with keys, for the start of a program: throws Error(environment, "strangers-admitted")
/// unless a key made on the spot is turned away within `timeout`.
void require_strangers_refused(const std::string& endpoint, const std::string& server_public, Time timeout);

/// Malformed messages a peer may send: more than kMaxMalformed in a minute, and it is refused for a minute. Known by
/// user where there is one, else by routing id. Time is the caller's.
class PeerBudget {
 public:
  static constexpr int kMaxMalformed = 100;
  static constexpr Time kWindow = std::chrono::seconds(60), kRefusedFor = std::chrono::seconds(60);
  static constexpr size_t kMaxPeers = 10'000;  ///< routing ids are free to choose: no more are remembered

  /// Counts one; true when it is the one too many.
  bool malformed(const std::string& peer, Time now);
  /// Whether to drop what `peer` sends unread.
  bool refused(const std::string& peer, Time now) const;

 private:
  struct Count {
    Time window_ends, refused_until;
    int malformed;
  };
  std::map<std::string, Count> peers_;
  Time next_sweep_ = Time::min();
};

}  // namespace myriad
