// Frames of an environment to a file, a folder or the terminal: what `play --render`, `evaluate --video` and
// evaluation.record_video share.
#pragma once

#include <memory>
#include <string>

#include "apps/video/frame_writer.hpp"
#include "rl/environment.hpp"

namespace myriad {

struct FrameSize {
  int width = 640, height = 480;  ///< pixels
};
/// What suits a target: 640x480, or 80x48 on a terminal.
FrameSize default_frame_size(std::string_view target);

/// Of "640x480". Throws Error("bad-size").
FrameSize parse_frame_size(const std::string& text);

/// A picture of the current state. Throws Error("no-rendering") where the environment cannot be drawn,
/// Error("env-exception").
Frame render_frame(Environment& env, std::string_view id, FrameSize size);

/// The writer of `target`: FILE.webm, a video; FILE.png, the last frame; "ansi", coloured half blocks on a terminal;
/// any other, a folder of 000000.png, 000001.png, ... Throws Error("cannot-write", "no-video").
std::unique_ptr<FrameWriter> open_frames(const std::string& target, FrameSize size, double fps);

/// Two rows of pixels a line, the upper one in the block's colour, the lower one in its ground's; 24-bit ANSI colours.
std::string ansi_blocks(const Frame& frame);

}  // namespace myriad
