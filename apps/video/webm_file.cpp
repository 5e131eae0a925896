#include "apps/video/webm_file.hpp"

#include <bit>
#include <cerrno>
#include <cstring>
#include <filesystem>

#include "rl/check.hpp"

namespace myriad {
namespace {

/// Element identifiers, with their length marker.
enum Id : uint32_t {
  kEbml = 0x1A45DFA3,
  kEbmlVersion = 0x4286,
  kEbmlReadVersion = 0x42F7,
  kEbmlMaxIdLength = 0x42F2,
  kEbmlMaxSizeLength = 0x42F3,
  kDocType = 0x4282,
  kDocTypeVersion = 0x4287,
  kDocTypeReadVersion = 0x4285,
  kSegment = 0x18538067,
  kSeekHead = 0x114D9B74,
  kSeek = 0x4DBB,
  kSeekId = 0x53AB,
  kSeekPosition = 0x53AC,
  kInfo = 0x1549A966,
  kTimestampScale = 0x2AD7B1,
  kDuration = 0x4489,
  kMuxingApp = 0x4D80,
  kWritingApp = 0x5741,
  kTracks = 0x1654AE6B,
  kTrackEntry = 0xAE,
  kTrackNumber = 0xD7,
  kTrackUid = 0x73C5,
  kTrackType = 0x83,
  kFlagLacing = 0x9C,
  kCodecId = 0x86,
  kVideo = 0xE0,
  kPixelWidth = 0xB0,
  kPixelHeight = 0xBA,
  kCluster = 0x1F43B675,
  kTimestamp = 0xE7,
  kSimpleBlock = 0xA3,
  kCues = 0x1C53BB6B,
  kCuePoint = 0xBB,
  kCueTime = 0xB3,
  kCueTrackPositions = 0xB7,
  kCueTrack = 0xF7,
  kCueClusterPosition = 0xF1,
};

constexpr uint64_t kMsInNs = 1'000'000;
constexpr int64_t kMaxBlockMs = 32'767;  // a block's time is 16 bits, from its cluster's

/// The last `bytes` bytes of `value`, the highest first.
std::string big_endian(uint64_t value, int bytes) {
  std::string text;
  for (int i = bytes; i-- > 0;) text += static_cast<char>(value >> (8 * i) & 0xff);
  return text;
}

std::string id_bytes(Id id) { return big_endian(id, id > 0xffffff ? 4 : id > 0xffff ? 3 : id > 0xff ? 2 : 1); }

/// Sizes always take eight bytes: a marker and 56 bits.
std::string size_bytes(uint64_t size) { return big_endian(uint64_t{1} << 56 | size, 8); }

std::string element(Id id, std::string_view body) { return id_bytes(id) + size_bytes(body.size()).append(body); }
std::string element(Id id, uint64_t value) { return element(id, std::string_view(big_endian(value, 8))); }

}  // namespace

WebmFile::WebmFile(const std::string& path, std::string_view codec, int width, int height)
    : path_(path), file_(path + ".part", std::ios::binary | std::ios::trunc) {
  put(element(kEbml, element(kEbmlVersion, 1) + element(kEbmlReadVersion, 1) + element(kEbmlMaxIdLength, 4) +
                         element(kEbmlMaxSizeLength, 8) + element(kDocType, "webm") + element(kDocTypeVersion, 4) +
                         element(kDocTypeReadVersion, 2)));
  put(id_bytes(kSegment) + size_bytes(0));
  segment_ = static_cast<uint64_t>(file_.tellp());
  put(element(kSeekHead, element(kSeek, element(kSeekId, id_bytes(kCues)) + element(kSeekPosition, 0))));
  cues_at_ = static_cast<uint64_t>(file_.tellp()) - 8;
  put(element(kInfo, element(kTimestampScale, kMsInNs) + element(kMuxingApp, "myriad") +
                         element(kWritingApp, "myriad") + element(kDuration, 0)));
  duration_at_ = static_cast<uint64_t>(file_.tellp()) - 8;
  const std::string video =
      element(kPixelWidth, static_cast<uint64_t>(width)) + element(kPixelHeight, static_cast<uint64_t>(height));
  put(element(kTracks,
              element(kTrackEntry, element(kTrackNumber, 1) + element(kTrackUid, 1) + element(kTrackType, 1) +
                                       element(kFlagLacing, 0) + element(kCodecId, codec) + element(kVideo, video))));
}

WebmFile::~WebmFile() {
  std::error_code gone;
  std::filesystem::remove(path_ + ".part", gone);
}

void WebmFile::put(std::string_view bytes) {
  if (!file_.write(bytes.data(), static_cast<std::streamsize>(bytes.size())))
    fail(Exit::resource, "cannot-write", "{}: {}", path_, std::strerror(errno));
}

void WebmFile::write(std::span<const uint8_t> picture, int64_t time_ms, bool key_frame) {
  if (key_frame || time_ms - cluster_ms_ > kMaxBlockMs) {
    end_cluster();
    if (key_frame) cues_.push_back({time_ms, in_segment()});
    cluster_ms_ = time_ms;
    cluster_ = element(kTimestamp, static_cast<uint64_t>(time_ms));
  }
  // Track 1, as a number with its length marker; the time from the cluster's; flags.
  std::string block = "\x81" + big_endian(static_cast<uint64_t>(time_ms - cluster_ms_), 2);
  block += static_cast<char>(key_frame ? 0x80 : 0);
  block.append(reinterpret_cast<const char*>(picture.data()), picture.size());
  cluster_ += element(kSimpleBlock, block);
}

void WebmFile::end_cluster() {
  if (!cluster_.empty()) put(element(kCluster, cluster_));
  cluster_.clear();
}

void WebmFile::finish(int64_t duration_ms) {
  end_cluster();
  const uint64_t cues_position = in_segment();
  std::string cues;
  for (const Cue& cue : cues_)
    cues += element(
        kCuePoint, element(kCueTime, static_cast<uint64_t>(cue.time_ms)) +
                       element(kCueTrackPositions, element(kCueTrack, 1) + element(kCueClusterPosition, cue.position)));
  put(element(kCues, cues));
  const uint64_t size = in_segment();
  file_.seekp(static_cast<std::streamoff>(segment_ - 8));
  put(size_bytes(size));
  file_.seekp(static_cast<std::streamoff>(cues_at_));
  put(big_endian(cues_position, 8));
  file_.seekp(static_cast<std::streamoff>(duration_at_));
  put(big_endian(std::bit_cast<uint64_t>(static_cast<double>(duration_ms)), 8));
  file_.close();
  std::error_code error;
  if (file_) std::filesystem::rename(path_ + ".part", path_, error);
  if (!file_ || error) fail(Exit::resource, "cannot-write", "{}: {}", path_, std::strerror(errno));
}

}  // namespace myriad
