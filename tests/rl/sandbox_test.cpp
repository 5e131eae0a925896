// Children enter the sandbox and try what it is to refuse.
#include "rl/sandbox.hpp"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <signal.h>
#include <sys/mount.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <functional>
#include <sstream>

#include "rl/check.hpp"
#include "tests/rl/in_child.hpp"
#include "tests/temporary_folder.hpp"

using namespace myriad;
namespace fs = std::filesystem;

namespace {

constexpr Sandbox::Kernel kNewest{.landlock_abi = 6, .seccomp = true};

struct Folder : TemporaryFolder {
  Folder() {
    std::ofstream(path / "asset") << "wheel";
    fs::create_directory(path / "open");
  }
};

/// What `attempts` says in a child that has entered the sandbox.
std::string inside(const Sandbox& sandbox, const std::function<std::string()>& attempts) {
  return said_in_child([&] {
    sandbox.enter();
    return attempts();
  });
}

/// "open EACCES, ": a call, and how it ended.
std::string tried(const char* what, long result) {
  return fmt::format("{} {}, ", what, result == -1 ? ::strerrorname_np(errno) : "ok");
}
int open_to_write(const fs::path& path, int flags = O_WRONLY) { return ::open(path.c_str(), flags, 0600); }

bool has(const Sandbox::Kernel& wanted) {
  const Sandbox::Kernel kernel = Sandbox::Kernel::probe();
  const bool enough = kernel.landlock_abi >= wanted.landlock_abi && (kernel.seccomp || !wanted.seccomp);
  if (!enough)
    std::printf("SKIPPED: Landlock ABI %d, want %d; seccomp %d\n", kernel.landlock_abi, wanted.landlock_abi,
                kernel.seccomp);
  return enough;
}

TEST_SUITE("rl/sandbox") {
  TEST_CASE("Sandbox: files are read, and nothing is written but below the folder that may be") {
    if (!has({.landlock_abi = 3, .seccomp = true})) return;
    const Folder folder;
    const auto attempts = [&] {
      std::stringstream text;
      text << std::ifstream(folder.path / "asset").rdbuf();
      return text.str() + " " + tried("overwrite", open_to_write(folder.path / "asset")) +
             tried("create", open_to_write(folder.path / "new", O_WRONLY | O_CREAT)) +
             tried("remove", ::unlink((folder.path / "asset").c_str())) +
             tried("rename", ::rename((folder.path / "asset").c_str(), (folder.path / "open/asset").c_str())) +
             tried("truncate", ::truncate((folder.path / "asset").c_str(), 0)) +
             tried("truncate by opening", open_to_write(folder.path / "asset", O_RDONLY | O_TRUNC)) +
             tried("chmod", ::chmod((folder.path / "asset").c_str(), 0777)) +
             tried("inside", open_to_write(folder.path / "open/new", O_WRONLY | O_CREAT)) +
             tried("null", open_to_write("/dev/null", O_WRONLY | O_TRUNC));
    };
    CHECK(inside(Sandbox({.level = "default"}), attempts) ==
          "wheel overwrite EACCES, create EACCES, remove EACCES, rename EACCES, truncate EACCES, truncate by opening "
          "EACCES, chmod EPERM, inside EACCES, null ok, ");
    const std::string some = inside(Sandbox({.level = "default", .writable = folder.path / "open"}), attempts);
    CHECK(some ==
          "wheel overwrite EACCES, create EACCES, remove EACCES, rename EACCES, truncate EACCES, truncate by opening "
          "EACCES, chmod ok, inside ok, null ok, ");
    CHECK(inside(Sandbox({.level = "default", .writable = folder.path / "open"}),
                 [] { return std::string(std::getenv("TMPDIR")); }) == folder.path / "open");
    // As on a kernel whose Landlock does not know truncation.
    CHECK(inside(Sandbox({.level = "default"}, {.landlock_abi = 2, .seccomp = true}), attempts) ==
          "wheel overwrite EACCES, create EACCES, remove EACCES, rename EACCES, truncate EPERM, truncate by opening "
          "EPERM, chmod EPERM, inside EACCES, null ok, ");
    CHECK(fs::file_size(folder.path / "asset") == 5);
  }

  TEST_CASE("Sandbox: a folder for temporary files, and shared memory, without a folder that is given") {
    if (!has({.landlock_abi = 3, .seccomp = true})) return;
    const Folder folder;
    const std::string block = fmt::format("/dev/shm/myriad-test-{}", ::getpid());
    const std::string said =
        inside(Sandbox({.level = "default", .writable = "", .network = false, .temporary = folder.path / "open"}), [&] {
          std::string text = std::string(std::getenv("TMPDIR")) + " ";
          text += tried("inside", open_to_write(folder.path / "open/new", O_WRONLY | O_CREAT));
          text += tried("outside", open_to_write(folder.path / "new", O_WRONLY | O_CREAT));
          text += tried("chmod", ::chmod((folder.path / "asset").c_str(), 0777));
          text += tried("shared memory", open_to_write(block, O_RDWR | O_CREAT | O_EXCL));
          text += tried("its name goes", ::unlink(block.c_str()));
          return text + tried("a folder in it", ::mkdir(block.c_str(), 0700));
        });
    CHECK(said == (folder.path / "open").string() +
                      " inside ok, outside EACCES, chmod EPERM, shared memory ok, its name goes ok, a folder in it "
                      "EACCES, ");
  }

  TEST_CASE("sandbox_hint: what an error tells of a refusal has the setting that allows it") {
    const Sandbox::Options options{.level = "default"};
    const auto names = [&](const Sandbox::Options& of, const std::string& error, const std::string& setting) {
      return sandbox_hint(of, error).find(setting) != std::string::npos;
    };
    CHECK(names(options, "says: PermissionError: [Errno 13] Permission denied: '/some/where'",
                "env_runners.sandbox_write"));
    CHECK(names(options, "FileNotFoundError: No usable temporary directory found in ['/tmp']", "sandbox_write"));
    CHECK(names(options, "socket: Operation not permitted", "env_runners.sandbox_network"));
    CHECK_FALSE(
        names({.level = "default", .writable = "", .network = true}, "Operation not permitted", "sandbox_network"));
    CHECK(sandbox_hint({.level = "off"}, "Permission denied").empty());
    CHECK(sandbox_hint(options, "ValueError: no more fuel").empty());
  }

  TEST_CASE("Sandbox: no sockets but pairs of streams; an environment that needs the network has it") {
    if (!has({.landlock_abi = 0, .seccomp = true})) return;
    const auto attempts = [] {
      int pair[2];
      std::string said =
          tried("unix", ::socket(AF_UNIX, SOCK_STREAM, 0)) + tried("inet", ::socket(AF_INET, SOCK_STREAM, 0)) +
          tried("udp", ::socket(AF_INET6, SOCK_DGRAM, 0)) + tried("vsock", ::socket(AF_VSOCK, SOCK_STREAM, 0)) +
          tried("pair of datagrams", ::socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, pair)) +
          tried("pair", ::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
      sockaddr_un name{};
      name.sun_family = AF_UNIX;
      std::strcpy(name.sun_path, "/nowhere");
      return said + tried("connect", ::connect(pair[0], reinterpret_cast<const sockaddr*>(&name), sizeof name));
    };
    CHECK(inside(Sandbox({.level = "default"}), attempts) ==
          "unix EPERM, inet EPERM, udp EPERM, vsock EPERM, pair of datagrams EPERM, pair ok, connect EPERM, ");
    CHECK(inside(Sandbox({.level = "default", .network = true}), attempts) ==
          "unix ok, inet ok, udp ok, vsock EPERM, pair of datagrams ok, pair ok, connect ENOENT, ");
  }

  TEST_CASE("Sandbox: TCP alone is kept off where seccomp is missing") {
    if (!has({.landlock_abi = 4, .seccomp = false})) return;
    const auto connect = [] {
      const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
      sockaddr_in address{};
      address.sin_family = AF_INET;
      address.sin_port = htons(9);
      address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
      return tried("connect", ::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address));
    };
    const Sandbox::Kernel kernel{.landlock_abi = 4, .seccomp = false};
    CHECK(inside(Sandbox({.level = "default"}, kernel), connect) == "connect EACCES, ");
    CHECK(inside(Sandbox({.level = "default", .network = true}, kernel), connect) == "connect ECONNREFUSED, ");
  }

  TEST_CASE("Sandbox: other processes are out of reach, its own are not") {
    if (!has(kNewest)) return;
    const pid_t tester = ::getpid();
    CHECK(inside(Sandbox({.level = "strict"}), [&] {
            const pid_t own = ::fork();
            if (own == 0) {
              ::pause();
              ::_exit(1);
            }
            std::string said = tried("kill", ::kill(tester, 0)) + tried("kill its own", ::kill(own, SIGKILL));
            ::waitpid(own, nullptr, 0);
            return said + tried("ptrace", ::ptrace(PTRACE_ATTACH, tester, 0, 0)) +
                   tried("memory", ::open(fmt::format("/proc/{}/mem", tester).c_str(), O_RDONLY)) +
                   tried("descriptor", ::syscall(438, ::syscall(SYS_pidfd_open, tester, 0), 0, 0));
          }) == "kill EPERM, kill its own ok, ptrace EPERM, memory EACCES, descriptor EPERM, ");
  }

  TEST_CASE("Sandbox: system calls that no simulator needs fail; threads and processes are made as ever") {
    if (!has({.landlock_abi = 0, .seccomp = true})) return;
    CHECK(inside(Sandbox({.level = "default"}),
                 [] {
                   return tried("mount", ::mount("none", "/mnt", "tmpfs", 0, nullptr)) +
                          tried("bpf", ::syscall(SYS_bpf, 0, nullptr, 0)) +
                          tried("io_uring", ::syscall(SYS_io_uring_setup, 1, nullptr)) +
                          tried("keyctl", ::syscall(SYS_keyctl, 0, 0)) +
                          tried("user namespace", ::unshare(CLONE_NEWUSER)) +
                          tried("clone into one",
                                ::syscall(SYS_clone, CLONE_NEWUSER | SIGCHLD, nullptr, nullptr, nullptr, 0)) +
                          tried("clone3", ::syscall(SYS_clone3, nullptr, 0)) + tried("a shell", std::system("exit 0"));
                 }) ==
          "mount EPERM, bpf EPERM, io_uring EPERM, keyctl EPERM, user namespace EPERM, clone into one EPERM, clone3 "
          "ENOSYS, a shell ok, ");
    CHECK(inside(Sandbox({.level = "default"}), [] {
            rlimit core{}, file{};
            ::getrlimit(RLIMIT_CORE, &core);
            ::getrlimit(RLIMIT_FSIZE, &file);
            return fmt::format("{} {}", core.rlim_max, file.rlim_max);
          }) == "0 4294967296");
  }

  TEST_CASE("Sandbox: says what is in force; strict refuses a host that lacks a part, and names it") {
    CHECK(Sandbox({.level = "default"}, kNewest).describe() == "files, network, signals, system calls");
    CHECK(Sandbox({.level = "strict"}, kNewest).describe() == "files, network, signals, system calls");
    CHECK(Sandbox({.level = "strict", .writable = "/tmp", .network = true}, kNewest).describe() ==
          "files, signals, system calls; sockets are allowed; /tmp can be written");
    CHECK(Sandbox({.level = "default"}, {.landlock_abi = 2, .seccomp = true}).describe() ==
          "files, network, system calls; this host has not: signals (Landlock ABI 6, Linux 6.12)");
    CHECK(Sandbox({.level = "default"}, {}).describe() ==
          "nothing; this host has not: files (Landlock, Linux 5.13), network (seccomp), signals (Landlock ABI "
          "6, Linux 6.12), system calls (seccomp)");
    CHECK(Sandbox({.level = "off"}, kNewest).describe() == "off");
    CHECK(inside(Sandbox({.level = "off"}), [] { return tried("mount", ::kill(::getppid(), 0)); }) == "mount ok, ");
    const auto code = [](const Sandbox::Options& options, Sandbox::Kernel kernel) -> std::string {
      try {
        Sandbox(options, kernel);
      } catch (const Error& error) { return error.code() + ": " + error.what(); }
      return "";
    };
    CHECK(code({.level = "strict"}, {.landlock_abi = 5, .seccomp = true}) ==
          "no-sandbox: env_runners.sandbox is \"strict\", and this host has not: signals (Landlock ABI 6, Linux 6.12); "
          "\"default\" takes what there is");
    CHECK(code({.level = "default", .writable = "/nowhere"}, kNewest) ==
          "no-folder: env_runners.sandbox_write is /nowhere; want the absolute path of a folder that is there");
  }

  TEST_CASE("close_descriptors_but: keeps standard streams and what it is told") {
    const pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      for (const int fd : {50, 51, 52, 53}) ::dup2(STDERR_FILENO, fd);
      close_descriptors_but({52, -1});
      int open = 0;
      for (const int fd : {STDERR_FILENO, 50, 51, 52, 53}) open = 2 * open + (::fcntl(fd, F_GETFD) >= 0);
      ::_exit(open);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    CHECK(WEXITSTATUS(status) == 0b10010);
  }
}

}  // namespace
