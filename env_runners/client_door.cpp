#include "env_runners/client_door.hpp"

#include <netdb.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "rl/check.hpp"
#include "rl/descriptors.hpp"
#include "rl/simulator/address.hpp"
#include "rl/simulator/messages.hpp"

namespace myriad {

using simulator::DoorMessage;

namespace {

constexpr uint64_t kListener = UINT64_MAX, kRunner = uint64_t{1} << 62;  // tags; a waiting client's is its descriptor

/// The same time whatever the first difference is.
bool same_secret(const std::string& a, const std::string& b) {
  unsigned different = a.size() != b.size();
  for (size_t i = 0; i < a.size(); ++i) different |= static_cast<unsigned char>(a[i] ^ b[b.empty() ? 0 : i % b.size()]);
  return different == 0;
}

std::string printable(const std::string& text, size_t most) {
  std::string clean = text.substr(0, most);
  for (char& c : clean)
    if (c < ' ' || c == 127) c = '?';
  return clean;
}

}  // namespace

ClientDoor::ClientDoor(const simulator::ClientsFile& file, uint32_t number,
                       std::function<void(const std::string& text)> say)
    : file_(file), say_(std::move(say)), epoll_(::epoll_create1(EPOLL_CLOEXEC)) {
  const bool path = file.bind.find('/') != std::string::npos;
  address_ = path ? file.bind + (number == 0 ? "" : fmt::format(".{}", number))
                  : simulator::with_port(file.bind, file.port == 0 ? 0 : file.port + int64_t{number});
  try {
    listener_ = simulator::listen_at(address_);
  } catch (const std::runtime_error& error) {
    fail(Exit::environment, "no-port", "clients cannot come in at {}: {}", address_, error.what());
  }
  const int on = 1;
  ::ioctl(listener_, FIONBIO, &on);
  if (!path && file.port == 0) {
    sockaddr_storage mine{};
    socklen_t size = sizeof mine;
    ::getsockname(listener_, reinterpret_cast<sockaddr*>(&mine), &size);
    std::array<char, 16> chosen{};
    ::getnameinfo(reinterpret_cast<sockaddr*>(&mine), size, nullptr, 0, chosen.data(), chosen.size(), NI_NUMERICSERV);
    address_ = simulator::with_port(file.bind, std::strtol(chosen.data(), nullptr, 10));
  }
  watch(listener_, kListener);
}

ClientDoor::~ClientDoor() {
  for (auto& [fd, client] : waiting_) ::close(fd);
  for (auto& [slot, runner] : runners_) ::close(runner.fd);
  ::close(listener_);
  ::close(epoll_);
  if (simulator::is_path(address_)) ::unlink(address_.c_str());
}

void ClientDoor::watch(int fd, uint64_t tag) const {
  epoll_event event{};
  event.events = EPOLLIN;
  event.data.u64 = tag;
  ::epoll_ctl(epoll_, EPOLL_CTL_ADD, fd, &event);
}

int ClientDoor::add_runner(uint32_t slot) {
  remove_runner(slot);
  int ends[2];
  check(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) == 0, "socketpair: {}",
        std::strerror(errno));
  runners_[slot] = {ends[0], false, {}};
  watch(ends[0], kRunner | slot);
  return ends[1];
}

void ClientDoor::remove_runner(uint32_t slot) {
  const auto found = runners_.find(slot);
  if (found == runners_.end()) return;
  ::close(found->second.fd);
  runners_.erase(found);
}

void ClientDoor::step(Time now) {
  std::array<epoll_event, 64> events;
  const int count = ::epoll_wait(epoll_, events.data(), static_cast<int>(events.size()), 0);
  for (int i = 0; i < count; ++i) {
    const uint64_t tag = events[static_cast<size_t>(i)].data.u64;
    if (tag == kListener) {
      accept_all(now);
    } else if ((tag & kRunner) != 0) {
      const auto runner = runners_.find(static_cast<uint32_t>(tag));
      if (runner != runners_.end()) hear(runner->first, runner->second);
    } else if (const auto client = waiting_.find(static_cast<int>(tag)); client != waiting_.end()) {
      read(*client->second);
    }
  }
  std::vector<int> done;
  for (auto& [fd, client] : waiting_) {
    if (client->fd >= 0 && client->greeted && place(*client)) client->fd = -1;
    if (client->fd >= 0 && now >= client->until) {
      if (client->greeted)
        refuse(*client, "no-place",
               fmt::format("all {} env runners here have their client: raise env_runners.num_env_runners",
                           runners_.size()));
      else
        refuse(*client, "no-hello", "nothing that is a Hello has come");
    }
    if (client->fd < 0) done.push_back(fd);
  }
  for (const int fd : done) waiting_.erase(fd);
  tell_who_waits(now);
}

/// Which runners have no client: once it has been so for a moment, and again when it has changed.
void ClientDoor::tell_who_waits(Time now) {
  std::vector<uint32_t> free;
  for (const auto& [slot, runner] : runners_)
    if (runner.free) free.push_back(slot);
  if (free != free_) {
    free_ = std::move(free);
    free_since_ = now;
  }
  if (free_ == told_free_ || now - free_since_ < kMissing) return;
  told_free_ = free_;
  const std::string all = fmt::format("clients {}/{}", runners_.size() - free_.size(), runners_.size());
  if (free_.empty()) return say_(all);
  const size_t shown = std::min<size_t>(free_.size(), 8);
  say_(fmt::format("{}: runner{} {}{} wait{} at {}", all, free_.size() == 1 ? "" : "s",
                   fmt::join(free_.begin(), free_.begin() + static_cast<std::ptrdiff_t>(shown), ", "),
                   shown < free_.size() ? " and more" : "", free_.size() == 1 ? "s" : "", address_));
}

void ClientDoor::accept_all(Time now) {
  for (;;) {
    sockaddr_storage peer{};
    socklen_t size = sizeof peer;
    const int fd = ::accept4(listener_, reinterpret_cast<sockaddr*>(&peer), &size, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0) return;
    if (waiting_.size() >= kMaxWaiting) {
      ::close(fd);
      if (sent_away_++ % 1000 == 0) say_(fmt::format("more than {} clients wait to come in: sent away", kMaxWaiting));
      continue;
    }
    std::array<char, NI_MAXHOST> host{};
    if (::getnameinfo(reinterpret_cast<sockaddr*>(&peer), size, host.data(), host.size(), nullptr, 0, NI_NUMERICHOST) !=
        0)
      std::strcpy(host.data(), "this host");
    waiting_[fd] = std::make_unique<Waiting>(Waiting{fd, host.data(), now + kPatience, {}, "", {}});
    watch(fd, static_cast<uint64_t>(fd));
  }
}

/// Its Hello, and not a byte more: what follows is its runner's to read.
void ClientDoor::read(Waiting& client) {
  while (client.fd >= 0 && !client.greeted) {
    uint32_t size = 0;
    std::memcpy(&size, client.bytes.data(), std::min(client.bytes.size(), sizeof size));
    const bool knows_size = client.bytes.size() >= sizeof size;
    if (knows_size && size > kMaxHelloBytes)
      return refuse(client, "bad-message", fmt::format("a Hello of {} bytes, at most {}", size, kMaxHelloBytes));
    const size_t want = knows_size ? sizeof size + size : sizeof size;
    if (knows_size && client.bytes.size() == want) return greet(client, std::span(client.bytes).subspan(sizeof size));
    std::array<std::byte, 4096> part;
    const ssize_t got = ::recv(client.fd, part.data(), std::min(part.size(), want - client.bytes.size()), 0);
    if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (got <= 0) return drop(client);
    client.bytes.insert(client.bytes.end(), part.begin(), part.begin() + got);
  }
  std::byte byte;  // it waits for its place: gone?
  if (client.fd >= 0 && ::recv(client.fd, &byte, 1, MSG_PEEK) == 0) drop(client);
}

void ClientDoor::greet(Waiting& client, std::span<const std::byte> bytes) {
  const auto message = simulator::decode(bytes);
  const auto* hello = message ? simulator::as<simulator::HelloT>(*message) : nullptr;
  if (hello == nullptr) return refuse(client, "bad-message", "what came first is no Hello of docs/protocol.md");
  if (hello->protocol != simulator::kProtocol)
    return refuse(
        client, "version-skew",
        fmt::format("you speak protocol {}, this run {}: update the client", hello->protocol, simulator::kProtocol));
  if (hello->role != simulator::Role::asks)
    return refuse(client, "wrong-role",
                  "here come clients that ask for actions; a simulator is named process: or connect:");
  if (!same_secret(file_.token, hello->token)) return refuse(client, "bad-token", "the token is not this run's");
  try {
    for (const auto& [theirs, ours, name] : {std::tuple(hello->observation.get(), &file_.observation, "observation"),
                                             std::tuple(hello->action.get(), &file_.action, "action")})
      if (const std::string said = simulator::to_space(theirs, name).to_string(); said != ours->to_string())
        return refuse(client, "wrong-space",
                      fmt::format("your {} space is {}, this run's is {}", name, said, ours->to_string()));
  } catch (const Error& error) { return refuse(client, error.code(), error.what()); }
  client.name = printable(hello->name.empty() ? client.from : hello->name, 63);
  if (hello->session.size() == client.session.size())
    std::copy(hello->session.begin(), hello->session.end(), client.session.begin());
  client.acts = hello->acts;
  client.greeted = true;
  client.until += seconds(file_.reconnect_s);  // by then the place of a client that was lost is free
  std::vector<std::byte>().swap(client.bytes);
}

/// Back to its runner, or to one that has no client. False: there is none yet.
bool ClientDoor::place(Waiting& client) {
  for (auto& [slot, runner] : runners_)
    if (client.session != simulator::Session{} && runner.session == client.session)
      return hand_over(client, slot, runner);
  for (auto& [slot, runner] : runners_)
    if (runner.free) {
      runner.session = simulator::new_session();
      return hand_over(client, slot, runner);
    }
  return false;
}

bool ClientDoor::hand_over(Waiting& client, uint32_t slot, Runner& runner) {
  DoorMessage message{.kind = DoorMessage::Kind::client,
                      .session = runner.session,
                      .name = {},
                      .episode = 0,
                      .steps = 0,
                      .acts = client.acts,
                      .why = {}};
  client.name.copy(message.name, sizeof message.name - 1);
  ::epoll_ctl(epoll_, EPOLL_CTL_DEL, client.fd, nullptr);
  const int flags_off = 0;
  ::ioctl(client.fd, FIONBIO, &flags_off);
  const iovec part{&message, sizeof message};
  // To a runner that is gone nothing goes: the client sees its connection close.
  (void)send_with_descriptors(runner.fd, {&part, 1}, {&client.fd, 1}, MSG_NOSIGNAL | MSG_DONTWAIT);
  ::close(client.fd);
  if (runner.free)
    say_(fmt::format("client {} from {} is with runner {}{}", client.name, client.from, slot,
                     client.acts ? ", and chooses its actions itself: sync and lag1 cannot promise that they are of a "
                                   "round's weights; env_runners/policy_lag_* counts how old theirs are"
                                 : ""));
  runner.free = false;
  return true;
}

void ClientDoor::hear(uint32_t slot, Runner& runner) {
  DoorMessage message{};
  for (;;) {
    const ssize_t got = ::recv(runner.fd, &message, sizeof message, MSG_DONTWAIT);
    if (got == 0) ::epoll_ctl(epoll_, EPOLL_CTL_DEL, runner.fd, nullptr);  // remove_runner() frees it
    if (got != sizeof message) return;
    message.name[sizeof message.name - 1] = message.why[sizeof message.why - 1] = '\0';
    if (message.kind == DoorMessage::Kind::free) {
      runner.free = true;
      runner.session = {};
    } else if (message.kind == DoorMessage::Kind::lost) {
      say_(fmt::format("client {}: its episode {} was cut after {} steps (runner {}): {}", printable(message.name, 63),
                       message.episode, message.steps, slot, printable(message.why, 127)));
    }
  }
}

void ClientDoor::refuse(Waiting& client, const std::string& code, const std::string& text) {
  simulator::RefusedT refused;
  refused.code = code;
  refused.text = text;
  const std::vector<std::byte> frame = simulator::frame_of(std::move(refused));
  (void)!::send(client.fd, frame.data(), frame.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  const uint64_t before = refused_[code]++;
  if (before < 20 || before % 1000 == 0)
    say_(fmt::format("a client from {} was refused [{}]: {}", client.from, code, text));
  ::shutdown(client.fd, SHUT_WR);  // not a reset: the Refused is to arrive
  drop(client);
}

void ClientDoor::drop(Waiting& client) {
  ::close(client.fd);
  client.fd = -1;
}

}  // namespace myriad
