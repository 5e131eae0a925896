#include "rl/wire/packed.hpp"

#include <sys/socket.h>
#include <sys/uio.h>

#include <array>
#include <cerrno>
#include <cstring>

#include "rl/check.hpp"
#include "rl/wire/messages.hpp"

namespace myriad {
namespace {

constexpr uint32_t kMagic = 0x5052594d;  // "MYRP"
constexpr size_t kWord = sizeof(uint32_t);
constexpr size_t kReadBytes = size_t{256} << 10, kReadsAtOnce = 4;

constexpr size_t padded(size_t size) { return (size + 7) / 8 * 8; }

uint32_t word_at(std::span<const std::byte> bytes, size_t index) {
  uint32_t word;
  std::memcpy(&word, bytes.data() + index * kWord, kWord);
  return word;
}

}  // namespace

namespace {

/// Appends magic, count, lengths and padding; returns the bytes of the whole message.
size_t pack_head(const Frames& frames, std::vector<std::byte>& out) {
  check(frames.size() <= kMaxFrames, "a message of {} frames, at most {}", frames.size(), kMaxFrames);
  std::array<uint32_t, 2 + kMaxFrames + 1> head{kMagic, static_cast<uint32_t>(frames.size())};
  const size_t head_bytes = padded((2 + frames.size()) * kWord);
  size_t size = head_bytes;
  for (size_t i = 0; i < frames.size(); ++i) {
    check(frames[i].view.size() <= kMaxPayloadBytes, "a frame of {} bytes, at most {}", frames[i].view.size(),
          kMaxPayloadBytes);
    head[2 + i] = static_cast<uint32_t>(frames[i].view.size());
    size += padded(frames[i].view.size());
  }
  const auto* bytes = reinterpret_cast<const std::byte*>(head.data());
  out.insert(out.end(), bytes, bytes + head_bytes);
  return size;
}

}  // namespace

void pack(const Frames& frames, std::vector<std::byte>& out) {
  const size_t start = out.size(), size = pack_head(frames, out);
  size_t at = out.size();
  out.resize(start + size);
  for (const SharedBytes& frame : frames) {
    if (!frame.view.empty()) std::memcpy(out.data() + at, frame.view.data(), frame.view.size());
    at += padded(frame.view.size());
  }
}

std::optional<size_t> packed_size(std::span<const std::byte> bytes, size_t max_bytes) {
  if (bytes.size() < 2 * kWord) return 0;
  const uint32_t frames = word_at(bytes, 1);
  if (word_at(bytes, 0) != kMagic || frames > kMaxFrames) return std::nullopt;
  if (bytes.size() < (2 + frames) * kWord) return 0;
  size_t size = padded((2 + frames) * kWord);
  for (size_t i = 0; i < frames; ++i) {
    const size_t length = word_at(bytes, 2 + i);
    if (length > kMaxPayloadBytes) return std::nullopt;
    size += padded(length);
  }
  if (size > max_bytes) return std::nullopt;
  return size;
}

std::optional<Frames> unpack(const SharedBytes& bytes) {
  const auto size = packed_size(bytes.view, bytes.view.size());
  if (!size || *size == 0 || *size != bytes.view.size()) return std::nullopt;
  const size_t count = word_at(bytes.view, 1);
  Frames frames;
  frames.reserve(count);
  size_t at = padded((2 + count) * kWord);
  for (size_t i = 0; i < count; ++i) {
    const size_t length = word_at(bytes.view, 2 + i);
    frames.push_back({bytes.owner, bytes.view.subspan(at, length)});
    at += padded(length);
  }
  return frames;
}

std::optional<std::vector<Frames>> unpack_all(const SharedBytes& bytes, size_t count) {
  if (count > kMaxParcelMessages) return std::nullopt;
  std::vector<Frames> messages;
  SharedBytes rest = bytes;
  while (!rest.view.empty()) {
    const auto size = packed_size(rest.view, rest.view.size());
    if (!size || *size == 0 || messages.size() == count) return std::nullopt;
    auto frames = unpack({rest.owner, rest.view.first(*size)});
    if (!frames) return std::nullopt;
    messages.push_back(std::move(*frames));
    rest.view = rest.view.subspan(*size);
  }
  if (messages.size() != count) return std::nullopt;
  return messages;
}

bool send_packed(int fd, const Frames& frames) {
  static constexpr std::array<std::byte, 8> kZeros{};
  std::vector<std::byte> head;
  (void)pack_head(frames, head);
  std::vector<iovec> parts;
  parts.reserve(1 + 2 * frames.size());
  const auto add = [&](const std::byte* data, size_t size) {
    if (size > 0) parts.push_back({const_cast<std::byte*>(data), size});
  };
  add(head.data(), head.size());
  for (const SharedBytes& frame : frames) {
    add(frame.view.data(), frame.view.size());
    add(kZeros.data(), padded(frame.view.size()) - frame.view.size());
  }
  for (size_t first = 0; first < parts.size();) {
    msghdr message{};
    message.msg_iov = parts.data() + first;
    message.msg_iovlen = parts.size() - first;
    ssize_t sent = ::sendmsg(fd, &message, MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0) return false;
    for (; first < parts.size() && static_cast<size_t>(sent) >= parts[first].iov_len; ++first)
      sent -= static_cast<ssize_t>(parts[first].iov_len);
    if (first < parts.size()) {
      parts[first].iov_base = static_cast<std::byte*>(parts[first].iov_base) + sent;
      parts[first].iov_len -= static_cast<size_t>(sent);
    }
  }
  return true;
}

PackedReader::Outcome PackedReader::read(int fd, const std::function<void(std::span<const std::byte>)>& take) {
  alignas(8) thread_local std::array<std::byte, kReadBytes> scratch;
  for (size_t i = 0; i < kReadsAtOnce; ++i) {
    const auto whole = packed_size(std::span(partial_).first(filled_), max_bytes_);
    if (!whole) return Outcome::malformed;
    // The rest of a long message is read straight into its place.
    const bool in_place = *whole > filled_ + scratch.size() / 2;
    if (in_place) partial_.resize(*whole);
    const std::span<std::byte> room = in_place ? std::span(partial_).subspan(filled_) : std::span(scratch);
    const ssize_t received = ::recv(fd, room.data(), room.size(), MSG_DONTWAIT);
    if (received == 0) return Outcome::closed;
    if (received < 0) {
      if (errno == EINTR) continue;
      return errno == EAGAIN || errno == EWOULDBLOCK ? Outcome::blocked : Outcome::closed;
    }
    const auto got = static_cast<size_t>(received);
    std::span<const std::byte> bytes = room.first(got);
    if (in_place || filled_ > 0) {
      if (!in_place) {
        partial_.resize(filled_);
        partial_.insert(partial_.end(), bytes.begin(), bytes.end());
      }
      filled_ += got;
      bytes = std::span(partial_).first(filled_);
    }
    const size_t before = bytes.size();
    for (;;) {
      const auto size = packed_size(bytes, max_bytes_);
      if (!size) return Outcome::malformed;
      if (*size == 0 || *size > bytes.size()) break;
      take(bytes.first(*size));
      bytes = bytes.subspan(*size);
    }
    if (filled_ == 0)
      partial_.assign(bytes.begin(), bytes.end());
    else if (bytes.size() < before)
      partial_ = {bytes.begin(), bytes.end()};
    filled_ = bytes.size();
    if (got < room.size()) return Outcome::blocked;
  }
  return Outcome::blocked;
}

}  // namespace myriad
