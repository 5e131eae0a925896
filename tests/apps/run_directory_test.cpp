#include "apps/driver/run_directory.hpp"

#include <doctest/doctest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <boost/json.hpp>
#include <fstream>
#include <set>

#include "rl/check.hpp"
#include "rl/shell_line.hpp"
#include "tests/temporary_folder.hpp"

namespace myriad {
namespace fs = std::filesystem;
namespace {

/// The error a call throws: its code and exit status; "" when it throws none.
template <class F>
std::string thrown(F&& f, std::string* message = nullptr) {
  try {
    f();
  } catch (const Error& error) {
    if (message != nullptr) *message = error.what();
    return fmt::format("{} {}", error.code(), static_cast<int>(error.exit_status()));
  }
  return "";
}

}  // namespace

TEST_SUITE("apps/run_directory") {
  TEST_CASE("run_name: a number and two words, the same every time and different for 992 runs") {
    CHECK(run_name(1) == "0001-brisk-otter");
    CHECK(run_name(7) == "0007-calm-heron");
    CHECK(run_name(12345).starts_with("12345-"));
    std::set<std::string> words;
    for (int64_t n = 0; n < 992; ++n) words.insert(run_name(n).substr(4));
    CHECK(words.size() == 992);
  }

  TEST_CASE("create_numbered: the next number, whatever else lies there") {
    const TemporaryFolder folder;
    const fs::path out = folder.path / "deep" / "runs";
    {
      const RunDirectory first = RunDirectory::create_numbered(out);
      CHECK(first.path() == out / "0001-brisk-otter");
      CHECK(first.record.id == "0001");
      CHECK(first.record.name == "0001-brisk-otter");
      CHECK(first.record.state == "running");
    }
    fs::create_directory(out / "0041-old-one");
    fs::create_directory(out / "latest");
    fs::create_directory(out / "9-short");
    CHECK(RunDirectory::create_numbered(out).path().filename().string() == run_name(42));
  }

  TEST_CASE("create_exact: exactly this folder, but never over a run") {
    const TemporaryFolder folder;
    const fs::path path = folder.path / "my-run";
    {
      RunDirectory run = RunDirectory::create_exact(path / "");
      CHECK(run.record.name == "my-run");
      CHECK(run.record.id == "my-run");
      run.save();
    }
    std::string message;
    CHECK(thrown([&] { RunDirectory::create_exact(path); }, &message) == "run-exists 4");
    CHECK(message.find("myriad train --resume") != std::string::npos);
    CHECK(RunDirectory::create_exact(folder.path / "0012-calm-heron").record.id == "0012");
  }

  TEST_CASE("RunDirectory: a folder in use is refused naming the process, and free again afterwards") {
    const TemporaryFolder folder;
    const fs::path path = folder.path / "run";
    {
      RunDirectory run = RunDirectory::create_exact(path);
      run.save();
      CHECK(running_pid(path) == ::getpid());
      std::string message;
      CHECK(thrown([&] { RunDirectory::open(path); }, &message) == "run-in-use 4");
      CHECK(message.find(fmt::format("in use by process {}", ::getpid())) != std::string::npos);
      const RunDirectory moved = std::move(run);
      CHECK(running_pid(path) == ::getpid());  // the lock moved along
    }
    CHECK_FALSE(running_pid(path).has_value());
    CHECK_FALSE(running_pid(folder.path / "nowhere").has_value());
    CHECK(RunDirectory::open(path).record.name == "run");
  }

  TEST_CASE("RunDirectory: the lock goes with a process that dies") {
    const TemporaryFolder folder;
    const fs::path path = folder.path / "run";
    int ready[2];
    REQUIRE(::pipe(ready) == 0);
    const pid_t child = ::fork();
    if (child == 0) {
      const RunDirectory run = RunDirectory::create_exact(path);
      run.save();
      if (::write(ready[1], "x", 1) != 1) ::_exit(1);
      for (;;) ::pause();
    }
    char byte;
    REQUIRE(::read(ready[0], &byte, 1) == 1);
    CHECK(running_pid(path) == child);
    CHECK(thrown([&] { RunDirectory::open(path); }) == "run-in-use 4");
    ::kill(child, SIGKILL);
    ::waitpid(child, nullptr, 0);
    CHECK_FALSE(running_pid(path).has_value());
    CHECK(RunDirectory::open(path).record.state == "running");  // it never got to say otherwise
    ::close(ready[0]);
    ::close(ready[1]);
  }

  TEST_CASE("run.json: the record goes round, in plain JSON") {
    const TemporaryFolder folder;
    RunDirectory run = RunDirectory::create_exact(folder.path / "run");
    run.record.start_time_s = 1700000000.25;
    run.save();
    CHECK_FALSE(read_run(run.path()).end_time_s.has_value());
    CHECK_FALSE(read_run(run.path()).best.has_value());
    run.record.join = "myriad agent --connect tcp://10.0.0.5:7777 --run 12";
    CHECK(boost::json::parse(to_json(run.record)).at("join").as_string() == run.record.join);
    run.record.join.clear();  // the driver's to write anew each time, so never read

    run.record.state = "finished";
    run.record.end_time_s = 1700000058.5;
    run.record.exit_reason = "episode_return_mean reached \"475\"";
    run.record.last_iteration = 12;
    run.record.last_step = 9007199254740993;
    run.record.best = 497.25;
    run.save();
    const RunRecord again = read_run(run.path());
    CHECK(to_json(again) == to_json(run.record));
    CHECK(again.last_step == 9007199254740993);
    CHECK(again.exit_reason == run.record.exit_reason);
    const boost::json::value json = boost::json::parse(read_file(run.path() / "run.json"));
    CHECK(json.at("start").as_string() == "2023-11-14T22:13:20Z");
    CHECK(json.at("state").as_string() == "finished");
    CHECK(json.at("best").as_double() == 497.25);
  }

  TEST_CASE("open: a folder without a run, and a record that cannot be read, are refused") {
    const TemporaryFolder folder;
    CHECK(thrown([&] { RunDirectory::open(folder.path); }) == "no-run 2");
    std::ofstream(folder.path / "run.json") << "{\"id\": ";
    CHECK(thrown([&] { RunDirectory::open(folder.path); }) == "corrupt-file 4");
    std::ofstream(folder.path / "run.json") << "{\"id\": 7}";
    CHECK(thrown([&] { RunDirectory::open(folder.path); }) == "corrupt-file 4");
    CHECK_FALSE(running_pid(folder.path).has_value());  // the refused open let the lock go
  }

  TEST_CASE("write_setup: command, configs and system beside the record") {
    const TemporaryFolder folder;
    const RunDirectory run = RunDirectory::create_numbered(folder.path);
    run.write_setup({"myriad", "train", "cartpole-ppo", "training.lr=[[0, 1e-3]]", "it's"}, "seed = 1\n",
                    "seed = 1\n#all\n", "0.1.0");
    CHECK(read_file(run.path() / "command.txt") == "myriad train cartpole-ppo 'training.lr=[[0, 1e-3]]' 'it'\\''s'\n");
    CHECK(read_file(run.path() / "config.toml") == "seed = 1\n");
    CHECK(read_file(run.path() / "config.effective.toml") == "seed = 1\n#all\n");
    const boost::json::value system = boost::json::parse(read_file(run.path() / "system.json"));
    CHECK(system.at("version").as_string() == "0.1.0");
    CHECK(system.at("cores").as_int64() >= 1);
    CHECK(system.at("memory_bytes").as_int64() > 1 << 20);
    CHECK(std::string(system.at("kernel").as_string()).starts_with("Linux "));
  }

  TEST_CASE("write_atomically: replaces a file whole, leaves no other behind") {
    const TemporaryFolder folder;
    const fs::path file = folder.path / "file";
    write_atomically(file, "first, and longer");
    write_atomically(file, "second");
    CHECK(read_file(file) == "second");
    CHECK(std::distance(fs::directory_iterator(folder.path), fs::directory_iterator()) == 1);
    std::string message;
    CHECK(thrown([&] { write_atomically(folder.path / "no" / "file", "x"); }, &message) == "cannot-write 4");
    CHECK(message.find("No such file or directory") != std::string::npos);
    CHECK(thrown([&] { read_file(folder.path / "nothing"); }) == "cannot-read 4");
  }

  TEST_CASE("command_name: what the user typed, fit for a shell") {
    ::unsetenv("MYRIAD_COMMAND");
    CHECK(command_name() == "myriad");
    ::setenv("MYRIAD_COMMAND", "./myriad", 1);
    CHECK(command_name() == "./myriad");
    ::setenv("MYRIAD_COMMAND", "../my clone/myriad", 1);
    CHECK(command_name() == "'../my clone/myriad'");
    ::unsetenv("MYRIAD_COMMAND");
  }

  TEST_CASE("shell_line and json_string: what they write reads back") {
    CHECK(shell_line({}) == "");
    CHECK(shell_line({"a", "", "b c", "$HOME"}) == "a '' 'b c' '$HOME'");
    CHECK(json_string("a\"\\\n\x01") == "\"a\\\"\\\\\\n\\u0001\"");
    CHECK(json_string("\xc3\xa9") == "\"\xc3\xa9\"");
    CHECK(json_string("\xff!") == "\"?!\"");
  }
}

}  // namespace myriad
