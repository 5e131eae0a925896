#include "rl/wire/keys.hpp"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zmq.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <span>
#include <vector>

#include "rl/check.hpp"

namespace myriad {
namespace {

constexpr size_t kMaxKeyFileBytes = 4096;
constexpr size_t kMaxAllowedFileBytes = size_t{1} << 20;  // some 20,000 names
constexpr size_t kMaxNameBytes = 64;
constexpr std::string_view kPairHeader = "myriad-key 1", kPublicHeader = "myriad-public-key 1",
                           kAllowedHeader = "myriad-allowed 1";
// The published example pairs of zmq_curve(7): refused.
constexpr std::array<std::string_view, 2> kManualKeys{"Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID",
                                                      "rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"};

struct File {
  explicit File(int descriptor) : fd(descriptor) {}
  File(const File&) = delete;
  ~File() {
    if (fd >= 0) ::close(fd);
  }
  int fd;
};

/// The file's bytes in `buffer`. `closed_to_others` are the mode bits that must be 0.
std::string_view read_guarded(const std::string& path, mode_t closed_to_others, std::span<char> buffer) {
  const File file(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  struct stat status {};
  if (file.fd < 0 || ::fstat(file.fd, &status) != 0)
    fail(Exit::usage, "no-keys", "cannot read {}: {}; `myriad keys DIR` makes it, network.keys names DIR", path,
         std::strerror(errno));
  if (!S_ISREG(status.st_mode)) fail(Exit::usage, "bad-key-file", "{} is not a file", path);
  if ((status.st_mode & closed_to_others) != 0)
    fail(Exit::usage, "open-key-file",
         "{} has mode {:o}: others can {} it; chmod 600 it, and make new keys if they did", path, status.st_mode & 0777,
         (closed_to_others & 044) != 0 ? "use" : "change");
  if (status.st_uid != ::geteuid() && status.st_uid != 0)
    fail(Exit::usage, "open-key-file", "{} belongs to uid {}, this process is uid {}: chown it", path, status.st_uid,
         ::geteuid());
  size_t size = 0;
  for (;;) {
    const ssize_t n = ::read(file.fd, buffer.data() + size, buffer.size() - size);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) fail(Exit::usage, "no-keys", "cannot read {}: {}", path, std::strerror(errno));
    if (n == 0) return {buffer.data(), size};
    size += static_cast<size_t>(n);
    if (size == buffer.size())
      fail(Exit::usage, "bad-key-file", "{} has {} bytes or more: `myriad keys DIR` makes a new one", path, size);
  }
}

/// Reads a key file line by line. Errors name the line and say what was wanted, never what a key was.
class Lines {
 public:
  Lines(std::string path, std::string_view text) : path_(std::move(path)), rest_(text) {}

  bool at_end() const { return rest_.empty(); }
  size_t number() const { return number_; }

  template <class... Args>
  [[noreturn]] void fail_here(fmt::format_string<Args...> format, Args&&... args) const {
    fail(Exit::usage, "bad-key-file", "{}:{}: {}; copy the file again, or `myriad keys DIR --force` for new ones",
         path_, number_, fmt::format(format, std::forward<Args>(args)...));
  }

  std::string_view line() {
    ++number_;
    if (at_end()) fail_here("the file ends here");
    const size_t end = std::min(rest_.find('\n'), rest_.size());
    const std::string_view line = rest_.substr(0, end);
    rest_.remove_prefix(std::min(end + 1, rest_.size()));
    return line;
  }
  void header(std::string_view wanted) {
    if (line() != wanted) fail_here("the first line is not `{}`", wanted);
  }
  /// The rest of a line that starts with `field` and a space.
  std::string_view value(std::string_view field) {
    const std::string_view text = line();
    if (!text.starts_with(field) || text.size() <= field.size() || text[field.size()] != ' ')
      fail_here("want `{} ...`", field);
    return text.substr(field.size() + 1);
  }
  std::string name(std::string_view text) const {
    const auto plain = [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-'; };
    if (text.empty() || text.size() > kMaxNameBytes || !std::ranges::all_of(text, plain))
      fail_here("want a name of a-z, 0-9 and -, at most {} characters", kMaxNameBytes);
    return std::string(text);
  }
  /// A key is `kKeyCharacters` of Z85.
  void check_key(std::string_view text) const {
    Wiped<kKeyCharacters + 1> copy;  // it may be a secret
    Wiped<kKeyCharacters * 4 / 5> bytes;
    if (text.size() != kKeyCharacters)
      fail_here("want a key of {} characters, got {}{}", kKeyCharacters, text.size(),
                text.ends_with('\r') ? ": the file has Windows line ends" : "");
    std::ranges::copy(text, copy.bytes.begin());
    if (zmq_z85_decode(reinterpret_cast<uint8_t*>(bytes.bytes.data()), copy.bytes.data()) == nullptr)
      fail_here("the key has characters that are not Z85's");
  }
  std::string public_key(std::string_view text) const {
    check_key(text);
    if (std::ranges::find(kManualKeys, text) != kManualKeys.end())
      fail(Exit::usage, "test-key",
           "{}:{}: this is the test key of ZeroMQ's manual, which everybody has: make keys "
           "with `myriad keys DIR`",
           path_, number_);
    return std::string(text);
  }
  void end() {
    ++number_;
    if (!at_end()) fail_here("want the end of the file");
  }

 private:
  std::string path_;
  std::string_view rest_;
  size_t number_ = 0;
};

std::string path_of(const std::string& directory, std::string_view file) {
  return fmt::format("{}/{}", directory, file);
}

void check_name(const Lines& lines, const std::string& got, const std::string& wanted) {
  if (got != wanted) lines.fail_here("this is the key of {}, not of {}", got, wanted);
}

KeyPair read_pair(const std::string& directory, const std::string& name) {
  const std::string path = path_of(directory, name + ".key");
  Wiped<kMaxKeyFileBytes> buffer;
  Lines lines(path, read_guarded(path, 077, buffer.bytes));
  KeyPair pair;
  lines.header(kPairHeader);
  pair.name = lines.name(lines.value("name"));
  check_name(lines, pair.name, name);
  pair.public_key = lines.public_key(lines.value("public"));
  const std::string_view secret = lines.value("secret");
  lines.check_key(secret);
  std::ranges::copy(secret, pair.secret_key.bytes.begin());
  std::array<char, kKeyCharacters + 1> derived{};
  if (zmq_curve_public(derived.data(), pair.secret_key.bytes.data()) != 0 || pair.public_key != derived.data())
    lines.fail_here("public and secret key do not belong together");
  lines.end();
  return pair;
}

std::string read_public(const std::string& directory, const std::string& name) {
  const std::string path = path_of(directory, name + ".pub");
  Wiped<kMaxKeyFileBytes> buffer;
  Lines lines(path, read_guarded(path, 022, buffer.bytes));
  lines.header(kPublicHeader);
  check_name(lines, lines.name(lines.value("name")), name);
  std::string key = lines.public_key(lines.value("public"));
  lines.end();
  return key;
}

std::map<std::string, std::string> read_allowed(const std::string& directory) {
  const std::string path = path_of(directory, "allowed");
  std::vector<char> buffer(kMaxAllowedFileBytes);
  Lines lines(path, read_guarded(path, 022, buffer));
  std::map<std::string, std::string> allowed;
  std::map<std::string, size_t> line_of;  // name -> where
  lines.header(kAllowedHeader);
  while (!lines.at_end()) {
    const std::string_view line = lines.line();
    const size_t space = line.find(' ');
    if (space == std::string_view::npos) lines.fail_here("want `name public-key`");
    std::string name = lines.name(line.substr(0, space));
    std::string key = lines.public_key(line.substr(space + 1));
    if (const auto [known, fresh] = line_of.emplace(name, lines.number()); !fresh)
      lines.fail_here("{} is there already, in line {}", name, known->second);
    if (const auto [known, fresh] = allowed.emplace(std::move(key), name); !fresh)
      lines.fail_here("{} has the key of {}", name, known->second);
  }
  if (allowed.empty()) lines.fail_here("nobody may connect: want `name public-key` lines");
  return allowed;
}

void write_private(const std::string& path, std::string_view text) {
  const File file(::open(path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600));
  // A short write of such a small file is a full disk.
  if (file.fd < 0 || ::write(file.fd, text.data(), text.size()) != static_cast<ssize_t>(text.size()) ||
      ::fsync(file.fd) != 0)
    fail(Exit::resource, "cannot-write", "cannot write {}: {}", path, std::strerror(errno));
}

void write_pair(const std::string& directory, const KeyPair& pair) {
  Wiped<kMaxKeyFileBytes> text;
  const auto end = fmt::format_to_n(text.bytes.data(), text.bytes.size(), "{}\nname {}\npublic {}\nsecret {}\n",
                                    kPairHeader, pair.name, pair.public_key, pair.secret_key.bytes.data());
  write_private(path_of(directory, pair.name + ".key"), {text.bytes.data(), end.size});
}

/// The files of keys in a directory.
std::vector<std::filesystem::path> key_files(const std::string& directory) {
  std::vector<std::filesystem::path> found;
  for (const auto& entry : std::filesystem::directory_iterator(directory))
    if (entry.path().extension() == ".key" || entry.path().filename() == "server.pub" ||
        entry.path().filename() == "allowed")
      found.push_back(entry.path());
  return found;
}

/// Makes the directory, or takes one that is empty of keys and closed to others.
void prepare_directory(const std::string& directory, bool replace) {
  if (::mkdir(directory.c_str(), 0700) == 0) return;
  struct stat status {};
  if (errno != EEXIST || ::stat(directory.c_str(), &status) != 0 || !S_ISDIR(status.st_mode))
    fail(Exit::resource, "cannot-write", "cannot make the directory {}: {}", directory, std::strerror(errno));
  if ((status.st_mode & 077) != 0)
    fail(Exit::usage, "open-directory", "{} has mode {:o}: chmod 700 it, or name a new directory", directory,
         status.st_mode & 0777);
  const auto found = key_files(directory);
  if (!found.empty() && !replace)
    fail(Exit::usage, "keys-exist",
         "{} holds keys already ({}): --force replaces them all, and what runs with them "
         "cannot connect again",
         directory, found.front().filename().string());
  for (const auto& path : found) std::filesystem::remove(path);
}

}  // namespace

KeyPair make_key_pair(std::string name) {
  KeyPair pair;
  pair.name = std::move(name);
  std::array<char, kKeyCharacters + 1> public_key{};
  if (zmq_curve_keypair(public_key.data(), pair.secret_key.bytes.data()) != 0)
    fail(Exit::environment, "no-curve", "this libzmq makes no keys ({}): it was built without libsodium",
         zmq_strerror(errno));
  pair.public_key = public_key.data();
  return pair;
}

SocketKeys load_keys(const std::string& directory, const std::string& process) {
  SocketKeys keys;
  const bool connects = process != "driver", listens = !connects || process.starts_with("learner-");
  if (listens) {
    keys.server = read_pair(directory, "server");
    keys.allowed = read_allowed(directory);
  }
  if (connects) {
    keys.client = read_pair(directory, process);
    keys.server_public = read_public(directory, "server");
  }
  if (listens && connects && keys.server->public_key != keys.server_public)
    fail(Exit::usage, "bad-key-file", "{0}/server.pub and {0}/server.key are of two sets: copy both from one",
         directory);
  return keys;
}

std::string make_keys(const std::string& directory, int num_agents, bool replace) {
  prepare_directory(directory, replace);
  const KeyPair server = make_key_pair("server");
  write_pair(directory, server);
  write_private(path_of(directory, "server.pub"),
                fmt::format("{}\nname server\npublic {}\n", kPublicHeader, server.public_key));
  std::string allowed = fmt::format("{}\n", kAllowedHeader);
  const auto add = [&](std::string name) {
    const KeyPair pair = make_key_pair(std::move(name));
    write_pair(directory, pair);
    allowed += fmt::format("{} {}\n", pair.name, pair.public_key);
  };
  add("learner-0");
  for (int agent = 0; agent < num_agents; ++agent) add(fmt::format("agent-{}", agent));
  write_private(path_of(directory, "allowed"), allowed);  // last: without it nothing starts
  return fmt::format(
      "{0}: keys of a driver, a learner and {1} agents. To each machine its own files, mode 600:\n"
      "  driver     server.key  allowed\n"
      "  learner-0  server.key  allowed  server.pub  learner-0.key\n"
      "  agent-K    server.pub  agent-K.key                      K = 0..{2}\n"
      "Set network.keys to the directory. Make new ones for every run; a name taken out of `allowed` is out after the "
      "next start.\n",
      directory, num_agents, num_agents - 1);
}

}  // namespace myriad
