// Zygote: the process that has loaded the simulators once and forks the runners, thousands in seconds, their pages
// shared. Itself forked by the agent before any thread or ZeroMQ context exists; one thread for ever.
//
//   agent --Setup(config), Region(weights fd), Spawn(slot; socket, page)--> zygote --fork--> runner
//         <--Ready(hashes, sizes) | Failed, Spawned(pid), Exited(status)--
//
// When the agent dies the kernel kills the zygote, and with it the runners.
#pragma once

#include <optional>
#include <string>

#include "env_runners/shared_weights.hpp"
#include "rl/check.hpp"

namespace myriad {

/// A message of the zygote to its agent.
struct ZygoteReport {
  enum class Kind : uint32_t { ready, failed, spawned, exited } kind;
  // ready
  uint64_t spec_hash = 0, fragment_hash = 0, fragment_bytes = 0;
  SharedWeightsLayout weights;
  // spawned, exited
  uint32_t slot = 0, incarnation = 0;
  int32_t pid = 0;     ///< spawned: < 0 = -errno of the fork
  int32_t status = 0;  ///< exited: as waitpid gives it
  // failed
  int32_t exit = 0;
  char code[64] = {}, text[1024] = {};  ///< also, of spawned: what could not be limited
  char sandbox[512] = {};               ///< of ready: Sandbox::describe()
  bool isolated = false;                ///< of ready: the runners' environments are foreign code
};

/// The agent's handle. Not movable: it owns the process.
class Zygote {
 public:
  /// Forks it; call before any thread exists. `folder`: where runners get folders of their own for temporary files.
  explicit Zygote(const std::string& folder);
  ~Zygote();
  Zygote(const Zygote&) = delete;

  int fd() const { return socket_; }  ///< readable when receive() has something

  /// Sends the resolved config; the answer is ready or failed.
  void set_up(uint64_t run, uint64_t epoch, uint32_t agent, const std::string& config_toml);
  void share_weights(const SharedMemory& region);
  /// Takes over `runner_socket` and `door` (of ClientDoor::add_runner(), or -1), the runner's ends, and closes them
  /// here. Throws Error(resource) when the zygote is gone.
  void spawn(uint32_t slot, uint32_t incarnation, int runner_socket, int page_fd, int door = -1);

  std::optional<ZygoteReport> receive();  ///< what came; throws Error(internal, "zygote-lost") when it died

 private:
  int socket_ = -1, pid_ = -1;
};

}  // namespace myriad
