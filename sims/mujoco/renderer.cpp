#include "sims/mujoco/renderer.hpp"

#include <algorithm>

namespace myriad {
namespace {

constexpr int kMaxGeoms = 1000;

}  // namespace

MujocoRenderer::MujocoRenderer(const mjModel& model, const mjvCamera& camera) : model_(model), camera_(camera) {
  mjv_defaultOption(&options_);
  mjv_defaultScene(&scene_);
  mjr_defaultContext(&context_);
  mjv_makeScene(&model_, &scene_, kMaxGeoms);
  mjr_makeContext(&model_, &context_, mjFONTSCALE_100);
}

MujocoRenderer::~MujocoRenderer() {
  gl_.make_current();
  mjr_freeContext(&context_);
  mjv_freeScene(&scene_);
}

Frame MujocoRenderer::render(mjData& data, int width, int height) {
  gl_.make_current();
  mjr_setBuffer(mjFB_OFFSCREEN, &context_);
  if (context_.offWidth != width || context_.offHeight != height) mjr_resizeOffscreen(width, height, &context_);
  mjv_updateScene(&model_, &data, &options_, nullptr, &camera_, mjCAT_ALL, &scene_);
  const mjrRect all{0, 0, width, height};
  mjr_render(all, &scene_, &context_);
  Frame frame(width, height);
  mjr_readPixels(frame.rgb.data(), nullptr, all, &context_);
  for (int y = 0; y < height / 2; ++y)  // OpenGL's first row is the lowest
    std::swap_ranges(frame.row(y), frame.row(y) + 3 * width, frame.row(height - 1 - y));
  return frame;
}

}  // namespace myriad
