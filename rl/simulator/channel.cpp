#include "rl/simulator/channel.hpp"

#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "rl/check.hpp"
#include "rl/descriptors.hpp"

namespace myriad::simulator {
Clock& system_clock() {
  static const std::unique_ptr<Clock> clock = make_system_clock();
  return *clock;
}

std::string readable(const std::string& text) {
  std::string kept = text.substr(0, 4096);
  for (char& c : kept)
    if (static_cast<unsigned char>(c) < ' ' && c != '\n') c = ' ';
  return kept;
}

Channel::Channel(int fd, std::string name, bool takes_descriptors, std::function<void()> alive)
    : fd_(fd), takes_descriptors_(takes_descriptors), name_(std::move(name)), alive_(std::move(alive)) {
  const timeval sign{1, 0};  // so often a wait looks around
  check(::setsockopt(fd_, SOL_SOCKET, SO_RCVTIMEO, &sign, sizeof sign) == 0, "SO_RCVTIMEO: {}", std::strerror(errno));
}
Channel::~Channel() {
  for (const int fd : {fd_, passed_})
    if (fd >= 0) ::close(fd);
}
Channel::Channel(Channel&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)),
      passed_(std::exchange(other.passed_, -1)),
      takes_descriptors_(other.takes_descriptors_),
      name_(std::move(other.name_)),
      alive_(std::move(other.alive_)),
      bytes_(std::move(other.bytes_)),
      filled_(other.filled_) {}
Channel& Channel::operator=(Channel&& other) noexcept {
  std::swap(fd_, other.fd_);
  std::swap(passed_, other.passed_);
  std::swap(takes_descriptors_, other.takes_descriptors_);
  std::swap(name_, other.name_);
  std::swap(alive_, other.alive_);
  std::swap(bytes_, other.bytes_);
  std::swap(filled_, other.filled_);
  return *this;
}

void Channel::send(std::span<const std::byte> frame, int passed) {
  while (!frame.empty()) {
    const iovec part{const_cast<std::byte*>(frame.data()), frame.size()};
    const ssize_t wrote = send_with_descriptors(fd_, {&part, 1}, std::span(&passed, passed < 0 ? 0 : 1), MSG_NOSIGNAL);
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) fail(Exit::environment, "simulator-gone", "{} takes no messages: {}", name_, std::strerror(errno));
    frame = frame.subspan(static_cast<size_t>(wrote));
    passed = -1;
  }
}

ssize_t Channel::receive_some(std::byte* to, size_t size) {
  if (!takes_descriptors_) return ::recv(fd_, to, size, 0);
  const iovec part{to, size};
  int came = -1;
  const ssize_t got = receive_with_descriptors(fd_, {&part, 1}, {&came, 1});
  if (came >= 0 && passed_ >= 0) ::close(passed_);
  if (came >= 0) passed_ = came;
  return got;
}

int Channel::take_descriptor() {
  if (passed_ < 0) fail(Exit::environment, "simulator-malformed", "{} passed no shared memory", name_);
  return std::exchange(passed_, -1);
}

/// Until `size` bytes are here.
void Channel::fill(size_t size, Time until, Time deadline) {
  if (bytes_.size() < size) bytes_.resize(std::max<size_t>(size, 4096));
  while (filled_ < size) {
    const ssize_t got = receive_some(bytes_.data() + filled_, bytes_.size() - filled_);
    if (got > 0) {
      filled_ += static_cast<size_t>(got);
      continue;
    }
    if (got == 0) fail(Exit::environment, "simulator-gone", "{} has closed the connection", name_);
    if (errno != EAGAIN && errno != EINTR)
      fail(Exit::environment, "simulator-gone", "{} cannot be read: {}", name_, std::strerror(errno));
    if (system_clock().now() >= until)
      fail(Exit::environment, "simulator-silent", "{} gave no answer for {:.0f} s", name_, to_seconds(deadline));
    if (alive_) alive_();
  }
}

MessageT Channel::receive(Time deadline) {
  const Time until = system_clock().now() + deadline;
  uint32_t size = 0;
  fill(sizeof size, until, deadline);
  std::memcpy(&size, bytes_.data(), sizeof size);
  if (size > kMaxFrameBytes)
    fail(Exit::environment, "simulator-malformed", "{} announces a message of {} bytes, at most {}", name_, size,
         kMaxFrameBytes);
  fill(sizeof size + size, until, deadline);
  std::optional<MessageT> message = decode(std::span(bytes_).subspan(sizeof size, size));
  filled_ -= sizeof size + size;  // what came after it is another message's beginning
  std::memmove(bytes_.data(), bytes_.data() + sizeof size + size, filled_);
  if (!message)
    fail(Exit::environment, "simulator-malformed", "{} sent {} bytes that are no message of docs/protocol.md", name_,
         size);
  if (const auto* failure = as<FailureT>(*message)) {
    fail(Exit::environment, "simulator-failed", "{} says: {}", name_, readable(failure->text));
  }
  return std::move(*message);
}

}  // namespace myriad::simulator
