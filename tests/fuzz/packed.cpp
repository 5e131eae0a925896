// Packed messages: a byte stream in chunks through PackedReader, unpack_all() and ParcelReceiver.
// [chunk bytes - 1][fill: above 247, 32 KiB of zeros follow for each step][stream]
#include "rl/wire/packed.hpp"

#include <sys/socket.h>
#include <unistd.h>

#include "rl/wire/messages.hpp"
#include "rl/wire/parcel.hpp"
#include "tests/fuzz/fuzz.hpp"

namespace myriad {
namespace {

constexpr size_t kMaxBytes = size_t{1} << 20;

/// What a reader must hand over of `stream`: whole messages, then whether the rest can still become one.
struct Split {
  std::vector<std::span<const std::byte>> messages;
  bool malformed = false;
};
Split split(std::span<const std::byte> stream) {
  Split result;
  for (;;) {
    const auto size = packed_size(stream, kMaxBytes);
    if (!size) result.malformed = true;
    if (!size || *size == 0 || *size > stream.size()) return result;
    result.messages.push_back(stream.first(*size));
    stream = stream.subspan(*size);
  }
}

void read_as_stream(std::span<const std::byte> stream, size_t chunk) {
  int ends[2];
  fuzz::require(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends) == 0, "a socket pair");
  const Split want = split(stream);
  PackedReader reader(kMaxBytes);
  size_t taken = 0;
  bool malformed = false;
  const auto take = [&](std::span<const std::byte> message) {
    fuzz::require(taken < want.messages.size() && std::ranges::equal(message, want.messages[taken]),
                  "the reader gives the messages of the stream, in order");
    ++taken;
  };
  while (!stream.empty() && !malformed) {
    const ssize_t sent = ::send(ends[0], stream.data(), std::min(chunk, stream.size()), MSG_NOSIGNAL);
    if (sent > 0) stream = stream.subspan(static_cast<size_t>(sent));
    malformed = reader.read(ends[1], take) == PackedReader::Outcome::malformed;
  }
  ::shutdown(ends[0], SHUT_WR);
  for (auto outcome = PackedReader::Outcome::blocked; !malformed && outcome != PackedReader::Outcome::closed;) {
    outcome = reader.read(ends[1], take);
    malformed = outcome == PackedReader::Outcome::malformed;
  }
  ::close(ends[0]);
  ::close(ends[1]);
  fuzz::require(taken == want.messages.size() && malformed == want.malformed,
                "the reader ends where the stream stops being messages");
}

void unpack_at_once(const std::vector<std::byte>& stream) {
  const Split want = split(stream);
  const SharedBytes bytes = SharedBytes::of(stream);
  size_t whole = 0;
  for (const auto message : want.messages) whole += message.size();
  const auto messages = unpack_all(bytes, want.messages.size());
  fuzz::require(messages.has_value() == (whole == stream.size()), "only whole messages are unpacked");
  fuzz::require(!unpack_all(bytes, want.messages.size() + 1), "not one message more than there are");
  wire::ParcelT header;
  header.count = static_cast<uint32_t>(want.messages.size());
  ParcelReceiver receiver;
  const auto accepted = receiver.accept(make_message(header, {bytes}));
  fuzz::require(accepted.size() == (messages ? messages->size() : 0), "a parcel's messages are all taken, or none");
  if (!messages) return;
  std::vector<std::byte> again;
  for (const Frames& frames : *messages) {
    pack(frames, again);
    (void)decode(frames);
  }
  fuzz::require(again.size() == stream.size(), "packed again it has the same length");
}

}  // namespace
}  // namespace myriad

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace myriad;
  fuzz::Input input(data, size);
  size_t chunk = size_t{input.u8()} + 1;
  const uint8_t fill = input.u8();
  std::vector<std::byte> stream = input.copy(input.size());
  if (fill > 247) {  // reaches the messages that are read in place
    stream.resize(stream.size() + size_t{fill - 247u} * 32768);
    chunk *= 1024;
  }
  if (stream.size() <= kMaxBytes) unpack_at_once(stream);
  read_as_stream(stream, std::max(chunk, stream.size() / 64));
  return 0;
}
