// EventFile: the reports as scalars for TensorBoard, over lifetime env steps: records of length, checksum, Event
// message, checksum (TFRecord), one file in tb/ for each time the run was started.
#pragma once

#include <filesystem>

#include "apps/driver/append_file.hpp"
#include "apps/driver/run_observer.hpp"

namespace myriad {

class EventFile final : public RunObserver {
 public:
  /// A new file in `directory`. After a resume, `resumed_step` makes TensorBoard hide what was written at or after it.
  /// Throws Error("cannot-write").
  EventFile(const std::filesystem::path& directory, double wall_time_s, std::optional<int64_t> resumed_step = {});

  /// Finite numbers only; strings are left out.
  void report(const RunReport& report) override;
  void evaluated(const RunReport& report) override;
  const std::filesystem::path& path() const { return path_; }

 private:
  void append_scalars(const RunReport& report, std::string_view group);
  void append(std::string_view event);
  std::filesystem::path path_;
  AppendFile out_;
};

}  // namespace myriad
