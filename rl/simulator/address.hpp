// Addresses of simulators and clients: "HOST:PORT", or a unix socket's path.
#pragma once

#include <cstdint>
#include <string>

namespace myriad::simulator {

/// Whether both ends are on one host, by a unix socket: what has a slash, or no port.
bool is_path(const std::string& address);

/// "HOST:PORT", or "[HOST]:PORT" of an IPv6 address.
std::string with_port(const std::string& host, int64_t port);

/// A connected stream socket. Throws std::runtime_error with the reason alone.
int connect_to(const std::string& address);

/// One that listens; what lies at a path is replaced. Throws std::runtime_error with the reason alone.
int listen_at(const std::string& address);

}  // namespace myriad::simulator
