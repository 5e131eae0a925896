// The filter's program, run on every call by an interpreter of classic BPF; and by the kernel, without Landlock.
#include "rl/system_call_filter.hpp"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <map>
#include <set>
#include <string>

#include "tests/rl/in_child.hpp"

namespace myriad {
namespace {

#if defined(__x86_64__)
constexpr uint32_t kHere = AUDIT_ARCH_X86_64, kElsewhere = AUDIT_ARCH_I386;
#elif defined(__aarch64__)
constexpr uint32_t kHere = AUDIT_ARCH_AARCH64, kElsewhere = AUDIT_ARCH_ARM;
#endif
constexpr int kMaxCall = 600;

/// What the test expects is written again here: a call that the filter's own list loses is one that it misses.
const std::map<std::string, int>& refused_calls() {
  static const std::map<std::string, int> calls{
      {"ptrace", SYS_ptrace},
      {"process_vm_readv", SYS_process_vm_readv},
      {"process_vm_writev", SYS_process_vm_writev},
      {"process_madvise", 440},
      {"kcmp", SYS_kcmp},
      {"pidfd_getfd", 438},
      {"mount", SYS_mount},
      {"umount2", SYS_umount2},
      {"pivot_root", SYS_pivot_root},
      {"chroot", SYS_chroot},
      {"move_mount", SYS_move_mount},
      {"open_tree", SYS_open_tree},
      {"fsopen", SYS_fsopen},
      {"fsconfig", SYS_fsconfig},
      {"fsmount", SYS_fsmount},
      {"fspick", SYS_fspick},
      {"mount_setattr", 442},
      {"open_by_handle_at", SYS_open_by_handle_at},
      {"quotactl", SYS_quotactl},
      {"quotactl_fd", 443},
      {"acct", SYS_acct},
      {"swapon", SYS_swapon},
      {"swapoff", SYS_swapoff},
      {"setns", SYS_setns},
      {"unshare", SYS_unshare},
      {"bpf", SYS_bpf},
      {"perf_event_open", SYS_perf_event_open},
      {"userfaultfd", SYS_userfaultfd},
      {"io_uring_setup", SYS_io_uring_setup},
      {"io_uring_enter", SYS_io_uring_enter},
      {"io_uring_register", SYS_io_uring_register},
      {"keyctl", SYS_keyctl},
      {"add_key", SYS_add_key},
      {"request_key", SYS_request_key},
      {"kexec_load", SYS_kexec_load},
      {"kexec_file_load", SYS_kexec_file_load},
      {"init_module", SYS_init_module},
      {"finit_module", SYS_finit_module},
      {"delete_module", SYS_delete_module},
      {"reboot", SYS_reboot},
      {"syslog", SYS_syslog},
      {"settimeofday", SYS_settimeofday},
      {"clock_settime", SYS_clock_settime},
      {"clock_adjtime", SYS_clock_adjtime},
      {"adjtimex", SYS_adjtimex},
      {"sethostname", SYS_sethostname},
      {"setdomainname", SYS_setdomainname},
#ifdef __x86_64__
      {"iopl", SYS_iopl},
      {"ioperm", SYS_ioperm},
#endif
  };
  return calls;
}

const std::map<std::string, int>& attribute_calls() {
  static const std::map<std::string, int> calls{
      {"fchmod", SYS_fchmod},
      {"fchmodat", SYS_fchmodat},
      {"fchmodat2", 452},
      {"fchown", SYS_fchown},
      {"fchownat", SYS_fchownat},
      {"utimensat", SYS_utimensat},
      {"setxattr", SYS_setxattr},
      {"lsetxattr", SYS_lsetxattr},
      {"fsetxattr", SYS_fsetxattr},
      {"removexattr", SYS_removexattr},
      {"lremovexattr", SYS_lremovexattr},
      {"fremovexattr", SYS_fremovexattr},
#ifdef __x86_64__
      {"chmod", SYS_chmod},
      {"chown", SYS_chown},
      {"lchown", SYS_lchown},
      {"utime", SYS_utime},
      {"utimes", SYS_utimes},
      {"futimesat", SYS_futimesat},
#endif
  };
  return calls;
}

using Arguments = std::array<uint64_t, 6>;

/// What the program says of a call: 0 allowed, else the error.
int verdict(const std::vector<sock_filter>& program, int call, const Arguments& arguments = {}, uint32_t arch = kHere) {
  seccomp_data data{};
  data.nr = call;
  data.arch = arch;
  std::memcpy(data.args, arguments.data(), sizeof data.args);
  uint32_t accumulator = 0;
  for (size_t at = 0; at < program.size(); ++at) {
    const sock_filter& rule = program[at];
    switch (rule.code) {
      case BPF_LD | BPF_W | BPF_ABS:
        if (rule.k + sizeof accumulator > sizeof data) FAIL("it reads beyond the call");
        std::memcpy(&accumulator, reinterpret_cast<const std::byte*>(&data) + rule.k, sizeof accumulator);
        break;
      case BPF_ALU | BPF_AND | BPF_K:
        accumulator &= rule.k;
        break;
      case BPF_JMP | BPF_JA:
        at += rule.k;
        break;
      case BPF_JMP | BPF_JEQ | BPF_K:
        at += accumulator == rule.k ? rule.jt : rule.jf;
        break;
      case BPF_JMP | BPF_JGE | BPF_K:
        at += accumulator >= rule.k ? rule.jt : rule.jf;
        break;
      case BPF_RET | BPF_K:
        if (rule.k == SECCOMP_RET_ALLOW) return 0;
        if ((rule.k & SECCOMP_RET_ACTION_FULL) != SECCOMP_RET_ERRNO) FAIL("it does more than refuse");
        return static_cast<int>(rule.k & SECCOMP_RET_DATA);
      default:
        FAIL("an instruction of code ", rule.code);
    }
  }
  FAIL("the program ends without a verdict");
  return 0;
}

/// {call, error} of every call that is refused when all its arguments are zero.
std::map<int, int> refused_by(const SystemCallFilter& filter) {
  const auto program = filter.program();
  std::map<int, int> refused;
  for (int call = 0; call < kMaxCall; ++call)
    if (const int error = verdict(program, call); error != 0) refused[call] = error;
  return refused;
}

constexpr SystemCallFilter kNarrow{}, kWide{.network = true, .attributes = true, .truncation = true};

}  // namespace

TEST_SUITE("rl/system_call_filter") {
  TEST_CASE("SystemCallFilter: exactly the calls of the list are refused whatever their arguments, one by one") {
    std::map<int, int> always;
    for (const auto& [name, call] : refused_calls()) always[call] = EPERM;
    always[SYS_clone3] = ENOSYS;
    // A pair of family 0 is none of unix's, nor is a socket; with the network a socket of family 0 is refused, too.
    std::map<int, int> wide = always, narrow = always;
    wide[SYS_socket] = wide[SYS_socketpair] = EPERM;
    CHECK(refused_by(kWide) == wide);
    for (const int call : {SYS_socket, SYS_socketpair, SYS_connect, SYS_bind, SYS_listen}) narrow[call] = EPERM;
    for (const auto& [name, call] : attribute_calls()) narrow[call] = EPERM;
    narrow[SYS_truncate] = EPERM;
    narrow[437] = ENOSYS;  // openat2
    CHECK(refused_by(kNarrow) == narrow);
    const Arguments all{UINT64_MAX, UINT64_MAX, UINT64_MAX, UINT64_MAX, UINT64_MAX, UINT64_MAX};
    for (const auto& [call, error] : always) {
      CAPTURE(call);
      CHECK(verdict(kWide.program(), call, all) == error);
      CHECK(verdict(kNarrow.program(), call, all) == error);
    }
    for (const int call : {SYS_read, SYS_write, SYS_mmap, SYS_futex, SYS_execve, SYS_kill, SYS_sendto, SYS_ftruncate,
                           SYS_memfd_create, SYS_sched_setaffinity})
      CHECK(verdict(kNarrow.program(), call, all) == 0);
  }

  TEST_CASE("SystemCallFilter: each option opens what it names and nothing else") {
    const auto opened = [](const SystemCallFilter& filter) {
      std::set<int> calls;
      for (const auto& [call, error] : refused_by(kNarrow))
        if (!refused_by(filter).contains(call)) calls.insert(call);
      return calls;
    };
    CHECK(opened({.network = true}) == std::set<int>{SYS_connect, SYS_bind, SYS_listen});
    std::set<int> attributes;
    for (const auto& [name, call] : attribute_calls()) attributes.insert(call);
    CHECK(opened({.attributes = true}) == attributes);
    CHECK(opened({.truncation = true}) == std::set<int>{SYS_truncate, 437});
  }

  TEST_CASE("SystemCallFilter: clone makes threads and processes, and no namespace") {
    const std::set<uint64_t> namespaces{CLONE_NEWNS,   CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC,
                                        CLONE_NEWUSER, CLONE_NEWPID,    CLONE_NEWNET};
    const auto program = kWide.program();
    for (uint64_t flag = 1; flag <= UINT32_MAX; flag <<= 1) {
      CAPTURE(flag);
      const int want = namespaces.contains(flag) ? EPERM : 0;
      CHECK(verdict(program, SYS_clone, {flag}) == want);
      CHECK(verdict(program, SYS_clone, {flag | CLONE_VM | CLONE_THREAD | 17}) == want);
    }
  }

  TEST_CASE("SystemCallFilter: families of sockets and pairs") {
    const auto narrow = kNarrow.program(), wide = kWide.program();
    const auto pair_of = [](int type) { return Arguments{AF_UNIX, static_cast<uint64_t>(type)}; };
    for (uint64_t family = 0; family < 64; ++family) {
      CAPTURE(family);
      const bool known = family == AF_UNIX || family == AF_INET || family == AF_INET6 || family == AF_NETLINK;
      CHECK(verdict(wide, SYS_socket, {family, SOCK_STREAM}) == (known ? 0 : EPERM));
      CHECK(verdict(narrow, SYS_socket, {family, SOCK_STREAM}) == EPERM);
      for (const auto* program : {&narrow, &wide})
        CHECK(verdict(*program, SYS_socketpair, {family, SOCK_STREAM}) == (family == AF_UNIX ? 0 : EPERM));
    }
    for (const int flags : {0, int{SOCK_CLOEXEC}, int{SOCK_NONBLOCK}, SOCK_CLOEXEC | SOCK_NONBLOCK}) {
      CHECK(verdict(narrow, SYS_socketpair, pair_of(SOCK_STREAM | flags)) == 0);
      CHECK(verdict(narrow, SYS_socketpair, pair_of(SOCK_SEQPACKET | flags)) == 0);
      CHECK(verdict(narrow, SYS_socketpair, pair_of(SOCK_DGRAM | flags)) == EPERM);
      CHECK(verdict(narrow, SYS_socketpair, pair_of(SOCK_RAW | flags)) == EPERM);  // a datagram pair, too
      CHECK(verdict(wide, SYS_socketpair, pair_of(SOCK_DGRAM | flags)) == 0);
    }
  }

  TEST_CASE("SystemCallFilter: nothing is typed into the terminal; opens truncate only where they write") {
    const auto narrow = kNarrow.program(), wide = kWide.program();
    for (const auto* program : {&narrow, &wide}) {
      for (const unsigned request : {TIOCSTI, TIOCLINUX}) CHECK(verdict(*program, SYS_ioctl, {1, request}) == EPERM);
      for (const unsigned request : {TCGETS, TIOCGWINSZ, FIONREAD, FIOCLEX})
        CHECK(verdict(*program, SYS_ioctl, {1, request}) == 0);
    }
    for (const unsigned access : {O_RDONLY, O_WRONLY, O_RDWR, O_ACCMODE})
      for (const unsigned flags : {0, O_TRUNC, O_TRUNC | O_CREAT | O_CLOEXEC, O_CREAT}) {
        CAPTURE(access);
        CAPTURE(flags);
        const bool wants_write = access == O_WRONLY || access == O_RDWR;  // which Landlock knows
        const int want = (flags & O_TRUNC) != 0 && !wants_write ? EPERM : 0;
        CHECK(verdict(narrow, SYS_openat, {3, 0, access | flags}) == want);
        CHECK(verdict(wide, SYS_openat, {3, 0, access | flags}) == 0);
#ifdef __x86_64__
        CHECK(verdict(narrow, SYS_open, {0, access | flags}) == want);
        CHECK(verdict(wide, SYS_open, {0, access | flags}) == 0);
#endif
      }
  }

  TEST_CASE("SystemCallFilter: another architecture's calls, and another ABI's, do not exist") {
    for (const auto& program : {kNarrow.program(), kWide.program()}) {
      for (int call = 0; call < kMaxCall; ++call) {
        CHECK(verdict(program, call, {}, kElsewhere) == ENOSYS);
#ifdef __x86_64__
        CHECK(verdict(program, call | 0x40000000) == ENOSYS);  // x32
#endif
      }
    }
  }

  TEST_CASE("SystemCallFilter: the kernel refuses each call of the list, with the filter alone") {
    // Arguments of all ones, with which none of them would do anything.
    const auto program = kNarrow.program();
    const std::string said = said_in_child([&program] {
      const sock_fprog rules{static_cast<unsigned short>(program.size()), const_cast<sock_filter*>(program.data())};
      std::string wrong;
      const auto tried = [&](const std::string& name, long result, int want) {
        if (result != -1 || errno != want) wrong += name + " ";
      };
      if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0 ||
          ::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &rules) != 0)
        return std::string("SKIPPED");
      for (const auto* calls : {&refused_calls(), &attribute_calls()})
        for (const auto& [name, call] : *calls) tried(name, ::syscall(call, -1L, -1L, -1L, -1L, -1L, -1L), EPERM);
      tried("clone3", ::syscall(SYS_clone3, nullptr, 0), ENOSYS);
      int pair[2];
      for (const int family : {AF_INET, AF_INET6, AF_NETLINK, AF_VSOCK})
        tried("socketpair", ::socketpair(family, SOCK_STREAM, 0, pair), EPERM);
      if (::socketpair(AF_UNIX, SOCK_STREAM, 0, pair) != 0) wrong += "pair";
      return wrong;
    });
    if (said == "SKIPPED") {
      std::printf("SKIPPED: no seccomp here\n");
      return;
    }
    CHECK(said == "");
  }
}

}  // namespace myriad
