#include <doctest/doctest.h>
#include <fcntl.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <cmath>
#include <cstring>
#include <fstream>
#include <functional>
#include <limits>

#include "apps/driver/observers/event_file.hpp"
#include "apps/driver/observers/event_log.hpp"
#include "apps/driver/observers/progress_file.hpp"
#include "apps/driver/observers/results_file.hpp"
#include "apps/driver/resume.hpp"
#include "apps/driver/run_directory.hpp"
#include "rl/check.hpp"
#include "rl/hash.hpp"
#include "tests/error_of.hpp"
#include "tests/temporary_folder.hpp"

namespace myriad {
namespace fs = std::filesystem;
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

Report report(double iteration, double mean) {
  return {{"training_iteration", iteration},
          {"num_env_steps_sampled_lifetime", iteration * 4000},
          {"env_runners/episode_return_mean", mean},
          {"env_runners/num_episodes", 3.0},
          {"learners/default_policy/mean_kl_loss", 0.0125},
          {"note", std::string("a \"quoted\", note")}};
}

/// The files of reports that a resumed run cuts back.
struct ReportFiles {
  ResultsFile results;
  ProgressFile progress;
  explicit ReportFiles(const fs::path& run) : results(run), progress(run) {}
  void write(const Report& rows) {
    results.report({rows, 0, 0.0});
    progress.report({rows, 0, 0.0});
  }
};

/// The descriptor of this process that `path` was opened with.
int descriptor_of(const fs::path& path) {
  for (const fs::directory_entry& entry : fs::directory_iterator("/proc/self/fd")) {
    std::error_code gone;
    if (fs::read_symlink(entry.path(), gone) == path) return std::stoi(entry.path().filename());
  }
  FAIL("not open: " << path);
  return -1;
}

/// What is written to `fd` goes to `path` from now on.
void redirect(int fd, const fs::path& path) {
  const int other = ::open(path.c_str(), O_WRONLY | O_APPEND | O_CLOEXEC);
  REQUIRE(other >= 0);
  REQUIRE(::dup2(other, fd) == fd);
  ::close(other);
}

void append_text(const fs::path& path, std::string_view text) { std::ofstream(path, std::ios::app) << text; }

// ---- a reader of event files, written from the formats' descriptions ----

template <class T>
T take(std::string_view& bytes) {
  T value;
  REQUIRE(bytes.size() >= sizeof value);
  std::memcpy(&value, bytes.data(), sizeof value);
  bytes.remove_prefix(sizeof value);
  return value;
}

uint64_t take_varint(std::string_view& bytes) {
  uint64_t value = 0;
  for (int shift = 0;; shift += 7) {
    const uint8_t byte = take<uint8_t>(bytes);
    value |= uint64_t{byte & 0x7Fu} << shift;
    if (byte < 0x80) return value;
  }
}

uint32_t masked(std::string_view bytes) {
  const uint32_t crc = crc32c(std::as_bytes(std::span(bytes.data(), bytes.size())));
  return ((crc >> 15) | (crc << 17)) + 0xa282ead8u;
}

std::vector<std::string_view> records_of(std::string_view file) {
  std::vector<std::string_view> records;
  while (!file.empty()) {
    const std::string_view length_bytes = file.substr(0, 8);
    const uint64_t length = take<uint64_t>(file);
    CHECK(take<uint32_t>(file) == masked(length_bytes));
    REQUIRE(file.size() >= length + 4);
    records.push_back(file.substr(0, length));
    file.remove_prefix(length);
    CHECK(take<uint32_t>(file) == masked(records.back()));
  }
  return records;
}

struct Event {
  double wall_time = 0;
  uint64_t step = 0;
  std::string file_version;
  uint64_t session_status = 0;
  std::vector<std::pair<std::string, float>> values;
};

std::string_view take_bytes(std::string_view& bytes) {
  const uint64_t length = take_varint(bytes);
  REQUIRE(bytes.size() >= length);
  const std::string_view field = bytes.substr(0, length);
  bytes.remove_prefix(length);
  return field;
}

/// Protobuf: a varint (field << 3 | wire type), then the value.
Event event_of(std::string_view bytes) {
  Event event;
  while (!bytes.empty()) {
    const uint64_t tag = take_varint(bytes);
    if (tag == (1 << 3 | 1)) {
      event.wall_time = take<double>(bytes);
    } else if (tag == (2 << 3 | 0)) {
      event.step = take_varint(bytes);
    } else if (tag == (3 << 3 | 2)) {
      event.file_version = take_bytes(bytes);
    } else if (tag == (7 << 3 | 2)) {
      std::string_view session = take_bytes(bytes);
      CHECK(take_varint(session) == (1 << 3 | 0));
      event.session_status = take_varint(session);
    } else {
      REQUIRE(tag == (5 << 3 | 2));
      for (std::string_view summary = take_bytes(bytes); !summary.empty();) {
        CHECK(take_varint(summary) == (1 << 3 | 2));
        std::string_view value = take_bytes(summary);
        CHECK(take_varint(value) == (1 << 3 | 2));
        const std::string name(take_bytes(value));
        CHECK(take_varint(value) == (2 << 3 | 5));
        event.values.emplace_back(name, take<float>(value));
        CHECK(value.empty());
      }
    }
  }
  return event;
}

}  // namespace

TEST_SUITE("apps/results") {
  TEST_CASE("to_json_line: keys with '/' become nested objects in their order") {
    CHECK(to_json_line(report(3, 212.5)) ==
          R"({"training_iteration": 3, "num_env_steps_sampled_lifetime": 12000, )"
          R"("env_runners": {"episode_return_mean": 212.5, "num_episodes": 3}, )"
          R"("learners": {"default_policy": {"mean_kl_loss": 0.0125}}, "note": "a \"quoted\", note"})");
    CHECK(to_json_line({{"a", kNan}, {"b", HUGE_VAL}, {"c", 0.1}}) == R"({"a": null, "b": null, "c": 0.1})");
    CHECK_THROWS_AS(to_json_line({{"a", 1.0}, {"a/b", 1.0}}), Error);
    CHECK_THROWS_AS(to_json_line({{"a/b", 1.0}, {"a", 1.0}}), Error);
    CHECK_THROWS_AS(to_json_line({{"a", 1.0}, {"a", 1.0}}), Error);
  }

  TEST_CASE("ResultsFile, ProgressFile: one line a report in results.jsonl and progress.csv, readable at once") {
    const TemporaryFolder folder;
    ReportFiles writer(folder.path);
    writer.write(report(1, kNan));
    CHECK(read_file(folder.path / "results.jsonl") == to_json_line(report(1, kNan)) + "\n");
    writer.write(report(2, 212.5));
    CHECK(read_file(folder.path / "results.jsonl") ==
          to_json_line(report(1, kNan)) + "\n" + to_json_line(report(2, 212.5)) + "\n");
    CHECK(read_file(folder.path / "progress.csv") ==
          "training_iteration,num_env_steps_sampled_lifetime,env_runners/episode_return_mean,env_runners/num_episodes,"
          "learners/default_policy/mean_kl_loss,note\n"
          "1,4000,nan,3,0.0125,\"a \"\"quoted\"\", note\"\n"
          "2,8000,212.5,3,0.0125,\"a \"\"quoted\"\", note\"\n");
    CHECK_THROWS_AS(writer.write({{"loss", 1.0}}), Error);
  }

  TEST_CASE("ProgressFile: a value that no report had before gets a column behind its neighbour, also over a restart") {
    const TemporaryFolder folder;
    { ReportFiles(folder.path).write({{"training_iteration", 1.0}, {"a", std::string("x, y")}, {"b", 2.0}}); }
    ReportFiles writer(folder.path);
    writer.write({{"training_iteration", 2.0}, {"late", 9.0}, {"b", 4.0}, {"last", 5.0}});
    writer.write({{"training_iteration", 3.0}, {"b", 6.0}});
    CHECK(read_file(folder.path / "progress.csv") ==
          "training_iteration,late,a,b,last\n1,,\"x, y\",2,\n2,9,,4,5\n3,,,6,\n");
    CHECK(read_file(folder.path / "results.jsonl").find("\"late\": 9") != std::string::npos);
  }

  TEST_CASE("EventLog: events, and the end, are lines of time, kind and text") {
    const TemporaryFolder folder;
    EventLog log(folder.path);
    log.event({1000.5, "start", "2 runners"});
    log.finished({1001.25, "stop", "runner 3: \"SIGSEGV\"\nin libdrone.so \xff"});
    const std::string text = read_file(folder.path / "events.jsonl");
    CHECK(text.starts_with("{\"time\": 1000.500, \"kind\": \"start\", \"text\": \"2 runners\"}\n"));
    const boost::json::value second = boost::json::parse(text.substr(text.find('\n') + 1));
    CHECK(second.at("time").as_double() == 1001.25);
    CHECK(second.at("kind").as_string() == "stop");
    CHECK(std::string(second.at("text").as_string()) == "runner 3: \"SIGSEGV\"\nin libdrone.so ?");
  }

  TEST_CASE("EventFile: TensorBoard's framing and messages, byte by byte") {
    const TemporaryFolder folder;
    EventFile file(folder.path / "tb", 1700000000.5);
    file.report({report(1, kNan), 4000, 1700000001.5});
    file.report({report(2, 212.5), int64_t{1} << 40, 1700000002.5});
    CHECK(file.path().filename().string().starts_with("events.out.tfevents.1700000000."));
    const std::string bytes = read_file(file.path());
    // The first bytes of any file TensorFlow wrote: a record of 24 bytes and the checksum of that length.
    CHECK(masked(std::string_view("\x18\0\0\0\0\0\0\0", 8)) == 0x224b7fa3u);
    // The first record by hand: an Event of 1 + 8 (wall_time), 1 + 1 (step 0), 1 + 1 + 13 ("brain.Event:2") = 26 bytes.
    CHECK(bytes.substr(0, 8) == std::string("\x1a\0\0\0\0\0\0\0", 8));
    CHECK(bytes.substr(12 + 11, 15) ==
          "\x1a\x0d"
          "brain.Event:2");
    const std::vector<std::string_view> records = records_of(bytes);
    REQUIRE(records.size() == 3);
    CHECK(event_of(records[0]).file_version == "brain.Event:2");
    const Event first = event_of(records[1]), second = event_of(records[2]);
    CHECK(first.wall_time == 1700000001.5);
    CHECK(first.step == 4000);
    CHECK(first.values.size() == 4);  // without NaN and the string
    CHECK(second.step == uint64_t{1} << 40);
    REQUIRE(second.values.size() == 5);
    CHECK(second.values[2] == std::pair<std::string, float>("env_runners/episode_return_mean", 212.5f));
  }

  TEST_CASE("EvaluationsFile: a line an evaluation, cut back to those of checkpoints that are there") {
    const TemporaryFolder folder;
    const auto lines = [&] { return read_file(folder.path / "evaluations.jsonl"); };
    {
      EvaluationsFile file(folder.path);
      file.report({report(1, 5), 0, 0.0});  // is none
      for (const double iteration : {2.0, 4.0, 6.0})
        file.evaluated({{{"training_iteration", iteration}, {"env_runners/episode_return_mean", 0.5}}, 0, 0.0});
    }
    const std::string first = "{\"training_iteration\": 2, \"env_runners\": {\"episode_return_mean\": 0.5}}\n";
    CHECK(lines().starts_with(first));
    truncate_results(folder.path, 4);
    CHECK(std::ranges::count(lines(), '\n') == 2);
    truncate_lines(evaluations_up_to(folder.path, 3));
    CHECK(lines() == first);
  }

  TEST_CASE("EventFile: evaluations are at their checkpoint's env steps, and not once more in the report after them") {
    const TemporaryFolder folder;
    EventFile file(folder.path, 1000.0);
    auto written = [&, seen = size_t{0}]() mutable {
      const std::string all = read_file(file.path());
      return all.substr(std::exchange(seen, all.size()));
    };
    written();
    file.evaluated({{{"env_runners/episode_return_mean", 0.5}}, 4000, 1000.0});
    const std::string evaluated = written();
    CHECK(evaluated.find("evaluation/env_runners/episode_return_mean") != std::string::npos);
    CHECK(evaluated.find("\x10\xa0\x1f") != std::string::npos);  // step 4000
    file.report({{{"training_iteration", 7.0}, {"evaluation/env_runners/episode_return_mean", 0.5}}, 8000, 1000.0});
    const std::string reported = written();
    CHECK(reported.find("training_iteration") != std::string::npos);
    CHECK(reported.find("evaluation/") == std::string::npos);
  }

  TEST_CASE("EventFile: a resumed run starts a file that hides what came after its checkpoint") {
    const TemporaryFolder folder;
    const EventFile before(folder.path, 1000.0), after(folder.path, 1000.0, 8000);
    CHECK(before.path() != after.path());
    const std::string bytes = read_file(after.path());
    const std::vector<std::string_view> records = records_of(bytes);
    REQUIRE(records.size() == 2);
    CHECK(event_of(records[1]).session_status == 1);  // SessionLog.START
    CHECK(event_of(records[1]).step == 8000);
  }

  TEST_CASE("truncate_results: cuts back to the checkpoint, and the run goes on as if the rest had not been") {
    const TemporaryFolder cut, straight;
    {
      ReportFiles writer(cut.path);
      for (int i = 1; i <= 5; ++i) writer.write(report(i, 10.0 * i));
    }
    append_text(cut.path / "results.jsonl", "{\"training_iteration\": 6, \"env_run");  // torn by a crash
    append_text(cut.path / "progress.csv", "6,240");
    truncate_results(cut.path, 3);
    {
      ReportFiles again(cut.path);
      for (int i = 4; i <= 5; ++i) again.write(report(i, -1.0 * i));
      ReportFiles writer(straight.path);
      for (int i = 1; i <= 5; ++i) writer.write(report(i, i <= 3 ? 10.0 * i : -1.0 * i));
    }
    for (const char* file : {"results.jsonl", "progress.csv"})
      CHECK(read_file(cut.path / file) == read_file(straight.path / file));
    for (const fs::directory_entry& entry : fs::directory_iterator(cut.path)) CHECK(entry.path().extension() != ".tmp");
  }

  TEST_CASE("truncate_results: a torn last line goes; an earlier one that cannot be read is an error") {
    const TemporaryFolder folder;
    {
      ReportFiles writer(folder.path);
      for (int i = 1; i <= 2; ++i) writer.write(report(i, i));
    }
    const std::string whole = read_file(folder.path / "results.jsonl");
    append_text(folder.path / "results.jsonl", "{\"training_iter");
    truncate_results(folder.path, 10);
    CHECK(read_file(folder.path / "results.jsonl") == whole);
    truncate_results(folder.path, 0);
    CHECK(read_file(folder.path / "results.jsonl").empty());
    CHECK(read_file(folder.path / "progress.csv").find('\n') + 1 == fs::file_size(folder.path / "progress.csv"));

    append_text(folder.path / "results.jsonl", "not json\n" + whole);
    try {
      truncate_results(folder.path, 2);
      FAIL("a broken file was cut");
    } catch (const Error& error) {
      CHECK(error.code() == "corrupt-file");
      CHECK(std::string(error.what()).find("results.jsonl:1:") != std::string::npos);
    }
    CHECK(read_file(folder.path / "results.jsonl") == "not json\n" + whole);
    CHECK_NOTHROW(truncate_results(folder.path / "nowhere", 2));
  }

  TEST_CASE("ResultsFile, ProgressFile: a torn last line is cut off before the next report is appended") {
    const TemporaryFolder folder;
    { ReportFiles(folder.path).write({{"training_iteration", 1.0}}); }
    append_text(folder.path / "results.jsonl", "{\"train");
    append_text(folder.path / "progress.csv", "2");
    ReportFiles(folder.path).write({{"training_iteration", 2.0}});
    CHECK(read_file(folder.path / "results.jsonl") == "{\"training_iteration\": 1}\n{\"training_iteration\": 2}\n");
    CHECK(read_file(folder.path / "progress.csv") == "training_iteration\n1\n2\n");
  }

  TEST_CASE("AppendFile: what a full disk refuses is kept, and what fits is written whole and in order") {
    AppendFile full("/dev/full");
    CHECK_FALSE(full.behind());
    full.append("one\n");
    full.append("two\n");
    CHECK(full.behind());
    const TemporaryFolder folder;
    AppendFile roomy(folder.path / "lines");
    roomy.append("one\n");
    roomy.append("two\n");
    CHECK_FALSE(roomy.behind());
    CHECK(read_file(folder.path / "lines") == "one\ntwo\n");
  }

  TEST_CASE("ResultsFile: a full disk is told once, as is the room that comes back; no line is lost") {
    const TemporaryFolder folder;
    ResultsFile file(folder.path);
    const int fd = descriptor_of(folder.path / "results.jsonl");
    redirect(fd, "/dev/full");
    const Report rows = report(1, 1.0);
    CHECK_FALSE(file.notice().has_value());
    file.report({rows, 0, 1000.5});
    const std::optional<RunEvent> full = file.notice();
    REQUIRE(full.has_value());
    CHECK(full->kind == "disk");
    CHECK(full->text.starts_with("results.jsonl cannot be written"));
    CHECK(full->wall_time_s == 1000.5);
    file.report({rows, 0, 1001.5});
    CHECK_FALSE(file.notice().has_value());
    redirect(fd, folder.path / "results.jsonl");
    file.report({rows, 0, 1002.5});
    const std::optional<RunEvent> room = file.notice();
    REQUIRE(room.has_value());
    CHECK(room->text == "results.jsonl is written again; no line was lost");
    const std::string line = to_json_line(rows) + "\n";
    CHECK(read_file(folder.path / "results.jsonl") == line + line + line);
  }

  TEST_CASE("observers: a folder that cannot be written is an error with the file's name") {
    const std::vector<std::function<void()>> makers{
        [] { ResultsFile("/proc/nowhere"); }, [] { ProgressFile("/proc/nowhere"); }, [] { EventLog("/proc/nowhere"); },
        [] { EventFile("/proc/nowhere/tb", 0.0); }};
    for (const auto& make : makers) {
      const std::string line = error_of(make);
      CHECK(line.starts_with("error[cannot-write] /proc/nowhere/"));
    }
  }
}

}  // namespace myriad
