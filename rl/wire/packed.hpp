// Packed: the frames of a message one after the other in plain bytes, for stream sockets and parcels.
//
//   [magic u32][number of frames n u32][length u32 x n][pad to 8][frame 0][pad to 8][frame 1] ...   little-endian
//
// Agents relay a runner's message as these bytes, without a look into its payload. Lengths are checked against the
// caller's limit before anything is kept: a peer cannot make the reader hold more than that.
#pragma once

#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "rl/system.hpp"

namespace myriad {

inline constexpr size_t kMaxParcelMessages = size_t{1} << 16;

/// Appends `frames` to `out`. Throws Error for more than kMaxFrames frames or 4 GiB.
void pack(const Frames& frames, std::vector<std::byte>& out);

/// How many bytes the packed message at the start of `bytes` has in all: 0 = too few bytes to tell; nullopt = it is
/// none, or one of more than `max_bytes`.
std::optional<size_t> packed_size(std::span<const std::byte> bytes, size_t max_bytes);

/// The frames of exactly one packed message, as views that share `bytes`' owner; nullopt when it is none.
std::optional<Frames> unpack(const SharedBytes& bytes);

/// The messages of a parcel, each as its frames; nullopt when the bytes are not `count` packed messages.
std::optional<std::vector<Frames>> unpack_all(const SharedBytes& bytes, size_t count);

/// Writes one packed message to a blocking stream socket, without a copy of the frames. False when the peer is gone.
[[nodiscard]] bool send_packed(int fd, const Frames& frames);

/// Reads packed messages from a stream socket, as far as they have come.
class PackedReader {
 public:
  explicit PackedReader(size_t max_bytes) : max_bytes_(max_bytes) {}

  enum class Outcome : uint8_t { blocked, closed, malformed };
  /// Reads until the socket has no more (at most about 1 MiB); `take` gets each whole message, a view for the call.
  Outcome read(int fd, const std::function<void(std::span<const std::byte>)>& take);

 private:
  size_t max_bytes_;
  std::vector<std::byte> partial_;  // the beginning of a message: its first filled_ bytes
  size_t filled_ = 0;
};

}  // namespace myriad
