#include "apps/driver/observers/event_file.hpp"

#include <unistd.h>

#include <cmath>
#include <cstring>
#include <span>

#include "rl/check.hpp"
#include "rl/hash.hpp"

namespace myriad {
namespace fs = std::filesystem;
namespace {

// Protobuf's wire format by hand.

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

void EventFile::report(const RunReport& report) { append_scalars(report, ""); }
void EventFile::evaluated(const RunReport& report) { append_scalars(report, kEvaluationGroup); }

void EventFile::append_scalars(const RunReport& report, std::string_view group) {
  std::string summary;
  for (const ReportValue& entry : report.rows) {
    const double* number = std::get_if<double>(&entry.value);
    if (number == nullptr || !std::isfinite(*number)) continue;
    // Of a checkpoint before this report's: evaluated() has shown them at its env steps.
    if (group.empty() && entry.key.starts_with(kEvaluationGroup)) continue;
    std::string value;
    put_bytes(value, 1, std::string(group) + entry.key);  // tag
    put_tag(value, 2, fixed32);                           // simple_value
    put_fixed(value, static_cast<float>(*number));
    put_bytes(summary, 1, value);
  }
  std::string event = event_head(report.wall_time_s, report.env_steps);
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

}  // namespace myriad
