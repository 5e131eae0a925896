// MujocoRenderer: pictures of one model, drawn by MuJoCo's own renderer into memory.
#pragma once

#include <mujoco/mujoco.h>

#include "rl/frame.hpp"
#include "sims/mujoco/gl_context.hpp"

namespace myriad {

class MujocoRenderer {
 public:
  /// Keeps `model`. Throws Error("no-rendering").
  MujocoRenderer(const mjModel& model, const mjvCamera& camera);
  ~MujocoRenderer();

  Frame render(mjData& data, int width, int height);

 private:
  const mjModel& model_;
  mjvCamera camera_;
  mjvOption options_;
  mjvScene scene_;
  GlContext gl_;
  mjrContext context_;
};

}  // namespace myriad
