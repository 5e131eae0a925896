#include "apps/driver/observers/terminal_view.hpp"

#include <fmt/format.h>

#include <cstdlib>
#include <iostream>

namespace myriad {
namespace {

std::string_view term() {
  const char* value = std::getenv("TERM");
  return value == nullptr ? "" : value;
}

}  // namespace

TerminalView::TerminalView(bool json)
    : json_(json),
      terminal_(Terminal::of_stdout()),
      view_(std::cout, view_mode(json, terminal_.is_terminal, term()), terminal_.colour) {}

void TerminalView::event(const RunEvent& event) {
  if (notes(event) && !finished_) view_.note(fmt::format("{}: {}", event.kind, event.text));
}

void TerminalView::snapshot(const Snapshot& snapshot) {
  if (snapshot.iteration == 0 && !terminal_.is_terminal) return;
  shown_ = true;
  view_.update(snapshot, Terminal::of_stdout().width);
}

void TerminalView::finished(const RunEvent&) {
  view_.finish();
  finished_ = true;
}

void TerminalView::note(const std::string& text) {
  if (json_)
    std::cerr << text << std::endl;
  else
    view_.note(text);
}

void TerminalView::close(const std::string& text) {
  if (json_)
    std::cerr << text;
  else
    std::cout << (shown_ ? "\n" : "") << text << std::flush;
}

}  // namespace myriad
