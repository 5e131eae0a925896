// join: `myriad agent`: this host takes part in a run that was started elsewhere.
#pragma once

#include <cstdint>
#include <string>

namespace myriad {

struct JoinOptions {
  std::string endpoint;  ///< of the driver: tcp://10.0.0.5:7777
  uint64_t run = 0;      ///< the run's number; both stand in its run.json
  std::string keys;      ///< directory with server.pub and this host's agent-K.key; "" = none
  std::string key_name;  ///< "agent-3"; "" = the only one in `keys`
};

/// Becomes myriad-host-agent. Throws Error when it cannot.
[[noreturn]] void join(const JoinOptions& options);

}  // namespace myriad
