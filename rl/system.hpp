// The world outside a role: what decides in Myriad sees time, peers, files and processes only through these.
//
// A role is a class `step(input, now, outputs)`: one thread, no socket, no sleep, no global. The shells in apps/ wire
// roles to ZeroMQ, the disk and the kernel; tests/simulation wires the same roles to a fake world with seeded faults.
// The environments' step loop sees none of this.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace myriad {

/// Monotonic time since some fixed moment; never the wall clock.
using Time = std::chrono::nanoseconds;

inline Time seconds(double s) { return Time(static_cast<int64_t>(s * 1e9)); }
inline double to_seconds(Time t) { return static_cast<double>(t.count()) * 1e-9; }

class Clock {
 public:
  virtual ~Clock() = default;
  virtual Time now() = 0;
};

/// Bytes with the owner that keeps them alive: a received frame, a fragment's buffer, a string. Copies share it.
struct SharedBytes {
  std::shared_ptr<const void> owner;
  std::span<const std::byte> view;

  static SharedBytes of(std::vector<std::byte> bytes) {
    auto kept = std::make_shared<const std::vector<std::byte>>(std::move(bytes));
    return {kept, *kept};
  }
};
using Frames = std::vector<SharedBytes>;

/// What went wrong with a file: errno and where.
struct FileError {
  int error = 0;
  std::string path;
};

/// A disk. Every call that can fail throws FileError. Paths are relative to the implementation's root.
class Files {
 public:
  virtual ~Files() = default;
  virtual void make_directory(const std::string& path) = 0;  ///< with its parents; fine if it exists
  virtual void write(const std::string& path,
                     std::span<const std::byte> bytes) = 0;  ///< creates or replaces, not yet durable
  virtual void fsync(const std::string& path) = 0;           ///< of a file or a directory
  virtual void rename(const std::string& from, const std::string& to) = 0;
  virtual std::vector<std::byte> read(const std::string& path) = 0;
  virtual std::vector<std::string> list(const std::string& path) = 0;  ///< names, sorted; empty for a missing directory
  virtual void remove(const std::string& path) = 0;  ///< a file or a whole directory; fine if it is missing
};

/// The folder this program lies in.
std::string program_directory();

/// Lowers both limits of a resource (RLIMIT_CORE, ...) to `value`; false, with errno, when the kernel refuses.
bool lower_limit(int resource, uint64_t value);

/// Waits for all children of this process, inherited ones too; those that still run after 5 s are left.
void bury_children();

std::unique_ptr<Clock> make_system_clock();
std::unique_ptr<Files> make_system_files(std::string root);

}  // namespace myriad
