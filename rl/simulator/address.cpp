#include "rl/simulator/address.hpp"

#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>
#include <stdexcept>

namespace myriad::simulator {
namespace {

constexpr int kBacklog = 128;
constexpr int kSynRetries = 3;  // 15 s, where no host answers
// A peer whose host is gone without a word is gone after 40 s, whether something was sent or not.
constexpr int kProbeAfterS = 10, kProbes = 3;

/// A socket at `name`, or -1 with errno.
int open_at(int family, const sockaddr* name, socklen_t size, bool listens) {
  const int fd = ::socket(family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return -1;
  const auto set = [fd](int level, int option, int value) { ::setsockopt(fd, level, option, &value, sizeof value); };
  if (family != AF_UNIX) {  // of what it accepts, too
    set(SOL_SOCKET, SO_REUSEADDR, 1);
    set(IPPROTO_TCP, TCP_NODELAY, 1);
    set(IPPROTO_TCP, TCP_SYNCNT, kSynRetries);
    set(SOL_SOCKET, SO_KEEPALIVE, 1);
    set(IPPROTO_TCP, TCP_KEEPIDLE, kProbeAfterS);
    set(IPPROTO_TCP, TCP_KEEPINTVL, kProbeAfterS);
    set(IPPROTO_TCP, TCP_KEEPCNT, kProbes);
    set(IPPROTO_TCP, TCP_USER_TIMEOUT, kProbeAfterS * (kProbes + 1) * 1000);
  }
  const bool done =
      listens ? ::bind(fd, name, size) == 0 && ::listen(fd, kBacklog) == 0 : ::connect(fd, name, size) == 0;
  if (done) return fd;
  const int error = errno;
  ::close(fd);
  errno = error;
  return -1;
}

int open(const std::string& address, bool listens) {
  int fd = -1;
  if (is_path(address)) {
    sockaddr_un name{};
    name.sun_family = AF_UNIX;
    if (address.size() >= sizeof name.sun_path)
      throw std::runtime_error("a unix socket's path has at most 107 characters");
    std::memcpy(name.sun_path, address.data(), address.size());
    if (listens) ::unlink(address.c_str());  // of a program that was killed
    fd = open_at(AF_UNIX, reinterpret_cast<const sockaddr*>(&name), sizeof name, listens);
  } else {
    const size_t colon = address.rfind(':');
    std::string host = address.substr(0, colon);  // an IPv6 address is in brackets
    if (host.starts_with('[') && host.ends_with(']')) host = host.substr(1, host.size() - 2);
    addrinfo hints{}, *found = nullptr;
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = listens ? AI_PASSIVE : 0;
    const int problem =
        ::getaddrinfo(host.empty() ? nullptr : host.c_str(), address.substr(colon + 1).c_str(), &hints, &found);
    if (problem != 0) throw std::runtime_error(::gai_strerror(problem));
    const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> kept(found, ::freeaddrinfo);
    for (const addrinfo* each = found; each != nullptr && fd < 0; each = each->ai_next)
      fd = open_at(each->ai_family, each->ai_addr, each->ai_addrlen, listens);
  }
  if (fd < 0) throw std::runtime_error(std::strerror(errno));
  return fd;
}

}  // namespace

bool is_path(const std::string& address) {
  return address.find('/') != std::string::npos || address.rfind(':') == std::string::npos;
}
std::string with_port(const std::string& host, int64_t port) {
  const bool bare = host.find(':') != std::string::npos && !host.starts_with('[');
  return (bare ? "[" + host + "]" : host) + ":" + std::to_string(port);
}
int connect_to(const std::string& address) { return open(address, false); }
int listen_at(const std::string& address) { return open(address, true); }

}  // namespace myriad::simulator
