#include "rl/hash.hpp"

#include <algorithm>
#include <array>
#include <cstring>

namespace myriad {
namespace {

constexpr std::array<uint32_t, 256> make_table() {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t value = i;
    for (int bit = 0; bit < 8; ++bit) value = value & 1 ? 0x82F63B78u ^ value >> 1 : value >> 1;
    table[i] = value;
  }
  return table;
}
constexpr auto kTable = make_table();

constexpr uint32_t crc_by_table(const uint8_t* p, size_t n, uint32_t crc) {
  for (; n > 0; --n) crc = kTable[(crc ^ *p++) & 0xFF] ^ crc >> 8;
  return crc;
}

#if defined(__x86_64__)
constexpr size_t kStride = 1024;  // bytes of each of three streams

/// A sum carried over kStride zero bytes: linear in its bits, so four look-ups do it. Made by the compiler: pages that
/// are never written are one for all runners.
class Shift {
 public:
  constexpr Shift() {
    constexpr std::array<uint8_t, kStride> kZeros{};
    std::array<uint32_t, 32> of_bit{};
    for (size_t bit = 0; bit < 32; ++bit) of_bit[bit] = crc_by_table(kZeros.data(), kStride, uint32_t{1} << bit);
    for (size_t byte = 0; byte < 4; ++byte)
      for (size_t value = 0; value < 256; ++value)
        for (size_t bit = 0; bit < 8; ++bit)
          if ((value >> bit & 1) != 0) tables_[byte][value] ^= of_bit[8 * byte + bit];
  }
  uint32_t operator()(uint32_t crc) const {
    return tables_[0][crc & 0xFF] ^ tables_[1][crc >> 8 & 0xFF] ^ tables_[2][crc >> 16 & 0xFF] ^ tables_[3][crc >> 24];
  }

 private:
  std::array<std::array<uint32_t, 256>, 4> tables_{};
};
constexpr Shift kShift;

uint64_t word_at(const uint8_t* p) {
  uint64_t word;
  std::memcpy(&word, p, sizeof word);
  return word;
}

/// The instruction takes three cycles and starts every one: three streams side by side (Gopal et al. 2011, "Fast CRC
/// Computation for iSCSI Polynomial Using CRC32 Instruction").
__attribute__((target("sse4.2"))) uint32_t crc_by_instruction(const uint8_t* p, size_t n, uint32_t crc) {
  uint64_t wide = crc;
  for (; n >= 3 * kStride; n -= 3 * kStride, p += 3 * kStride) {
    uint64_t second = 0, third = 0;
    for (size_t i = 0; i < kStride; i += 8) {
      wide = __builtin_ia32_crc32di(wide, word_at(p + i));
      second = __builtin_ia32_crc32di(second, word_at(p + kStride + i));
      third = __builtin_ia32_crc32di(third, word_at(p + 2 * kStride + i));
    }
    wide = kShift(kShift(static_cast<uint32_t>(wide)) ^ static_cast<uint32_t>(second)) ^ static_cast<uint32_t>(third);
  }
  for (; n >= 8; n -= 8, p += 8) wide = __builtin_ia32_crc32di(wide, word_at(p));
  return crc_by_table(p, n, static_cast<uint32_t>(wide));
}
#endif

}  // namespace

uint32_t crc32c(std::span<const std::byte> bytes, uint32_t seed) {
  const auto* p = reinterpret_cast<const uint8_t*>(bytes.data());
#if defined(__x86_64__)
  static const bool has_instruction = __builtin_cpu_supports("sse4.2") != 0;
  if (has_instruction) return ~crc_by_instruction(p, bytes.size(), ~seed);
#endif
  return ~crc_by_table(p, bytes.size(), ~seed);
}

uint64_t hash64(std::span<const std::byte> bytes) {
  constexpr size_t kBlock = 4096;
  uint64_t hash = fnv1a({});
  for (size_t at = 0; at < bytes.size(); at += kBlock) {
    const uint32_t sum = crc32c(bytes.subspan(at, std::min(kBlock, bytes.size() - at)));
    std::array<char, sizeof sum> text;
    std::memcpy(text.data(), &sum, sizeof sum);
    hash = fnv1a({text.data(), text.size()}, hash);
  }
  return hash;
}

}  // namespace myriad
