#include "apps/driver/frames.hpp"

#include <dlfcn.h>
#include <fmt/format.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <thread>

#include "rl/check.hpp"
#include "rl/system.hpp"

namespace myriad {
namespace {

namespace fs = std::filesystem;

/// Beside the program in a build tree, in lib/myriad where it is installed. It stays open.
const VideoLibrary& video_library() {
  static const VideoLibrary* const library = [] {
    const fs::path program = program_directory();
    std::string reason = "it does not lie beside the program";
    for (const char* folder : {"video", "../lib/myriad", "../lib/x86_64-linux-gnu/myriad", "."}) {
      const fs::path file = program / folder / kVideoLibraryFile;
      if (!fs::exists(file)) continue;
      void* opened = ::dlopen(file.c_str(), RTLD_NOW | RTLD_LOCAL);
      const void* symbol = opened == nullptr ? nullptr : ::dlsym(opened, kVideoLibrarySymbol);
      if (symbol != nullptr) return static_cast<const VideoLibrary*>(symbol);
      reason = fmt::format("{}; PNG and WebM need Debian's libpng16-16 and libvpx7", ::dlerror());
      break;
    }
    fail(Exit::environment, "no-video", "{} cannot be loaded: {}", kVideoLibraryFile, reason);
  }();
  return *library;
}

/// FILE.png: only the last frame is written.
class LastFrame final : public FrameWriter {
 public:
  explicit LastFrame(std::string file) : file_(std::move(file)) { video_library(); }
  void write(const Frame& frame) override { last_ = frame; }
  void finish() override {
    if (last_) video_library().write_png(file_, *last_);
  }

 private:
  std::string file_;
  std::optional<Frame> last_;
};

class FrameFolder final : public FrameWriter {
 public:
  explicit FrameFolder(std::string folder) : folder_(std::move(folder)) {
    std::error_code error;
    fs::create_directories(folder_, error);
    if (error) fail(Exit::resource, "cannot-write", "{}: {}", folder_, error.message());
  }
  void write(const Frame& frame) override {
    video_library().write_png(fmt::format("{}/{:06}.png", folder_, next_++), frame);
  }
  void finish() override {}

 private:
  std::string folder_;
  int64_t next_ = 0;
};

/// In the simulation's own time on a terminal, one frame over the other; as fast as it goes into a file.
class TerminalFrames final : public FrameWriter {
 public:
  explicit TerminalFrames(double fps) : terminal_(::isatty(STDOUT_FILENO) != 0), pause_(1 / fps) {}
  void write(const Frame& frame) override {
    if (terminal_) std::this_thread::sleep_for(pause_);
    fmt::print("{}{}", terminal_ ? "\x1b[H\x1b[J" : "", ansi_blocks(frame));
    std::fflush(stdout);
  }
  void finish() override {}

 private:
  bool terminal_;
  std::chrono::duration<double> pause_;
};

}  // namespace

FrameSize default_frame_size(std::string_view target) { return target == "ansi" ? FrameSize{80, 48} : FrameSize{}; }

FrameSize parse_frame_size(const std::string& text) {
  FrameSize size;
  int used = 0;
  if (std::sscanf(text.c_str(), "%dx%d%n", &size.width, &size.height, &used) != 2 ||
      static_cast<size_t>(used) != text.size() || size.width < 16 || size.height < 16 || size.width > 4096 ||
      size.height > 4096)
    fail(Exit::usage, "bad-size", "a frame of {}, want WIDTHxHEIGHT of 16 to 4096 pixels each, as 640x480", text);
  return size;
}

Frame render_frame(Environment& env, std::string_view id, FrameSize size) {
  std::optional<Frame> frame;
  try {
    frame = env.render(size.width, size.height);
  } catch (const Error&) { throw; } catch (const std::exception& error) {
    fail(Exit::environment, "env-exception", "{} threw as it was drawn: {}", id, error.what());
  }
  if (!frame) fail(Exit::usage, "no-rendering", "{} cannot be drawn: it has no render()", id);
  return std::move(*frame);
}

std::unique_ptr<FrameWriter> open_frames(const std::string& target, FrameSize size, double fps) {
  if (target == "ansi") return std::make_unique<TerminalFrames>(fps);
  if (target.ends_with(".webm")) return video_library().open_webm(target, size.width, size.height, fps);
  if (target.ends_with(".png")) return std::make_unique<LastFrame>(target);
  if (fs::path(target).has_extension() && !fs::is_directory(target))
    fail(Exit::usage, "bad-target", "frames into {}: want FILE.webm, FILE.png, ansi, or a folder", target);
  return std::make_unique<FrameFolder>(target);
}

std::string ansi_blocks(const Frame& frame) {
  std::string text, colours, last;
  for (int y = 0; y < frame.height; y += 2) {
    const uint8_t *upper = frame.row(y), *lower = frame.row(std::min(y + 1, frame.height - 1));
    for (int x = 0; x < frame.width; ++x, upper += 3, lower += 3) {
      colours =
          fmt::format("\x1b[38;2;{};{};{};48;2;{};{};{}m", upper[0], upper[1], upper[2], lower[0], lower[1], lower[2]);
      if (colours != last) text += colours;
      text += "\u2580";
      last = colours;
    }
    text += "\x1b[0m\n";
    last.clear();
  }
  return text;
}

}  // namespace myriad
