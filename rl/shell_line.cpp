#include "rl/shell_line.hpp"

#include <algorithm>
#include <cctype>
#include <cstring>

namespace myriad {

std::string shell_line(const std::vector<std::string>& arguments) {
  const auto is_plain = [](unsigned char c) {
    return std::isalnum(c) != 0 || std::strchr("_-./:=+,@%", static_cast<char>(c)) != nullptr;
  };
  std::string line;
  for (const std::string& argument : arguments) {
    if (!line.empty()) line += ' ';
    if (!argument.empty() && argument.find('\0') == std::string::npos && std::ranges::all_of(argument, is_plain)) {
      line += argument;
      continue;
    }
    line += '\'';
    for (const char c : argument) line += c == '\'' ? std::string("'\\''") : std::string(1, c);
    line += '\'';
  }
  return line;
}

}  // namespace myriad
