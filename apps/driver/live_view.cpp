#include "apps/driver/live_view.hpp"

#include <fmt/format.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdlib>

#include "apps/driver/run_directory.hpp"

namespace myriad {
namespace {

constexpr int kFullWidth = 79;  // of an 80-column terminal: the last column is left free
constexpr size_t kBarWidth = 28;
constexpr size_t kEvents = 2;

bool known(double value) { return !std::isnan(value); }

std::string percent(double share) { return fmt::format("{:.0f} %", std::clamp(share, 0.0, 1.0) * 100.0); }

/// Columns of UTF-8 text: bytes that do not continue a character.
size_t columns(std::string_view text) {
  return static_cast<size_t>(std::ranges::count_if(text, [](unsigned char c) { return (c & 0xC0) != 0x80; }));
}

std::string harmless(std::string_view text) {
  std::string out(text);
  std::ranges::replace_if(
      out, [](unsigned char c) { return c < 0x20 || c == 0x7F; }, '?');
  // U+0080..U+009F are control characters too, two bytes each.
  for (size_t i = 0; i + 1 < out.size(); ++i)
    if (out[i] == '\xC2' && static_cast<unsigned char>(out[i + 1]) < 0xA0) out.replace(i, 2, "?");
  return out;
}

std::string cut(std::string_view text, int width) {
  const size_t limit = static_cast<size_t>(std::max(width, 1));
  if (columns(text) <= limit) return std::string(text);
  size_t bytes = 0;
  for (size_t seen = 0; bytes < text.size(); ++bytes)
    if ((static_cast<unsigned char>(text[bytes]) & 0xC0) != 0x80 && seen++ == limit) break;
  return std::string(text.substr(0, bytes));
}

/// `left`, then `right` against the right edge where there is room, else three spaces on.
std::string spread(const std::string& left, const std::string& right, int width) {
  const size_t used = columns(left) + columns(right), room = static_cast<size_t>(width);
  return left + std::string(room > used + 3 ? room - used : 3, ' ') + right;
}

double fraction(const StopProgress& p) { return p.goal > 0 ? std::clamp(p.value / p.goal, 0.0, 1.0) : 0.0; }

bool is_return(const StopProgress& p) { return p.key == "episode_return_mean"; }

/// The criterion the bar shows: the budget nearest its end; a return only where there is no budget, for it may stall;
/// and a standstill only where there is neither, for its count goes back.
const StopProgress* leading(const Snapshot& s) {
  const auto rank = [](const StopProgress& p) {
    return std::pair(is_return(p) ? 1 : p.key.ends_with("_without_improvement") ? 0 : 2, fraction(p));
  };
  const StopProgress* best = nullptr;
  for (const StopProgress& p : s.stop)
    if (best == nullptr || rank(p) > rank(*best)) best = &p;
  return best;
}

/// "583,680 / 1,000,000 env steps" or "0:58 / 10:00".
std::string amount(const StopProgress& p) {
  if (p.unit == "s") return fmt::format("{} / {}", duration(p.value), duration(p.goal));
  return fmt::format("{} / {} {}", known(p.value) ? grouped(p.value) : "-", grouped(p.goal),
                     is_return(p) ? "return" : p.unit);
}

std::string progress_line(const Snapshot& s, int width) {
  const StopProgress* p = leading(s);
  std::string line;
  if (p != nullptr) line = fmt::format("{:>5}   {}", percent(fraction(*p)), amount(*p));
  if (p == nullptr || p->unit != "env steps")
    line += fmt::format("{}{} env steps", line.empty() ? "" : "   ", grouped(static_cast<double>(s.steps)));
  if (known(s.steps_per_s)) line += fmt::format("   {} steps/s", grouped(std::round(s.steps_per_s)));
  if (known(s.eta_s)) line += "   eta " + duration(s.eta_s);
  if (p == nullptr) return line;
  // The numbers are what people look for: the bar takes the room they leave.
  const size_t used = columns(line) + 3, room = static_cast<size_t>(width);
  const size_t bar = room > used ? std::min(kBarWidth, room - used) : 0;
  if (bar < 5) return line;
  const size_t filled = static_cast<size_t>(fraction(*p) * static_cast<double>(bar));
  return fmt::format("[{}{}] {}", std::string(filled, '#'), std::string(bar - filled, '-'), line);
}

std::string return_line(const Snapshot& s) {
  std::string line = "return   train " + (known(s.return_mean) ? grouped(s.return_mean) : "-");
  if (known(s.return_best)) line += "   best " + grouped(s.return_best);
  if (known(s.evaluation_return))
    line += fmt::format("   evaluated {} (best {})", grouped(s.evaluation_return), grouped(s.evaluation_best));
  for (const StopProgress& p : s.stop)
    if (is_return(p)) line += "   goal " + grouped(p.goal);
  return line + fmt::format("   iteration {}", grouped(static_cast<double>(s.iteration)));
}

std::string learn_line(const Snapshot& s) {
  std::string line = "learn  ";
  for (const auto& [name, value] : s.learner)
    line += fmt::format("  {} {}", harmless(name), known(value) ? grouped(value) : "-");
  return s.learner.empty() ? line + "  nothing learned yet" : line;
}

std::string fleet_line(const Snapshot& s) {
  std::string line = "fleet    ";
  if (s.hosts_total > 1) line += fmt::format("hosts {}/{}   ", s.hosts_alive, s.hosts_total);
  line +=
      fmt::format("runners {}/{}   envs {}", s.runners_alive, s.runners_total, grouped(static_cast<double>(s.envs)));
  if (known(s.lag_mean))
    line += fmt::format("   lag {:.1f} (max {})", s.lag_mean, known(s.lag_max) ? grouped(s.lag_max) : "-");
  line += "   dropped " + grouped(static_cast<double>(s.dropped));
  std::string reasons;
  for (const auto& [reason, number] : s.dropped_by)
    reasons +=
        fmt::format("{}{} {}", reasons.empty() ? "" : ", ", harmless(reason), grouped(static_cast<double>(number)));
  return reasons.empty() ? line : line + " (" + reasons + ")";
}

std::string time_line(const Snapshot& s, int width) {
  std::string line = "time   ";
  if (known(s.sampling_share)) line += "  sampling " + percent(s.sampling_share);
  if (known(s.wait_share)) line += "  waiting " + percent(s.wait_share);
  if (known(s.learner_busy_share)) line += "  |  learner " + percent(s.learner_busy_share) + " busy";
  const std::string who = bottleneck(s);
  return who.empty() ? line + "  not measured yet" : spread(line, "bottleneck: " + who, std::min(width, 100));
}

std::vector<std::string> narrow_lines(const Snapshot& s) {
  std::string progress;
  if (const StopProgress* p = leading(s)) progress = percent(fraction(*p)) + "  ";
  progress += grouped(static_cast<double>(s.steps)) + " steps";
  if (known(s.steps_per_s)) progress += fmt::format("  {}/s", grouped(std::round(s.steps_per_s)));
  if (known(s.eta_s)) progress += "  eta " + duration(s.eta_s);
  std::string returns = "return " + (known(s.return_mean) ? grouped(s.return_mean) : "-");
  if (known(s.return_best)) returns += "  best " + grouped(s.return_best);
  if (s.runners_alive != s.runners_total) returns += fmt::format("  runners {}/{}", s.runners_alive, s.runners_total);
  return {fmt::format("{}  {}  {}", harmless(s.run_name), harmless(s.env), duration(s.elapsed_s)), progress, returns};
}

/// Every number of the snapshot under its key, in one order for both line forms.
std::vector<std::pair<std::string, double>> numbers(const Snapshot& s) {
  std::vector<std::pair<std::string, double>> all = {{"iteration", static_cast<double>(s.iteration)},
                                                     {"env_steps", static_cast<double>(s.steps)},
                                                     {"elapsed_s", std::round(s.elapsed_s * 1000) / 1000},
                                                     {"steps_per_s", std::round(s.steps_per_s)},
                                                     {"eta_s", std::round(s.eta_s)},
                                                     {"return_mean", s.return_mean},
                                                     {"return_best", s.return_best},
                                                     {"evaluation_return", s.evaluation_return},
                                                     {"evaluation_best", s.evaluation_best}};
  all.insert(all.end(), s.learner.begin(), s.learner.end());
  if (s.hosts_total > 1)
    all.insert(all.end(), {{"hosts_alive", static_cast<double>(s.hosts_alive)},
                           {"hosts_total", static_cast<double>(s.hosts_total)}});
  const std::vector<std::pair<std::string, double>> rest = {{"lag_mean", s.lag_mean},
                                                            {"lag_max", s.lag_max},
                                                            {"dropped", static_cast<double>(s.dropped)},
                                                            {"sampling_share", s.sampling_share},
                                                            {"wait_share", s.wait_share},
                                                            {"learner_busy_share", s.learner_busy_share},
                                                            {"runners_alive", static_cast<double>(s.runners_alive)},
                                                            {"runners_total", static_cast<double>(s.runners_total)},
                                                            {"envs", static_cast<double>(s.envs)}};
  all.insert(all.end(), rest.begin(), rest.end());
  return all;
}

/// The label in bold, so that the eye finds the line.
std::string coloured(const std::string& line) {
  const size_t label = line.find(' ');
  const bool has_label =
      label != std::string::npos && label > 0 && std::isalpha(static_cast<unsigned char>(line[0])) != 0;
  return has_label ? "\x1b[1m" + line.substr(0, label) + "\x1b[0m" + line.substr(label) : line;
}

}  // namespace

std::string grouped(double value) {
  if (!std::isfinite(value)) return fmt::format("{}", value);
  const double magnitude = std::abs(value);
  if (magnitude >= 1e15) return fmt::format("{:.3g}", value);
  if (magnitude < 100 && value != std::trunc(value)) return fmt::format("{:.3g}", value);
  std::string digits = fmt::format("{:.0f}", std::round(magnitude));
  for (size_t i = digits.size(); i > 3; i -= 3) digits.insert(i - 3, 1, ',');
  if (value < 0 && digits != "0") digits.insert(digits.begin(), '-');
  return digits;
}

std::string duration(double time_s) {
  if (!std::isfinite(time_s) || time_s < 0 || time_s > 1e12) return "-";
  const int64_t seconds = static_cast<int64_t>(time_s);
  if (seconds < 3600) return fmt::format("{}:{:02}", seconds / 60, seconds % 60);
  return fmt::format("{}:{:02}:{:02}", seconds / 3600, seconds / 60 % 60, seconds % 60);
}

std::string bottleneck(const Snapshot& s) {
  if (!known(s.learner_busy_share)) return "";
  if (s.runners_alive == 0 && s.runners_total > 0) return "no runner is alive";
  if (s.learner_busy_share >= 0.9) return "learner";
  if (!known(s.wait_share)) return "";
  if (s.wait_share <= 0.1) return "environments";
  // Neither is busy all the time: each waits while the other works.
  return s.learner_busy_share + (1.0 - s.wait_share) >= 0.8 ? "taking turns" : "elsewhere";
}

std::vector<std::string> panel_lines(const Snapshot& s, int width) {
  std::vector<std::string> lines;
  if (width < kFullWidth) {
    lines = narrow_lines(s);
  } else {
    lines.push_back(spread(
        fmt::format("run {}   {}   {}   seed {}", harmless(s.run_name), harmless(s.env), harmless(s.algorithm), s.seed),
        "elapsed " + duration(s.elapsed_s), std::min(width, 100)));
    lines.push_back(progress_line(s, width));
    lines.push_back(return_line(s));
    lines.push_back(learn_line(s));
    lines.push_back(time_line(s, width));
    lines.push_back(fleet_line(s));
    const size_t first = s.events.size() - std::min(s.events.size(), kEvents);
    for (size_t i = first; i < s.events.size(); ++i)
      lines.push_back((i == first ? "events   " : "         ") + harmless(s.events[i]));
    if (!s.directory.empty()) lines.push_back(harmless(s.directory));
  }
  for (std::string& line : lines) line = cut(line, width);
  return lines;
}

std::string plain_line(const Snapshot& s) {
  std::string line;
  for (const auto& [key, value] : numbers(s))
    if (known(value))
      line += fmt::format("{}{}={}", line.empty() ? "" : " ", key,
                          value == std::trunc(value) ? fmt::format("{}", value) : fmt::format("{:.6g}", value));
  return line;
}

std::string json_line(const Snapshot& s) {
  std::string line = fmt::format("{{\"run\": {}, \"env\": {}, \"algorithm\": {}, \"seed\": {}", json_string(s.run_name),
                                 json_string(s.env), json_string(s.algorithm), s.seed);
  for (const auto& [key, value] : numbers(s))
    line += fmt::format(", {}: {}", json_string(key), std::isfinite(value) ? fmt::format("{}", value) : "null");
  return line + fmt::format(", \"directory\": {}}}", json_string(s.directory));
}

ViewMode view_mode(bool json, bool is_terminal, std::string_view term) {
  if (json) return ViewMode::json;
  return is_terminal && !term.empty() && term != "dumb" ? ViewMode::panel : ViewMode::plain;
}

Terminal Terminal::of_stdout() {
  Terminal terminal;
  terminal.is_terminal = ::isatty(STDOUT_FILENO) == 1;
  const char* no_color = std::getenv("NO_COLOR");
  terminal.colour = terminal.is_terminal && (no_color == nullptr || *no_color == '\0');
  winsize size{};
  if (terminal.is_terminal && ::ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0)
    terminal.width = size.ws_col;
  return terminal;
}

void LiveView::update(const Snapshot& snapshot, int width) {
  switch (mode_) {
    // One column is left free: a line that fills the last one wraps on some terminals.
    case ViewMode::panel:
      draw(panel_lines(snapshot, std::max(width - 1, 1)));  // a line that fills the last column wraps on some terminals
      return;
    case ViewMode::plain:
      out_ << plain_line(snapshot) << std::endl;
      return;
    case ViewMode::json:
      out_ << json_line(snapshot) << std::endl;
      return;
  }
}

void LiveView::note(std::string_view text) {
  if (mode_ == ViewMode::json) return;
  if (mode_ == ViewMode::plain) {
    out_ << harmless(text) << std::endl;
    return;
  }
  if (drawn_lines_ > 0) out_ << fmt::format("\x1b[{}A\r\x1b[J", drawn_lines_);
  drawn_lines_ = 0;
  out_ << harmless(text) << '\n';
  draw(last_);
}

void LiveView::draw(const std::vector<std::string>& lines) {
  std::string text;
  if (drawn_lines_ > 0) text = fmt::format("\x1b[{}A\r", drawn_lines_);
  for (const std::string& line : lines) text += (colour_ ? coloured(line) : line) + "\x1b[K\n";
  text += "\x1b[J";  // a panel that shrank leaves nothing behind
  out_ << text << std::flush;
  drawn_lines_ = lines.size();
  last_ = lines;
}

}  // namespace myriad
