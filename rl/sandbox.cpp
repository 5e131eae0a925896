#include "rl/sandbox.hpp"

#include <fcntl.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <vector>

#include "rl/check.hpp"
#include "rl/config.hpp"
#include "rl/system.hpp"
#include "rl/system_call_filter.hpp"

namespace myriad {
namespace {

namespace fs = std::filesystem;

constexpr int kAbiTruncate = 3, kAbiTcp = 4, kAbiScopes = 6;
constexpr const char* kSharedMemory = "/dev/shm";
constexpr rlim_t kMaxDescriptors = 4096;
constexpr rlim_t kMaxFileBytes = rlim_t{4} << 30;  // its log among them

/// landlock_ruleset_attr as of ABI 6; older kernels take its beginning.
struct Ruleset {
  uint64_t files, tcp, scopes;
};
constexpr uint64_t kTruncate = 1 << 14;
constexpr uint64_t kTcpBind = 1 << 0, kTcpConnect = 1 << 1;
constexpr uint64_t kScopeAbstractSockets = 1 << 0, kScopeSignals = 1 << 1;

uint64_t changes_of_files(int abi) {
  uint64_t rights = LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_REMOVE_DIR | LANDLOCK_ACCESS_FS_REMOVE_FILE |
                    LANDLOCK_ACCESS_FS_MAKE_CHAR | LANDLOCK_ACCESS_FS_MAKE_DIR | LANDLOCK_ACCESS_FS_MAKE_REG |
                    LANDLOCK_ACCESS_FS_MAKE_SOCK | LANDLOCK_ACCESS_FS_MAKE_FIFO | LANDLOCK_ACCESS_FS_MAKE_BLOCK |
                    LANDLOCK_ACCESS_FS_MAKE_SYM;
  if (abi >= 2) rights |= LANDLOCK_ACCESS_FS_REFER;
  if (abi >= kAbiTruncate) rights |= kTruncate;
  return rights;
}

/// Devices that keep nothing, and those of GPUs.
std::vector<std::string> devices() {
  std::vector<std::string> paths{"/dev/null",    "/dev/zero", "/dev/full", "/dev/random",
                                 "/dev/urandom", "/dev/dri",  "/dev/kfd"};
  std::error_code none;
  for (fs::directory_iterator entry("/dev", none), end; !none && entry != end; entry.increment(none))
    if (entry->path().filename().string().starts_with("nvidia")) paths.push_back(entry->path().string());
  return paths;
}

[[noreturn]] void refused(const char* what, int error) {
  fail(Exit::resource, "no-sandbox", "{}: {}; env_runners.sandbox = \"off\" does without a sandbox", what,
       std::strerror(error));
}

}  // namespace

Sandbox::Kernel Sandbox::Kernel::probe() {
  const long abi = ::syscall(SYS_landlock_create_ruleset, nullptr, 0, LANDLOCK_CREATE_RULESET_VERSION);
  const uint32_t action = SECCOMP_RET_ERRNO;
  return {.landlock_abi = static_cast<int>(std::max(abi, 0L)),
          .seccomp = ::syscall(SYS_seccomp, SECCOMP_GET_ACTION_AVAIL, 0, &action) == 0};
}

Sandbox::Sandbox(Options options, Kernel kernel) : options_(std::move(options)), kernel_(kernel) {
  if (options_.level == "off") return;
  if (const fs::path folder = options_.writable; !folder.empty() && (folder.is_relative() || !fs::is_directory(folder)))
    fail(Exit::usage, "no-folder", "env_runners.sandbox_write is {}; want the absolute path of a folder that is there",
         options_.writable);
  const std::string missing = parts(false);
  if (options_.level == "strict" && !missing.empty())
    fail(Exit::usage, "no-sandbox",
         "env_runners.sandbox is \"strict\", and this host has not: {}; \"default\" takes what there is", missing);
  if (kernel_.landlock_abi >= 1) make_ruleset();
  if (kernel_.seccomp)
    filter_ = SystemCallFilter{.network = options_.network,
                               .attributes = !options_.writable.empty(),
                               .truncation = kernel_.landlock_abi >= kAbiTruncate}
                  .program();
}

Sandbox::~Sandbox() {
  if (ruleset_ >= 0) ::close(ruleset_);
}

/// What is there of its parts, or what is not, with what it needs.
std::string Sandbox::parts(bool there) const {
  struct Part {
    bool wanted, has;
    std::string_view name, needs;
  };
  const int abi = kernel_.landlock_abi;
  std::vector<std::string> names;
  for (const Part& part : {Part{true, abi >= 1, "files", "Landlock, Linux 5.13"},
                           Part{!options_.network, kernel_.seccomp, "network", "seccomp"},
                           Part{true, abi >= kAbiScopes, "signals", "Landlock ABI 6, Linux 6.12"},
                           Part{true, kernel_.seccomp, "system calls", "seccomp"}})
    if (part.wanted && part.has == there)
      names.push_back(there ? std::string(part.name) : fmt::format("{} ({})", part.name, part.needs));
  return fmt::format("{}", fmt::join(names, ", "));
}

std::string Sandbox::describe() const {
  if (options_.level == "off") return "off";
  const std::string there = parts(true);
  std::string text = there.empty() ? "nothing" : there;
  if (options_.network) text += "; sockets are allowed";
  if (!options_.writable.empty()) text += fmt::format("; {} can be written", options_.writable);
  if (const std::string missing = parts(false); !missing.empty()) text += "; this host has not: " + missing;
  return text;
}

void Sandbox::enter() const {
  if (options_.level == "off") return;
  for (const auto& [resource, value] :
       {std::pair{RLIMIT_CORE, rlim_t{0}}, {RLIMIT_NOFILE, kMaxDescriptors}, {RLIMIT_FSIZE, kMaxFileBytes}})
    (void)lower_limit(resource, value);  // as far as it can be
  if (!options_.folder().empty()) ::setenv("TMPDIR", options_.folder().c_str(), 1);
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) refused("no_new_privs", errno);
  if (ruleset_ >= 0 && ::syscall(SYS_landlock_restrict_self, ruleset_, 0) != 0) refused("Landlock", errno);
  const sock_fprog program{static_cast<unsigned short>(filter_.size()), const_cast<sock_filter*>(filter_.data())};
  if (!filter_.empty() && ::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program) != 0) refused("seccomp", errno);
}

void Sandbox::make_ruleset() {
  const int abi = kernel_.landlock_abi;
  Ruleset ruleset{.files = changes_of_files(abi), .tcp = 0, .scopes = kScopeSignals};
  if (!options_.network) {
    ruleset.tcp = kTcpBind | kTcpConnect;
    ruleset.scopes |= kScopeAbstractSockets;
  }
  const size_t size = abi >= kAbiScopes ? sizeof ruleset : abi >= kAbiTcp ? 2 * sizeof(uint64_t) : sizeof(uint64_t);
  ruleset_ = static_cast<int>(::syscall(SYS_landlock_create_ruleset, &ruleset, size, 0));
  if (ruleset_ < 0) refused("Landlock", errno);
  const auto allow = [&](int where, uint64_t rights) {
    const landlock_path_beneath_attr rule{rights, where};
    return ::syscall(SYS_landlock_add_rule, ruleset_, LANDLOCK_RULE_PATH_BENEATH, &rule, 0) == 0;
  };
  const auto allow_path = [&](const std::string& path, uint64_t rights) {
    const int where = ::open(path.c_str(), O_PATH | O_CLOEXEC);
    const bool allowed = where >= 0 && allow(where, rights);
    const int error = errno;
    if (where >= 0) ::close(where);
    errno = error;
    return allowed;
  };
  for (const std::string& device : devices()) (void)allow_path(device, LANDLOCK_ACCESS_FS_WRITE_FILE);
  for (const int output : {STDOUT_FILENO, STDERR_FILENO}) (void)allow(output, LANDLOCK_ACCESS_FS_WRITE_FILE);
  (void)allow_path(kSharedMemory, (LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_REMOVE_FILE |
                                   LANDLOCK_ACCESS_FS_MAKE_REG | kTruncate) &
                                      ruleset.files);
  if (!options_.folder().empty() && !allow_path(options_.folder(), ruleset.files))
    refused(options_.writable.empty() ? "the temporary folder" : "env_runners.sandbox_write", errno);
}

std::string sandbox_hint(const Sandbox::Options& options, std::string_view error) {
  if (options.level == "off") return "";
  const auto says = [&](std::initializer_list<std::string_view> words) {
    return std::ranges::any_of(words,
                               [&](std::string_view word) { return error.find(word) != std::string_view::npos; });
  };
  if (says({"Permission denied", "PermissionError: [Errno 13]", "EACCES", "temporary directory", "Read-only file"}))
    return fmt::format(
        "; in the sandbox files can be written below {} and nowhere else: env_runners.sandbox_write = \"FOLDER\" "
        "allows a folder, env_runners.sandbox = \"off\" everything",
        options.writable.empty() ? "its TMPDIR" : options.writable);
  if (says({"Operation not permitted", "PermissionError: [Errno 1]", "EPERM"}))
    return fmt::format(
        "; in the sandbox {}changes of a file's mode and what administers the machine are refused: {}{}"
        "env_runners.sandbox = \"off\" allows everything",
        options.network ? "" : "sockets, ",
        options.network ? "" : "env_runners.sandbox_network = true allows sockets, ",
        options.writable.empty() ? "env_runners.sandbox_write modes, " : "");
  if (says({"ended with exit status"}))
    return "; if these are of a file or a socket that was refused: env_runners.sandbox_write, sandbox_network and "
           "sandbox "
           "= \"off\" allow more";
  return "";
}

Sandbox::Options sandbox_options(const Config& config, bool needs_network) {
  const EnvRunnersConfig& runners = config.env_runners;
  return {runners.sandbox, runners.sandbox_write, runners.sandbox_network || needs_network};
}

void close_descriptors_but(std::initializer_list<int> kept) {
  std::vector<int> sorted{STDERR_FILENO};
  for (const int fd : kept)
    if (fd > STDERR_FILENO) sorted.push_back(fd);
  std::sort(sorted.begin(), sorted.end());
  for (size_t i = 0; i < sorted.size(); ++i) {
    const auto first = static_cast<unsigned>(sorted[i] + 1);
    const unsigned last = i + 1 < sorted.size() ? static_cast<unsigned>(sorted[i + 1] - 1) : ~0u;
    if (first <= last) ::close_range(first, last, 0);
  }
}

}  // namespace myriad
