#include "apps/driver/event_tally.hpp"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <string_view>

namespace myriad {
namespace {

constexpr size_t kCauseBytes = 300;  // of a text, which may end with a traceback

/// Kinds that tell of faults; all others are told each time.
bool is_fault(std::string_view kind) {
  constexpr std::array<std::string_view, 9> kFaults{"runner-down", "runner-hung",  "agent-down",
                                                    "agent-hung",  "agent-lost",   "limits",
                                                    "memory",      "peer-refused", "clients"};
  return std::ranges::find(kFaults, kind) != kFaults.end();
}

std::string cause_of(const std::string& kind, const std::string& text) {
  std::string cause = kind + " ";
  bool number = false;
  for (const char c : text.substr(0, kCauseBytes)) {
    const bool digit = std::isdigit(static_cast<unsigned char>(c)) != 0 || (number && c == '.');
    if (!digit) cause += c;
    if (digit && !number) cause += '#';
    number = digit;
  }
  return cause;
}

}  // namespace

std::optional<std::string> EventTally::told(const std::string& kind, const std::string& text) {
  if (!is_fault(kind)) return text;
  const std::string cause = cause_of(kind, text);
  if (counts_.size() >= kMaxCauses && !counts_.contains(cause)) return text;
  const uint64_t count = ++counts_[cause];
  if (count <= kTold) return text;
  uint64_t next = 100;
  while (next < count) next *= 10;
  if (count != next) return std::nullopt;
  return fmt::format("{} (the {}th of its kind; the next one is told at {})", text, count, 10 * count);
}

}  // namespace myriad
