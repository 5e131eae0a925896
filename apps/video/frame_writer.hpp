// FrameWriter: where frames go. And the door to libmyriad_video.so, which alone links PNG and WebM: it is opened when
// the first frame is to be written, so that no program carries libpng and libvpx for nothing.
#pragma once

#include <memory>
#include <string>

#include "rl/frame.hpp"

namespace myriad {

class FrameWriter {
 public:
  virtual ~FrameWriter() = default;
  /// All frames of a writer have one size. Throws Error("cannot-write").
  virtual void write(const Frame& frame) = 0;
  /// Without it there is no file. Throws Error("cannot-write").
  virtual void finish() = 0;
};

/// What the library exports, under kVideoLibrarySymbol. It is built and installed with the program that opens it.
struct VideoLibrary {
  /// Throws Error("cannot-write").
  void (*write_png)(const std::string& file, const Frame& frame);
  /// VP9 in WebM, the first frame at 0 s. Throws Error("cannot-write").
  std::unique_ptr<FrameWriter> (*open_webm)(const std::string& file, int width, int height, double fps);
};
inline constexpr const char* kVideoLibraryFile = "libmyriad_video.so";
inline constexpr const char* kVideoLibrarySymbol = "myriad_video_library";
extern "C" __attribute__((visibility("default"))) const VideoLibrary myriad_video_library;

}  // namespace myriad
