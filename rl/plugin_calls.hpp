// Calls of a plugin's table (sdk/include/myriad/env.h): its arguments and its errors.
#pragma once

#include <algorithm>
#include <cstdint>
#include <stdexcept>
#include <string>

#include "rl/random.hpp"
#include "sdk/include/myriad/env.h"

namespace myriad {

/// A RandomStream as a plugin sees it.
struct PluginRandom : myriad_random {
  explicit PluginRandom(RandomStream* of) : stream(of) {
    bits = [](const myriad_random* r) { return stream_of(r).next_u64(); };
    uniform = [](const myriad_random* r, double low, double high) { return stream_of(r).uniform(low, high); };
    normal = [](const myriad_random* r) { return stream_of(r).normal(); };
  }
  RandomStream* stream;

 private:
  static RandomStream& stream_of(const myriad_random* random) {
    return *static_cast<const PluginRandom*>(random)->stream;
  }
};

/// "" or what keeps a plugin's space from being one, after its name.
inline std::string problem_of(const myriad_space& space) {
  constexpr int64_t kMaxElements = 1 << 26;
  if (space.kind > MYRIAD_MULTI_BINARY) return "is of a kind that is none";
  if (space.kind == MYRIAD_BOX) {
    int64_t elements = 1;
    if (space.num_dims > 8 || (space.num_dims > 0 && space.shape == nullptr)) return "has no shape of up to 8 sizes";
    for (uint32_t i = 0; i < space.num_dims; ++i)
      if (space.shape[i] <= 0 || (elements *= space.shape[i]) > kMaxElements) return "has a shape that is none";
    if (space.dtype > MYRIAD_I32) return "has a dtype that is none";
    if (space.low == nullptr || space.high == nullptr || (space.num_bounds != 1 && space.num_bounds != elements))
      return "wants one bound, or one for every element";
    return "";
  }
  if (space.n <= 0 || space.n > kMaxElements) return "wants n > 0";
  if (space.kind != MYRIAD_MULTI_DISCRETE) return "";
  if (space.nvec == nullptr) return "has no nvec";
  return std::all_of(space.nvec, space.nvec + space.n, [](int32_t n) { return n > 0; }) ? "" : "wants nvec > 0";
}

/// What a plugin wrote.
inline std::string plugin_text(myriad_error& error) {
  error.text[sizeof error.text - 1] = '\0';
  for (char& c : error.text)
    if (c < 0) c = '?';  // it need not be UTF-8, and may end in the middle of a character
  return error.text[0] != '\0' ? error.text : "the plugin gave no reason";
}

/// Runs a function of the table. Throws std::runtime_error with the plugin's message.
template <class Call>
void call_plugin(Call f) {
  myriad_error error{};
  if (f(&error) != 0) throw std::runtime_error(plugin_text(error));
}

}  // namespace myriad
