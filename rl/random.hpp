// Random streams: counter-based, so that a stream is named by (seed, stream id) and not by the process that draws from
// it.
//
// Philox4x32-10 (Salmon et al. 2011, "Parallel Random Numbers: As Easy as 1, 2, 3"): the key is derived from the
// run's seed and the stream's name, the counter is the whole state. An environment therefore draws the same numbers
// whichever process runs it, and a checkpoint saves 16 bytes a stream.
#pragma once

#include <array>
#include <cmath>
#include <cstdint>
#include <numbers>
#include <span>

namespace myriad {

/// One block of Philox4x32 with 10 rounds.
inline std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{0xD2511F53} * counter[0];
    const uint64_t product1 = uint64_t{0xCD9E8D57} * counter[2];
    counter = {static_cast<uint32_t>(product1 >> 32) ^ counter[1] ^ key[0], static_cast<uint32_t>(product1),
               static_cast<uint32_t>(product0 >> 32) ^ counter[3] ^ key[1], static_cast<uint32_t>(product0)};
    key[0] += 0x9E3779B9;
    key[1] += 0xBB67AE85;
  }
  return counter;
}

/// What a stream is for: streams of different purposes never share numbers.
enum class StreamPurpose : uint32_t {
  environment = 1,
  action = 2,
  minibatch = 3,
  initial_weights = 4,
  evaluation = 5,
  simulation = 6,
  circular_buffer = 7,
  augmentation = 8
};

class RandomStream {
 public:
  /// `index` is the global index of what draws (an environment's number over all runners).
  RandomStream(uint64_t seed, StreamPurpose purpose, uint64_t index)
      : key_{static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)},
        high_{static_cast<uint32_t>(index), static_cast<uint32_t>(purpose) ^ static_cast<uint32_t>(index >> 32) << 8} {}

  uint64_t next_u64() {
    if (position_ % 2 == 0) refill();
    const size_t half = position_++ % 2;
    return uint64_t{block_[2 * half + 1]} << 32 | block_[2 * half];
  }

  /// Uniform in [0, 1) with 53 random bits.
  double uniform() { return static_cast<double>(next_u64() >> 11) * 0x1.0p-53; }
  double uniform(double low, double high) { return low + (high - low) * uniform(); }

  /// Uniform integer in [0, n), n >= 1; unbiased to 2^-64 (multiply-shift).
  uint64_t below(uint64_t n) { return static_cast<uint64_t>((Uint128{next_u64()} * n) >> 64); }

  /// Standard normal (Box and Muller 1958; the cosine branch, so that the state stays a counter).
  double normal() {
    const double radius = std::sqrt(-2.0 * std::log(1.0 - uniform()));
    return radius * std::cos(2.0 * std::numbers::pi * uniform());
  }

  /// Whether both would draw the same numbers from here on.
  bool same_as(const RandomStream& other) const {
    return key_ == other.key_ && high_ == other.high_ && position_ == other.position_;
  }

  /// The number of 64-bit values drawn: the whole state beside the stream's name.
  uint64_t position() const { return position_; }
  void set_position(uint64_t position) {
    position_ = position;
    if (position_ % 2 != 0) refill();
  }

 private:
  __extension__ using Uint128 = unsigned __int128;  // GCC's and Clang's, outside ISO C++

  void refill() {
    const uint64_t block = position_ / 2;
    block_ = philox4x32({static_cast<uint32_t>(block), static_cast<uint32_t>(block >> 32), high_[0], high_[1]}, key_);
  }

  std::array<uint32_t, 2> key_;
  std::array<uint32_t, 2> high_;
  uint64_t position_ = 0;
  std::array<uint32_t, 4> block_{};
};

/// Fisher-Yates shuffle (Durstenfeld 1964) of `items` in place.
template <class T>
void shuffle(std::span<T> items, RandomStream& random) {
  for (size_t i = items.size(); i > 1; --i) std::swap(items[i - 1], items[random.below(i)]);
}

}  // namespace myriad
