// Hashes: FNV-1a for names and layouts, CRC-32C for bytes that travel or rest on a disk.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

namespace myriad {

/// FNV-1a, 64 bits (Fowler, Noll, Vo).
constexpr uint64_t fnv1a(std::string_view text, uint64_t hash = 0xcbf29ce484222325ULL) {
  for (const char c : text) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3ULL;
  return hash;
}

/// CRC-32C (Castagnoli), as in iSCSI and TensorBoard's records; `seed` continues an earlier sum.
uint32_t crc32c(std::span<const std::byte> bytes, uint32_t seed = 0);

/// 64 bits of many bytes, at the speed of CRC-32C: FNV-1a over the sums of blocks of 4 KiB.
uint64_t hash64(std::span<const std::byte> bytes);

}  // namespace myriad
