#include "apps/driver/observers/event_log.hpp"

#include <fmt/format.h>

#include "apps/driver/run_directory.hpp"

namespace myriad {

void EventLog::event(const RunEvent& event) {
  file_.append(fmt::format("{{\"time\": {:.3f}, \"kind\": {}, \"text\": {}}}\n", event.wall_time_s,
                           json_string(event.kind), json_string(event.text)));
}

}  // namespace myriad
