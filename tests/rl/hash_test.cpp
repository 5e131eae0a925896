#include "rl/hash.hpp"

#include <doctest/doctest.h>

#include <vector>

#include "rl/random.hpp"

namespace myriad {
namespace {

/// By the definition, bit by bit.
uint32_t by_bits(std::span<const std::byte> bytes, uint32_t seed) {
  uint32_t crc = ~seed;
  for (const std::byte b : bytes) {
    crc ^= static_cast<uint32_t>(b);
    for (int bit = 0; bit < 8; ++bit) crc = crc & 1 ? 0x82F63B78u ^ crc >> 1 : crc >> 1;
  }
  return ~crc;
}

TEST_SUITE("rl/hash") {
  TEST_CASE("crc32c: the check value of the polynomial") {
    CHECK(crc32c(std::as_bytes(std::span("123456789", 9))) == 0xE3069283u);
    CHECK(crc32c({}) == 0);
  }

  TEST_CASE("crc32c: every length around the blocks it is done in, at any alignment, continued or not") {
    RandomStream random(1, StreamPurpose::simulation, 0);
    std::vector<std::byte> bytes(10'000);
    for (std::byte& b : bytes) b = static_cast<std::byte>(random.next_u64());
    for (const size_t size : {1u, 7u, 8u, 9u, 1024u, 3071u, 3072u, 3073u, 3080u, 6144u, 9999u})
      for (const size_t start : {0u, 1u}) {
        const auto part = std::span<const std::byte>(bytes).subspan(start, size);
        CHECK(crc32c(part) == by_bits(part, 0));
        CHECK(crc32c(part.subspan(size / 3), crc32c(part.first(size / 3))) == by_bits(part, 0));
      }
  }
}

}  // namespace
}  // namespace myriad
