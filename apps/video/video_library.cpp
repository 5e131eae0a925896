#include <png.h>

#include "apps/video/vp9_writer.hpp"
#include "rl/check.hpp"

namespace myriad {
namespace {

void write_png(const std::string& file, const Frame& frame) {
  png_image image{};
  image.version = PNG_IMAGE_VERSION;
  image.width = static_cast<png_uint_32>(frame.width), image.height = static_cast<png_uint_32>(frame.height);
  image.format = PNG_FORMAT_RGB;
  if (png_image_write_to_file(&image, file.c_str(), 0, frame.rgb.data(), 0, nullptr) == 0)
    fail(Exit::resource, "cannot-write", "{}: {}", file, image.message);
}

std::unique_ptr<FrameWriter> open_webm(const std::string& file, int width, int height, double fps) {
  return std::make_unique<Vp9Writer>(file, width, height, fps);
}

}  // namespace

const VideoLibrary myriad_video_library{.write_png = write_png, .open_webm = open_webm};

}  // namespace myriad
