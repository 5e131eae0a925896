#include "apps/driver/results.hpp"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstring>
#include <utility>

#include "apps/driver/run_directory.hpp"
#include "rl/check.hpp"
#include "rl/hash.hpp"

namespace myriad {
namespace fs = std::filesystem;
namespace {

constexpr std::string_view kIteration = "training_iteration";

// ---- lines ----

std::string spell(const ReportValue& entry) {
  if (const double* number = std::get_if<double>(&entry.value))
    return std::isfinite(*number) ? fmt::format("{}", *number) : "null";  // JSON has no NaN and no infinity
  return json_string(std::get<std::string>(entry.value));
}

/// A group of a nested report: names in the order they came, each a value or a group of its own.
struct Group {
  struct Member {
    std::string name;
    std::string value;  ///< JSON; empty for a group
    std::vector<Group> group;
  };
  std::vector<Member> members;

  void insert(std::string_view key, std::string value) {
    const size_t slash = key.find('/');
    const std::string_view name = key.substr(0, slash);
    auto member = std::ranges::find(members, name, [](const Member& m) { return std::string_view(m.name); });
    if (slash == std::string_view::npos) {
      check(member == members.end(), "a report has {} twice, or as a value and a group", key);
      members.push_back({std::string(name), std::move(value), {}});
      return;
    }
    if (member == members.end()) member = members.insert(member, {std::string(name), "", {Group{}}});
    check(!member->group.empty(), "a report has {} as a value and a group", name);
    member->group[0].insert(key.substr(slash + 1), std::move(value));
  }

  std::string to_json() const {
    std::string text = "{";
    for (const Member& m : members)
      text += fmt::format("{}{}: {}", text.size() > 1 ? ", " : "", json_string(m.name),
                          m.group.empty() ? m.value : m.group[0].to_json());
    return text + "}";
  }
};

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

// ---- files ----

/// Opens for appending; what follows the last line's end was torn by a crash and goes.
AppendFile open_lines(const fs::path& path) {
  std::error_code error;
  if (fs::exists(path, error)) {
    const std::string text = read_file(path);
    const size_t whole = text.rfind('\n') == std::string::npos ? 0 : text.rfind('\n') + 1;
    if (whole != text.size()) fs::resize_file(path, whole, error);
  }
  if (error) fail(Exit::resource, "cannot-write", "{}: {}", path.string(), error.message());
  return AppendFile(path);
}

std::optional<double> iteration_of_json(std::string_view line) {
  boost::json::error_code error;
  const boost::json::value json = boost::json::parse(boost::json::string_view(line.data(), line.size()), error);
  if (error || !json.is_object()) return std::nullopt;
  const boost::json::value* value =
      json.get_object().if_contains(boost::json::string_view(kIteration.data(), kIteration.size()));
  if (value == nullptr || !value->is_number()) return std::nullopt;
  return value->to_number<double>();
}

/// Keeps the whole lines from the front for as long as `iteration_of(line)` is at most `iteration`.
template <class F>
void truncate_lines(const fs::path& path, int64_t iteration, size_t header_lines, F&& iteration_of) {
  if (!fs::exists(path)) return;
  const std::string text = read_file(path);
  const double limit = static_cast<double>(iteration);
  double last = -1.0;
  size_t kept = 0;
  for (size_t number = 1; kept < text.size(); ++number) {
    const size_t end = text.find('\n', kept);
    if (end == std::string::npos) break;  // torn
    const std::optional<double> got = iteration_of(std::string_view(text).substr(kept, end - kept));
    if (number > header_lines) {
      if (!got && last < limit && text.find('\n', end + 1) != std::string::npos)
        fail(Exit::resource, "corrupt-file", "{}:{}: not a report, and iteration {} comes after it", path.string(),
             number, iteration);
      if (!got || *got > limit) break;
      last = *got;
    }
    kept = end + 1;
  }
  if (kept != text.size()) write_atomically(path, std::string_view(text).substr(0, kept));
}

// ---- TensorBoard's records: protobuf's wire format by hand ----

void put_varint(std::string& out, uint64_t value) {
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  out += static_cast<char>(value);
}

template <class T>
void put_fixed(std::string& out, T value) {
  char bytes[sizeof(T)];
  std::memcpy(bytes, &value, sizeof(T));  // little-endian, as every machine Myriad runs on
  out.append(bytes, sizeof(T));
}

enum Wire : uint64_t { varint = 0, fixed64 = 1, delimited = 2, fixed32 = 5 };
void put_tag(std::string& out, uint64_t field, Wire wire) { put_varint(out, field << 3 | wire); }
void put_bytes(std::string& out, uint64_t field, std::string_view bytes) {
  put_tag(out, field, delimited);
  put_varint(out, bytes.size());
  out += bytes;
}

/// Event{double wall_time = 1; int64 step = 2; ...}: the fields every event has.
std::string event_head(double wall_time_s, int64_t step) {
  std::string event;
  put_tag(event, 1, fixed64);
  put_fixed(event, wall_time_s);
  put_tag(event, 2, varint);
  put_varint(event, static_cast<uint64_t>(step));
  return event;
}

uint32_t masked_crc(std::string_view bytes) {
  const uint32_t crc = crc32c(std::as_bytes(std::span(bytes.data(), bytes.size())));
  return (crc >> 15 | crc << 17) + 0xa282ead8u;
}

fs::path new_event_path(const fs::path& directory, double wall_time_s) {
  char host[256] = "host";
  ::gethostname(host, sizeof host - 1);
  const std::string stem =
      fmt::format("events.out.tfevents.{:010}.{}.{}", static_cast<int64_t>(wall_time_s), host, ::getpid());
  for (int i = 0;; ++i) {
    fs::path path = directory / fmt::format("{}.{}", stem, i);
    if (!fs::exists(path)) return path;
  }
}

fs::path made(const fs::path& directory) {
  std::error_code error;
  fs::create_directories(directory, error);
  if (error) fail(Exit::resource, "cannot-write", "{}: {}", directory.string(), error.message());
  return directory;
}

}  // namespace

AppendFile::AppendFile(const fs::path& path)
    : fd_(::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644)) {
  if (fd_ < 0) fail(Exit::resource, "cannot-write", "{}: {}", path.string(), std::strerror(errno));
}
AppendFile::AppendFile(AppendFile&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)), pending_(std::move(other.pending_)) {}
AppendFile::~AppendFile() {
  if (fd_ >= 0) ::close(fd_);
}

void AppendFile::append(std::string_view bytes) {
  if (pending_.size() + bytes.size() <= kMaxPendingBytes) pending_ += bytes;
  size_t done = 0;
  while (done < pending_.size()) {
    const ssize_t n = ::write(fd_, pending_.data() + done, pending_.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) break;
    done += static_cast<size_t>(n);
  }
  pending_.erase(0, done);
}

std::optional<double> number_in(const Report& report, std::string_view key) {
  for (const ReportValue& entry : report)
    if (entry.key == key && std::holds_alternative<double>(entry.value)) return std::get<double>(entry.value);
  return std::nullopt;
}

std::string to_json_line(const Report& report) {
  Group root;
  for (const ReportValue& entry : report) root.insert(entry.key, spell(entry));
  return root.to_json();
}

EventFile::EventFile(const fs::path& directory, double wall_time_s, std::optional<int64_t> resumed_step)
    : path_(new_event_path(made(directory), wall_time_s)), out_(path_) {
  std::string version = event_head(wall_time_s, 0);
  put_bytes(version, 3, "brain.Event:2");  // file_version
  append(version);
  if (!resumed_step) return;
  // SessionLog{status = START}: TensorBoard forgets older events whose step is at or after this one's.
  std::string session = event_head(wall_time_s, *resumed_step), status;
  put_tag(status, 1, varint);
  put_varint(status, 1);
  put_bytes(session, 7, status);
  append(session);
}

void EventFile::write(const Report& report, int64_t step, double wall_time_s) {
  std::string summary;
  for (const ReportValue& entry : report) {
    const double* number = std::get_if<double>(&entry.value);
    if (number == nullptr || !std::isfinite(*number)) continue;
    std::string value;
    put_bytes(value, 1, entry.key);  // tag
    put_tag(value, 2, fixed32);      // simple_value
    put_fixed(value, static_cast<float>(*number));
    put_bytes(summary, 1, value);
  }
  std::string event = event_head(wall_time_s, step);
  put_bytes(event, 5, summary);
  append(event);
}

void EventFile::append(std::string_view event) {
  std::string record;
  put_fixed(record, uint64_t{event.size()});
  put_fixed(record, masked_crc(record));
  record += event;
  put_fixed(record, masked_crc(event));
  out_.append(record);
}

ResultsWriter::ResultsWriter(const fs::path& directory, double wall_time_s, std::optional<int64_t> resumed_step)
    : results_(open_lines(directory / "results.jsonl")),
      progress_(open_lines(directory / "progress.csv")),
      events_(open_lines(directory / "events.jsonl")),
      tensorboard_(directory / "tb", wall_time_s, resumed_step) {
  const std::string text = read_file(directory / "progress.csv");
  if (!text.empty()) columns_ = csv_cells(std::string_view(text).substr(0, text.find('\n')));
}

void ResultsWriter::write(const Report& report, int64_t step, double wall_time_s) {
  check(number_in(report, kIteration).has_value(), "a report has no {}", kIteration);
  results_.append(to_json_line(report) + '\n');

  std::string rows;
  if (columns_.empty()) {
    for (const ReportValue& entry : report) {
      columns_.push_back(entry.key);
      if (!rows.empty()) rows += ',';
      rows += csv_cell({"", entry.key});
    }
    rows += '\n';
  }
  for (size_t i = 0; i < columns_.size(); ++i) {
    const auto entry = std::ranges::find(report, columns_[i], &ReportValue::key);
    if (i > 0) rows += ',';
    if (entry != report.end()) rows += csv_cell(*entry);
  }
  progress_.append(rows + '\n');
  tensorboard_.write(report, step, wall_time_s);
}

void ResultsWriter::event(double wall_time_s, std::string_view kind, std::string_view text) {
  events_.append(fmt::format("{{\"time\": {:.3f}, \"kind\": {}, \"text\": {}}}\n", wall_time_s, json_string(kind),
                             json_string(text)));
}

void truncate_results(const fs::path& directory, int64_t iteration) {
  truncate_lines(directory / "results.jsonl", iteration, 0, iteration_of_json);
  std::optional<size_t> column;
  truncate_lines(directory / "progress.csv", iteration, 1, [&](std::string_view line) -> std::optional<double> {
    const std::vector<std::string> cells = csv_cells(line);
    if (!column) {  // the header
      column = static_cast<size_t>(std::ranges::find(cells, kIteration) - cells.begin());
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
