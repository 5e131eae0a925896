// Vp9Writer: frames -> libvpx -> WebmFile. One pass at constant quality; a picture leaves the encoder as its frame
// enters.
#pragma once

#include <vpx/vpx_encoder.h>

#include "apps/video/frame_writer.hpp"
#include "apps/video/webm_file.hpp"

namespace myriad {

class Vp9Writer final : public FrameWriter {
 public:
  Vp9Writer(const std::string& path, int width, int height, double fps);
  ~Vp9Writer() override;
  Vp9Writer(const Vp9Writer&) = delete;

  void write(const Frame& frame) override;
  void finish() override;

 private:
  bool encode(const vpx_image_t* image);
  int64_t time_ms(int64_t frame) const;
  [[noreturn]] void fail_codec(const char* what);

  WebmFile file_;
  double fps_;
  int64_t frames_ = 0;
  vpx_codec_ctx_t codec_{};
  vpx_image_t image_{};
};

}  // namespace myriad
