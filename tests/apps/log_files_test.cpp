#include "apps/driver/log_files.hpp"

#include <doctest/doctest.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>

#include "apps/driver/event_tally.hpp"
#include "tests/temporary_folder.hpp"

namespace myriad {
namespace fs = std::filesystem;
namespace {

std::string text_of(const fs::path& path) {
  std::stringstream text;
  text << std::ifstream(path).rdbuf();
  return text.str();
}

void print(const LogFiles::Process& process, const std::string& text) {
  CHECK(::write(process.output, text.data(), text.size()) == std::ssize(text));
}

TEST_SUITE("apps/log_files") {
  TEST_CASE("LogFiles: what processes print is in their file; the last lines are of one of them") {
    const TemporaryFolder folder;
    const std::string path = folder.path / "learner.txt", empty = folder.path / "silent.txt";
    {
      LogFiles logs;
      const LogFiles::Process first = logs.begin(path);
      print(first, "one\ntwo\n");
      CHECK(logs.last_lines(first) == "one\n  two");
      const LogFiles::Process second = logs.begin(path), silent = logs.begin(empty);
      CHECK(logs.last_lines(second) == "");
      print(second, "three\n");
      CHECK(logs.last_lines(second) == "three");
      CHECK(logs.last_lines(silent) == "");
      for (const auto& process : {first, second, silent}) ::close(process.output);
    }
    CHECK(text_of(path) == "one\ntwo\nthree\n");
    CHECK_FALSE(fs::exists(empty));
  }

  TEST_CASE("LogFiles: a file is bounded, and the newest lines stay") {
    const TemporaryFolder folder;
    const std::string path = folder.path / "agent.txt";
    LogFiles logs(1000);
    const LogFiles::Process process = logs.begin(path);
    for (int i = 0; i < 100; ++i) {
      print(process, fmt::format("line {:04} {}\n", i, std::string(90, 'x')));
      (void)logs.last_lines(process);  // is written
    }
    CHECK(logs.last_lines(process).ends_with("line 0099 " + std::string(90, 'x')));
    CHECK(fs::file_size(path) <= 1000);
    CHECK(fs::file_size(path + ".1") <= 1000);
    size_t files = 0;
    for (const auto& entry : fs::directory_iterator(folder.path)) files += entry.is_regular_file();
    CHECK(files == 2);
    ::close(process.output);
  }

  TEST_CASE("LogFiles: a disk that takes nothing stops no process") {
    const TemporaryFolder folder;
    fs::create_symlink("/dev/full", folder.path / "full.txt");
    LogFiles logs;
    const LogFiles::Process process = logs.begin(folder.path / "full.txt");
    for (int i = 0; i < 10; ++i) {
      print(process, std::string(60'000, 'x'));  // a pipe that is not emptied holds 64 KiB
      CHECK(logs.last_lines(process) == "");
    }
    ::close(process.output);
  }

  TEST_CASE("EventTally: alike but for numbers is one cause, told twenty times and then by its count") {
    EventTally tally;
    int told = 0;
    std::string last;
    for (int i = 1; i <= 1000; ++i)
      if (const auto text = tally.told("runner-down", fmt::format("runner {} ended at {}.5 s: SIGSEGV", i % 7, i)))
        ++told, last = *text;
    CHECK(told == 22);
    CHECK(last == "runner 6 ended at 1000.5 s: SIGSEGV (the 1000th of its kind; the next one is told at 10000)");
    CHECK(tally.told("runner-down", "runner 1 ended at 1.5 s: SIGKILL") == "runner 1 ended at 1.5 s: SIGKILL");
    for (int i = 1; i <= 1000; ++i)
      REQUIRE(tally.told("checkpoint", fmt::format("iteration {} saved", i)) == fmt::format("iteration {} saved", i));
  }
}

}  // namespace
}  // namespace myriad
