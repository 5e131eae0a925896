#include "apps/driver/launcher.hpp"

#include <doctest/doctest.h>
#include <sys/wait.h>

#include <algorithm>
#include <csignal>
#include <deque>
#include <filesystem>
#include <fstream>

#include "apps/driver/janitor.hpp"
#include "apps/driver/launchers/local.hpp"
#include "apps/driver/run_directory.hpp"
#include "rl/check.hpp"
#include "tests/error_of.hpp"
#include "tests/simulation/driver_harness.hpp"
#include "tests/temporary_folder.hpp"

namespace myriad {
namespace {

namespace fs = std::filesystem;
using driver_harness::kRun;
using driver_harness::Outputs;
using Role = RunProcess::Role;

/// A launcher that starts nothing: what it was asked, and the ends that it is to report.
struct FakeLauncher final : Launcher {
  std::vector<RunProcess> started, killed;
  std::deque<Ended> ends;
  bool refuses_agents = false, refuses_learners = false, agents_end_at_once = false;
  int kills_of_all = 0;

  void begin(const RunAddress&, const std::string&) override {}
  void start(const RunProcess& process) override {
    started.push_back(process);
    if (process.role == Role::agent ? refuses_agents : refuses_learners)
      fail(Exit::resource, "spawn-failed", "no node is free");
    if (agents_end_at_once && process.role == Role::agent) ends.push_back({process, "exit status 1"});
  }
  void kill(const RunProcess& process, int signal) override {
    if (signal == SIGKILL) killed.push_back(process);
  }
  void kill_all() override { ++kills_of_all; }
  std::optional<Ended> ended() override {
    if (ends.empty()) return std::nullopt;
    const Ended ended = ends.front();
    ends.pop_front();
    return ended;
  }
  size_t starts_of(Role role) const {
    return static_cast<size_t>(std::ranges::count(started, role, &RunProcess::role));
  }
};

/// A driver of one learner and two agents, whose processes are the launcher's.
struct Driver {
  FakeLauncher launcher;
  DriverCore core;
  Time now = std::chrono::seconds(1);
  Outputs others;  // that are not for the launcher

  explicit Driver(DriverCore::Options options = driver_harness::Run::options()) : core(std::move(options)) {}
  void step(const DriverCore::Input& input) {
    Outputs outputs;
    core.step(input, now, outputs);
    for (const DriverCore::Output& output : outputs) {
      if (const auto failed = carry_out(output, launcher)) step(*failed);
      others.push_back(output);
    }
  }
  void pass(Time time) {
    now += time;
    while (const auto ended = launcher.ended()) step(input_of(*ended));
    step(DriverCore::Tick{});
  }
  template <class T>
  void receive(T body, const std::string& peer) {
    Message message = make_message(std::move(body));
    message.run = kRun;
    step(DriverCore::Received{peer, std::move(message)});
  }
  void learner_hello() {
    wire::LearnerHelloT hello;
    hello.protocol = kProtocolVersion;
    receive(std::move(hello), "learner-0");
  }
  const DriverCore::Finished* finished() const { return find<DriverCore::Finished>(others); }
};

std::string fake_program(const std::string& script) { return "#!/bin/sh\n" + script; }

/// A folder with programs in place of the learner and the host agent.
struct Programs {
  TemporaryFolder folder;
  Programs(const std::string& learner, const std::string& agent) {
    for (const auto& [name, script] : {std::pair("myriad-learner", learner), {"myriad-host-agent", agent}}) {
      std::ofstream(folder.path / name) << fake_program(script);
      fs::permissions(folder.path / name, fs::perms::owner_all);
    }
  }
  std::string logs() const { return (folder.path / "logs").string(); }
};

Launcher::Ended wait_for_end(LocalLauncher& launcher) {
  siginfo_t info{};
  REQUIRE(::waitid(P_ALL, 0, &info, WEXITED | WNOWAIT) == 0);
  const auto ended = launcher.ended();
  REQUIRE(ended.has_value());
  return *ended;
}

}  // namespace

TEST_SUITE("apps/launcher") {
  TEST_CASE("find_launcher: the names are those of hosts.launcher; another one is refused with them") {
    Config config;
    std::vector<std::string> names;
    for (const LauncherInfo& info : launchers()) names.push_back(info.name);
    const std::vector<SettingRow> rows = setting_rows(config);
    const auto row =
        std::ranges::find_if(rows, [](const SettingRow& r) { return r.group == "hosts" && r.key == "launcher"; });
    REQUIRE(row != rows.end());
    CHECK(row->type == fmt::format("{}", fmt::join(names, " | ")));
    CHECK(find_launcher("local").starts_agents);
    CHECK_FALSE(find_launcher("none").starts_agents);
    CHECK(error_of([] { find_launcher("mainframe"); }) ==
          "error[unknown-launcher] hosts.launcher is mainframe; known: local, none");
  }

  TEST_CASE("a launcher that cannot start agents: each is tried, then the run ends with its words") {
    Driver driver;
    driver.launcher.refuses_agents = true;
    driver.step(DriverCore::Start{});
    CHECK(driver.launcher.starts_of(Role::agent) == 2);
    driver.launcher.ends.push_back({{Role::learner, 0, 0}, "exit status 0"});
    driver.pass(std::chrono::seconds(1));
    REQUIRE(driver.finished() != nullptr);
    CHECK(driver.finished()->exit == Exit::resource);
    CHECK(driver.finished()->error_code == "spawn-failed");
    CHECK(driver.finished()->reason.find("no node is free") != std::string::npos);
  }

  TEST_CASE("a launcher that cannot start the learner: the run ends with its words") {
    Driver driver;
    driver.launcher.refuses_learners = true;
    driver.step(DriverCore::Start{});
    for (const RunProcess& process : driver.launcher.started)
      if (process.role == Role::agent) driver.launcher.ends.push_back({process, "SIGKILL"});
    driver.pass(std::chrono::seconds(1));
    REQUIRE(driver.finished() != nullptr);
    CHECK(driver.finished()->exit == Exit::resource);
    CHECK(driver.finished()->error_code == "spawn-failed");
    CHECK(driver.finished()->reason.find("no node is free") != std::string::npos);
  }

  TEST_CASE("agents that end at once are started again under new incarnations, then given up") {
    DriverCore::Options options = driver_harness::Run::options();
    options.fleet.agents.max_failures_in_a_row = 3;
    Driver driver(options);
    driver.launcher.agents_end_at_once = true;
    driver.step(DriverCore::Start{});
    for (int i = 0; i < 10; ++i) {
      driver.pass(std::chrono::seconds(1));
      driver.learner_hello();
    }
    for (const uint32_t agent : {0u, 1u}) {
      std::vector<uint32_t> incarnations;
      for (const RunProcess& process : driver.launcher.started)
        if (process.role == Role::agent && process.index == agent) incarnations.push_back(process.incarnation);
      CHECK(incarnations == std::vector<uint32_t>{0, 1, 2});
    }
    driver.launcher.ends.push_back({{Role::learner, 0, 0}, "exit status 0"});
    driver.pass(std::chrono::seconds(1));
    REQUIRE(driver.finished() != nullptr);
    CHECK(driver.finished()->error_code == "agents-lost");
    CHECK(driver.finished()->reason.find("exit status 1") != std::string::npos);
  }

  TEST_CASE("an agent that has drained is no crash: its place is filled at once") {
    Driver driver;
    driver.step(DriverCore::Start{});
    driver.launcher.ends.push_back({{Role::agent, 1, 0}, "exit status 75", true});
    driver.pass(std::chrono::seconds(1));
    CHECK(driver.launcher.started.back() == RunProcess{Role::agent, 1, 1});
  }

  TEST_CASE("a slow launcher: an agent has 60 s to its first word; then it is killed, and replaced when it has ended") {
    Driver driver;
    driver.step(DriverCore::Start{});
    driver.learner_hello();
    const Time begin = driver.now;
    while (driver.now + std::chrono::seconds(5) < begin + std::chrono::seconds(60)) {
      driver.pass(std::chrono::seconds(5));
      driver.learner_hello();
      CHECK(driver.launcher.killed.empty());
    }
    driver.pass(std::chrono::seconds(10));
    CHECK(std::ranges::count(driver.launcher.killed, RunProcess{Role::agent, 0, 0}) == 1);
    CHECK(std::ranges::count(driver.launcher.killed, RunProcess{Role::agent, 1, 0}) == 1);
    driver.learner_hello();
    driver.pass(std::chrono::seconds(5));
    CHECK(driver.launcher.starts_of(Role::agent) == 2);  // it has not said that they ended
    CHECK(driver.launcher.kills_of_all == 0);
  }

  TEST_CASE("LocalLauncher: a process is told its run, and its end comes with cause and last lines, once") {
    const Programs programs("echo first; echo \"$@\"; exit 3", "exit 75");
    Janitor janitor;
    std::optional<LocalLauncher> launcher(std::in_place, janitor, programs.folder.path.string());
    launcher->begin({.run = 7, .control = "ipc:///tmp/driver", .keys = "/keys"}, programs.logs());
    launcher->start({Role::learner, 1, 4});
    const Launcher::Ended ended = wait_for_end(*launcher);
    CHECK(ended.process == RunProcess{Role::learner, 1, 4});
    CHECK_FALSE(ended.drained);
    CHECK(ended.cause == fmt::format("exit status 3; its last lines:\n  first\n  --control ipc:///tmp/driver --run 7 "
                                     "--parent {} --keys /keys --shard 1 --incarnation 4",
                                     ::getpid()));
    CHECK_FALSE(launcher->ended().has_value());
    CHECK(fs::exists(programs.logs() + "/learner.txt"));

    launcher->start({Role::agent, 3, 0});
    const Launcher::Ended drained = wait_for_end(*launcher);
    CHECK(drained.process == RunProcess{Role::agent, 3, 0});
    CHECK(drained.drained);
    CHECK(drained.cause == "exit status 75");
    launcher.reset();
    CHECK_FALSE(fs::exists(programs.logs() + "/host-agent-0003.txt"));  // it printed nothing
  }

  TEST_CASE("LocalLauncher: kill() meets the process that was meant; what is left ends with the launcher") {
    const Programs programs("exec sleep 1000", "exec sleep 1000");
    std::string sockets;
    {
      Janitor janitor;
      sockets = janitor.socket_directory();
      CHECK(fs::is_directory(sockets));
      LocalLauncher launcher(janitor, programs.folder.path.string());
      launcher.begin({.run = 7, .control = "ipc:///tmp/driver", .keys = ""}, programs.logs());
      launcher.start({Role::agent, 0, 0});
      launcher.start({Role::agent, 0, 1});
      launcher.start({Role::learner, 0, 1});
      launcher.kill({Role::agent, 0, 2}, SIGKILL);  // none
      launcher.kill({Role::agent, 0, 1}, SIGKILL);
      const Launcher::Ended ended = wait_for_end(launcher);
      CHECK(ended.process == RunProcess{Role::agent, 0, 1});
      CHECK(ended.cause == "SIGKILL");
    }
    CHECK(::waitpid(-1, nullptr, WNOHANG) == -1);  // no child is left
    CHECK_FALSE(fs::exists(sockets));
  }
}

}  // namespace myriad
