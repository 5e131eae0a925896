// Results: what a run writes as it goes, for people, spreadsheets and TensorBoard. Readable without Myriad.
//
//   results.jsonl   the truth: one object a report, RLlib's nested keys ("a/b" -> {"a": {"b": ...}}), NaN as null
//   progress.csv    the same, flat; its columns are those of the first report
//   tb/             TensorBoard event files, one for each time the run was started
//   events.jsonl    start, checkpoint, restart, warning, stop: {time, kind, text}
//
// All append-only and flushed for each report; owned by the driver's thread. Times are given, never read here.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

namespace myriad {

/// One value of a report: key as in "env_runners/episode_return_mean".
struct ReportValue {
  std::string key;
  std::variant<double, std::string> value;
};
/// One training iteration's values in the order they are printed; "training_iteration" must be among them.
using Report = std::vector<ReportValue>;

/// The value of a number in the report, if it has one of that key.
std::optional<double> number_in(const Report& report, std::string_view key);

/// The report as one line of results.jsonl, without the line's end. Throws Error where a key is a value and a group.
std::string to_json_line(const Report& report);

/// A file that only grows. What a full disk refuses is kept and written first once there is room, byte for byte in
/// order.
class AppendFile {
 public:
  static constexpr size_t kMaxPendingBytes = size_t{64} << 20;  ///< beyond this new lines are lost, not the run

  /// Throws Error("cannot-write").
  explicit AppendFile(const std::filesystem::path& path);
  AppendFile(AppendFile&& other) noexcept;
  ~AppendFile();

  void append(std::string_view bytes);
  bool behind() const { return !pending_.empty(); }  ///< the disk does not take what was written

 private:
  int fd_;
  std::string pending_;
};

/// Scalars for TensorBoard: records of length, checksum, Event message, checksum (TFRecord).
class EventFile {
 public:
  /// A new file in `directory`. After a resume, `resumed_step` makes TensorBoard hide what was written at or after it.
  EventFile(const std::filesystem::path& directory, double wall_time_s, std::optional<int64_t> resumed_step = {});
  /// Finite numbers only; strings are left out.
  void write(const Report& report, int64_t step, double wall_time_s);
  const std::filesystem::path& path() const { return path_; }

 private:
  void append(std::string_view event);
  std::filesystem::path path_;
  AppendFile out_;
};

class ResultsWriter {
 public:
  /// Creates the files in a run's folder, or goes on with those which are there (a torn last line is cut off).
  /// Throws Error("cannot-write").
  ResultsWriter(const std::filesystem::path& directory, double wall_time_s, std::optional<int64_t> resumed_step = {});

  /// `step`: lifetime env steps, TensorBoard's horizontal axis.
  void write(const Report& report, int64_t step, double wall_time_s);
  void event(double wall_time_s, std::string_view kind, std::string_view text);
  bool behind() const { return results_.behind(); }  ///< reports wait for room on the disk

 private:
  AppendFile results_, progress_, events_;
  std::vector<std::string> columns_;  ///< of progress.csv; empty until the first report
  EventFile tensorboard_;
};

/// Cuts results.jsonl and progress.csv back to the reports up to `iteration`, atomically: a resumed run goes on from
/// its checkpoint as if the rest had not been. Throws Error("corrupt-file") when a line before that cannot be read.
void truncate_results(const std::filesystem::path& directory, int64_t iteration);

}  // namespace myriad
