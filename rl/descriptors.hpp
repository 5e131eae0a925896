// Descriptors that travel with bytes over a unix socket (SCM_RIGHTS).
#pragma once

#include <sys/uio.h>

#include <span>

namespace myriad {

inline constexpr size_t kMaxDescriptors = 3;  ///< of one message

/// As sendmsg: how many bytes went, or -1 with errno. What is passed stays the caller's, too.
ssize_t send_with_descriptors(int socket, std::span<const iovec> parts, std::span<const int> descriptors, int flags);

/// As recvmsg. `descriptors`: those that came, close-on-exec, then -1; more than it holds are closed.
ssize_t receive_with_descriptors(int socket, std::span<const iovec> parts, std::span<int> descriptors);

}  // namespace myriad
