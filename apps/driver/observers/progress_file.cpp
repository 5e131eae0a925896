#include "apps/driver/observers/progress_file.hpp"

#include <algorithm>
#include <charconv>

#include "apps/driver/run_directory.hpp"
#include "rl/check.hpp"

namespace myriad {
namespace fs = std::filesystem;
namespace {

constexpr const char* kFile = "progress.csv";

std::string csv_cell(const ReportValue& entry) {
  if (const double* number = std::get_if<double>(&entry.value)) return fmt::format("{}", *number);
  std::string text = std::get<std::string>(entry.value);
  std::ranges::replace(text, '\n', ' ');  // a row is a line, so that rows can be cut off
  std::ranges::replace(text, '\r', ' ');
  if (text.find_first_of(",\"") == std::string::npos) return text;
  std::string cell = "\"";
  for (const char c : text) cell += c == '"' ? std::string("\"\"") : std::string(1, c);
  return cell + '"';
}

std::vector<std::string> csv_cells(std::string_view line) {
  std::vector<std::string> cells(1);
  bool is_quoted = false;
  for (size_t i = 0; i < line.size(); ++i) {
    const char c = line[i];
    if (c == '"' && is_quoted && i + 1 < line.size() && line[i + 1] == '"')
      cells.back() += line[i++];
    else if (c == '"')
      is_quoted = !is_quoted;
    else if (c == ',' && !is_quoted)
      cells.emplace_back();
    else
      cells.back() += c;
  }
  return cells;
}

}  // namespace

ProgressFile::ProgressFile(const fs::path& run) : file_(open_lines(run / kFile)) {
  const std::string text = read_file(run / kFile);
  if (!text.empty()) columns_ = csv_cells(std::string_view(text).substr(0, text.find('\n')));
}

void ProgressFile::report(const RunReport& report) {
  std::string rows;
  if (columns_.empty()) {
    for (const ReportValue& entry : report.rows) {
      columns_.push_back(entry.key);
      if (!rows.empty()) rows += ',';
      rows += csv_cell({"", entry.key});
    }
    rows += '\n';
  }
  for (size_t i = 0; i < columns_.size(); ++i) {
    const auto entry = std::ranges::find(report.rows, columns_[i], &ReportValue::key);
    if (i > 0) rows += ',';
    if (entry != report.rows.end()) rows += csv_cell(*entry);
  }
  file_.append(rows + '\n');
}

void truncate_progress_file(const fs::path& run, int64_t iteration) {
  std::optional<size_t> column;
  truncate_lines(run / kFile, iteration, 1, [&](std::string_view line) -> std::optional<double> {
    const std::vector<std::string> cells = csv_cells(line);
    if (!column) {  // the header
      column = static_cast<size_t>(std::ranges::find(cells, "training_iteration") - cells.begin());
      return std::nullopt;
    }
    double value = 0.0;
    if (*column >= cells.size()) return std::nullopt;
    const std::string& cell = cells[*column];
    const auto [end, error] = std::from_chars(cell.data(), cell.data() + cell.size(), value);
    if (error != std::errc() || end != cell.data() + cell.size()) return std::nullopt;
    return value;
  });
}

}  // namespace myriad
