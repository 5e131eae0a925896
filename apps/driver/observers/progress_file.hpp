// progress.csv: the reports flat, for spreadsheets. Its columns are those of the first report.
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
  AppendFile file_;
  std::vector<std::string> columns_;  ///< empty until the first report
};

/// Cuts progress.csv back to the reports up to `iteration`. Throws Error("corrupt-file") as truncate_lines().
void truncate_progress_file(const std::filesystem::path& run, int64_t iteration);

}  // namespace myriad
