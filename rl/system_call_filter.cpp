#include "rl/system_call_filter.hpp"

#include <fcntl.h>
#include <linux/audit.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <initializer_list>

namespace myriad {
namespace {

#if defined(__x86_64__)
constexpr uint32_t kArchitecture = AUDIT_ARCH_X86_64;
#elif defined(__aarch64__)
constexpr uint32_t kArchitecture = AUDIT_ARCH_AARCH64;
#else
#error "the system call filter has no name for this architecture"
#endif
constexpr uint32_t kX32Bit = 0x40000000;  // of x86-64's other ABI

// One number on every architecture, newer than some headers.
constexpr int kProcessMadvise = 440, kOpenat2 = 437, kPidfdGetfd = 438, kMountSetattr = 442, kQuotactlFd = 443,
              kFchmodat2 = 452;

constexpr int kRefused[] = {
    // other processes
    SYS_ptrace,
    SYS_process_vm_readv,
    SYS_process_vm_writev,
    kProcessMadvise,
    SYS_kcmp,
    kPidfdGetfd,
    // file systems and namespaces
    SYS_mount,
    SYS_umount2,
    SYS_pivot_root,
    SYS_chroot,
    SYS_move_mount,
    SYS_open_tree,
    SYS_fsopen,
    SYS_fsconfig,
    SYS_fsmount,
    SYS_fspick,
    kMountSetattr,
    SYS_open_by_handle_at,
    SYS_quotactl,
    kQuotactlFd,
    SYS_acct,
    SYS_swapon,
    SYS_swapoff,
    SYS_setns,
    SYS_unshare,
    // the kernel itself
    SYS_bpf,
    SYS_perf_event_open,
    SYS_userfaultfd,
    SYS_io_uring_setup,
    SYS_io_uring_enter,
    SYS_io_uring_register,
    SYS_keyctl,
    SYS_add_key,
    SYS_request_key,
    SYS_kexec_load,
    SYS_kexec_file_load,
    SYS_init_module,
    SYS_finit_module,
    SYS_delete_module,
    SYS_reboot,
    SYS_syslog,
    SYS_settimeofday,
    SYS_clock_settime,
    SYS_clock_adjtime,
    SYS_adjtimex,
    SYS_sethostname,
    SYS_setdomainname,
#ifdef __x86_64__
    SYS_iopl,
    SYS_ioperm,
#endif
};

constexpr int kAttributes[] = {
    SYS_fchmod,   SYS_fchmodat,  kFchmodat2,    SYS_fchown,      SYS_fchownat,     SYS_utimensat,
    SYS_setxattr, SYS_lsetxattr, SYS_fsetxattr, SYS_removexattr, SYS_lremovexattr, SYS_fremovexattr,
#ifdef __x86_64__
    SYS_chmod,    SYS_chown,     SYS_lchown,    SYS_utime,       SYS_utimes,       SYS_futimesat,
#endif
};

constexpr uint32_t kNamespaces =
    CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | CLONE_NEWPID | CLONE_NEWNET;

/// Appends rules; between two of them the accumulator holds the call's number.
class Rules {
 public:
  Rules() {
    load(offsetof(seccomp_data, arch));
    add(BPF_JMP | BPF_JEQ | BPF_K, kArchitecture, 1, 0);
    refuse(ENOSYS);
    load(offsetof(seccomp_data, nr));
#ifdef __x86_64__
    add(BPF_JMP | BPF_JGE | BPF_K, kX32Bit, 0, 1);
    refuse(ENOSYS);
#endif
  }
  void deny(int call, int error = EPERM) {
    add(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(call), 0, 1);
    refuse(error);
  }
  /// Where (argument & mask) is one of `values`: refused, or, `unless`, the only ones that are not.
  void deny_where(int call, int argument, uint32_t mask, std::initializer_list<uint32_t> values, bool unless = false) {
    const auto count = static_cast<uint8_t>(values.size());
    add(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(call), 0, static_cast<uint8_t>(count + 5));
    load(static_cast<uint32_t>(offsetof(seccomp_data, args) + sizeof(uint64_t) * static_cast<size_t>(argument)));
    add(BPF_ALU | BPF_AND | BPF_K, mask, 0, 0);
    uint8_t left = count;
    for (const uint32_t value : values) {  // to "go on" where `unless`, else to "refuse"
      --left;
      add(BPF_JMP | BPF_JEQ | BPF_K, value, static_cast<uint8_t>(left + (unless ? 2 : 1)), 0);
    }
    add(BPF_JMP | BPF_JA, unless ? 0 : 1, 0, 0);
    refuse(EPERM);
    load(offsetof(seccomp_data, nr));  // go on
  }
  std::vector<sock_filter> done() {
    add(BPF_RET | BPF_K, SECCOMP_RET_ALLOW, 0, 0);
    return std::move(program_);
  }

 private:
  void add(int code, uint32_t k, uint8_t if_true, uint8_t if_false) {
    program_.push_back({static_cast<uint16_t>(code), if_true, if_false, k});
  }
  void load(uint32_t offset) { add(BPF_LD | BPF_W | BPF_ABS, offset, 0, 0); }
  void refuse(int error) { add(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | static_cast<uint32_t>(error), 0, 0); }
  std::vector<sock_filter> program_;
};

}  // namespace

std::vector<sock_filter> SystemCallFilter::program() const {
  constexpr uint32_t kAll = UINT32_MAX;
  Rules rules;
  for (const int call : kRefused) rules.deny(call);
  rules.deny(SYS_clone3, ENOSYS);  // its flags lie in memory; libraries fall back to clone
  for (uint32_t space = 1; space != 0; space <<= 1)
    if ((kNamespaces & space) != 0) rules.deny_where(SYS_clone, 0, space, {space});
  rules.deny_where(SYS_ioctl, 1, kAll, {TIOCSTI, TIOCLINUX});  // typing into the terminal
  if (network) {
    rules.deny_where(SYS_socket, 0, kAll, {AF_UNIX, AF_INET, AF_INET6, AF_NETLINK}, true);
  } else {
    for (const int call : {SYS_socket, SYS_connect, SYS_bind, SYS_listen}) rules.deny(call);
    rules.deny_where(SYS_socketpair, 1, 0xf, {SOCK_DGRAM, SOCK_RAW});  // either could send to any unix socket's path
  }
  rules.deny_where(SYS_socketpair, 0, kAll, {AF_UNIX}, true);
  if (!attributes)
    for (const int call : kAttributes) rules.deny(call);
  if (!truncation) {
    rules.deny(SYS_truncate);
    rules.deny(kOpenat2, ENOSYS);  // its flags lie in memory
    rules.deny_where(SYS_openat, 2, O_ACCMODE | O_TRUNC, {O_RDONLY | O_TRUNC, O_ACCMODE | O_TRUNC});
#ifdef __x86_64__
    rules.deny_where(SYS_open, 1, O_ACCMODE | O_TRUNC, {O_RDONLY | O_TRUNC, O_ACCMODE | O_TRUNC});
#endif
  }
  return rules.done();
}

}  // namespace myriad
