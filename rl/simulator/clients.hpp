// Clients: programs that ask for actions at their own pace (Role::asks): games, robots, services.
//
// `env = "clients:FILE"` names a TOML file with the spaces and where clients come in. The host agent listens
// (env_runners/client_door), and hands each connection to a runner, whose environment a client then is: its episodes
// are the runner's, and step() waits for what the client saw of the action. A client that acts itself is sent weights
// in place of actions, and sends its own actions with its observations.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "rl/environment.hpp"
#include "rl/simulator/messages.hpp"
#include "rl/system.hpp"

namespace myriad::simulator {

/// FILE of "clients:FILE", "" of other environments.
inline std::string clients_file_of(std::string_view env) {
  constexpr std::string_view kPrefix = "clients:";
  return std::string(env.starts_with(kPrefix) ? env.substr(kPrefix.size()) : "");
}

/// The contents of FILE.
struct ClientsFile {
  myriad::Space observation, action;
  std::string bind = "127.0.0.1";  ///< an address, or a unix socket's path
  uint16_t port = 0;               ///< agent n of a run listens at port + n
  std::string token = {};          ///< what clients must send; needed beyond loopback
  double reconnect_s = 10.0;       ///< for so long a lost client's episode waits for it
  double silence_s = 300.0;        ///< a client that says nothing for so long in an episode is refused; 0: no limit
  int64_t max_episode_steps = 0;
  std::optional<double> reward_threshold = {};
};
/// Throws Error("no-file" | "bad-toml" | "unknown-key" | "wrong-type" | "missing-key" | "impossible").
ClientsFile read_clients_file(const std::string& path);

using Session = std::array<uint8_t, 16>;
Session new_session();

/// Messages between the door and a runner: a connection to the runner, its state to the door.
struct DoorMessage {
  enum class Kind : uint32_t { client, free, lost } kind;
  Session session;
  char name[64];     ///< of the client, for people
  uint64_t episode;  ///< lost: the one that was cut
  uint32_t steps;
  uint32_t acts;  ///< client: whether it chooses its actions itself
  char why[128];  ///< lost: the reason, for people
};

/// The policy that a runner samples with, for clients that act themselves.
struct PolicySource {
  std::optional<uint64_t> version = {};  ///< of its weights; none before the first
  std::function<WeightsT()> weights = {};
};

}  // namespace myriad::simulator
