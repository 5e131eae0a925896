// Keys: CURVE key pairs and the allow-list of peers, as files. A socket beyond this machine needs them.
//
//   DIR/             0700, made by `myriad keys DIR`
//     server.key     the pair driver and learner listen with       server.pub   by which peers recognise them
//     learner-0.key  the learner's, towards the driver              agent-K.key  an agent's, towards both
//     allowed        `name public-key` a line: a peer that may connect, and the name its messages arrive with
//
// A file is a few lines of text, read strictly. No error, log or command line ever holds a key; buffers that held a
// secret are wiped (libzmq keeps a copy of its own as long as the socket lives).
#pragma once

#include <array>
#include <cstddef>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include <string.h>

namespace myriad {

/// Bytes that are wiped when they go. Moved, never copied.
template <size_t N>
struct Wiped {
  std::array<char, N> bytes{};
  Wiped() = default;
  Wiped(Wiped&& other) noexcept : bytes(other.bytes) { other.wipe(); }
  Wiped& operator=(Wiped&& other) noexcept {
    if (this != &other) {
      bytes = other.bytes;
      other.wipe();
    }
    return *this;
  }
  ~Wiped() { wipe(); }
  void wipe() { ::explicit_bzero(bytes.data(), N); }
};

inline constexpr size_t kKeyCharacters = 40;  ///< 32 bytes in Z85 (ZeroMQ RFC 32)

struct KeyPair {
  std::string name;                      ///< "server", "learner-0", "agent-3"
  std::string public_key;                ///< Z85
  Wiped<kKeyCharacters + 1> secret_key;  ///< Z85, ends with 0
};
KeyPair make_key_pair(std::string name);

/// What one process holds. Empty: no keys, its sockets stay on this machine.
struct SocketKeys {
  std::optional<KeyPair> server;               ///< to listen with
  std::optional<KeyPair> client;               ///< to connect with
  std::string server_public;                   ///< of the process it connects to
  std::map<std::string, std::string> allowed;  ///< public key -> name
};

/// The keys in `directory` of the process "driver", "learner-K" or "agent-K". Throws Error(usage, "no-keys") for a
/// missing file, "open-key-file" for one that others could read or change, "bad-key-file" naming the line, "test-key".
SocketKeys load_keys(const std::string& directory, const std::string& process);

/// Makes the files of one driver, one learner and `num_agents` agents and returns what to tell the user: which file
/// goes to which machine. Throws Error(usage, "keys-exist") unless `replace`, Error(resource, "cannot-write").
std::string make_keys(const std::string& directory, int num_agents, bool replace);

}  // namespace myriad
