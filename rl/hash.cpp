#include "rl/hash.hpp"

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

uint32_t crc_by_table(const uint8_t* p, size_t n, uint32_t crc) {
  for (; n > 0; --n) crc = kTable[(crc ^ *p++) & 0xFF] ^ crc >> 8;
  return crc;
}

#if defined(__x86_64__)
__attribute__((target("sse4.2"))) uint32_t crc_by_instruction(const uint8_t* p, size_t n, uint32_t crc) {
  uint64_t wide = crc;
  for (; n >= 8; n -= 8, p += 8) {
    uint64_t word;
    std::memcpy(&word, p, 8);
    wide = __builtin_ia32_crc32di(wide, word);
  }
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

}  // namespace myriad
