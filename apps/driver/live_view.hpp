// LiveView: what `myriad train` shows while it runs: a panel redrawn in place, one key=value line a report where the
// output is no terminal, or one JSON object a report.
//
//   run 0007-calm-heron   HalfCheetah-v5   PPO   seed 1                           elapsed 0:58
//   [################------------]  58 %   583,680 / 1,000,000 env steps   12,310 steps/s   eta 0:34
//   return   train 3,604   best 3,981   goal 4,800   iteration 142
//   learn    kl 0.0113  clip 0.12  entropy 4.2  expl.var 0.83
//   time     sampling 49 %  waiting 2 %  |  learner 97 % busy           bottleneck: learner
//   fleet    hosts 2/2   runners 8/8   envs 128   lag 0.8 (max 2)   dropped 3 (too_old 3)
//   events   12:04:11 checkpoint 560,000 (best)
//   runs/0007-calm-heron
//
// The texts are pure functions of a Snapshot; LiveView only writes them. Used from the driver's one thread.
#pragma once

#include <cstdint>
#include <ostream>
#include <string>
#include <string_view>
#include <vector>

#include "apps/driver/snapshot.hpp"

namespace myriad {

/// At most 12 lines of at most `width` columns; three short ones on terminals of less than 80. Control characters in
/// names and events are shown as '?', so that no simulator's message can steer the terminal.
std::vector<std::string> panel_lines(const Snapshot& snapshot, int width);

/// `iteration=3 env_steps=24576 return_mean=212 ...`; what is unknown is left out.
std::string plain_line(const Snapshot& snapshot);

/// One JSON object with the same keys; what is unknown is null.
std::string json_line(const Snapshot& snapshot);

/// The part of the run that is slowest: "learner", "environments", ...; "" before anything was measured.
std::string bottleneck(const Snapshot& snapshot);

std::string grouped(double value);    ///< 583680 -> "583,680"; 0.0113 -> "0.0113"
std::string duration(double time_s);  ///< 58 -> "0:58"; 3661 -> "1:01:01"

enum class ViewMode : uint8_t { panel, plain, json };

/// A panel on a terminal that can redraw one, else plain lines; JSON where asked for.
ViewMode view_mode(bool json, bool is_terminal, std::string_view term);

/// Whether stdout is a terminal and how wide; whether NO_COLOR (https://no-color.org) is unset.
struct Terminal {
  bool is_terminal = false;
  bool colour = false;
  int width = 80;
  static Terminal of_stdout();
};

class LiveView {
 public:
  LiveView(std::ostream& out, ViewMode mode, bool colour) : out_(out), mode_(mode), colour_(colour) {}

  /// Redraws the panel, or writes a line. `width`: the terminal's columns now.
  void update(const Snapshot& snapshot, int width);

  /// A line that stays: above the panel, or between plain lines. Nothing in JSON mode.
  void note(std::string_view text);

  /// Leaves the panel as it is; what is written next comes below it.
  void finish() { drawn_lines_ = 0, last_.clear(); }

 private:
  void draw(const std::vector<std::string>& lines);
  std::ostream& out_;
  ViewMode mode_;
  bool colour_;
  size_t drawn_lines_ = 0;
  std::vector<std::string> last_;  ///< the panel on the screen, drawn again below a note
};

}  // namespace myriad
