#include "rl/processes.hpp"

#include <dirent.h>
#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <string_view>

namespace myriad {
namespace {

constexpr int kRounds = 100;  // 10 ms apart
constexpr size_t kMaxEnvironmentBytes = size_t{1} << 20;

/// What the process was started with, "\0NAME=value\0NAME=value\0"; "\0" where it cannot be read, or has ended.
std::string environment_of(const char* pid) {
  std::string text(1, '\0');
  const int fd = ::open((std::string("/proc/") + pid + "/environ").c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) return text;
  std::array<char, 8192> part;
  for (ssize_t got; text.size() < kMaxEnvironmentBytes && (got = ::read(fd, part.data(), part.size())) > 0;)
    text.append(part.data(), static_cast<size_t>(got));
  ::close(fd);
  return text;
}

bool has(const std::string& environment, const std::string& variable) {
  const bool begins = variable.ends_with('*');
  const std::string wanted = std::string(1, '\0') + (begins ? variable.substr(0, variable.size() - 1) : variable) +
                             (begins ? std::string() : std::string(1, '\0'));
  return environment.find(wanted) != std::string::npos;
}

}  // namespace

void end_processes_with(std::initializer_list<std::string> variables) {
  for (int round = 0; round < kRounds; ++round) {
    DIR* const all = ::opendir("/proc");
    if (all == nullptr) return;
    bool found = false;
    while (const dirent* entry = ::readdir(all)) {
      int pid = 0;
      const char* const end = entry->d_name + std::strlen(entry->d_name);
      if (std::from_chars(entry->d_name, end, pid).ptr != end || pid == ::getpid()) continue;
      const std::string environment = environment_of(entry->d_name);
      if (!std::ranges::all_of(variables, [&](const std::string& variable) { return has(environment, variable); }))
        continue;
      found |= ::kill(pid, SIGKILL) == 0;
    }
    ::closedir(all);
    if (!found) return;
    ::usleep(10'000);
  }
}

}  // namespace myriad
