// libmyriad_video.so against other people's readers: libpng, libwebm's parser, libvpx's decoder.
#include <doctest/doctest.h>
#include <png.h>
#include <unistd.h>
#include <vpx/vp8dx.h>
#include <vpx/vpx_decoder.h>
#include <webm/callback.h>
#include <webm/file_reader.h>
#include <webm/webm_parser.h>

#include <array>
#include <cstdio>
#include <filesystem>
#include <map>

#include "apps/driver/frames.hpp"
#include "rl/check.hpp"

namespace myriad {
namespace {

namespace fs = std::filesystem;

struct Folder {
  Folder() : path(fs::temp_directory_path() / fmt::format("myriad-video-{}", ::getpid())) {
    fs::create_directories(path);
  }
  ~Folder() { fs::remove_all(path); }
  std::string operator/(const char* name) const { return path / name; }
  fs::path path;
};

Frame filled(int width, int height, std::array<uint8_t, 3> colour) {
  Frame frame(width, height);
  for (size_t i = 0; i < frame.rgb.size(); ++i) frame.rgb[i] = colour[i % 3];
  return frame;
}

/// Everything the parser says of a file.
struct Webm : webm::Callback {
  struct Picture {
    int64_t time_ms;
    bool key_frame;
    std::vector<uint8_t> bytes;
  };

  explicit Webm(const std::string& path) {
    std::FILE* file = std::fopen(path.c_str(), "rb");
    REQUIRE(file != nullptr);
    webm::FileReader reader(file);
    webm::WebmParser parser;
    REQUIRE(parser.Feed(this, &reader).completed_ok());
  }

  webm::Status OnEbml(const webm::ElementMetadata&, const webm::Ebml& ebml) override {
    doc_type = ebml.doc_type.value();
    return webm::Status(webm::Status::kOkCompleted);
  }
  webm::Status OnSeek(const webm::ElementMetadata&, const webm::Seek& seek) override {
    cues_at = seek.position.value();
    return webm::Status(webm::Status::kOkCompleted);
  }
  webm::Status OnSegmentBegin(const webm::ElementMetadata& metadata, webm::Action* action) override {
    segment = metadata.position + metadata.header_size;
    segment_size = metadata.size;
    *action = webm::Action::kRead;
    return webm::Status(webm::Status::kOkCompleted);
  }
  webm::Status OnInfo(const webm::ElementMetadata&, const webm::Info& info) override {
    duration_ms = info.duration.value() * static_cast<double>(info.timecode_scale.value()) * 1e-6;
    return webm::Status(webm::Status::kOkCompleted);
  }
  webm::Status OnTrackEntry(const webm::ElementMetadata&, const webm::TrackEntry& entry) override {
    codec = entry.codec_id.value();
    width = entry.video.value().pixel_width.value(), height = entry.video.value().pixel_height.value();
    return webm::Status(webm::Status::kOkCompleted);
  }
  webm::Status OnClusterBegin(const webm::ElementMetadata& metadata, const webm::Cluster& cluster,
                              webm::Action* action) override {
    clusters[metadata.position - segment] = static_cast<int64_t>(cluster.timecode.value());
    cluster_ms = static_cast<int64_t>(cluster.timecode.value());
    *action = webm::Action::kRead;
    return webm::Status(webm::Status::kOkCompleted);
  }
  webm::Status OnSimpleBlockBegin(const webm::ElementMetadata&, const webm::SimpleBlock& block,
                                  webm::Action* action) override {
    pictures.push_back({cluster_ms + block.timecode, block.is_key_frame, {}});
    *action = webm::Action::kRead;
    return webm::Status(webm::Status::kOkCompleted);
  }
  webm::Status OnFrame(const webm::FrameMetadata&, webm::Reader* reader, uint64_t* remaining) override {
    std::vector<uint8_t>& bytes = pictures.back().bytes;
    while (*remaining > 0) {
      const size_t before = bytes.size();
      uint64_t got = 0;
      bytes.resize(before + *remaining);
      const webm::Status status = reader->Read(*remaining, bytes.data() + before, &got);
      bytes.resize(before + got);
      *remaining -= got;
      if (*remaining > 0 && !status.ok()) return status;
    }
    return webm::Status(webm::Status::kOkCompleted);
  }
  webm::Status OnCuePoint(const webm::ElementMetadata& metadata, const webm::CuePoint& cue) override {
    if (cues.empty()) first_cue_at = metadata.position - segment;
    cues[cue.cue_track_positions[0].value().cluster_position.value()] = static_cast<int64_t>(cue.time.value());
    return webm::Status(webm::Status::kOkCompleted);
  }

  std::string doc_type, codec;
  uint64_t width = 0, height = 0, segment = 0, segment_size = 0, cues_at = 0, first_cue_at = 0;
  double duration_ms = 0;
  int64_t cluster_ms = 0;
  std::map<uint64_t, int64_t> clusters, cues;  // place in the segment -> time
  std::vector<Picture> pictures;
};

}  // namespace

TEST_SUITE("apps/video") {
  TEST_CASE("PNG: reads back to the same pixels") {
    const Folder folder;
    Frame frame(7, 5);
    for (size_t i = 0; i < frame.rgb.size(); ++i) frame.rgb[i] = static_cast<uint8_t>(i * 37);
    myriad_video_library.write_png(folder / "a.png", frame);
    png_image image{};
    image.version = PNG_IMAGE_VERSION;
    REQUIRE(png_image_begin_read_from_file(&image, (folder / "a.png").c_str()) != 0);
    image.format = PNG_FORMAT_RGB;
    std::vector<uint8_t> pixels(PNG_IMAGE_SIZE(image));
    REQUIRE(png_image_finish_read(&image, nullptr, pixels.data(), 0, nullptr) != 0);
    CHECK(image.width == 7);
    CHECK(image.height == 5);
    CHECK(pixels == frame.rgb);
  }

  TEST_CASE("WebM: N frames come back, with their colours and times") {
    const Folder folder;
    constexpr int kFrames = 130;  // a second key frame falls on number 120
    {
      const auto video = myriad_video_library.open_webm(folder / "a.webm", 63, 49, 30);
      for (int i = 0; i < kFrames; ++i)
        video->write(filled(63, 49, i < 5 ? std::array<uint8_t, 3>{255, 0, 0} : std::array<uint8_t, 3>{0, 0, 255}));
      CHECK(!fs::exists(folder / "a.webm"));
      video->finish();
    }
    CHECK(!fs::exists(folder / "a.webm.part"));
    const Webm webm(folder / "a.webm");
    CHECK(webm.doc_type == "webm");
    CHECK(webm.codec == "V_VP9");
    CHECK(webm.width == 63);
    CHECK(webm.height == 49);
    CHECK(webm.duration_ms == 4333);  // 130 / 30 s
    CHECK(webm.segment + webm.segment_size == fs::file_size(folder / "a.webm"));
    CHECK(webm.cues == webm.clusters);  // each key frame can be found
    CHECK(webm.cues.size() == 2);
    CHECK(webm.first_cue_at > webm.cues_at);
    CHECK(webm.first_cue_at < webm.cues_at + 16);  // behind the header of the Cues
    REQUIRE(webm.pictures.size() == kFrames);

    vpx_codec_ctx_t codec{};
    REQUIRE(vpx_codec_dec_init(&codec, vpx_codec_vp9_dx(), nullptr, 0) == VPX_CODEC_OK);
    for (int i = 0; i < kFrames; ++i) {
      const Webm::Picture& picture = webm.pictures[static_cast<size_t>(i)];
      CHECK(picture.time_ms == (i * 1000 + 15) / 30);
      CHECK(picture.key_frame == (i % 120 == 0));
      REQUIRE(vpx_codec_decode(&codec, picture.bytes.data(), static_cast<unsigned>(picture.bytes.size()), nullptr, 0) ==
              VPX_CODEC_OK);
      vpx_codec_iter_t iterator = nullptr;
      const vpx_image_t* image = vpx_codec_get_frame(&codec, &iterator);
      REQUIRE(image != nullptr);
      CHECK(image->d_w == 63);
      CHECK(image->d_h == 49);
      // Red is 82, 90, 240 in BT.601; blue 41, 240, 110.
      const int want[2][3] = {{82, 90, 240}, {41, 240, 110}};
      for (int plane = 0; plane < 3; ++plane)
        CHECK(std::abs(image->planes[plane][20 * image->stride[plane] + 20] - want[i >= 5][plane]) <= 4);
    }
    vpx_codec_destroy(&codec);
  }

  TEST_CASE("WebM: what is not finished leaves no file") {
    const Folder folder;
    { myriad_video_library.open_webm(folder / "a.webm", 64, 48, 30)->write(Frame(64, 48)); }
    CHECK(fs::is_empty(folder.path));
  }

  TEST_CASE("Writers: a file that cannot be made is an error that names it") {
    const auto code_of = [](auto call) -> std::string {
      try {
        call();
      } catch (const Error& error) {
        CHECK(std::string(error.what()).find("nowhere/a.") != std::string::npos);
        return error.code();
      }
      return "";
    };
    CHECK(code_of([] { myriad_video_library.open_webm("nowhere/a.webm", 64, 48, 30); }) == "cannot-write");
    CHECK(code_of([] { myriad_video_library.write_png("nowhere/a.png", Frame(8, 8)); }) == "cannot-write");
  }

  TEST_CASE("ansi_blocks: two rows a line, a colour said once for as long as it lasts") {
    Frame frame(2, 2);
    std::fill_n(frame.row(1), 6, uint8_t{0});
    CHECK(ansi_blocks(frame) == "\x1b[38;2;255;255;255;48;2;0;0;0m\u2580\u2580\x1b[0m\n");
  }

  TEST_CASE("parse_frame_size: WIDTHxHEIGHT, and nothing else") {
    CHECK(parse_frame_size("320x200").width == 320);
    CHECK(parse_frame_size("320x200").height == 200);
    for (const char* text : {"320", "320x", "0x10", "320x200x3", "99999x100", "-5x100"})
      CHECK_THROWS_AS(parse_frame_size(text), Error);
  }
}

}  // namespace myriad
