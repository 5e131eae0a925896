// TerminalView: a run on stdout: LiveView's panel, lines or JSON, a line for each event, and the closing block.
#pragma once

#include <string>

#include "apps/driver/live_view.hpp"
#include "apps/driver/run_observer.hpp"

namespace myriad {

class TerminalView final : public RunObserver {
 public:
  /// `json`: one JSON object a snapshot; everything else goes to stderr then, or is left out.
  explicit TerminalView(bool json);

  void event(const RunEvent& event) override;
  void snapshot(const Snapshot& snapshot) override;
  void finished(const RunEvent& stop) override;

  /// Whether an event is a line that stays.
  static bool notes(const RunEvent& event) { return event.kind != "checkpoint"; }

  /// A line that stays.
  void note(const std::string& text);
  /// What the run came to, below the panel; after finished().
  void close(const std::string& text);
  bool is_terminal() const { return terminal_.is_terminal; }

 private:
  bool json_;
  Terminal terminal_;
  LiveView view_;
  bool shown_ = false, finished_ = false;
};

}  // namespace myriad
