// Sandbox: what a process that runs foreign code gives up for good, and with it every process it starts.
//
//   files         Landlock   nothing is written but below a folder; reading and executing stay. Shared memory of its
//   own
//                            (POSIX: files of /dev/shm) can be made
//   network       seccomp    no sockets; where Landlock handles TCP, by that too
//   signals       Landlock   only to processes it started
//   system calls  seccomp    rl/system_call_filter.hpp
//
// No part needs root. What the kernel lacks is left out and reported.
#pragma once

#include <linux/filter.h>

#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

namespace myriad {

struct Config;

class Sandbox {
 public:
  /// What a kernel offers.
  struct Kernel {
    int landlock_abi = 0;  ///< 0: none
    bool seccomp = false;
    static Kernel probe();
  };
  struct Options {
    std::string level = "off";   ///< off, default: what the kernel offers; strict: all of it
    std::string writable = {};   ///< the folder below which files may be written; TMPDIR inside; "": none
    bool network = false;        ///< sockets stay
    std::string temporary = {};  ///< without `writable`: a folder of the process' own, in its place; "": none

    /// Where files may be written: TMPDIR inside; "" where nowhere.
    const std::string& folder() const { return writable.empty() ? temporary : writable; }
  };

  /// Makes the rules, once for all processes that will enter. Throws Error("no-sandbox") where `strict` misses a part,
  /// Error("no-folder") without the folder.
  explicit Sandbox(Options options, Kernel kernel = Kernel::probe());
  ~Sandbox();
  Sandbox(const Sandbox&) = delete;

  /// What is in force, one line for the log: "files, network, signals, system calls".
  std::string describe() const;

  const Options& options() const { return options_; }
  int fd() const { return ruleset_; }  ///< of Landlock's rules, wanted by enter(); -1: none

  /// From here on this process, of one thread, is inside. Throws Error("no-sandbox") when the kernel refuses.
  void enter() const;

 private:
  std::string parts(bool there) const;
  void make_ruleset();
  Options options_;
  Kernel kernel_;
  int ruleset_ = -1;
  std::vector<sock_filter> filter_;  // empty: none
};

/// The sandbox of a run's config, for an environment that needs the network or not (EnvSpec).
Sandbox::Options sandbox_options(const Config& config, bool needs_network = false);

/// What a process in such a sandbox may have met, for the end of its error: what was refused and the setting that
/// allows it, where the text of `error` says that something was; else "".
std::string sandbox_hint(const Sandbox::Options& options, std::string_view error);

/// Closes every descriptor but 0, 1, 2 and these.
void close_descriptors_but(std::initializer_list<int> kept);

}  // namespace myriad
