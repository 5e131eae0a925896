// A process's last word to its driver or agent.
#pragma once

#include "rl/check.hpp"
#include "rl/wire/messages.hpp"

namespace myriad {

inline wire::ProcessErrorT process_error(const Error& error) {
  wire::ProcessErrorT said;
  said.code = error.code();
  said.message = error.what();
  said.exit = static_cast<int32_t>(error.exit_status());
  return said;
}

}  // namespace myriad
