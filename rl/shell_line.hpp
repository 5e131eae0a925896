// Commands in messages, to be pasted.
#pragma once

#include <string>
#include <vector>

namespace myriad {

/// `arguments` as one line for a shell.
std::string shell_line(const std::vector<std::string>& arguments);

}  // namespace myriad
