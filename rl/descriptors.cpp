#include "rl/descriptors.hpp"

#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstring>

#include "rl/check.hpp"

namespace myriad {
namespace {

/// A message of these parts, with room for kMaxDescriptors.
struct Envelope {
  explicit Envelope(std::span<const iovec> parts) {
    header.msg_iov = const_cast<iovec*>(parts.data());
    header.msg_iovlen = parts.size();
    header.msg_control = control.data();
    header.msg_controllen = control.size();
  }
  msghdr header{};
  alignas(cmsghdr) std::array<char, CMSG_SPACE(kMaxDescriptors * sizeof(int))> control{};
};

}  // namespace

ssize_t send_with_descriptors(int socket, std::span<const iovec> parts, std::span<const int> descriptors, int flags) {
  check(descriptors.size() <= kMaxDescriptors, "{} descriptors in one message", descriptors.size());
  Envelope envelope(parts);
  envelope.header.msg_controllen = descriptors.empty() ? 0 : CMSG_SPACE(descriptors.size_bytes());
  if (cmsghdr* rights = CMSG_FIRSTHDR(&envelope.header)) {
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(descriptors.size_bytes());
    std::memcpy(CMSG_DATA(rights), descriptors.data(), descriptors.size_bytes());
  }
  return ::sendmsg(socket, &envelope.header, flags);
}

ssize_t receive_with_descriptors(int socket, std::span<const iovec> parts, std::span<int> descriptors) {
  std::ranges::fill(descriptors, -1);
  Envelope envelope(parts);
  const ssize_t got = ::recvmsg(socket, &envelope.header, MSG_CMSG_CLOEXEC);
  const cmsghdr* rights = got < 0 ? nullptr : CMSG_FIRSTHDR(&envelope.header);
  if (rights == nullptr || rights->cmsg_level != SOL_SOCKET || rights->cmsg_type != SCM_RIGHTS) return got;
  std::array<int, kMaxDescriptors> came;
  const size_t count = std::min((rights->cmsg_len - CMSG_LEN(0)) / sizeof(int), came.size());
  std::memcpy(came.data(), CMSG_DATA(rights), count * sizeof(int));
  for (size_t i = 0; i < count; ++i)
    if (i < descriptors.size())
      descriptors[i] = came[i];
    else
      ::close(came[i]);
  return got;
}

}  // namespace myriad
