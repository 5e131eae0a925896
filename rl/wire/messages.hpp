// Messages: the schema's tables as structs, and the way between them and frames.
//
// decode() is the only door for bytes from the network: sizes, FlatBuffers verification, payload lengths and CRC-32C
// are checked before anything is read. It never throws for what a peer sent; it returns why a message is refused.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>
#include <variant>

#include "rl/fragment.hpp"
#include "rl/system.hpp"
#include "rl/weights.hpp"
#include "schema_generated.h"

namespace myriad {

inline constexpr uint32_t kProtocolVersion = 4;
inline constexpr size_t kMaxEnvelopeBytes = size_t{1} << 20;
inline constexpr size_t kMaxPayloadBytes = size_t{256} << 20;
inline constexpr size_t kMaxFrames = 64;

struct Message {
  uint64_t run = 0;
  uint64_t epoch = 0;
  wire::BodyUnion body;
  std::vector<SharedBytes> payloads;

  /// The body as a table T (wire::JoinT, ...), or null when it is another.
  template <class T>
  const T* as() const {
    return body.type == wire::BodyUnionTraits<T>::enum_value ? static_cast<const T*>(body.value) : nullptr;
  }
};

/// Message from a body table and payloads.
template <class T>
Message make_message(T body, std::vector<SharedBytes> payloads = {}) {
  Message message;
  message.body.Set(std::move(body));
  message.payloads = std::move(payloads);
  return message;
}

/// Frame 0 is the envelope and its CRC-32C (4 bytes, little-endian), the payloads follow as they are (not copied).
Frames encode(const Message& message);

/// Why bytes are not a message of this run; the metric is dropped/<name>.
enum class Malformed : uint8_t {
  no_frames,
  too_many_frames,
  too_large,
  envelope_checksum,
  not_an_envelope,
  payload_mismatch,
  payload_checksum,
  count
};
std::string_view name_of(Malformed malformed);

std::variant<Message, Malformed> decode(const Frames& frames);

/// The header and payload of a fragment; the payload shares the fragment's buffer.
Message fragment_message(std::shared_ptr<Fragment> fragment, uint64_t sampling_ns, uint64_t waiting_ns,
                         uint64_t clients_lag = 0);
FragmentId id_of(const wire::FragmentHeaderT& header);

/// The weights message; payloads share `weights`. And back: nullopt when payload sizes make no sense.
Message weights_message(const WeightsPtr& weights);
std::optional<Weights> weights_from(const Message& message);

}  // namespace myriad
