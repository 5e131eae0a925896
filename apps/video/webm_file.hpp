// WebmFile: one video track in a WebM file, as it is written: EBML after RFC 8794, the elements of Matroska (RFC 9559)
// that WebM needs.
//
//   EBML | Segment: SeekHead  Info  Tracks  Cluster  Cluster ...  Cues
//
// A cluster is from one key frame to the next. Sizes, duration and the place of the Cues are known at the end, and then
// written where room was left for them. Until then the file is FILE.part.
#pragma once

#include <cstdint>
#include <fstream>
#include <span>
#include <string>
#include <vector>

namespace myriad {

class WebmFile {
 public:
  /// `codec`: "V_VP9". Throws Error("cannot-write").
  WebmFile(const std::string& path, std::string_view codec, int width, int height);
  ~WebmFile();  ///< removes what was not finished

  /// One coded picture, shown from `time_ms` on; times ascend.
  void write(std::span<const uint8_t> picture, int64_t time_ms, bool key_frame);
  void finish(int64_t duration_ms);

 private:
  void put(std::string_view bytes);
  void end_cluster();
  uint64_t in_segment() { return static_cast<uint64_t>(file_.tellp()) - segment_; }

  struct Cue {
    int64_t time_ms;
    uint64_t position;  // in the segment
  };
  std::string path_;
  std::ofstream file_;
  uint64_t segment_ = 0, cues_at_ = 0, duration_at_ = 0;  // bytes from the start of the file
  int64_t cluster_ms_ = 0;
  std::string cluster_;  // its elements, until it ends
  std::vector<Cue> cues_;
};

}  // namespace myriad
