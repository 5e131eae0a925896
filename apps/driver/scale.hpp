// scale: `myriad scale RUN learners=N`: changes the number of learners of a run while it trains.
#pragma once

#include <string>
#include <vector>

namespace myriad {

/// `run`: a run's directory on this machine; `settings`: "learners=N". Returns main()'s exit status. Throws
/// Error(usage) for impossible settings, Error(resource, "no-driver") when the driver does not answer.
int scale(const std::string& run, const std::vector<std::string>& settings);

}  // namespace myriad
