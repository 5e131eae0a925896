// progress.csv: the reports flat, for spreadsheets. A value that no report had before gets a column of its own, at its
// place among the others; rows from before leave it empty.
#pragma once

#include <filesystem>

#include "apps/driver/append_file.hpp"
#include "apps/driver/run_observer.hpp"

namespace myriad {

class ProgressFile final : public RunObserver {
 public:
  /// Creates the file in a run's folder, or goes on with the one that is there. Throws Error("cannot-write").
  explicit ProgressFile(const std::filesystem::path& run);

  void report(const RunReport& report) override;

 private:
  void add_columns(const Report& rows);

  std::filesystem::path path_;
  AppendFile file_;
  std::vector<std::string> columns_;  ///< empty until the first report
};

/// The reports of progress.csv up to `iteration`. Throws Error("corrupt-file") as lines_up_to().
LinesUpTo progress_up_to(const std::filesystem::path& run, int64_t iteration);

}  // namespace myriad
