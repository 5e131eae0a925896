// What the fuzz targets share: a reader of the fuzzer's bytes, and the word for what must hold.
//
// A target is LLVMFuzzerTestOneInput over bytes that a peer or a disk could have written. The sanitizers find memory
// errors; require() adds the facts which the decoder promises. run_fuzzers.py builds and runs them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "rl/system.hpp"

namespace myriad::fuzz {

/// Ends the process as a finding unless `condition` holds.
inline void require(bool condition, const char* fact) {
  if (condition) return;
  std::fprintf(stderr, "does not hold: %s\n", fact);
  std::abort();
}

/// The fuzzer's bytes from front to back; zeros when they are used up.
class Input {
 public:
  Input(const uint8_t* data, size_t size) : rest_(reinterpret_cast<const std::byte*>(data), size) {}

  template <class T>
  T number() {
    T value{};
    const auto bytes = take(sizeof(T));
    if (!bytes.empty()) std::memcpy(&value, bytes.data(), bytes.size());
    return value;
  }
  uint8_t u8() { return number<uint8_t>(); }
  /// At most `size` bytes.
  std::span<const std::byte> take(size_t size) {
    const auto bytes = rest_.first(std::min(size, rest_.size()));
    rest_ = rest_.subspan(bytes.size());
    return bytes;
  }
  /// As take(), in memory of exactly that size, so that a read past the end is seen.
  std::vector<std::byte> copy(size_t size) {
    const auto bytes = take(size);
    return {bytes.begin(), bytes.end()};
  }
  std::string text(size_t size) {
    const auto bytes = take(size);
    return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
  }
  size_t size() const { return rest_.size(); }
  bool empty() const { return rest_.empty(); }

 private:
  std::span<const std::byte> rest_;
};

}  // namespace myriad::fuzz
