#include "env_runners/memory_watch.hpp"

#include <doctest/doctest.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <map>

#include "rl/check.hpp"
#include "tests/temporary_folder.hpp"

using namespace myriad;
namespace fs = std::filesystem;

namespace {

/// A watch over a host of 1000 bytes: below 50 it stops runners, until 80.
struct Rig {
  std::optional<uint32_t> step(int ms, uint64_t available) {
    return watch.step(
        std::chrono::milliseconds(ms), available, 1000, [this](uint32_t slot) { return rss.at(slot); }, running);
  }
  MemoryWatch watch{MemoryWatch::Options{}};
  std::map<uint32_t, uint64_t> rss = {{0, 10}, {1, 30}, {2, 20}};
  std::vector<uint32_t> running = {0, 1, 2};
};

/// A root with its own /proc and /sys/fs/cgroup.
struct FakeRoot {
  void put(const std::string& path, const std::string& text) const {
    fs::create_directories((root / path).parent_path());
    std::ofstream(root / path) << text;
  }
  void put_meminfo() const {
    put("proc/meminfo", "MemTotal:          10000 kB\nMemFree:  5 kB\nMemAvailable:     4000 kB\n");
  }
  HostMemory read() const { return read_host_memory(root.string()); }
  TemporaryFolder folder;
  const fs::path& root = folder.path;
};

}  // namespace

TEST_SUITE("env_runners/memory_watch") {
  TEST_CASE("MemoryWatch: with enough available no runner is looked at") {
    Rig rig;
    rig.rss.clear();  // at() would throw
    CHECK(!rig.step(0, 1000));
    CHECK(!rig.step(1, 50));
    CHECK(!rig.watch.short_of_memory());
    CHECK(!rig.watch.step(
        Time(2), 0, 0, [](uint32_t) -> uint64_t { return 1; }, rig.running));  // unknown
  }

  TEST_CASE("MemoryWatch: the largest runner goes, then the next one") {
    Rig rig;
    CHECK(rig.step(1000, 49) == 1);
    CHECK(rig.watch.short_of_memory());
    rig.running = {0, 2};
    CHECK(rig.step(1500, 49) == 2);
    rig.running = {0};
    CHECK(rig.step(2000, 49) == 0);
    rig.running = {};
    CHECK(!rig.step(2500, 49));
  }

  TEST_CASE("MemoryWatch: at most one each 250 ms") {
    Rig rig;
    CHECK(rig.step(1000, 49) == 1);
    rig.running = {0, 2};
    CHECK(!rig.step(1249, 49));
    CHECK(rig.step(1250, 49) == 2);
  }

  TEST_CASE("MemoryWatch: none while the last one has not gone, even after a while") {
    Rig rig;
    CHECK(rig.step(0, 49) == 1);
    CHECK(!rig.step(60'000, 0));
    rig.watch.gone(0);  // another one
    CHECK(!rig.step(60'001, 0));
    rig.watch.gone(1);  // and its slot has a new process already
    rig.rss[1] = 1;
    CHECK(rig.step(60'002, 0) == 2);
  }

  TEST_CASE("MemoryWatch: hysteresis: it goes on until the release share and starts again below the reserve") {
    Rig rig;
    CHECK(rig.step(0, 49) == 1);
    rig.running = {0, 2};
    CHECK(rig.step(1000, 79) == 2);  // above the reserve, not yet released
    rig.running = {0};
    CHECK(!rig.step(2000, 80));  // released
    CHECK(!rig.step(3000, 60));  // above the reserve
    CHECK(rig.step(4000, 49) == 0);
  }

  TEST_CASE("MemoryWatch: a runner that holds nothing is not named") {
    Rig rig;
    rig.rss = {{0, 0}, {1, 0}, {2, 0}};
    CHECK(!rig.step(0, 1));
    rig.rss[2] = 1;
    CHECK(rig.step(1, 1) == 2);  // the interval counts from the last one named
  }

  TEST_CASE("MemoryWatch: shares out of order are refused") {
    CHECK_THROWS_AS(MemoryWatch({.reserve_share = 0.2, .release_share = 0.1}), Error);
    CHECK_THROWS_AS(MemoryWatch({.reserve_share = 0.2, .release_share = 1.1}), Error);
  }

  TEST_CASE("read_host_memory: the host's, when no group has a limit") {
    FakeRoot fake;
    CHECK(fake.read().total == 0);  // unknown
    fake.put_meminfo();
    SUBCASE("no groups") {}
    SUBCASE("v1 without a limit") {
      fake.put("proc/self/cgroup", "4:memory:/\n");
      fake.put("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n");
      fake.put("sys/fs/cgroup/memory/memory.usage_in_bytes", "100\n");
    }
    SUBCASE("v2 without a limit") {
      fake.put("proc/self/cgroup", "0::/job\n");
      fake.put("sys/fs/cgroup/job/memory.max", "max\n");
      fake.put("sys/fs/cgroup/job/memory.current", "100\n");
    }
    SUBCASE("a group with more left than the host") {
      fake.put("proc/self/cgroup", "0::/\n");
      fake.put("sys/fs/cgroup/memory.max", "1000\n");
      fake.put("sys/fs/cgroup/memory.current", "100\n");
    }
    CHECK(fake.read().total == 10000 * 1024);
    CHECK(fake.read().available == 4000 * 1024);
  }

  TEST_CASE("read_host_memory: the own group's limit; page cache it can drop counts as available") {
    FakeRoot fake;
    fake.put_meminfo();
    SUBCASE("v1") {
      fake.put("proc/self/cgroup", "4:memory:/job\n");
      fake.put("sys/fs/cgroup/memory/job/memory.limit_in_bytes", "1000\n");
      fake.put("sys/fs/cgroup/memory/job/memory.usage_in_bytes", "950\n");
      fake.put("sys/fs/cgroup/memory/job/memory.stat", "inactive_file 7\ntotal_inactive_file 50\n");
    }
    SUBCASE("v1, mounted without the outer part of the path") {
      fake.put("proc/self/cgroup", "4:memory:/docker/123\n");
      fake.put("sys/fs/cgroup/memory/memory.limit_in_bytes", "1000\n");
      fake.put("sys/fs/cgroup/memory/memory.usage_in_bytes", "900\n");
    }
    SUBCASE("v2") {
      fake.put("proc/self/cgroup", "0::/job\n");
      fake.put("sys/fs/cgroup/job/memory.max", "1000\n");
      fake.put("sys/fs/cgroup/job/memory.current", "950\n");
      fake.put("sys/fs/cgroup/job/memory.stat", "anon 3\ninactive_file 50\n");
    }
    SUBCASE("v2 beside v1 hierarchies, the tighter one further up") {
      fake.put("proc/self/cgroup", "0::/job/step\n");
      fake.put("sys/fs/cgroup/unified/job/memory.max", "1000\n");
      fake.put("sys/fs/cgroup/unified/job/memory.current", "900\n");
      fake.put("sys/fs/cgroup/unified/job/step/memory.max", "500\n");
      fake.put("sys/fs/cgroup/unified/job/step/memory.current", "400\n");
    }
    CHECK(fake.read().total == 1000);
    CHECK(fake.read().available == 100);
  }

  TEST_CASE("read_host_memory: this machine") {
    const HostMemory memory = read_host_memory();
    CHECK(memory.available > 0);
    CHECK(memory.available <= memory.total);
  }

  TEST_CASE("resident_bytes: grows with what is touched; 0 for a process that is gone") {
    const uint64_t before = resident_bytes(::getpid());
    CHECK(before > 0);
    constexpr size_t kBytes = 8 << 20;
    void* memory = ::mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    REQUIRE(memory != MAP_FAILED);
    for (size_t at = 0; at < kBytes; at += 4096) static_cast<volatile char*>(memory)[at] = 1;
    CHECK(resident_bytes(::getpid()) >= before + kBytes / 2);  // the kernel's count lags a little
    ::munmap(memory, kBytes);
    CHECK(resident_bytes(1 << 30) == 0);
  }

  TEST_CASE("prefer_for_oom: the kernel has the score") {
    const pid_t pid = ::fork();
    if (pid == 0) {
      prefer_for_oom(500);
      int score = 0;
      std::ifstream("/proc/self/oom_score_adj") >> score;
      ::_exit(score == 500 ? 0 : 1);
    }
    REQUIRE(pid > 0);
    int status = 0;
    CHECK(::waitpid(pid, &status, 0) == pid);
    CHECK(status == 0);
  }
}
