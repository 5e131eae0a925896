#include "apps/driver/run_directory.hpp"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cerrno>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <fstream>
#include <iterator>
#include <utility>

#include "rl/check.hpp"
#include "rl/config/unknown_keys.hpp"
#include "rl/machine.hpp"
#include "rl/shell_line.hpp"

namespace myriad {
namespace fs = std::filesystem;
namespace {

// Number n takes entry n of each list, modulo their lengths: 32 and 31 share no factor, so 992 names come before one
// repeats (and the number before it differs even then).
constexpr const char* kAdjectives[] = {"amber",  "brisk", "bold",  "bright", "clever", "cosmic", "crisp",  "calm",
                                       "daring", "dusty", "eager", "fleet",  "gentle", "golden", "happy",  "hardy",
                                       "humble", "jolly", "keen",  "light",  "lively", "lucky",  "mellow", "merry",
                                       "nimble", "noble", "proud", "quick",  "quiet",  "sunny",  "swift",  "witty"};
constexpr const char* kAnimals[] = {"badger", "otter",  "beaver", "bison",   "crane",  "dingo",  "falcon", "heron",
                                    "ferret", "finch",  "fox",    "gecko",   "hare",   "ibex",   "jackal", "kestrel",
                                    "lemur",  "lynx",   "marten", "newt",    "ocelot", "osprey", "panda",  "puffin",
                                    "raven",  "salmon", "stoat",  "swallow", "tapir",  "vole",   "wombat"};
static_assert(std::size(kAdjectives) == 32 && std::size(kAnimals) == 31);

std::string reason() { return std::strerror(errno); }

/// The folder that this program was started in; "" where it is gone.
const fs::path kStartedIn = [] {
  std::error_code error;
  return fs::current_path(error);
}();

/// Closes the descriptor when the scope ends.
struct Descriptor {
  int fd;
  ~Descriptor() {
    if (fd >= 0) ::close(fd);
  }
};

/// The number at the front of a run's folder name, "0007-calm-heron" -> 7.
std::optional<int64_t> number_of(const std::string& name) {
  int64_t number = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), number);
  if (error != std::errc() || end - name.data() < 4 || end == name.data() + name.size() || *end != '-')
    return std::nullopt;
  return number;
}

std::string spell(double value) { return std::isfinite(value) ? fmt::format("{}", value) : "null"; }

std::string utc(double time_s) {
  const std::time_t seconds = static_cast<std::time_t>(time_s);
  std::tm parts{};
  gmtime_r(&seconds, &parts);
  char text[32];
  std::strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", &parts);
  return text;
}

/// The first `key : value` line of a file like /proc/cpuinfo.
std::string value_of(const char* file, std::string_view key) {
  std::ifstream in(file);
  for (std::string line; std::getline(in, line);) {
    if (!line.starts_with(key)) continue;
    const size_t colon = line.find(':');
    if (colon == std::string::npos) continue;
    const size_t start = line.find_first_not_of(" \t", colon + 1);
    return start == std::string::npos ? "" : line.substr(start);
  }
  return "";
}

int64_t lock_owner(const fs::path& lock) {
  std::ifstream in(lock);
  int64_t pid = 0;
  in >> pid;
  return pid;
}

/// Takes run.lock and writes this process's id into it. Throws Error("run-in-use").
int take_lock(const fs::path& directory) {
  const fs::path lock = directory / "run.lock";
  // Close-on-exec: the runners a driver starts must not keep its lock after it.
  const int fd = ::open(lock.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd < 0) fail(Exit::resource, "cannot-write", "{}: {}", lock.string(), reason());
  if (::flock(fd, LOCK_EX | LOCK_NB) != 0) {
    const int error = errno;
    if (error == EWOULDBLOCK) {
      ::close(fd);
      fail(Exit::resource, "run-in-use", "{} is in use by process {}; wait for it or stop it", directory.string(),
           lock_owner(lock));
    }
    std::fprintf(stderr, "%s cannot be locked, %s: nothing keeps a second driver from this folder\n",
                 lock.string().c_str(), std::strerror(error));
  }
  const std::string pid = fmt::format("{}\n", ::getpid());
  if (::ftruncate(fd, 0) != 0 || ::pwrite(fd, pid.data(), pid.size(), 0) != static_cast<ssize_t>(pid.size())) {
    const std::string why = reason();
    ::close(fd);
    fail(Exit::resource, "cannot-write", "{}: {}", lock.string(), why);
  }
  return fd;
}

void make_directories(const fs::path& path) {
  std::error_code error;
  fs::create_directories(path, error);
  if (error) fail(Exit::resource, "cannot-write", "{}: {}", path.string(), error.message());
}

}  // namespace

void write_atomically(const fs::path& path, std::string_view text) {
  const fs::path directory = path.has_parent_path() ? path.parent_path() : fs::path(".");
  const std::string temporary = fmt::format("{}.{}.tmp", path.string(), ::getpid());
  {
    const Descriptor file{::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644)};
    bool good = file.fd >= 0;
    for (size_t done = 0; good && done < text.size();) {
      const ssize_t n = ::write(file.fd, text.data() + done, text.size() - done);
      if (n >= 0)
        done += static_cast<size_t>(n);
      else
        good = errno == EINTR;
    }
    int error = good ? 0 : errno;
    if (error == 0) error = sync_to_disk(file.fd);
    if (error == 0) error = rename_file(temporary, path.string());
    if (error != 0) {
      const std::string why = std::strerror(error);
      ::unlink(temporary.c_str());
      fail(Exit::resource, "cannot-write", "{}: {}", path.string(), why);
    }
  }
  // The rename itself lies in the directory; some file systems cannot sync one, and then it is as good as it gets.
  const Descriptor folder{::open(directory.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC)};
  if (folder.fd >= 0) (void)::fsync(folder.fd);
}

std::string read_file(const fs::path& path) {
  std::ifstream in(path, std::ios::binary);
  std::string text{std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
  if (!in.is_open() || in.bad()) fail(Exit::resource, "cannot-read", "{}: {}", path.string(), reason());
  return text;
}

std::string saved_config(const std::filesystem::path& checkpoint) {
  return without_retired(read_file(checkpoint / "config.toml"));
}

std::string json_string(std::string_view text) {
  std::string spelled = boost::json::serialize(boost::json::string_view(text.data(), text.size()));
  boost::json::error_code error;
  (void)boost::json::parse(spelled, error);
  if (error)  // bytes that are no UTF-8, as a crashing simulator may print: a file that no JSON reader takes would be
              // worse
    std::ranges::replace_if(
        spelled, [](char c) { return static_cast<unsigned char>(c) >= 0x80; }, '?');
  return spelled;
}

std::string as_typed(const fs::path& path) {
  std::error_code error;
  const std::string relative = fs::proximate(path, kStartedIn, error).string();
  return error || kStartedIn.empty() || relative.size() > path.string().size() ? path.string() : relative;
}

std::string run_name(int64_t number) {
  check(number >= 0, "a run has the number {}", number);
  return fmt::format("{:04}-{}-{}", number, kAdjectives[static_cast<size_t>(number) % std::size(kAdjectives)],
                     kAnimals[static_cast<size_t>(number) % std::size(kAnimals)]);
}

std::string command_name() {
  const char* name = std::getenv("MYRIAD_COMMAND");
  return name == nullptr || *name == '\0' ? "myriad" : shell_line({name});
}

std::string to_json(const RunRecord& r) {
  std::string text = fmt::format("{{\n  \"id\": {},\n  \"name\": {},\n  \"state\": {},\n", json_string(r.id),
                                 json_string(r.name), json_string(r.state));
  text += fmt::format("  \"start\": {},\n  \"start_time_s\": {},\n", json_string(utc(r.start_time_s)),
                      spell(r.start_time_s));
  text +=
      fmt::format("  \"end\": {},\n  \"end_time_s\": {},\n", r.end_time_s ? json_string(utc(*r.end_time_s)) : "null",
                  r.end_time_s ? spell(*r.end_time_s) : "null");
  text += fmt::format("  \"exit_reason\": {},\n  \"last_iteration\": {},\n  \"last_step\": {},\n  \"best\": {},\n",
                      json_string(r.exit_reason), r.last_iteration, r.last_step, r.best ? spell(*r.best) : "null");
  text += fmt::format("  \"join\": {}\n}}\n", json_string(r.join));
  return text;
}

RunRecord read_run(const fs::path& directory) {
  const fs::path file = directory / "run.json";
  const std::string text = read_file(file);
  try {
    const boost::json::value json = boost::json::parse(text);
    const auto number = [&](const char* key) -> std::optional<double> {
      const boost::json::value& value = json.at(key);
      if (value.is_null()) return std::nullopt;
      return value.to_number<double>();
    };
    const auto string = [&](const char* key) { return std::string(json.at(key).as_string()); };
    RunRecord record;
    record.id = string("id");
    record.name = string("name");
    record.state = string("state");
    record.start_time_s = number("start_time_s").value_or(0.0);
    record.end_time_s = number("end_time_s");
    record.exit_reason = string("exit_reason");
    record.last_iteration = json.at("last_iteration").to_number<int64_t>();
    record.last_step = json.at("last_step").to_number<int64_t>();
    record.best = number("best");
    if (json.as_object().contains("join")) record.join = string("join");
    return record;
  } catch (const std::exception& error) {
    fail(Exit::resource, "corrupt-file", "{}: not a run's record: {}", file.string(), error.what());
  }
}

std::optional<int64_t> running_pid(const fs::path& directory) {
  const fs::path lock = directory / "run.lock";
  const Descriptor file{::open(lock.c_str(), O_RDONLY | O_CLOEXEC)};
  // A shared lock is granted exactly when the exclusive one is free; closing the descriptor releases it.
  if (file.fd < 0 || ::flock(file.fd, LOCK_SH | LOCK_NB) == 0 || errno != EWOULDBLOCK) return std::nullopt;
  return lock_owner(lock);
}

std::string system_json(std::string_view version) {
  utsname kernel{};
  ::uname(&kernel);
  const std::string cpu = value_of("/proc/cpuinfo", "model name");
  const int64_t memory_bytes = int64_t{::sysconf(_SC_PHYS_PAGES)} * ::sysconf(_SC_PAGE_SIZE);
  return fmt::format(
      "{{\n  \"version\": {},\n  \"cpu\": {},\n  \"cores\": {},\n  \"memory_bytes\": {},\n  \"kernel\": {},\n"
      "  \"machine\": {},\n  \"host\": {}\n}}\n",
      json_string(version), json_string(cpu), usable_cores(), memory_bytes,
      json_string(fmt::format("{} {}", kernel.sysname, kernel.release)), json_string(kernel.machine),
      json_string(kernel.nodename));
}

RunDirectory RunDirectory::create_numbered(const fs::path& out) {
  make_directories(out);
  int64_t next = 1;
  for (const fs::directory_entry& entry : fs::directory_iterator(out))
    if (const auto number = number_of(entry.path().filename().string())) next = std::max(next, *number + 1);
  // Two drivers that start at once want the same name: mkdir lets one of them have it.
  for (;; ++next) {
    const fs::path path = out / run_name(next);
    if (::mkdir(path.c_str(), 0755) == 0) {
      RunDirectory run(path);
      run.record.id = fmt::format("{:04}", next);
      run.record.name = path.filename().string();
      return run;
    }
    if (errno != EEXIST) fail(Exit::resource, "cannot-write", "{}: {}", path.string(), reason());
  }
}

RunDirectory RunDirectory::create_exact(const fs::path& directory) {
  make_directories(directory);
  RunDirectory run(directory);
  if (fs::exists(directory / "run.json"))
    fail(Exit::resource, "run-exists", "{} already holds a run; go on with it: {} train --resume {}",
         directory.string(), command_name(), shell_line({directory.string()}));
  fs::path named = fs::absolute(directory).lexically_normal();
  if (!named.has_filename()) named = named.parent_path();
  run.record.name = named.filename().string();
  const auto number = number_of(run.record.name);
  run.record.id = number ? fmt::format("{:04}", *number) : run.record.name;
  return run;
}

RunDirectory RunDirectory::open(const fs::path& directory) {
  if (!fs::exists(directory / "run.json"))
    fail(Exit::usage, "no-run", "{} holds no run: it has no run.json", directory.string());
  RunDirectory run(directory);
  run.record = read_run(directory);
  return run;
}

RunDirectory::RunDirectory(fs::path path) : path_(std::move(path)), lock_(take_lock(path_)) {}

RunDirectory::RunDirectory(RunDirectory&& other) noexcept
    : record(std::move(other.record)), path_(std::move(other.path_)), lock_(std::exchange(other.lock_, -1)) {}

RunDirectory& RunDirectory::operator=(RunDirectory&& other) noexcept {
  record = std::move(other.record);
  std::swap(path_, other.path_);
  std::swap(lock_, other.lock_);  // ours goes when `other` does
  return *this;
}

RunDirectory::~RunDirectory() {
  if (lock_ >= 0) ::close(lock_);
}

void RunDirectory::write_resume(const std::vector<std::string>& command, std::string_view effective_config) const {
  write_atomically(path_ / "command.txt", read_file(path_ / "command.txt") + shell_line(command) + "\n");
  write_atomically(path_ / "config.effective.toml", effective_config);
}

void RunDirectory::write_setup(const std::vector<std::string>& command, std::string_view config,
                               std::string_view effective_config, std::string_view version) const {
  write_atomically(path_ / "command.txt", shell_line(command) + "\n");
  write_atomically(path_ / "config.toml", config);
  write_atomically(path_ / "config.effective.toml", effective_config);
  write_atomically(path_ / "system.json", system_json(version));
}

}  // namespace myriad
