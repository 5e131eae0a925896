#include "rl/machine.hpp"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

#include "rl/private_folder.hpp"
#include "rl/processes.hpp"
#include "rl/simulator/address.hpp"
#include "tests/temporary_folder.hpp"

namespace myriad {
namespace fs = std::filesystem;
namespace {

void put(const fs::path& path, const std::string& text) {
  fs::create_directories(path.parent_path());
  std::ofstream(path) << text;
}

/// Sets a variable of this process for as long as it lives.
struct Variable {
  Variable(const char* which, const std::string& value)
      : name(which), before(std::getenv(which) ? std::getenv(which) : "") {
    ::setenv(name, value.c_str(), 1);
  }
  ~Variable() { before.empty() ? ::unsetenv(name) : ::setenv(name, before.c_str(), 1); }
  const char* name;
  std::string before;
};

TEST_SUITE("rl/machine") {
  TEST_CASE("cores_within_quota: of control groups v1 and v2, the smallest on the way to the root") {
    const TemporaryFolder folder;
    const fs::path v2 = folder.path / "v2", v1 = folder.path / "v1";
    put(v2 / "own", "0::/a/b\n");
    CHECK(cores_within_quota(64, v2, v2 / "own") == 64);
    put(v2 / "a/b/cpu.max", "max 100000\n");
    CHECK(cores_within_quota(64, v2, v2 / "own") == 64);
    put(v2 / "a/cpu.max", "250000 100000\n");
    CHECK(cores_within_quota(64, v2, v2 / "own") == 3);
    put(v2 / "a/b/cpu.max", "50000 100000\n");
    CHECK(cores_within_quota(64, v2, v2 / "own") == 1);
    put(v2 / "a/b/cpu.max", "800000 100000\n");
    CHECK(cores_within_quota(2, v2, v2 / "own") == 2);

    put(v1 / "own", "5:memory:/x\n4:cpu,cpuacct:/job\n0::/\n");
    put(v1 / "cpu/job/cpu.cfs_quota_us", "-1\n");
    put(v1 / "cpu/job/cpu.cfs_period_us", "100000\n");
    CHECK(cores_within_quota(64, v1, v1 / "own") == 64);
    put(v1 / "cpu/job/cpu.cfs_quota_us", "400000\n");
    CHECK(cores_within_quota(64, v1, v1 / "own") == 4);
    CHECK(cores_within_quota(64, v1, v1 / "missing") == 64);
  }

  TEST_CASE("usable_cores: those of the affinity, not of the machine") {
    const pid_t child = ::fork();
    if (child == 0) {
      cpu_set_t all;
      ::sched_getaffinity(0, sizeof all, &all);
      for (int core = 0, kept = 0; core < CPU_SETSIZE; ++core)
        if (CPU_ISSET(core, &all) && kept++ > 0) CPU_CLR(core, &all);
      ::sched_setaffinity(0, sizeof all, &all);
      ::_exit(usable_cores());
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    CHECK(WEXITSTATUS(status) == 1);
  }

  TEST_CASE("rename_file: over what is there; what cannot be is told") {
    const TemporaryFolder folder;
    put(folder.path / "new", "new");
    put(folder.path / "old", "old");
    CHECK(rename_file(folder.path / "new", folder.path / "old") == 0);
    CHECK_FALSE(fs::exists(folder.path / "new"));
    CHECK(rename_file(folder.path / "new", folder.path / "old") == ENOENT);
  }

  TEST_CASE("sync_to_disk: where there is nothing to be synced it is no error") {
    int ends[2];
    REQUIRE(::pipe(ends) == 0);
    CHECK(sync_to_disk(ends[1]) == 0);
    CHECK(sync_to_disk(-1) == EBADF);
  }

  TEST_CASE("as_error: what the machine refuses is the machine's, with the path") {
    try {
      (void)fs::file_size("/nowhere/at/all");
    } catch (const std::exception& error) {
      CHECK(as_error(error).line() == "error[file-system] /nowhere/at/all: No such file or directory");
      CHECK(as_error(error).exit_status() == Exit::resource);
    }
    CHECK(as_error(std::bad_alloc()).code() == "out-of-memory");
    CHECK(as_error(std::runtime_error("x")).line() == "error[internal] x");
    CHECK(as_error(Error(Exit::usage, "bad", "y")).line() == "error[bad] y");
  }

  TEST_CASE("temporary_directory: TMPDIR, or another where it is missing, no folder or too long") {
    const TemporaryFolder folder;
    {
      const Variable set("TMPDIR", folder.path);
      CHECK(temporary_directory() == folder.path);
      CHECK(temporary_directory(4) == "/tmp");
    }
    put(folder.path / "file", "");
    for (const std::string& bad : {folder.path.string() + "/nowhere", folder.path.string() + "/file"}) {
      const Variable set("TMPDIR", bad);
      CHECK(temporary_directory() == "/tmp");
    }
    std::string path;
    {
      const PrivateFolder made(folder.path);
      path = made.path();
      put(fs::path(path) / "deep/file", "x");
      CHECK((fs::status(path).permissions() & fs::perms::others_all) == fs::perms::none);
    }
    CHECK_FALSE(fs::exists(path));
  }

  TEST_CASE("end_processes_with: those that were started with the variables, whoever their parent is") {
    const std::string mine = fmt::format("MYRIAD_TEST={}-1", ::getpid());
    const auto start = [](const std::string& variable) {
      const pid_t pid = ::fork();
      if (pid == 0) {
        ::prctl(PR_SET_PDEATHSIG, SIGKILL);
        ::setsid();
        const char* const argv[]{"sleep", "1000", nullptr};
        const char* const environment[]{"PATH=/usr/bin:/bin", variable.c_str(), nullptr};
        ::execvpe("sleep", const_cast<char**>(argv), const_cast<char**>(environment));
        ::_exit(1);
      }
      // Until it is the other program: before that it has this one's environment.
      while (fs::read_symlink(fmt::format("/proc/{}/exe", pid)) == fs::read_symlink("/proc/self/exe")) ::sched_yield();
      return pid;
    };
    const pid_t one = start(mine), other = start(mine + "0"),
                third = start(fmt::format("MYRIAD_TEST={}-2", ::getpid()));
    const auto ended = [](pid_t pid) {
      siginfo_t info{};
      return ::waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOHANG | WNOWAIT) == 0 && info.si_pid == pid;
    };
    end_processes_with({mine});
    int status = 0;
    CHECK(::waitpid(one, &status, 0) == one);
    CHECK(WTERMSIG(status) == SIGKILL);
    CHECK_FALSE(ended(other));
    end_processes_with({mine.substr(0, mine.size() - 1) + "*", "PATH=/nowhere"});
    CHECK_FALSE(ended(other));
    end_processes_with({mine.substr(0, mine.size() - 1) + "*", "PATH=*"});
    CHECK(::waitpid(other, &status, 0) == other);
    CHECK(::waitpid(third, &status, 0) == third);
  }

  TEST_CASE("addresses: an IPv6 address is in brackets") {
    CHECK(simulator::with_port("::1", 7) == "[::1]:7");
    CHECK(simulator::with_port("[::1]", 7) == "[::1]:7");
    CHECK(simulator::with_port("127.0.0.1", 7) == "127.0.0.1:7");
    int listener = -1;
    try {
      listener = simulator::listen_at("[::1]:0");
    } catch (const std::runtime_error&) { return; }  // a machine without IPv6
    CHECK(listener >= 0);
    ::close(listener);
  }
}

}  // namespace
}  // namespace myriad
