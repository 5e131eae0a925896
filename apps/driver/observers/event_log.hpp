// events.jsonl: start, checkpoint, restart, warning, stop, one JSON object {time, kind, text} each.
#pragma once

#include <filesystem>

#include "apps/driver/append_file.hpp"
#include "apps/driver/run_observer.hpp"

namespace myriad {

class EventLog final : public RunObserver {
 public:
  /// Creates the file in a run's folder, or goes on with the one that is there. Throws Error("cannot-write").
  explicit EventLog(const std::filesystem::path& run) : file_(open_lines(run / "events.jsonl")) {}

  void event(const RunEvent& event) override;
  void finished(const RunEvent& stop) override { event(stop); }

 private:
  AppendFile file_;
};

}  // namespace myriad
