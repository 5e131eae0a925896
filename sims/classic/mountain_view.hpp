// What both mountain cars look like.
#pragma once

#include "rl/frame.hpp"

namespace myriad {

/// The hills, the flag at `goal` and the car at `position`.
Frame draw_mountain(int width, int height, double position, double goal);

}  // namespace myriad
