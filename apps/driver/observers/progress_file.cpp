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

std::string csv_line(const std::vector<std::string>& cells) {
  std::string line;
  for (size_t i = 0; i < cells.size(); ++i) line += (i > 0 ? "," : "") + csv_cell({"", cells[i]});
  return line + '\n';
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

ProgressFile::ProgressFile(const fs::path& run) : path_(run / kFile), file_(open_lines(path_)) {
  const std::string text = read_file(path_);
  if (!text.empty()) columns_ = csv_cells(std::string_view(text).substr(0, text.find('\n')));
}

/// Gives each value of `rows` without a column one, behind that of the value before it. A file that cannot be written
/// now keeps its columns until the next report.
void ProgressFile::add_columns(const Report& rows) {
  std::vector<std::string> columns = columns_;
  size_t next = 0;
  for (const ReportValue& entry : rows) {
    const auto found = std::ranges::find(columns, entry.key);
    if (found == columns.end())
      columns.insert(columns.begin() + static_cast<std::ptrdiff_t>(next), entry.key);
    else
      next = static_cast<size_t>(found - columns.begin());
    ++next;
  }
  if (columns == columns_) return;
  if (columns_.empty()) {
    file_.append(csv_line(columns));
    columns_ = std::move(columns);
    return;
  }
  if (file_.behind()) return;
  try {
    const std::string text = read_file(path_);
    std::string rewritten = csv_line(columns);
    for (size_t line = text.find('\n') + 1; line < text.size(); line = text.find('\n', line) + 1) {
      const std::vector<std::string> cells =
          csv_cells(std::string_view(text).substr(line, text.find('\n', line) - line));
      std::vector<std::string> row;
      for (size_t column = 0; const std::string& name : columns) {
        const bool had = column < columns_.size() && columns_[column] == name;
        row.push_back(had && column < cells.size() ? cells[column] : "");
        if (had) ++column;
      }
      rewritten += csv_line(row);
    }
    write_atomically(path_, rewritten);
    file_ = AppendFile(path_);
  } catch (const Error&) { return; }
  columns_ = std::move(columns);
}

void ProgressFile::report(const RunReport& report) {
  add_columns(report.rows);
  std::string rows;
  for (size_t i = 0; i < columns_.size(); ++i) {
    const auto entry = std::ranges::find(report.rows, columns_[i], &ReportValue::key);
    if (i > 0) rows += ',';
    if (entry != report.rows.end()) rows += csv_cell(*entry);
  }
  file_.append(rows + '\n');
}

LinesUpTo progress_up_to(const fs::path& run, int64_t iteration) {
  std::optional<size_t> column;
  return lines_up_to(run / kFile, iteration, 1, [&](std::string_view line) -> std::optional<double> {
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
