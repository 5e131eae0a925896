// Messages: what Myriad and a simulator in another process say (protocol.fbs), as structs and as frames.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "protocol_generated.h"
#include "rl/space.hpp"

namespace myriad::simulator {

inline constexpr uint16_t kProtocol = 1;
inline constexpr size_t kMaxFrameBytes = size_t{64} << 20;

/// As messages hold bytes.
inline std::vector<uint8_t> bytes_of(std::span<const std::byte> bytes) {
  const auto* begin = reinterpret_cast<const uint8_t*>(bytes.data());
  return {begin, begin + bytes.size()};
}

/// A frame: the length, then the message.
std::vector<std::byte> frame(const MessageT& message);

template <class T>
std::vector<std::byte> frame_of(T body) {
  MessageT message;
  message.body.Set(std::move(body));
  return frame(message);
}

/// The message of a frame, without its length; nullopt when it is none. Nothing is read before it is verified.
std::optional<MessageT> decode(std::span<const std::byte> bytes);

/// The body as a table T, or null when it is another.
template <class T>
T* as(MessageT& message) {
  return message.body.type == BodyUnionTraits<T>::enum_value ? static_cast<T*>(message.body.value) : nullptr;
}
template <class T>
const T* as(const MessageT& message) {
  return as<T>(const_cast<MessageT&>(message));
}

/// A peer's space. Throws Error("bad-space") for an impossible one; `name`: "observation" or "action", for the message.
myriad::Space to_space(const SpaceT* space, const char* name);
std::unique_ptr<SpaceT> to_wire(const myriad::Space& space);

}  // namespace myriad::simulator
