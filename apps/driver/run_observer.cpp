#include "apps/driver/run_observer.hpp"

namespace myriad {

std::optional<double> number_in(const Report& report, std::string_view key) {
  for (const ReportValue& entry : report)
    if (entry.key == key && std::holds_alternative<double>(entry.value)) return std::get<double>(entry.value);
  return std::nullopt;
}

}  // namespace myriad
