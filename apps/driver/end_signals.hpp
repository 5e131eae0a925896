// EndSignals: the signals that ask the driver to end, from before its first thread to its last instruction.
#pragma once

#include <optional>

namespace myriad {

class EndSignals {
 public:
  /// Blocks them, in this thread and in those it starts: Ctrl-C, SIGTERM, a terminal or a reader of the output that is
  /// gone (unless the caller ignores SIGHUP or SIGPIPE, as nohup does), and what schedulers send.
  EndSignals();
  ~EndSignals();
  EndSignals(const EndSignals&) = delete;

  /// Readable when a signal came, SIGCHLD among them.
  int fd() const { return fd_; }
  /// The next one that asks to end. None: all were taken.
  std::optional<int> take();
  /// A second one of these stops at once; others may come in pairs, or every second.
  static bool may_hurry(int signal);
  /// What the driver ends with: 130 for Ctrl-C, else 143.
  static int exit_status(int signal);

 private:
  int fd_;
};

}  // namespace myriad
