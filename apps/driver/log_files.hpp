// LogFiles: what processes print, in files that are bounded.
//
//   process --pipe--> a thread of this object --> NAME.txt, and what came before in NAME.txt.1
//
// Those that print wait for no disk and fail with none: what a full one refuses is left out, and counted in the first
// line that it takes again.
#pragma once

#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

namespace myriad {

class LogFiles {
 public:
  static constexpr uint64_t kMaxBytes = uint64_t{32} << 20;  ///< of a file

  explicit LogFiles(uint64_t max_bytes = kMaxBytes);
  /// Writes what the pipes still hold. Empty files are removed.
  ~LogFiles();
  LogFiles(const LogFiles&) = delete;

  /// A process that begins to print into the file at `path`, which several may share.
  struct Process {
    std::string path;
    uint64_t begin = 0;  ///< bytes before it are an earlier process's
    int output = -1;     ///< the pipe's end for it; the caller closes its own
  };
  /// Throws Error("no-log").
  Process begin(const std::string& path);

  /// The last lines that the process printed, with what is in its pipe; "" where there are none.
  std::string last_lines(const Process& process);

 private:
  struct File {
    int fd = -1;
    uint64_t size = 0, written = 0, left_out = 0;  // bytes: of the file, of all files of this path
  };
  struct Pipe {
    int fd;
    std::string path;
  };
  void run();
  void drain(Pipe& pipe);
  void write(const std::string& path, File& file, std::string_view bytes);

  uint64_t max_bytes_;
  std::mutex mutex_;
  std::map<std::string, File> files_;
  std::list<Pipe> pipes_;
  int wake_;  // the thread: there is another pipe, or the end
  bool over_ = false;
  std::thread thread_;
};

}  // namespace myriad
