// EventTally: one voice for each cause. Of a fault that comes again and again, at every restart of every runner, say,
// the first ones are told, and then the hundredth, the thousandth, ... with their number.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>

namespace myriad {

class EventTally {
 public:
  static constexpr uint64_t kTold = 20;  ///< each of the first ones of a cause
  static constexpr size_t kMaxCauses = 1000;

  /// The text to tell, or none. Events of one kind have one cause where their texts differ in numbers alone.
  std::optional<std::string> told(const std::string& kind, const std::string& text);

 private:
  std::map<std::string, uint64_t> counts_;  // by cause
};

}  // namespace myriad
