// The error of a call, for tests.
#pragma once

#include <functional>
#include <string>

#include "rl/check.hpp"

namespace myriad {

/// The line that main() would print; "" when nothing is thrown.
inline std::string error_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Error& error) { return error.line(); }
  return "";
}

}  // namespace myriad
