// `myriad check-env ENV`: does an environment keep the contract of rl/environment.hpp? For its author, and for CI.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace myriad {

struct CheckEnvOptions {
  std::string env;
  std::vector<std::string> env_options;  ///< "key=value"
  std::vector<std::string> wrappers;     ///< "frame_stack=4"
  uint64_t seed = 0;
  std::vector<std::string> settings;  ///< of the run's config: "env_runners.sandbox=off"
  int64_t steps = 100'000;            ///< of the longest check
  double time_budget_s = 120;         ///< of all checks that step it, without what starting it takes
  bool json = false;
};

/// Prints a line for each check: what was found and how to mend it. The environment runs in a child process, so that
/// one that crashes or hangs is a finding, too, and in the sandbox of the run that `settings` describe. Returns 0, or
/// Exit::environment when something is wrong.
int check_env(const CheckEnvOptions& options);

}  // namespace myriad
