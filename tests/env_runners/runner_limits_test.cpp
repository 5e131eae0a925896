#include "env_runners/runner_limits.hpp"

#include <doctest/doctest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <ctime>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <sstream>

#include "rl/check.hpp"
#include "tests/temporary_folder.hpp"

using namespace myriad;
namespace fs = std::filesystem;

namespace {

/// A directory laid out like a cgroup mount. The kernel would fill a new group with its control files; here the test
/// does so beforehand, and takes them away before the group can be removed.
struct FakeCgroups {
  FakeCgroups() { put("self", "0::/\n"); }
  void put(const std::string& path, const std::string& text = "") const {
    fs::create_directories((root / path).parent_path());
    std::ofstream(root / path) << text;
  }
  void group(const std::string& path, std::initializer_list<const char*> files) const {
    for (const char* file : files) put(path + "/" + file);
  }
  std::string get(const std::string& path) const {
    std::stringstream text;
    text << std::ifstream(root / path).rdbuf();
    return text.str();
  }
  void empty(const std::string& path) const {
    for (const auto& entry : fs::directory_iterator(root / path)) fs::remove(entry.path());
  }
  RunnerLimits::Options options(uint64_t memory_bytes, double cpus) const {
    return {.memory_bytes = memory_bytes,
            .cpus = cpus,
            .run = "walk",
            .agent = 2,
            .cgroup_root = root.string(),
            .proc_self_cgroup = (root / "self").string()};
  }
  TemporaryFolder folder;
  const fs::path& root = folder.path;
};

constexpr uint64_t kMiB = 1 << 20;
constexpr int kSurvived = 7;

/// A forked child that runs `body` once `admit` has returned; its wait status.
int run_child(const std::function<void(int pid)>& admit, const std::function<void()>& body) {
  int gate[2];
  REQUIRE(::pipe(gate) == 0);
  const pid_t pid = ::fork();
  if (pid == 0) {
    char byte;
    ::close(gate[1]);
    if (::read(gate[0], &byte, 1) == 1) body();
    ::_exit(kSurvived);
  }
  REQUIRE(pid > 0);
  ::close(gate[0]);
  admit(pid);
  CHECK(::write(gate[1], "x", 1) == 1);
  ::close(gate[1]);
  int status = 0;
  CHECK(::waitpid(pid, &status, 0) == pid);
  return status;
}

void* map(size_t bytes) { return ::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0); }

RunnerLimits::Options real(uint64_t memory_bytes, double cpus) {
  return {.memory_bytes = memory_bytes, .cpus = cpus, .run = fmt::format("test-{}", ::getpid())};
}

/// The slot's directory in this machine's own v1 hierarchy.
std::string real_group(const char* controller, uint32_t slot) {
  const std::string mount = fmt::format("/sys/fs/cgroup/{}", controller);
  const std::string own = own_cgroup("/proc/self/cgroup", controller);
  return fmt::format("{}{}/myriad.test-{}.0.{}", mount, fs::exists(mount + own) ? own : "", ::getpid(), slot);
}

}  // namespace

TEST_SUITE("env_runners/runner_limits") {
  TEST_CASE("own_cgroup: of a v1 controller, of v2, and none") {
    FakeCgroups fake;
    fake.put("self", "5:memory:/job/7\n4:cpu,cpuacct:/\n3:cpuset:/../other\n0::/user.slice\n");
    const std::string self = (fake.root / "self").string();
    CHECK(own_cgroup(self, "memory") == "/job/7");
    CHECK(own_cgroup(self, "cpuacct") == "");
    CHECK(own_cgroup(self, "cpuset") == "");  // outside this cgroup namespace
    CHECK(own_cgroup(self, "pids") == "");
    CHECK(own_cgroup(self, "") == "/user.slice");
    CHECK(own_cgroup(self + "-missing", "memory") == "");
  }

  TEST_CASE("RunnerLimits: no limits, no groups, nothing to say") {
    FakeCgroups fake;
    fake.put("memory/memory.limit_in_bytes");
    RunnerLimits limits(fake.options(0, 0));
    CHECK(limits.describe() == "");
    CHECK(limits.admit(1, 0) == "");
    CHECK(limits.apply_in_child() == "");
    CHECK(std::distance(fs::directory_iterator(fake.root / "memory"), {}) == 1);
    CHECK_THROWS_AS(RunnerLimits(fake.options(0, -1)), Error);
  }

  TEST_CASE("RunnerLimits: cgroup v2 gets the controllers enabled, the limits and the process") {
    FakeCgroups fake;
    std::string mount;
    SUBCASE("at the root") { mount = ""; }
    SUBCASE("beside v1 hierarchies") { mount = "unified/"; }
    fake.put(mount + "cgroup.controllers", "cpuset cpu io memory pids\n");
    fake.put(mount + "cgroup.subtree_control", "memory io\n");
    const std::string group = mount + "myriad.walk.2.3";
    {
      RunnerLimits limits(fake.options(64 * kMiB, 0.5));
      CHECK(limits.describe() == "runner limits: cgroup v2: memory 64 MiB, 0.5 cores");
      CHECK(fake.get(mount + "cgroup.subtree_control") == "+cpu");  // memory was there
      fake.group(group, {"memory.max", "memory.swap.max", "cpu.max", "cgroup.procs"});
      CHECK(limits.admit(4711, 3) == "");
      CHECK(fake.get(group + "/memory.max") == "67108864");
      CHECK(fake.get(group + "/memory.swap.max") == "0");
      CHECK(fake.get(group + "/cpu.max") == "50000 100000");
      CHECK(fake.get(group + "/cgroup.procs") == "4711");
      CHECK(limits.admit(4712, 3) == "");  // the slot's next incarnation
      CHECK(fake.get(group + "/cgroup.procs") == "4712");
      fake.empty(group);
    }
    CHECK(!fs::exists(fake.root / group));
  }

  TEST_CASE("RunnerLimits: in cgroup v2 the groups lie in the nearest group that can have children") {
    FakeCgroups fake;
    fake.put("self", "0::/job/step\n");
    fake.put("cgroup.controllers", "cpu memory\n");
    fake.put("cgroup.subtree_control", "cpu memory\n");
    fake.put("job/cgroup.controllers", "cpu memory\n");
    fake.put("job/cgroup.subtree_control", "memory\n");
    fake.put("job/step/cgroup.controllers", "memory\n");
    fake.put("job/step/memory.max", "max\n");
    // A directory in its place cannot be written, as in a group that holds processes.
    fs::create_directory(fake.root / "job/step/cgroup.subtree_control");

    SUBCASE("one above, when the own one has no limit") {
      fake.group("job/myriad.walk.2.0", {"memory.max", "cgroup.procs"});
      RunnerLimits limits(fake.options(kMiB, 0));
      CHECK(limits.admit(4711, 0) == "");
      CHECK(fake.get("job/myriad.walk.2.0/memory.max") == "1048576");
    }
    SUBCASE("not by leaving a limit behind") {
      fake.put("job/step/memory.max", "123456\n");
      RunnerLimits limits(fake.options(kMiB, 0));
      CHECK(limits.describe() == "runner limits: rlimit: memory 1 MiB, counted as mapped and not as used");
    }
  }

  TEST_CASE("RunnerLimits: cgroup v1 gets the limits and the process in each hierarchy") {
    FakeCgroups fake;
    fake.put("self", "2:memory:/job\n1:cpu:/elsewhere\n");
    fake.put("unified/cgroup.controllers", "hugetlb\n");  // as on hybrid hosts
    fake.put("memory/memory.limit_in_bytes");
    fake.put("memory/job/memory.limit_in_bytes");
    fake.put("cpu/cpu.cfs_quota_us");
    const std::string memory = "memory/job/myriad.walk.2.1", cpu = "cpu/myriad.walk.2.1";
    {
      RunnerLimits limits(fake.options(64 * kMiB, 0.5));
      CHECK(limits.describe() == "runner limits: cgroup v1: memory 64 MiB, 0.5 cores");
      fake.group(memory, {"memory.limit_in_bytes", "memory.memsw.limit_in_bytes", "cgroup.procs"});
      fake.group(cpu, {"cpu.cfs_period_us", "cpu.cfs_quota_us", "cgroup.procs"});
      CHECK(limits.admit(4711, 1) == "");
      CHECK(fake.get(memory + "/memory.limit_in_bytes") == "67108864");
      CHECK(fake.get(memory + "/memory.memsw.limit_in_bytes") == "67108864");
      CHECK(fake.get(memory + "/cgroup.procs") == "4711");
      CHECK(fake.get(cpu + "/cpu.cfs_period_us") == "100000");
      CHECK(fake.get(cpu + "/cpu.cfs_quota_us") == "50000");
      CHECK(fake.get(cpu + "/cgroup.procs") == "4711");
      fake.empty(memory);
      fake.empty(cpu);
    }
    CHECK(!fs::exists(fake.root / memory));
    CHECK(!fs::exists(fake.root / cpu));
  }

  TEST_CASE("RunnerLimits: memory in v2 and the CPU in v1; a trouble in one slot is told") {
    FakeCgroups fake;
    fake.put("unified/cgroup.controllers", "memory\n");
    fake.put("unified/cgroup.subtree_control", "memory\n");
    fake.put("cpu/cpu.cfs_quota_us");
    RunnerLimits limits(fake.options(3 * kMiB + 1, 2));
    CHECK(limits.describe() == "runner limits: cgroup v2: memory 3145729 bytes; cgroup v1: 2 cores");
    const std::string path = (fake.root / "unified/myriad.walk.2.9/memory.max").string();
    CHECK(limits.admit(1, 9) == "runner limits of slot 9: " + path + ": No such file or directory");
  }

  TEST_CASE("RunnerLimits: a forked copy removes nothing") {
    FakeCgroups fake;
    fake.put("cpu/cpu.cfs_quota_us");
    auto limits = std::make_unique<RunnerLimits>(fake.options(0, 1));
    CHECK(limits->admit(1, 0) != "");  // the group is there, without files
    run_child([](int) {}, [&] { limits.reset(); });
    CHECK(fs::exists(fake.root / "cpu/myriad.walk.2.0"));
    limits.reset();
    CHECK(!fs::exists(fake.root / "cpu/myriad.walk.2.0"));
  }

  TEST_CASE("RunnerLimits: sweep removes the run's empty groups and no others") {
    FakeCgroups fake;
    fake.put("self", "2:memory:/job\n0::/step\n");
    fake.put("unified/cgroup.controllers", "memory\n");
    const std::vector<std::string> left = {"memory/job/myriad.walk.0.1", "memory/myriad.walk.12.0",
                                           "cpu/myriad.walk.0.1", "unified/step/myriad.walk.0.1"};
    const std::vector<std::string> kept = {"memory/myriad.walk.b.0.1", "memory/myriad.walker.0.1",
                                           "memory/myriad.walk.0", "memory/myriad.walk.0.x",
                                           "memory/job/myriad.walk.0.2"};
    for (const auto* paths : {&left, &kept})
      for (const std::string& path : *paths) fs::create_directories(fake.root / path);
    fake.put("memory/job/myriad.walk.0.2/in-use");
    RunnerLimits::sweep(fake.root.string(), "walk", (fake.root / "self").string());
    for (const std::string& path : left) CHECK_MESSAGE(!fs::exists(fake.root / path), path);
    for (const std::string& path : kept) CHECK_MESSAGE(fs::exists(fake.root / path), path);
    RunnerLimits::sweep((fake.root / "nothing").string(), "walk");
  }

  TEST_CASE("RunnerLimits: without control groups the address space is limited") {
    FakeCgroups fake;
    RunnerLimits limits(fake.options(64 * kMiB, 0.5));
    CHECK(limits.describe() ==
          "runner limits: rlimit: memory 64 MiB, counted as mapped and not as used; "
          "the CPU share cannot be limited here");
    const int status = run_child([&](int pid) { CHECK(limits.admit(pid, 0) == ""); },
                                 [&] {
                                   if (map(256 * kMiB) == MAP_FAILED) ::_exit(1);
                                   if (limits.apply_in_child() != "") ::_exit(2);
                                   rlimit core{};
                                   if (::getrlimit(RLIMIT_CORE, &core) != 0 || core.rlim_max != 0) ::_exit(3);
                                   if (map(256 * kMiB) != MAP_FAILED) ::_exit(4);
                                 });
    CHECK(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == kSurvived);
  }

  TEST_CASE("RunnerLimits: on this machine a runner over its memory limit is killed") {
    RunnerLimits limits(real(64 * kMiB, 0));
    if (limits.describe().find("cgroup") == std::string::npos) {
      MESSAGE("not run: no memory controller to write to");
      return;
    }
    const auto touch = [&](size_t bytes) {
      return run_child([&](int pid) { CHECK(limits.admit(pid, 5) == ""); },
                       [&] {
                         if (limits.apply_in_child() != "") ::_exit(1);
                         char* memory = static_cast<char*>(map(bytes));
                         for (size_t at = 0; at < bytes; at += 4096) static_cast<volatile char*>(memory)[at] = 1;
                       });
    };
    const int killed = touch(160 * kMiB);
    CHECK(WIFSIGNALED(killed));
    CHECK(WTERMSIG(killed) == SIGKILL);
    const int survived = touch(16 * kMiB);  // the slot's group serves the next one
    CHECK(WIFEXITED(survived));
    CHECK(WEXITSTATUS(survived) == kSurvived);
  }

  TEST_CASE("RunnerLimits: on this machine a runner over its CPU share is throttled, and its group goes in the end") {
    const std::string group = real_group("cpu", 6);
    {
      RunnerLimits limits(real(0, 0.02));
      if (limits.describe().find("cgroup v1") == std::string::npos) {
        MESSAGE("not run: no v1 CPU controller to write to");
        return;
      }
      const int status = run_child([&](int pid) { CHECK(limits.admit(pid, 6) == ""); },
                                   [] {  // 12 ms of CPU time at 2 ms in 100 ms
                                     const auto limit = ::clock() + 12 * CLOCKS_PER_SEC / 1000;
                                     while (::clock() < limit) {}
                                   });
      CHECK(WIFEXITED(status));
      uint64_t throttled = 0;
      std::ifstream file(group + "/cpu.stat");
      for (std::string key, value; file >> key >> value;)
        if (key == "nr_throttled") throttled = std::stoull(value);
      CHECK(throttled > 0);
    }
    CHECK(!fs::exists(group));
  }
}
