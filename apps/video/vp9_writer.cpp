#include "apps/video/vp9_writer.hpp"

#include <vpx/vp8cx.h>

#include <algorithm>
#include <cmath>

#include "rl/check.hpp"

namespace myriad {
namespace {

constexpr int kQuality = 24;              // of libvpx's 0 (lossless) to 63
constexpr int kSpeed = 7;                 // of 0 to 9
constexpr unsigned kKeyFrameEvery = 120;  // frames: how finely a player can seek

/// RGB to ITU-R BT.601, 16 to 235, in 1/256.
uint8_t luma(int r, int g, int b) { return static_cast<uint8_t>((66 * r + 129 * g + 25 * b + 128) / 256 + 16); }
uint8_t chroma_blue(int r, int g, int b) {
  return static_cast<uint8_t>((-38 * r - 74 * g + 112 * b + 128 * 256 + 128) / 256);
}
uint8_t chroma_red(int r, int g, int b) {
  return static_cast<uint8_t>((112 * r - 94 * g - 18 * b + 128 * 256 + 128) / 256);
}

/// 4:2:0: one colour for two by two pixels, their mean; at an odd edge the last ones count twice.
void to_i420(const Frame& frame, const vpx_image_t& image) {
  for (int y = 0; y < frame.height; ++y) {
    const uint8_t* rgb = frame.row(y);
    uint8_t* to = image.planes[VPX_PLANE_Y] + y * image.stride[VPX_PLANE_Y];
    for (int x = 0; x < frame.width; ++x, rgb += 3) to[x] = luma(rgb[0], rgb[1], rgb[2]);
  }
  for (int y = 0; y < (frame.height + 1) / 2; ++y) {
    const uint8_t *upper = frame.row(2 * y), *lower = frame.row(std::min(2 * y + 1, frame.height - 1));
    uint8_t* blue = image.planes[VPX_PLANE_U] + y * image.stride[VPX_PLANE_U];
    uint8_t* red = image.planes[VPX_PLANE_V] + y * image.stride[VPX_PLANE_V];
    for (int x = 0; x < (frame.width + 1) / 2; ++x) {
      const int left = 6 * x, right = 3 * std::min(2 * x + 1, frame.width - 1);
      int mean[3];
      for (int c = 0; c < 3; ++c)
        mean[c] = (upper[left + c] + upper[right + c] + lower[left + c] + lower[right + c] + 2) / 4;
      blue[x] = chroma_blue(mean[0], mean[1], mean[2]);
      red[x] = chroma_red(mean[0], mean[1], mean[2]);
    }
  }
}

}  // namespace

Vp9Writer::Vp9Writer(const std::string& path, int width, int height, double fps)
    : file_(path, "V_VP9", width, height), fps_(std::clamp(fps, 0.1, 500.0)) {  // times are whole milliseconds
  vpx_codec_enc_cfg_t config;
  vpx_codec_iface_t* vp9 = vpx_codec_vp9_cx();
  if (vpx_codec_enc_config_default(vp9, &config, 0) != VPX_CODEC_OK) fail_codec("has no settings");
  config.g_w = static_cast<unsigned>(width), config.g_h = static_cast<unsigned>(height);
  config.g_timebase = {1, 1000};
  config.g_lag_in_frames = 0;
  config.g_threads = 2;
  config.rc_end_usage = VPX_Q;
  config.kf_max_dist = kKeyFrameEvery;
  if (vpx_codec_enc_init(&codec_, vp9, &config, 0) != VPX_CODEC_OK) fail_codec("cannot begin");
  vpx_codec_control(&codec_, VP8E_SET_CPUUSED, kSpeed);
  vpx_codec_control(&codec_, VP8E_SET_CQ_LEVEL, kQuality);
  vpx_codec_control(&codec_, VP9E_SET_COLOR_SPACE, VPX_CS_BT_601);
  if (vpx_img_alloc(&image_, VPX_IMG_FMT_I420, config.g_w, config.g_h, 16) == nullptr) fail_codec("has no memory");
}

Vp9Writer::~Vp9Writer() {
  vpx_img_free(&image_);
  vpx_codec_destroy(&codec_);
}

void Vp9Writer::fail_codec(const char* what) {
  const char* detail = vpx_codec_error_detail(&codec_);
  fail(Exit::internal, "video", "the VP9 encoder {}: {}", what, detail ? detail : vpx_codec_error(&codec_));
}

int64_t Vp9Writer::time_ms(int64_t frame) const { return std::llround(1000.0 * static_cast<double>(frame) / fps_); }

void Vp9Writer::write(const Frame& frame) {
  check(static_cast<unsigned>(frame.width) == image_.d_w && static_cast<unsigned>(frame.height) == image_.d_h,
        "a frame of {}x{} in a video of {}x{}", frame.width, frame.height, image_.d_w, image_.d_h);
  to_i420(frame, image_);
  encode(&image_);
  ++frames_;
}

/// Whether a picture came out; without an image: of what the encoder still holds.
bool Vp9Writer::encode(const vpx_image_t* image) {
  const int64_t from = time_ms(frames_), length = std::max<int64_t>(time_ms(frames_ + 1) - from, 1);
  if (vpx_codec_encode(&codec_, image, from, static_cast<unsigned long>(length), 0, VPX_DL_REALTIME) != VPX_CODEC_OK)
    fail_codec("takes no frame");
  bool any = false;
  vpx_codec_iter_t iterator = nullptr;
  while (const vpx_codec_cx_pkt_t* packet = vpx_codec_get_cx_data(&codec_, &iterator)) {
    if (packet->kind != VPX_CODEC_CX_FRAME_PKT) continue;
    any = true;
    file_.write({static_cast<const uint8_t*>(packet->data.frame.buf), packet->data.frame.sz}, packet->data.frame.pts,
                (packet->data.frame.flags & VPX_FRAME_IS_KEY) != 0);
  }
  return any;
}

void Vp9Writer::finish() {
  while (encode(nullptr)) continue;
  file_.finish(time_ms(frames_));
}

}  // namespace myriad
