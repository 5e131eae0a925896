// RunDirectory: the folder of one run, its lock and the plain files that say what the run is.
//
//   runs/0007-calm-heron/
//     run.json               state, start and end, last iteration and step, best (replaced atomically)
//     command.txt  config.toml (as given)  config.effective.toml (every default)  system.json
//     run.lock               held with flock while a driver works here; contains its process id
//
// Owned by the driver, used from its one thread. The lock goes with the process, however it ends.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace myriad {

/// Writes `text` beside `path`, syncs it and renames it over `path`: a reader sees the old file or the new one.
/// Throws Error("cannot-write").
void write_atomically(const std::filesystem::path& path, std::string_view text);

/// The file's bytes. Throws Error("cannot-read").
std::string read_file(const std::filesystem::path& path);
/// A checkpoint's config.toml, of this version or one before.
std::string saved_config(const std::filesystem::path& checkpoint);

/// `text` as a JSON string, quotes included; bytes that are not UTF-8 become '?'.
std::string json_string(std::string_view text);

/// `path` for messages and commands to paste: relative to the folder that this program was started in.
std::string as_typed(const std::filesystem::path& path);

/// "0007-calm-heron": the same for the same number, always.
std::string run_name(int64_t number);

/// What the user typed to start this program, for commands that we print: "./myriad" (MYRIAD_COMMAND), or "myriad".
std::string command_name();

/// The contents of run.json. Times are seconds since 1970.
struct RunRecord {
  std::string id;                 ///< "0007", or the folder's name where it has no number
  std::string name;               ///< the folder's name
  std::string state = "running";  ///< running | finished | failed | interrupted | killed
  double start_time_s = 0.0;
  std::optional<double> end_time_s;
  std::string exit_reason;  ///< why it is no longer running: the stop criterion met, or the error's line
  int64_t last_iteration = 0;
  int64_t last_step = 0;       ///< env steps
  std::optional<double> best;  ///< best mean return so far
  std::string join;            ///< the command with which another host takes part; "" when the run is over
};

std::string to_json(const RunRecord& record);
/// Reads run.json of a run's folder. Throws Error("cannot-read") or Error("corrupt-file").
RunRecord read_run(const std::filesystem::path& directory);

/// The process that works in this run's folder, if one does.
std::optional<int64_t> running_pid(const std::filesystem::path& directory);

/// This machine, for system.json: version, cpu, cores, memory, kernel, host.
std::string system_json(std::string_view version);

class RunDirectory {
 public:
  /// Makes the next numbered run under `out`. Throws Error("cannot-write").
  static RunDirectory create_numbered(const std::filesystem::path& out);
  /// Makes exactly `directory`. Throws Error("run-exists") when it already holds a run, Error("run-in-use").
  static RunDirectory create_exact(const std::filesystem::path& directory);
  /// Opens a run to go on with it. Throws Error("no-run") or Error("run-in-use") naming the process.
  static RunDirectory open(const std::filesystem::path& directory);

  RunDirectory(RunDirectory&& other) noexcept;
  RunDirectory& operator=(RunDirectory&& other) noexcept;
  ~RunDirectory();

  const std::filesystem::path& path() const { return path_; }

  /// The record of a new run, or run.json's as it was opened; write it back with `save`.
  RunRecord record;
  void save() const { write_atomically(path_ / "run.json", to_json(record)); }

  /// A run that goes on: the line in command.txt, and config.effective.toml.
  void write_resume(const std::vector<std::string>& command, std::string_view effective_config) const;

  /// command.txt, config.toml, config.effective.toml and system.json.
  void write_setup(const std::vector<std::string>& command, std::string_view config, std::string_view effective_config,
                   std::string_view version) const;

 private:
  explicit RunDirectory(std::filesystem::path path);
  std::filesystem::path path_;
  int lock_ = -1;  // file descriptor of run.lock
};

}  // namespace myriad
